"""Percentile intervals from a cluster bootstrap whose resamples are shared by all metrics.

Clusters (videos, participants) are resampled with replacement, not samples: episodes of one video resemble
each other. One seed and one set of cluster names give one set of weights, so that differences between
metrics or variants are paired. Efron and Tibshirani 1993, chapters 8 and 13.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sightline.metrics.aggregate import Column, MetricSpec, aggregate, point_estimate

_CHUNK_CELLS = 1 << 21


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric with its interval.

    Attributes:
        value: Point estimate; None when nothing was scored.
        ci_low: Lower end of the interval; None with fewer than two clusters that count or without replicates.
        ci_high: Upper end.
        clusters: Clusters with something to count.
        dropped_replicates: Resamples in which nothing could be divided; the interval is over the others.
    """

    value: float | None
    ci_low: float | None
    ci_high: float | None
    clusters: int
    dropped_replicates: int


class ClusterBootstrap:
    """Resamples of clusters as weights on rows.

    Args:
        clusters: Cluster name per row [n].
        replicates: Number of resamples; 0 switches intervals off.
        seed: Seed of the PCG64 generator.
        level: Coverage of the intervals.
    """

    def __init__(self, clusters: Sequence[str], *, replicates: int = 1000, seed: int = 0, level: float = 0.95) -> None:
        if replicates < 0:
            raise ValueError("the number of replicates is negative")
        if not 0 < level < 1:
            raise ValueError("the level of an interval lies between 0 and 1")
        self._names, self._cluster_of_row = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
        self._level = level
        count = len(self._names)
        generator = np.random.Generator(np.random.PCG64(seed))
        drawn = generator.integers(0, count, size=(replicates, count)) if count else np.zeros((replicates, 0))
        offsets = np.arange(replicates)[:, None] * count
        self._counts = (
            np.bincount((drawn + offsets).astype(np.int64).ravel(), minlength=replicates * count)
            .reshape(replicates, count)
            .astype(np.float64)
        )

    def weights(self) -> Iterator[np.ndarray]:
        """Yields float64 [r, n] blocks of weights, all replicates in order."""
        rows = max(1, _CHUNK_CELLS // max(1, len(self._cluster_of_row)))
        for start in range(0, len(self._counts), rows):
            yield self._counts[start : start + rows, self._cluster_of_row]

    def replicates(self, spec: MetricSpec, columns: Sequence[Column]) -> np.ndarray:
        """Returns the metric in every resample, float64 [R]; NaN where nothing could be divided.

        Subtracting two such arrays of one seed and the same clusters gives a paired difference.
        """
        self._check(columns)
        return np.concatenate([aggregate(spec, columns, block) for block in self.weights()])

    def estimate(self, spec: MetricSpec, columns: Sequence[Column]) -> Estimate:
        """Returns the metric over all rows with its percentile interval.

        Args:
            spec: The metric.
            columns: One column per input of the metric, rows in the order of `clusters`.
        """
        self._check(columns)
        value = point_estimate(spec, columns)
        counted = np.any([column.denominators > 0 for column in columns], axis=0)
        clusters = len(set(self._cluster_of_row[counted]))
        if value is None or clusters < 2 or not len(self._counts):
            return Estimate(value, None, None, clusters, 0)
        return self._estimate(value, self.replicates(spec, columns), clusters)

    def difference(self, spec: MetricSpec, columns: Sequence[Column], others: Sequence[Column]) -> Estimate:
        """Returns the metric of `columns` minus that of `others`, rows of both in the order of `clusters`.

        Both read the same resamples, so the interval is that of a paired difference.
        """
        values = [self.estimate(spec, side) for side in (columns, others)]
        clusters = min(side.clusters for side in values)
        if values[0].value is None or values[1].value is None:
            return Estimate(None, None, None, clusters, 0)
        value = values[0].value - values[1].value
        if clusters < 2 or not len(self._counts):
            return Estimate(value, None, None, clusters, 0)
        return self._estimate(value, self.replicates(spec, columns) - self.replicates(spec, others), clusters)

    def _estimate(self, value: float, found: np.ndarray, clusters: int) -> Estimate:
        kept = found[np.isfinite(found)]
        if not len(kept):
            return Estimate(value, None, None, clusters, len(found))
        tail = (1 - self._level) / 2
        low, high = np.quantile(kept, [tail, 1 - tail])
        return Estimate(value, float(low), float(high), clusters, len(found) - len(kept))

    def _check(self, columns: Sequence[Column]) -> None:
        for column in columns:
            if len(column) != len(self._cluster_of_row):
                raise ValueError(f"a column has {len(column)} rows for {len(self._cluster_of_row)} clusters")
