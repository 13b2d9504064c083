"""The embedded demo of FitCoach: what is drawn, what is said, and the weights."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from sightline.errors import InputError
from sightline.systems.fitcoach.demo import write_demo_archive, write_demo_dataset
from sightline.systems.fitcoach.demo_motion import EXERCISES
from sightline.systems.fitcoach.demo_plan import CORRECTIONS, COUNTED, MENDED, PRAISE, coach_texts, plan_workouts
from sightline.systems.fitcoach.demo_weights import (
    CHECKPOINT_FILE,
    CNN_FILE,
    CROSS_ATTENTION,
    LLAMA_FOLDER,
    LORA,
    write_demo_weights,
)
from sightline.systems.fitcoach.features import (
    ExtractorSettings,
    extract_video,
    is_rotated,
    preprocess,
    qevd_seconds,
)
from sightline.systems.fitcoach.model.cnn import load_cnn
from sightline.systems.fitcoach.model.config import StreamVlmConfig
from sightline.systems.fitcoach.model.loader import load_stream_vlm
from sightline.systems.fitcoach.samples import SPLIT_FOLDERS, build_samples, load_annotations
from sightline.video.decode import iter_frames
from sightline.video.render import Camera, FigureStyle, draw_figure, paint_room

GOLDEN = Path(__file__).parents[1] / "golden" / "fitcoach"
SMALL = {"test_workouts": 1, "train_workouts": 1, "exercises_each": 2, "exercise_seconds": 7.0}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo")
    write_demo_dataset(root, seed=3, **SMALL)
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    write_demo_weights(root, seed=3)
    return root


def _videos(root: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(root.glob("*/long_range_videos/*.mp4"))}


def _stamps(video: Path) -> np.ndarray:
    return np.load(video.with_name(f"{video.stem}_timestamps.npy"), allow_pickle=False)


def test_both_splits_pass_the_parser(dataset: Path) -> None:
    for split in ("test", "train"):
        workouts = load_annotations(dataset / SPLIT_FOLDERS[split])
        assert [workout.problem for workout in workouts] == [""]
        for workout in workouts:
            features = {workout.video_id: ("key", np.arange(*workout.frame_times[[0, -1]], 0.25))}
            found = build_samples([workout], "single_exercise", features, seconds_per_step=0.01)
            assert len(found.samples) == 2
            assert found.dropped == []


def test_time_stamps_are_genuine(dataset: Path) -> None:
    for record_file in dataset.glob("*/feedbacks_long_range.json"):
        for record in json.loads(record_file.read_text()):
            stamps = np.load(record_file.parent / record["video_timestamps"], allow_pickle=False)
            video = record_file.parent / record["long_range_video_file"]
            frames = sum(1 for _ in iter_frames(video))
            assert stamps.dtype == np.float64
            assert stamps.shape == (frames,) == (len(record["feedbacks"]),)
            assert 26.5 < frames / np.ptp(stamps) * 1e9 < 29.5
            assert np.diff(stamps).std() > 1e6, "frame times are uneven"
            clock = qevd_seconds(stamps)
            shown = record["feedbacks"]
            starts = [i for i in range(1, frames) if shown[i] and shown[i] != shown[i - 1]]
            assert len(starts) == len(record["feedback_timestamps"]) == len(record["is_transition"])
            late = clock[starts] - record["feedback_timestamps"]
            assert ((late >= 0) & (late < 0.05)).all()
            assert shown[-1] == ""


def _figure_rows(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns masks [224, 160] of the figure and, in it, of skin: what departs from each row's usual colour."""
    colours = picture.transpose(1, 2, 0).astype(int)
    lit = colours.max(axis=2) > 8
    usual = np.stack(
        [np.median(row[keep], axis=0) if keep.any() else row[0] for row, keep in zip(colours, lit, strict=True)]
    )
    figure = lit & (np.abs(colours - usual[:, None]).max(axis=2) > 45)
    return figure, figure & (colours[..., 0] - colours[..., 2] > 55)


def test_the_cnn_gets_an_upright_figure(dataset: Path) -> None:
    videos = _videos(dataset)
    settings = ExtractorSettings()
    assert sorted(is_rotated(name, settings) for name in videos) == [False, True]
    for name, video in videos.items():
        _, stored = next(iter(iter_frames(video, [0])))
        rotated = is_rotated(name, settings)
        assert stored.shape == ((360, 640, 3) if rotated else (640, 360, 3))
        for turn, upright in ((rotated, True), (not rotated, False)):
            figure, skin = _figure_rows(preprocess(stored, turn))
            rows, columns = np.nonzero(figure)
            top, bottom = np.percentile(rows, [0, 100])
            head = slice(int(top), int(top + 0.16 * (bottom - top)))
            feet = slice(int(bottom - 0.14 * (bottom - top)), int(bottom))
            share = [skin[zone].sum() / max(figure[zone].sum(), 1) for zone in (head, feet)]
            seen = np.ptp(rows) > 1.5 * np.ptp(columns) and share[0] > 0.25 and share[1] < 0.1
            assert seen == upright, (name, turn, share)


def _drawn(pose: dict[str, np.ndarray], index: int) -> np.ndarray:
    picture = paint_room(320, 180, (205, 200, 190), (120, 160, 190))
    exercise = EXERCISES[index]
    style = FigureStyle((150, 185, 225), (60, 90, 200), (120, 70, 50))
    draw_figure(picture, pose, Camera(exercise.yaw, 0.16, 97.0, (90.0, 250.0), exercise.middle), style)
    return picture.astype(int)


def test_exercises_and_mistakes_can_be_told_apart() -> None:
    deepest = [exercise.pose(0.5, 0, {}) for exercise in EXERCISES]
    pictures = [_drawn(pose, index) for index, pose in enumerate(deepest)]
    for first, second in combinations(pictures, 2):
        assert np.abs(first - second).mean() > 3
    for index, exercise in enumerate(EXERCISES):
        wrong = _drawn(exercise.pose(0.5, 0, {exercise.mistake: 1.0}), index)
        assert np.abs(wrong - pictures[index]).mean() > 0.6, exercise.name


def test_limbs_keep_their_length() -> None:
    bones = [("hip", "knee", 0.44), ("knee", "ankle", 0.43), ("shoulder", "elbow", 0.29), ("elbow", "wrist", 0.27)]
    for exercise in EXERCISES:
        for phase in np.linspace(0, 1, 9):
            for mistake in (None, exercise.mistake):
                pose = exercise.pose(float(phase), 1, {mistake: 1.0} if mistake else {})
                for start, end, length in bones:
                    for side in "lr":
                        found = np.linalg.norm(pose[f"{start}_{side}"] - pose[f"{end}_{side}"])
                        assert found == pytest.approx(length, abs=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_is_said_follows_from_what_is_seen(seed: int) -> None:
    test, train = plan_workouts(seed, 8, 18, 3, 12.0)
    assert sum(workout.duration for workout in test + train) <= 1000
    numbers = [workout.number for workout in test + train]
    assert len(set(numbers)) == 26
    for split in (test, train):
        assert 0 < sum(workout.number <= 145 for workout in split) < len(split)
        assert {bout.exercise.name for workout in split for bout in workout.bouts} == {e.name for e in EXERCISES}
    praise = {PRAISE.format(count=count) for count in COUNTED}
    for workout in test + train:
        assert all(a.start + a.shown < b.start for a, b in zip(workout.feedbacks, workout.feedbacks[1:], strict=False))
        for bout in workout.bouts:
            said = [f for f in workout.feedbacks if bout.start < f.start < bout.end and not f.transition]
            assert said, "an exercise without feedback would be dropped"
            wrong, mended = (bout.repetitions[place] for place in bout.wrong)
            for feedback in said:
                if feedback.text in praise:
                    done = [k for k, end in enumerate(bout.repetitions) if end <= feedback.start]
                    assert str(done[-1]) in feedback.text
                    assert feedback.start < wrong + 0.2
                elif feedback.text == MENDED:
                    assert 1.4 <= feedback.start - mended <= 1.7
                else:
                    assert feedback.text == CORRECTIONS[str(bout.mistake)]
                    assert 1.4 <= feedback.start - wrong <= 1.7
    assert {f.text for workout in train for f in workout.feedbacks} <= set(coach_texts())


def test_mistakes_show_only_while_they_are_made() -> None:
    bouts = [bout for workout in plan_workouts(0, 8, 18, 3, 12.0)[1] for bout in workout.bouts]
    bout = next(b for b in bouts if b.exercise.name == "jumping jacks" and 0 < b.wrong[1] < len(b.repetitions) - 1)
    for place, mistaken in ((bout.wrong[0], True), (bout.wrong[1] - 1, True), (bout.wrong[1], False)):
        begin, finish = bout.repetitions[place : place + 2]
        pose = bout.pose((begin + finish) / 2)
        heights = sorted(float(pose[f"wrist_{side}"][1] - pose[f"shoulder_{side}"][1]) for side in "lr")
        assert (heights[0] < -0.3 < 0.1 < heights[1]) == mistaken


def test_same_seed_same_dataset(dataset: Path, tmp_path: Path) -> None:
    write_demo_dataset(tmp_path / "again", seed=3, workers=1, **SMALL)
    write_demo_dataset(tmp_path / "other", seed=4, workers=1, **SMALL)
    files = sorted(path.relative_to(dataset) for path in dataset.rglob("*") if path.is_file())
    assert len(files) == 6
    assert all((dataset / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in files)
    assert sorted(_videos(tmp_path / "other")) != sorted(_videos(dataset))


def test_features_of_the_demo_cnn_carry_motion(dataset: Path, weights: Path) -> None:
    cnn = load_cnn(weights / CNN_FILE)
    video = next(iter(_videos(dataset).values()))
    found = extract_video(video, qevd_seconds(_stamps(video)), ExtractorSettings(), cnn)
    # The first three seconds fill the temporal memory; their change is not motion.
    settled = found.features[12:].astype(np.float64)
    assert len(settled) > 40
    assert np.sqrt(settled.var(axis=0).mean()) > 0.1 * settled.std()  # most of a picture is the still room
    assert 0.2 < (settled > 0).mean() < 0.8
    assert (settled >= 6).mean() < 0.1


def _in_any_layer(name: str) -> str:
    return re.sub(r"layers\.\d+\.", "layers.N.", name)


def test_checkpoints_have_the_genuine_names(weights: Path) -> None:
    cnn = torch.load(weights / CNN_FILE, weights_only=True)
    genuine = json.loads((GOLDEN / "a_cnn" / "state_dict_keys_efficientnet.json").read_text())
    assert {name: list(tensor.shape) for name, tensor in cnn.items()} == {key[0]: list(key[1]) for key in genuine}
    combined = torch.load(weights / CHECKPOINT_FILE, weights_only=True)["state_dict"]
    genuine = json.loads((GOLDEN / "b_model" / "state_dict_keys_tiny.json").read_text())
    # The demo looks at the video in all four layers, the golden model in two.
    assert {_in_any_layer(name) for name in combined} == {_in_any_layer(key[0]) for key in genuine}


def test_weights_load_without_a_missing_or_left_over_key(weights: Path) -> None:
    config = StreamVlmConfig.from_folder(weights / LLAMA_FOLDER, CROSS_ATTENTION, LORA)
    model, tokenizer, report = load_stream_vlm(weights / LLAMA_FOLDER, weights / CHECKPOINT_FILE, config)
    assert (report.missing, report.left_over, report.mismatched) == ([], [], {})
    assert (tokenizer.size, model.config.vocab_size) == (576, 576)
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(weights / LLAMA_FOLDER).eval()
    ids = torch.tensor([tokenizer.encode("Go lower!")])
    with torch.inference_mode():
        ours = model(ids)[..., : config.vocab_size]
        assert torch.allclose(plain(ids).logits, ours, atol=1e-5)


def test_same_seed_same_weights(weights: Path, tmp_path: Path) -> None:
    write_demo_weights(tmp_path, seed=3)
    names = [path.relative_to(weights) for path in sorted(weights.rglob("*")) if path.is_file()]
    assert len(names) == 10
    assert all((weights / name).read_bytes() == (tmp_path / name).read_bytes() for name in names)


def test_archive_is_a_plain_tar_in_parts(dataset: Path, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "fitcoach_demo.tar.zz").write_bytes(b"older")
    parts = write_demo_archive(tmp_path, seed=3, part_bytes=20 * 2**20, **SMALL)
    assert json.loads((tmp_path / "parts.json").read_text())["parts"] == parts
    assert sorted(path.name for path in tmp_path.iterdir()) == [*(part["name"] for part in parts), "parts.json"]
    assert [part["name"] for part in parts][:2] == ["fitcoach_demo.tar.aa", "fitcoach_demo.tar.ab"]
    contents = [(tmp_path / part["name"]).read_bytes() for part in parts]
    for part, content in zip(parts, contents, strict=True):
        assert (part["size"], part["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert {len(content) for content in contents[:-1]} == {20 * 2**20}
    with tarfile.open(fileobj=io.BytesIO(b"".join(contents)), mode="r:") as archive:
        members = {member.name: member for member in archive.getmembers()}
        for folder, origin in (("data", dataset), ("weights", weights)):
            for path in (path for path in origin.rglob("*") if path.is_file()):
                name = f"{folder}/{path.relative_to(origin).as_posix()}"
                stream = archive.extractfile(name)
                assert stream is not None
                assert stream.read() == path.read_bytes()
                assert (members[name].mtime, members[name].uid, members[name].mode) == (0, 0, 0o644)


@pytest.mark.parametrize("part_bytes", [0, -1])
def test_archive_without_part_size_is_refused(tmp_path: Path, part_bytes: int) -> None:
    with pytest.raises(InputError, match="part_bytes"):
        write_demo_archive(tmp_path, seed=3, part_bytes=part_bytes, **SMALL)


def test_impossible_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exercise_seconds"):
        write_demo_dataset(tmp_path, seed=0, exercise_seconds=3.0)
