"""The training loop: same result however it is cut, killed, stopped or spread; clear errors where it cannot go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sightline.errors import ConfigError, InputError, NonFiniteError, StoreError
from sightline.training.loop import Durable, LoopSettings, Work, step_items, train_loop
from sightline.training.state import rng_state, set_rng_state, write_torch
from torch import nn

SCRIPT = Path(__file__).with_name("trained_in_a_process.py")
LIB = Path(__file__).parents[2] / "lib"
LOOP = {
    "epochs": 3,
    "batch_size": 2,
    "accumulation": 2,
    "learning_rate": 0.01,
    "warmup_steps": 2,
    "schedule": "cosine",
    "save_every": 2,
}
STEPS = 9  # ten items in steps of four: the last of each epoch takes the two left over


def run_script(cases: list[dict]) -> subprocess.CompletedProcess:
    path = Path(cases[0]["folder"]).parent / "cases.json"
    path.write_text(json.dumps(cases))
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(path)],
        env={**os.environ, "PYTHONPATH": str(LIB), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def folder(tmp_path: Path, name: str) -> str:
    (tmp_path / name).mkdir()
    return str(tmp_path / name)


def result(where: str) -> dict:
    return json.loads(Path(where, "result.json").read_text())


def test_a_killed_or_stopped_training_ends_with_the_same_bytes(tmp_path):
    plain, killed, stopped = (folder(tmp_path, name) for name in ("plain", "killed", "stopped"))
    kills = [0, 1, 4, 7, 8]
    cases = [
        {"folder": plain, "loop": LOOP},
        *({"folder": killed, "loop": LOOP, "kill_at": step} for step in kills),
        {"folder": killed, "loop": LOOP},
        {"folder": stopped, "loop": {**LOOP, "save_every": 0}, "term_at": 4},
        {"folder": stopped, "loop": LOOP, "term_at": STEPS - 1},
    ]
    done = run_script(cases)
    assert json.loads(done.stdout or "null") == [0, *[-9] * len(kills), 0, 75, 0], done.stderr
    assert "step 5 of 9" in done.stderr
    assert result(plain)["resumed_at"] == 0
    assert result(killed)["resumed_at"] == 8  # the last checkpoint before the last kill
    assert result(stopped)["resumed_at"] == 5
    assert len(result(plain)["curve"]) == STEPS
    for name in ("final.pt", "work/state.pt", "work/curve.jsonl"):
        whole = Path(plain, name).read_bytes()
        assert Path(killed, name).read_bytes() == whole, name
        assert Path(stopped, name).read_bytes() == whole, name
    assert list(Path(killed, "events").glob("events.out.tfevents.*"))
    assert not list(Path(killed, "work").glob(".*"))


def test_two_processes_are_one_with_twice_the_accumulation(tmp_path):
    common = {"items": 11, "statistics": False, "dropout": 0.0, "noise": False}
    loop = {**LOOP, "epochs": 2, "save_every": 0}
    one, two = folder(tmp_path, "one"), folder(tmp_path, "two")
    cases = [
        {"folder": one, "loop": {**loop, "accumulation": 4}, **common},
        {"folder": two, "loop": loop, "processes": 2, "stop_all_at": 1, **common},
        {"folder": two, "loop": loop, "processes": 2, "fail_at": 3, **common},
        {"folder": two, "loop": loop, "processes": 2, **common},
    ]
    done = run_script(cases)
    assert json.loads(done.stdout.splitlines()[-1]) == [0, 75, 1, 0], done.stderr
    assert "process 1 of 2 failed" in done.stderr
    assert "item7: the loss is broken" in done.stderr
    assert 2 <= result(two)["resumed_at"] < 4
    assert result(two)["processes"] == 2
    rows = list(zip(result(one)["curve"], result(two)["curve"], strict=True))
    assert [row["items"] for row, _ in rows] == [8, 3, 8, 3]
    for mine, theirs in rows:
        assert mine == pytest.approx(theirs, abs=1e-5)
    states = [torch.load(Path(where, "final.pt"), weights_only=True) for where in (one, two)]
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------- in this process
def line(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(3, 1)


def work(items: int = 5, *, bad: int | None = None) -> Work:
    data = torch.from_numpy(np.random.default_rng(1).standard_normal((items, 4)).astype(np.float32))
    if bad is not None:
        data[bad] = float("nan")

    def losses(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return (model(batch[:, :3])[:, 0] - batch[:, 3]).square()

    return Work([f"item{n}" for n in range(items)], lambda chosen: data[chosen], losses)


def weights(settings: LoopSettings, **options) -> torch.Tensor:
    model = line()
    train_loop(model, work(), settings, **options)
    return torch.cat([model.weight.detach().flatten(), model.bias.detach()])


def test_micro_batches_and_accumulation_change_nothing_but_rounding():
    whole = weights(LoopSettings(epochs=4, batch_size=4, learning_rate=0.1))
    for size, accumulation in ((1, 4), (2, 2)):
        cut = weights(LoopSettings(epochs=4, batch_size=size, accumulation=accumulation, learning_rate=0.1))
        torch.testing.assert_close(cut, whole, atol=1e-5, rtol=1e-5)


def test_left_over_items_are_a_step_of_their_own():
    model = line()
    curve = train_loop(model, work(5), LoopSettings(epochs=2, batch_size=2, accumulation=2)).curve
    assert [row["items"] for row in curve] == [4, 1, 4, 1]
    assert [row["epoch"] for row in curve] == [1, 1, 2, 2]
    assert not model.training


def test_every_epoch_takes_every_item_once_in_its_own_order():
    orders = []
    for epoch in range(3):
        steps = [step_items(7, 3, epoch * 3 + place, seed=1, shuffle=True) for place in range(3)]
        assert {number for number, _ in steps} == {epoch}
        orders.append([item for _, items in steps for item in items])
        assert sorted(orders[-1]) == list(range(7))
    assert orders[0] != orders[1]
    assert step_items(7, 3, 2, seed=9, shuffle=False) == (0, [6])


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.0, 0.5, 1.0, 0.853553, 0.5, 0.146447]),
    ],
)
def test_the_learning_rate_warms_up_and_follows_its_schedule(schedule, expected):
    settings = LoopSettings(epochs=None, max_steps=6, warmup_steps=2, learning_rate=1.0, schedule=schedule)
    curve = train_loop(line(), work(), settings).curve
    assert [row["learning_rate"] for row in curve] == pytest.approx(expected, abs=1e-5)


def test_gradients_are_clipped():
    before = torch.cat([line().weight.detach().flatten(), line().bias.detach()])
    settings = LoopSettings(max_steps=1, batch_size=5, max_grad_norm=1e-9, eps=1.0, learning_rate=1.0, weight_decay=0.0)
    assert (weights(settings) - before).abs().max() < 1e-8
    free = LoopSettings(**{**vars(settings), "max_grad_norm": None})
    assert (weights(free) - before).abs().max() > 1e-3


def test_bfloat16_is_autocast_with_trained_weights_in_float32():
    model = line().to(torch.bfloat16)
    model.bias.requires_grad_(False)
    seen = []

    def losses(wrapped: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            seen.append(torch.is_autocast_enabled("cpu") or wrapped(batch[:, :3]).dtype)
        return wrapped(batch[:, :3])[:, 0].square()

    one = Work(["a"], lambda _: torch.ones(1, 4), losses)
    train_loop(model, one, LoopSettings(precision="bfloat16"))
    assert model.weight.dtype == torch.float32
    assert model.bias.dtype == torch.bfloat16
    assert "forward" not in vars(model)


def test_a_loss_that_is_not_finite_names_step_and_items():
    settings = LoopSettings(batch_size=2, shuffle=False)
    with pytest.raises(NonFiniteError, match=r"item3.*loss of step 2"):
        train_loop(line(), work(bad=3), settings)


def test_a_gradient_that_is_not_finite_names_its_step():
    def losses(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return (model(batch[:, :3])[:, 0] * 0.0).sqrt()  # 0, with an infinite slope

    one = Work(["a"], lambda _: torch.ones(1, 4), losses)
    with pytest.raises(NonFiniteError, match="gradient of step 1"):
        train_loop(line(), one, LoopSettings())


def test_nothing_to_train_is_said():
    with pytest.raises(InputError, match="nothing to train on"):
        train_loop(line(), Work([], lambda _: None, lambda _m, _b: torch.zeros(0)), LoopSettings())
    with pytest.raises(InputError, match="no parameter is trainable"):
        train_loop(line().requires_grad_(False), work(), LoopSettings())


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="batch_size"):
        LoopSettings(batch_size=0)
    with pytest.raises(ConfigError, match="epochs or max_steps"):
        LoopSettings(epochs=None)


def test_a_time_limit_ends_the_training_early(tmp_path):
    settings = LoopSettings(max_steps=50, max_seconds=1e-6)
    ended = train_loop(line(), work(), settings, durable=Durable(tmp_path))
    assert (ended.steps, ended.ended_by) == (1, "max_seconds")


@pytest.mark.parametrize("how", ["torn", "foreign", "curve"])
def test_what_lies_there_must_belong_to_this_training(tmp_path, how):
    train_loop(line(), work(), LoopSettings(), durable=Durable(tmp_path))
    model: nn.Module = line()
    if how == "torn":
        (tmp_path / "state.pt").write_bytes((tmp_path / "state.pt").read_bytes()[:300])
    elif how == "foreign":
        model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    else:
        (tmp_path / "curve.jsonl").write_text("")
    with pytest.raises(StoreError, match="delete"):
        train_loop(model, work(), LoopSettings(epochs=2), durable=Durable(tmp_path))


def test_a_finished_training_is_not_repeated(tmp_path):
    first = line()
    train_loop(first, work(), LoopSettings(epochs=2), durable=Durable(tmp_path))
    again = line(seed=7)
    found = train_loop(again, work(), LoopSettings(epochs=2), durable=Durable(tmp_path))
    assert found.resumed_at == found.steps == 10
    assert len(found.curve) == 10
    assert torch.equal(first.weight, again.weight)


def test_random_states_come_back():
    state = json.loads(json.dumps(rng_state()))
    drawn = [np.random.standard_normal(3).tolist(), torch.rand(3).tolist()]
    set_rng_state(state)
    assert [np.random.standard_normal(3).tolist(), torch.rand(3).tolist()] == drawn


def test_torch_files_have_the_same_bytes_under_any_name(tmp_path):
    for name in ("a.pt", "b.pt"):
        write_torch(tmp_path / name, {"x": torch.arange(3)})
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
