"""The embedded demo of FitCoach: a dataset in QEVD's layout, small weights, and both as a multi-part archive."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sightline.assets.packing import pack_parts
from sightline.records.files import to_json, write_text
from sightline.systems.fitcoach.annotations import ANNOTATION_FILE, SPLIT_FOLDERS
from sightline.systems.fitcoach.demo_plan import Workout, plan_workouts
from sightline.systems.fitcoach.demo_video import write_workout
from sightline.systems.fitcoach.demo_weights import write_demo_weights

ARCHIVE_NAME = "fitcoach_demo.tar"


def write_demo_dataset(
    root: str | Path,
    *,
    seed: int,
    test_workouts: int = 8,
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
    test_workouts: int = 8,
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
        return pack_parts(scratch, target, ARCHIVE_NAME, part_bytes)
