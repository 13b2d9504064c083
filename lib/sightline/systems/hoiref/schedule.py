"""Learning rate and order of a training: the original's rules, and sane ones beside them."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sightline.errors import ConfigError

RELEASED_YAML = "released_yaml"
"""Name of the switch under which the released training file is taken as it is."""


@dataclass(frozen=True)
class Schedule:
    """A learning rate that rises and falls.

    Attributes:
        init_lr: Rate after the warm-up.
        min_lr: Rate at the end.
        warmup_lr: Rate at the beginning; None starts at `init_lr`.
        warmup_steps: Steps of the warm-up.
        epochs: Number of epochs.
        steps_per_epoch: Steps of an epoch, by declaration: the data has no ends here.
        rule: `published` warms up anew in every epoch that begins within the warm-up, and starts the cosine at
            step 0; `sane` warms up once and lets the cosine begin where the warm-up ends.
    """

    init_lr: float = 1e-5
    min_lr: float = 1e-6
    warmup_lr: float | None = 1e-6
    warmup_steps: int = 1000
    epochs: int = 2
    steps_per_epoch: int = 5000
    rule: Literal["published", "sane"] = "sane"

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.epochs * self.steps_per_epoch

    def rate(self, step: int) -> float:
        """Returns the learning rate of a step counted from 0."""
        start = self.init_lr if self.warmup_lr is None or self.warmup_lr < 0 else self.warmup_lr
        published = self.rule == "published"
        if step < self.warmup_steps:
            place = step % self.steps_per_epoch if published else step
            return min(self.init_lr, start + (self.init_lr - start) * place / max(self.warmup_steps, 1))
        if published:
            part = step / self.steps
        else:
            part = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return (self.init_lr - self.min_lr) * 0.5 * (1.0 + math.cos(math.pi * part)) + self.min_lr

    def factor(self, step: int) -> float:
        """Returns the rate of a step over `init_lr`, as the training loop takes it."""
        return self.rate(step) / self.init_lr

    def problems(self) -> list[str]:
        """Returns why a training by this schedule would not train."""
        found = []
        if self.min_lr > self.init_lr:
            found.append(
                f"schedule: min_lr {self.min_lr:g} is above init_lr {self.init_lr:g}, so the rate would rise to the end"
            )
        if self.warmup_steps >= self.steps:
            found.append(
                f"schedule: {self.steps} steps never leave the warm-up of {self.warmup_steps} steps; the rate ends at "
                f"{self.rate(self.steps - 1):g}"
            )
        return found


def check_schedule(schedule: Schedule, compat: Sequence[str] = ()) -> None:
    """Refuses a schedule that cannot train, such as that of the released training file.

    Args:
        schedule: The schedule.
        compat: Switches; `released_yaml` takes it as it is.

    Raises:
        ConfigError: It has problems and the switch is not set.
    """
    problems = schedule.problems()
    if problems and RELEASED_YAML not in compat:
        mend = f"compat: {RELEASED_YAML} runs it all the same"
        raise ConfigError([f"{problem}; {mend}" for problem in problems])


@dataclass(frozen=True)
class Stage:
    """A stretch of a training with one mixture.

    Attributes:
        ratios: Weight of each part of the data.
        share: Share of the training's steps, relative to the other stages.
    """

    ratios: Mapping[str, float]
    share: float = 1.0


def choose_loaders(ratios: Sequence[float], seed: int) -> Iterator[int]:
    """Yields which loader each draw takes, as the original chooses with Python's generator."""
    generator = random.Random(seed)
    places = range(len(ratios))
    while True:
        yield generator.choices(places, weights=ratios, k=1)[0]


def _endless(count: int, seed: int, number: int) -> Iterator[int]:
    """Yields the items of one part, in a new order every time it has been through."""
    import numpy as np  # here, since every job reads schedules when it parses the card

    turn = 0
    while True:
        yield from np.random.Generator(np.random.PCG64([seed, number, turn])).permutation(count).tolist()
        turn += 1


def draw_items(sizes: Mapping[str, int], stages: Sequence[Stage], count: int, seed: int) -> list[tuple[str, int]]:
    """Returns the items of a whole training in order; it depends on nothing but its arguments.

    Args:
        sizes: Items of each part.
        stages: Mixtures, one after another; parts they do not name have weight 0.
        count: Items to draw.
        seed: Of the choices and of each part's order.

    Raises:
        ConfigError: A stage names a part that is not there or empty, or gives weight to none.
    """
    parts = list(sizes)
    problems = []
    for number, stage in enumerate(stages):
        unknown = [name for name, ratio in stage.ratios.items() if ratio > 0 and not sizes.get(name)]
        problems += [f"stages[{number}].ratios: {name} has no items" for name in unknown]
        if not any(ratio > 0 for ratio in stage.ratios.values()) or any(r < 0 for r in stage.ratios.values()):
            problems.append(f"stages[{number}].ratios: give at least one part a weight, and none a negative one")
    if problems or not stages or sum(stage.share for stage in stages) <= 0:
        raise ConfigError(problems or ["stages: give at least one stage with a share"])
    loaders = {name: _endless(size, seed, number) for number, (name, size) in enumerate(sizes.items())}
    whole = sum(stage.share for stage in stages)
    drawn: list[tuple[str, int]] = []
    done = 0.0
    for number, stage in enumerate(stages):
        done += stage.share
        until = count if number == len(stages) - 1 else round(count * done / whole)
        chooser = choose_loaders([stage.ratios.get(name, 0.0) for name in parts], seed + number)
        while len(drawn) < until:
            name = parts[next(chooser)]
            drawn.append((name, next(loaders[name])))
    return drawn
