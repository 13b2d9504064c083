"""Processes that tests start find the library, run on one thread and never reach for a hub."""

from __future__ import annotations

import os
from pathlib import Path

_ROOT = Path(__file__).parents[1]
os.environ["PYTHONPATH"] = os.pathsep.join([str(_ROOT / "lib"), str(_ROOT)])
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
