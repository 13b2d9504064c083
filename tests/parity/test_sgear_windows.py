"""Frame windows, past labels and 50 Salads against the original's dataset classes."""

from __future__ import annotations

import lmdb
import numpy as np
import pytest
from golden import load_json
from sightline.errors import InputError
from sightline.systems.sgear.annotations import Segment, anticipate
from sightline.systems.sgear.feature_lmdb import FeatureReader, feature_key
from sightline.systems.sgear.labels import PastLabels, past_labels
from sightline.systems.sgear.salads import read_bundle, segments_of
from sightline.systems.sgear.windows import (
    WindowSettings,
    clip_of,
    feature_window,
    is_kept,
    observe,
    video_window,
)

FEATURES = load_json("sgear", "data", "feature_windows.json") or {"cases": []}
VIDEOS = load_json("sgear", "data", "video_windows.json") or []
LABELS = load_json("sgear", "data", "segment_labels.json") or []
SALADS = load_json("sgear", "data", "salads.json") or []


def _numbered(cases, kind):
    return [pytest.param(case, id=f"sgear-{kind}-{number}") for number, case in enumerate(cases)]


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lmdb")
    with (
        lmdb.open(str(folder / "data.mdb"), subdir=False, map_size=1 << 28, lock=False) as env,
        env.begin(write=True) as transaction,
    ):
        for number, (video, ranges) in enumerate(FEATURES["lmdb_ranges"].items()):
            for first, last, step in ranges:
                for frame in range(first, last + 1, step):
                    value = np.array([frame, frame % 7, number, 1], "<f4")
                    transaction.put(feature_key(video, frame), value.tobytes())
    with FeatureReader([folder]) as opened:
        yield opened


def _settings(case):
    return WindowSettings(case["num_frames"], case["frame_rate"], case["strategy"], case.get("reader", "normal"))


def _same_times(found, expected):
    np.testing.assert_array_max_ulp(found, np.array(expected, np.float32), maxulp=1)


@pytest.mark.parametrize("case", _numbered(FEATURES["cases"], "features"))
def test_feature_windows(case, reader):
    seen = observe(*case["start_end_sec"], case["tau_a"], case["tau_o"])
    assert is_kept(seen.start, seen.end, case["drop_style"]) == case["kept"]
    if not case["kept"]:
        return
    assert (seen.start, seen.end) == (case["obs_start"], case["obs_end"])
    if case.get("error"):
        try:
            window = feature_window(case["video"], seen.start, seen.end, _settings(case))
        except InputError:
            return
        _, missing = reader.read([window])
        assert missing.all()
        assert reader.is_empty(window)
        return
    window = feature_window(case["video"], seen.start, seen.end, _settings(case))
    assert len(window.requested) == case["n_requested"]
    assert (window.requested[0], window.requested[-1]) == (case["requested_first"], case["requested_last"])
    assert window.frames.tolist() == case["slot_requested_frame"]
    assert window.picked.tolist() == case["slot_index_in_request"]
    _same_times(window.times, case["slot_time_sec"])
    features, sources = reader.read_with_sources([window])
    assert sources[0, :, 0].tolist() == case["slot_source_frame"]
    number = list(FEATURES["lmdb_ranges"]).index(case["video"])
    for vector, frame in zip(features[0], case["slot_source_frame"], strict=True):
        assert vector.tolist() == ([frame, frame % 7, number, 1] if frame else [0, 0, 0, 0])
    values, missing = reader.read([window])
    assert np.array_equal(values, features)
    assert missing[0].tolist() == [frame == 0 for frame in case["slot_source_frame"]]
    assert not reader.is_empty(window)


@pytest.mark.parametrize("case", _numbered(VIDEOS, "video"))
def test_video_windows(case):
    seen = observe(case["action_start"], case["action_end"], case["tau_a"], case["tau_o"])
    assert is_kept(seen.start, seen.end, case.get("drop_style", "correct")) == case["kept"]
    if not case["kept"]:
        return
    assert (seen.start, seen.end) == (case["obs_start"], case["obs_end"])
    clip = clip_of(seen.start, seen.end, case["fps"], _settings(case))
    assert (clip.start, clip.end) == (case["read_start"], case["read_end"])
    times = np.arange(case["n_frames"]) / case["fps"]
    window = video_window("v", seen.start, seen.end, case["fps"], times, _settings(case))
    if case["empty_clip"]:
        assert len(window.frames) == 0
        return
    assert window.frames.tolist() == case["slot_frame"]
    _same_times(window.times, case["slot_time_sec"])


@pytest.mark.parametrize("case", _numbered(LABELS, "past"))
def test_past_labels(case):
    segments = [
        Segment(str(row["uid"]), str(row["uid"]), row["video_path"], "", row["start"], row["end"], row["action_class"],
                -1, -1)
        for row in case["segments"]
    ]  # fmt: skip
    rows = anticipate(segments, tau_a=case["tau_a"], tau_o=case["tau_o"], drop_style="correct")
    assert [row.uid for row in rows.kept] == [str(uid) for uid in case["kept_uids"]]
    times = np.array(case["times"], np.float32)
    (video,) = {row.video_id for row in rows.kept}
    lookup = PastLabels(rows.kept)
    assert lookup.at(video, times).tolist() == case["labels"]
    assert past_labels(lookup, [video, "other"], np.stack([times, times])).tolist() == [
        case["labels"], [-1] * len(times),
    ]  # fmt: skip
    running = [sum(row.action_start <= t <= row.action_end for row in rows.kept) for t in times.astype(np.float64)]
    assert running == case["n_matching"]
    if max(running) < 2:  # only where actions overlap do the two rules differ
        assert PastLabels(rows.kept, overlap="nearest").at(video, times).tolist() == case["labels"]


@pytest.mark.parametrize("case", _numbered(SALADS, "salads"))
def test_salads_segments(case, tmp_path):
    from sightline.systems.sgear.classes import read_mapping

    for name in ("mapping", "bundle"):
        (tmp_path / name).write_text(case[name])
    classes = read_mapping(tmp_path / "mapping")
    found = []
    for name in read_bundle(tmp_path / "bundle"):
        labels = [label for label, length in case["groundtruth_runs"][name] for _ in range(length)]
        rows = segments_of(name, labels, classes, case["fps"], times="float16")
        found += [[name, f"{row.video_id}.avi", row.action_start, row.action_end, row.action] for row in rows]
    assert found == case["rows"]
