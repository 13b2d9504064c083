"""S-GEAR's learning rate: linear warm-up, then half a cosine to 0, in a closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class WarmupCosine:
    """Factor on the base learning rate at each iteration.

    The released code wraps a recursive cosine in a warm-up that ends one iteration short of the base rate, from
    where the cosine goes on; so the peak is `(W - 1) / W`. Equal to it within 1e-15.

    Attributes:
        iterations: Per epoch, I: micro batches of one process.
        warmup_epochs: Epochs of the warm-up.
        cosine_epochs: Epochs of the cosine; afterwards the rate is 0.
    """

    iterations: int
    warmup_epochs: float
    cosine_epochs: float

    def factor(self, iteration: int) -> float:
        """Returns the factor before an iteration, counted from 0."""
        warmup = max(int(self.warmup_epochs * self.iterations), 1)
        length = self.cosine_epochs * self.iterations
        if iteration < warmup:
            return iteration / warmup if warmup > 1 else 1.0
        place = iteration - (warmup - 1)
        if place >= length:
            return 0.0
        peak = (warmup - 1) / warmup if warmup > 1 else 1.0
        return peak * (1 + math.cos(math.pi * place / length)) / 2

    def at_step(self, step: int, accumulation: int) -> float:
        """Returns the factor at an optimiser step, counted from 0.

        The rate moves with every micro batch; an optimiser step happens at the last one it gathers.

        Args:
            step: Of the optimiser.
            accumulation: Micro batches per step; an epoch's last step may have fewer.
        """
        per_epoch = -(-self.iterations // accumulation)
        epoch, place = divmod(step, per_epoch)
        return self.factor(epoch * self.iterations + min((place + 1) * accumulation, self.iterations) - 1)
