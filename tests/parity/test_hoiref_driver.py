"""Inference end to end against the original's driver, grouped by picture and in batches."""

from __future__ import annotations

import pytest
import torch
from golden import load_json
from hoiref_data import SYSTEM, arrays, dataset_file, expected_items, frame_folder
from hoiref_model import StubTokenizer, facts, golden_model
from sightline.llm.base import Sampling
from sightline.run.shards import compute_block, make_plan
from sightline.systems.hoiref.annotations import FrameRoots, read_interactions, read_referrals
from sightline.systems.hoiref.asking import Asker
from sightline.systems.hoiref.exchange import released_tables
from sightline.systems.hoiref.pixels import load_rgb
from sightline.systems.hoiref.predict import Predictor, PredictSettings
from sightline.systems.hoiref.samples import build_samples

FILES = {"epic": "pred.json", "ego4d": "pred_ego4d.json", "visor": "pred_hoi.json"}
RUN = load_json(SYSTEM, "driver", "run.json") if facts() and expected_items() else None
GENERATED = load_json(SYSTEM, "model", "generate.json") or []


@pytest.mark.parametrize("batch_limit", [1, 3, 8] if RUN else [], ids=lambda limit: f"hoiref-driver-batch{limit}")
def test_driver(batch_limit):
    model = golden_model()
    split = {
        "epic": read_referrals(dataset_file("epic_test.json")),
        "ego4d": read_referrals(dataset_file("ego4d_test.json")),
        "visor": read_interactions(dataset_file("epic_visor_test.json")),
    }
    samples = build_samples(split).samples
    assert model.config.vision.image_size == RUN["image_size"]
    asker, roots = Asker(model, StubTokenizer()), FrameRoots(frame_folder())
    settings = PredictSettings(RUN["generate_kwargs"][0]["max_new_tokens"], batch_limit)
    predictor = Predictor(asker, settings, lambda image: load_rgb(roots.resolve(image)))
    by_id = {sample.id: sample for sample in samples}
    plan = make_plan(samples, 2, declared_seconds=None)
    found = [
        prediction
        for blocks in plan["shards"].values()
        for block in blocks
        for prediction in compute_block(predictor, [by_id[name] for name in block], "key")
    ]
    assert released_tables(samples, found) == {part: load_json(SYSTEM, "driver", name) for part, name in FILES.items()}
    assert asker.calls.pictures == len({sample.group for sample in samples})
    assert asker.calls.questions == len(samples)


@pytest.mark.parametrize("case", GENERATED, ids=lambda case: f"hoiref-{case['tag']}")
def test_generation(case):
    asker = Asker(golden_model(), StubTokenizer())
    images = torch.from_numpy(arrays("model", "vision.npz")["image"])
    seen = [asker.look_at(images[index]) for index in case["sample_indices"]]
    sampling = Sampling(max_new_tokens=case["generate_kwargs"]["max_new_tokens"])
    answers = asker.ask(list(zip(seen, case["questions"], strict=True)), sampling)
    assert [answer.text for answer in answers] == case["answers"]
    assert [answer.tokens for answer in answers] == [
        [number for number in ids[1:] if number != asker.marks.eos] for ids in case["output_ids"]
    ]
