"""Samples, predictions and scores become pictures: charts of all questions, and a gallery with boxes drawn in."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from sightline.errors import InputError
from sightline.metrics.aggregate import Column, MetricSpec
from sightline.metrics.bootstrap import ClusterBootstrap
from sightline.records.types import Prediction, Sample, Score, View
from sightline.report.kinds import Bar, BarsView, BoxesView
from sightline.systems.hoiref.boxes import GRID, parse_boxes
from sightline.systems.hoiref.judging import BOX_SUBSETS, CORRECTED, HO_REF, I_REF, NOUN_SUBSETS, PUBLISHED
from sightline.systems.hoiref.records import PARTS, Answer, Question
from sightline.systems.hoiref.score import BOX, FINAL, IOU, NOUN

if TYPE_CHECKING:
    from sightline.systems.hoiref.predict import ReadPicture

log = logging.getLogger(__name__)
_PICTURES, _QUALITY, _HEIGHT = 24, 80, 270
_BINS = 10
_NO_LOOK = {"centre_box": "always the middle", "frequent_box": "always the commonest box"}


class RunNumbers:
    """Metrics of one run with the intervals that the summary gives them.

    Args:
        samples: All samples.
        scores: Their rows.
        specs: The room's metrics.
        bootstrap: `replicates`, `seed`, `confidence`.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        scores: Sequence[Score],
        specs: Sequence[MetricSpec],
        bootstrap: Mapping[str, Any],
    ) -> None:
        ordered = sorted(samples, key=lambda one: one.id)
        self._ids = [one.id for one in ordered]
        self._rows: dict[str, dict[str, Score]] = {}
        for row in scores:
            self._rows.setdefault(row.metric, {})[row.id] = row
        self._specs = {spec.name: spec for spec in specs}
        self._sampler = ClusterBootstrap(
            [one.cluster for one in ordered],
            replicates=bootstrap["replicates"], seed=bootstrap["seed"], level=bootstrap["confidence"],
        )  # fmt: skip

    def bar(self, label: str, metric: str, *, mark: bool = False) -> Bar | None:
        """Returns a metric as a bar; None when nothing was scored."""
        if metric not in self._specs or metric not in self._rows:
            return None
        rows = [self._rows[metric][one] for one in self._ids]
        values = [row.value if row.status == "scored" else None for row in rows]
        column = Column.of(values, [row.denominator for row in rows])
        found = self._sampler.estimate(self._specs[metric], [column])
        if found.value is None:
            return None
        return Bar(label, found.value, found.ci_low, found.ci_high, int((column.denominators > 0).sum()), mark)

    def of_sample(self, identifier: str, metric: str) -> float | None:
        """Returns one sample's value of a metric, in percent; None where it has none."""
        row = self._rows.get(metric, {}).get(identifier)
        return row.value / row.denominator if row and row.status == "scored" and row.value is not None else None

    def values(self, metric: str) -> list[float]:
        """Returns the values of all scored samples, in percent."""
        found = [self.of_sample(one, metric) for one in self._ids]
        return [one for one in found if one is not None]


def _chart(
    identifier: str, title: str, subtitle: str, bars: Sequence[Bar | None], notes: Sequence[str] = ()
) -> View | None:
    kept = [bar for bar in bars if bar is not None]
    if not kept:
        return None
    return BarsView(title, subtitle, "%", kept, {"picture": title}, list(notes)).to_view(identifier)


def accuracy_charts(numbers: RunNumbers, threshold: float, facts: Mapping[str, Any]) -> list[View | None]:
    """Draws accuracy by kind of question under both protocols, and beside answers without looking."""
    suffix = f"_iou{threshold * 100:g}"
    told = leaks(facts["shared_pictures"])
    found: list[View | None] = []
    for protocol in (PUBLISHED, CORRECTED):
        bars = [
            numbers.bar(f"{pool}, boxes", f"{protocol}_{pool}_{BOX}{suffix}", mark=pool == FINAL)
            for pool in (FINAL, HO_REF, I_REF)
        ]
        bars += [
            numbers.bar(f"{pool}, names", f"{protocol}_{pool}_{NOUN}", mark=pool == FINAL)
            for pool in (FINAL, HO_REF, I_REF)
        ]
        bars += [numbers.bar(pool, f"{protocol}_{pool}_accuracy{suffix}") for pool in BOX_SUBSETS]
        bars += [numbers.bar(pool, f"{protocol}_{pool}_accuracy") for pool in NOUN_SUBSETS]
        title = f"Accuracy, {protocol} rules"
        subtitle = f"IoU above {threshold:g}; 95 % intervals over videos"
        found.append(_chart(f"0-accuracy-{protocol}", title, subtitle, bars, told))
    bars = [numbers.bar("this model", f"{CORRECTED}_{FINAL}_{BOX}{suffix}", mark=True)]
    bars += [numbers.bar(label, f"{name}_{BOX}{suffix}") for name, label in _NO_LOOK.items()]
    bars += [numbers.bar(f"over {label}", f"over_{name}_{BOX}{suffix}") for name, label in _NO_LOOK.items()]
    found.append(_chart("0-blind", "Against answers without looking", "boxes of all questions, corrected rules", bars))
    return found


def leaks(shared: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Says how many test pictures training shows too."""
    return [
        f"{part}: {row['shared']} of {row['pictures']} pictures are in the training split too"
        for part, row in shared.items()
        if row["shared"]
    ]


def iou_chart(numbers: RunNumbers) -> View | None:
    """Draws how the IoUs of all questions for boxes are spread."""
    values = np.array(numbers.values(f"{CORRECTED}_{FINAL}_{IOU}"))
    if not len(values):
        return None
    counts, ends = np.histogram(values, bins=_BINS, range=(0, 100))
    bars: list[Bar | None] = [
        Bar(f"{low / 100:.1f} to {high / 100:.1f}", 100 * int(count) / len(values), n=int(count))
        for count, low, high in zip(counts, ends[:-1], ends[1:], strict=True)
    ]
    return _chart("0-iou", "IoU of the answers", f"{len(values)} questions for boxes, corrected rules", bars)


def kinds_chart(answers: Mapping[str, Mapping[str, int]]) -> View | None:
    """Draws of what kind the answers to box questions are, part by part."""
    bars: list[Bar | None] = []
    for part in PARTS:
        total = sum(answers.get(part, {}).values())
        bars += [Bar(f"{part}, {kind}", 100 * count / total, n=count) for kind, count in answers.get(part, {}).items()]
    return _chart("0-answers", "Kinds of answers to box questions", "`ok` holds a usable box", bars)


def gallery(
    samples: Sequence[Sample],
    predictions: Sequence[Prediction],
    numbers: RunNumbers,
    threshold: float,
    read_picture: ReadPicture,
    count: int = _PICTURES,
) -> list[View]:
    """Draws hits and misses, half of each where there are enough, chosen by a hash of their ids.

    Args:
        samples: All samples of the run.
        predictions: One per sample.
        numbers: The run's metrics.
        threshold: IoU above which a box is found.
        read_picture: A picture's path to its pixels.
        count: Most pictures.
    """
    answers = {one.id: one for one in predictions}
    judged = {one.id: _right(one.id, numbers, threshold) for one in samples}
    ordered = sorted(samples, key=lambda one: hashlib.sha256(one.id.encode()).hexdigest())
    hits = [one for one in ordered if judged[one.id]]
    misses = [one for one in ordered if not judged[one.id]]
    most = max(count // 2, count - len(hits))
    chosen = [*misses[:most], *hits[: count - min(len(misses), most)]]
    chosen.sort(key=lambda one: (judged[one.id] is True, one.id))
    return [_picture(one, answers[one.id], judged[one.id], numbers, read_picture) for one in chosen]


def _right(identifier: str, numbers: RunNumbers, threshold: float) -> bool | None:
    """Says whether an answer is right under the corrected rules: every box found, or the name."""
    for metric in (f"{CORRECTED}_{FINAL}_{BOX}_iou{threshold * 100:g}", f"{CORRECTED}_{FINAL}_{NOUN}"):
        value = numbers.of_sample(identifier, metric)
        if value is not None:
            return value >= 100.0
    return None


def _picture(
    sample: Sample, prediction: Prediction, right: bool | None, numbers: RunNumbers, read_picture: ReadPicture
) -> View:
    question = Question.from_json(sample.payload, item=sample.id)
    notes, thumbs = [], []
    try:
        thumbs = [_jpeg(read_picture(question.image))]
    except InputError as error:
        notes.append(f"No picture: {error.problem.rstrip('.')}.")
    answer = Answer.from_json(prediction.output, item=sample.id) if prediction.status == "ok" else None
    verdict = "-" if right is None else "right" if right else "wrong"
    return BoxesView(
        title=question.question,
        subtitle=f"{question.part}, {question.image}",
        width=float(question.width),
        height=float(question.height),
        truth=question.boxes,
        found=_boxes_of(answer, question) if answer else [],
        expected="" if question.boxes and question.task != "iden" else question.noun or question.answer,
        said=answer.text if answer else "",
        right=right,
        status=prediction.status,
        reason="" if answer else prediction.reason or "the prediction failed",
        numbers={"IoU, %": numbers.of_sample(sample.id, f"{CORRECTED}_{FINAL}_{IOU}")},
        facets={"part": question.part, "task": question.task, "answer": verdict},
        notes=notes,
    ).to_view(sample.id, thumbs)


def _boxes_of(answer: Answer, question: Question) -> list[list[float]]:
    """Returns an answer's boxes in pixels of the annotation's frame."""
    if answer.boxes is not None:
        return answer.boxes
    scale = np.tile(np.array(question.size) / GRID, 2)
    return [(np.array(box) * scale).tolist() for box in parse_boxes(answer.text)]


def _jpeg(pixels: np.ndarray) -> str:
    width = max(1, round(pixels.shape[1] * _HEIGHT / pixels.shape[0]))
    method = cv2.INTER_AREA if pixels.shape[0] > _HEIGHT else cv2.INTER_CUBIC
    resized = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), (width, _HEIGHT), interpolation=method)
    done, data = cv2.imencode(".jpg", resized, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise InputError("the picture could not be written as JPEG", mend="look at the picture")
    return base64.b64encode(data.tobytes()).decode("ascii")
