"""Top-k accuracy and class-mean recall of one right class among many scores.

Class-mean recall@5 is EPIC-Kitchens' measure of anticipation (Damen et al. 2022; Furnari et al. 2018). All functions
take plain arrays and return percent; NaN where there is nothing to divide by. Among equal scores the class with the
lower index comes first; `topk_bounds` and `recall_bounds` say what any other order could have given.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from sightline.errors import InputError, NonFiniteError

_CHUNK_CELLS = 1 << 20


@dataclass(frozen=True, slots=True)
class Ranks:
    """Where the right class stands in each row.

    Attributes:
        above: int64 [n], classes with a higher score.
        tied_before: int64 [n], classes of equal score and lower index.
        tied: int64 [n], other classes of equal score.
        labels: int64 [n], the right classes.
        classes: Number of score columns.
    """

    above: np.ndarray
    tied_before: np.ndarray
    tied: np.ndarray
    labels: np.ndarray
    classes: int

    @property
    def rank(self) -> np.ndarray:
        """int64 [n], places before the right class, 0 for the first."""
        return self.above + self.tied_before

    def take(self, rows: np.ndarray) -> Ranks:
        """Returns the ranks of some rows (indices or mask)."""
        return Ranks(self.above[rows], self.tied_before[rows], self.tied[rows], self.labels[rows], self.classes)


def ranks_of(scores: np.ndarray, labels: np.ndarray) -> Ranks:
    """Ranks the right class of every row, once for all k and all subsets.

    Args:
        scores: float [n, C], the higher the better.
        labels: int [n], classes in 0..C-1.

    Raises:
        NonFiniteError: Scores hold NaN; says in how many rows.
        InputError: Shapes differ or a label is no column.
    """
    scores, labels = np.asarray(scores), np.asarray(labels, np.int64)
    if scores.ndim != 2 or len(scores) != len(labels):
        raise InputError(f"scores {scores.shape} do not fit {len(labels)} labels", mend="give one row per label")
    count, classes = scores.shape
    outside = (labels < 0) | (labels >= classes)
    if outside.any():
        raise InputError(
            f"{int(outside.sum())} of {count} labels lie outside 0..{classes - 1}",
            mend="leave out rows of unknown class",
        )
    found = np.empty((3, count), np.int64)
    columns = np.arange(classes)
    nan_rows = 0
    step = max(1, _CHUNK_CELLS // max(1, classes))
    for start in range(0, count, step):
        block, right = scores[start : start + step], labels[start : start + step]
        own = np.take_along_axis(block, right[:, None], axis=1)
        stop = start + len(block)
        found[0, start:stop] = (block > own).sum(axis=1)
        below = (block < own).sum(axis=1)
        ties = classes - found[0, start:stop] - below - 1
        found[1, start:stop] = 0
        found[2, start:stop] = ties
        odd = np.flatnonzero(ties)  # also where NaN is: it is neither above nor below
        if len(odd):
            nan_rows += int(np.isnan(block[odd]).any(axis=1).sum())
            found[1, start + odd] = ((block[odd] == own[odd]) & (columns < right[odd, None])).sum(axis=1)
    if nan_rows:
        raise NonFiniteError(f"{nan_rows} of {count} rows of scores hold NaN", mend="find out which run made them")
    return Ranks(found[0], found[1], found[2], labels, classes)


def _percent(hits: np.ndarray) -> float:
    return 100.0 * float(hits.mean()) if len(hits) else float("nan")


def _wanted(ranks: Ranks, classes: Collection[int] | None) -> np.ndarray:
    if classes is None:
        return np.ones(len(ranks.labels), bool)
    return np.isin(ranks.labels, np.fromiter(classes, np.int64, len(classes)))


def topk_accuracy(ranks: Ranks, k: int, classes: Collection[int] | None = None) -> float:
    """Returns the share of rows whose class is among the k best, percent.

    Args:
        ranks: Of all rows.
        k: Places that count.
        classes: Only rows of these classes.
    """
    return _percent((ranks.rank < k)[_wanted(ranks, classes)])


def topk_bounds(ranks: Ranks, k: int, classes: Collection[int] | None = None) -> tuple[float, float]:
    """Returns the least and the greatest top-k accuracy any order of equal scores can give, percent."""
    rows = _wanted(ranks, classes)
    return _percent((ranks.above + ranks.tied < k)[rows]), _percent((ranks.above < k)[rows])


def _recall(hits: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns recall and number of rows per class, [C] each; recall 0 where there is no row."""
    rows = np.bincount(labels, minlength=classes)
    right = np.bincount(labels[hits], minlength=classes)
    return np.divide(right, rows, out=np.zeros(classes), where=rows > 0), rows


def class_recalls(ranks: Ranks, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns recall@k of each class, 0..1, and its rows, [C] each; recall is 0 where there is no row."""
    return _recall(ranks.rank < k, ranks.labels, ranks.classes)


def _class_mean(hits: np.ndarray, ranks: Ranks, classes: Collection[int] | None) -> float:
    rows = _wanted(ranks, classes)
    recalls, counts = _recall(hits[rows], ranks.labels[rows], ranks.classes)
    return _percent(recalls[counts > 0])


def class_mean_recall(ranks: Ranks, k: int = 5, classes: Collection[int] | None = None) -> float:
    """Returns the mean over classes of the share of their rows with the class among the k best, percent.

    Classes without a row do not count.

    Args:
        ranks: Of all rows.
        k: Places that count.
        classes: Only these classes (many-shot classes).
    """
    return _class_mean(ranks.rank < k, ranks, classes)


def recall_bounds(ranks: Ranks, k: int = 5, classes: Collection[int] | None = None) -> tuple[float, float]:
    """Returns the least and the greatest class-mean recall any order of equal scores can give, percent."""
    low = _class_mean(ranks.above + ranks.tied < k, ranks, classes)
    return low, _class_mean(ranks.above < k, ranks, classes)


def top1_meancls(ranks: Ranks) -> float:
    """Returns class-mean top-1 accuracy over all score columns, percent: classes without a row count as 0.

    So the original of S-GEAR has it; `class_mean_recall(ranks, 1)` leaves absent classes out.
    """
    recalls, _ = class_recalls(ranks, 1)
    return _percent(recalls)
