"""Scores of verbs and nouns out of action logits, and the late fusion of any set of runs.

Verbs and nouns get the probability mass of their actions; actions keep raw logits, so results depend on the scale of
logits: they are kept in float32 throughout. The published 18.9 is 2.5 x ViT + 0.5 x objects.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sightline.errors import InputError, NonFiniteError
from sightline.metrics.recall import class_mean_recall, ranks_of
from sightline.systems.sgear.classes import ClassTable

ACTION, VERB, NOUN = "action", "verb", "noun"
_NORM_EPS = 1e-6
_SHOWN = 5
_GRID = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
_FULL_SEARCH = 4096  # combinations that are tried exhaustively; beyond them one weight at a time


@dataclass(frozen=True)
class RunScores:
    """What one run gives to every row, the higher the better.

    Attributes:
        uids: Rows [n].
        spaces: `action` raw logits [n, A], `verb` and `noun` probabilities; float64.
    """

    uids: tuple[str, ...]
    spaces: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        if len(set(self.uids)) != len(self.uids):
            raise InputError("a row occurs twice in a run", mend="average duplicates first (average_duplicates)")

    def take(self, rows: np.ndarray) -> RunScores:
        """Returns some rows (indices or mask)."""
        uids = np.asarray(self.uids, object)[rows]
        return RunScores(tuple(uids), {name: scores[rows] for name, scores in self.spaces.items()})


def average_duplicates(rows: np.ndarray, logits: np.ndarray, count: int) -> np.ndarray:
    """Averages logits that several ranks stored for the same row, as padding by a distributed sampler leaves them.

    Args:
        rows: int [m], row of each.
        logits: float [m, A].
        count: Rows there should be, numbered from 0.

    Returns:
        float64 [count, A].

    Raises:
        InputError: Rows are missing, with their number; the original would score them as zeros.
        NonFiniteError: Logits are not finite, with the number of rows.
    """
    rows = np.asarray(rows, np.int64)
    if len(rows) != len(logits) or (len(rows) and (rows.min() < 0 or rows.max() >= count)):
        raise InputError(f"{len(logits)} logits with row numbers outside 0..{count - 1}")
    require_finite(logits)
    counts = np.bincount(rows, minlength=count)
    absent = np.flatnonzero(counts == 0)
    if len(absent):
        raise InputError(
            f"{len(absent)} of {count} rows have no logits (first: {', '.join(map(str, absent[:_SHOWN]))})",
            mend="finish the test pass; its shards resume",
        )
    total = np.zeros((count, logits.shape[1]))
    np.add.at(total, rows, np.asarray(logits, np.float64))
    return total / counts[:, None]


def require_finite(logits: np.ndarray) -> None:
    """Refuses logits that are not finite.

    Raises:
        NonFiniteError: Says how many rows.
    """
    bad = ~np.isfinite(logits).all(axis=-1)
    if bad.any():
        raise NonFiniteError(
            f"{int(bad.sum())} of {bad.size} rows of logits hold NaN or infinity",
            mend="run in float32 or bfloat16, and look at the features of those rows",
        )


def marginalise(uids: Sequence[str], logits: np.ndarray, table: ClassTable) -> RunScores:
    """Returns a run's scores of actions, verbs and nouns.

    Args:
        uids: Rows [n].
        logits: float [n, A], raw.
        table: Which verb and noun an action has; without either, actions alone are scored.

    Raises:
        InputError: The number of columns is not that of the actions.
        NonFiniteError: Logits are not finite.
    """
    logits = np.asarray(logits, np.float64)
    if logits.shape != (len(uids), len(table.actions)):
        raise InputError(f"logits {logits.shape}, expected {(len(uids), len(table.actions))}", field="logits")
    require_finite(logits)
    spaces = {ACTION: logits}
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    for name, matrix in ((VERB, table.M_verb), (NOUN, table.M_noun)):
        if matrix.shape[1]:
            spaces[name] = probabilities @ matrix.astype(np.float64)
    return RunScores(tuple(uids), spaces)


def _normalised(scores: np.ndarray, p: float | None) -> np.ndarray:
    if p is None:
        return scores
    return scores / (np.linalg.norm(scores, ord=p, axis=1, keepdims=True) + _NORM_EPS)


def fuse(
    runs: Sequence[RunScores], weights: Sequence[float], *, norm: float | None = None, partial: bool = False
) -> RunScores:
    """Adds up the scores of several runs, row by row.

    Args:
        runs: Runs or earlier fusions.
        weights: One per run.
        norm: Divides every score vector by its p-norm first (plus 1e-6).
        partial: Lets rows through that some runs lack: they get the sum of the others, as in the original.

    Returns:
        Scores of the rows of the last run, then of those only others have, in order of appearance. Weights are
        not normalised.

    Raises:
        InputError: Numbers differ, or runs do not cover the same rows, with counts.
    """
    if not runs or len(runs) != len(weights):
        raise InputError(f"{len(runs)} runs and {len(weights)} weights", field="weights", mend="give one per run")
    uids = tuple(dict.fromkeys(uid for run in (runs[-1], *runs[:-1]) for uid in run.uids))
    for number, run in enumerate(runs):
        lacking = sorted(set(uids) - set(run.uids))
        if lacking and not partial:
            raise InputError(
                f"run {number + 1} of {len(runs)} lacks {len(lacking)} of {len(uids)} rows "
                f"(first: {', '.join(lacking[:_SHOWN])})",
                mend="finish that run; its shards resume",
            )
    place = {uid: row for row, uid in enumerate(uids)}
    names = [name for name in runs[-1].spaces if all(name in run.spaces for run in runs)]
    spaces = {}
    for name in names:
        widths = {run.spaces[name].shape[1] for run in runs}
        if len(widths) > 1:
            raise InputError(f"runs have {sorted(widths)} {name} classes", field=name, mend="fuse runs of one dataset")
        total = np.zeros((len(uids), widths.pop()))
        for run, weight in zip(runs, weights, strict=True):
            total[[place[uid] for uid in run.uids]] += weight * _normalised(run.spaces[name], norm)
        spaces[name] = total
    return RunScores(uids, spaces)


def held_out(clusters: Sequence[str], fraction: float, *, seed: int = 0) -> np.ndarray:
    """Chooses whole clusters to look for weights on, by a hash of their names, bool [n].

    Args:
        clusters: Cluster of each row [n].
        fraction: Share of clusters, about.
        seed: Another choice.
    """
    limit = int(fraction * 2**32)
    drawn = {name: hashlib.sha256(f"{seed}:{name}".encode()).digest()[:4] for name in set(clusters)}
    return np.array([int.from_bytes(drawn[name]) < limit for name in clusters], bool)


@dataclass(frozen=True)
class WeightSearch:
    """What a search for weights found.

    Attributes:
        weights: One per run.
        value: The measure on the rows searched on.
        tried: Combinations.
    """

    weights: tuple[float, ...]
    value: float
    tried: int


def search_weights(
    runs: Sequence[RunScores],
    labels: Mapping[str, int],
    *,
    grid: Sequence[float] = _GRID,
    norm: float | None = None,
    measure: Callable[[np.ndarray, np.ndarray], float] | None = None,
) -> WeightSearch:
    """Looks for fusion weights on held-out rows.

    All combinations where they are few, else one weight at a time until nothing improves. Among equals the first in
    the grid's order is taken.

    Args:
        runs: Runs, cut to the held-out rows (`RunScores.take`).
        labels: Action of each row; others are not scored.
        grid: Weights to try; the last run's may be any of them too.
        norm: As in `fuse`.
        measure: (action scores [n, A], labels [n]) to a number; class-mean recall@5 by default.

    Raises:
        InputError: No row is left, or as `fuse`.
    """
    uids = [uid for uid in runs[-1].uids if labels.get(uid, -1) >= 0]
    if not uids:
        raise InputError("no labelled row is left to search weights on", field="fraction", mend="hold out more")
    actions = np.array([labels[uid] for uid in uids])
    columns = []
    for run in runs:
        place = {uid: row for row, uid in enumerate(run.uids)}
        lacking = [uid for uid in uids if uid not in place]
        if lacking:
            raise InputError(f"a run lacks {len(lacking)} of {len(uids)} rows (first: {lacking[0]})")
        columns.append(_normalised(run.spaces[ACTION][[place[uid] for uid in uids]], norm))
    score = measure or (lambda scores, right: class_mean_recall(ranks_of(scores, right)))
    seen: dict[tuple[float, ...], float] = {}

    def value(weights: tuple[float, ...]) -> float:
        if weights not in seen:
            total = sum(w * c for w, c in zip(weights, columns, strict=True))
            seen[weights] = score(np.asarray(total), actions) if any(weights) else -np.inf
        return seen[weights]

    if len(grid) ** len(runs) <= _FULL_SEARCH:
        best = max(itertools.product(grid, repeat=len(runs)), key=value)
    else:
        best = _one_at_a_time(value, (1.0,) * len(runs), grid)
    return WeightSearch(best, value(best), len(seen))


def _one_at_a_time(
    value: Callable[[tuple[float, ...]], float], best: tuple[float, ...], grid: Sequence[float]
) -> tuple[float, ...]:
    improved = True
    while improved:
        improved = False
        for place in range(len(best)):
            options = [(*best[:place], weight, *best[place + 1 :]) for weight in grid]
            found = max(options, key=value)
            if value(found) > value(best):
                best, improved = found, True
    return best
