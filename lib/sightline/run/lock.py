"""Snakemake's folder lock after a killed run: removed only if its holder is dead on this host."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

from sightline.records.files import write_json

HOLDER = Path(".snakemake/sightline-holder.json")
LOCKS = Path(".snakemake/locks")


def process_start(pid: int) -> str | None:
    """Returns the start time of a process in clock ticks since boot, or None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    after_name = text.rpartition(")")[2].split()
    return None if after_name[0] == "Z" else after_name[19]


def note_holder(workdir: str | Path = ".") -> None:
    """Writes who runs the workflow in this folder: host, pid and process start."""
    pid = os.getpid()
    write_json(Path(workdir) / HOLDER, {"host": socket.gethostname(), "pid": pid, "start": process_start(pid)})


def release_dead_lock(workdir: str | Path = ".") -> bool:
    """Removes the lock of a run that was killed on this host; returns whether it did.

    A lock of a living process, of another host, or of unknown origin stays, and Snakemake explains it.
    """
    folder = Path(workdir)
    locks = sorted((folder / LOCKS).glob("*.lock")) if (folder / LOCKS).is_dir() else []
    if not locks:
        return False
    try:
        holder: dict[str, Any] = json.loads((folder / HOLDER).read_text())
        host, pid, start = holder["host"], int(holder["pid"]), holder["start"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if host != socket.gethostname() or process_start(pid) == start:
        return False
    for lock in locks:
        lock.unlink(missing_ok=True)
    return True
