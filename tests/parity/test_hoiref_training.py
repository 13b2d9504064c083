"""Schedule, optimiser groups and choice of loaders against the original's."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from golden import load_json
from hoiref_data import SYSTEM
from hoiref_model import facts, golden_model
from sightline.errors import ConfigError
from sightline.systems.hoiref.schedule import RELEASED_YAML, Schedule, check_schedule, choose_loaders
from sightline.systems.hoiref.train import LORA_AND_PROJECTION, RELEASED_LOOP, select_trainable
from sightline.training.optimizers import make_optimizer, make_schedule

MISC = load_json(SYSTEM, "training_misc.json") or {}
SCHEDULES = MISC.get("lr_schedules", [])
PICKS = MISC.get("multi_iter_picks", [])
GROUPS = [pytest.param(MISC[name], id="hoiref-groups") for name in ("optimizer_groups",) if name in MISC and facts()]


def schedule_of(given):
    return Schedule(
        init_lr=given["init_lr"],
        min_lr=given["min_lr"],
        warmup_lr=given.get("warmup_start_lr"),
        warmup_steps=given["warmup_steps"],
        epochs=given["max_epoch"],
        steps_per_epoch=given["iters_per_epoch"],
        rule="published",
    )


@pytest.mark.parametrize("number", range(len(SCHEDULES)), ids=lambda number: f"hoiref-schedule{number}")
def test_learning_rates(number):
    given, wanted = SCHEDULES[number]["args"], SCHEDULES[number]["lr_per_step"]
    schedule = schedule_of(given)
    assert schedule.steps == len(wanted)
    assert [schedule.rate(step) for step in range(len(wanted))] == pytest.approx(wanted, rel=1e-12, abs=0)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=schedule.init_lr)
    stepped = make_schedule(optimizer, RELEASED_LOOP, schedule.steps, schedule.factor)
    for rate in wanted:
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate, rel=1e-9)
        optimizer.step()
        stepped.step()


@pytest.mark.parametrize("number", range(len(SCHEDULES)), ids=lambda number: f"hoiref-refusal{number}")
def test_a_rising_rate_is_refused_unless_asked_for(number):
    given = SCHEDULES[number]["args"]
    schedule = schedule_of(given)
    rises = given["min_lr"] > given["init_lr"]
    assert any("rise" in problem for problem in schedule.problems()) == rises
    check_schedule(schedule, (RELEASED_YAML,))
    if schedule.problems():
        with pytest.raises(ConfigError, match=RELEASED_YAML):
            check_schedule(schedule)


@pytest.mark.parametrize("groups", GROUPS)
def test_optimizer_groups(groups):
    model = golden_model()
    select_trainable(model, LORA_AND_PROJECTION)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    made = make_optimizer(model, RELEASED_LOOP).param_groups
    model.requires_grad_(False)
    assert len(made) == len(groups)
    for found, wanted in zip(made, groups, strict=True):
        assert sorted(names[id(parameter)] for parameter in found["params"]) == sorted(wanted["names"])
        assert found["weight_decay"] == wanted["weight_decay"]
        assert list(found["betas"]) == wanted["betas"]
        assert found["eps"] == wanted["eps"]


@pytest.mark.parametrize("number", range(len(PICKS)), ids=lambda number: f"hoiref-picks{number}")
def test_choice_of_loaders(number):
    case = PICKS[number]
    ratios = case["ratios"] or [1] * (max(case["picks"]) + 1)
    assert list(islice(choose_loaders(ratios, case["random_seed"]), len(case["picks"]))) == case["picks"]
