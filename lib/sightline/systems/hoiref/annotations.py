"""The files of HOI-QA, read and checked record by record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from sightline.errors import InputError
from sightline.records.files import read_json
from sightline.systems.hoiref.records import EGO4D, EPIC, VISOR

TEST_FILES = {EPIC: "epic-test.json", EGO4D: "ego4d-test.json", VISOR: "epic-visor-test.json"}
TRAIN_FILES = {EPIC: "epic-kitchens-train.json", EGO4D: "ego4d-train.json"}
EPIC_FRAMES = "EPIC_Kitchens/frames"


@dataclass(frozen=True)
class Referral:
    """A record of a referral test file.

    Attributes:
        key: Its key.
        image: The picture's path as written.
        noun: Name of the object.
        box: xyxy in pixels of the annotation's frame.
    """

    key: str
    image: str
    noun: str
    box: list[float]


@dataclass(frozen=True)
class Interaction:
    """A record of the interaction test file.

    Attributes:
        key: Its id.
        image: The picture's path as written.
        question: With its tag.
        answer: Four numbers, or text.
    """

    key: str
    image: str
    question: str
    answer: str | list[float]


@dataclass(frozen=True)
class TrainRecord:
    """A conversation about one picture.

    Attributes:
        part: `epic` or `ego4d`.
        image_id: The record's id, text or number.
        image: The picture's path below the frame roots, with its ending.
        turns: What is said, person first.
    """

    part: str
    image_id: str | int
    image: str
    turns: list[str]


@dataclass(frozen=True)
class FrameRoots:
    """Where pictures lie.

    Attributes:
        root: Folder that paths of the files start from.
        moved: Beginning of a path -> folder that takes its place, e.g. `EPIC_Kitchens/frames` -> a disk.
    """

    root: Path
    moved: Mapping[str, Path] = field(default_factory=dict)

    def resolve(self, image: str) -> Path:
        """Returns the file of a picture; the longest moved beginning counts."""
        path = PurePosixPath(image)
        for beginning in sorted(self.moved, key=len, reverse=True):
            if path.is_relative_to(beginning):
                return self.moved[beginning] / path.relative_to(beginning)
        return self.root / path


def video_of(image: str) -> str:
    """Returns the video a frame comes from: the name of its folder, or its own without one."""
    path = PurePosixPath(image)
    return path.parent.name or path.stem


def _text(row: Mapping[str, Any], name: str, where: Mapping[str, Any]) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        found = "missing" if name not in row else f"not text: {value!r}"[:80]
        raise InputError(f"the field is {found}", field=name, mend="correct the record", **where)
    return value


def parse_box(value: Any, where: Mapping[str, Any], field_name: str = "bbox") -> list[float]:
    """Returns a box of the files as four finite floats; numbers in quotes are taken, as the original does.

    Raises:
        InputError: It has not four numbers, or one is not finite.
    """
    mend = "give [x1, y1, x2, y2] in pixels"
    if not isinstance(value, list) or len(value) != 4:
        raise InputError(f"not a box: {value!r}"[:120], field=field_name, mend=mend, **where)
    try:
        numbers = [float(one) for one in value if not isinstance(one, bool)]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise InputError(
            f"a box with something that is no number: {value!r}"[:120], field=field_name, mend=mend, **where
        )
    return numbers


def read_referrals(path: str | Path) -> list[Referral]:
    """Reads a referral test file: key -> {image_path, noun, bbox}.

    Raises:
        InputError: Malformed file or record; names file, key and field.
    """
    table = read_json(path)
    if not isinstance(table, dict):
        raise InputError("expected an object of key and record", file=path, mend="is it a referral test file?")
    found = []
    for key, row in table.items():
        where = {"file": path, "item": key}
        if not isinstance(row, dict):
            raise InputError("expected an object", mend="correct the record", **where)
        box = parse_box(row.get("bbox"), where)
        found.append(Referral(key, _text(row, "image_path", where), _text(row, "noun", where), box))
    return found


def read_interactions(path: str | Path) -> list[Interaction]:
    """Reads the interaction test file: a list of {id, image_path, question, answer}.

    Ids must be text, as in the release; doubled ids are left in for the caller to judge.

    Raises:
        InputError: Malformed file or record; names file, id and field.
    """
    rows = read_json(path)
    if not isinstance(rows, list):
        raise InputError("expected a list of records", file=path, mend="is it the interaction test file?")
    found = []
    for number, row in enumerate(rows):
        where: dict[str, Any] = {"file": path, "item": f"record {number}"}
        if not isinstance(row, dict):
            raise InputError("expected an object", mend="correct the record", **where)
        where["item"] = key = _text(row, "id", where)
        answer = row.get("answer")
        checked = parse_box(answer, where, "answer") if isinstance(answer, list) else _text(row, "answer", where)
        found.append(Interaction(key, _text(row, "image_path", where), _text(row, "question", where), checked))
    return found


def read_conversations(path: str | Path, part: str, *, epic_frames: str = EPIC_FRAMES) -> list[TrainRecord]:
    """Reads a training file of `epic` (`image`: below the frame root, no ending) or `ego4d` (`image_path`).

    Raises:
        InputError: Malformed file or record, no turn, or an answer without a question.
    """
    rows = read_json(path)
    if not isinstance(rows, list):
        raise InputError("expected a list of records", file=path, mend="is it a training file?")
    found = []
    for number, row in enumerate(rows):
        where: dict[str, Any] = {"file": path, "item": f"record {number}"}
        if not isinstance(row, dict):
            raise InputError("expected an object", mend="correct the record", **where)
        identifier = row.get("id")
        if not isinstance(identifier, (str, int)) or isinstance(identifier, bool):
            raise InputError("an id is text or a number", field="id", mend="correct the record", **where)
        where["item"] = str(identifier)
        if part == EPIC:
            image = f"{epic_frames}/{_text(row, 'image', where)}.jpg"
        else:
            image = _text(row, "image_path", where)
        found.append(TrainRecord(part, identifier, image, _turns(row, where)))
    return found


def _turns(row: Mapping[str, Any], where: Mapping[str, Any]) -> list[str]:
    """Returns the texts of a conversation; roles go by position, as in the original."""
    turns = row.get("conversations")
    if not isinstance(turns, list) or len(turns) < 2 or not all(isinstance(turn, dict) for turn in turns):
        raise InputError(
            "expected at least a question and an answer", field="conversations", mend="correct the record", **where
        )
    if len(turns) % 2:
        raise InputError("a question has no answer", field="conversations", mend="add it or drop the question", **where)
    return [_text(turn, "value", where) for turn in turns]


def shared_images(train: list[TrainRecord], test: Mapping[str, list[Any]]) -> dict[str, int]:
    """Returns for each test part how many of its pictures training shows too."""
    seen = {record.image for record in train}
    return {part: len({record.image for record in records} & seen) for part, records in test.items()}
