"""Right or wrong? One answer to one question, under the published protocol and under a corrected one.

The published protocol is that of the released evaluator, quirks included. The corrected one scales each part by
its own frame, clips, counts an unreadable answer as IoU 0, lets the first box of several count, gives each of
two boxes its own credit with no box used twice, and compares whole names instead of single words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sightline.errors import InputError
from sightline.metrics.boxes import (
    ZeroUnionError,
    best_published_ious,
    clip_boxes,
    iou,
    match_boxes,
    published_iou,
    rescale_truncating,
)
from sightline.systems.hoiref.boxes import EMPTY, GRID, NO_BOX, OK, kind_of_answer, parse_many
from sightline.systems.hoiref.records import EPIC, FRAME_SIZES, HOI, IDEN, Answer, Question

PUBLISHED, CORRECTED = "published", "corrected"
PROTOCOLS = (PUBLISHED, CORRECTED)
HANDS, GLOVES = ("right hand", "left hand"), ("right glove", "left glove")
HAND_QUESTIONS = (
    "[refer] Where is the right hand of the person?",
    "[refer] Where is the left hand of the person?",
    "[refer] Where are the hands of the person?",
)
NOUN_SUBSETS = ("handBB2handN", "objBB2objN", "objN2handN", "handN2objN")
BOX_SUBSETS = ("objN2objBB", "handN2handBB", "handN2objBB", "objN2handBB")
HO_REF, I_REF = "ho_ref", "i_ref"
_BEYOND = 1e9
_PLAIN = re.compile(r"[^\w\s]+")


class PublishedStop(InputError):
    """The released evaluator stops on this input.

    Attributes:
        kind: The exception it ends with.
        numbers: What it had printed until then, by label.
    """

    def __init__(self, kind: str, problem: str, item: str | None = None) -> None:
        self.kind = kind
        self.numbers: dict[str, dict[str, float]] = {}
        super().__init__(f"the released evaluator stops here ({kind}): {problem}", item=item, mend="mend the input")


@dataclass(frozen=True)
class Outcome:
    """What became of one answer.

    Attributes:
        part: `epic`, `ego4d` or `visor`.
        family: `ho_ref` or `i_ref`.
        subset: One of the eight subsets, or empty.
        noun: Whether the name was right; None when a box was asked for.
        ious: IoU of each true box that enters the mean.
        boxes: Number of true boxes; 0 when a name was asked for.
        all_or_nothing: Several true boxes count only if all are found.
        unparsed: Whether a box was asked for and none could be read.
        kind: What the answer to a box question is, one of `boxes.KINDS`.
        dropped: True when the answer is wrong whatever `ious` says.
    """

    part: str
    family: str
    subset: str
    noun: bool | None = None
    ious: tuple[float, ...] = ()
    boxes: int = 0
    all_or_nothing: bool = False
    unparsed: bool = False
    kind: str = ""
    dropped: bool = False

    def correct(self, threshold: float) -> int:
        """Returns how many true boxes were found with an IoU above the threshold."""
        hits = sum(value > threshold for value in self.ious)
        if self.dropped or (self.all_or_nothing and hits < self.boxes):
            return 0
        return hits


def question_place(question: Question) -> tuple[str, str]:
    """Returns (family, subset) of a question.

    Raises:
        PublishedStop: An interaction question that the evaluator does not know.
    """
    if question.task != HOI:
        hand = question.noun in HANDS
        if question.task == IDEN:
            return HO_REF, "handBB2handN" if hand else "objBB2objN"
        return HO_REF, "handN2handBB" if hand else "objN2objBB"
    text = question.tagged
    if "[refer]" in text:
        if text in HAND_QUESTIONS:
            return HO_REF, "handN2handBB"
        if "[refer] Locate the object being manipulated by" in text:
            return I_REF, "handN2objBB"
        if "[refer] Which hand has the" in text:
            return I_REF, "objN2handBB"
    elif "[vqa]" in text:
        if "[vqa] What hand is holding the" in text:
            return I_REF, "objN2handN"
        return I_REF, "handN2objN" if "[vqa] What is the object in the " in text else ""
    raise PublishedStop("ValueError", f"Invalid question: {text}", question.key)


def asks_for_box(question: Question) -> bool:
    """Says whether a question asks for boxes."""
    return "[refer]" in question.tagged if question.task == HOI else question.task != IDEN


def _answered_boxes(asked: Sequence[tuple[Question, Answer]]) -> list[list[list[float]]]:
    """Returns the boxes of every answer on the 0-100 grid, whatever the model's own spelling."""
    parsed, owner = parse_many([answer.text for _, answer in asked])
    rows = np.clip(parsed, -_BEYOND, _BEYOND).tolist()  # numbers beyond any frame overlap nothing, however large
    ends = np.searchsorted(owner, np.arange(len(asked) + 1)).tolist()
    found = []
    for place, (question, answer) in enumerate(asked):
        if answer.boxes is None:
            found.append(rows[ends[place] : ends[place + 1]])
            continue
        scale = [GRID / side for side in question.size] * 2
        found.append([[value * factor for value, factor in zip(box, scale, strict=True)] for box in answer.boxes])
    return found


def kind_of(answer: Answer, boxes: Sequence[Sequence[float]] | None = None) -> str:
    """Returns what an answer to a box question is; `boxes` are those it holds, where they are known already."""
    if answer.boxes is None:
        return kind_of_answer(answer.text, boxes)
    return OK if answer.boxes else EMPTY if not answer.text.strip() else NO_BOX


def judge(question: Question, answer: Answer, protocol: str = PUBLISHED) -> Outcome:
    """Judges one answer under one protocol; see `judge_many`.

    Raises:
        PublishedStop: The released evaluator would stop at this question or answer.
    """
    (outcome,) = judge_many([(question, answer)], protocol)
    if isinstance(outcome, PublishedStop):
        raise outcome
    return outcome


def judge_many(asked: Sequence[tuple[Question, Answer]], protocol: str = PUBLISHED) -> list[Outcome | PublishedStop]:
    """Judges answers under one protocol, all single boxes at once.

    Returns:
        An outcome per answer, or where the released evaluator would stop, why.
    """
    outcomes: list[Outcome | PublishedStop] = []
    single: list[int] = []
    boxes: list[list[list[float]]] = []
    for place, ((question, answer), found) in enumerate(zip(asked, _answered_boxes(asked), strict=True)):
        try:
            outcome = _begin(question, answer, found, protocol)
        except PublishedStop as stop:
            outcomes.append(stop)
            continue
        outcomes.append(outcome)
        if found and outcome.boxes == 1:
            single.append(place)
            boxes.append(found)
    if single:
        values, stops = _single_ious([asked[place][0] for place in single], boxes, protocol)
        for place, value, stopped in zip(single, values.tolist(), stops.tolist(), strict=True):
            outcome_ = outcomes[place]
            assert isinstance(outcome_, Outcome)
            key = asked[place][0].key
            outcomes[place] = _zero_union(key) if stopped else replace(outcome_, ious=(value,))
    return outcomes


def _zero_union(key: str) -> PublishedStop:
    return PublishedStop("ZeroDivisionError", "division by zero", key)


def _begin(question: Question, answer: Answer, found: list[list[float]], protocol: str) -> Outcome:
    """Returns the outcome of an answer; the IoU of a question for one box is still to come."""
    family, subset = question_place(question)
    if not asks_for_box(question):
        truth = question.answer if question.task == HOI else question.noun
        right = _published_name if protocol == PUBLISHED else _corrected_name
        return Outcome(question.part, family, subset, right(truth, answer.text, gloves=question.task == HOI))
    if question.problem and "boxes" in question.problem:
        raise PublishedStop("AssertionError", f"Multiple BBs but not 2. {question.answer}", question.key)
    count = len(question.boxes)
    ious, dropped, whole = _pair_ious(question, found, protocol)
    return Outcome(
        part=question.part,
        family=family,
        subset=subset,
        ious=ious,
        boxes=count,
        all_or_nothing=whole,
        unparsed=not found,
        kind=kind_of(answer, found),
        dropped=dropped,
    )


def _pair_ious(question: Question, found: list[list[float]], protocol: str) -> tuple[tuple[float, ...], bool, bool]:
    """Returns IoUs, dropped and all_or_nothing of an answer without boxes, or to a question for two."""
    count = len(question.boxes)
    if protocol == CORRECTED:
        if not found:
            return (0.0,) * count, False, False
        return (tuple(_corrected_pair(question, found)) if count > 1 else ()), False, False
    if not found:  # one zero, however many boxes were asked for; none at all for referrals
        return ((0.0,) if question.task == HOI else ()), True, False
    if count == 1:
        return (), False, False
    if len(found) != 2:
        return ((0.0, 0.0) if len(found) == 1 else ()), True, False
    pixels = rescale_truncating(np.asarray(found), (GRID, GRID), FRAME_SIZES[EPIC])
    try:
        best = published_iou(np.asarray(question.boxes)[:, None], pixels[None]).max(axis=1)
    except ZeroUnionError:
        raise _zero_union(question.key) from None
    return tuple(map(float, best)), False, True


def _single_ious(
    questions: Sequence[Question], found: Sequence[list[list[float]]], protocol: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the IoU of each answer to a question for one box, [n], and where the evaluator stops, [n]."""
    truth = np.array([question.boxes[0] for question in questions], dtype=np.float64)
    sizes = np.array([question.size for question in questions], dtype=np.float64)
    if protocol == PUBLISHED:
        several = np.array([len(boxes) > 1 for boxes in found])
        sizes[several] = FRAME_SIZES[EPIC]  # several boxes are scaled by the frame of EPIC whatever the part
        owner = np.repeat(np.arange(len(found)), [len(boxes) for boxes in found])
        return best_published_ious(np.array([box for boxes in found for box in boxes]), owner, truth, sizes)
    frames = np.tile(sizes, 2)
    first = np.array([boxes[0] for boxes in found], dtype=np.float64) / GRID * frames
    low = np.zeros_like(frames)
    return iou(np.clip(truth, low, frames), np.clip(first, low, frames)), np.zeros(len(questions), dtype=bool)


def _published_name(truth: str, text: str, *, gloves: bool) -> bool:
    said = text.lower().replace(".", "")
    if truth in HANDS:
        return truth in said
    if gloves and truth in GLOVES:
        return "glove" in said
    return truth in said.split(" ")


def _words(text: str) -> list[str]:
    return _PLAIN.sub(" ", text.lower()).split()


def _corrected_name(truth: str, text: str, *, gloves: bool) -> bool:
    """Says whether the whole name stands in the answer, word for word, and the other side does not."""
    wanted, said = _words(truth), _words(text)
    if truth.lower() in HANDS + GLOVES and {"left", "right"} <= set(said):
        return False
    length = len(wanted)
    return bool(wanted) and any(said[start : start + length] == wanted for start in range(len(said) - length + 1))


def _corrected_pair(question: Question, found: list[list[float]]) -> list[float]:
    """Returns the IoU of each of several true boxes, no found box serving two."""
    scale = np.array([*question.size, *question.size], dtype=np.float64) / GRID
    pixels = clip_boxes(np.asarray(found, dtype=np.float64) * scale, question.size)
    return match_boxes(clip_boxes(np.asarray(question.boxes), question.size).tolist(), pixels.tolist())
