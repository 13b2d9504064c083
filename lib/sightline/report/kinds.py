"""Kinds of picture beside the timeline: strips with candidates, bars with intervals, curves, frames with boxes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from pydantic import ConfigDict

from sightline.errors import InputError
from sightline.records.types import View
from sightline.report.views import check_pictures, read_payload

FILMSTRIP, BARS, CURVE, BOXES = "filmstrip", "bars", "curve", "boxes"
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Candidate:
    """One of the answers a model ranks.

    Attributes:
        text: What it is.
        share: How much the model gives to it, 0 to 1.
        right: Whether it is the true one.
    """

    text: str
    share: float
    right: bool = False


@dataclass(frozen=True)
class FilmstripView:
    """Frames that a model saw, the answer, and what the model ranked best.

    Attributes:
        title: The true answer, or what is asked.
        subtitle: Where it comes from.
        frames: Seconds of the pictures, in the order of `View.thumbs`; may be counted from the event asked about.
        truth: The true answer; empty when unknown.
        candidates: The model's best answers, best first.
        status: `ok` or `failed`.
        reason: Why it failed; empty when ok.
        numbers: Metric -> this sample's value; None where it was not scored.
        facets: What a reader may filter by.
        notes: Anything to be told.
    """

    __pydantic_config__ = _STRICT

    title: str
    subtitle: str
    frames: list[float]
    truth: str
    candidates: list[Candidate]
    status: str = "ok"
    reason: str = ""
    numbers: dict[str, float | None] = field(default_factory=dict)
    facets: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_view(self, identifier: str, thumbs: list[str]) -> View:
        """Returns the record; `thumbs` are base64 JPEGs, one per entry of `frames`."""
        return _checked(View(identifier, FILMSTRIP, asdict(self), thumbs))

    @classmethod
    def of(cls, view: View, *, file: str | None = None) -> FilmstripView:
        """Reads the payload of a view.

        Raises:
            InputError: The view is of another kind, a field is wrong, or pictures and seconds differ in number.
        """
        found = read_payload(view, FILMSTRIP, cls, file=file)
        check_pictures(view, len(found.frames), file=file)
        return found


@dataclass(frozen=True)
class Bar:
    """One number of a bar chart.

    Attributes:
        label: What it is of.
        value: The number.
        low, high: Ends of its interval; None without one.
        n: How many samples it rests on.
        mark: Drawn as one that stands out, e.g. a reference.
    """

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    mark: bool = False


@dataclass(frozen=True)
class BarsView:
    """Numbers side by side; values may be negative."""

    __pydantic_config__ = _STRICT

    title: str
    subtitle: str
    unit: str
    bars: list[Bar]
    facets: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_view(self, identifier: str) -> View:
        """Returns the record."""
        return _checked(View(identifier, BARS, asdict(self)))

    @classmethod
    def of(cls, view: View, *, file: str | None = None) -> BarsView:
        """Reads the payload of a view.

        Raises:
            InputError: The view is of another kind, or a field is wrong.
        """
        return read_payload(view, BARS, cls, file=file)


@dataclass(frozen=True)
class Point:
    """A point of a curve, with the interval of its height."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Line:
    """One curve, points in the order of x."""

    name: str
    points: list[Point]


@dataclass(frozen=True)
class CurveView:
    """Curves over one axis."""

    __pydantic_config__ = _STRICT

    title: str
    subtitle: str
    x_label: str
    y_label: str
    lines: list[Line]
    facets: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_view(self, identifier: str) -> View:
        """Returns the record."""
        return _checked(View(identifier, CURVE, asdict(self)))

    @classmethod
    def of(cls, view: View, *, file: str | None = None) -> CurveView:
        """Reads the payload of a view.

        Raises:
            InputError: The view is of another kind, a field is wrong, or a line has no point.
        """
        found = read_payload(view, CURVE, cls, file=file)
        if not found.lines or any(not line.points for line in found.lines):
            raise InputError(
                "a line without a point", file=file, item=view.id, field="lines", mend="draw the views again"
            )
        return found


@dataclass(frozen=True)
class BoxesView:
    """A picture with boxes drawn in: where things are, and where a model says they are.

    Attributes:
        title: What is asked.
        subtitle: Where it comes from.
        width: Width of the frame that boxes are in, in pixels.
        height: Its height; the picture in `View.thumbs` may have another size.
        truth: True boxes, xyxy.
        found: The model's boxes, xyxy.
        expected: The true answer, in words.
        said: What the model said.
        right: Whether it counts as right; None where nothing can be said.
        status: `ok` or `failed`.
        reason: Why it failed; empty when ok.
        numbers: Metric -> this sample's value; None where it was not scored.
        facets: What a reader may filter by.
        notes: Anything to be told.
    """

    __pydantic_config__ = _STRICT

    title: str
    subtitle: str
    width: float
    height: float
    truth: list[list[float]]
    found: list[list[float]]
    expected: str
    said: str
    right: bool | None = None
    status: str = "ok"
    reason: str = ""
    numbers: dict[str, float | None] = field(default_factory=dict)
    facets: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_view(self, identifier: str, thumbs: list[str]) -> View:
        """Returns the record; `thumbs` holds the picture as a base64 JPEG, or nothing."""
        return _checked(View(identifier, BOXES, asdict(self), thumbs))

    @classmethod
    def of(cls, view: View, *, file: str | None = None) -> BoxesView:
        """Reads the payload of a view.

        Raises:
            InputError: The view is of another kind, a field is wrong, a box has not four numbers, the frame has no
                size, or there is more than one picture.
        """
        found = read_payload(view, BOXES, cls, file=file)
        sound = found.width > 0 and found.height > 0 and len(view.thumbs) <= 1
        if not sound or any(len(box) != 4 for box in [*found.truth, *found.found]):
            raise InputError(
                "boxes need four numbers, a frame's size and one picture",
                file=file, item=view.id, field="truth", mend="draw the views again",
            )  # fmt: skip
        return found


def _checked(view: View) -> View:
    view.check()
    return view
