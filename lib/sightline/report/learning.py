"""Loss curves of the trainings behind a report, from their records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.errors import InputError
from sightline.records.files import read_json

WIDTH, HEIGHT = 640, 160
_MOST_POINTS = 320


@dataclass(frozen=True)
class LearningCurve:
    """One training as the page draws it.

    Attributes:
        name: Of the training.
        facts: Steps, samples and how it ended, in words.
        first: Mean loss of the first tenth of the steps.
        last: Mean loss of the last tenth.
        points: Polyline in a `WIDTH` x `HEIGHT` box, loss from 0 at the bottom to `top`.
        top: Largest loss drawn.
    """

    name: str
    facts: str
    first: float
    last: float
    points: str
    top: float


def read_curves(records: Sequence[Path]) -> list[LearningCurve]:
    """Returns the curves of `training.json` files, in their order.

    Raises:
        InputError: A file is no record of a training.
    """
    return [_curve(path, read_json(path)) for path in records]


def _curve(path: Path, record: Any) -> LearningCurve:
    try:
        losses = [float(row["loss"]) for row in record["curve"]]
        name, samples, ended = str(record["name"]), len(record["samples"]), str(record["ended_by"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"no record of a training ({error!r})", file=path, mend="delete it; it is written again"
        ) from None
    if not losses:
        raise InputError("the training took no step", file=path, field="curve", mend="train for at least one step")
    bin_size = math.ceil(len(losses) / _MOST_POINTS)
    means = [_mean(losses[start : start + bin_size]) for start in range(0, len(losses), bin_size)]
    top = max(means) or 1.0
    across = WIDTH / max(1, len(means) - 1)
    points = " ".join(f"{place * across:.1f},{HEIGHT * (1 - mean / top):.1f}" for place, mean in enumerate(means))
    tenth = max(1, len(losses) // 10)
    facts = f"{len(losses)} steps on {samples} samples" + ("" if ended == "end" else f", ended early by {ended}")
    return LearningCurve(name, facts, _mean(losses[:tenth]), _mean(losses[-tenth:]), points, top)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
