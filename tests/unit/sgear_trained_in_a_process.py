"""Small trainings of S-GEAR in forked children, to be killed.

python sgear_trained_in_a_process.py CASES: one child per case of a JSON list, one after another; prints their exit
statuses as JSON. A case has a `folder` and maybe `kill_at`, a step in which the child kills itself, or `processes`
and `accumulation` of a training without anything drawn in it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from dataclasses import replace
from pathlib import Path

import torch
from sightline.records.files import write_json
from sightline.systems.sgear.losses import LossWeights
from sightline.systems.sgear.model.loader import save_sgear
from sightline.systems.sgear.train import TrainSettings, train
from sightline.training.launch import run_processes
from sightline.training.loop import Durable, LoopSettings

from tests.unit.sgear_tiny import CLASSES, Features, config, random_model, sample

SETTINGS = TrainSettings(
    loop=LoopSettings(
        epochs=3,
        batch_size=3,
        accumulation=2,
        optimizer="sgd",
        learning_rate=0.01,
        weight_decay=1e-3,
        bias_decay=0.5,
        schedule="cosine",
        max_grad_norm=None,
        save_every=2,
    ),
    losses=LossWeights(1.0, 1.0, 0.1, 1.0, 1.0, 1.0),
    warmup_epochs=1,
    sum_accumulated=True,
    cache_mb=1,
)


def main(case: dict) -> None:
    torch.set_num_threads(1)
    folder = Path(case["folder"])

    def watch(step: int, _: torch.nn.Module) -> None:
        if step == case.get("kill_at"):
            os.kill(os.getpid(), signal.SIGKILL)

    shared = "processes" in case
    plain = config(dropout=0.0, decoder=replace(config().decoder, dropout=0.0))
    model = random_model(plain if shared else config())
    settings = SETTINGS
    if shared:
        loop = replace(SETTINGS.loop, accumulation=case["accumulation"], schedule="constant")
        settings = replace(SETTINGS, loop=loop, sum_accumulated=False, processes=case["processes"])
    language = torch.nn.functional.normalize(torch.randn(CLASSES, 6, generator=torch.Generator().manual_seed(2)))
    result = train(
        [sample(number) for number in range(14)],
        Features(),
        model,
        settings,
        language=language @ language.T,
        durable=Durable(folder / "work"),
        watch=watch,
    )
    if result.is_main:
        save_sgear(model, folder / "checkpoint.pth")
        write_json(folder / "curve.json", result.curve)


def in_a_child(case: dict) -> int:
    """Returns the exit status of a forked child, negative for a signal."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            import tests.unit.sgear_trained_in_a_process as importable  # processes must not need the main script

            run_processes(case.get("processes", 1), importable.main, {"case": case})
            status = 0
        except Exception:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    print(json.dumps([in_a_child(case) for case in json.loads(Path(sys.argv[1]).read_text())]))
