"""Trainings in the configuration: what a trained variant needs, and mistakes in a user's words."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from sightline.config.load import merge
from sightline.config.needs import needed_assets
from sightline.config.plan import Plan
from sightline.errors import ConfigError
from sightline.registry import load_plan

CONFIG = Path(__file__).parents[2] / "config"
TUNED = {
    "title": "tuned",
    "weights_kind": "own",
    "extractor": "efficientnet3d",
    "assets": {"llama": {"asset": "llama2_7b", "file": "config.json"}},
    "cross_attention": {"layers": [6]},
    "seconds_per_item": 5,
    "trained_by": "second",
}
TRAINING = {
    "first": {"title": "first", "dataset": "qevd_train", "base": "stream_vlm", "epochs": 2},
    "second": {"title": "second", "dataset": "qevd_train", "base": "between", "processes": 4, "gpu_memory_gb": 80},
}


def plan_of(variants: dict[str, Any] | None = None, training: dict[str, Any] | None = None) -> Plan:
    base = yaml.safe_load((CONFIG / "config.yaml").read_text())
    ours = {
        "runs": [{"system": "fitcoach", "datasets": ["qevd_test"], "variants": ["tuned"]}],
        "systems": {
            "fitcoach": {
                "variants": {"tuned": TUNED, "between": {**TUNED, "trained_by": "first"}, **(variants or {})},
                "training": {**TRAINING, **(training or {})},
            }
        },
    }
    return load_plan(merge(base, ours), CONFIG)


def test_a_trained_variant_reads_its_checkpoint_and_needs_what_trains_it():
    plan = plan_of()
    trainings = plan.room("fitcoach").training
    second, first = SimpleNamespace(training="second"), SimpleNamespace(training="first")
    assert trainings.of_variant(SimpleNamespace(variant="tuned")) == [
        "results/checkpoints/fitcoach/second/state_dict.pth.tar"
    ]
    assert trainings.of_variant(SimpleNamespace(variant="stream_vlm")) == []
    assert trainings.base_checkpoint(second) == ["results/checkpoints/fitcoach/first/state_dict.pth.tar"]
    assert trainings.base_checkpoint(first) == []
    assert trainings.weights_assets(first) == ["llama2_7b", "streamvlm_weights"]
    assert (trainings.gpus(second), trainings.gpus(first)) == (4, 0)
    assert plan.training_records() == [
        f"results/checkpoints/fitcoach/{name}/training.json" for name in ("second", "first")
    ]
    needs = needed_assets(plan)
    assert "training first" in needs["qevd_train"]
    assert needs["streamvlm_weights"] == ["checkpoint of training first"]


def test_settings_hold_what_decides_the_result_and_nothing_that_sizes_the_job():
    settings = plan_of().room("fitcoach").training.settings(SimpleNamespace(training="first"))
    assert settings["epochs"] == 2
    assert settings["base"]["mode"] == "single_exercise"
    assert not {"title", "mem_mb", "minutes", "gpu_memory_gb"} & settings.keys()
    assert "batch_limit" not in settings["base"]


def test_a_variant_that_is_not_trained_keeps_its_settings():
    """Its predictions' keys hold them: a key of ours must not make anybody's rows stale."""
    settings = plan_of().room("fitcoach").settings(SimpleNamespace(variant="stream_vlm"))
    assert "trained_by" not in settings
    assert plan_of().room("fitcoach").settings(SimpleNamespace(variant="tuned"))["trained_by"] == "second"


@pytest.mark.parametrize(
    ("variants", "training", "message"),
    [
        ({"between": {**TUNED, "trained_by": "frist"}}, {}, "trained_by: frist is unknown. Did you mean first?"),
        ({}, {"first": {**TRAINING["first"], "base": "stream_vm"}}, "first.base: stream_vm is unknown. Did you mean"),
        ({}, {"first": {**TRAINING["first"], "dataset": "qevd_trian"}}, "qevd_trian is unknown. Did you mean"),
        ({}, {"first": {**TRAINING["first"], "base": "between"}}, "starts from its own result"),
        ({"tuned": {**TUNED, "trained_by": None}}, {}, "assets lacks checkpoint; only trained_by stands for"),
        ({}, {"first": {**TRAINING["first"], "learning_rat": 1}}, "Did you mean learning_rate?"),
    ],
)
def test_mistakes_are_said(variants, training, message):
    with pytest.raises(ConfigError) as caught:
        plan_of(variants, training)
    assert any(message in problem for problem in caught.value.problems), caught.value.problems
