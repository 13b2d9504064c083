"""The embedded demo of FitCoach: a dataset in QEVD's layout, small weights, and both as a multi-part archive."""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sightline.errors import InputError
from sightline.records.files import to_json, write_bytes, write_json, write_text
from sightline.systems.fitcoach.annotations import ANNOTATION_FILE, SPLIT_FOLDERS
from sightline.systems.fitcoach.demo_plan import Workout, plan_workouts
from sightline.systems.fitcoach.demo_video import write_workout
from sightline.systems.fitcoach.demo_weights import write_demo_weights

ARCHIVE_NAME = "fitcoach_demo.tar"
PARTS_FILE = "parts.json"


def write_demo_dataset(
    root: str | Path,
    *,
    seed: int,
    test_workouts: int = 6,
    train_workouts: int = 18,
    exercises_each: int = 3,
    exercise_seconds: float = 12.0,
    workers: int = 2,
) -> None:
    """Writes drawn workouts in the genuine layout of QEVD-FIT-COACH; equal arguments, equal dataset.

    Args:
        root: Folder that gets the two split folders.
        seed: Decides everything that is drawn and said.
        test_workouts: Workouts in `QEVD-FIT-COACH-Benchmark`.
        train_workouts: Workouts in `QEVD-FIT-COACH`.
        exercises_each: Exercises per workout, all different.
        exercise_seconds: Length of one exercise, at least 7.
        workers: Threads that draw and encode.

    Raises:
        InputError: The sizes make no dataset.
    """
    splits = plan_workouts(seed, test_workouts, train_workouts, exercises_each, exercise_seconds)
    folders = [Path(root) / SPLIT_FOLDERS[split] for split in ("test", "train")]
    jobs = [(folder, workout, seed) for folder, split in zip(folders, splits, strict=True) for workout in split]
    records = _write_all(jobs, workers)
    for folder in folders:
        mine = [record for record, job in zip(records, jobs, strict=True) if job[0] == folder]
        write_text(folder / ANNOTATION_FILE, to_json(mine))


def _write_all(jobs: Sequence[tuple[Path, Workout, int]], workers: int) -> list[dict[str, Any]]:
    # Threads, not processes: encoder and OpenCV work outside Python's lock, and nothing is started anew.
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        return list(pool.map(write_workout, *zip(*jobs, strict=True)))


def write_demo_archive(
    folder: str | Path,
    *,
    seed: int,
    part_bytes: int,
    test_workouts: int = 6,
    train_workouts: int = 18,
    exercises_each: int = 3,
    exercise_seconds: float = 12.0,
    workers: int = 2,
) -> list[dict[str, Any]]:
    """Writes dataset and weights as one plain tar in parts, as large releases are published.

    Inside are `data/<split folder>/...` and `weights/...`. `parts.json` is written last; the parts it names
    are complete. Equal arguments give equal bytes on one machine.

    Args:
        folder: Gets `fitcoach_demo.tar.aa`, `.ab`, ... and `parts.json`; older parts there are replaced.
        seed: As for `write_demo_dataset` and `write_demo_weights`.
        part_bytes: Size of every part but the last.
        test_workouts, train_workouts, exercises_each, exercise_seconds, workers: As for `write_demo_dataset`.

    Returns:
        Name, size in bytes and sha256 of each part, in order, as in `parts.json`.

    Raises:
        InputError: `part_bytes` is not positive, asks for too many parts, or the sizes make no dataset.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    writer = _PartWriter(target, part_bytes)
    (target / PARTS_FILE).unlink(missing_ok=True)
    for stale in target.glob(f"{ARCHIVE_NAME}.*"):
        stale.unlink()
    with tempfile.TemporaryDirectory(prefix=".making-", dir=target) as scratch:
        write_demo_dataset(
            Path(scratch) / "data",
            seed=seed,
            test_workouts=test_workouts,
            train_workouts=train_workouts,
            exercises_each=exercises_each,
            exercise_seconds=exercise_seconds,
            workers=workers,
        )
        write_demo_weights(Path(scratch) / "weights", seed=seed)
        with tarfile.open(fileobj=writer, mode="w|", format=tarfile.USTAR_FORMAT) as archive:  # type: ignore[call-overload]
            for path in sorted(Path(scratch).rglob("*")):
                archive.add(path, path.relative_to(scratch).as_posix(), recursive=False, filter=_plain)
    parts = writer.finish()
    write_json(target / PARTS_FILE, {"archive": ARCHIVE_NAME, "parts": parts})
    return parts


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Takes owner, time and permissions of this machine out of a header."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.isdir() else 0o644
    return member


class _PartWriter:
    """Cuts what is written to it into numbered files of equal size."""

    def __init__(self, folder: Path, part_bytes: int) -> None:
        if part_bytes < 1:
            raise InputError(f"a part of {part_bytes} bytes", field="part_bytes", mend="ask for at least 1 byte")
        self._folder, self._size = folder, part_bytes
        self._waiting = bytearray()
        self._parts: list[dict[str, Any]] = []

    def write(self, data: bytes) -> int:
        self._waiting += data
        while len(self._waiting) >= self._size:
            self._flush(self._size)
        return len(data)

    def finish(self) -> list[dict[str, Any]]:
        """Writes what is left and returns name, size and sha256 of all parts."""
        if self._waiting:
            self._flush(len(self._waiting))
        return self._parts

    def _flush(self, count: int) -> None:
        first, second = divmod(len(self._parts), 26)
        if first >= 26:
            raise InputError("more than 676 parts", field="part_bytes", mend="ask for larger parts")
        name = f"{ARCHIVE_NAME}.{chr(ord('a') + first)}{chr(ord('a') + second)}"
        part = bytes(self._waiting[:count])
        write_bytes(self._folder / name, part)
        self._parts.append({"name": name, "size": count, "sha256": hashlib.sha256(part).hexdigest()})
        del self._waiting[:count]
