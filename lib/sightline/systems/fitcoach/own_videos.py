"""Episodes of videos that nobody annotated: what is exercised in them stands in the dataset's card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sightline.errors import InputError
from sightline.systems.fitcoach.annotations import QevdQuirks, Workout
from sightline.systems.fitcoach.media import list_videos
from sightline.systems.fitcoach.prompts import full_workout_prompt, single_exercise_prompt
from sightline.systems.fitcoach.samples import FULL, SINGLE, Dropped, SampleSet, episodes_of, sample_of
from sightline.video.frames import VideoSource

Features = Mapping[str, tuple[str, np.ndarray]]


def own_video_samples(
    folder: Path,
    mode: str,
    features: Features,
    shown: Mapping[str, Any],
    *,
    seconds_per_step: float,
    window_s: float = 20.0,
) -> SampleSet:
    """Makes one sample of each video of a folder, in the order of their paths.

    The clock starts with a video's first frame, and every feature step is watched.

    Args:
        folder: Folder of the videos.
        mode: Evaluation mode.
        features: Per video id the key of its features and their times, float64 [T], seconds from the first frame.
        shown: The card's `exercise` (of all videos), `exercises` (by video id) and `prompt` (instead of the
            mode's own; `{exercise}` is replaced).
        seconds_per_step: Estimated model time per feature step.
        window_s: Length of a sliding window in seconds.

    Returns:
        Samples `<video>-e0`, `<video>-full` or `<video>-w`, and a row for each video without features.

    Raises:
        InputError: The card does not say what a video shows, names a video that is not there, or gives several
            exercises where the mode takes one.
    """
    sources = list_videos(folder)
    _require_known(folder, sources, shown.get("exercises") or {})
    samples, dropped = [], []
    for source in sources:
        if source.video_id not in features:
            dropped.append(Dropped(source.video_id, "", "the video has no features"))
            continue
        names = _exercises(source, shown)
        key, times = features[source.video_id]
        episode = _episode(source, mode, names, times, key, window_s)
        prompt = shown.get("prompt") or episode.prompt
        if not names and "{exercise}" in prompt:
            raise _unsaid(source)
        episode = replace(episode, prompt=prompt.replace("{exercise}", ", ".join(names)), annotated=False)
        suffix = {SINGLE: "e0", FULL: "full"}.get(mode, "w")
        samples.append(sample_of(episode, f"{source.video_id}-{suffix}", seconds_per_step))
    return SampleSet(samples, dropped)


def _require_known(folder: Path, sources: Sequence[VideoSource], named: Mapping[str, Any]) -> None:
    strange = sorted(set(named) - {source.video_id for source in sources})
    if strange:
        raise InputError(
            "the card names a video that is not there", file=folder, item=strange[0], field="exercises",
            mend="use the file name without ending",
        )  # fmt: skip


def _exercises(source: VideoSource, shown: Mapping[str, Any]) -> list[str]:
    said = (shown.get("exercises") or {}).get(source.video_id, shown.get("exercise"))
    names = [said] if isinstance(said, str) else list(said or [])
    if not names and not shown.get("prompt"):
        raise _unsaid(source)
    return names


def _unsaid(source: VideoSource) -> InputError:
    return InputError(
        "the card does not say which exercise it shows", file=source.path, item=source.video_id, field="exercise",
        mend="set `exercise` of the dataset, or `exercises` with this video's name",
    )  # fmt: skip


def _episode(source: VideoSource, mode: str, names: list[str], times: np.ndarray, key: str, window_s: float) -> Any:
    """Returns the episode of a workout in which nothing was said."""
    workout = Workout(
        video=source.shown_path,
        video_id=source.video_id,
        frame_times=np.array([0.0, float(times[-1])]),
        spans=(),
        feedback_times=(),
        is_transition=(),
    )
    if mode != SINGLE:
        (episode,) = episodes_of(workout, mode, times, window_s=window_s, quirks=QevdQuirks(), feature_key=key)
        prompt = full_workout_prompt(names) if mode == FULL else episode.prompt
        return replace(episode, exercises=names, prompt=prompt)
    if len(names) > 1:
        raise InputError(
            f"single_exercise takes one exercise per video, the card gives {len(names)}",
            item=source.video_id, field="exercises", mend="cut the video, or use mode full_workout",
        )  # fmt: skip
    (whole,) = episodes_of(workout, FULL, times, feature_key=key)
    prompt = single_exercise_prompt(names[0] if names else "")
    return replace(whole, mode=SINGLE, exercises=names, prompt=prompt, start=0.0)
