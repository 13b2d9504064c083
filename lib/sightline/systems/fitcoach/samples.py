"""A QEVD split in its genuine layout, cut into the episodes the coach is asked about.

Definitions of modes, prompts and cuts: the released loader of Stream-VLM (`single_exercise`, `full_workout`)
and its best-known fork (`full_workout_sliding_window`). All times are UNIX seconds on QEVD's clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from sightline.errors import InputError, NonFiniteError
from sightline.records.types import Sample
from sightline.systems.fitcoach.annotations import (
    ANNOTATION_FILE,
    SPLIT_FOLDERS,
    QevdQuirks,
    Span,
    Workout,
    load_annotations,
    load_video_timestamps,
    parse_spans,
)
from sightline.systems.fitcoach.prompts import WINDOWS_PROMPT, full_workout_prompt, single_exercise_prompt
from sightline.systems.fitcoach.records import Episode, Segment

__all__ = [
    "ANNOTATION_FILE",
    "MODES",
    "SPLIT_FOLDERS",
    "Dropped",
    "Episode",
    "QevdQuirks",
    "SampleSet",
    "Segment",
    "Span",
    "Workout",
    "build_samples",
    "cut_rows",
    "episodes_of",
    "exercise_names",
    "genuine_feature_paths",
    "load_annotations",
    "load_video_timestamps",
    "parse_spans",
    "sample_of",
]

SINGLE, FULL, WINDOWS = "single_exercise", "full_workout", "full_workout_sliding_window"
MODES = (SINGLE, FULL, WINDOWS)


@dataclass(frozen=True)
class Dropped:
    """Something of the dataset that gives no sample, or a sample to be read with care, and why.

    Attributes:
        video_id: The workout.
        item: Exercise, or empty for the whole workout.
        reason: What the report says.
    """

    video_id: str
    item: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Returns the row as a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class SampleSet:
    """Samples of a split, and what was left out on the way."""

    samples: list[Sample]
    dropped: list[Dropped]


def exercise_names(workout: Workout) -> list[str]:
    """Returns the exercises that the transitions announce; the last transition ends the session."""
    announced = [span.text for span, turns in zip(workout.spans, workout.is_transition, strict=True) if turns]
    return [text.replace("First up are ", "").replace("Moving on to ", "").replace("!", "") for text in announced[:-1]]


def genuine_feature_paths(video: str) -> tuple[str, str]:
    """Returns where a split keeps a video's features and their times, relative to the split's folder."""
    path = PurePosixPath("efficientnet_features") / video
    stem = path.parent / path.name.removesuffix(".mp4")
    return f"{stem}_features.npy", f"{stem}_timestamps.npy"


def cut_rows(feature_times: np.ndarray, start: float, end: float) -> tuple[int, int]:
    """Returns the half-open range of rows whose time lies in (start, end].

    Args:
        feature_times: float64 [T], seconds, never decreasing.
        start: Excluded, as in the released evaluator.
        end: Included.
    """
    first, stop = np.searchsorted(feature_times, [start, end], side="right")
    return int(first), max(int(first), int(stop))


def episodes_of(
    workout: Workout,
    mode: str,
    feature_times: np.ndarray,
    *,
    window_s: float = 20.0,
    quirks: QevdQuirks | None = None,
    feature_key: str = "",
) -> list[Episode]:
    """Cuts a workout into episodes.

    Args:
        workout: An annotated video without a problem.
        mode: One of `MODES`.
        feature_times: float64 [T], seconds on the annotations' clock, one per feature step.
        window_s: Length of a window in sliding-window mode, seconds.
        quirks: Switches; the defaults when None.
        feature_key: Key of the features, copied into the episodes.

    Returns:
        One episode per exercise, or one per workout. Exercises without feedback are included here:
        `build_samples` leaves them out and says so.

    Raises:
        InputError: The mode is unknown, the feature times are no ascending list, or the windows of the
            fork's rule do not cover a feedback.
    """
    quirks = quirks or QevdQuirks()
    if mode not in MODES:
        raise InputError(f"mode {mode!r} is unknown", field="mode", mend=f"use one of {', '.join(MODES)}")
    times = _checked_times(workout.video_id, feature_times)
    if mode == SINGLE:
        return _single_exercises(workout, times, feature_key)
    if mode == FULL:
        return [_full_workout(workout, times, feature_key, quirks)]
    return [_sliding_windows(workout, times, feature_key, window_s, quirks)]


def _checked_times(video_id: str, feature_times: np.ndarray) -> np.ndarray:
    times = np.asarray(feature_times, dtype=np.float64)
    mend = "compute the features again"
    if times.ndim != 1 or not len(times):
        raise InputError("the video has no feature steps", item=video_id, mend=mend)
    if not np.isfinite(times).all():
        raise NonFiniteError("a feature time is not finite", item=video_id, mend=mend)
    if (np.diff(times) < 0).any():
        raise InputError("feature times go backwards", item=video_id, mend=mend)
    return times


def _episode(
    workout: Workout,
    mode: str,
    exercises: list[str],
    prompt: str,
    bounds: tuple[float, float],
    feedbacks: range,
    rows: tuple[int, int],
    feature_key: str,
) -> Episode:
    start, end = bounds
    chosen = [index for index in feedbacks if mode != SINGLE or not workout.is_transition[index]]
    return Episode(
        video=str(PurePosixPath(workout.video)),
        video_id=workout.video_id,
        mode=mode,
        exercises=exercises,
        prompt=prompt,
        start=start,
        end=end,
        responses=[workout.spans[index].text for index in chosen],
        response_times=[workout.feedback_times[index] - start for index in chosen],
        feedback_times=[workout.feedback_times[index] for index in chosen],
        feature_key=feature_key,
        first_row=rows[0],
        stop_row=rows[1],
    )


def _single_exercises(workout: Workout, times: np.ndarray, feature_key: str) -> list[Episode]:
    """One episode from each transition to half way through the next."""
    transitions = [index for index, turns in enumerate(workout.is_transition) if turns]
    episodes = []
    for name, here, following in zip(exercise_names(workout), transitions[:-1], transitions[1:], strict=True):
        last = workout.spans[following]
        half_way = last.first_frame + (last.last_frame - last.first_frame) // 2
        bounds = (
            float(workout.frame_times[workout.spans[here].first_frame]),
            float(workout.frame_times[half_way]),
        )
        prompt = single_exercise_prompt(name)
        rows = cut_rows(times, *bounds)
        between = range(here + 1, following)
        episodes.append(_episode(workout, SINGLE, [name], prompt, bounds, between, rows, feature_key))
    return episodes


def _full_workout(workout: Workout, times: np.ndarray, feature_key: str, quirks: QevdQuirks) -> Episode:
    """One episode from the first feature step to the last; the dataset gives no bounds in this mode."""
    names = exercise_names(workout)
    prompt = full_workout_prompt(names)
    bounds = (float(times[0]), float(times[-1]))
    rows = cut_rows(times, *bounds) if quirks.full_workout_cut == "published" else (0, len(times))
    everything = range(len(workout.spans))
    return _episode(workout, FULL, names, prompt, bounds, everything, rows, feature_key)


def _sliding_windows(
    workout: Workout, times: np.ndarray, feature_key: str, window_s: float, quirks: QevdQuirks
) -> Episode:
    """One episode of windows, which starts with the first video frame."""
    if not window_s > 0:
        raise InputError("a window must be longer than 0 s", field="window_s", mend="set it to 20")
    rule = _fork_windows if quirks.window_dealing == "published" else _tiled_windows
    segments = rule(workout, times, window_s)
    bounds = (segments[0].start, segments[-1].end)
    rows = (segments[0].first_row, segments[-1].stop_row)
    episode = _episode(
        workout, WINDOWS, exercise_names(workout), WINDOWS_PROMPT, bounds, range(len(workout.spans)), rows, feature_key
    )
    return replace(episode, segments=segments)


def _segment(workout: Workout, rows: tuple[int, int], start: float, end: float, dealt: list[int]) -> Segment:
    return Segment(
        start=start,
        end=end,
        first_row=rows[0],
        stop_row=rows[1],
        responses=[workout.spans[index].text for index in dealt],
        feedback_times=[workout.feedback_times[index] for index in dealt],
    )


def _tiled_windows(workout: Workout, times: np.ndarray, window_s: float) -> list[Segment]:
    """Windows of equal length that share no feature step, miss none, and hold the feedbacks of their time."""
    origin = float(workout.frame_times[0])
    inner = [origin + window_s * k for k in range(1, int((times[-1] - origin) // window_s) + 1)]
    edges = [origin, *(edge for edge in inner if edge < times[-1]), float(times[-1])]
    cuts = [0, *(cut_rows(times, origin, edge)[1] for edge in edges[1:-1]), len(times)]
    dealt: list[list[int]] = [[] for _ in edges[1:]]
    for index, time in enumerate(workout.feedback_times):
        place = int(np.searchsorted(edges[1:-1], time, side="left"))
        dealt[place].append(index)
    return [_segment(workout, (cuts[k], cuts[k + 1]), edges[k], edges[k + 1], dealt[k]) for k in range(len(edges) - 1)]


def _fork_windows(workout: Workout, times: np.ndarray, window_s: float) -> list[Segment]:
    """The fork's rule, kept as it is: windows are counted in frames, overlap by one frame and end early.

    A feedback beyond the current window moves on by one window only, whatever its time.
    """
    frame_times = workout.frame_times
    frames = len(frame_times)
    length = float(frame_times[-1] - frame_times[0])
    if length <= 0:
        raise InputError("the video has no length", item=workout.video_id, mend="use window_dealing: fixed")
    frames_per_window = int(window_s * (frames / length))
    windows = int(length // window_s) + 1
    dealt: list[list[int]] = [[]]
    for index, span in enumerate(workout.spans):
        if len(dealt) > windows:
            raise _uncovered(workout, window_s)
        if span.first_frame >= frames_per_window * len(dealt):
            dealt.append([])
        dealt[-1].append(index)
    segments = []
    for k, indices in enumerate(dealt):
        last_frame = frames - 1 if k == windows - 1 else frames_per_window * (k + 1)
        if k >= windows or last_frame >= frames:
            raise _uncovered(workout, window_s)
        start = float(frame_times[0 if k == 0 else frames_per_window * k - 1])
        end = float(frame_times[last_frame])
        segments.append(_segment(workout, cut_rows(times, start, end), start, end, indices))
    return segments


class UncoveredError(InputError):
    """The fork's windows end before the video does; the fork itself stops with an IndexError."""


def _uncovered(workout: Workout, window_s: float) -> UncoveredError:
    return UncoveredError(
        f"windows of {window_s:g} s, counted in frames, do not cover the video",
        item=workout.video_id,
        mend="use window_dealing: fixed, or another window_s",
    )


def build_samples(
    workouts: Sequence[Workout],
    mode: str,
    features: Mapping[str, tuple[str, np.ndarray]],
    *,
    seconds_per_step: float,
    window_s: float = 20.0,
    quirks: QevdQuirks | None = None,
) -> SampleSet:
    """Turns workouts into samples, in the order of the annotations.

    Args:
        workouts: What `load_annotations` returned.
        mode: One of `MODES`.
        features: Per video id the key of its features and their times, float64 [T], seconds on the
            annotations' clock.
        seconds_per_step: Estimated model time per feature step; gives the samples' cost.
        window_s: Length of a window in sliding-window mode, seconds.
        quirks: Switches; the defaults when None.

    Returns:
        Samples `<video>-e<k>` (k counts the workout's exercises from 0), `<video>-full` or `<video>-w`; and
        a row for everything that gave none, e.g. a workout that the fork's windows do not cover.

    Raises:
        InputError: A video has no features, or as `episodes_of`.
    """
    quirks = quirks or QevdQuirks()
    samples: list[Sample] = []
    dropped: list[Dropped] = []
    for workout in workouts:
        if workout.problem:
            dropped.append(Dropped(workout.video_id, "", f"skipped: {workout.problem}"))
            continue
        if workout.video_id not in features:
            raise InputError("the video has no features", item=workout.video_id, mend="compute them first")
        key, times = features[workout.video_id]
        try:
            episodes = episodes_of(workout, mode, times, window_s=window_s, quirks=quirks, feature_key=key)
            why_none = "no exercise: fewer than two transitions"
        except UncoveredError as error:
            episodes, why_none = [], f"skipped: {error.problem}"
        if not episodes:
            dropped.append(Dropped(workout.video_id, "", why_none))
        for k, episode in enumerate(episodes):
            item = ", ".join(episode.exercises)
            if mode == SINGLE and not episode.responses and quirks.drop_silent_episodes:
                dropped.append(Dropped(workout.video_id, item, "no feedback between the transitions"))
                continue
            if episode.steps == 0:
                dropped.append(Dropped(workout.video_id, item, "kept, but no feature step lies in it"))
            suffix = f"e{k}" if mode == SINGLE else {FULL: "full", WINDOWS: "w"}[mode]
            samples.append(sample_of(episode, f"{workout.video_id}-{suffix}", seconds_per_step))
    return SampleSet(samples, dropped)


def sample_of(episode: Episode, identifier: str, seconds_per_step: float) -> Sample:
    """Returns the sample of an episode."""
    sample = Sample(
        id=identifier,
        group=episode.video_id,
        cluster=episode.video_id,
        media=[episode.feature_key],
        cost=episode.steps * seconds_per_step,
        payload=episode.to_json(),
    )
    sample.check()
    return sample
