"""Stored logits of a run as scores: what metrics, fusion and submissions read. Loads no model.

An item of the store is a block: `logits` float32 [rows, A] of the answered samples; a fusion has `verb` and
`noun` beside them, which are no marginals. `Prediction.files["logits"]` names key, digest and row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from sightline.errors import InputError
from sightline.records.types import Prediction
from sightline.systems.sgear.classes import ClassTable
from sightline.systems.sgear.fuse import ACTION, NOUN, VERB, RunScores, marginalise

LOGITS = "logits"
TOP = 5
_SHOWN = 3


def best(logits: np.ndarray) -> np.ndarray:
    """Returns the five best classes of each row, best first, int64 [B, 5]; among equals the lower class first."""
    return np.argsort(-logits, axis=1, kind="stable")[:, :TOP].astype(np.int64)


class Readable(Protocol):
    """A feature store or an index over several."""

    def read(self, key: str) -> Mapping[str, np.ndarray]:
        """Returns the arrays of an item."""


def scores_of(
    predictions: Sequence[Prediction],
    store: Readable,
    table: ClassTable,
    *,
    expected: Sequence[str] | None = None,
    allow_failed: bool = False,
) -> RunScores:
    """Returns the scores of a run.

    A run of a model has logits alone, of which verbs and nouns get their probabilities; a fusion has its own `verb`
    and `noun` arrays beside them, which are taken as they are.

    Args:
        predictions: Of the run; `files["logits"]` names item and row in the store.
        store: Where they are.
        table: Classes of the dataset.
        expected: Ids there must be.
        allow_failed: Leaves out failed predictions instead of refusing the run.

    Raises:
        InputError: Rows have no logits, with their number; they are never taken as zeros.
        NonFiniteError: Logits are not finite.
    """
    by_id = {one.id: one for one in predictions}
    kept = _with_logits(by_id, list(by_id) if expected is None else expected, allow_failed)
    columns: dict[str, list[np.ndarray]] = {LOGITS: [], VERB: [], NOUN: []}
    items: dict[str, Mapping[str, np.ndarray]] = {}
    for name in kept:
        place = by_id[name].files[LOGITS]
        item = items.get(place["key"])
        if item is None:
            item = items[place["key"]] = store.read(place["key"])
        for column, rows in columns.items():
            if column in item:
                rows.append(item[column][place["row"]])
    logits = np.stack(columns[LOGITS]) if kept else np.zeros((0, len(table.actions)))
    scores = marginalise(kept, logits, table)
    fused = {name: np.stack(columns[name]).astype(np.float64) for name in (VERB, NOUN) if columns[name]}
    if any(len(part) != len(kept) for part in fused.values()):
        raise InputError("some rows of a fusion have scores of verbs and nouns, others not", mend="fuse again")
    return RunScores(scores.uids, {**scores.spaces, **fused})


def _with_logits(by_id: Mapping[str, Prediction], ids: Sequence[str], allow_failed: bool) -> list[str]:
    """Returns the ids that have logits; refuses others, failed ones only when asked to."""
    lacking = {name for name in ids if name not in by_id or LOGITS not in by_id[name].files}
    failed = {name for name in lacking if name in by_id and by_id[name].status == "failed"}
    refused = [name for name in ids if name in lacking and not (allow_failed and name in failed)]
    if refused:
        raise InputError(
            f"{len(refused)} of {len(ids)} rows have no logits (first: {', '.join(refused[:_SHOWN])})",
            mend="run the shards again; what is finished is kept",
        )
    return [name for name in ids if name not in lacking]


def arrays_of(scores: RunScores) -> dict[str, np.ndarray]:
    """Returns the arrays of a fusion as they are stored: `logits` of actions, `verb`, `noun`; float32 [n, classes]."""
    names = {ACTION: LOGITS}
    return {names.get(name, name): values.astype(np.float32) for name, values in scores.spaces.items()}
