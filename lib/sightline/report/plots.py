"""Geometry of bars and curves, as plain numbers for SVG attributes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sightline.report.kinds import Bar, BarsView, BoxesView, CurveView, Line, Point

LABEL_WIDTH, BAR_WIDTH, VALUE_WIDTH, ROW = 330.0, 420.0, 250.0, 26.0
CURVE_WIDTH, CURVE_HEIGHT, _EDGE = 1000.0, 260.0, 46.0
_MOST_TICKS = 8
BOXES_WIDTH = 480.0
Place = Callable[[float], float]


@dataclass(frozen=True)
class PlacedBar:
    """A bar: rectangle from `x` over `width`, whiskers, and its row's middle."""

    bar: Bar
    x: float
    width: float
    y: float
    whisker: tuple[float, float] | None


@dataclass(frozen=True)
class BarsFigure:
    """Everything a template needs to draw bars; `zero` is where 0 stands."""

    height: float
    zero: float
    bars: tuple[PlacedBar, ...]


@dataclass(frozen=True)
class PlacedLine:
    """A curve: polyline, dots and whiskers (x, top, bottom)."""

    name: str
    points: str
    dots: tuple[tuple[float, float], ...]
    whiskers: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class CurveFigure:
    """Everything a template needs to draw curves."""

    lines: tuple[PlacedLine, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class BoxesFigure:
    """Everything a template needs to draw boxes over a picture: rectangles as (x, y, width, height)."""

    height: float
    truth: tuple[tuple[float, float, float, float], ...]
    found: tuple[tuple[float, float, float, float], ...]


def draw_boxes(view: BoxesView) -> BoxesFigure:
    """Places boxes in a frame BOXES_WIDTH wide; parts outside the frame are cut off, ends are put in order."""
    scale = BOXES_WIDTH / view.width
    height = view.height * scale

    def place(box: Sequence[float]) -> tuple[float, float, float, float]:
        xs = sorted(min(max(value * scale, 0.0), BOXES_WIDTH) for value in (box[0], box[2]))
        ys = sorted(min(max(value * scale, 0.0), height) for value in (box[1], box[3]))
        return round(xs[0], 1), round(ys[0], 1), round(xs[1] - xs[0], 1), round(ys[1] - ys[0], 1)

    return BoxesFigure(round(height, 1), tuple(map(place, view.truth)), tuple(map(place, view.found)))


def _ends(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low, low + 1.0)


def draw_bars(view: BarsView) -> BarsFigure:
    """Places bars from the top down, all on one axis that holds 0 and every interval."""
    values = [0.0]
    for bar in view.bars:
        values += [one for one in (bar.value, bar.low, bar.high) if one is not None]
    low, high = _ends(values)

    def place(value: float) -> float:
        return round(LABEL_WIDTH + BAR_WIDTH * (value - low) / (high - low), 1)

    zero = place(0.0)
    placed = []
    for row, bar in enumerate(view.bars):
        ends = sorted((zero, place(bar.value)))
        whisker = (place(bar.low), place(bar.high)) if bar.low is not None and bar.high is not None else None
        placed.append(PlacedBar(bar, ends[0], round(ends[1] - ends[0], 1), ROW * row + ROW / 2, whisker))
    return BarsFigure(ROW * max(1, len(view.bars)), zero, tuple(placed))


def _ticks(low: float, high: float) -> list[float]:
    """Returns round numbers between two ends."""
    rough = (high - low) / _MOST_TICKS
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def draw_curve(view: CurveView) -> CurveFigure:
    """Places curves in a box CURVE_WIDTH x CURVE_HEIGHT; the height begins at 0 where all values are above it."""
    points = [point for line in view.lines for point in line.points]
    low_x, high_x = _ends([point.x for point in points])
    heights = [one for point in points for one in (point.y, point.low, point.high) if one is not None]
    low_y, high_y = _ends([min(0.0, *heights), *heights] if len(heights) else [0.0])

    def across(x: float) -> float:
        return round(_EDGE + (CURVE_WIDTH - 2 * _EDGE) * (x - low_x) / (high_x - low_x), 1)

    def down(y: float) -> float:
        return round(CURVE_HEIGHT - _EDGE - (CURVE_HEIGHT - 1.5 * _EDGE) * (y - low_y) / (high_y - low_y), 1)

    return CurveFigure(
        tuple(_line(line, across, down) for line in view.lines),
        tuple((across(value), f"{value:g}") for value in sorted({point.x for point in points})),
        tuple((down(value), f"{value:g}") for value in _ticks(low_y, high_y)),
    )


def _line(line: Line, across: Place, down: Place) -> PlacedLine:
    dots = tuple((across(point.x), down(point.y)) for point in line.points)
    return PlacedLine(
        line.name,
        " ".join(f"{x},{y}" for x, y in dots),
        dots,
        tuple(_whisker(point, across(point.x), down) for point in line.points if point.low is not None),
    )


def _whisker(point: Point, x: float, down: Place) -> tuple[float, float, float]:
    high, low = point.high, point.low
    return x, down(high if high is not None else point.y), down(low if low is not None else point.y)
