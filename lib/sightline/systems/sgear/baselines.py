"""Predictions without a model: what any model has to beat. They see labels of the training split alone, except that
`last_action` is told the true action before the one asked for, which no model is."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np

from sightline.errors import InputError
from sightline.features.index import WorkStores
from sightline.records.types import Prediction, Sample
from sightline.systems.sgear.annotations import Segment
from sightline.systems.sgear.logits import LOGITS
from sightline.systems.sgear.records import SgearPayload
from sightline.systems.sgear.stored import store_answers

Kind = Literal["chance", "most_frequent", "last_action"]
_BACK_OFF = 0.5
"""Weight of the overall frequencies beside counted successors, in rows; breaks ties and serves unseen actions."""
_LEAST = 1e-6


class LastActions:
    """The annotated action before a moment of a video.

    Args:
        segments: Annotated actions of the videos asked about; those of unknown class are passed over.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._rows: dict[str, tuple[list[float], list[int]]] = {}
        known = [segment for segment in segments if segment.action >= 0]
        for segment in sorted(known, key=lambda row: (row.video_id, row.action_start, row.action_end)):
            starts, actions = self._rows.setdefault(segment.video_id, ([], []))
            starts.append(segment.action_start)
            actions.append(segment.action)

    def before(self, video_id: str, seconds: float) -> int:
        """Returns the class of the last action that began before `seconds`; -1 if there is none."""
        starts, actions = self._rows.get(video_id, ([], []))
        place = bisect_left(starts, seconds)
        return actions[place - 1] if place else -1

    def pairs(self) -> list[tuple[int, int]]:
        """Returns (action, next action) of all neighbours."""
        return [pair for _, actions in self._rows.values() for pair in pairwise(actions)]


def frequencies(segments: Sequence[Segment], classes: int) -> np.ndarray:
    """Returns the share of each action, float64 [A].

    Raises:
        InputError: No action is labelled.
    """
    labels = np.array([segment.action for segment in segments if segment.action >= 0], np.int64)
    if not len(labels):
        raise InputError("the training split of the baseline has no labelled action", mend="count another split")
    return np.bincount(labels, minlength=classes) / len(labels)


def successors(trained: LastActions, shares: np.ndarray) -> np.ndarray:
    """Returns how often each action follows each other one, backed off to overall shares, float64 [A, A]."""
    counts = np.zeros((len(shares), len(shares)))
    pairs = np.array(trained.pairs(), np.int64).reshape(-1, 2)
    np.add.at(counts, (pairs[:, 0], pairs[:, 1]), 1)
    smoothed = counts + _BACK_OFF * shares
    return smoothed / smoothed.sum(axis=1, keepdims=True)


class BaselinePredictor:
    """Answers blocks of samples without a model.

    Args:
        kind: Which baseline.
        trained: Annotated actions that are counted.
        asked: Annotated actions of the dataset asked about; read by `last_action` alone.
        classes: Number of actions, A.
        store: Where scores go.
        run_key: What decides them.
        seed: Of `chance`.
    """

    batch_limit = 1 << 20

    def __init__(
        self, kind: Kind, trained: Sequence[Segment], asked: Sequence[Segment], classes: int, *,
        store: WorkStores, run_key: str, seed: int = 0,
    ) -> None:  # fmt: skip
        self._kind, self._classes, self._seed = kind, classes, seed
        self._store, self._run_key = store, run_key
        self._shares = frequencies(trained, classes)
        self._successors = successors(LastActions(trained), self._shares) if kind == "last_action" else None
        self._asked = LastActions(asked)

    def predict(self, samples: Sequence[Sample]) -> list[Prediction]:
        """Answers one block, in its order."""
        payloads = [SgearPayload.from_json(one.payload, item=one.id) for one in samples]
        rows = np.stack([self._logits(sample.id, one) for sample, one in zip(samples, payloads, strict=True)])
        return store_answers(samples, {LOGITS: rows.astype(np.float32)}, self._store, self._run_key)

    def _logits(self, identifier: str, payload: SgearPayload) -> np.ndarray:
        if self._kind == "chance":
            digest = hashlib.sha256(f"{self._seed}:{identifier}".encode()).digest()
            return np.random.default_rng(int.from_bytes(digest[:8], "big")).standard_normal(self._classes)
        shares = self._shares
        last = self._asked.before(payload.video_id, payload.action_start)
        if self._successors is not None and last >= 0:
            shares = self._successors[last]
        found: np.ndarray = np.log(np.maximum(shares, _LEAST))
        return found
