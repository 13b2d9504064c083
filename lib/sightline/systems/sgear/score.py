"""Scores of every row: is the right verb, noun, action first, or among the k best.

Class-mean recall@5 of the actions is EPIC-Kitchens-100's measure; tail classes and unseen participants are scored on
the rows of RULSTM's lists, many-shot classes of EK55 on the rows of those classes. Values are in percent.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from sightline.errors import InputError
from sightline.metrics.aggregate import MetricSpec
from sightline.metrics.recall import Ranks, ranks_of
from sightline.records.types import Prediction, Sample, Score
from sightline.systems.sgear.fuse import ACTION, NOUN, VERB, RunScores
from sightline.systems.sgear.records import SgearPayload

K = 5
PARTS = (ACTION, VERB, NOUN)
GROUPS = ("unseen", "tail", "many_shot")
CLASS_COUNT = "action_classes"
REFERENCE = "reference"
_OUTSIDE = {
    "unseen": "participant seen in training",
    "tail": "no tail class",
    "many_shot": "no many-shot class",
}
_NO_CLASS = "the class is unknown"
_TIES = "; among equal scores the lower class comes first"


def metric_specs(k: int = K, groups: Collection[str] = GROUPS) -> tuple[MetricSpec, ...]:
    """Returns the room's metrics, in the order of the report.

    Args:
        k: Places that count.
        groups: Parts of the rows that are scored separately.
    """
    specs = []
    for part in PARTS:
        recall = f"class-mean recall@{k} of {part}s over classes that occur{_TIES}"
        specs.append(MetricSpec(f"{part}_recall{k}", recall, "class_mean", (f"{part}_top{k}",), unit="%"))
        specs += [
            MetricSpec(
                f"{part}_recall{k}_{group}", f"{recall}; rows: {group.replace('_', '-')}", "class_mean",
                (f"{part}_top{k}_{group}",), unit="%",
            )
            for group in GROUPS if group in groups
        ]  # fmt: skip
        specs += [
            MetricSpec(f"{part}_top{n}", f"rows whose {part} is among the {n} best{_TIES}", "mean", unit="%")
            for n in sorted({1, k})
        ]
    return (
        *specs,
        MetricSpec(
            "action_top1_meancls", "mean over all action classes of their top-1 accuracy, absent classes count as 0",
            "class_mean_of_all", ("action_top1", CLASS_COUNT), unit="%",
        ),
        MetricSpec(
            f"action_recall{k}_gain", f"class-mean recall@{k} of actions minus that of the run it is compared with, "
            "on the same rows", "class_mean_gain", (f"action_top{k}", f"action_top{k}_{REFERENCE}"), unit="%",
        ),
    )  # fmt: skip


def score(
    samples: Sequence[Sample],
    predictions: Sequence[Prediction],
    scores: RunScores,
    *,
    k: int = K,
    groups: Collection[str] = GROUPS,
    reference: RunScores | None = None,
) -> tuple[list[Score], dict[str, str]]:
    """Scores every sample.

    Args:
        samples: All samples of the run.
        predictions: One per sample, in any order.
        scores: Of the samples whose prediction did not fail (`logits.scores_of`), by sample id.
        k: Places that count.
        groups: Parts of the rows scored separately.
        reference: Scores of the run the gain is measured against.

    Returns:
        Score rows, metric by metric in sample order, the right class as their group; and why metrics are absent.

    Raises:
        InputError: Samples have no prediction, or no scores though their prediction did not fail, with counts.
        NonFiniteError: Scores are NaN.
    """
    payloads = [SgearPayload.from_json(sample.payload, item=sample.id) for sample in samples]
    failed = _failures(samples, predictions)
    if lacking := _lacking(samples, failed, scores):
        raise InputError(
            f"{len(lacking)} of {len(samples)} rows have no logits", item=lacking[0],
            mend="run the shards again; rows without logits are never scored as zeros",
        )  # fmt: skip
    absent = {f"action_recall{k}_gain": "this run is compared with no other"} if reference is None else {}
    rows: list[Score] = []
    table = _Rows(samples, payloads, failed, scores)
    for part in PARTS:
        if part in scores.spaces:
            rows += _part_rows(table, part, k, groups, absent)
        else:
            absent |= {spec.name: f"this dataset has no {part}s" for spec in metric_specs(k, groups) if _of(spec, part)}
    classes = float(scores.spaces[ACTION].shape[1])
    rows += [Score(sample.id, CLASS_COUNT, "", classes, 1.0, "scored") for sample in samples]
    if reference is not None:
        lacking = _lacking(samples, failed, reference)
        if lacking:
            absent[f"action_recall{k}_gain"] = f"the run it is compared with lacks {len(lacking)} rows"
        else:
            rows += _Rows(samples, payloads, failed, reference).hits(ACTION, k, f"action_top{k}_{REFERENCE}")
    return rows, absent


def _part_rows(table: _Rows, part: str, k: int, groups: Collection[str], absent: dict[str, str]) -> list[Score]:
    """Returns the rows of actions, verbs or nouns; notes in `absent` which groups there are none of."""
    rows = [row for n in sorted({1, k}) for row in table.hits(part, n, f"{part}_top{n}")]
    for group in (group for group in GROUPS if group in groups):
        inside = table.inside(part, group)
        if any(inside):
            rows += table.hits(part, k, f"{part}_top{k}_{group}", inside, _OUTSIDE[group])
        else:
            absent[f"{part}_recall{k}_{group}"] = "no row belongs to it"
    return rows


def _of(spec: MetricSpec, part: str) -> bool:
    return spec.name.startswith(f"{part}_")


def _failures(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> dict[str, str]:
    """Returns why samples were not answered."""
    by_id = {one.id: one for one in predictions}
    lacking = [sample.id for sample in samples if sample.id not in by_id]
    extra = sorted(by_id.keys() - {sample.id for sample in samples})
    if lacking or extra:
        raise InputError(
            f"{len(lacking)} of {len(samples)} samples have no prediction, {len(extra)} predictions no sample",
            item=(lacking + extra)[0], mend="run the shards again; what is finished is kept",
        )  # fmt: skip
    return {one.id: one.reason or "the prediction failed" for one in predictions if one.status != "ok"}


def _lacking(samples: Sequence[Sample], failed: Mapping[str, str], scores: RunScores) -> list[str]:
    known = set(scores.uids)
    return [sample.id for sample in samples if sample.id not in known and sample.id not in failed]


class _Rows:
    """The rows of one run, ranked once per space."""

    def __init__(
        self,
        samples: Sequence[Sample],
        payloads: Sequence[SgearPayload],
        failed: Mapping[str, str],
        scores: RunScores,
    ) -> None:
        self._samples, self._failed, self._scores = samples, failed, scores
        self._payloads = payloads
        self._place = {uid: row for row, uid in enumerate(scores.uids)}
        self._ranks: dict[str, tuple[dict[int, int], Ranks]] = {}

    def _ranked(self, part: str) -> tuple[dict[int, int], Ranks]:
        """Returns sample number to row of the ranks, and the ranks."""
        if part not in self._ranks:
            numbers = [
                number
                for number, (sample, payload) in enumerate(zip(self._samples, self._payloads, strict=True))
                if sample.id in self._place and sample.id not in self._failed and getattr(payload, part) >= 0
            ]
            places = [self._place[self._samples[number].id] for number in numbers]
            labels = np.array([getattr(self._payloads[number], part) for number in numbers], np.int64)
            ranks = ranks_of(self._scores.spaces[part][places], labels)
            self._ranks[part] = {number: row for row, number in enumerate(numbers)}, ranks
        return self._ranks[part]

    def inside(self, part: str, group: str) -> list[bool]:
        """Says of each sample whether it is in a group: `unseen`, or a list of tail or many-shot classes."""
        name = group if group == "unseen" else f"{group}_{part}"
        return [name in payload.subsets for payload in self._payloads]

    def hits(
        self, part: str, k: int, metric: str, inside: Sequence[bool] | None = None, outside: str = ""
    ) -> list[Score]:
        """Returns one row per sample: 100 where the right class is among the k best, else 0."""
        row_of, ranks = self._ranked(part)
        right = ranks.rank < k
        rows = []
        for number, sample in enumerate(self._samples):
            label = str(getattr(self._payloads[number], part))
            if sample.id in self._failed:
                rows.append(Score(sample.id, metric, label, None, 0.0, "error", self._failed[sample.id]))
            elif inside is not None and not inside[number]:
                rows.append(Score(sample.id, metric, label, None, 0.0, "unscored", outside))
            elif number not in row_of:
                rows.append(Score(sample.id, metric, label, None, 0.0, "unscored", _NO_CLASS))
            else:
                rows.append(Score(sample.id, metric, label, 100.0 * bool(right[row_of[number]]), 1.0, "scored"))
        return rows
