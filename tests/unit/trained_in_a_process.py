"""Small trainings in processes of their own, to be killed, stopped or run with a partner.

python trained_in_a_process.py CASES: forks one child per case of a JSON list, one after another, and prints their
exit statuses as JSON. A case has a `folder`, which gets final.pt and result.json, `loop` settings, and maybe
`kill_at` (step in which the child kills itself), `term_at` (step in which it gets SIGTERM), `items`, `dropout`.
A case with `processes` starts so many of its own, and may have `stop_all_at` (step in which they are told to stop
through the process that started them) and `fail_at` (step in which one of them fails).
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import torch
from sightline.errors import NonFiniteError, SightlineError
from sightline.records.files import write_json
from sightline.training.launch import run_processes
from sightline.training.loop import Durable, LoopSettings, Work, train_loop
from sightline.training.state import write_torch
from torch import nn


def make_model(dropout: float) -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16, momentum=0.2), nn.Dropout(dropout), nn.Tanh(), nn.Linear(16, 1)
    )


def make_work(items: int, noise: bool) -> Work:
    data = torch.from_numpy(np.random.default_rng(3).standard_normal((items, 7)).astype(np.float32))

    def losses(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        jitter = random.random() + np.random.random() if noise else 0.0  # both generators belong to the state
        return (model(batch[:, :6])[:, 0] - batch[:, 6] - jitter) ** 2

    return Work(
        names=[f"item{number}" for number in range(items)], collate=lambda positions: data[positions], losses=losses
    )


def main(folder: Path, case: dict) -> None:
    torch.set_num_threads(1)
    model = make_model(case.get("dropout", 0.3))
    if not case.get("statistics", True):  # a batch's statistics depend on how a step is cut into micro batches
        model[1] = nn.LayerNorm(16)

    def watch(step: int, _: nn.Module) -> None:
        if step == case.get("kill_at"):
            os.kill(os.getpid(), signal.SIGKILL)
        if step == case.get("term_at"):
            os.kill(os.getpid(), signal.SIGTERM)

        if step == case.get("stop_all_at") and os.environ["RANK"] == "1":
            os.kill(os.getppid(), signal.SIGUSR1)
            time.sleep(0.5)
        if step == case.get("fail_at") and os.environ["RANK"] == "1":
            raise NonFiniteError("the loss is broken", item="item7")

    result = train_loop(
        model,
        make_work(case.get("items", 10), case.get("noise", True)),
        LoopSettings(**case["loop"]),
        durable=Durable(folder / "work", folder / "events") if case.get("durable", True) else None,
        watch=watch,
    )
    if result.is_main:
        write_torch(folder / "final.pt", model.state_dict())
        write_json(
            folder / "result.json",
            {"curve": result.curve, "resumed_at": result.resumed_at, "processes": result.processes},
        )


def train_one(case: dict) -> int:
    """Returns the exit status that a command would have."""
    import trained_in_a_process as importable  # what other processes call must not be in the main script

    try:
        run_processes(case.get("processes", 1), importable.main, {"folder": Path(case["folder"]), "case": case})
    except SightlineError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def in_a_child(case: dict) -> int:
    """Returns the exit status of a forked child, negative for a signal."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = train_one(case)
        except Exception:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    cases = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps([in_a_child(case) for case in cases]))
