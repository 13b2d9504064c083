"""Right or wrong? One answer to one question, under the published protocol and under a corrected one.

The published protocol is that of the released evaluator, quirks included. The corrected one scales each part by
its own frame, clips, counts an unreadable answer as IoU 0, lets the first box of several count, gives each of
two boxes its own credit with no box used twice, and compares whole names instead of single words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from sightline.errors import InputError
from sightline.metrics.boxes import ZeroUnionError, clip_boxes, iou, match_boxes, published_iou, rescale_truncating
from sightline.systems.hoiref.boxes import EMPTY, GRID, NO_BOX, OK, kind_of_answer, parse_boxes
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


def answered_boxes(answer: Answer, question: Question) -> list[list[float]]:
    """Returns the boxes of an answer on the 0-100 grid, whatever the model's own spelling."""
    if answer.boxes is None:  # numbers beyond any frame overlap nothing, however large
        return [[min(max(value, -_BEYOND), _BEYOND) for value in box] for box in parse_boxes(answer.text)]
    width, height = question.size
    return [[x1 / width * GRID, y1 / height * GRID, x2 / width * GRID, y2 / height * GRID]
            for x1, y1, x2, y2 in answer.boxes]  # fmt: skip


def kind_of(answer: Answer) -> str:
    """Returns what an answer to a box question is."""
    if answer.boxes is None:
        return kind_of_answer(answer.text)
    return OK if answer.boxes else EMPTY if not answer.text.strip() else NO_BOX


def judge(question: Question, answer: Answer, protocol: str = PUBLISHED) -> Outcome:
    """Judges one answer under one protocol.

    Raises:
        PublishedStop: The released evaluator would stop at this question or answer.
    """
    family, subset = question_place(question)
    outcome = Outcome(question.part, family, subset)
    if not asks_for_box(question):
        truth = question.answer if question.task == HOI else question.noun
        right = _published_name if protocol == PUBLISHED else _corrected_name
        return replace(outcome, noun=right(truth, answer.text, gloves=question.task == HOI))
    if question.problem and "boxes" in question.problem:
        raise PublishedStop("AssertionError", f"Multiple BBs but not 2. {question.answer}", question.key)
    found = answered_boxes(answer, question)
    outcome = replace(outcome, boxes=len(question.boxes), unparsed=not found, kind=kind_of(answer))
    if protocol == CORRECTED:
        return replace(outcome, ious=tuple(_corrected_ious(question, found)))
    try:
        return _published_boxes(question, found, outcome)
    except ZeroUnionError:
        raise PublishedStop("ZeroDivisionError", "division by zero", question.key) from None


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


def _published_boxes(question: Question, found: list[list[float]], outcome: Outcome) -> Outcome:
    """Returns the outcome of a box question as the evaluator counts it."""
    if not found:
        nothing: tuple[float, ...] = (0.0,) if question.task == HOI else ()
        return replace(outcome, ious=nothing, dropped=True)
    # Several boxes are scaled by the frame of EPIC whatever the part.
    size = question.size if len(found) == 1 else FRAME_SIZES[EPIC]
    truth = np.asarray(question.boxes, dtype=np.float64)
    if len(truth) == 1:
        pixels = rescale_truncating(np.asarray(found), (GRID, GRID), size)
        return replace(outcome, ious=(float(published_iou(truth, pixels).max()),))
    if len(found) != 2:
        return replace(outcome, ious=(0.0, 0.0) if len(found) == 1 else (), dropped=True)
    pixels = rescale_truncating(np.asarray(found), (GRID, GRID), size)
    best = published_iou(truth[:, None], pixels[None]).max(axis=1)
    return replace(outcome, ious=tuple(map(float, best)), all_or_nothing=True)


def _corrected_ious(question: Question, found: list[list[float]]) -> list[float]:
    truth = clip_boxes(np.asarray(question.boxes), question.size)
    if not found:
        return [0.0] * len(truth)
    scale = np.array([*question.size, *question.size], dtype=np.float64) / GRID
    pixels = clip_boxes(np.asarray(found, dtype=np.float64) * scale, question.size)
    if len(truth) == 1:
        return [float(iou(truth[0], pixels[0]))]
    return match_boxes(truth.tolist(), pixels.tolist())
