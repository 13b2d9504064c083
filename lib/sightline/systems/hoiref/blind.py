"""Answers without looking: what boxes and names are like in the training split, given to every question."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sightline.errors import InputError
from sightline.records.types import Prediction, Sample, Score
from sightline.systems.hoiref.annotations import TrainRecord
from sightline.systems.hoiref.boxes import parse_boxes
from sightline.systems.hoiref.judging import CORRECTED, asks_for_box
from sightline.systems.hoiref.records import Answer, Question
from sightline.systems.hoiref.score import BOX, FINAL, IOU, NOUN, ScoreSettings, score

CENTRE, FREQUENT = "centre_box", "frequent_box"
FREQUENT_NAME = "frequent_name"
_BIN = 10
_MARKUP = re.compile(r"<p>.*?</p>|\{[^}]*\}")
_LONGEST_NAME = 30


@dataclass(frozen=True)
class Blind:
    """What the training split says most often.

    Attributes:
        centre: Box in the middle with the mean width and height of all boxes, 0-100.
        frequent: Mean of the boxes in the commonest cell of position and size, 0-100.
        name: Commonest answer that is a name.
        boxes: Boxes counted.
    """

    centre: list[float]
    frequent: list[float]
    name: str
    boxes: int


def count_blind(records: Iterable[TrainRecord]) -> Blind:
    """Counts boxes and names in the answers of conversations.

    Raises:
        InputError: No answer holds a box.
    """
    found: list[list[float]] = []
    names: Counter[str] = Counter()
    for record in records:
        for said in record.turns[1::2]:
            boxes = parse_boxes(said)
            found += boxes
            if not boxes and not _MARKUP.search(said) and len(said) <= _LONGEST_NAME:
                names[said.strip().lower()] += 1
    if not found:
        raise InputError("no answer of the training split holds a box", mend="give the files of HOI-QA")
    boxes_ = np.array(found)
    middles, sides = (boxes_[:, :2] + boxes_[:, 2:]) / 2, boxes_[:, 2:] - boxes_[:, :2]
    half = sides.mean(axis=0) / 2
    centre = np.concatenate([50 - half, 50 + half])
    _, where, counts = np.unique(
        np.concatenate([middles, sides], axis=1) // _BIN, axis=0, return_inverse=True, return_counts=True
    )
    commonest = boxes_[where.reshape(-1) == int(counts.argmax())].mean(axis=0)
    name = min(names, key=lambda one: (-names[one], one)) if names else ""
    return Blind(centre.tolist(), commonest.tolist(), name, len(found))


def blind_answers(samples: Sequence[Sample], box: Sequence[float], name: str) -> list[Prediction]:
    """Returns the same answer for every question: a box, as often as boxes are asked for, or a name."""
    spelled = "{" + "".join(f"<{round(value)}>" for value in box) + "}"
    answers = []
    for sample in samples:
        question = Question.from_json(sample.payload, item=sample.id)
        text = "<delim>".join([spelled] * max(1, len(question.boxes))) if asks_for_box(question) else name
        answers.append(Prediction(sample.id, "ok", output=Answer(text).to_json()))
    return answers


def baseline_metrics(thresholds: Sequence[float]) -> dict[str, dict[str, str]]:
    """Returns for each baseline: metric of the corrected rules -> the baseline's metric."""
    boxes = [f"{BOX}_iou{value * 100:g}" for value in thresholds] + [IOU]
    found = {one: {f"{CORRECTED}_{FINAL}_{name}": f"{one}_{name}" for name in boxes} for one in (CENTRE, FREQUENT)}
    return {**found, FREQUENT_NAME: {f"{CORRECTED}_{FINAL}_{NOUN}": f"{FREQUENT_NAME}_{NOUN}"}}


def baseline_rows(
    samples: Sequence[Sample], rows: Sequence[Score], blind: Blind, thresholds: Sequence[float]
) -> list[Score]:
    """Scores the baselines on the same questions, and what the model has over each, question by question.

    Args:
        samples: All samples of the run.
        rows: The model's rows, those of the corrected rules among them.
        blind: What is answered.
        thresholds: IoU thresholds.
    """
    settings = ScoreSettings(tuple(thresholds), (CORRECTED,))
    boxes = {CENTRE: blind.centre, FREQUENT: blind.frequent, FREQUENT_NAME: blind.centre}
    own = {(row.id, row.metric): row for row in rows}
    found: list[Score] = []
    for baseline, metrics in baseline_metrics(thresholds).items():
        scored, _ = score(samples, blind_answers(samples, boxes[baseline], blind.name), settings)
        for row in scored:
            if row.metric not in metrics or (row.id, row.metric) not in own:
                continue
            name = metrics[row.metric]
            found.append(Score(row.id, name, row.group, row.value, row.denominator, row.status, row.reason))
            found.append(_difference(own[row.id, row.metric], row, f"over_{name}"))
    return found


def _difference(own: Score, other: Score, name: str) -> Score:
    if own.value is None or other.value is None:
        lacking = own if own.value is None else other
        return Score(own.id, name, own.group, None, 0.0, lacking.status, lacking.reason)
    return Score(own.id, name, own.group, own.value - other.value, own.denominator, "scored")
