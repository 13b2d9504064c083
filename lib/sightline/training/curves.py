"""The loss curve: JSON lines that survive a kill, and TensorBoard's event files beside them."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sightline.errors import StoreError
from sightline.records.files import from_json, to_json, write_text

FILE = "curve.jsonl"


class Curve:
    """One row per optimiser step; rows behind the last checkpoint are written again after a kill.

    Args:
        folder: Where `curve.jsonl` lies; None keeps the rows in memory alone.
        step: Optimiser steps already done; later rows are dropped.
        tensorboard: Folder of the event files, or None.

    Raises:
        StoreError: Rows of finished steps are missing.
    """

    def __init__(self, folder: Path | None, step: int, tensorboard: Path | None) -> None:
        self.rows: list[dict[str, Any]] = []
        self._file = None
        if folder is not None:
            path = folder / FILE
            self.rows = _read(path, step)
            write_text(path, "".join(to_json(row) + "\n" for row in self.rows))
            self._file = path.open("a", encoding="utf-8")
        self._events: Any = None
        if tensorboard is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(tensorboard), purge_step=step + 1)

    def append(self, row: dict[str, Any]) -> None:
        """Adds the row of a step."""
        self.rows.append(row)
        if self._file is not None:
            self._file.write(to_json(row) + "\n")
            self._file.flush()
        if self._events is not None:
            for name, value in row.items():
                if isinstance(value, float):
                    self._events.add_scalar(f"train/{name}", value, row["step"])

    def make_durable(self) -> None:
        """Puts what was written onto the disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())
        if self._events is not None:
            self._events.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        if self._events is not None:
            self._events.close()


def _read(path: Path, step: int) -> list[dict[str, Any]]:
    """Returns the rows of the first `step` steps; a line torn by a kill can only lie behind them."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    try:
        rows = [from_json(line) for line in lines[:step]]
    except ValueError:
        rows = []
    if [row.get("step") for row in rows] != list(range(1, step + 1)):
        raise StoreError(
            f"the curve does not hold the {step} steps that are done",
            file=path,
            mend="delete its folder to start this training again from the beginning",
        )
    return rows
