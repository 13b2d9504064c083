"""A simulated cluster: shards on slots that are slow, fail and are taken away; what a run takes from start to end.

Discrete events with simpy; every draw comes from a generator seeded per scenario, so that a table can be made again.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import simpy


@dataclass(frozen=True)
class Cluster:
    """What jobs run on.

    Attributes:
        slots: Jobs that run at once, one GPU each.
        mean_hours_between_failures: Per slot; a failed node or a preemption ends the attempt. 0 is never.
        slow_share: Share of slots that run at `slow_speed`.
        slow_speed: Speed of a slow slot.
        spread: Standard deviation of the logarithm of a shard's true cost over its declared cost.
        start_s: Scheduler latency, imports and loading the model, paid by every attempt.
        back_s: Until a failed attempt is seen and submitted again.
        attempts: Most attempts of a job before the run stops and has to be started again.
        resumes: A finished block is durable; otherwise an attempt begins the shard anew.
        block_s: Seconds of one block, the most work that is lost on a resume.
    """

    slots: int
    mean_hours_between_failures: float = 0.0
    slow_share: float = 0.0
    slow_speed: float = 0.5
    spread: float = 0.1
    start_s: float = 120.0
    back_s: float = 60.0
    attempts: int = 4
    resumes: bool = True
    block_s: float = 40.0


@dataclass
class Outcome:
    """What came of it: hours from start to end, hours with all work spread evenly and nothing lost, and counts."""

    makespan_h: float
    ideal_h: float
    busy_h: float
    failures: int = 0
    exhausted: int = 0

    @property
    def over_ideal(self) -> float:
        """Makespan over ideal."""
        return self.makespan_h / self.ideal_h


class _Run:
    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.cluster, self.draw = cluster, random.Random(seed)
        self.environment = simpy.Environment()
        self.slots = simpy.FilterStore(self.environment)
        slow = round(cluster.slots * cluster.slow_share)
        speeds = [cluster.slow_speed] * slow + [1.0] * (cluster.slots - slow)
        self.draw.shuffle(speeds)
        self.slots.items.extend(enumerate(speeds))
        self.failures = self.exhausted = 0
        self.busy_s = 0.0

    def shard(self, seconds: float) -> Generator[Any, Any, None]:
        """Runs one shard until it is done, attempt after attempt."""
        cluster, left, attempt = self.cluster, seconds, 0
        while True:
            attempt += 1
            slot = yield self.slots.get()
            needed = cluster.start_s + left / slot[1]
            rate = 3600 * cluster.mean_hours_between_failures
            lives = self.draw.expovariate(1 / rate) if rate else float("inf")
            yield self.environment.timeout(min(needed, lives))
            self.busy_s += min(needed, lives)
            self.slots.put(slot)
            if lives >= needed:
                return
            self.failures += 1
            if cluster.resumes:
                done = max(0.0, lives - cluster.start_s) * slot[1]
                left -= done - done % cluster.block_s
            if attempt % cluster.attempts == 0:
                self.exhausted += 1  # the run would stop here and be started again by hand; it goes on at once
            yield self.environment.timeout(cluster.back_s)


def simulate(declared_s: Sequence[float], cluster: Cluster, seed: int = 0) -> Outcome:
    """Runs shards of these declared seconds, in this order, on a cluster."""
    run = _Run(cluster, seed)
    costs = [seconds * run.draw.lognormvariate(0, cluster.spread) for seconds in declared_s]
    for seconds in costs:
        run.environment.process(run.shard(seconds))
    run.environment.run()
    return Outcome(
        run.environment.now / 3600, sum(costs) / cluster.slots / 3600, run.busy_s / 3600, run.failures, run.exhausted
    )


def scenarios(slots: int) -> dict[str, Cluster]:
    """Returns the clusters of the table in docs/scale.md, from quiet to hostile."""
    quiet = Cluster(slots)
    failing = replace(quiet, mean_hours_between_failures=200.0)
    slow = replace(quiet, slow_share=0.05)
    hostile = replace(slow, mean_hours_between_failures=6.0)
    return {
        "quiet": quiet,
        "a slot fails every 200 h": failing,
        "5 % of slots at half speed": slow,
        "preempted every 6 h, 5 % slow": hostile,
        "the same, shards begin anew": replace(hostile, resumes=False),
    }
