"""From files to an S-GEAR and back, every key accounted for; both generations of names load."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sightline.assets.checkpoints import (
    Drop,
    KeyMap,
    KeyReport,
    Rename,
    Resize,
    StripPrefix,
    load_into,
    map_keys,
    read_state_dict,
)
from sightline.errors import CheckpointError
from sightline.systems.sgear.model.config import SgearConfig
from sightline.systems.sgear.model.sgear import Sgear
from sightline.training.state import write_torch

log = logging.getLogger(__name__)

OLD_NAMES = {"org_gamma": "vis_prototypes", "CrossModAttn": "ProtAttn", "TimeShift": "TCA"}
"""Names before 2024-03-13 (the code of the paper's runs) and after."""

KEY_MAP = KeyMap(
    (
        StripPrefix("module."),
        *(Rename(rf"^{old}(?=\.|$)", new) for old, new in OLD_NAMES.items()),
        Drop(
            r"future_predictor\.gpt_model\.h\.\d+\.attn\.(bias|masked_bias)",
            "causal mask of transformers 4, computed now",
        ),
    )
)
VIT_KEY_MAP = KeyMap(
    (
        StripPrefix("module."),
        StripPrefix("model."),
        Drop(r"(head|head_dist|pre_logits|fc_norm)\..*", "the classifier of ImageNet"),
        Resize(r"pos_embed", "grid"),
    )
)
_CLASSIFIER = "classifiers.action.weight"
_MAPS = "cls_map_{}_action"


def config_of(state: Mapping[str, Tensor], config: SgearConfig) -> SgearConfig:
    """Returns a config with the numbers of classes, verbs and nouns that a checkpoint has.

    Args:
        state: Tensors by the file's names.
        config: All else.

    Raises:
        CheckpointError: There is no classifier of actions.
    """
    found = {name.removeprefix("module."): tuple(tensor.shape) for name, tensor in state.items()}
    if _CLASSIFIER not in found:
        raise CheckpointError(f"no {_CLASSIFIER} in the file", mend="give a checkpoint of S-GEAR")
    columns = {part: found.get(_MAPS.format(part), (0, None))[1] for part in ("verb", "noun")}
    return replace(config, classes=found[_CLASSIFIER][0], verbs=columns["verb"], nouns=columns["noun"])


def load_sgear(
    path: str | Path, config: SgearConfig, *, device: str | torch.device = "cpu", classes: int | None = None
) -> tuple[Sgear, KeyReport]:
    """Loads a checkpoint in float32, in eval mode; the file says how many classes there are.

    Args:
        path: Checkpoint of S-GEAR (`{"model": ...}`, or bare), of either generation of names.
        config: The model but for its classes.
        device: Where the model shall run.
        classes: Expected number of actions.

    Raises:
        CheckpointError: A tensor is missing, left over or of another shape, or the classes are others.
    """
    state = read_state_dict(path)
    found = config_of(state, config)
    if classes is not None and found.classes != classes:
        raise CheckpointError(
            f"a classifier of {found.classes} actions, but the dataset has {classes}",
            file=path,
            mend="use the action table the checkpoint was trained with",
        )
    with torch.device("meta"):
        model = Sgear(found)
    report = load_into(model, state, KEY_MAP, dtype=torch.float32, device=device, file=path)
    log.info("%s: %s", Path(path).name, report.summary())
    return model.eval(), report


def load_partial(model: Sgear, path: str | Path, containing: Sequence[str]) -> KeyReport:
    """Copies those tensors of a checkpoint that the model has in the same shape and whose names contain a word.

    It is how feature runs start from the run on raw frames. Words may be of either generation of names; in the
    released settings some are old, match nothing there, and leave prototype attention untrained.

    Returns:
        Report whose `used` holds what was copied; words that named nothing are in its notes.

    Raises:
        CheckpointError: Nothing was copied.
    """
    words = [OLD_NAMES.get(word.strip("."), word.strip(".")) for word in containing]
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    fitting, report = map_keys(read_state_dict(path), KEY_MAP, shapes)
    kept = {name: tensor for name, tensor in fitting.items() if any(word in name for word in words)}
    report.used = {name: report.used[name] for name in kept}
    report.notes += [f"{word} names no tensor that fits" for word in words if not any(word in name for name in kept)]
    if not kept:
        raise CheckpointError(
            f"no tensor of the file fits the model and is named {' or '.join(words)}",
            file=path,
            mend="start from a checkpoint of the same width and decoder",
        )
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name in kept:
                tensor.copy_(kept[name])
    log.info("%s: %d tensors copied; %s", Path(path).name, len(kept), "; ".join(report.notes) or "every word used")
    return report


def load_vit(model: Sgear, path: str | Path) -> KeyReport:
    """Puts published ViT weights (timm's names) into the backbone; positions are resized to the model's grid.

    Raises:
        CheckpointError: A tensor is missing, left over or of another shape, or the model has no backbone.
    """
    if model.config.vit is None:
        raise CheckpointError("the model reads stored features", mend="only a model on raw frames has a backbone")
    backbone = model.backbone.model
    device = next(backbone.parameters()).device
    report = load_into(backbone, read_state_dict(path), VIT_KEY_MAP, dtype=torch.float32, device=device, file=path)
    log.info("%s: %s", Path(path).name, report.summary())
    return report


def save_sgear(model: Sgear, path: str | Path) -> None:
    """Writes `{"model": ...}` with the last generation's names as a whole file; equal weights give equal bytes."""
    write_torch(path, {"model": {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}})
