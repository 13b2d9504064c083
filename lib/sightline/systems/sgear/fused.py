"""A fusion as a predictor: blocks of samples in, the weighted sum of other runs' scores out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sightline.errors import InputError
from sightline.features.index import WorkStores
from sightline.records.types import Prediction, Sample
from sightline.systems.sgear.classes import ClassTable
from sightline.systems.sgear.fuse import RunScores, fuse, search_weights
from sightline.systems.sgear.logits import arrays_of
from sightline.systems.sgear.records import SgearPayload
from sightline.systems.sgear.stored import StoredLogits, store_answers

LACKING = "a run of the fusion has no answer"


def fusion_weights(
    fusion: Mapping[str, Any],
    runs: Sequence[Sequence[Prediction]],
    samples: Sequence[Sample],
    evaluated: Collection[str],
    stored: StoredLogits,
    table: ClassTable,
) -> dict[str, float]:
    """Returns variant to weight: those of the card, or the best ones on the rows that are not evaluated.

    Args:
        fusion: `members`, `search`, `grid`, `normalize`.
        runs: Predictions of each member.
        samples: Of the members, held-out rows with them.
        evaluated: Samples of the fusion.
        stored: Logits of all members.
        table: Classes.

    Raises:
        InputError: No labelled row was held out.
    """
    members = dict(fusion["members"])
    if not fusion["search"]:
        return members
    labels = {
        one.id: SgearPayload.from_json(one.payload, item=one.id).action for one in samples if one.id not in evaluated
    }
    answered = set(labels)
    for run in runs:
        answered &= {one.id for one in run if one.status == "ok"}
    parts = [_scores(run, answered, stored, table) for run in runs]
    found = search_weights(
        parts, {name: labels[name] for name in answered}, grid=fusion["grid"], norm=fusion["normalize"]
    )
    return dict(zip(members, found.weights, strict=True))


def _scores(run: Sequence[Prediction], wanted: Collection[str], stored: StoredLogits, table: ClassTable) -> RunScores:
    return stored.scores([one for one in run if one.id in wanted and one.status == "ok"], table)


class FusedPredictor:
    """Answers blocks of samples with the weighted sum of what other runs said.

    Args:
        runs: Predictions of each member.
        weights: One per member.
        norm: Divides each score vector by its p-norm first; None does not.
        stored: Logits of all members.
        table: Classes.
        store: Where scores go.
        run_key: What decides them.
    """

    batch_limit = 1 << 20

    def __init__(
        self, runs: Sequence[Sequence[Prediction]], weights: Sequence[float], norm: float | None,
        stored: StoredLogits, table: ClassTable, store: WorkStores, run_key: str,
    ) -> None:  # fmt: skip
        self._runs = [{one.id: one for one in run} for run in runs]
        self._weights, self._norm = list(weights), norm
        self._stored, self._table = stored, table
        self._store, self._run_key = store, run_key

    def predict(self, samples: Sequence[Sample]) -> list[Prediction]:
        """Answers one block, in its order; a row that a member did not answer is failed.

        Raises:
            InputError: A member was never asked about a sample.
        """
        for number, run in enumerate(self._runs, 1):
            absent = [one.id for one in samples if one.id not in run]
            if absent:
                raise InputError(
                    f"run {number} of the fusion lacks {len(absent)} of {len(samples)} rows", item=absent[0],
                    mend="give all members the same windows and limits",
                )  # fmt: skip
        good = [one for one in samples if all(run[one.id].status == "ok" for run in self._runs)]
        answers = {one.id: Prediction(one.id, "failed", LACKING) for one in samples}
        if good:
            parts = [self._stored.scores([run[one.id] for one in good], self._table) for run in self._runs]
            total = fuse(parts, self._weights, norm=self._norm)
            answers |= {one.id: one for one in store_answers(good, arrays_of(total), self._store, self._run_key)}
        return [answers[one.id] for one in samples]
