"""The six losses of S-GEAR (arXiv 2407.02309), element by element and weighted per sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.systems.sgear.model.sgear import SgearOutputs

Unlabelled = Literal["masked", "original"]
NO_LABEL = -1


@dataclass(frozen=True)
class LossWeights:
    """Weight of each loss's mean; 0 leaves a loss out. Defaults are those of the feature runs.

    Attributes:
        cls_action: Cross entropy of the coming action.
        past_cls_action: Cross entropy of the action at each frame.
        feat: Squared error of the predicted frames.
        global_simContrast: Distance of the future's similarities from those of language.
        target_distance: Distance of the future from the prototype of its class.
        past_target_global_simContrast: As `global_simContrast`, for each frame.
    """

    cls_action: float = 1.0
    past_cls_action: float = 0.0
    feat: float = 1.0
    global_simContrast: float = 0.0
    target_distance: float = 1.0
    past_target_global_simContrast: float = 0.0

    @property
    def positive(self) -> dict[str, float]:
        """The losses that count, by name."""
        return {entry.name: value for entry in fields(self) if (value := float(getattr(self, entry.name))) > 0}

    @property
    def need_past(self) -> bool:
        """Says whether a loss reads what is computed per frame."""
        return any(name.startswith("past_") for name in self.positive)


@dataclass(frozen=True)
class Targets:
    """What is true of a batch.

    Attributes:
        action: Class of the coming action, int64 [B]; -1 unknown.
        past: Class at each frame, int64 [B, T]; -1 none.
    """

    action: Tensor
    past: Tensor


def similarity_distance(similarity: Tensor, language: Tensor) -> Tensor:
    """Returns the L1 distance of L1-normalised similarities, [...].

    Args:
        similarity: Cosines with the prototypes [..., N].
        language: Cosines of the class's text with all texts [..., N].
    """
    return (F.normalize(similarity, p=1, dim=-1) - F.normalize(language, p=1, dim=-1)).abs().sum(dim=-1)


def element_losses(
    outputs: SgearOutputs,
    targets: Targets,
    language: Tensor | None,
    prototypes: Tensor,
    *,
    names: set[str] | None = None,
    unlabelled: Unlabelled = "masked",
) -> dict[str, Tensor]:
    """Returns the elements of each loss, before any mean; the first axis is the sample.

    Args:
        outputs: Of the model.
        targets: What is true.
        language: Cosines of all class texts [N, N]; None leaves the similarity losses out.
        prototypes: Visual prototypes [N, d]; no gradient reaches them from here.
        names: Losses wanted; all that the outputs allow if None.
        unlabelled: What a class of -1 means beyond cross entropy, where it counts 0: `masked` 0 too; `original`
            the language of class 1 and the prototype of the last class, as the released code reads them.

    Returns:
        `cls_action` [B], `past_cls_action` [B, T], `global_simContrast` [B], `target_distance` [B],
        `past_target_global_simContrast` [B, T], `feat` [B, T - 1, d].
    """
    action, past = targets.action, targets.past
    known = torch.ones_like(action, dtype=torch.bool) if unlabelled == "original" else action >= 0

    def wanted(name: str) -> bool:
        return names is None or name in names

    found: dict[str, Tensor] = {}
    if wanted("cls_action"):
        found["cls_action"] = _cross_entropy(outputs.logits, action)
    if wanted("past_cls_action") and outputs.past_logits is not None:
        found["past_cls_action"] = _cross_entropy(outputs.past_logits, past)
    if wanted("global_simContrast") and language is not None:
        found["global_simContrast"] = similarity_distance(outputs.similarities, language[action.abs()]) * known
    if wanted("target_distance"):
        nearest = F.normalize(prototypes.detach(), dim=-1)[action]
        found["target_distance"] = (F.normalize(outputs.future_z, dim=-1) - nearest).square().sum(dim=-1) * known
    seen = outputs.similarities_past
    if wanted("past_target_global_simContrast") and seen is not None and language is not None:
        found["past_target_global_simContrast"] = similarity_distance(seen, language[past.abs()]) * (past >= 0)
    if wanted("feat"):
        found["feat"] = outputs.feature_errors
    return found


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    flat = F.cross_entropy(logits.flatten(0, -2), target.flatten(), ignore_index=NO_LABEL, reduction="none")
    return flat.view(target.shape)


def sample_losses(elements: Mapping[str, Tensor], weights: LossWeights) -> Tensor:
    """Returns the weighted loss of each sample [B]; its mean is the batch's total.

    Every sample has equally many elements of a loss, so that the mean over all of a loss's elements, as the
    original takes it, is the mean of the samples' means.
    """
    each = [weight * elements[name].flatten(1).mean(dim=1) if elements[name].ndim > 1 else weight * elements[name]
            for name, weight in weights.positive.items()]  # fmt: skip
    return torch.stack(each).sum(dim=0)
