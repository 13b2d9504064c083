"""S-GEAR's learning rate, iteration by iteration, as torch's optimiser gets it."""

from __future__ import annotations

import pytest
import torch
from golden import load_json
from sightline.systems.sgear.schedule import WarmupCosine
from sightline.training.optimizers import LoopSettings, make_optimizer, make_schedule

CASES = load_json("sgear", "preproc_schedule", "lr_schedule.json") or []


@pytest.mark.parametrize("case", [pytest.param(one, id=f"sgear-schedule-{n}") for n, one in enumerate(CASES)])
def test_learning_rate_before_each_iteration(case):
    plan = WarmupCosine(case["iters_per_epoch"], case["warmup_epochs"], case["cosine_epochs"])
    settings = LoopSettings(optimizer="sgd", learning_rate=case["lr"] * case["world_size"])
    optimizer = make_optimizer(torch.nn.Linear(1, 1), settings)
    schedule = make_schedule(optimizer, settings, len(case["lr_at_iteration"]), lambda step: plan.at_step(step, 1))
    for number, want in enumerate(case["lr_at_iteration"]):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(want, rel=1e-12, abs=1e-15), number
        optimizer.step()
        schedule.step()
