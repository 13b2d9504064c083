"""The embedded demo of FitCoach: a dataset in QEVD's layout, small weights, and both as a multi-part archive."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from sightline.records.files import to_json, write_text
from sightline.systems.fitcoach.annotations import ANNOTATION_FILE, SPLIT_FOLDERS
from sightline.systems.fitcoach.demo_plan import Workout, plan_workouts
from sightline.systems.fitcoach.demo_video import write_workout


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
        exercise_seconds: Length of one exercise.
        workers: Processes that draw and encode; 1 stays in this process.

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
    if workers <= 1:
        return [write_workout(*job) for job in jobs]
    # Spawned, not forked: a parent that has run torch holds threads and locks a fork would inherit.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        return list(pool.map(write_workout, *zip(*jobs, strict=True)))
