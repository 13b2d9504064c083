"""The first lines of every adapter: an own environment, a log file that tells all, and a timing record.

Snakemake hands a `script:` job the controller's import path and leaves its log file empty when it fails;
`stage` mends both, and records where the time went.
"""

from __future__ import annotations

import logging
import os
import resource
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from sightline.errors import SightlineError
from sightline.records.files import write_json
from sightline.run.environment import process_environment
from sightline.run.gpus import gpu_lease

log = logging.getLogger("sightline")
TIMINGS = Path("results/work/timings")
_MOUNTED = "/mnt/snakemake_searchpaths"


class _Tee:
    """Writes to the terminal and to the log file; progress bars redraw on the terminal only."""

    def __init__(self, terminal: TextIO, file: TextIO) -> None:
        self._terminal, self._file = terminal, file

    def write(self, text: str) -> int:
        self._terminal.write(text)
        self._file.write(text.replace("\r", "\n") if text.strip("\r\n ") else text.replace("\r", ""))
        return len(text)

    def flush(self) -> None:
        self._terminal.flush()
        self._file.flush()

    def isatty(self) -> bool:
        return self._terminal.isatty()

    def fileno(self) -> int:
        return self._terminal.fileno()

    @property
    def encoding(self) -> str:
        return self._terminal.encoding


@dataclass
class Job:
    """One running stage.

    Attributes:
        name: Rule name and wildcards, e.g. `fitcoach_predict~demo_test~demo~1-of-2`.
        counts: What the stage wants to tell in the timings table (items, bytes, model calls).
        gpus: The devices it holds; it sees no others.
    """

    name: str
    counts: dict[str, Any] = field(default_factory=dict)
    gpus: list[str] = field(default_factory=list)


def keep_own_packages() -> None:
    """Drops site-packages folders outside `sys.prefix`, so that a job uses its own environment only.

    In a container, Snakemake mounts the controller's folders under names of its own (`_MOUNTED`).
    """
    prefix = Path(sys.prefix)

    def foreign(entry: str) -> bool:
        path = Path(entry)
        if path.is_relative_to(_MOUNTED):
            return True
        own = path.is_relative_to(prefix) or path.resolve().is_relative_to(prefix.resolve())
        return path.name in ("site-packages", "dist-packages") and not own

    sys.path[:] = [entry for entry in sys.path if not foreign(entry)]


def _show_plainly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, SightlineError):
        print(f"error: {error}", file=sys.stderr)
    else:
        traceback.print_exception(kind, error, trace)


def _peak_kib() -> int:
    """Returns this process's peak memory; getrusage would count what it inherited at the fork."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0


def _timing(job: Job, started: float, cpu_started: float, status: str) -> dict[str, Any]:
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    return {
        "job": job.name,
        "rule": job.name.split("~")[0],
        "status": status,
        "started": started,
        "wall_s": round(time.time() - started, 3),
        "cpu_s": round(cpu - cpu_started, 3),
        "max_rss_mib": round(max(_peak_kib(), children.ru_maxrss) / 1024, 1),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "counts": job.counts,
        "gpus": job.gpus,
    }


@contextmanager
def stage(snakemake: Any) -> Iterator[Job]:
    """Runs an adapter's one call with its log attached, its GPUs held, its errors explained and its time recorded."""
    keep_own_packages()
    wildcards = [str(value) for value in snakemake.wildcards]
    job = Job("~".join([snakemake.rule, *wildcards]))
    log_path = Path(str(snakemake.log[0]))
    log_path.parent.mkdir(parents=True, exist_ok=True)
    started, terminal_out, terminal_err = time.time(), sys.stdout, sys.stderr
    with open(log_path, "w", encoding="utf-8", buffering=1) as file:
        sys.stdout, sys.stderr = _Tee(terminal_out, file), _Tee(terminal_err, file)  # type: ignore[assignment]
        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr, force=True
        )
        logging.getLogger("httpx").setLevel(logging.WARNING)
        status = "failed"
        try:
            with gpu_lease(snakemake.resources.get("gpu", 0), process_environment()) as job.gpus:
                yield job
            status = "ok"
            if job.counts:
                log.info("%s: %s", job.name, ", ".join(f"{key} {value}" for key, value in job.counts.items()))
        except BaseException as error:
            if isinstance(error, SightlineError):
                file.write(f"error: {error}\n")
            else:
                traceback.print_exc(file=file)
                file.write(f"error in {job.name}: {error!r} -> the traceback above says where\n")
            sys.excepthook = _show_plainly
            raise
        finally:
            sys.stdout, sys.stderr = terminal_out, terminal_err
            write_json(TIMINGS / f"{job.name}.json", _timing(job, started, 0.0, status))
