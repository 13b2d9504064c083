"""Questions, conversations, prompts and pictures against the original's datasets and processors."""

from __future__ import annotations

import numpy as np
import pytest
from golden import load_json
from hoiref_data import SYSTEM, arrays, dataset_file, expected_items, frame_folder
from PIL import Image
from sightline.systems.hoiref.annotations import FrameRoots, read_conversations, read_interactions, read_referrals
from sightline.systems.hoiref.pixels import load_rgb, tower_input
from sightline.systems.hoiref.questions import CONNECT, evaluation_prompt, join_conversation
from sightline.systems.hoiref.samples import interaction_question, referral_questions

EXPECTED = expected_items()
TRAIN = [name for name in EXPECTED if name.endswith("_train")]
TEST = [name for name in EXPECTED if not name.endswith("_train")]
CASES = load_json(SYSTEM, "preprocess", "cases.json") or []
IMAGES = arrays("dataset", "expected_images_28.npz")


def conversations(name: str) -> list:
    part = name.removesuffix("_train")
    return read_conversations(dataset_file(f"{name}.json"), part)


def questions(name: str) -> list:
    part, _, task = name.rpartition("_")
    if task == "hoi":
        return [interaction_question(record) for record in read_interactions(dataset_file(f"{part}_visor_test.json"))]
    records = read_referrals(dataset_file(f"{part}_test.json"))
    return [referral_questions(record, part)[("ref", "iden").index(task)] for record in records]


@pytest.mark.parametrize("name", TRAIN, ids=lambda name: f"hoiref-{name}")
def test_training_conversations(name):
    records = conversations(name)
    assert len(records) == len(EXPECTED[name])
    for record, wanted in zip(records, EXPECTED[name], strict=True):
        found = join_conversation(record.image_id, record.turns)
        assert found.questions == wanted["conv_q"]
        assert found.answers == wanted["conv_a"]
        assert found.image_id == wanted["image_id"]
        assert wanted["connect_sym"] == CONNECT


@pytest.mark.parametrize("name", TEST, ids=lambda name: f"hoiref-{name}")
def test_questions_and_prompts(name):
    found = questions(name)
    assert [one.key for one in found] == [row["id"] for row in EXPECTED[name]]
    assert [one.question for one in found] == [row["question"] for row in EXPECTED[name]]
    assert [evaluation_prompt(one.question) for one in found] == [row["prompt"] for row in EXPECTED[name]]


@pytest.mark.parametrize("key", list(IMAGES), ids=lambda key: f"hoiref-{key.replace('/', '-')}")
def test_pictures_of_items(key):
    name, _, number = key.partition("/")
    items = conversations(name) if name.endswith("_train") else questions(name)
    path = FrameRoots(frame_folder()).resolve(items[int(number)].image)
    found = tower_input(load_rgb(path), IMAGES[key].shape[-1])
    assert found.dtype == np.float32
    assert np.abs(found - IMAGES[key]).max() < 1e-6


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"hoiref-{case['name']}")
def test_preprocessing(case):
    wanted = {
        name.partition("/")[2]: value
        for name, value in arrays("preprocess", "expected.npz").items()
        if name.startswith(f"{case['name']}/")
    }
    y, x = np.mgrid[: case["height"], : case["width"]]
    channels = [
        ((p * x + q * y + r * (((x // 5) * (y // 3)) % 7) + s) % 256).astype(np.uint8)
        for p, q, r, s in case["coeffs_pqrs_per_channel"]
    ]
    pixels = channels[0] if case["mode"] == "L" else np.stack(channels, axis=2)
    rgb = np.asarray(Image.fromarray(pixels).convert("RGB"))
    assert wanted
    for kind, values in wanted.items():
        side = int(kind[1:].partition("_")[0])
        found = tower_input(rgb, side)
        if "_stride" in kind:
            step = int(kind.partition("_stride")[2])
            found = found[:, ::step, ::step]
        elif "_row" in kind:
            found = found[:, int(kind.partition("_row")[2])]
        assert found.shape == values.shape
        assert np.abs(found - values).max() < 1e-6, kind
    sides = {int(name.rpartition("_")[2]) for name in case if name.startswith("mean_")}
    for side in sides:
        whole = tower_input(rgb, side).astype(np.float64)
        for name in ("mean", "std", "min", "max"):
            found = getattr(whole, name)(axis=(1, 2))
            assert np.abs(found - np.array(case[f"{name}_{side}"])).max() < 1e-6
