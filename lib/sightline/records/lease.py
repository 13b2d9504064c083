"""One writer at a time: an flock beside a file, which the kernel releases however the holder ends.

Some network file systems keep an flock to one machine. So the holder also writes its name into the file and touches
it every few seconds: a job on another machine that gets the flock all the same waits until the touching has stopped.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from sightline.errors import StoreError

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 0.5
_BEAT_S = 15.0
_SILENT_S = 120.0  # longer than network file systems remember a file's times


@contextmanager
def lease(path: str | Path, *, timeout_s: float | None = None) -> Iterator[None]:
    """Holds an exclusive lock on `path`; a second holder waits, and the log says for whom.

    The file stays behind when the lease ends: removing it would let two writers lock two different files.

    Args:
        path: The lock file; made when absent.
        timeout_s: Longest wait in seconds; None waits as long as it takes, 0 tries once.

    Raises:
        StoreError: The lock was not released within `timeout_s`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as stream:
        _wait_for(stream, path, timeout_s)
        stream.seek(0)
        stream.truncate()
        stream.write(f"{socket.gethostname()} pid {os.getpid()}")
        stream.flush()
        try:
            with _heartbeat(path):
                yield
        finally:
            stream.truncate(0)  # nobody has to find out whether this holder still lives


@contextmanager
def _heartbeat(path: Path) -> Iterator[None]:
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(_BEAT_S):
            try:
                os.utime(path)
            except OSError as error:
                log.warning("%s cannot be touched (%s); another machine may take it for abandoned", path, error)

    thread = threading.Thread(target=beat, name=f"lease {path.name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _silent_s(path: Path) -> float:
    """Returns how long ago a file was touched, by the clock of its own file system."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".clock-") as probe:
        return os.stat(probe.name).st_mtime - os.stat(path).st_mtime


def _try(stream: IO[str], path: Path) -> str | None:
    """Takes the lock and returns None, or returns who holds it."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.seek(0)
        return stream.read().strip() or "another job"
    stream.seek(0)
    holder = stream.read().strip()
    if holder and holder.split()[0] != socket.gethostname() and _silent_s(path) < _SILENT_S:
        fcntl.flock(stream, fcntl.LOCK_UN)
        return holder
    return None


def _wait_for(stream: IO[str], path: Path, timeout_s: float | None) -> None:
    started, pause, told = time.monotonic(), _FIRST_PAUSE_S, False
    while (holder := _try(stream, path)) is not None:
        if timeout_s is not None and time.monotonic() - started >= timeout_s:
            raise StoreError(
                f"still held by {holder} after {timeout_s:g} s",
                file=path,
                mend="wait for that job or end it, then run again",
            )
        if not told:
            log.warning("%s is held by %s; waiting until it ends", path, holder)
            told = True
        time.sleep(pause)
        pause = min(_LONGEST_PAUSE_S, pause * 2)
