"""The kinds of picture a room can hand over to the report, as typed payloads of `records.types.View`.

`timeline` is here, the kinds `filmstrip`, `bars` and `curve` are in `report/kinds.py`.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError

from sightline.errors import InputError
from sightline.records.types import View

TIMELINE = "timeline"
Payload = TypeVar("Payload")


@dataclass(frozen=True)
class Mark:
    """One text on a timeline.

    Attributes:
        time: Seconds from the start.
        text: What is said.
        matched: Whether it has a partner on the other lane.
    """

    time: float
    text: str
    matched: bool


@dataclass(frozen=True)
class TimelineView:
    """What was said against what should have been said, over frames of the video.

    Attributes:
        title: What is shown, e.g. the exercise.
        subtitle: Where it comes from, e.g. the video and its seconds.
        duration_s: Length in seconds.
        frames: Seconds of the pictures, in the order of `View.thumbs`.
        truth: What should have been said, in order.
        said: What was said, in order.
        pairs: (index in `truth`, index in `said`) of what matched in time.
        status: `ok` or `failed`.
        reason: Why it failed; empty when ok.
        numbers: Metric -> this sample's value; None where it was not scored.
        facets: What a reader may filter by, e.g. video and exercise.
        notes: Anything to be told: no pictures and why, warnings of the model.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    title: str
    subtitle: str
    duration_s: float
    frames: list[float]
    truth: list[Mark]
    said: list[Mark]
    pairs: list[tuple[int, int]]
    status: str = "ok"
    reason: str = ""
    numbers: dict[str, float | None] = field(default_factory=dict)
    facets: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_view(self, identifier: str, thumbs: list[str]) -> View:
        """Returns the record; `thumbs` are base64 JPEGs, one per entry of `frames`."""
        view = View(identifier, TIMELINE, asdict(self), thumbs)
        view.check()
        return view

    @classmethod
    def of(cls, view: View, *, file: str | None = None) -> TimelineView:
        """Reads the payload of a view.

        Raises:
            InputError: The view is of another kind, a field is wrong, or pictures and seconds differ in number.
        """
        timeline = read_payload(view, TIMELINE, cls, file=file)
        check_pictures(view, len(timeline.frames), file=file)
        return timeline


def _where(view: View, file: str | None) -> dict[str, Any]:
    return {"file": file, "item": view.id, "mend": "draw the views again"}


def read_payload(view: View, kind: str, model: type[Payload], *, file: str | None = None) -> Payload:
    """Returns the payload of a view as a dataclass.

    Raises:
        InputError: The view is of another kind, or a field is wrong.
    """
    if view.kind != kind:
        raise InputError(f"no drawing for the kind {view.kind!r}", field="kind", **_where(view, file))
    try:
        found: Payload = _adapter(cast(Hashable, model)).validate_python(view.payload)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"not a {kind}: {first['msg']}", field=place, **_where(view, file)) from None
    return found


def check_pictures(view: View, seconds: int, *, file: str | None = None) -> None:
    """Refuses a view whose pictures and seconds differ in number.

    Raises:
        InputError: As said.
    """
    if seconds != len(view.thumbs):
        raise InputError(f"{len(view.thumbs)} pictures for {seconds} seconds", field="thumbs", **_where(view, file))


@cache
def _adapter(model: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast(type[Any], model))
