"""The one place that touches environment variables: what every job inherits."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path


def use_library(folder: str | Path) -> None:
    """Makes every job of this run import Sightline from `folder`, whatever else is installed."""
    os.environ["PYTHONPATH"] = str(Path(folder).resolve())


def process_environment() -> MutableMapping[str, str]:
    """Returns this process's environment, which its children inherit."""
    return os.environ
