"""What fitcoach puts into `Sample.payload` and `Prediction.output`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError

from sightline.errors import InputError


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


class _Payload:
    """JSON in and out, every field checked."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    def to_json(self) -> dict[str, Any]:
        """Returns the payload as a JSON object."""
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, row: Any, *, item: str | None = None) -> Self:
        """Builds the payload from a JSON object.

        Raises:
            InputError: A field is missing, unknown or of the wrong type; names item and field.
        """
        kind: Any = cls
        try:
            return _adapter(kind).validate_json(json.dumps(row))  # JSON: strict mode takes no dict from Python
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or None
            raise InputError(
                f"{cls.__name__}: {first['msg']}", item=item, field=where, mend="correct or rebuild the row"
            ) from None


@dataclass(frozen=True)
class Segment(_Payload):
    """One window of a workout in sliding-window mode.

    Attributes:
        start: UNIX seconds on the dataset's clock; feature steps after it belong to the window.
        end: UNIX seconds; feature steps up to and including it belong to the window.
        first_row: First row of the feature array.
        stop_row: Row after the last one.
        responses: Feedbacks dealt to the window.
        feedback_times: Their UNIX seconds.
    """

    start: float
    end: float
    first_row: int
    stop_row: int
    responses: list[str] = field(default_factory=list)
    feedback_times: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Episode(_Payload):
    """A stretch of a workout the coach watches in one go.

    Attributes:
        video: Path of the video inside the split's folder.
        video_id: File name without suffix.
        mode: `single_exercise`, `full_workout` or `full_workout_sliding_window`.
        exercises: Names of the exercises in it.
        prompt: Text before the first `<vision>` token.
        start: UNIX seconds on the dataset's clock.
        end: UNIX seconds on the dataset's clock.
        responses: What the coach should say.
        response_times: When, in seconds from `start`.
        feedback_times: When, in UNIX seconds.
        feature_key: Key of the video's features in the store.
        first_row: First row of the feature array that is watched.
        stop_row: Row after the last one.
        segments: Windows, in sliding-window mode alone.
        annotated: Whether `responses` are known; false for videos without annotations.
    """

    video: str
    video_id: str
    mode: str
    exercises: list[str]
    prompt: str
    start: float
    end: float
    responses: list[str]
    response_times: list[float]
    feedback_times: list[float]
    feature_key: str
    first_row: int
    stop_row: int
    segments: list[Segment] = field(default_factory=list)
    annotated: bool = True

    def to_json(self) -> dict[str, Any]:
        """Returns the payload as a JSON object; `annotated` stands there only when it is false."""
        row = super().to_json()
        return {name: value for name, value in row.items() if name != "annotated" or not value}

    @property
    def steps(self) -> int:
        """Feature steps that are watched, windows counted with their overlap."""
        if self.segments:
            return sum(segment.stop_row - segment.first_row for segment in self.segments)
        return self.stop_row - self.first_row


@dataclass(frozen=True)
class Coaching(_Payload):
    """What the model said in one episode.

    Attributes:
        feedbacks: Texts in the order they were said.
        times: Seconds from the episode's start; the first may be slightly negative.
        tokens: Generated ids including the prompt.
        warnings: What went wrong without failing, e.g. the token limit.
        near_ties: Steps whose two best tokens were closer than the margin that guarantees equality.
    """

    feedbacks: list[str]
    times: list[float]
    tokens: list[int] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    near_ties: int = 0
