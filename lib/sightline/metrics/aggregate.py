"""What a metric is, and how rows become one number; the bootstrap calls the same functions.

Every aggregate works on weights: row i counts `weights[r, i]` times in replicate r. Weights of one give the
point estimate. A replicate without anything to divide by is NaN here and is dropped, with a count, by the
callers; NaN never leaves `metrics/`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from sightline.errors import NonFiniteError

_EPSILON = 1e-12  # of the temporal F-score's definition; keeps 0/0 at 0


@dataclass(frozen=True)
class MetricSpec:
    """A metric as the summary and the report know it.

    Attributes:
        name: Name that says the implementation, e.g. `meteor_nltk`.
        implementation: One line: which code, which parameters, which paper.
        aggregate: Key of `AGGREGATES`.
        inputs: Metrics whose score rows the aggregate reads; itself by default.
        unit: Unit of the value; empty for a plain number.
        higher_is_better: Direction for the report.
        out_of: Metric whose denominators say out of how many items this one's were drawn, if there is one.
    """

    name: str
    implementation: str
    aggregate: str
    inputs: tuple[str, ...] = field(default=())
    unit: str = ""
    higher_is_better: bool = True
    out_of: str = ""

    def __post_init__(self) -> None:
        if self.aggregate not in AGGREGATES:
            raise ValueError(f"aggregate {self.aggregate!r} is unknown; use one of {', '.join(AGGREGATES)}")
        if not self.inputs:
            object.__setattr__(self, "inputs", (self.name,))


@dataclass(frozen=True)
class Column:
    """The rows of one input metric; unscored and failed rows are 0 over 0.

    Attributes:
        values: float64 [n], numerators.
        denominators: float64 [n], not negative; 0 where there is nothing to count.
        groups: Class of each row [n]; read by the class means alone.
    """

    values: np.ndarray
    denominators: np.ndarray
    groups: np.ndarray

    @classmethod
    def of(
        cls,
        values: Sequence[float | None],
        denominators: Sequence[float],
        groups: Sequence[str] | None = None,
    ) -> Column:
        """Builds a column; a value of None makes the row 0 over 0.

        Raises:
            NonFiniteError: A value or denominator is NaN or infinite.
            ValueError: Lengths differ or a denominator is negative.
        """
        if len(values) != len(denominators):
            raise ValueError(f"{len(values)} values but {len(denominators)} denominators")
        if groups is not None and len(groups) != len(values):
            raise ValueError(f"{len(values)} values but {len(groups)} groups")
        scored = np.array([value is not None for value in values], dtype=bool)
        numerators = np.array([0.0 if value is None else value for value in values], dtype=np.float64)
        bottoms = np.where(scored, np.asarray(denominators, dtype=np.float64), 0.0)
        if not (np.isfinite(numerators).all() and np.isfinite(bottoms).all()):
            raise NonFiniteError("a score is not finite", mend="score again; a model may have returned NaN")
        if (bottoms < 0).any():
            raise ValueError("a denominator is negative")
        labels = np.asarray([""] * len(values) if groups is None else list(groups), dtype=object)
        return cls(numerators, bottoms, labels)

    def __len__(self) -> int:
        return len(self.values)


def _weighted_sum(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sums rows; numpy's pairwise sum gives the same digits for any number of threads, unlike BLAS."""
    return (weights * values).sum(axis=1)


def _divide(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)


def ratio_of_sums(columns: Sequence[Column], weights: np.ndarray) -> np.ndarray:
    """Returns sum of values over sum of denominators (micro average), [R]."""
    (column,) = columns
    return _divide(_weighted_sum(weights, column.values), _weighted_sum(weights, column.denominators))


def mean(columns: Sequence[Column], weights: np.ndarray) -> np.ndarray:
    """Returns the mean of value/denominator over the rows that have a denominator, [R]."""
    (column,) = columns
    counted = column.denominators > 0
    quotients = np.divide(column.values, column.denominators, out=np.zeros(len(column)), where=counted)
    return _divide(_weighted_sum(weights, quotients), _weighted_sum(weights, counted.astype(np.float64)))


def _class_ratios(column: Column, weights: np.ndarray) -> np.ndarray:
    """Returns each class's ratio of sums, [R, classes]; NaN where a class has nothing to divide by.

    Rows are sorted by class once and summed in runs, so that thousands of classes cost one pass.
    """
    counted = np.flatnonzero(column.denominators > 0)
    if not len(counted):
        return np.zeros((len(weights), 0))
    _, labels = np.unique(column.groups[counted].astype(str), return_inverse=True)
    order = counted[np.argsort(labels, kind="stable")]
    starts = np.concatenate([[0], np.cumsum(np.bincount(labels))[:-1]])
    sorted_weights = weights[:, order]
    tops = np.add.reduceat(sorted_weights * column.values[order], starts, axis=1)
    return _divide(tops, np.add.reduceat(sorted_weights * column.denominators[order], starts, axis=1))


def class_mean(columns: Sequence[Column], weights: np.ndarray) -> np.ndarray:
    """Returns the mean over classes of each class's ratio of sums; absent classes do not count, [R]."""
    (column,) = columns
    ratios = _class_ratios(column, weights)
    return _divide(np.nansum(ratios, axis=1), np.isfinite(ratios).sum(axis=1).astype(np.float64))


def class_mean_of_all(columns: Sequence[Column], weights: np.ndarray) -> np.ndarray:
    """Returns the sum over classes of each class's ratio of sums, over the number of all classes there are, [R].

    The second column holds that number in each of its rows. Absent classes count as 0: S-GEAR's `top1_meancls`.
    """
    column, number = columns
    ratios = _class_ratios(column, weights)
    classes = number.values.max(initial=0.0)
    present = np.isfinite(ratios).any(axis=1)
    return _divide(np.where(present, np.nansum(ratios, axis=1), 0.0), np.where(present, classes, 0.0))


def class_mean_gain(columns: Sequence[Column], weights: np.ndarray) -> np.ndarray:
    """Returns the class mean of the first column minus that of the second, [R]; both read the same weights."""
    return class_mean(columns[:1], weights) - class_mean(columns[1:], weights)


def f_of_ratios(columns: Sequence[Column], weights: np.ndarray) -> np.ndarray:
    """Returns F = 2PR/(P+R) of two micro-averaged ratios, with the epsilons of Stream-VLM's evaluator, [R].

    One side without anything counts as 0, so silence scores F = 0; both sides empty is undefined.
    """
    first, second = columns
    bottoms = [_weighted_sum(weights, column.denominators) for column in (first, second)]
    ratios = [
        _weighted_sum(weights, column.values) / (bottom + _EPSILON)
        for column, bottom in zip((first, second), bottoms, strict=True)
    ]
    score = 2 * ratios[0] * ratios[1] / (ratios[0] + ratios[1] + _EPSILON)
    return np.where(bottoms[0] + bottoms[1] > 0, score, np.nan)


def f_gain(columns: Sequence[Column], weights: np.ndarray) -> np.ndarray:
    """Returns the F of the first two columns minus the F of the last two, each as `f_of_ratios`, [R].

    Both read the same weights, so that its interval is that of a paired difference.
    """
    return f_of_ratios(columns[:2], weights) - f_of_ratios(columns[2:], weights)


AGGREGATES: dict[str, Callable[[Sequence[Column], np.ndarray], np.ndarray]] = {
    "mean": mean,
    "ratio_of_sums": ratio_of_sums,
    "class_mean": class_mean,
    "class_mean_of_all": class_mean_of_all,
    "class_mean_gain": class_mean_gain,
    "f_of_ratios": f_of_ratios,
    "f_gain": f_gain,
}


def aggregate(spec: MetricSpec, columns: Sequence[Column], weights: np.ndarray) -> np.ndarray:
    """Applies the metric's aggregate.

    Args:
        spec: The metric.
        columns: One column per input of the metric, aligned by sample, n rows each.
        weights: float64 [R, n].

    Returns:
        float64 [R]; NaN where there was nothing to divide by.
    """
    if len(columns) != len(spec.inputs):
        raise ValueError(f"{spec.name} reads {len(spec.inputs)} columns, not {len(columns)}")
    return AGGREGATES[spec.aggregate](columns, weights)


def point_estimate(spec: MetricSpec, columns: Sequence[Column]) -> float | None:
    """Returns the metric over all rows, or None when nothing was scored."""
    value = float(aggregate(spec, columns, np.ones((1, len(columns[0]))))[0])
    return None if np.isnan(value) else value
