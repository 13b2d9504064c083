"""Overlap of boxes: the sane form in continuous coordinates, and the inclusive pixels of HOI-Ref's evaluator.

Boxes are xyxy, [..., 4], in pixels unless said otherwise. Definitions named `published` are those of the
released evaluator of HOI-Ref (arXiv 2404.09933), which its numbers depend on.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np


class ZeroUnionError(ZeroDivisionError):
    """Two boxes have areas that cancel, so that their union is 0; the released evaluator stops there."""


def rescale_truncating(boxes: np.ndarray, original: tuple[float, float], new: tuple[float, float]) -> np.ndarray:
    """Moves boxes between two sizes as the original does: divide, multiply, cut off towards zero.

    The order matters: 57 * 19.2 of 1920 becomes 56 of 100. Nothing is clipped or put in order.

    Args:
        boxes: Finite numbers [..., 4].
        original: Width and height the boxes are in.
        new: Width and height they shall be in.

    Returns:
        int64 [..., 4].
    """
    values = np.asarray(boxes, dtype=np.float64)
    old = np.array([*original, *original], dtype=np.float64)
    scaled = values / old * np.array([*new, *new], dtype=np.float64)
    return np.trunc(scaled).astype(np.int64)


def published_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the evaluator's intersection over union: both ends of a side count as pixels.

    A reversed box has an area of zero or less, so the result may be 0 or -0.

    Args:
        first, second: Boxes [..., 4] that broadcast against each other.

    Returns:
        float64 [...].

    Raises:
        ZeroUnionError: A union is 0.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    sides = np.maximum(0.0, high - low + 1)
    overlap = sides[..., 0] * sides[..., 1]
    union = _inclusive_area(a) + _inclusive_area(b) - overlap
    if (union == 0).any():
        raise ZeroUnionError("the union of two boxes is 0")
    return overlap / union


def best_published_ious(
    boxes: np.ndarray, owner: np.ndarray, truth: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns for each answer the evaluator's IoU of its best box, all answers at once.

    Args:
        boxes: Boxes of all answers on the 0-100 grid, float64 [m, 4].
        owner: Answer each box belongs to, int64 [m], never falling.
        truth: The true box of each answer in pixels, [n, 4].
        sizes: Width and height each answer's boxes are scaled to, [n, 2].

    Returns:
        float64 [n], NaN where an answer has no box; and bool [n], where a union is 0 and the evaluator stops.
    """
    best, stops = np.full(len(truth), np.nan), np.zeros(len(truth), dtype=bool)
    if not len(boxes):
        return best, stops
    a = np.asarray(truth, dtype=np.float64)[owner]
    b = np.trunc(boxes / 100 * np.tile(np.asarray(sizes, dtype=np.float64), 2)[owner])
    sides = np.maximum(0.0, np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]) + 1)
    overlap = sides[:, 0] * sides[:, 1]
    union = _inclusive_area(a) + _inclusive_area(b) - overlap
    stops[owner[union == 0]] = True
    values = np.divide(overlap, union, out=np.zeros(len(boxes)), where=union != 0)
    firsts = np.flatnonzero(np.diff(owner, prepend=-1))
    best[owner[firsts]] = np.maximum.reduceat(values, firsts)
    return best, stops


def _inclusive_area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 2] - boxes[..., 0] + 1) * (boxes[..., 3] - boxes[..., 1] + 1)


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns intersection over union in continuous coordinates; a box without area overlaps nothing.

    Args:
        first, second: Boxes [..., 4] that broadcast against each other, corners in order.

    Returns:
        float64 [...], in 0..1.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    sides = np.maximum(0.0, np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]))
    overlap = sides[..., 0] * sides[..., 1]
    union = _area(a) + _area(b) - overlap
    return np.divide(overlap, union, out=np.zeros(np.shape(union)), where=union > 0)


def _area(boxes: np.ndarray) -> np.ndarray:
    sides = np.maximum(0.0, boxes[..., 2:] - boxes[..., :2])
    return sides[..., 0] * sides[..., 1]


def clip_boxes(boxes: np.ndarray, size: tuple[float, float]) -> np.ndarray:
    """Cuts boxes [..., 4] to a frame of (width, height); float64."""
    width, height = size
    limits = np.array([width, height, width, height], dtype=np.float64)
    return np.clip(np.asarray(boxes, dtype=np.float64), 0.0, limits)


def match_boxes(truth: Sequence[Sequence[float]], found: Sequence[Sequence[float]]) -> list[float]:
    """Returns the IoU each true box gets when every found box serves at most one, with the largest sum.

    Args:
        truth: True boxes [n, 4]; few, as the search is exhaustive over each one's n best.
        found: Found boxes [m, 4]; true boxes that get none have IoU 0.
    """
    count = len(truth)
    if not truth or not found:
        return [0.0] * count
    table = np.zeros((count, max(count, len(found))))
    table[:, : len(found)] = iou(np.asarray(truth)[:, None], np.asarray(found)[None])
    candidates = [np.argsort(-row, kind="stable")[:count].tolist() for row in table]
    pairings = (picked for picked in itertools.product(*candidates) if len(set(picked)) == count)
    best = max(pairings, key=lambda picked: sum(table[row, column] for row, column in enumerate(picked)))
    return [float(table[row, column]) for row, column in enumerate(best)]
