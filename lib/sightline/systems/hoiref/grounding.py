"""Grounded answers as pictures and coloured text, and a brush mark as a box: the demo's pure functions.

`published` follows the released demo to the letter; the default escapes what a page must not run and gives a
phrase the colour of its boxes.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

TASK_PROMPTS = (
    "[grounding] Describe the ongoing action in this image",
    "[refer] ",
    "[detection] ",
    "[identify] what is this ",
    "[vqa] ",
)
"""What the demo's buttons put in front of a question."""
COLOURS: tuple[tuple[int, int, int], ...] = (
    (255, 0, 0), (0, 255, 0), (0, 0, 255), (210, 210, 0), (255, 0, 255), (0, 255, 255), (114, 128, 250),
    (0, 165, 255), (0, 128, 0), (144, 238, 144), (238, 238, 175), (255, 191, 0), (0, 128, 0), (226, 43, 138),
    (255, 0, 255), (0, 215, 255),
)  # fmt: skip
"""RGB by entity, beginning again after the last."""
DRAWN_WIDTH = 500
LINE = 2
_GRID = 100
_INTEGER = re.compile(r"-?\d+")
_PHRASE = re.compile(r"<p>(.*?)</p>")
_GROUNDED = re.compile(r"<p>(.*?)\}(?!<)")
_BOXES = re.compile(r"\{<\d+><\d+><\d+><\d+>\}|<delim>")
_LABEL_SCALE, _LABEL_PAD = 0.5, 3


def colour_hex(number: int) -> str:
    """Returns the demo's `#rrggbb` of an entity: its colours read backwards, as the highlighter of the page has it."""
    red, green, blue = COLOURS[number % len(COLOURS)]
    return f"#{blue:02x}{green:02x}{red:02x}"


@dataclass(frozen=True)
class Grounding:
    """What of an answer can be drawn.

    Attributes:
        mode: `all` (phrases with boxes), `single` (one box) or empty (nothing to draw).
        entities: Phrase -> boxes on the 0-100 grid, in order; the phrase of a single box is empty.
        text: The answer without HTML escapes.
    """

    mode: str
    text: str
    entities: dict[str, list[list[int]]] = field(default_factory=dict)


def grounded_pieces(text: str) -> list[str]:
    """Returns the pieces `phrase</p> boxes` of a text, each cut before its last brace."""
    end = text.rfind("}")
    return _GROUNDED.findall(text[: end + 1] if end >= 0 else text)


def ground(answer: str) -> Grounding:
    """Reads phrases and boxes out of an answer.

    Without phrases, a text with exactly four integers is one box, whatever stands between them.
    """
    text = html.unescape(answer)
    pieces = grounded_pieces(text)
    if not pieces:
        numbers = [int(number) for number in _INTEGER.findall(text)]
        return Grounding("single", text, {"": [numbers]}) if len(numbers) == 4 else Grounding("", text)
    entities: dict[str, list[list[int]]] = {}
    for piece in pieces:
        phrase, found, places = piece.partition("</p>")
        boxes = [[int(number) for number in _INTEGER.findall(part)] for part in places.split("<delim>")]
        usable = [box for box in boxes if len(box) == 4]
        if found and usable:
            entities.setdefault(phrase.strip(), []).extend(usable)
    return Grounding("all", text, entities) if entities else Grounding("", text)


def coloured_html(grounding: Grounding, *, published: bool = False) -> str:
    """Returns the answer with coloured phrases and without boxes; empty unless phrases have boxes.

    Args:
        grounding: What `ground` returned.
        published: Colours go by phrase order and nothing is escaped, as in the released demo.
    """
    if grounding.mode != "all":
        return ""
    order = {phrase: number for number, phrase in enumerate(grounding.entities)}
    parts: list[str] = []
    place = 0
    for number, match in enumerate(_PHRASE.finditer(grounding.text)):
        known = number if published else order.get(match[1].strip())
        before, phrase = _without_boxes(grounding.text[place : match.start()]), match[1]
        parts.append(before if published else html.escape(before))
        shown = phrase if published else html.escape(phrase)
        if known is None:
            parts.append(shown)
        else:
            red, green, blue = COLOURS[known % len(COLOURS)]
            parts.append(f'<span style="color:rgb({red}, {green}, {blue})">{shown}</span>')
        place = match.end()
    rest = _without_boxes(grounding.text[place:])
    return "".join([*parts, rest if published else html.escape(rest)])


def _without_boxes(text: str) -> str:
    return _BOXES.sub("", text)


def drawn_size(width: int, height: int) -> tuple[int, int]:
    """Returns width and height a picture is drawn in."""
    return DRAWN_WIDTH, int(DRAWN_WIDTH / width * height)


def draw(pixels: np.ndarray, grounding: Grounding) -> np.ndarray | None:
    """Returns the picture with its boxes, or None when there is nothing to draw.

    Args:
        pixels: uint8 RGB [height, width, 3].
        grounding: What `ground` returned.

    Returns:
        uint8 RGB, `DRAWN_WIDTH` wide.
    """
    if not grounding.mode:
        return None
    import cv2
    from PIL import Image

    width, height = drawn_size(pixels.shape[1], pixels.shape[0])
    resized = Image.fromarray(pixels).resize((width, max(1, height)), Image.Resampling.BICUBIC)
    canvas = np.array(resized)
    labels: list[tuple[int, int, int, int]] = []
    for number, (phrase, boxes) in enumerate(grounding.entities.items()):
        colour = COLOURS[number % len(COLOURS)]
        for box in boxes:
            x1, y1, x2, y2 = corners(box, (width, height))
            cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, LINE)
            if phrase:
                _write(canvas, phrase, (x1, y1), colour, labels)
    return canvas


def corners(box: Sequence[int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Returns a box of the 0-100 grid in pixels of (width, height), cut off towards zero."""
    x1, y1, x2, y2 = (int(value / _GRID * size[place % 2]) for place, value in enumerate(box))
    return x1, y1, x2, y2


def _write(
    canvas: np.ndarray,
    phrase: str,
    corner: tuple[int, int],
    colour: tuple[int, int, int],
    taken: list[tuple[int, int, int, int]],
) -> None:
    """Writes a label on a half-transparent ground above a box, or lower where another label stands."""
    import cv2

    font = cv2.FONT_HERSHEY_SIMPLEX
    (wide, high), base = cv2.getTextSize(phrase, font, _LABEL_SCALE, 1)
    height = high + base + 2 * _LABEL_PAD
    left = max(0, min(corner[0], canvas.shape[1] - wide))
    top = max(0, corner[1] - height)
    while any(left < r and l < left + wide and top < b and t < top + height for l, t, r, b in taken):  # noqa: E741
        top += height
        if top + height > canvas.shape[0]:
            break
    place = (left, top, left + wide, top + height)
    taken.append(place)
    ground_ = canvas[place[1] : place[3], place[0] : place[2]]
    ground_[:] = (0.5 * ground_ + 0.5 * np.array(colour)).astype(np.uint8)
    cv2.putText(canvas, phrase, (left, top + high + _LABEL_PAD), font, _LABEL_SCALE, (0, 0, 0), 1, cv2.LINE_AA)


def mask_box(mask: np.ndarray | None) -> str:
    """Returns the box around what a brush marked, as `{<x1><y1><x2><y2>}`, or nothing.

    Args:
        mask: uint8 [height, width] or [height, width, channels], of which the first counts; None is no mark.
    """
    if mask is None:
        return ""
    from PIL import Image

    flat = mask[:, :, 0] if mask.ndim == 3 else mask
    small = np.asarray(Image.fromarray(flat).resize((_GRID, _GRID), Image.Resampling.NEAREST))
    rows, columns = np.flatnonzero(small.any(axis=1)), np.flatnonzero(small.any(axis=0))
    if not len(rows):
        return ""
    return "{" + f"<{columns[0]}><{rows[0]}><{columns[-1]}><{rows[-1]}>" + "}"


def question_with_mark(question: str, mask: np.ndarray | None) -> str:
    """Returns a question with the marked box behind it where `[identify]` needs one and has none."""
    if "[identify]" not in question or len(_INTEGER.findall(question)) == 4:
        return question
    return question + mask_box(mask)
