"""The released evaluator's whole report from its own files, number by number and stop by stop.

House scores come from `score.py`; this is for people who have prediction files of the original and want its
numbers, whatever is odd about them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sightline.systems.hoiref.annotations import Interaction, Referral
from sightline.systems.hoiref.judging import (
    BOX_SUBSETS,
    HO_REF,
    I_REF,
    NOUN_SUBSETS,
    Outcome,
    PublishedStop,
    judge_many,
)
from sightline.systems.hoiref.records import EGO4D, EPIC, VISOR, Answer, Question
from sightline.systems.hoiref.samples import interaction_question, referral_questions

Numbers = dict[str, dict[str, float]]
_IN_REFERRAL = ("handBB2handN", "objBB2objN", "objN2objBB", "handN2handBB")
_SUBSETS = ("handBB2handN", "objBB2objN", "objN2objBB", "handN2handBB", "handN2objBB", "objN2handBB",
            "objN2handN", "handN2objN")  # fmt: skip


def evaluate_published(
    epic: Sequence[Referral],
    ego4d: Sequence[Referral],
    interactions: Sequence[Interaction],
    predictions: Mapping[str, Mapping[str, Mapping[str, str]]],
    *,
    threshold: float = 0.5,
) -> Numbers:
    """Returns every number the released evaluator prints.

    Args:
        epic, ego4d: Records of the referral test files.
        interactions: Records of the interaction test file.
        predictions: `epic`, `ego4d` and `visor` -> the prediction file: id -> answers.
        threshold: IoU a box must exceed.

    Returns:
        Label -> `value` in percent, rounded to two digits, with `correct` and `total`, or `count`, where it prints
        them. The four labels it prints for both referral parts begin with `epic ` or `ego4d `.

    Raises:
        PublishedStop: Where the evaluator itself stops; `numbers` holds what it had printed until then.
    """
    numbers: Numbers = {}
    try:
        outcomes = _referral(epic, predictions[EPIC], EPIC, same_length=True)
        numbers |= _part_numbers(outcomes, f"{EPIC} ", threshold, _IN_REFERRAL)
        second = _referral(ego4d, predictions[EGO4D], EGO4D, same_length=False)
        numbers |= _part_numbers(second, f"{EGO4D} ", threshold, _IN_REFERRAL)
        third = _interaction(interactions, predictions[VISOR])
        numbers |= _part_numbers(third, "HOI ", threshold, ())
        numbers |= _pooled_numbers([*outcomes, *third, *second], threshold)
    except PublishedStop as stop:
        stop.numbers = numbers
        raise
    return numbers


def _same_length(test: Sequence[Any], predictions: Mapping[str, Any]) -> None:
    if len(test) != len(predictions):
        raise PublishedStop("AssertionError", "Length of test and predictions JSON files are not equal")


def _referral(
    records: Sequence[Referral],
    predictions: Mapping[str, Mapping[str, str]],
    part: str,
    *,
    same_length: bool,
) -> list[Outcome]:
    if same_length:
        _same_length(records, predictions)
    asked = []
    for record in records:
        said = predictions.get(record.key)
        if said is None:
            raise PublishedStop("KeyError", f"no prediction for {record.key}", record.key)
        refer, identify = referral_questions(record, part)
        asked += [(identify, Answer(said["iden_answer"])), (refer, Answer(said["ref_answer"]))]
    return _judged(asked)


def _judged(asked: Sequence[tuple[Question, Answer]]) -> list[Outcome]:
    """Judges in order and stops where the evaluator does."""
    outcomes = []
    for outcome in judge_many(asked):
        if isinstance(outcome, PublishedStop):
            raise outcome
        outcomes.append(outcome)
    return outcomes


def _interaction(records: Sequence[Interaction], predictions: Mapping[str, Mapping[str, str]]) -> list[Outcome]:
    """Judges in the order of the predictions; an id nobody asked for takes the question before it."""
    _same_length(records, predictions)
    known: dict[str, Interaction] = {}
    for record in records:
        known.setdefault(record.key, record)
    current: Interaction | None = None
    asked = []
    for key, said in predictions.items():
        current = known.get(key, current)
        if current is None:
            raise PublishedStop("NameError", f"the first prediction, {key}, has no question", key)
        asked.append((interaction_question(current), Answer(said["answer"])))
    return _judged(asked)


def _percent(top: float, bottom: float) -> float:
    if not bottom:
        raise PublishedStop("ZeroDivisionError", "division by zero")
    return round(top / bottom * 100, 2)


def noun_counts(outcomes: Sequence[Outcome]) -> tuple[int, int]:
    """Returns (right names, questions for a name)."""
    asked = [outcome.noun for outcome in outcomes if outcome.noun is not None]
    return sum(asked), len(asked)


def box_counts(outcomes: Sequence[Outcome], threshold: float) -> tuple[int, int]:
    """Returns (boxes found, true boxes)."""
    return sum(outcome.correct(threshold) for outcome in outcomes), sum(outcome.boxes for outcome in outcomes)


def _accuracy(correct: int, total: int) -> dict[str, float]:
    return {"value": _percent(correct, total), "correct": correct, "total": total}


def _mean_iou(outcomes: Sequence[Outcome]) -> tuple[float, int]:
    values = [value for outcome in outcomes for value in outcome.ious]
    return _percent(sum(values), len(values)), len(values)


def _part_numbers(outcomes: Sequence[Outcome], prefix: str, threshold: float, subsets: Sequence[str]) -> Numbers:
    for subset in subsets:  # printed at the end only, but divided by here
        _subset_accuracy(outcomes, subset, threshold)
    return {
        f"{prefix}Noun Accuracy": _accuracy(*noun_counts(outcomes)),
        f"{prefix}BBox Accuracy": _accuracy(*box_counts(outcomes, threshold)),
        f"{prefix}Mean IoU Score": {"value": _mean_iou(outcomes)[0]},
        f"{prefix}Wrong BB cases": {"value": float(sum(outcome.unparsed for outcome in outcomes))},
    }


def _subset_accuracy(outcomes: Sequence[Outcome], subset: str, threshold: float) -> dict[str, float]:
    chosen = [outcome for outcome in outcomes if outcome.subset == subset]
    if subset in NOUN_SUBSETS:
        return _accuracy(*noun_counts(chosen))
    assert subset in BOX_SUBSETS
    return _accuracy(*box_counts(chosen, threshold))


def _pooled_numbers(outcomes: Sequence[Outcome], threshold: float) -> Numbers:
    value, count = _mean_iou(outcomes)
    numbers: Numbers = {
        "Final Noun Accuracy": _accuracy(*noun_counts(outcomes)),
        "Final BBox Accuracy": _accuracy(*box_counts(outcomes, threshold)),
        "Final Mean IoU Score": {"value": value, "count": count},
    }
    for family in (HO_REF, I_REF):
        chosen = [outcome for outcome in outcomes if outcome.family == family]
        numbers[f"{family} Noun Accuracy"] = _accuracy(*noun_counts(chosen))
        numbers[f"{family} BBox Accuracy"] = _accuracy(*box_counts(chosen, threshold))
        numbers[f"{family} Mean IoU Score"] = {"value": _mean_iou(chosen)[0]}
    for subset in _SUBSETS:
        numbers[f"{subset} Accuracy"] = _subset_accuracy(outcomes, subset, threshold)
    return numbers
