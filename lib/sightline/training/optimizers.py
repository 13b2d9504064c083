"""How a model is trained, and what follows from it: optimiser and learning rate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers.optimization import get_scheduler

from sightline.errors import ConfigError


@dataclass(frozen=True)
class LoopSettings:
    """How a model is trained.

    Attributes:
        epochs: Passes over the items; None when `max_steps` says how long.
        max_steps: Optimiser steps; the schedule ends there.
        max_seconds: Ends the training early, which makes its result depend on the machine's speed.
        batch_size: Items of a micro batch.
        accumulation: Micro batches per optimiser step and process; what an epoch leaves over is a smaller step.
        optimizer: By its name in torch.
        learning_rate: After the warm-up.
        weight_decay: AdamW's, or the L2 term of the others.
        bias_decay: Factor on the weight decay of biases and batch norms.
        betas: AdamW's and Adam's.
        eps: AdamW's and Adam's.
        momentum: SGD's.
        nesterov: SGD's look-ahead momentum.
        warmup_steps: Steps over which the learning rate rises from 0.
        schedule: What it does afterwards; `linear` and `cosine` end at 0.
        max_grad_norm: The gradient is scaled down to this norm; None leaves it.
        precision: `auto` is bfloat16 (autocast, trained weights in float32) on a GPU, float32 on a CPU.
        shuffle: A new order for every epoch.
        seed: Of order and dropout.
        save_every: Steps between checkpoints; 0 saves only when stopped and at the end.
    """

    epochs: int | None = 1
    max_steps: int | None = None
    max_seconds: float | None = None
    batch_size: int = 1
    accumulation: int = 1
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    bias_decay: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    momentum: float = 0.9
    nesterov: bool = False
    warmup_steps: int = 0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    max_grad_norm: float | None = 1.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    shuffle: bool = True
    seed: int = 0
    save_every: int = 0

    def __post_init__(self) -> None:
        """Refuses values no loop can run with.

        Raises:
            ConfigError: A value is out of range.
        """
        problems = [
            f"training: {name} must be at least {least}, not {getattr(self, name)}"
            for name, least in (("epochs", 1), ("max_steps", 1), ("batch_size", 1), ("accumulation", 1))
            if getattr(self, name) is not None and getattr(self, name) < least
        ]
        if self.epochs is None and self.max_steps is None:
            problems.append("training: give epochs or max_steps")
        if problems:
            raise ConfigError(problems)


def make_optimizer(model: nn.Module, settings: LoopSettings) -> torch.optim.Optimizer:
    """Returns the optimiser of the parameters that require a gradient."""
    named = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
    groups: list[dict[str, Any]] = [{"params": [one for _, one in named]}]
    if settings.bias_decay != 1.0:
        apart = [name.endswith("bias") or ".bn" in name for name, _ in named]
        decays = (settings.weight_decay, settings.weight_decay * settings.bias_decay)
        groups = [
            {
                "params": [one for (_, one), is_bias in zip(named, apart, strict=True) if is_bias == wanted],
                "weight_decay": decay,
            }
            for wanted, decay in zip((False, True), decays, strict=True)
        ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            groups,
            lr=settings.learning_rate,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
        )
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(
        groups,
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
    )


def make_schedule(
    optimizer: torch.optim.Optimizer,
    settings: LoopSettings,
    total: int,
    factor: Callable[[int], float] | None = None,
) -> LambdaLR:
    """Returns the schedule of the learning rate; it is stepped once per optimiser step.

    Args:
        optimizer: Its learning rates are multiplied.
        settings: Kind and warm-up.
        total: Optimiser steps in all.
        factor: Step to factor, in place of kind and warm-up.
    """
    if factor is not None:
        chosen = factor
        return LambdaLR(optimizer, lambda step: chosen(step))
    name = "constant_with_warmup" if settings.schedule == "constant" else settings.schedule
    made: LambdaLR = get_scheduler(name, optimizer, num_warmup_steps=settings.warmup_steps, num_training_steps=total)
    return made
