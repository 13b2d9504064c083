"""Boxes as language models spell them, and back to xyxy pixels.

The genuine spelling is `{<x1><y1><x2><y2>}`, integers of 0-100 of width and height. Other models have other
habits; a card names one of `FORMATS`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sightline.errors import ConfigError
from sightline.metrics.boxes import rescale_truncating

GRID = 100
Box = list[float]
_NUMBER = r"-?\d+(?:\.\d+)?"
_GENUINE = re.compile(r"\{" + "".join(rf"<({_NUMBER})>" for _ in range(4)) + r"\}")
_END = "\x00"
_IN_MANY = re.compile(r"\{<(" + "><".join([_NUMBER] * 4) + r")>\}|" + _END)
_PART = re.compile(r"<([^<>]*)>")
_FOUR = re.compile(r"[\[(]\s*" + r"\s*,\s*".join(rf"({_NUMBER})" for _ in range(4)) + r"\s*[\])]")
_PAIRS = re.compile(rf"\(\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\)\s*,\s*\(\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\)")
_JSON_KEYS = ("bbox_2d", "bbox", "box_2d", "box")
_JSON_CORNERS = ("x1", "y1", "x2", "y2")
_LARGEST = 1e9

EMPTY, NO_BOX, WRONG_COUNT, NOT_NUMERIC, NOT_CLOSED = "empty", "no_box", "wrong_count", "not_numeric", "not_closed"
REVERSED, OUTSIDE, OK = "reversed", "outside", "ok"
KINDS = (OK, EMPTY, NO_BOX, WRONG_COUNT, NOT_NUMERIC, NOT_CLOSED, REVERSED, OUTSIDE)
"""What an answer to a box question can be; the last two hold boxes, but unusual ones.

`not_closed` is a box whose braces and angles do not match, as when an answer was cut off or has spaces in it.
"""


def parse_boxes(text: str) -> list[Box]:
    """Returns every `{<x1><y1><x2><y2>}` of a text, in order, as floats on the 0-100 grid.

    Signs and decimals are taken, as are digits of any script; spaces, `+`, exponents and bare points are not.
    """
    return [[float(number) for number in found] for found in _GENUINE.findall(text)]


class _Numbers(dict[str, float]):
    """Texts of numbers that were met before; answers use few."""

    def __missing__(self, text: str) -> float:
        value = self[text] = float(text)
        return value


def parse_many(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the boxes of many texts in one pass, as `parse_boxes` finds them.

    Returns:
        Boxes, float64 [m, 4], and the text each belongs to, int64 [m].
    """
    if not texts:
        return np.zeros((0, 4)), np.zeros(0, dtype=np.int64)
    joined = _END.join(texts)
    if joined.count(_END) != len(texts) - 1:  # no box holds that character, so that a space changes none
        joined = _END.join(text.replace(_END, " ") for text in texts)
    pieces = _IN_MANY.findall(joined)
    is_box = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces)) > 0
    owner = np.cumsum(~is_box)[is_box]
    if not len(owner):
        return np.zeros((0, 4)), owner
    numbers = "><".join(filter(None, pieces)).split("><")
    values = np.fromiter(map(_Numbers().__getitem__, numbers), dtype=np.float64, count=len(numbers))
    return values.reshape(-1, 4), owner


def spell_box(box: Sequence[float], size: tuple[float, float]) -> str:
    """Returns a box in pixels of (width, height) as `{<x1><y1><x2><y2>}`, cut off towards zero, not clipped."""
    return "{" + "".join(f"<{number}>" for number in rescale_truncating(np.asarray(box), size, (GRID, GRID))) + "}"


def kind_of_answer(text: str, found: Sequence[Sequence[float]] | None = None) -> str:
    """Returns one of `KINDS`: whether an answer holds usable genuine boxes, and if not why.

    Args:
        text: The answer.
        found: What `parse_boxes` made of it, where that is known already.
    """
    boxes = parse_boxes(text) if found is None else found
    if boxes:
        if any(x1 > x2 or y1 > y2 for x1, y1, x2, y2 in boxes):
            return REVERSED
        return OUTSIDE if any(not 0 <= value <= GRID for box in boxes for value in box) else OK
    if not text.strip():
        return EMPTY
    _, brace, rest = text.partition("{")
    if not brace:
        return NOT_CLOSED if "<" in text else NO_BOX
    inside, closed, _ = rest.partition("}")
    if not closed:
        return NOT_CLOSED
    parts = _PART.findall(inside)
    if "".join(f"<{part}>" for part in parts) != inside:
        return NOT_CLOSED if "<" in inside else NO_BOX
    if not all(re.fullmatch(_NUMBER, part) for part in parts):
        return NOT_NUMERIC
    return WRONG_COUNT


@dataclass(frozen=True)
class BoxFormat:
    """How a model writes boxes.

    Attributes:
        name: Name in a card.
        hint: Sentence that asks for this spelling.
        read: Text and the picture's (width, height) to boxes, xyxy pixels of that picture.
        write: A box in pixels and the picture's (width, height) to text.
    """

    name: str
    hint: str
    read: Callable[[str, tuple[float, float]], list[Box]]
    write: Callable[[Sequence[float], tuple[float, float]], str]


def _scaled(boxes: Sequence[Sequence[float]], grid: float, size: tuple[float, float]) -> list[Box]:
    width, height = size
    return [[x1 / grid * width, y1 / grid * height, x2 / grid * width, y2 / grid * height] for x1, y1, x2, y2 in boxes]


def _four_numbers(text: str) -> list[Box]:
    found = [match.groups() for match in _FOUR.finditer(text)] or [match.groups() for match in _PAIRS.finditer(text)]
    return [[min(max(float(number), -_LARGEST), _LARGEST) for number in numbers] for numbers in found]


def _json_values(text: str) -> list[Any]:
    """Returns the JSON documents that stand in a text, fenced or not."""
    decoder, found, place = json.JSONDecoder(), [], 0
    while (match := re.search(r"[\[{]", text[place:])) is not None:
        start = place + match.start()
        try:
            value, place = decoder.raw_decode(text, start)
            found.append(value)
        except (ValueError, RecursionError):
            place = start + 1
    return found


def _json_boxes(value: Any) -> list[Box]:
    if isinstance(value, dict):
        for key in _JSON_KEYS:
            if key in value:
                return _json_boxes(value[key])
        if all(corner in value for corner in _JSON_CORNERS):
            return _json_boxes([value[corner] for corner in _JSON_CORNERS])
        return [box for inner in value.values() for box in _json_boxes(inner)]
    if isinstance(value, list):
        if len(value) == 4 and all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in value):
            return [[float(one) for one in value]] if all(abs(one) <= _LARGEST for one in value) else []
        return [box for inner in value for box in _json_boxes(inner)]
    return []


def _from_json(text: str) -> list[Box]:
    return [box for value in _json_values(text) for box in _json_boxes(value)]


def _corners(boxes: list[Box]) -> list[Box]:
    return [[x, y, x + width, y + height] for x, y, width, height in boxes]


def _rounded(box: Sequence[float], size: tuple[float, float], grid: float | None) -> list[int]:
    """Returns whole numbers on a grid, or in pixels without one."""
    across, down = (1.0, 1.0) if grid is None else (grid / size[0], grid / size[1])
    return [round(box[0] * across), round(box[1] * down), round(box[2] * across), round(box[3] * down)]


def _writer(grid: float | None) -> Callable[[Sequence[float], tuple[float, float]], str]:
    return lambda box, size: str(_rounded(box, size, grid))


def _write_sides(box: Sequence[float], size: tuple[float, float]) -> str:
    x1, y1, x2, y2 = _rounded(box, size, None)
    return str([x1, y1, x2 - x1, y2 - y1])


FORMATS: dict[str, BoxFormat] = {
    entry.name: entry
    for entry in (
        BoxFormat(
            "percent",
            "Answer with the box as {<x1><y1><x2><y2>}, integers from 0 to 100 of width and height.",
            lambda text, size: _scaled(parse_boxes(text), GRID, size),
            spell_box,
        ),
        BoxFormat(
            "list_100",
            "Answer with the box as [x1, y1, x2, y2], integers from 0 to 100 of width and height.",
            lambda text, size: _scaled(_four_numbers(text), 100, size),
            _writer(100),
        ),
        BoxFormat(
            "list_1000",
            "Answer with the box as [x1, y1, x2, y2], integers from 0 to 1000 of width and height.",
            lambda text, size: _scaled(_four_numbers(text), 1000, size),
            _writer(1000),
        ),
        BoxFormat(
            "pixels",
            "Answer with the box as [x1, y1, x2, y2] in pixels.",
            lambda text, size: _four_numbers(text),
            _writer(None),
        ),
        BoxFormat(
            "xywh_pixels",
            "Answer with the box as [x, y, width, height] in pixels.",
            lambda text, size: _corners(_four_numbers(text)),
            _write_sides,
        ),
        BoxFormat(
            "json_pixels",
            'Answer with JSON only: [{"bbox_2d": [x1, y1, x2, y2]}], in pixels.',
            lambda text, size: _from_json(text),
            _writer(None),
        ),
        BoxFormat(
            "json_1000",
            'Answer with JSON only: [{"bbox_2d": [x1, y1, x2, y2]}], from 0 to 1000 of width and height.',
            lambda text, size: _scaled(_from_json(text), 1000, size),
            _writer(1000),
        ),
    )
}


def box_format(name: str) -> BoxFormat:
    """Returns a format by its name.

    Raises:
        ConfigError: There is none of this name.
    """
    if name not in FORMATS:
        raise ConfigError([f"box format {name!r} is unknown; use one of {', '.join(FORMATS)}"])
    return FORMATS[name]
