"""Finds golden data: `$SIGHTLINE_GOLDEN/<system>/<group>/...`, or the copy in `tests/golden`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

ROOT = Path(os.environ.get("SIGHTLINE_GOLDEN") or Path(__file__).parents[1] / "golden").resolve()


def find(system: str, *parts: str) -> Path | None:
    """Returns the path of a golden file or folder, or None when this set does not have it."""
    path = ROOT.joinpath(system, *parts)
    return path if path.exists() else None


def load_json(system: str, *parts: str) -> Any:
    """Returns a golden JSON document, or None when absent."""
    path = find(system, *parts)
    return None if path is None else json.loads(path.read_text(encoding="utf-8"))


def load_jsonl(system: str, *parts: str) -> list[Any]:
    """Returns the rows of a golden JSON-lines file; an absent file has none."""
    path = find(system, *parts)
    if path is None:
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
