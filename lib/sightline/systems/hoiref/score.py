"""Samples and predictions become score rows: every number of the released evaluator, and the corrected protocol.

A box number is found boxes over true boxes, a mean IoU the sum over the IoUs that count; both in percent. A
failed prediction is an error, never a wrong answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sightline.errors import InputError
from sightline.metrics.aggregate import MetricSpec
from sightline.records.types import Prediction, Sample, Score
from sightline.systems.hoiref.judging import (
    BOX_SUBSETS,
    HO_REF,
    I_REF,
    NOUN_SUBSETS,
    PROTOCOLS,
    PUBLISHED,
    Outcome,
    PublishedStop,
    asks_for_box,
    judge_many,
    kind_of,
    question_place,
)
from sightline.systems.hoiref.records import EGO4D, EPIC, VISOR, Answer, Question

NOUN, BOX, IOU, UNPARSED = "noun_accuracy", "box_accuracy", "mean_iou", "unparsed_boxes"
FINAL, INTERACTION = "final", "hoi"
_POOLS = (FINAL, HO_REF, I_REF, EPIC, EGO4D, INTERACTION)
_LABELS = {"Noun Accuracy": NOUN, "BBox Accuracy": BOX, "Mean IoU Score": IOU, "Wrong BB cases": UNPARSED}
_WHAT = {
    PUBLISHED: "released evaluator's rules (truncated, inclusive pixels, best of several boxes, single words)",
    "corrected": "corrected rules (clipped to the part's own frame, unread answers count 0, first box, whole names)",
}
OTHER_PART = "not part of this number"


@dataclass(frozen=True)
class ScoreSettings:
    """Settings of the room's metrics.

    Attributes:
        iou_thresholds: A box is found when its IoU exceeds the threshold; the paper's is 0.5.
        protocols: `published`, `corrected` or both.
    """

    iou_thresholds: tuple[float, ...] = (0.5,)
    protocols: tuple[str, ...] = PROTOCOLS

    def published_name(self, label: str, threshold: float) -> str:
        """Returns the metric that holds a number of the released evaluator, by the label it prints."""
        pool, _, measure = label.partition(" ")
        if measure == "Accuracy":
            return _name(PUBLISHED, pool, "accuracy", threshold if pool in BOX_SUBSETS else None)
        kind = _LABELS[measure]
        return _name(PUBLISHED, pool.lower(), kind, threshold if kind == BOX else None)


def _name(protocol: str, pool: str, measure: str, threshold: float | None) -> str:
    suffix = "" if threshold is None else f"_iou{threshold * 100:g}"
    return f"{protocol}_{pool}_{measure}{suffix}"


@dataclass(frozen=True)
class _Metric:
    """One number: which outcomes it counts, and what of them."""

    name: str
    protocol: str
    pool: str
    measure: str
    threshold: float | None

    def counts(self, part: str, family: str, subset: str, box: bool) -> bool:
        """Says whether a question belongs to this number."""
        if self.pool in NOUN_SUBSETS + BOX_SUBSETS:
            return subset == self.pool
        if box == (self.measure == NOUN):
            return False
        return self.pool in (FINAL, family, INTERACTION if part == VISOR else part)

    def parts(self, outcome: Outcome) -> tuple[float, float]:
        """Returns numerator, in percent, and denominator."""
        if outcome.noun is not None:
            return 100.0 * outcome.noun, 1.0
        if self.measure == IOU:
            return 100.0 * sum(outcome.ious), float(len(outcome.ious))
        if self.measure == UNPARSED:
            return 100.0 * outcome.unparsed, 1.0
        assert self.threshold is not None
        return 100.0 * outcome.correct(self.threshold), float(outcome.boxes)

    def spec(self) -> MetricSpec:
        """Returns the metric as the summary knows it."""
        above = f", IoU above {self.threshold:g}" if self.threshold is not None else ""
        what = {NOUN: "right names", IOU: "mean IoU", UNPARSED: "answers without a readable box"}
        text = what.get(self.measure, "found boxes" if self.threshold is not None else "right names")
        return MetricSpec(
            self.name, f"{text} of {self.pool}{above}; {_WHAT[self.protocol]}", "ratio_of_sums", unit="%",
            higher_is_better=self.measure != UNPARSED,
        )  # fmt: skip


def _metrics(settings: ScoreSettings) -> list[_Metric]:
    found = []
    for protocol in settings.protocols:
        for pool in _POOLS:
            found.append(_Metric(_name(protocol, pool, NOUN, None), protocol, pool, NOUN, None))
            for threshold in settings.iou_thresholds:
                found.append(_Metric(_name(protocol, pool, BOX, threshold), protocol, pool, BOX, threshold))
            found.append(_Metric(_name(protocol, pool, IOU, None), protocol, pool, IOU, None))
            if protocol == PUBLISHED:
                found.append(_Metric(_name(protocol, pool, UNPARSED, None), protocol, pool, UNPARSED, None))
        for pool in NOUN_SUBSETS:
            found.append(_Metric(_name(protocol, pool, "accuracy", None), protocol, pool, NOUN, None))
        for pool in BOX_SUBSETS:
            for threshold in settings.iou_thresholds:
                found.append(_Metric(_name(protocol, pool, "accuracy", threshold), protocol, pool, BOX, threshold))
    return found


def metric_specs(settings: ScoreSettings | None = None) -> tuple[MetricSpec, ...]:
    """Returns the room's metrics under these settings, in the order of the report."""
    return tuple(metric.spec() for metric in _metrics(settings or ScoreSettings()))


METRICS: tuple[MetricSpec, ...] = metric_specs()


def paired(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> list[tuple[Sample, Question, Prediction]]:
    """Returns every sample with its question and prediction, in the order of the samples.

    Raises:
        InputError: A sample without prediction, a doubled prediction, one that belongs to no sample, or a
            malformed payload.
    """
    by_id = {prediction.id: prediction for prediction in predictions}
    if len(by_id) != len(predictions):
        raise InputError("a sample has more than one prediction", mend="merge the predictions again")
    extra = sorted(by_id.keys() - {sample.id for sample in samples})
    if extra:
        raise InputError("a prediction belongs to no sample", item=extra[0], mend="predict again")
    found = []
    for sample in samples:
        if sample.id not in by_id:
            raise InputError("the sample has no prediction", item=sample.id, mend="predict again")
        found.append((sample, Question.from_json(sample.payload, item=sample.id), by_id[sample.id]))
    return found


def score(
    samples: Sequence[Sample], predictions: Sequence[Prediction], settings: ScoreSettings | None = None
) -> tuple[list[Score], dict[str, str]]:
    """Scores every sample.

    Args:
        samples: All samples of the run.
        predictions: One per sample, in any order.
        settings: Metric settings; the defaults when None.

    Returns:
        One row per sample and metric, by sample in the given order; and for each metric that no question of this
        dataset belongs to, why it is absent. A row's group is the question's subset.

    Raises:
        InputError: As `paired`, or a malformed output.
    """
    metrics = _metrics(settings or ScoreSettings())
    rows: list[Score] = []
    reached: set[str] = set()
    entries = paired(samples, predictions)
    judged = {protocol: _outcomes(entries, protocol) for protocol in dict.fromkeys(one.protocol for one in metrics)}
    for place, (sample, question, _) in enumerate(entries):
        found = {protocol: outcomes[place] for protocol, outcomes in judged.items()}
        rows += _rows(sample.id, question, found, metrics, reached)
    lacking = {metric.name for metric in metrics} - reached if samples else set()
    absent = {
        metric.name: f"the dataset has no question that {metric.pool} counts"
        for metric in metrics
        if metric.name in lacking
    }
    return [row for row in rows if row.metric not in lacking], absent


def _rows(
    identifier: str,
    question: Question,
    outcomes: Mapping[str, Outcome | str],
    metrics: Sequence[_Metric],
    reached: set[str],
) -> list[Score]:
    try:
        family, subset = question_place(question)
    except PublishedStop as stop:
        return [Score(identifier, one.name, "", None, 0.0, "error", stop.problem) for one in metrics]
    place = (question.part, family, subset, asks_for_box(question))
    rows = []
    for metric in metrics:
        outcome = outcomes[metric.protocol]
        if not metric.counts(*place):
            rows.append(Score(identifier, metric.name, subset, None, 0.0, "unscored", OTHER_PART))
            continue
        reached.add(metric.name)
        if isinstance(outcome, str):
            rows.append(Score(identifier, metric.name, subset, None, 0.0, "error", outcome))
            continue
        top, bottom = metric.parts(outcome)
        if bottom:
            rows.append(Score(identifier, metric.name, subset, top, bottom, "scored"))
        else:
            reason = "no IoU counts: the rules leave this answer out"
            rows.append(Score(identifier, metric.name, subset, None, 0.0, "unscored", reason))
    return rows


def _outcomes(entries: Sequence[tuple[Sample, Question, Prediction]], protocol: str) -> list[Outcome | str]:
    """Returns the outcome of every prediction, or why there is none."""
    answered = [entry for entry in entries if entry[2].status == "ok"]
    asked = [
        (question, Answer.from_json(prediction.output, item=prediction.id)) for _, question, prediction in answered
    ]
    judged = iter(judge_many(asked, protocol))
    found: list[Outcome | str] = []
    for _, _, prediction in entries:
        if prediction.status != "ok":
            found.append(prediction.reason or "the prediction failed")
            continue
        outcome = next(judged)
        found.append(outcome.problem if isinstance(outcome, PublishedStop) else outcome)
    return found


def answer_kinds(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> dict[str, dict[str, int]]:
    """Returns for each part how many answers to box questions are of each kind; failed predictions are `failed`."""
    counted: dict[str, Counter[str]] = {}
    for _, question, prediction in paired(samples, predictions):
        if not asks_for_box(question):
            continue
        ok = prediction.status == "ok"
        kind = kind_of(Answer.from_json(prediction.output, item=prediction.id)) if ok else "failed"
        counted.setdefault(question.part, Counter())[kind] += 1
    return {part: dict(sorted(kinds.items())) for part, kinds in sorted(counted.items())}
