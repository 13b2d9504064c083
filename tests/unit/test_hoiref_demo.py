"""The demo's data, answers without looking, and what the card refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from sightline.errors import InputError
from sightline.records.types import View
from sightline.report.kinds import BoxesView
from sightline.report.plots import BOXES_WIDTH, draw_boxes
from sightline.systems.hoiref.annotations import TRAIN_FILES, TrainRecord, read_conversations, shared_images
from sightline.systems.hoiref.blind import baseline_rows, blind_answers, count_blind
from sightline.systems.hoiref.card import HoirefTraining
from sightline.systems.hoiref.demo import Sizes, draw_splits, write_demo_dataset
from sightline.systems.hoiref.demo_scenes import GRID, cells_of, paint
from sightline.systems.hoiref.frames import check_shape
from sightline.systems.hoiref.pixels import load_rgb
from sightline.systems.hoiref.records import PARTS, Question
from sightline.systems.hoiref.refer import asked_text
from sightline.systems.hoiref.samples import build_samples, read_test_split
from sightline.systems.hoiref.score import ScoreSettings, score

SMALL = Sizes(train_videos=3, train_frames=2, test_videos=1, test_frames=2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_demo_dataset(folder, seed=3, sizes=SMALL)
    return folder


def test_demo_has_the_genuine_layout(dataset: Path) -> None:
    split = read_test_split(dataset / "hoiqa_dataset")
    assert set(split) == set(PARTS)
    train = [
        row for part, name in TRAIN_FILES.items() for row in read_conversations(dataset / "hoiqa_dataset" / name, part)
    ]
    assert shared_images(train, split) == dict.fromkeys(PARTS, 0)
    for sample in build_samples(split).samples:
        question = Question.from_json(sample.payload)
        pixels = load_rgb(dataset / question.image)
        assert check_shape(question.image, question.part, pixels.shape[1], pixels.shape[0]) is None
    assert all((dataset / row.image).is_file() for row in train)


def test_demo_is_a_function_of_its_seed(dataset: Path, tmp_path: Path) -> None:
    write_demo_dataset(tmp_path, seed=3, sizes=SMALL)
    files = sorted(path.relative_to(dataset) for path in dataset.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert all((dataset / name).read_bytes() == (tmp_path / name).read_bytes() for name in files)


def test_what_a_hand_holds_is_in_the_cell_above_it() -> None:
    for video in draw_splits(1, SMALL)[0]:
        for scene in video.scenes:
            cells = cells_of(scene)
            assert len(set(cells)) == len(cells)
            for cell, entity in zip(cells, scene.entities, strict=True):
                if entity.holds is not None:
                    assert cells[entity.holds] == cell - GRID


def test_a_thing_is_painted_where_its_box_says() -> None:
    video = draw_splits(1, SMALL)[0][0]
    scene = next(scene for scene in video.scenes if len(scene.entities) > 2)
    picture = paint(scene, video.part, video.table, np.random.default_rng(0)).astype(float)
    scale = picture.shape[1] / scene.size[0]
    for entity in scene.entities[2:]:
        x, y = (round(scale * (entity.box[place] + entity.box[place + 2]) / 2) for place in (0, 1))
        assert np.abs(picture[y, x] - np.array(video.table)).max() > 20, entity.name


def test_blind_answers_are_counted_on_the_training_split() -> None:
    said = [
        "{<10><10><20><20>}",
        "{<12><12><22><22>}",
        "{<70><70><90><90>}",
        "cup",
        "Cup",
        "pan",
        "<p>cup</p> {<1><1><3><3>}",
    ]
    found = count_blind([TrainRecord("epic", n, "a/b.jpg", ["?", text]) for n, text in enumerate(said)])
    assert (found.name, found.boxes) == ("cup", 4)
    assert found.frequent == pytest.approx([11, 11, 21, 21])
    assert found.centre[0] == pytest.approx(50 - (10 + 10 + 20 + 2) / 8)
    with pytest.raises(InputError, match="no answer"):
        count_blind([TrainRecord("epic", 1, "a/b.jpg", ["?", "cup"])])


def test_a_model_that_answers_blindly_has_nothing_over_itself(dataset: Path) -> None:
    samples = build_samples(read_test_split(dataset / "hoiqa_dataset")).samples
    records = read_conversations(dataset / "hoiqa_dataset" / TRAIN_FILES["epic"], "epic")
    blind = count_blind(records)
    rows, _ = score(samples, blind_answers(samples, blind.frequent, blind.name), ScoreSettings())
    found = baseline_rows(samples, rows, blind, (0.5,))
    over = [row.value for row in found if row.metric == "over_frequent_box_mean_iou" and row.status == "scored"]
    assert set(over) == {0.0}
    assert any(row.value for row in found if row.metric == "over_centre_box_mean_iou")


def test_the_released_schedule_is_refused_with_its_reason() -> None:
    released = {
        "title": "t", "dataset": "d", "base": "b", "rule": "published", "epochs": 2, "steps_per_epoch": 36,
        "learning_rate": 1e-5, "min_learning_rate": 8e-5, "warmup_steps": 1000,
    }  # fmt: skip
    with pytest.raises(ValidationError, match=r"rise to the end.*never leave the warm-up"):
        HoirefTraining(**released)
    assert HoirefTraining(**released, compat=["released_yaml"]).as_schedule().steps == 72


def test_boxes_are_drawn_inside_their_frame() -> None:
    view = BoxesView("t", "s", 1920, 1080, [[0, 0, 960, 540]], [[1900, 500, -50, 2000]], "", "said")
    figure = draw_boxes(BoxesView.of(view.to_view("one", [])))
    assert figure.height == pytest.approx(BOXES_WIDTH * 9 / 16)
    assert figure.truth == ((0, 0, BOXES_WIDTH / 2, figure.height / 2),)
    x, y, width, height = figure.found[0]
    assert x == 0
    assert x + width <= BOXES_WIDTH
    assert y + height <= figure.height + 0.1


@pytest.mark.parametrize("payload", [{"truth": [[1, 2, 3]]}, {"width": 0}], ids=["three-numbers", "no-width"])
def test_malformed_boxes_are_refused(payload: dict) -> None:
    good = BoxesView("t", "s", 10, 10, [], [], "", "").to_view("one", [])
    with pytest.raises(InputError):
        BoxesView.of(View(good.id, good.kind, {**good.payload, **payload}))


def test_one_picture_is_asked_with_tag_and_box() -> None:
    assert asked_text("Where is the cup", None, None, (200, 100)) == "Where is the cup"
    shown = asked_text("what is this", "identify", [20, 10, 100, 50], (200, 100))
    assert shown == "[identify] what is this {<10><10><50><50>}"
    assert asked_text("", None, [20, 10, 100, 50], (200, 100)) == "{<10><10><50><50>}"
    with pytest.raises(InputError, match="no question"):
        asked_text("", "refer", None, (200, 100))
    with pytest.raises(InputError, match="200x100"):
        asked_text("", None, [20, 10, 300, 50], (200, 100))
