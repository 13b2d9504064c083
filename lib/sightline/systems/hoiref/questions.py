"""Questions, prompts and training conversations of HOI-QA, as strings.

Quirks of the originals stand under named switches (`HoiQaQuirks`). Definitions: the released datasets and
conversation template of HOI-Ref.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sightline.systems.hoiref.boxes import GRID, spell_box

IMAGE_SLOT = "<ImageHere>"
IMAGE_TEXT = f"<Img>{IMAGE_SLOT}</Img>"
BOS, EOS, PAD = "<s>", "</s>", "$$"
TRAIN_TEMPLATE = "[INST] {} [/INST]"
CONNECT = "!@#"
"""Stands between the turns of a joined training conversation."""
TAGS = ("[grounding]", "[refer]", "[detection]", "[identify]", "[vqa]")
_TAG = re.compile(r"\[.*?\] ")


@dataclass(frozen=True)
class HoiQaQuirks:
    """Where a choice differs between the original's habit (the default) and a sane one.

    Attributes:
        strip_tags: Task tags are taken off test questions, as the published numbers were made.
        question_mark: A referral question ends in `?`, as in training; the original's test questions do not.
        box_rounding: `truncate` cuts numbers off towards zero, `round` takes the nearest and clips to 0-100.
        long_turns: `characters` cuts the joined conversation at `max_characters`, also through a turn;
            `turns` leaves out whole turns from the first that does not fit.
        newline: `remove` joins the words around a line end in the first question, `space` keeps them apart.
        max_characters: Longest joined conversation, of either side.
    """

    strip_tags: bool = True
    question_mark: bool = False
    box_rounding: Literal["truncate", "round"] = "truncate"
    long_turns: Literal["characters", "turns"] = "characters"
    newline: Literal["remove", "space"] = "remove"
    max_characters: int = 256


def strip_tags(question: str) -> str:
    """Returns a question without its tags: whatever stands in square brackets with a space behind."""
    return _TAG.sub("", question)


def refer_question(noun: str, quirks: HoiQaQuirks | None = None) -> str:
    """Returns the question for the box of a noun."""
    return f"Where is the {noun}" + ("?" if quirks and quirks.question_mark else "")


def identify_question(box: Sequence[float], size: tuple[float, float], quirks: HoiQaQuirks | None = None) -> str:
    """Returns the question for the name of what is in a box: the box itself.

    Args:
        box: xyxy in pixels.
        size: Width and height those pixels are in.
        quirks: Switches; the defaults when None.
    """
    if quirks is None or quirks.box_rounding == "truncate":
        return spell_box(box, size)
    scaled = np.asarray(box, dtype=np.float64) / np.array([*size, *size], dtype=np.float64) * GRID
    return "{" + "".join(f"<{int(value)}>" for value in np.clip(np.rint(scaled), 0, GRID)) + "}"


def evaluation_prompt(question: str) -> str:
    """Returns the prompt the original asks at test time; with the tokenizer's own BOS it begins with two."""
    return f"{BOS}[INST] {IMAGE_TEXT} {question} [/INST]"


def prompt_segments(prompt: str) -> tuple[str, str]:
    """Returns what stands before and behind the picture.

    Raises:
        ValueError: The prompt has not exactly one place for a picture.
    """
    before, after = prompt.split(IMAGE_SLOT)
    return before, after


@dataclass(frozen=True)
class Conversation:
    """A training conversation as the original's loaders hand it over.

    Attributes:
        image_id: The record's id.
        questions: What the person says, joined by `CONNECT`; the first begins with the picture.
        answers: What the assistant says, joined by `CONNECT`.
    """

    image_id: str | int
    questions: str
    answers: str


def join_conversation(image_id: str | int, turns: Sequence[str], quirks: HoiQaQuirks | None = None) -> Conversation:
    """Joins the turns of a conversation, person first, and cuts what is too long.

    The first question loses `<image>`, line ends and outer spaces; later ones and all answers stay raw.
    """
    quirks = quirks or HoiQaQuirks()
    asked, said = list(turns[0::2]), list(turns[1::2])
    first = asked[0].replace("<image>", "").replace("\n", "" if quirks.newline == "remove" else " ").strip()
    spoken = [f"{IMAGE_TEXT} {first} ", *(f"{text} " for text in asked[1:])]
    if quirks.long_turns == "turns":
        count = max(1, min(_fitting(spoken, quirks.max_characters), _fitting(said, quirks.max_characters)))
        return Conversation(image_id, CONNECT.join(spoken[:count]), CONNECT.join(said[:count]))
    limit = quirks.max_characters
    return Conversation(image_id, CONNECT.join(spoken)[:limit], CONNECT.join(said)[:limit])


def _fitting(turns: Sequence[str], limit: int) -> int:
    """Returns how many whole turns stay within the limit when joined."""
    length = -len(CONNECT)
    for count, turn in enumerate(turns):
        length += len(CONNECT) + len(turn)
        if length > limit:
            return count
    return len(turns)
