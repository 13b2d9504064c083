"""What a trained model makes of the first samples of each class: the visual prototypes of the next training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sightline.records.types import Sample
from sightline.systems.sgear.model.sgear import Sgear
from sightline.systems.sgear.predict import ReadInputs
from sightline.systems.sgear.prototypes import PER_CLASS
from sightline.systems.sgear.records import SgearPayload


@dataclass(frozen=True)
class Embeddings:
    """Mixed future features (`future_agg`) of some samples, in the order of the dataset.

    Attributes:
        rows: int64 [m], place in the dataset.
        classes: int64 [m].
        vectors: float32 [m, d].
    """

    rows: np.ndarray
    classes: np.ndarray
    vectors: np.ndarray

    def per_class(self) -> dict[int, np.ndarray]:
        """Returns class to vectors, float32 [at most n, d]."""
        return {int(one): self.vectors[self.classes == one] for one in np.unique(self.classes)}


@torch.inference_mode()
def class_embeddings(
    samples: Sequence[Sample],
    read: ReadInputs,
    model: Sgear,
    *,
    per_class: int = PER_CLASS,
    batch: int = 64,
    text: torch.Tensor | None = None,
) -> Embeddings:
    """Returns the embeddings of the first samples of each class, in the order of the dataset.

    Only these are computed. A sample without a class, without anything stored, or whose embedding is not finite
    takes no place.

    Args:
        samples: Of the split that prototypes come from.
        read: What the model is shown.
        model: In eval mode.
        per_class: Samples of each class.
        batch: Samples in one forward pass.
        text: Language vectors, for `prototype_values: text`.
    """
    waiting = sorted((SgearPayload.from_json(one.payload, item=one.id) for one in samples), key=lambda one: one.row)
    waiting = [one for one in waiting if one.action >= 0]
    counts: Counter[int] = Counter()
    found: list[tuple[int, int, np.ndarray]] = []
    while chosen := _next(waiting, counts, per_class, batch):
        taken = {one.row for one in chosen}
        waiting = [one for one in waiting if one.row not in taken and counts[one.action] < per_class]
        inputs = read(chosen)
        video = torch.from_numpy(np.ascontiguousarray(inputs.values, np.float32)).to(model.vis_prototypes.device)
        vectors = model(video, text=text, with_past=False).future_agg.float().cpu().numpy()
        for one, vector, empty in zip(chosen, vectors, inputs.empty, strict=True):
            if not empty and np.isfinite(vector).all():
                counts[one.action] += 1
                found.append((one.row, one.action, vector))
    return _in_order(found, model.config.width)


def _next(waiting: Sequence[SgearPayload], counts: Counter[int], per_class: int, batch: int) -> list[SgearPayload]:
    """Returns the next samples whose class still has a place."""
    asked = Counter(counts)
    chosen: list[SgearPayload] = []
    for one in waiting:
        if asked[one.action] < per_class:
            asked[one.action] += 1
            chosen.append(one)
            if len(chosen) == batch:
                break
    return chosen


def gather(parts: Iterable[Embeddings], per_class: int = PER_CLASS) -> Embeddings:
    """Joins what several processes found of parts of a dataset: the first of each class over all of them."""
    counts: Counter[int] = Counter()
    kept = []
    rows = sorted(
        (int(row), int(label), vector)
        for part in parts
        for row, label, vector in zip(part.rows, part.classes, part.vectors.tolist(), strict=True)
    )
    width = len(rows[0][2]) if rows else 0
    for row, label, vector in rows:
        counts[label] += 1
        if counts[label] <= per_class:
            kept.append((row, label, np.array(vector, np.float32)))
    return _in_order(kept, width)


def _in_order(found: Sequence[tuple[int, int, np.ndarray]], width: int) -> Embeddings:
    ordered = sorted(found, key=lambda one: one[0])
    return Embeddings(
        np.array([row for row, _, _ in ordered], np.int64),
        np.array([label for _, label, _ in ordered], np.int64),
        np.stack([vector for _, _, vector in ordered]) if ordered else np.zeros((0, width), np.float32),
    )
