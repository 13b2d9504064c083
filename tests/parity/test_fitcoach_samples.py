"""The QEVD parser against every field of every sample that the released loaders return."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np
import pytest
from golden import find, load_json
from sightline.errors import SightlineError
from sightline.systems.fitcoach.samples import (
    SPLIT_FOLDERS,
    QevdQuirks,
    build_samples,
    cut_rows,
    episodes_of,
    genuine_feature_paths,
    load_annotations,
)

GROUP = "f_dataset"
LOADERS = {
    "samples_official.json": QevdQuirks(unclosed_last_span="abort", length_mismatch="skip"),
    "samples_fork.json": QevdQuirks(
        unclosed_last_span="skip", length_mismatch="skip", full_workout_cut="published", window_dealing="published"
    ),
}
DEFAULT_WINDOW_S = 20.0


def _cases():
    if find("fitcoach", GROUP, "qevd") is None:
        return []
    return [
        pytest.param(name, key, id=f"fitcoach-{name.removesuffix('.json')}-{key}")
        for name in LOADERS
        for key in (load_json("fitcoach", GROUP, name) or {})
        if not key.startswith("_")
    ]


def _split_key(key: str) -> tuple[str, str, float]:
    split, mode, *options = key.split("/")
    window = next((float(o.removeprefix("window=")) for o in options if o.startswith("window=")), None)
    return split, mode, DEFAULT_WINDOW_S if window is None else window


def _load_samples(name: str, key: str):
    split, mode, window_s = _split_key(key)
    folder = find("fitcoach", GROUP, "qevd", SPLIT_FOLDERS.get(split, SPLIT_FOLDERS["train"]))
    quirks = LOADERS[name]
    workouts = [w for w in load_annotations(folder, quirks) if not w.problem]
    features = {}
    for workout in workouts:
        times = np.load(folder / genuine_feature_paths(workout.video)[1], allow_pickle=False)
        features[workout.video_id] = (f"key-{workout.video_id}", times)
    found = []
    for workout in workouts:
        key_, times = features[workout.video_id]
        found += [
            (workout, times, episode)
            for episode in episodes_of(workout, mode, times, window_s=window_s, quirks=quirks, feature_key=key_)
            if mode != "single_exercise" or episode.responses
        ]
    built = build_samples(workouts, mode, features, seconds_per_step=0.5, window_s=window_s, quirks=quirks).samples
    assert [sample.payload for sample in built] == [episode.to_json() for _, _, episode in found]
    assert len({sample.id for sample in built}) == len(built)
    return folder, found


def _check_rows(derived: dict, first_row: int, stop_row: int) -> None:
    assert stop_row - first_row == derived["num_features"]
    if derived["num_features"]:
        assert (first_row, stop_row - 1) == (derived["first_feature"], derived["last_feature"])


@pytest.mark.parametrize(("name", "key"), _cases())
def test_samples_equal_the_released_loaders(name, key):
    expected = load_json("fitcoach", GROUP, name)[key]
    if isinstance(expected, dict) and "error" in expected:
        with pytest.raises(SightlineError):
            _load_samples(name, key)
        return
    folder, found = _load_samples(name, key)
    assert len(found) == len(expected)
    for (workout, times, episode), want in zip(found, expected, strict=True):
        assert episode.prompt == want["system"]
        assert episode.responses == want["responses"]
        assert episode.feedback_times == want["response_timestamps"]
        for field, path in zip(
            ("efficientnet_features_path", "efficientnet_timestamps_path", "video_path"),
            (*genuine_feature_paths(workout.video), episode.video),
            strict=True,
        ):
            assert PurePosixPath("ROOT", folder.name, path) == PurePosixPath(want[field])
        if "exercise_name" in want:
            assert episode.exercises == [want["exercise_name"]]
        if "exercise_start_timestamp" in want:
            assert (episode.start, episode.end) == (
                want["exercise_start_timestamp"], want["exercise_end_timestamp"],
            )  # fmt: skip
        if "segments" in want:
            _check_segments(episode, times, want)
        elif "derived" in want:
            _check_rows(want["derived"], episode.first_row, episode.stop_row)
            assert episode.response_times == want["derived"]["gt_timestamps_normalised"]


def _check_segments(episode, times, want) -> None:
    assert len(episode.segments) == len(want["segments"])
    for segment, expected in zip(episode.segments, want["segments"], strict=True):
        assert segment.responses == expected["responses"]
        assert segment.feedback_times == expected["response_timestamps"]
        assert segment.start == expected["exercise_start_timestamp"]
        assert segment.end == expected["exercise_end_timestamp"]
        _check_rows(expected["derived"], segment.first_row, segment.stop_row)
    if "derived" in want:  # the runner's fallback for the whole workout: first to last feature step
        derived = want["derived"]
        _check_rows(derived, *cut_rows(times, times[0], times[-1]))
        relative = [time - float(times[0]) for time in episode.feedback_times]
        assert relative == derived["gt_timestamps_normalised"]


def _split_cases():
    return [
        pytest.param(folder, id=f"fitcoach-tiled-{folder}")
        for folder in SPLIT_FOLDERS.values()
        if find("fitcoach", GROUP, "qevd", folder) is not None
    ]


@pytest.mark.parametrize("folder_name", _split_cases())
def test_mended_modes_lose_nothing(folder_name):
    folder = find("fitcoach", GROUP, "qevd", folder_name)
    quirks = replace(QevdQuirks(), length_mismatch="skip")
    for workout in load_annotations(folder, quirks):
        if workout.problem:
            continue
        times = np.load(folder / genuine_feature_paths(workout.video)[1], allow_pickle=False)
        (full,) = episodes_of(workout, "full_workout", times, quirks=quirks)
        assert (full.first_row, full.stop_row) == (0, len(times))
        (windows,) = episodes_of(workout, "full_workout_sliding_window", times, window_s=5.0, quirks=quirks)
        rows = [row for s in windows.segments for row in range(s.first_row, s.stop_row)]
        assert rows == list(range(len(times)))
        assert [text for s in windows.segments for text in s.responses] == windows.responses
