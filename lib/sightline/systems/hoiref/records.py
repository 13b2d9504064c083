"""What hoiref puts into `Sample.payload` and `Prediction.output`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from sightline.errors import InputError
from sightline.records.types import Record

EPIC, EGO4D, VISOR = "epic", "ego4d", "visor"
PARTS = (EPIC, EGO4D, VISOR)
"""Parts of HOI-QA's test split: referral on EPIC-Kitchens and on Ego4D, hand-object interaction on VISOR."""
REF, IDEN, HOI = "ref", "iden", "hoi"
FRAME_SIZES: dict[str, tuple[int, int]] = {EPIC: (1920, 1080), EGO4D: (1440, 1080), VISOR: (1920, 1080)}
"""Width and height the annotations are in, whatever the stored pictures' size (released test files)."""


class _Row(Record):
    """A record inside a record: fields are checked as for any record, but there is no id of its own."""

    __slots__ = ()

    def check(self, *, file: str | None = None) -> None:
        """Types are all there is to check."""


@dataclass(frozen=True, slots=True)
class Question(_Row):
    """One question about one picture.

    Attributes:
        part: `epic`, `ego4d` or `visor`.
        task: `ref` (where is the noun), `iden` (what is in the box) or `hoi`.
        key: The record's key or id in its file.
        image: The picture's path as the file has it.
        question: What the model is asked, without a tag.
        tagged: The question as the file has it, with its tag; empty for `ref` and `iden`.
        noun: Name of the object, of `ref` and `iden`.
        boxes: True boxes, xyxy in pixels of `width` x `height`; empty when a word is asked for.
        answer: The true answer as text, of `hoi`: a word, or two boxes in one string.
        width: Width the annotations are in.
        height: Height the annotations are in.
        problem: Why the question cannot be scored; empty when it can.
    """

    part: str
    task: str
    key: str
    image: str
    question: str
    tagged: str = ""
    noun: str = ""
    boxes: list[list[float]] = field(default_factory=list)
    answer: str = ""
    width: int = 1920
    height: int = 1080
    problem: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height the annotations are in."""
        return self.width, self.height


@dataclass(frozen=True, slots=True)
class Answer(_Row):
    """What a model said to one question.

    Attributes:
        text: The answer.
        tokens: New token ids, where they are known.
        near_ties: Steps whose two best tokens were closer than the margin that guarantees equality.
        ended: False when the answer was cut off at its longest.
        boxes: Boxes, xyxy in pixels of the annotation's frame, of a model with another spelling; None when
            `text` is in the genuine one.
    """

    text: str
    tokens: list[int] = field(default_factory=list)
    near_ties: int = 0
    ended: bool = True
    boxes: list[list[float]] | None = None

    def check(self, *, file: str | None = None) -> None:
        """Refuses boxes that are none.

        Raises:
            InputError: A box has not four finite numbers.
        """
        for box in self.boxes or []:
            numbers = [value for value in box if isinstance(value, (int, float)) and math.isfinite(value)]
            if len(box) != 4 or len(numbers) != 4:
                raise InputError(
                    "a box needs four finite numbers", file=file, field="output.boxes", mend="predict again"
                )
