"""Which frames of a video a model sees before an action: S-GEAR's rule, float arithmetic included.

Everything is computed from times and rates; no video or feature is touched here. The rule is that of the
original's `BaseVideoDataset._sample` (Girdhar and Grauman 2021 had it first); its products of float64 seconds and
30.0 are floored, so that some windows end one frame before integer arithmetic would have them. Trained weights saw
those frames, so there is no switch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sightline.errors import InputError

Strategy = Literal["last_clip", "center_clip", "first_clip", "random_clip"]
Reader = Literal["normal", "exact_rulstm"]

FEATURE_FPS = 30.0
"""Rate of the frame numbers in RULSTM's and AVT's feature stores."""
STAMPS, STAMP_STEP_S = 11, 0.25  # of the exact_rulstm reader
_FIRST_SECOND = 1.0 / 30.0
_BANKS_SECONDS = 2.0
EXACT_ACTION = -999.0
"""A tau_a that asks for the action itself instead of what comes before it."""


@dataclass(frozen=True, slots=True)
class WindowSettings:
    """How frames are chosen inside an observed window.

    Attributes:
        num_frames: Frames the model gets, T.
        frame_rate: Frames per second among them; None takes the media's own.
        strategy: Which part of a window that is longer than needed is kept.
        reader: `normal` reads every frame of the window; `exact_rulstm` eleven stamps of a quarter second.
    """

    num_frames: int = 15
    frame_rate: float | None = 1.0
    strategy: Strategy = "last_clip"
    reader: Reader = "normal"


@dataclass(frozen=True, slots=True)
class FrameWindow:
    """The frames of one sample, oldest first.

    Attributes:
        video_id: Video without suffix.
        frames: int64 [T], numbers of the frames asked for (1-based at 30 per second in feature stores).
        times: float32 [T], seconds that past labels are looked up at; up to one frame off the frames' own times.
        requested: int64 [L], all frame numbers of the window before T of them were picked.
        picked: int64 [T], index of each slot in `requested`.
    """

    video_id: str
    frames: np.ndarray
    times: np.ndarray
    requested: np.ndarray
    picked: np.ndarray


@dataclass(frozen=True, slots=True)
class Observation:
    """Times of one action after the anticipation time is taken off; seconds.

    Attributes:
        start: Where observation begins; may be negative.
        end: Where it ends.
        future_start, future_end: The stretch one anticipation time later; kept but unused by default.
    """

    start: float
    end: float
    future_start: float
    future_end: float


def observe(action_start: float, action_end: float, tau_a: float, tau_o: float) -> Observation:
    """Returns the window observed before an action, in the original's order of float64 operations.

    Args:
        action_start, action_end: Seconds.
        tau_a: Seconds between the window and the action; negative to look into it; -999 for the action itself.
        tau_o: Seconds observed.
    """
    if tau_a == EXACT_ACTION:
        tau_a, tau_o = action_start - action_end, action_end - action_start
    end = action_start - tau_a
    start = end - tau_o
    future_start = end + tau_a * 1.0
    return Observation(start, end, future_start, future_start + tau_o)


def is_kept(start: float, end: float, drop_style: str) -> bool:
    """Says whether a row survives the conversion; `start`, `end` are the observed window in seconds.

    Raises:
        InputError: The style is unknown.
    """
    if drop_style == "correct":
        return end >= _FIRST_SECOND
    if drop_style == "full_context_in":
        return start >= _FIRST_SECOND
    if drop_style == "action_banks":
        return end >= _BANKS_SECONDS
    raise InputError(
        f"drop_style {drop_style!r} is unknown", field="drop_style",
        mend="use correct, full_context_in or action_banks",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Clip:
    """The part of a window that is read.

    Attributes:
        start, end: Seconds in the video.
        stride: Frames between two that are kept.
    """

    start: float
    end: float
    stride: int


def clip_of(
    start: float, end: float, fps: float, settings: WindowSettings, generator: np.random.Generator | None = None
) -> Clip:
    """Returns what is read of an observed window.

    Args:
        start, end: Seconds; negative ones count as 0.
        fps: Natural rate of the media.
        settings: The choice of frames.
        generator: Draws the offset of `random_clip`.

    Raises:
        InputError: The strategy is unknown, or random without a generator.
    """
    start, end = max(start, 0), max(end, 0)
    n_frames = int(fps * (end - start))
    rate = fps if settings.frame_rate is None else settings.frame_rate
    wanted = round(settings.num_frames * (fps / rate))
    offset = _offset(n_frames - wanted, settings.strategy, generator)
    new_start = start + offset / fps
    new_end = min(end, start + (offset + wanted) / fps)
    new_start = min(new_start, new_end)
    return Clip(max(new_start, 0.0), max(new_end, 0.0), max(round(fps / rate), 1))


def _offset(spare: int, strategy: str, generator: np.random.Generator | None) -> int:
    if strategy == "last_clip":
        return max(spare, 0)
    if strategy == "center_clip":
        return max(spare // 2, 0)
    if strategy == "first_clip":
        return 0
    if strategy == "random_clip" and generator is not None:
        return int(generator.integers(0, spare, endpoint=True)) if spare > 0 else 0
    raise InputError(
        f"strategy {strategy!r} cannot be used here", field="strategy",
        mend="use last_clip, center_clip or first_clip; random_clip needs a generator",
    )  # fmt: skip


def pick(available: int, stride: int, settings: WindowSettings) -> np.ndarray:
    """Returns which of the frames read become slots.

    Args:
        available: Frames read, L > 0.
        stride: Frames between two that are kept.
        settings: The choice of frames.

    Returns:
        int64 [T]; where frames are too few, `last_clip` repeats the first in front, others the last at the end.
    """
    count = settings.num_frames
    if settings.strategy == "last_clip":
        kept = np.arange(available - 1, -1, -stride)[::-1]
        kept = np.concatenate([np.repeat(kept[:1], max(count - len(kept), 0)), kept])
        return kept[len(kept) - count :].astype(np.int64)
    kept = np.arange(0, available, stride)
    return np.concatenate([kept, np.repeat(kept[-1:], max(count - len(kept), 0))])[:count].astype(np.int64)


def requested_frames(clip: Clip, reader: Reader) -> np.ndarray:
    """Returns the frame numbers a feature reader asks for, int64 [L], ascending; numbers below 1 are replaced.

    Raises:
        InputError: No frame of the window has a number of at least 1.
    """
    if reader == "exact_rulstm":
        stamps = clip.end - STAMP_STEP_S * np.arange(STAMPS)[::-1]
        frames = np.floor(stamps * FEATURE_FPS).astype(np.int64)
    else:
        first, last = math.floor(clip.start * FEATURE_FPS) + 1, math.floor(clip.end * FEATURE_FPS)
        frames = np.arange(first, last + 1, dtype=np.int64)
    positive = frames[frames >= 1]
    if not len(positive):
        raise InputError(
            f"no frame between {clip.start:g} s and {clip.end:g} s", field="end",
            mend="drop the row (drop_style: correct)",
        )  # fmt: skip
    return np.where(frames < 1, positive.min(), frames)


def slot_times(clip: Clip, count: int) -> np.ndarray:
    """Returns `count` evenly spaced seconds over the clip, both ends included, float32 [count].

    Ends and step are float32, as in the original, which counts the first half from the start and the second from
    the end. Its library rounds between the operations as the processor's vector width has it; here each time is
    rounded once, so that all machines agree: at most one unit in the last place apart from the original.
    """
    start, end = np.float32(clip.start), np.float32(clip.end)
    if count < 2:
        return np.full(count, start)
    step = np.float64((end - start) / np.float32(count - 1))
    index = np.arange(count)
    rising, falling = np.float64(start) + step * index, np.float64(end) - step * (count - 1 - index)
    return np.where(index < count // 2, rising, falling).astype(np.float32)


def feature_window(
    video_id: str,
    start: float,
    end: float,
    settings: WindowSettings,
    generator: np.random.Generator | None = None,
) -> FrameWindow:
    """Returns the frames a feature model sees of an observed window.

    Args:
        video_id: Video without suffix.
        start, end: Seconds of the observed window.
        settings: The choice of frames.
        generator: For `random_clip` alone.

    Raises:
        InputError: The window holds no frame.
    """
    clip = clip_of(start, end, FEATURE_FPS, settings, generator)
    requested = requested_frames(clip, settings.reader)
    times = slot_times(clip, len(requested))
    picked = pick(len(requested), clip.stride, settings)
    return FrameWindow(video_id, requested[picked], times[picked], requested, picked)


def frames_between(times_s: np.ndarray, clip: Clip) -> np.ndarray:
    """Returns indices of the frames whose time lies in the clip, both ends included, int64 [L].

    Args:
        times_s: float64, ascending times of all frames of a video.
        clip: What is read.
    """
    low = int(np.searchsorted(times_s, clip.start - 1e-9, side="left"))
    high = int(np.searchsorted(times_s, clip.end + 1e-9, side="right"))
    return np.arange(low, high, dtype=np.int64)


def video_window(
    video_id: str,
    start: float,
    end: float,
    fps: float,
    times_s: np.ndarray,
    settings: WindowSettings,
    generator: np.random.Generator | None = None,
) -> FrameWindow:
    """Returns the frames a video model sees of an observed window.

    Args:
        video_id: Video without suffix.
        start, end: Seconds of the observed window.
        fps: The video's own rate.
        times_s: float64, times of all its frames.
        settings: The choice of frames.
        generator: For `random_clip` alone.

    Returns:
        0-based frame numbers; no frames at all where the video has none in the window (the original then
        shows black pictures of 100 x 100).
    """
    clip = clip_of(start, end, fps, settings, generator)
    requested = frames_between(times_s, clip)
    if not len(requested):
        nothing = np.zeros(0, np.int64)
        return FrameWindow(video_id, nothing, nothing.astype(np.float32), nothing, nothing)
    times = slot_times(clip, len(requested))
    picked = pick(len(requested), clip.stride, settings)
    return FrameWindow(video_id, requested[picked], times[picked], requested, picked)
