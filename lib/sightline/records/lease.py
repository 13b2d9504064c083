"""One writer at a time: an flock beside a file, which the kernel releases however the holder ends."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from sightline.errors import StoreError

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 0.5


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
        yield


def _wait_for(stream: IO[str], path: Path, timeout_s: float | None) -> None:
    started, pause, told = time.monotonic(), _FIRST_PAUSE_S, False
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            stream.seek(0)
            holder = stream.read().strip() or "another job"
            if timeout_s is not None and time.monotonic() - started >= timeout_s:
                raise StoreError(
                    f"still held by {holder} after {timeout_s:g} s",
                    file=path,
                    mend="wait for that job or end it, then run again",
                ) from None
            if not told:
                log.warning("%s is held by %s; waiting until it ends", path, holder)
                told = True
            time.sleep(pause)
            pause = min(_LONGEST_PAUSE_S, pause * 2)
