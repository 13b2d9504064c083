"""From genuine files to a VLM4HOI and back: LLaMA's folder, EVA's weights and a checkpoint, every key accounted for."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sightline.assets.checkpoints import (
    Drop,
    KeyMap,
    KeyReport,
    Rename,
    Resize,
    StripPrefix,
    assign_tensors,
    map_keys,
    read_state_dict,
)
from sightline.errors import CheckpointError, NonFiniteError
from sightline.systems.hoiref.model.config import Vlm4HoiConfig
from sightline.systems.hoiref.model.vlm4hoi import LLAMA, Vlm4Hoi, rotary_frequencies
from sightline.training.state import write_torch

log = logging.getLogger(__name__)
Quantisation = Literal["none", "8bit", "4bit"]
TOWER = "visual_encoder."
_ROTARY = Drop(r"(.*\.)?rotary_emb\.(inv_freq|cos_cached|sin_cached)", "computed from the config")
_HALF = (".patch_embed.proj.", ".attn.qkv.", ".attn.proj.", ".mlp.fc1.", ".mlp.fc2.")
_SHOWN = 4

LLAMA_KEYS = KeyMap((_ROTARY, Rename(r"^lm_head\.", "lm_head.0."), Rename("^", LLAMA)))
TOWER_KEYS = KeyMap((StripPrefix("module."), Rename("^", TOWER), Resize(r"visual_encoder\.pos_embed", "grid")))
CHECKPOINT_KEYS = KeyMap(
    (
        StripPrefix("module."),
        _ROTARY,
        Rename(r"\.base_layer\.weight$", ".weight"),  # peft 0.6 and later
        Rename(r"\.lora_([AB])\.default\.weight$", r".lora_\1.weight"),  # peft 0.3 and later
        Resize(r"visual_encoder\.pos_embed", "grid"),
    )
)


def load_vlm4hoi(
    llama_dir: str | Path,
    tower_path: str | Path,
    checkpoint_path: str | Path,
    config: Vlm4HoiConfig,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    quantisation: Quantisation = "none",
) -> tuple[Vlm4Hoi, KeyReport]:
    """Loads a released or trained VLM4HOI.

    The checkpoint must hold every LoRA tensor and the projection: without them the model would answer, and
    badly. `ln_vision` is the identity unless a file has it, as in the original.

    Args:
        llama_dir: LLaMA-2-chat in the Hugging Face layout.
        tower_path: `eva_vit_g.pth`; what the tower has no place for is left over and reported.
        checkpoint_path: `checkpoint_55.pth` or a file of the same form, with or without further tensors.
        config: Sizes.
        device: Where the model shall run.
        dtype: Of LLaMA's weights and the tower's large ones; LoRA, projection, norms and biases stay float32.
        quantisation: `8bit` or `4bit` for LLaMA's linear layers but the head, on a GPU with bitsandbytes.

    Raises:
        CheckpointError: A tensor is missing, left over or of another shape.
        DeviceError: The quantisation cannot run here.
        NonFiniteError: A trained tensor holds NaN or infinity.
    """
    if quantisation != "none":
        from sightline.systems.hoiref.model.quantised import check_quantisation

        check_quantisation(device)
    with torch.device("meta"):
        model = Vlm4Hoi(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    fitting = {"ln_vision.weight": torch.ones(config.vision.width), "ln_vision.bias": torch.zeros(config.vision.width)}
    total = KeyReport()
    total.notes.append("ln_vision is the identity, as the original has it, where no file holds it")
    parts = (
        (Path(llama_dir), LLAMA_KEYS, ()),
        (Path(tower_path), TOWER_KEYS, (".*",)),
        (Path(checkpoint_path), CHECKPOINT_KEYS, ()),
    )
    for path, keys, allowed in parts:
        found, report = map_keys(read_state_dict(path), keys, shapes)
        report.require(allow_missing=(".*",), allow_left_over=allowed, file=path)
        fitting.update(found)
        _add(total, report, path.name)
    _require_trained(model, total, Path(checkpoint_path))
    total.missing = [name for name in shapes if name not in fitting]
    total.require(allow_left_over=(".*",), file=llama_dir)
    _refuse_non_finite(model, fitting, Path(checkpoint_path))
    place = "cpu" if quantisation != "none" else device
    assign_tensors(model, {name: value.to(_dtype(name, value, dtype)) for name, value in fitting.items()}, device=place)
    if quantisation != "none":
        from sightline.systems.hoiref.model.quantised import quantise

        quantise(model, quantisation, device)
        dtype = torch.float16 if dtype == torch.float32 else dtype
    model.compute_dtype = dtype
    model.renew_rotary()
    model.requires_grad_(False).eval()
    log.info("VLM4HOI: %s", total.summary())
    return model, total


def _dtype(name: str, value: Tensor, dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype of one tensor: what is trained, and norms and biases of the tower, stay float32."""
    if not value.is_floating_point():
        return value.dtype
    large = name.startswith(LLAMA) and ".lora_" not in name
    large = large or (name.startswith(TOWER) and any(part in name for part in _HALF))
    return dtype if large else torch.float32


def _add(total: KeyReport, report: KeyReport, file: str) -> None:
    """Adds one file's report to that of all; names of the file get its own name in front."""
    for name, sources in report.used.items():
        total.used[name] = [f"{file}:{source}" for source in sources]
    total.left_over += [f"{file}:{name}" for name in report.left_over]
    total.reshaped |= report.reshaped
    total.dropped |= {f"{file}:{name}": why for name, why in report.dropped.items()}
    total.notes += report.notes


def _require_trained(model: Vlm4Hoi, total: KeyReport, path: Path) -> None:
    trained = model.trainable_names()
    lacking = [name for name in trained if not total.used.get(name, [""])[0].startswith(f"{path.name}:")]
    if lacking:
        shown = ", ".join(lacking[:_SHOWN])
        raise CheckpointError(
            f"the checkpoint lacks {len(lacking)} of the {len(trained)} trained tensors (LoRA, llama_proj): {shown}",
            file=path,
            mend="take a checkpoint of VLM4HOI or MiniGPT-v2 whose LoRA has the rank and targets of the card",
        )


def _refuse_non_finite(model: Vlm4Hoi, fitting: dict[str, Tensor], path: Path) -> None:
    for name in model.trainable_names():
        if not torch.isfinite(fitting[name]).all():
            raise NonFiniteError("weight is NaN or infinite", file=path, item=name, mend="download the weights again")


def checkpoint_state(model: Vlm4Hoi) -> dict[str, Tensor]:
    """Returns what the original saves under `model`: trained tensors, and the rotary frequencies of every layer."""
    state = model.state_dict()
    trained = {name: state[name].detach().float().cpu() for name in model.trainable_names()}
    return {**trained, **_rotary_entries(model)}


def genuine_state_dict(model: Vlm4Hoi) -> dict[str, Tensor]:
    """Returns the whole state under the original's names, rotary frequencies among them."""
    return {**model.state_dict(), **_rotary_entries(model)}


def _rotary_entries(model: Vlm4Hoi) -> dict[str, Tensor]:
    frequencies = rotary_frequencies(model.config)
    layers = range(len(model.llama.model.layers))
    return {f"{LLAMA}model.layers.{layer}.self_attn.rotary_emb.inv_freq": frequencies.clone() for layer in layers}


def save_checkpoint(model: Vlm4Hoi, path: str | Path, *, epoch: int) -> None:
    """Writes a checkpoint of the released form as a whole file; optimiser and scaler are left empty."""
    write_torch(path, {"model": checkpoint_state(model), "optimizer": {}, "config": {}, "scaler": {}, "epoch": epoch})
