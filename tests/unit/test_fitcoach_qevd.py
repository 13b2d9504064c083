import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sightline.errors import InputError, NonFiniteError
from sightline.systems.fitcoach.samples import (
    MODES,
    Episode,
    QevdQuirks,
    build_samples,
    cut_rows,
    episodes_of,
    load_annotations,
    load_video_timestamps,
    parse_spans,
)

FPS = 10
START_S = 1_700_000_000


def spans_of(texts, **options):
    return [(span.text, span.first_frame, span.last_frame) for span in parse_spans(texts, **options)]


def test_spans_end_where_the_text_changes():
    assert spans_of(["", "a", "a", "", "a", "b", "b", ""]) == [("a", 1, 2), ("a", 4, 4), ("b", 5, 6)]
    assert spans_of(["a", ""]) == [("a", 0, 0)]
    assert spans_of([]) == spans_of([""]) == []


def test_span_open_at_the_last_frame_is_lost_unless_closed():
    assert spans_of(["", "a", "b", "b"]) == [("a", 1, 1)]
    assert spans_of(["", "a", "b", "b"], close_last=True) == [("a", 1, 1), ("b", 2, 3)]
    assert spans_of(["a"], close_last=True) == [("a", 0, 0)]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(["", "a", "b"]), max_size=25))
def test_spans_rebuild_the_frames(texts):
    rebuilt = [""] * len(texts)
    for text, first, last in spans_of(texts, close_last=True):
        rebuilt[first : last + 1] = [text] * (last - first + 1)
    assert rebuilt == texts


class Split:
    """A split on disk: transitions and feedbacks as (second, text, is transition), shown for one second."""

    def __init__(self, folder):
        self.folder = folder
        self.records = []
        (folder / "long_range_videos").mkdir(parents=True)

    def add(self, video_id, spoken, /, seconds=20, **changes):
        frames = seconds * FPS
        texts = [""] * frames
        for second, text, _ in spoken:
            texts[second * FPS : (second + 1) * FPS] = [text] * FPS
        nanoseconds = (START_S + np.arange(frames) / FPS) * 1e9
        np.save(self.folder / f"long_range_videos/{video_id}_timestamps.npy", nanoseconds)
        record = {
            "long_range_video_file": f"./long_range_videos/{video_id}.mp4",
            "video_timestamps": f"./long_range_videos/{video_id}_timestamps.npy",
            "feedbacks": texts,
            "feedback_timestamps": [START_S + 28800.0 + second for second, _, _ in spoken],
            "is_transition": [turns for _, _, turns in spoken],
        }
        self.records.append(record | changes)
        return self

    def load(self, **quirks):
        (self.folder / "feedbacks_long_range.json").write_text(json.dumps(self.records), encoding="utf-8")
        return load_annotations(self.folder, QevdQuirks(**quirks))


WORKOUT = [
    (1, "First up are armcrosschest!", True),
    (3, "Reach further!", False),
    (6, "Moving on to squats!", True),
    (10, "Moving on to lunges!", True),
    (12, "Go lower.", False),
    (15, "That's the end!", True),
]
STEPS = START_S + 28800.0 + np.arange(1, 81) / 4


@pytest.fixture
def split(tmp_path):
    return Split(tmp_path / "split").add("0006", WORKOUT)


def build(workouts, mode="single_exercise", quirks=None, times=STEPS, **options):
    features = {workout.video_id: (f"key-{workout.video_id}", times) for workout in workouts}
    return build_samples(workouts, mode, features, seconds_per_step=0.1, quirks=quirks, **options)


def test_single_exercises(split):
    found = build(split.load())
    assert [sample.id for sample in found.samples] == ["0006-e0", "0006-e2"]
    first = Episode.from_json(found.samples[0].payload)
    assert first.exercises == ["deltoid stretch"]
    assert first.prompt.endswith("The user should be doing deltoid stretch.")
    assert first.responses == ["Reach further!"]
    assert first.response_times == pytest.approx([2.0], abs=1e-6)
    assert first.start == pytest.approx(START_S + 28800 + 1)
    assert first.end == pytest.approx(START_S + 28800 + 6.4)  # frame 60 + (69 - 60) // 2
    assert (first.first_row, first.stop_row) == (4, 25)
    assert found.samples[0].cost == pytest.approx(2.1)
    assert found.samples[0].group == found.samples[0].cluster == "0006"
    assert found.samples[0].media == ["key-0006"]
    assert [(row.item, row.reason) for row in found.dropped] == [("squats", "no feedback between the transitions")]


def test_silent_exercises_can_be_kept(split):
    found = build(split.load(), quirks=QevdQuirks(drop_silent_episodes=False))
    assert [sample.id for sample in found.samples] == ["0006-e0", "0006-e1", "0006-e2"]
    assert found.samples[1].payload["responses"] == []


def test_names_can_be_left_as_annotated(split):
    found = build(split.load(rename_arms_cross_chest=False))
    assert found.samples[0].payload["exercises"] == ["armcrosschest"]


@pytest.mark.parametrize("mode", MODES)
def test_samples_survive_json_and_repeat_exactly(split, mode):
    first, second = build(split.load(), mode), build(split.load(), mode)
    assert first == second
    for sample in first.samples:
        again = json.loads(json.dumps(sample.to_json()))
        assert again == sample.to_json()
        assert Episode.from_json(again["payload"]).to_json() == sample.payload


def test_full_workout_reads_every_step_or_loses_the_first(split):
    (sample,) = build(split.load(), "full_workout").samples
    assert sample.id == "0006-full"
    assert (sample.payload["first_row"], sample.payload["stop_row"]) == (0, 80)
    assert "1) deltoid stretch; 2) squats; 3) lunges." in sample.payload["prompt"]
    assert len(sample.payload["responses"]) == len(WORKOUT)
    quirks = QevdQuirks(full_workout_cut="published")
    (published,) = build(split.load(), "full_workout", quirks).samples
    assert (published.payload["first_row"], published.payload["stop_row"]) == (1, 80)


def test_fixed_windows_deal_by_time_and_cover_everything(split):
    (sample,) = build(split.load(), "full_workout_sliding_window", window_s=5.0).samples
    segments = Episode.from_json(sample.payload).segments
    assert sample.id == "0006-w"
    assert [len(segment.responses) for segment in segments] == [2, 2, 2, 0]
    assert segments[0].first_row == 0
    assert segments[-1].stop_row == 80
    assert all(a.stop_row == b.first_row for a, b in pairwise(segments))
    for segment in segments:
        assert all(segment.start <= time <= segment.end for time in segment.feedback_times)


def test_published_windows_move_on_by_one_only(tmp_path):
    feedbacks = [(1, "First up are squats!", True), (12, "Lower!", False), (13, "The end!", True)]
    split = Split(tmp_path / "split").add("7", feedbacks)
    quirks = QevdQuirks(window_dealing="published")
    (sample,) = build(split.load(), "full_workout_sliding_window", quirks, window_s=4.0).samples
    segments = Episode.from_json(sample.payload).segments
    # "Lower!" at 12 s belongs to the fourth window and lands in the second; the tail is not covered.
    assert [segment.responses for segment in segments] == [[f[1]] for f in feedbacks]
    assert segments[-1].end < sample.payload["feedback_times"][-1]


def test_a_workout_that_published_windows_do_not_cover_is_left_out(tmp_path):
    # 1.09 s are 10 whole frames; 19 such windows end at frame 190, where the last feedback begins.
    split = Split(tmp_path / "split").add("7", [(s, f"text {s}", s in (0, 19)) for s in range(20)])
    split.records[0]["feedbacks"][-1] = ""
    quirks = QevdQuirks(window_dealing="published")
    found = build(split.load(), "full_workout_sliding_window", quirks, window_s=1.09)
    assert not found.samples
    assert "do not cover" in found.dropped[0].reason
    (sample,) = build(split.load(), "full_workout_sliding_window", window_s=1.09).samples
    assert sum(len(segment["responses"]) for segment in sample.payload["segments"]) == 20


def test_cut_is_open_at_the_start_and_closed_at_the_end():
    times = np.array([0.0, 0.25, 0.5, 0.5, 0.75])
    assert cut_rows(times, 0.0, 0.5) == (1, 4)
    assert cut_rows(times, -1.0, 9.0) == (0, 5)
    assert cut_rows(times, 5.0, 9.0) == (5, 5)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (STEPS[::-1], "go backwards"),
        (STEPS[:0], "no feature steps"),
        (np.where(np.arange(80) == 3, np.nan, STEPS), "not finite"),
    ],
)
def test_bad_feature_times_are_refused(split, times, message):
    with pytest.raises((InputError, NonFiniteError), match=message):
        build(split.load(), times=times)


def test_missing_features_and_unknown_mode_are_refused(split):
    with pytest.raises(InputError, match=r"0006.*no features"):
        build_samples(split.load(), "single_exercise", {}, seconds_per_step=0.1)
    with pytest.raises(InputError, match="single_exercise"):
        episodes_of(split.load()[0], "everything", STEPS)


def test_clock_adds_eight_hours_in_the_loaders_order(tmp_path):
    stored = np.array([1.7074086502345678e18, 1.7074086503345678e18])
    np.save(tmp_path / "t.npy", stored)
    expected = [int(ns / 1e9) + (ns / 1e9) % 1 + 28800.0 for ns in stored.tolist()]
    assert load_video_timestamps(tmp_path / "t.npy").tolist() == expected


OPEN_END = [*WORKOUT[:5], (19, "That's the end!", True)]


def test_unclosed_last_span_skips_the_workout_with_a_report(split):
    found = build(split.add("0077", OPEN_END).load())
    assert {sample.group for sample in found.samples} == {"0006"}
    (row,) = [row for row in found.dropped if row.video_id == "0077"]
    assert "still shown at the last frame" in row.reason


def test_unclosed_last_span_can_be_closed_or_abort(tmp_path):
    split = Split(tmp_path / "split").add("0077", OPEN_END)
    found = build(split.load(unclosed_last_span="close"))
    assert [sample.id for sample in found.samples] == ["0077-e0", "0077-e2"]
    assert found.samples[1].payload["end"] == pytest.approx(START_S + 28800 + 19.4)
    with pytest.raises(InputError, match="still shown at the last frame"):
        split.load(unclosed_last_span="abort")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"feedbacks": "text"}, "feedbacks"),
        ({"feedbacks": [None] * 200}, "feedbacks[0]"),
        ({"feedback_timestamps": ["now"] * 6}, "feedback_timestamps[0]"),
        ({"feedback_timestamps": [True] * 6}, "feedback_timestamps[0]"),
        ({"is_transition": [1] * 6}, "is_transition[0]"),
        ({"is_transition": [True]}, "is_transition"),
        ({"long_range_video_file": 6}, "long_range_video_file"),
        ({"long_range_video_file": "../0006.mp4"}, "long_range_video_file"),
        ({"long_range_video_file": "./a b.mp4"}, "long_range_video_file"),
        ({"video_timestamps": "/etc/passwd"}, "video_timestamps"),
        ({"feedback_timestamps": [float(START_S + i) for i in range(6)]}, "feedback_timestamps[0]"),
    ],
)
def test_wrong_fields_are_named(tmp_path, changes, field):
    with pytest.raises(InputError) as caught:
        Split(tmp_path / "split").add("0006", WORKOUT, **changes).load()
    assert caught.value.field == field
    assert caught.value.file.endswith("feedbacks_long_range.json")
    assert "record 0" in caught.value.item
    assert caught.value.mend


@pytest.mark.parametrize("field", ["feedbacks", "is_transition", "video_timestamps", "long_range_video_file"])
def test_missing_fields_are_named(split, field):
    del split.records[0][field]
    with pytest.raises(InputError, match="missing") as caught:
        split.load()
    assert caught.value.field == field


def test_duplicate_video_is_refused(split):
    split.records.append(split.records[0])
    with pytest.raises(InputError, match=r"0006.*twice"):
        split.load()


def test_timestamps_that_do_not_fit(split):
    path = split.folder / "long_range_videos/0006_timestamps.npy"
    np.save(path, np.load(path)[:-1])
    with pytest.raises(InputError, match="199 frame timestamps for 200 frames"):
        split.load()
    assert split.load(length_mismatch="skip")[0].problem
    np.save(path, np.array([float("nan")] * 200))
    with pytest.raises(NonFiniteError, match=r"0006_timestamps\.npy"):
        split.load()
    np.save(path, np.array(["text"] * 200))
    with pytest.raises(InputError, match="one number per frame"):
        split.load()
    path.write_bytes(b"no array")
    with pytest.raises(InputError, match=r"not a \.npy array"):
        split.load()
    path.unlink()
    with pytest.raises(InputError, match="timestamps are missing"):
        split.load()


def test_not_a_split(tmp_path):
    with pytest.raises(InputError, match="file not found"):
        load_annotations(tmp_path)
    (tmp_path / "feedbacks_long_range.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="list of workouts"):
        load_annotations(tmp_path)
