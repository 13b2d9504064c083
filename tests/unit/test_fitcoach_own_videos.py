"""Videos without annotations, and the submission of a run."""

from __future__ import annotations

import json
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sightline.config.load import load_workflow, read_config
from sightline.config.plan import Plan
from sightline.errors import ConfigError, InputError
from sightline.records.rows import write_parquet
from sightline.records.types import Prediction, Sample
from sightline.registry import card_models
from sightline.report.views import TimelineView
from sightline.systems.fitcoach.datasets import dataset_samples
from sightline.systems.fitcoach.media import folder_of, list_videos
from sightline.systems.fitcoach.records import Coaching, Episode
from sightline.systems.fitcoach.score import matched_pairs, metric_specs, score
from sightline.systems.fitcoach.submission import submission, write_submission
from sightline.systems.fitcoach.views import draw_views

CONFIG = Path(__file__).parents[2] / "config"
TIMES = np.arange(40) * 0.25 + 0.2
EPISODES = {"mode": "single_exercise", "window_s": 3.0, "quirks": {}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two videos that can be read, one that cannot, and a file that is none."""
    place = tmp_path / "videos"
    (place / "more").mkdir(parents=True)
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=size=64x48:rate=10:duration=10"]
    subprocess.run([*command, "-pix_fmt", "yuv420p", str(place / "My clip (1).mp4")], check=True)
    (place / "more" / "12.MOV").write_bytes((place / "My clip (1).mp4").read_bytes())
    (place / "broken.mp4").write_bytes(b"nothing")
    (place / "notes.txt").write_text("squats")
    return place


def features_of(folder: Path, *, without: tuple[str, ...] = ("broken",)) -> dict[str, tuple[str, np.ndarray]]:
    names = [source.video_id for source in list_videos(folder)]
    return {name: (f"key-{name}", TIMES) for name in names if name not in without}


def samples_of(folder: Path, mode: str = "single_exercise", **shown: Any) -> dict[str, Episode]:
    found = dataset_samples(folder, "videos", features_of(folder), {**EPISODES, "mode": mode, "shown": shown})
    assert [(row.video_id, row.reason) for row in found.dropped] == [("broken", "the video has no features")]
    return {sample.id: Episode.from_json(sample.payload) for sample in found.samples}


def test_videos_are_found_and_named(folder):
    found = {source.video_id: source.shown_path for source in list_videos(folder)}
    assert found == {"My-clip-1-": "My clip (1).mp4", "broken": "broken.mp4", "12": "more/12.MOV"}
    (folder / "more" / "broken.avi").write_bytes(b"")
    with pytest.raises(InputError, match="would have one id"):
        list_videos(folder)
    with pytest.raises(InputError, match="no video in this folder"):
        list_videos(folder.parent / "none")


def test_a_plain_folder_is_found_inside_an_asset(folder):
    files = [{"path": path.relative_to(folder).as_posix()} for path in folder.rglob("*") if path.is_file()]
    record = folder.parent / "asset.json"
    record.write_text(json.dumps({"format": 1, "root": "videos", "files": files}))
    for name, expected in ((".", folder), ("more", folder / "more")):
        assert folder_of(record, {"layout": "videos", "folder": name}) == expected


def test_prompts_come_from_the_card(folder):
    found = samples_of(folder, exercise="squats", exercises={"12": "lunges"})
    assert {name: episode.exercises for name, episode in found.items()} == {
        "My-clip-1--e0": ["squats"],
        "12-e0": ["lunges"],
    }
    assert found["12-e0"].prompt.endswith("The user should be doing lunges.")
    one = found["12-e0"]
    assert (one.start, one.end, one.first_row, one.stop_row) == (0.0, TIMES[-1], 0, 40)
    assert (one.annotated, one.responses, one.video) == (False, [], "more/12.MOV")
    own = samples_of(folder, prompt="Watch the {exercise}.", exercise="planks")
    assert {episode.prompt for episode in own.values()} == {"Watch the planks."}
    assert {episode.prompt for episode in samples_of(folder, prompt="Watch.").values()} == {"Watch."}


def test_whole_workouts_and_windows(folder):
    full = samples_of(folder, "full_workout", exercise=["squats", "lunges"])["12-full"]
    assert "1) squats; 2) lunges." in full.prompt
    assert (full.first_row, full.stop_row) == (0, 40)
    windows = samples_of(folder, "full_workout_sliding_window", exercise="squats")["12-w"]
    rows = [(one.first_row, one.stop_row) for one in windows.segments]
    assert rows[0][0] == 0
    assert rows[-1][1] == 40
    assert all(before[1] == after[0] for before, after in pairwise(rows))
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("mode", "shown", "words"),
    [
        ("single_exercise", {}, "does not say which exercise"),
        ("single_exercise", {"exercises": {"12": "squats"}}, "does not say which exercise"),
        ("single_exercise", {"prompt": "Do {exercise}."}, "does not say which exercise"),
        ("single_exercise", {"exercise": ["a", "b"]}, "takes one exercise per video"),
        ("full_workout", {"exercise": "a", "exercises": {"13": "b"}}, "names a video that is not there"),
    ],
)
def test_what_the_card_does_not_say_is_an_error(folder, mode, shown, words):
    with pytest.raises(InputError, match=words):
        samples_of(folder, mode, **shown)


def test_the_clock_of_annotated_samples_is_unchanged():
    episode = Episode("a.mp4", "a", "single_exercise", ["x"], "", 0.0, 1.0, [], [], [], "k", 0, 4)
    assert "annotated" not in episode.to_json()
    assert Episode.from_json(episode.to_json()) == episode


def run_of(folder: Path) -> tuple[list[Sample], list[Prediction]]:
    episodes = {**EPISODES, "shown": {"exercise": "squats"}}
    samples = dataset_samples(folder, "videos", features_of(folder), episodes).samples
    said = Coaching(["Lower!", "Good."], [2.0, 4.5])
    return samples, [Prediction(sample.id, "ok", output=said.to_json(), key="k") for sample in samples]


def test_metrics_are_absent_for_want_of_ground_truth(folder, tmp_path):
    samples, predictions = run_of(folder)
    rows, absent = score(samples, predictions)
    assert rows == []
    assert absent == {spec.name: "no ground truth" for spec in metric_specs()}
    assert matched_pairs(samples, predictions) == []
    views = draw_views(samples, predictions, [], folder, rotate_upto_id=145, layout="videos", frames_per_episode=4)
    for view in views:
        timeline = TimelineView.of(view)
        assert (len(view.thumbs), len(timeline.said), timeline.truth) == (4, 2, [])
        assert "no ground truth" in timeline.notes


def test_a_submission_joins_the_episodes_of_each_video(folder, tmp_path):
    samples, predictions = run_of(folder)
    payload = {**samples[0].payload, "start": 100.0}
    later = Sample("later-e1", samples[0].group, samples[0].cluster, samples[0].media, 1.0, payload)
    early = Coaching(["Begin."], [-99.5])
    both = [Prediction("later-e1", "ok", output=early.to_json()), predictions[0]]
    failed = Prediction(predictions[1].id, "failed", "non_finite")
    rows = submission([later, *samples], [*both, failed])
    assert rows == [
        {
            "video_file": "My clip (1).mp4",
            "feedbacks": ["Begin.", "Lower!", "Good."],
            "feedback_timestamps": [0.5, 2.0, 4.5],
        },
        {"video_file": "more/12.MOV", "feedbacks": [], "feedback_timestamps": []},
    ]
    with pytest.raises(InputError, match="has no prediction"):
        submission(samples, predictions[:1])
    paths = {name: tmp_path / f"{name}.parquet" for name in ("samples", "predictions")}
    write_parquet(paths["samples"], Sample, samples)
    write_parquet(paths["predictions"], Prediction, predictions)
    counts = write_submission(**paths, target=tmp_path / "submission.json")
    assert counts == {"videos": 2, "feedbacks": 4, "failed": 0}
    assert len(json.loads((tmp_path / "submission.json").read_text())) == 2


def own_config(**dataset: Any) -> dict[str, Any]:
    card = {
        "title": "Mine", "asset": "my_videos", "layout": "videos", "folder": ".", "split": "own",
        "videos": 2, "items": 2, "video_seconds": 60, **dataset,
    }  # fmt: skip
    asset = {"title": "Mine", "kind": "folder", "licence": "mine", "requires": ["*.mp4"]}
    return {
        **read_config([CONFIG / "config.yaml"]),
        "runs": [{"system": "fitcoach", "datasets": ["my_videos"], "variants": ["demo"]}],
        "datasets": {"my_videos": card},
        "assets": {"my_videos": asset},
        "local_assets": {"my_videos": "videos"},
    }


def test_the_card_of_own_videos():
    class Wildcards:
        system, dataset, variant = "fitcoach", "my_videos", "demo"

    config = own_config(exercise="squats", exercises={"clip": ["lunges"]})
    plan = Plan(load_workflow(config, CONFIG, card_models())).room("fitcoach")
    assert plan.episode_params(Wildcards)["shown"] == {"exercise": "squats", "exercises": {"clip": ["lunges"]}}
    Wildcards.dataset = "demo_test"
    assert "shown" not in plan.episode_params(Wildcards)
    with pytest.raises(ConfigError, match=r"my_videos\.exercise"):
        load_workflow(own_config(exercise=3), CONFIG, card_models())
