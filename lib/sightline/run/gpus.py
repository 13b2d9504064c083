"""GPUs held by lease: a job sees exactly the devices that it holds, and no other job of this user holds them.

A lease is a lock on a file per device, which the kernel releases however the job ends. It holds among all runs of
one user on one machine. Inside a SLURM job that was given devices, those are all there is, and they are shared out
only among what runs in that job.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sightline.errors import DeviceError, StoreError
from sightline.records.lease import lease

log = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
_ORDER = "CUDA_DEVICE_ORDER"
_JOB = "SLURM_JOB_ID"
_LONGEST_PAUSE_S = 1.0


def machine_gpus() -> list[str]:
    """Returns the numbers of this machine's GPUs, in the order of their bus; none without a working `nvidia-smi`."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=index", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in answer.splitlines() if line.strip().isdigit()]


def visible_gpus(environment: Mapping[str, str]) -> list[str] | None:
    """Returns the devices that `CUDA_VISIBLE_DEVICES` allows (numbers or UUIDs), or None if it is not set.

    As in CUDA, the list ends before the first entry that is no device.
    """
    if VISIBLE not in environment:
        return None
    found: list[str] = []
    for entry in environment[VISIBLE].split(","):
        if not re.fullmatch(r"[0-9]+|(GPU|MIG)-[\w/.-]+", entry.strip()):
            break
        found.append(entry.strip())
    return found


def lease_folder(environment: Mapping[str, str], root: Path = Path("/tmp")) -> Path:
    """Returns the folder of the lock files: one per user and machine, and one per SLURM job that has devices.

    It is on the machine itself, whatever TMPDIR says, so that all runs of a user find the same one.

    Raises:
        DeviceError: Somebody else owns a folder of that name.
    """
    folder = root / f"sightline-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        raise DeviceError("is not a folder of yours", file=folder, mend="have it removed, then run again")
    job = environment.get(_JOB, "")
    return folder / (f"job-{job}" if job.isdigit() and visible_gpus(environment) else "machine")


@contextmanager
def gpu_lease(
    count: int,
    environment: MutableMapping[str, str],
    *,
    gpus: Sequence[str] | None = None,
    folder: Path | None = None,
) -> Iterator[list[str]]:
    """Holds `count` GPUs and makes them all that this process and its children see; waits until they are free.

    A job without GPUs sees none. Where a GPU was asked for and none can be found, the list is empty and nothing is
    changed: `choose_device` then says what follows.

    Args:
        count: GPUs the job was given.
        environment: Environment of the process; `CUDA_VISIBLE_DEVICES` is set in it, and put back at the end. It
            must be entered before anything initialises CUDA.
        gpus: Devices of this machine; asked of `nvidia-smi` if None. `CUDA_VISIBLE_DEVICES` goes before.
        folder: Where the locks are; see `lease_folder`.

    Raises:
        DeviceError: Fewer devices are to be had here than the job asks for.
    """
    allowed = visible_gpus(environment)
    if count < 1:
        with _set(environment, {VISIBLE: ""}):
            yield []
        return
    known = allowed if allowed is not None else list(machine_gpus() if gpus is None else gpus)
    if not known:
        log.info("no GPU found: neither %s nor nvidia-smi names one", VISIBLE)
        yield []
        return
    if count > len(known):
        raise DeviceError(
            f"this job asks for {count} GPUs and {len(known)} can be used here ({', '.join(known)})",
            mend=f"run it where there are {count}, or ask for fewer",
        )
    order = {} if allowed is not None else {_ORDER: "PCI_BUS_ID"}  # nvidia-smi counts by bus, CUDA by speed
    with _hold(known, count, folder or lease_folder(environment)) as held:
        log.info("GPU %s is held by this job (of %s)", ", ".join(held), ", ".join(known))
        with _set(environment, {VISIBLE: ",".join(held), **order}):
            yield held


@contextmanager
def _set(environment: MutableMapping[str, str], values: Mapping[str, str]) -> Iterator[None]:
    before = {name: environment.get(name) for name in values}
    environment.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                environment.pop(name, None)
            else:
                environment[name] = value


@contextmanager
def _hold(known: Sequence[str], count: int, folder: Path) -> Iterator[list[str]]:
    pause, told = 0.05, False
    while True:
        found = _take(known, count, folder)
        if found:
            stack, held = found
            with stack:
                yield held
            return
        if not told:
            log.warning("waiting for %d of the GPUs %s: other jobs hold them", count, ", ".join(known))
            told = True
        time.sleep(pause)
        pause = min(_LONGEST_PAUSE_S, 2 * pause)


def _take(known: Sequence[str], count: int, folder: Path) -> tuple[ExitStack, list[str]] | None:
    """Takes all or none; one job at a time, so that two that want several cannot hold each other up."""
    held: list[str] = []
    with lease(folder / "gate.lock"), ExitStack() as stack:
        for gpu in known:
            try:
                stack.enter_context(lease(folder / f"{re.sub(r'[^A-Za-z0-9-]', '_', gpu)}.lock", timeout_s=0))
            except StoreError:
                continue
            held.append(gpu)
            if len(held) == count:
                return stack.pop_all(), held
    return None
