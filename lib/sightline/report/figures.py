"""Geometry of the pictures in the report: where a timeline's texts stand, and how hostile text is shown.

Positions are plain numbers for SVG attributes, which a strict content-security policy allows, unlike inline styles.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from sightline.report.views import Mark, TimelineView

WIDTH = 1000.0
MOST_CHARACTERS = 600
_BOX_WIDTH = 206.0
_BOX_COLUMNS = 23.5
_BOX_LINES = 4
_MOST_BOXES = 40
_LINE = 16.0
_PAD = 6.0
_GAP = 7.0
_RAIL_GAP = 46.0
_LABEL = 20.0
_TICK_STEPS = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)
_NARROW = frozenset(" ijlt.,:;!|'()[]")
_BROAD = frozenset("mw@%<>=+_")
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True)
class Dot:
    """A moment on a lane."""

    x: float
    y: float
    matched: bool


@dataclass(frozen=True)
class Box:
    """A text, its lines wrapped, and the vertical line that leads to its moment.

    Attributes:
        x: Left edge.
        y: Top edge.
        width: Width.
        height: Height.
        lines: (x, baseline y, text) of each line.
        leader: (x, y of the dot, y of the box).
        matched: Whether the text has a partner.
        full: The whole text, for the tooltip.
    """

    x: float
    y: float
    width: float
    height: float
    lines: tuple[tuple[float, float, str], ...]
    leader: tuple[float, float, float]
    matched: bool
    full: str


@dataclass(frozen=True)
class TimelineFigure:
    """Everything a template needs to draw a timeline in a box WIDTH wide and `height` high."""

    height: float
    truth_label_y: float
    said_label_y: float
    truth_rail_y: float
    said_rail_y: float
    boxes: tuple[Box, ...]
    dots: tuple[Dot, ...]
    links: tuple[tuple[float, float, float, float], ...]
    ticks: tuple[tuple[float, str], ...]
    crowded: bool


def shown(text: str, limit: int = MOST_CHARACTERS) -> str:
    """Returns text that is safe to look at: one line, control and direction characters visible, cut at `limit`.

    Escaping for HTML is the template's task. Characters that could reorder or hide their neighbours are
    replaced by their code in brackets, line breaks by a space.
    """
    cut = text[:limit]
    parts = [_visible(character) for character in cut]
    left = len(text) - len(cut)
    return "".join(parts) + (f" … ({left} more characters)" if left else "")


def _visible(character: str) -> str:
    if character in "\n\r\t\v\f\u2028\u2029":
        return " "
    category = unicodedata.category(character)
    if character in _BIDI or category in ("Cc", "Cs"):
        return f"[U+{ord(character):04X}]"
    return character


def _columns(text: str) -> float:
    """Returns about how wide text is in a wide sans-serif face; 1 is the letter n."""
    return sum(_column(letter) for letter in text)


def _column(letter: str) -> float:
    if unicodedata.combining(letter):
        return 0.0
    if unicodedata.east_asian_width(letter) in "WF":
        return 2.0
    if letter in _NARROW:
        return 0.55
    return 1.35 if letter.isupper() or letter in _BROAD else 1.0


def wrap(text: str, columns: float = _BOX_COLUMNS, most_lines: int = _BOX_LINES) -> list[str]:
    """Wraps text at spaces, breaks words that are too long, and ends the last line with `…` if text is left."""
    words: list[str] = []
    for word in text.split():
        while _columns(word) > columns:
            head = _head(word, columns)
            words.append(head)
            word = word[len(head) :]
        words.append(word)
    lines: list[str] = []
    for word in words:
        if lines and _columns(lines[-1]) + _column(" ") + _columns(word) <= columns:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    if len(lines) > most_lines:
        lines = [*lines[: most_lines - 1], _head(lines[most_lines - 1], columns - 1) + "…"]
    return lines or ["(empty)"]


def _head(word: str, columns: float) -> str:
    used, end = 0.0, 0
    for letter in word:
        used += _column(letter)
        if used > columns and end:
            break
        end += 1
    return word[:end]


def _x(time: float, duration: float) -> float:
    """Returns the place of a moment; moments outside stand at the edge."""
    share = time / duration if duration > 0 else 0.0
    return round(8 + min(1.0, max(0.0, share)) * (WIDTH - 16), 1)


def _rows(lefts: Sequence[float]) -> list[int]:
    """Stacks boxes of one width: 0 is next to the lane; a box moves out until nothing overlaps it.

    Later boxes are placed first, so the line of an earlier one passes to their left.
    """
    rows = [0] * len(lefts)
    taken: list[list[float]] = []
    for index in sorted(range(len(lefts)), key=lambda item: (-lefts[item], -item)):
        row = 0
        while row < len(taken) and any(abs(lefts[index] - other) < _BOX_WIDTH + _GAP for other in taken[row]):
            row += 1
        if row == len(taken):
            taken.append([])
        taken[row].append(lefts[index])
        rows[index] = row
    return rows


@dataclass(frozen=True)
class _Lane:
    """One lane before it has its place: texts wrapped, rows found; `depth` is its height without the rail."""

    marks: Sequence[Mark]
    xs: list[float]
    lefts: list[float]
    texts: list[list[str]]
    rows: list[int]
    row_heights: list[float]

    @property
    def depth(self) -> float:
        return sum(height + _GAP for height in self.row_heights)


def _lane(marks: Sequence[Mark], duration: float, with_boxes: bool) -> _Lane:
    xs = [_x(mark.time, duration) for mark in marks]
    if not with_boxes:
        return _Lane(marks, xs, [], [], [], [])
    lefts = [round(min(max(x - 8, 1.0), WIDTH - _BOX_WIDTH - 1), 1) for x in xs]
    texts = [wrap(shown(mark.text)) for mark in marks]
    rows = _rows(lefts)
    heights = [0.0] * (max(rows, default=-1) + 1)
    for row, lines in zip(rows, texts, strict=True):
        heights[row] = max(heights[row], len(lines) * _LINE + 2 * _PAD)
    return _Lane(marks, xs, lefts, texts, rows, heights)


def _boxes(lane: _Lane, rail_y: float, upward: bool) -> list[Box]:
    boxes = []
    for index, lines in enumerate(lane.texts):
        row = lane.rows[index]
        height = len(lines) * _LINE + 2 * _PAD
        inner = sum(size + _GAP for size in lane.row_heights[:row])
        top = rail_y - 12 - inner - height if upward else rail_y + 12 + inner
        left = lane.lefts[index]
        placed = tuple(
            (left + _PAD + 2, round(top + _PAD + 12 + number * _LINE, 1), line) for number, line in enumerate(lines)
        )
        edge = top + height if upward else top
        leader = (lane.xs[index], rail_y, round(edge, 1))
        mark = lane.marks[index]
        boxes.append(Box(left, round(top, 1), _BOX_WIDTH, height, placed, leader, mark.matched, shown(mark.text)))
    return boxes


def _ticks(duration: float) -> tuple[tuple[float, str], ...]:
    step = next((step for step in _TICK_STEPS if duration / step <= 12), duration or 1.0)
    count = int(duration / step + 1e-9)
    return tuple((_x(number * step, duration), f"{number * step:g} s") for number in range(count + 1))


def draw_timeline(view: TimelineView) -> TimelineFigure:
    """Places lanes, texts and connecting lines: texts to be said above, texts said below, time between.

    A lane of more than 40 texts is drawn as dots alone; `crowded` then says so, and the list has the texts.
    """
    crowded = max(len(view.truth), len(view.said)) > _MOST_BOXES
    truth = _lane(view.truth, view.duration_s, not crowded)
    said = _lane(view.said, view.duration_s, not crowded)
    truth_y = round(_LABEL + truth.depth + 14, 1)
    said_y = truth_y + _RAIL_GAP
    bottom = round(said_y + 14 + said.depth, 1)
    dots = [
        Dot(x, y, mark.matched)
        for lane, y in ((truth, truth_y), (said, said_y))
        for x, mark in zip(lane.xs, lane.marks, strict=True)
    ]
    links = tuple((truth.xs[first], truth_y, said.xs[second], said_y) for first, second in view.pairs)
    return TimelineFigure(
        height=round(bottom + _LABEL, 1),
        truth_label_y=13.0,
        said_label_y=round(bottom + _LABEL - 6, 1),
        truth_rail_y=truth_y,
        said_rail_y=said_y,
        boxes=(*_boxes(truth, truth_y, True), *_boxes(said, said_y, False)),
        dots=tuple(dots),
        links=links,
        ticks=_ticks(view.duration_s),
        crowded=crowded,
    )


@dataclass(frozen=True)
class ListRow:
    """One line of the timeline as a list: a text that should have been said, one that was, or a matched pair."""

    truth: Mark | None
    said: Mark | None

    @property
    def time(self) -> float:
        """Seconds of the first of the two."""
        return min(mark.time for mark in (self.truth, self.said) if mark is not None)


def as_list(view: TimelineView) -> list[ListRow]:
    """Returns the timeline as rows in order of time; each text stands once, partners side by side."""
    partner: dict[int, int] = {}
    taken: set[int] = set()
    for first, second in view.pairs:
        if first not in partner and second not in taken:
            partner[first] = second
            taken.add(second)
    rows = [
        ListRow(mark, view.said[partner[index]] if index in partner else None) for index, mark in enumerate(view.truth)
    ]
    rows += [ListRow(None, mark) for index, mark in enumerate(view.said) if index not in taken]
    return sorted(rows, key=lambda row: row.time)
