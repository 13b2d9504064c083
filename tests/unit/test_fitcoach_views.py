"""Timelines of fitcoach: the pictures the CNN sees, at the right seconds, each video decoded once."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import sightline.systems.fitcoach.views as views_module
from sightline.errors import InputError
from sightline.records.types import Prediction, Sample, Score
from sightline.report.views import TimelineView
from sightline.systems.fitcoach.annotations import CLOCK_OFFSET_S
from sightline.systems.fitcoach.records import Coaching, Episode
from sightline.systems.fitcoach.views import THUMB_HEIGHT, draw_views

FPS, SECONDS = 10, 8
START_NS = 1_600_000_000_000_000_000


def write_video(folder: Path, video_id: str, size: tuple[int, int]) -> None:
    """Writes a video whose upper half is red; its lower half gets brighter with time."""
    width, height = size
    with av.open(str(folder / f"{video_id}.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(FPS * SECONDS):
            picture = np.zeros((height, width, 3), np.uint8)
            picture[: height // 2] = (220, 20, 20)
            picture[height // 2 :] = 3 * index
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))
    stamps = START_NS + np.arange(FPS * SECONDS) * (1_000_000_000 / FPS)
    np.save(folder / f"{video_id}_timestamps.npy", stamps.astype(np.float64))


@pytest.fixture
def split(tmp_path: Path) -> Path:
    folder = tmp_path / "split"
    videos = folder / "long_range_videos"
    videos.mkdir(parents=True)
    write_video(videos, "0007", (160, 120))
    write_video(videos, "0200", (120, 160))
    records = [
        {
            "long_range_video_file": f"./long_range_videos/{name}.mp4",
            "video_timestamps": f"./long_range_videos/{name}_timestamps.npy",
        }
        for name in ("0007", "0200")
    ]
    (folder / "feedbacks_long_range.json").write_text(json.dumps(records))
    return folder


def sample(video_id: str, number: int, first_s: float, last_s: float) -> Sample:
    start = START_NS / 1e9 + CLOCK_OFFSET_S
    episode = Episode(
        video=f"long_range_videos/{video_id}.mp4",
        video_id=video_id,
        mode="single_exercise",
        exercises=["squats"],
        prompt="",
        start=start + first_s,
        end=start + last_s,
        responses=["Go lower!", "Well done."],
        response_times=[1.0, 3.0],
        feedback_times=[start + first_s + 1.0, start + first_s + 3.0],
        feature_key="k",
        first_row=0,
        stop_row=4,
    )
    return Sample(f"{video_id}-e{number}", video_id, video_id, ["k"], 1.0, episode.to_json())


SAMPLES = [sample("0007", 0, 0, 4), sample("0007", 1, 4, 8), sample("0200", 0, 0, 4)]


def predictions(**changed: Prediction) -> list[Prediction]:
    said = Coaching(["Lower, please!", "Hm."], [1.4, 2.6], warnings=["token limit"]).to_json()
    return [changed.get(one.id.replace("-", "_"), Prediction(one.id, "ok", output=said)) for one in SAMPLES]


def scores() -> list[Score]:
    rows = []
    for one in SAMPLES:
        rows.append(Score(one.id, "temporal_recall", "squats", 1.0, 2.0, "scored"))
        rows.append(Score(one.id, "meteor", "squats", None, 0.0, "unscored", "no matched pair"))
    return rows


def picture(thumb: str) -> np.ndarray:
    data = np.frombuffer(base64.b64decode(thumb, validate=True), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR).astype(int)


def is_red(patch: np.ndarray) -> bool:
    blue, green, red = patch.reshape(-1, 3).mean(axis=0)
    return bool(red > 150 and green < 90 and blue < 90)


def test_one_timeline_per_sample_with_pairs_and_numbers(split: Path) -> None:
    views = draw_views(SAMPLES, predictions(), scores(), split, rotate_upto_id=145)
    assert [view.id for view in views] == ["0007-e0", "0007-e1", "0200-e0"]
    shown = TimelineView.of(views[0])
    assert shown.title == "squats"
    assert shown.facets == {"video": "0007", "exercise": "squats"}
    assert shown.pairs == [(0, 0), (1, 1)]
    assert [mark.matched for mark in shown.truth] == [True, True]
    assert shown.numbers == {"temporal_recall": 0.5, "meteor": None}
    assert shown.notes == ["token limit"]
    assert shown.duration_s == pytest.approx(4.0)


def test_narrower_window_matches_less(split: Path) -> None:
    views = draw_views(SAMPLES, predictions(), scores(), split, rotate_upto_id=145, half_window_s=0.3)
    assert TimelineView.of(views[0]).pairs == []


def test_pictures_are_upright_and_cropped_as_the_cnn_sees_them(split: Path) -> None:
    views = {view.id: view for view in draw_views(SAMPLES, predictions(), scores(), split, rotate_upto_id=145)}
    turned, upright = picture(views["0007-e0"].thumbs[0]), picture(views["0200-e0"].thumbs[0])
    for image in (turned, upright):
        assert image.shape[0] == THUMB_HEIGHT
        assert image.shape[1] == round(160 * THUMB_HEIGHT / 224)
    middle, right = turned.shape[0] // 2, turned.shape[1] * 5 // 8
    assert is_red(turned[middle - 5 : middle + 5, right - 3 : right + 6]), "clockwise: the top goes to the right"
    assert not is_red(turned[middle - 5 : middle + 5, 12:24])
    assert is_red(upright[5:40, 10:50])
    assert not is_red(upright[56:90, 10:50])
    stored = draw_views(SAMPLES, predictions(), scores(), split, rotate_upto_id=None)[0]
    assert is_red(picture(stored.thumbs[0])[5:40, 10:50]), "turned although no video should be"


def test_pictures_are_taken_at_the_seconds_that_are_told(split: Path) -> None:
    views = {view.id: view for view in draw_views(SAMPLES, predictions(), scores(), split, rotate_upto_id=145)}
    for identifier, offset in (("0200-e0", 0.0),):
        shown = TimelineView.of(views[identifier])
        assert len(shown.frames) == 10
        assert shown.frames == sorted(shown.frames)
        for seconds, thumb in zip(shown.frames, views[identifier].thumbs, strict=True):
            expected = 3 * round((offset + seconds) * FPS)
            assert picture(thumb)[60:90, 10:50].mean() == pytest.approx(expected, abs=6)
    assert len(views["0007-e1"].thumbs) == len(TimelineView.of(views["0007-e1"]).frames)


def test_each_video_is_decoded_once(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    genuine = views_module.iter_frames

    def counted(path: Path, *arguments: object, **named: object):
        calls.append(Path(path).name)
        return genuine(path, *arguments, **named)

    monkeypatch.setattr(views_module, "iter_frames", counted)
    draw_views(SAMPLES, predictions(), scores(), split, rotate_upto_id=145)
    assert sorted(calls) == ["0007.mp4", "0200.mp4"]


@pytest.mark.parametrize("damage", ["truncated", "gone", "no clock", "not annotated"])
def test_a_bad_video_gives_a_timeline_without_pictures_that_says_so(split: Path, damage: str) -> None:
    video = split / "long_range_videos" / "0007.mp4"
    if damage == "truncated":
        video.write_bytes(video.read_bytes()[:900])
    elif damage == "gone":
        video.unlink()
    elif damage == "no clock":
        video.with_name("0007_timestamps.npy").unlink()
    else:
        path = split / "feedbacks_long_range.json"
        path.write_text(json.dumps(json.loads(path.read_text())[1:]))
    views = draw_views(SAMPLES, predictions(), scores(), split, rotate_upto_id=145)
    for view in views[:2]:
        shown = TimelineView.of(view)
        assert view.thumbs == []
        assert shown.notes[0].startswith("No pictures: ")
        assert str(split) not in shown.notes[0]
        assert len(shown.truth) == 2
    assert len(views[2].thumbs) == 10


def test_failed_prediction_is_shown_as_failed(split: Path) -> None:
    failed = predictions(**{"0007_e0": Prediction("0007-e0", "failed", "out_of_memory")})
    shown = TimelineView.of(draw_views(SAMPLES, failed, scores(), split, rotate_upto_id=145)[0])
    assert (shown.status, shown.reason) == ("failed", "out_of_memory")
    assert shown.said == []
    assert [mark.matched for mark in shown.truth] == [False, False]


def test_missing_prediction_is_an_error(split: Path) -> None:
    with pytest.raises(InputError, match="0200-e0"):
        draw_views(SAMPLES, predictions()[:2], scores(), split, rotate_upto_id=145)


def test_equal_inputs_give_equal_views(split: Path) -> None:
    first, second = (draw_views(SAMPLES, predictions(), scores(), split, rotate_upto_id=145) for _ in range(2))
    assert first == second
