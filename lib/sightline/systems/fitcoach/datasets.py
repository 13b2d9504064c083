"""A dataset of either layout, QEVD's or a plain folder of videos, as samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sightline.systems.fitcoach.media import VIDEOS
from sightline.systems.fitcoach.own_videos import own_video_samples
from sightline.systems.fitcoach.samples import Dropped, QevdQuirks, SampleSet, build_samples, load_annotations


def dataset_samples(
    folder: Path, layout: str, features: Mapping[str, tuple[str, np.ndarray]], episodes: Mapping[str, Any]
) -> SampleSet:
    """Cuts a dataset into samples whose cost is their number of feature steps.

    Args:
        folder: Folder of the split or of the videos.
        layout: `qevd` or `videos`.
        features: Per video id the key of its features and their times, float64 [T], seconds.
        episodes: The variant's `mode`, `window_s` and `quirks`; for a plain folder also `shown`, what the
            dataset's card says of its videos.

    Returns:
        The samples, and what was left out: among it videos without features.
    """
    mode, window_s = episodes["mode"], episodes["window_s"]
    if layout == VIDEOS:
        shown = episodes.get("shown") or {}
        return own_video_samples(folder, mode, features, shown, seconds_per_step=1.0, window_s=window_s)
    quirks = QevdQuirks(**episodes["quirks"])
    workouts = load_annotations(folder, quirks)
    unusable = [workout for workout in workouts if workout.video_id not in features and not workout.problem]
    found = build_samples(
        [workout for workout in workouts if workout not in unusable],
        mode,
        features,
        seconds_per_step=1.0,
        window_s=window_s,
        quirks=quirks,
    )
    without = [Dropped(workout.video_id, "", "the video has no features") for workout in unusable]
    return SampleSet(found.samples, [*found.dropped, *without])
