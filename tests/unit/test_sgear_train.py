"""Training and answering with S-GEAR: resumed bit by bit, the published schedule and sums, clear refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sightline.errors import ConfigError, InputError, NonFiniteError
from sightline.features.opening import open_store
from sightline.records.types import Sample
from sightline.systems.sgear.embeddings import class_embeddings, gather
from sightline.systems.sgear.losses import LossWeights, Targets, element_losses, sample_losses
from sightline.systems.sgear.model.sgear import Sgear
from sightline.systems.sgear.predict import PredictSettings, SgearPredictor, shifted
from sightline.systems.sgear.records import Anticipation, SgearPayload
from sightline.systems.sgear.schedule import WarmupCosine
from sightline.systems.sgear.train import TrainSettings, freeze_untouched, train
from sightline.training.loop import LoopSettings

from tests.unit.sgear_tiny import CLASSES, FRAMES, Features, config, random_model, sample, vit_config

SCRIPT = Path(__file__).with_name("sgear_trained_in_a_process.py")
SAMPLES = [sample(number) for number in range(12)]
PAST = LossWeights(1.0, 1.0, 0.1, 0.0, 1.0, 0.0)


def settings(loop: dict | None = None, **changes: object) -> TrainSettings:
    plain = {"epochs": 2, "batch_size": 4, "learning_rate": 0.01, "optimizer": "sgd", "weight_decay": 0.0}
    return TrainSettings(loop=LoopSettings(**{**plain, **(loop or {})}), **changes)


def untrained() -> Sgear:
    torch.manual_seed(3)
    model = Sgear(config(dropout=0.0, decoder=replace(config().decoder, dropout=0.0)))
    with torch.no_grad():
        model.vis_prototypes.normal_()
    return model


def tensors(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([one.detach().flatten() for one in model.parameters()])


def run_cases(tmp_path: Path, cases: list[dict]) -> list[int]:
    for case in cases:
        Path(case["folder"]).mkdir(exist_ok=True)
    path = tmp_path / "cases.json"
    path.write_text(json.dumps(cases))
    done = subprocess.run([sys.executable, str(SCRIPT), str(path)], capture_output=True, text=True, timeout=400)
    assert done.stdout, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_killed_training_ends_with_the_same_bytes(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    kills = [{"folder": str(killed), "kill_at": step} for step in (0, 3, 7)]
    cases = [{"folder": str(whole)}, *kills, {"folder": str(killed)}]
    assert run_cases(tmp_path, cases) == [0, -9, -9, -9, 0]
    for name in ("checkpoint.pth", "work/state.pt", "work/curve.jsonl"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name


def test_two_processes_train_what_one_does_with_twice_the_accumulation(tmp_path):
    one, two = ({"folder": str(tmp_path / name)} for name in ("one", "two"))
    cases = [{**one, "processes": 1, "accumulation": 4}, {**two, "processes": 2, "accumulation": 2}]
    assert run_cases(tmp_path, cases) == [0, 0]
    curves = [json.loads((tmp_path / name / "curve.json").read_text()) for name in ("one", "two")]
    assert [row["items"] for row in curves[0]] == [12, 2] * 3
    for mine, theirs in zip(*curves, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    states = [torch.load(tmp_path / name / "checkpoint.pth", weights_only=True)["model"] for name in ("one", "two")]
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], atol=1e-5, rtol=1e-4)


def test_training_learns_what_the_features_show():
    model = untrained()
    many = [sample(number) for number in range(64)]
    loop = {"epochs": 20, "batch_size": 16, "optimizer": "adamw", "learning_rate": 0.01}
    losses = LossWeights(feat=0.0, target_distance=0.0)
    curve = train(many, Features(), model, settings(loop, cache_mb=4, losses=losses)).curve
    assert curve[-1]["loss"] < 0.5 * curve[0]["loss"]
    answers = SgearPredictor(model, Features(), PredictSettings()).predict(many)
    right = [one.output["top"][0] == two.payload["action"] for one, two in zip(answers, many, strict=True)]
    assert np.mean(right) > 0.8


def test_half_precision_trains_close_to_float32():
    loop = {"epochs": 1, "batch_size": 12}
    whole = train(SAMPLES, Features(), untrained(), settings(loop, losses=PAST)).curve
    model = untrained()
    half = train(SAMPLES, Features(), model, settings({**loop, "precision": "bfloat16"}, losses=PAST)).curve
    assert half[0]["loss"] == pytest.approx(whole[0]["loss"], rel=0.01)
    assert half[0]["loss"] != whole[0]["loss"]
    assert all(one.dtype == torch.float32 for one in model.parameters())


def test_inputs_are_kept_and_read_once():
    kept, read = Features(), Features()
    one, two = untrained(), untrained()
    train(SAMPLES, kept, one, settings(cache_mb=1))
    train(SAMPLES, read, two, settings())
    assert (kept.asked, read.asked) == (len(SAMPLES), 2 * len(SAMPLES))
    assert torch.equal(tensors(one), tensors(two))


def test_accumulated_means_are_summed_as_published():
    """With plain SGD, adding up two means is one step at twice the rate."""
    common = {"epochs": 1, "batch_size": 2, "accumulation": 2, "momentum": 0.0, "max_grad_norm": None}
    summed, doubled = untrained(), untrained()
    train(SAMPLES, Features(), summed, settings(common, sum_accumulated=True))
    train(SAMPLES, Features(), doubled, settings({**common, "learning_rate": 0.02}))
    torch.testing.assert_close(tensors(summed), tensors(doubled), atol=1e-6, rtol=1e-5)


def test_the_published_schedule_reaches_the_optimiser():
    loop = {"epochs": 3, "batch_size": 2, "accumulation": 2, "schedule": "cosine"}
    curve = train(SAMPLES, Features(), untrained(), settings(loop, warmup_epochs=1)).curve
    plan = WarmupCosine(6, 1, 2)
    rates = [0.01 * plan.factor(iteration) for iteration in (1, 3, 5, 7, 9, 11, 13, 15, 17)]
    assert [row["learning_rate"] for row in curve] == pytest.approx(rates)
    assert plan.at_step(2, 4) == plan.factor(9)  # six iterations in steps of four: the second step has two


def test_only_what_a_loss_reaches_is_trained():
    model = random_model(vit_config(prototype_attention=False))
    assert freeze_untouched(model, LossWeights()) == ["TCA.0.attn.alpha", "alpha"]
    for name, one in model.named_parameters():
        assert one.requires_grad == (name not in ("TCA.0.attn.alpha", "alpha"))


def test_rows_without_a_class_count_nothing_beyond_cross_entropy():
    model = random_model(config())
    outputs = model(torch.randn(2, FRAMES, 10))
    language = torch.rand(CLASSES, CLASSES)
    targets = Targets(torch.tensor([3, -1]), torch.full((2, FRAMES), -1))
    masked, original = (
        element_losses(outputs, targets, language, model.vis_prototypes, unlabelled=how)
        for how in ("masked", "original")
    )
    for name in ("cls_action", "global_simContrast", "target_distance"):
        assert masked[name][1] == 0
        assert torch.equal(masked[name][0], original[name][0])
    assert original["target_distance"][1] > 0
    assert not masked["past_cls_action"].any()
    assert not masked["past_target_global_simContrast"].any()
    total = sample_losses(masked, LossWeights(2.0, 0.0, 1.0, 0.0, 0.0, 0.0))
    torch.testing.assert_close(total, 2 * masked["cls_action"] + masked["feat"].mean(dim=(1, 2)))


def test_samples_with_nothing_stored_do_not_count():
    with_empty, without = untrained(), untrained()
    loop = {"epochs": 1, "batch_size": 4, "shuffle": False, "momentum": 0.0, "max_grad_norm": None}
    train(SAMPLES[:4], Features(empty={1, 3}), with_empty, settings(loop))
    train([SAMPLES[0], SAMPLES[2]], Features(), without, settings({**loop, "learning_rate": 0.005}))
    torch.testing.assert_close(tensors(with_empty), tensors(without), atol=1e-6, rtol=1e-5)


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(InputError, match="nothing to train on"):
        train([], Features(), untrained(), settings())
    with pytest.raises(InputError, match=r"0 labels of the past for 4 frames"):
        train([sample(0, past=False)], Features(), untrained(), settings(losses=PAST))
    with pytest.raises(InputError, match="beyond the model's 9"):
        train([sample(0, 9)], Features(), untrained(), settings())
    with pytest.raises(ConfigError, match="global_simContrast needs language"):
        train(SAMPLES, Features(), untrained(), settings(losses=LossWeights(global_simContrast=1.0)))
    with pytest.raises(ConfigError, match="every loss has weight 0"):
        train(SAMPLES, Features(), untrained(), settings(losses=LossWeights(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)))
    with pytest.raises(NonFiniteError, match="P01_1_2"):
        train(SAMPLES, Features(broken={2}), untrained(), settings())


# ------------------------------------------------------------------------------------------- answers
def test_answers_name_their_logits_and_failures_say_why(tmp_path):
    model = random_model(config())
    with open_store(tmp_path / "logits.lmdb", "lmdb", "a") as store:
        features = Features(empty={1}, broken={3})
        predictor = SgearPredictor(model, features, PredictSettings(batch_limit=2), store=store, run_key="run")
        answers = predictor.predict(SAMPLES[:5])
        assert [one.status for one in answers] == ["ok", "failed", "ok", "failed", "ok"]
        assert [answers[1].reason, answers[3].reason] == ["no_features", "non_finite"]
        rows = [answers[place].files["logits"] for place in (0, 2, 4)]
        assert [row["row"] for row in rows] == [0, 1, 2]
        kept = store.read(rows[0]["key"])["logits"]
        assert kept.shape == (3, CLASSES)
        assert kept.dtype == np.float32
        for place, answer in zip((0, 2, 4), (answers[0], answers[2], answers[4]), strict=True):
            payload = SgearPayload.from_json(SAMPLES[place].payload)
            alone = model(torch.from_numpy(features([payload]).values)).logits.detach().numpy()[0]
            np.testing.assert_allclose(kept[answer.files["logits"]["row"]], alone, atol=1e-5)
            output = Anticipation.from_json(answer.output)
            assert output.top == np.argsort(-alone)[:5].tolist()
            assert output.top_logits == pytest.approx(alone[output.top], abs=1e-5)
        asked = features.asked
        assert predictor.predict(SAMPLES[:5]) == answers  # what is stored is not computed again
        assert features.asked == asked


def test_further_horizons_move_the_window():
    model = random_model(config())
    features = Features()
    predictor = SgearPredictor(model, features, PredictSettings(horizons=(0.5, 20.0)))
    late = SAMPLES[6]
    answer = predictor.predict([SAMPLES[0], late])[1]
    assert set(answer.output["horizons"]) == {"0.5", "20"}
    payload = SgearPayload.from_json(late.payload)
    moved = shifted(payload, 0.5)
    assert (moved.start, moved.end) == (payload.action_start - 4.5, payload.action_start - 0.5)
    logits = predictor.logits([moved])[0][0]
    assert answer.output["horizons"]["0.5"] == np.argsort(-logits)[:5].tolist()
    assert answer.output["horizons"]["20"] == [-1] * 5  # before the video begins
    near = SgearPredictor(model, features, PredictSettings(horizons=(1.0,))).predict([late])[0]
    assert near.output["horizons"]["1"] == near.output["top"]


def test_prototypes_come_from_the_first_samples_of_each_class():
    model = random_model(config())
    many = [sample(number) for number in range(40)]
    lost = Features(empty={0}, broken={9})
    found = class_embeddings(many[::-1], lost, model, per_class=2, batch=3)
    wanted = [row for row in range(1, 27) if row != 9]
    wanted = [row for row in wanted if sum(other % CLASSES == row % CLASSES for other in wanted if other < row) < 2]
    assert found.rows.tolist() == [*wanted, 27]  # class 0 lost its first two
    assert found.classes.tolist() == [row % CLASSES for row in found.rows]
    payload = SgearPayload.from_json(many[5].payload)
    expected = model(torch.from_numpy(lost([payload]).values)).future_agg.detach().numpy()[0]
    np.testing.assert_allclose(found.vectors[found.rows.tolist().index(5)], expected, atol=1e-5)
    parts = [class_embeddings(many[start::3], lost, model, per_class=2, batch=3) for start in range(3)]
    joined = gather(parts, per_class=2)
    assert joined.rows.tolist() == found.rows.tolist()
    np.testing.assert_allclose(joined.vectors, found.vectors, atol=1e-5)
    assert {label: len(one) for label, one in joined.per_class().items()} == dict.fromkeys(range(CLASSES), 2)


def test_unlabelled_samples_give_no_prototype():
    rows = [sample(0), Sample(**sample(1, -1).to_json())]
    assert class_embeddings(rows, Features(), random_model(config())).rows.tolist() == [0]
