"""From genuine files to a Stream-VLM and back, every key accounted for."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from sightline.assets.checkpoints import (
    Drop,
    Duplicate,
    KeyMap,
    KeyReport,
    Rename,
    StripPrefix,
    assign_tensors,
    map_keys,
    read_state_dict,
)
from sightline.errors import CheckpointError
from sightline.llm.tokens import TextTokenizer, load_tokenizer
from sightline.records.files import whole_file
from sightline.systems.fitcoach.model.config import StreamVlmConfig
from sightline.systems.fitcoach.model.stream_vlm import StreamVlm

SPECIAL_TOKENS = ("<vision>", "<answer>", "<answer/>")
GENUINE_PREFIX = "lang.base_model.model."
_ADAPTER_COPY = "adapter.embed_tokens.weight"
_EMBEDDING = "model.embed_tokens.weight"
_LM_HEAD_LORA = r".*lm_head\.lora_.*"
_PROBE_TOKENS = 16

KEY_MAP = KeyMap(
    (
        StripPrefix("module."),
        StripPrefix("lang."),
        StripPrefix("base_model.model."),
        Drop(r"(.*\.)?rotary_emb\.(inv_freq|cos_cached|sin_cached)", "computed from the config"),
        Rename(r"\.base_layer\.weight$", ".weight"),  # peft 0.6 and later
        Rename(r"\.lora_([AB])\.weight$", r".lora_\1.default.weight"),  # peft's own adapter files
        Duplicate(_ADAPTER_COPY, _EMBEDDING),
    )
)


def load_stream_vlm(
    llama_dir: str | Path | None,
    checkpoint_path: str | Path,
    config: StreamVlmConfig,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    finetuned_path: str | Path | None = None,
    merge_lora: bool = True,
) -> tuple[StreamVlm, TextTokenizer, KeyReport]:
    """Loads a released or trained Stream-VLM.

    The tokenizer lies beside the checkpoint, as in the release. The LLaMA folder is read only for tensors
    the checkpoint lacks, so a complete checkpoint needs none.

    Args:
        llama_dir: LLaMA in the Hugging Face layout, or None.
        checkpoint_path: `state_dict.pth.tar` or any file `read_state_dict` takes, under genuine names.
        config: Sizes, with the vocabulary of the LLaMA folder; it grows to the tokenizer's here.
        device: Where the model shall run.
        dtype: Dtype of all weights.
        finetuned_path: A second checkpoint whose tensors replace those of the first.
        merge_lora: Merge LoRA into q, k, v; the largest change of a logit is noted in the report.

    Raises:
        CheckpointError: A tensor is missing, left over or of another shape, or the tokenizer lacks a token.
    """
    checkpoint_path = Path(checkpoint_path)
    tokenizer = load_tokenizer(checkpoint_path.parent, SPECIAL_TOKENS)
    with torch.device("meta"):
        model = StreamVlm(config.resized(tokenizer.size))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    fitting, report = map_keys(read_state_dict(checkpoint_path), KEY_MAP, shapes)
    if report.missing and llama_dir is not None:
        _fill_from_llama(Path(llama_dir), shapes, fitting, report)
    if finetuned_path is not None:
        _overlay(Path(finetuned_path), shapes, fitting, report)
    _notice_lm_head_lora(model.config, report)
    allowed = () if model.config.lm_head_has_lora else (_LM_HEAD_LORA,)
    report.require(allow_left_over=allowed, file=checkpoint_path)
    assign_tensors(model, fitting, dtype=dtype, device=device)
    model.requires_grad_(False).eval()
    if merge_lora and model.has_lora:
        difference = merge_and_compare(model)
        report.notes.append(f"LoRA merged; largest change of a logit {difference:.3g}")
    return model, tokenizer, report


def _fill_from_llama(
    folder: Path, shapes: dict[str, tuple[int, ...]], fitting: dict[str, Tensor], report: KeyReport
) -> None:
    """Takes what the checkpoint lacks from the LLaMA folder; tensors of another shape stay missing."""
    base, base_report = map_keys(read_state_dict(folder), KEY_MAP, shapes)
    found = [name for name in report.missing if name in base]
    for name in found:
        fitting[name] = base[name]
        report.used[name] = [f"{folder.name}:{source}" for source in base_report.used[name]]
    report.missing = [name for name in report.missing if name not in base]
    if found:
        report.notes.append(f"{len(found)} tensors come from the LLaMA folder, not from the checkpoint")


def _overlay(path: Path, shapes: dict[str, tuple[int, ...]], fitting: dict[str, Tensor], report: KeyReport) -> None:
    """Replaces tensors by those of a fine-tuned checkpoint, which may hold only some."""
    tuned, tuned_report = map_keys(read_state_dict(path), KEY_MAP, shapes)
    tuned_report.require(allow_missing=(r".*",), allow_left_over=(_LM_HEAD_LORA,), file=path)
    fitting.update(tuned)
    for name, sources in tuned_report.used.items():
        report.used[name] = [f"{path.name}:{source}" for source in sources]
    report.missing = [name for name in report.missing if name not in tuned]
    report.notes.append(f"{len(tuned)} tensors replaced by {path.name}")


def _notice_lm_head_lora(config: StreamVlmConfig, report: KeyReport) -> None:
    names = [name for name in report.left_over if "lm_head.lora_" in name]
    if names and not config.lm_head_has_lora:
        report.notes.append(
            f"{len(names)} tensors of lm_head's LoRA are not used: the original loses them when the "
            "vocabulary grows, and so they never acted in its numbers"
        )


@torch.no_grad()
def merge_and_compare(model: StreamVlm) -> float:
    """Merges LoRA and returns the largest absolute change of a logit on a fixed probe of tokens."""
    count = min(_PROBE_TOKENS, model.config.max_positions)
    probe = torch.arange(1, count + 1, device=model.device)[None] * 7 % model.config.base_vocab_size
    before = model(probe)
    model.merge_lora()
    return float((model(probe) - before).abs().max())


def genuine_state_dict(model: StreamVlm) -> dict[str, Tensor]:
    """Returns the weights under the names of the original's combined module.

    Raises:
        CheckpointError: LoRA was merged, so that the original's tensors no longer exist.
    """
    if model.config.lora_rank > 0 and not model.has_lora:
        raise CheckpointError("LoRA is merged into the weights", mend="load with merge_lora=False before exporting")
    state = {GENUINE_PREFIX + name: tensor for name, tensor in model.state_dict().items()}
    return {_ADAPTER_COPY: state[GENUINE_PREFIX + _EMBEDDING], **state}


def save_stream_vlm(model: StreamVlm, path: str | Path) -> None:
    """Writes `{"state_dict": ...}` with genuine names as a whole file, as the release does."""
    with whole_file(path) as temporary:
        torch.save({"state_dict": genuine_state_dict(model)}, temporary)
