"""Interleaved arms, equality first: what every benchmark module measures with."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def spread(values: list[float]) -> dict[str, float]:
    """Returns median, minimum and maximum of seconds."""
    return {"median_s": statistics.median(values), "min_s": min(values), "max_s": max(values)}


def interleave(
    arms: Mapping[str, Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.process_time
) -> dict[str, dict[str, float]]:
    """Runs the arms A B C A B C ... after one uncounted round; returns each arm's spread on `clock`."""
    taken: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(rounds + 1):
        for name, arm in arms.items():
            started = clock()
            arm()
            if number:
                taken[name].append(clock() - started)
    return {name: spread(values) for name, values in taken.items()}
