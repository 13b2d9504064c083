"""What a video file says about itself, and what was found in it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Self, cast

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from sightline.errors import InputError

# Containers that state a duration but no frame count; the others count frames or estimate the duration.
_DURATION_IN_HEADER = {"matroska,webm", "flv"}


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What one video file holds.

    Attributes:
        name: File name without folders.
        codec: Name of the codec, e.g. `h264`.
        pix_fmt: Pixel format, e.g. `yuv420p`.
        bit_depth: Bits per component.
        width: Stored width in pixels, before any display rotation.
        height: Stored height in pixels.
        rotation: Clockwise degrees (0 to 359) that the display matrix asks a player to turn the picture.
        header_frames: Number of frames the container states, edit lists respected; None if it states none.
        frames: Number of frames decoded (of packets, if the stream was not decoded).
        avg_fps: Average frame rate stated by the container, 0 if none.
        duration_s: Seconds from the first frame to the end of the last one.
        first_pts_s: Presentation time of the first frame in seconds.
        last_pts_s: Presentation time of the last frame in seconds.
        is_variable_rate: Whether the time between frames varies by more than 1 % and one clock tick.
    """

    name: str
    codec: str
    pix_fmt: str
    bit_depth: int
    width: int
    height: int
    rotation: int
    header_frames: int | None
    frames: int
    avg_fps: float
    duration_s: float
    first_pts_s: float
    last_pts_s: float
    is_variable_rate: bool

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Any, *, file: str | None = None) -> Self:
        """Builds the info from a JSON object.

        Raises:
            InputError: The object does not have exactly the fields of this class.
        """
        names = [entry.name for entry in fields(cls)]
        if not isinstance(row, dict) or sorted(row) != sorted(names):
            raise InputError("does not describe a video", file=file, field="info", mend="write the frame index again")
        return cls(**row)


def header_frames(stream: VideoStream) -> int | None:
    """Returns how many frames the container says will be shown, or None if it does not say."""
    if not stream.frames:
        return None
    if stream.container.format.name.startswith("mov") and len(stream.index_entries):
        return sum(not entry.is_discard for entry in stream.index_entries)
    return stream.frames


def container_of(stream: VideoStream) -> InputContainer:
    """Returns the container a stream is read from."""
    return cast(InputContainer, stream.container)


def header_duration(stream: VideoStream) -> float | None:
    """Returns the length in seconds that a container without a frame count states for the stream."""
    container = container_of(stream)
    if container.format.name not in _DURATION_IN_HEADER:
        return None
    text = stream.metadata.get("DURATION", "")
    try:
        hours, minutes, seconds = text.split(":")
        return 3600.0 * int(hours) + 60.0 * int(minutes) + float(seconds)
    except ValueError:
        alone = len(container.streams) == 1 and container.duration
        return (container.duration or 0) / av.time_base if alone else None


def bit_depth(frame_format: Any) -> int:
    """Returns the bits of the deepest component of a pixel format."""
    return max((component.bits for component in frame_format.components), default=8)


def is_variable(times: np.ndarray, tick_s: float) -> bool:
    """Says whether the steps between times differ by more than 1 % and the rounding of a coarse clock."""
    if len(times) < 3:
        return False
    steps = np.diff(times)
    typical = float(np.median(steps))
    rounding = 1.5 * tick_s if tick_s < 0.2 * typical else 0.0
    return float(steps.max() - steps.min()) > max(0.01 * typical, rounding)


def frame_times(pts: list[int | None], stream: VideoStream) -> np.ndarray:
    """Returns presentation times in seconds; frames without one are spaced by the stated rate."""
    if all(value is not None for value in pts) and stream.time_base:
        return np.asarray(pts, np.float64) * float(stream.time_base)
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    return np.arange(len(pts), dtype=np.float64) / rate if rate > 0 else np.zeros(len(pts))
