"""Progress of long work, readable on a terminal and in a log file."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress_bar(items: Iterable[Item], *, description: str, unit: str = "it", total: int | None = None) -> tqdm:
    """Wraps `items` in a progress bar on standard error; in a log file it writes a line every 10 s."""
    on_terminal = sys.stderr.isatty()
    return tqdm(
        items,
        desc=description,
        unit=unit,
        total=total,
        file=sys.stderr,
        mininterval=0.5 if on_terminal else 10,
        maxinterval=60,
        leave=True,
        dynamic_ncols=on_terminal,
    )
