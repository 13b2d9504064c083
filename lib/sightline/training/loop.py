"""One training loop for all systems, on accelerate: any number of processes, resumed bit by bit.

A step's gradient is the mean over its items, whatever the number of processes, the size of a micro batch or
the accumulation; so these change speed and memory, and results only in the last bits. Which items a step
takes is a function of seed and step alone, which makes the data position one number.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import gather_object, send_to_device, set_seed
from torch import Tensor, nn

from sightline.errors import InputError, NonFiniteError, ResumableStop
from sightline.records.lease import lease
from sightline.run.progress import progress_bar
from sightline.run.shards import StopRequest
from sightline.training.curves import Curve
from sightline.training.optimizers import LoopSettings, make_optimizer, make_schedule
from sightline.training.state import read_state, rng_state, set_rng_state, write_state

__all__ = ["Durable", "LoopSettings", "TrainResult", "Work", "step_items", "train_loop"]

log = logging.getLogger(__name__)
STATE_FILE = "state.pt"
_SHOWN = 8


@dataclass(frozen=True)
class Work:
    """What is trained on: the model gets micro batches of items, the loop gets one loss per item.

    Attributes:
        names: One name per item, for messages.
        collate: Positions of items to a micro batch: tensors in dicts, lists or tuples.
        losses: Model and micro batch to the items' losses, [B].
    """

    names: Sequence[str]
    collate: Callable[[list[int]], Any]
    losses: Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True)
class Durable:
    """Where a run keeps what it has reached.

    Attributes:
        folder: State and curve; one folder per training, since it is resumed from what lies there.
        tensorboard: Event files, or None.
    """

    folder: Path
    tensorboard: Path | None = None


@dataclass(frozen=True)
class TrainResult:
    """What a training came to; the weights are in the model.

    Attributes:
        steps: Optimiser steps in all.
        resumed_at: Steps that were already done when this process began.
        ended_by: `end` or `max_seconds`.
        curve: Per step: `step`, `epoch`, `items`, `loss`, `grad_norm` before clipping, `learning_rate`.
        processes: Number of processes.
        is_main: False in the other processes of a distributed run, which must write nothing.
    """

    steps: int
    resumed_at: int
    ended_by: str
    curve: list[dict[str, Any]]
    processes: int = 1
    is_main: bool = True


def step_items(count: int, size: int, step: int, *, seed: int, shuffle: bool) -> tuple[int, list[int]]:
    """Returns (epoch from 0, items) of an optimiser step counted from 0.

    Args:
        count: Items in all.
        size: Items of a full step; the last of an epoch may have fewer.
        step: Optimiser step, from 0.
        seed: Of the order.
        shuffle: Whether every epoch has its own order.
    """
    epoch, place = divmod(step, -(-count // size))
    order = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(count) if shuffle else np.arange(count)
    return epoch, order[place * size : (place + 1) * size].tolist()


def train_loop(
    model: nn.Module,
    work: Work,
    settings: LoopSettings,
    *,
    device: str = "cpu",
    durable: Durable | None = None,
    watch: Callable[[int, nn.Module], None] | None = None,
    factor: Callable[[int], float] | None = None,
    description: str = "train",
) -> TrainResult:
    """Trains the parameters of `model` that require a gradient, in place, and leaves it in eval mode.

    In a process started by `accelerate launch`, `torchrun` or `run_processes` it takes its share of every
    step. On a CPU a resumed run equals an uninterrupted one bit by bit as long as torch's number of threads
    is the same; CUDA's own sums are not ordered, so a GPU run resumes equal up to rounding.

    Args:
        model: In float32, or with frozen weights in bfloat16.
        work: Items and their losses.
        settings: How to train.
        device: `cpu` or `cuda`.
        durable: Where to resume from and save to; None keeps nothing.
        watch: Called with the step and the model before gradients are clipped.
        factor: Step (from 0) to the factor on the learning rate, in place of the settings' schedule and warm-up.
        description: Of the progress bar.

    Raises:
        InputError: There is no item, or nothing to train.
        NonFiniteError: A loss or gradient is NaN or infinite; names step and items.
        ResumableStop: SIGTERM or SIGUSR1 came; the state is durable.
        StoreError: What lies in `durable` belongs to another model.
    """
    if not work.names:
        raise InputError("there is nothing to train on", mend="choose a dataset whose train split has samples")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError("no parameter is trainable", field="trainable", mend="name the parameters to train")
    run = _Run(model, work, settings, device, durable, factor)
    try:
        with ExitStack() as stack:
            if durable is not None and run.accelerator.is_main_process:
                stack.enter_context(lease(durable.folder / "train.lock"))
            return run.train(watch, description)
    finally:
        run.release()


class _Run:
    """One process's part of a training."""

    def __init__(
        self,
        model: nn.Module,
        work: Work,
        settings: LoopSettings,
        device: str,
        durable: Durable | None,
        factor: Callable[[int], float] | None,
    ) -> None:
        self.work, self.settings, self.durable = work, settings, durable
        half = settings.precision == "bfloat16" or (settings.precision == "auto" and device != "cpu")
        self.accelerator = Accelerator(cpu=device == "cpu", mixed_precision="bf16" if half else "no")
        set_seed(settings.seed, device_specific=True)
        self.plain = model.train()
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if half:  # updates far below the weights would be rounded away in bfloat16
            for parameter in self.parameters:
                parameter.data = parameter.data.float()
        optimizer = make_optimizer(model, settings)
        self.world = self.accelerator.num_processes
        self.size = settings.batch_size * settings.accumulation * self.world
        self.steps_per_epoch = -(-len(work.names) // self.size)
        self.total = settings.max_steps or self.steps_per_epoch * (settings.epochs or 1)
        self.schedule = make_schedule(optimizer, settings, self.total, factor)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.step, self.seconds = 0, 0.0

    # --- durable state -------------------------------------------------------------------------------
    @property
    def _file(self) -> Path | None:
        return self.durable.folder / STATE_FILE if self.durable is not None else None

    def resume(self) -> int:
        """Restores what is durable and returns the steps done."""
        self.accelerator.wait_for_everyone()  # the lease is the main process's: what lies there is now final
        file = self._file
        if file is None or not file.exists():
            return 0
        facts = read_state(file, self.plain, self.optimizer.optimizer)
        self.step, self.seconds = int(facts["step"]), float(facts["seconds"])
        self.schedule.load_state_dict(facts["schedule"])
        for group, rate in zip(self.optimizer.param_groups, facts["schedule"]["_last_lr"], strict=True):
            group["lr"] = rate
        rank = self.accelerator.process_index
        if len(facts["rng"]) == self.world:
            set_rng_state(facts["rng"][rank])
        else:
            log.warning("%d processes now, %d before: the draws of dropout differ", self.world, len(facts["rng"]))
            set_seed(self.settings.seed + self.step, device_specific=True)
        log.info("going on after step %d of %d", self.step, self.total)
        return self.step

    def save(self, curve: Curve) -> None:
        """Makes the state durable: curve first, so that it never lacks a step that is done."""
        if self.durable is None:
            return
        states = gather_object([rng_state()])
        if self.accelerator.is_main_process and self._file is not None:
            curve.make_durable()
            facts = {
                "step": self.step,
                "seconds": self.seconds if self.settings.max_seconds else 0.0,
                "schedule": self.schedule.state_dict(),
                "rng": states,
            }
            write_state(self._file, self.plain, self.optimizer.optimizer, facts)
        self.accelerator.wait_for_everyone()

    # --- training ------------------------------------------------------------------------------------
    def train(self, watch: Callable[[int, nn.Module], None] | None, description: str) -> TrainResult:
        """Takes the steps that are left."""
        resumed = self.resume()
        durable = self.durable if self.accelerator.is_main_process else None
        curve = Curve(durable.folder if durable else None, resumed, durable.tensorboard if durable else None)
        ended, saved, started = "end", resumed, time.monotonic() - self.seconds
        with curve, StopRequest() as stop, progress_bar((), description=description, unit="step") as bar:
            bar.reset(total=self.total)
            bar.update(resumed)
            bar.disable = bar.disable or not self.accelerator.is_main_process
            while self.step < self.total:
                row, stopped = self.take_step(watch, stop)
                self.step += 1
                self.seconds = time.monotonic() - started
                curve.append(row)
                bar.set_postfix(loss=f"{row['loss']:.4f}", refresh=False)
                bar.update()
                if self._out_of_time():
                    ended = "max_seconds"
                    break
                if stopped and self.step < self.total:
                    self.save(curve)
                    raise ResumableStop(
                        f"stopped by {stop.received or 'a signal'} after step {self.step} of {self.total}"
                        + ("" if self.durable else "; nothing was kept"),
                        mend="run the same command again; it goes on from there",
                    )
                if self.settings.save_every and self.step % self.settings.save_every == 0:
                    self.save(curve)
                    saved = self.step
            if saved != self.step:
                self.save(curve)
        return TrainResult(self.step, resumed, ended, curve.rows, self.world, self.accelerator.is_main_process)

    def _out_of_time(self) -> bool:
        """All processes end together."""
        limit = self.settings.max_seconds
        if not limit:
            return False
        late = torch.tensor(float(self.seconds >= limit), device=self.accelerator.device)
        return bool(self.accelerator.reduce(late, reduction="sum") > 0)

    def take_step(
        self, watch: Callable[[int, nn.Module], None] | None, stop: StopRequest
    ) -> tuple[dict[str, Any], bool]:
        """Takes one optimiser step and returns its row, and whether any process was asked to stop."""
        settings = self.settings
        epoch, items = step_items(
            len(self.work.names), self.size, self.step, seed=settings.seed, shuffle=settings.shuffle
        )
        total = self._backward(items)
        if watch is not None:
            watch(self.step, self.plain)
        limit = settings.max_grad_norm if settings.max_grad_norm is not None else math.inf
        norm = float(self.accelerator.clip_grad_norm_(self.parameters, limit))
        if not math.isfinite(norm):
            raise self._not_finite("gradient", items)
        rate = float(self.optimizer.param_groups[0]["lr"])
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        facts = torch.tensor([total, float(stop.received is not None)], dtype=torch.float64)
        total, stopped = self.accelerator.reduce(facts.to(self.accelerator.device), reduction="sum").tolist()
        row = {
            "step": self.step + 1,
            "epoch": epoch + 1,
            "items": len(items),
            "loss": total / len(items),
            "grad_norm": norm,
            "learning_rate": rate,
        }
        return row, stopped > 0

    def _backward(self, items: list[int]) -> float:
        """Adds up this process's share of a step's gradient and returns the sum of its losses.

        Every process does equally many rounds, as gradients are exchanged in the last one; a process without
        items left repeats one with weight 0.
        """
        size, world, rank = self.settings.batch_size, self.world, self.accelerator.process_index
        micro = [items[start : start + size] for start in range(0, len(items), size)]
        rounds = -(-len(micro) // world)
        total = 0.0
        for number in range(rounds):
            place = number * world + rank
            mine = micro[place] if place < len(micro) else micro[0]
            weight = float(place < len(micro))
            last = number == rounds - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                batch = send_to_device(self.work.collate(mine), self.accelerator.device)
                losses = self.work.losses(self.model, batch).float()
                if not bool(torch.isfinite(losses).all()):
                    raise self._not_finite(
                        "loss", [i for i, one in zip(mine, losses, strict=True) if not one.isfinite()]
                    )
                self.accelerator.backward(losses.sum() * (weight * world / len(items)))
            total += weight * float(losses.detach().double().sum())
        return total

    def _not_finite(self, what: str, items: list[int]) -> NonFiniteError:
        names = [self.work.names[item] for item in items]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return NonFiniteError(
            f"the {what} of step {self.step + 1} is NaN or infinite",
            item=", ".join(names[:_SHOWN]) + more,
            mend="lower the learning rate, or look at the features of these samples",
        )

    def release(self) -> None:
        """Gives back the model as it came, and accelerate's process-wide state, so that another run may follow."""
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        vars(self.plain).pop("forward", None)  # accelerate leaves the class's own method bound to the instance
        self.plain.eval()
        if self.world == 1:
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()
