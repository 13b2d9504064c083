"""Which frames of a video are looked at, and how each is cut: light, so that cards may read it."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from sightline.errors import InputError

log = logging.getLogger(__name__)
_EVERYTHING_S = (-100000.0, 100000.0)  # bounds in seconds that no video exceeds
INPUT_SIZE = 448


@dataclass(frozen=True, slots=True)
class FrameProfile:
    """How a video becomes tiles.

    Attributes:
        name: `infer` or `eval`, or one's own.
        segments: Frames taken, one from the middle of each of as many equal parts.
        max_tiles: Most tiles per frame, without the thumbnail.
        size: Side of a tile in pixels.
        use_thumbnail: Append the whole frame where it has more than one tile.
    """

    name: str
    segments: int
    max_tiles: int
    size: int = INPUT_SIZE
    use_thumbnail: bool = True


# What the released script for one video does, and what the benchmarks ran with.
PROFILES = {
    "infer": FrameProfile("infer", segments=8, max_tiles=12),
    "eval": FrameProfile("eval", segments=32, max_tiles=1),
}


def segment_indices(
    n_frames: int, fps: float, segments: int, bound: tuple[float, float] | None = None, first_index: int = 0
) -> list[int]:
    """Returns the frame indices of VideoSAVi's and lmms-eval's `get_index`, rounding half to even.

    Args:
        n_frames: Frames of the video.
        fps: Average frames per second.
        segments: Number of indices; they repeat where the video has fewer frames.
        bound: Start and end in seconds; None, or an empty tuple, for the whole video.
        first_index: Least index.

    Returns:
        `segments` indices. A bound that begins behind the end gives indices outside the video, falling: see
        `indices_inside`.

    Raises:
        InputError: There are no frames or segments.
    """
    if n_frames < 1 or segments < 1:
        raise InputError(f"{segments} segments of {n_frames} frames", mend="give a video with frames, and segments")
    start_s, end_s = bound or _EVERYTHING_S
    start = max(first_index, round(start_s * fps))
    end = min(round(end_s * fps), n_frames - 1)
    length = float(end - start) / segments
    return [int(start + length / 2 + round(length * segment)) for segment in range(segments)]


def indices_inside(indices: list[int], n_frames: int, *, video: str = "") -> list[int]:
    """Returns the indices moved to the nearest frame there is, with a warning if any had to be."""
    inside = [min(max(index, 0), n_frames - 1) for index in indices]
    if inside != indices:
        log.warning("%s: %d of %d frames lie outside the video and are moved to its end", video, sum(
            one != other for one, other in zip(inside, indices, strict=True)), len(indices))  # fmt: skip
    return inside


def frame_lines(frames: int) -> str:
    """Returns the lines that stand before a question: one per frame, counted from 1, with a place for its tiles."""
    return "".join(f"Frame{number}: <image>\n" for number in range(1, frames + 1))
