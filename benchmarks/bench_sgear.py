"""S-GEAR's data and metrics: windows out of an LMDB against reading every frame, class-mean recall against sorting."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from sightline.metrics.recall import class_mean_recall, ranks_of
from sightline.systems.sgear.feature_lmdb import BACKWARD_FRAMES, FeatureReader, feature_key
from sightline.systems.sgear.windows import FrameWindow, WindowSettings, feature_window

from benchmarks.timing import interleave

DIM, FRAMES, ACTIONS = 1024, 6000, 96
ROWS, CLASSES, OCCURRING = 9668, 3806, 1352  # EPIC-Kitchens-100 validation
REFERENCE_ROWS = 1500  # the sorting form takes minutes on all rows; both arms see the same part
K = 5
RECALLS = 4  # overall, unseen, tail, many-shot: all of the same scores


def _write(folder: Path) -> None:
    values = np.random.default_rng(0).standard_normal((FRAMES, DIM)).astype("<f4")
    with (
        lmdb.open(str(folder / "data.mdb"), subdir=False, map_size=1 << 30, lock=False) as env,
        env.begin(write=True) as transaction,
    ):
        for number, row in enumerate(values, 1):
            transaction.put(feature_key("P01_01", number), row.tobytes())


def _every_frame(env: lmdb.Environment, windows: list[FrameWindow]) -> np.ndarray:
    """Reads all frames of a window, each in a transaction of its own, and keeps the slots."""
    found = []
    for window in windows:
        rows = np.zeros((len(window.requested), DIM), np.float32)
        for place, frame in enumerate(window.requested.tolist()):
            for number in range(frame, frame - BACKWARD_FRAMES - 1, -1):
                with env.begin() as transaction:
                    value = transaction.get(feature_key(window.video_id, number))
                if value is not None:
                    rows[place] = np.frombuffer(value, "<f4")
                    break
        found.append(rows[window.picked])
    return np.stack(found)


def bench_windows(rounds: int) -> dict[str, Any]:
    """96 windows of 15 frames out of 15 s, 1024 channels, warm."""
    ends = np.random.default_rng(1).uniform(20.0, FRAMES / 30.0, ACTIONS)
    windows = [feature_window("P01_01", end - 15.0, end, WindowSettings()) for end in ends]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder)
        with FeatureReader([folder]) as reader:
            ours = reader.read(windows)[0]
        with lmdb.open(str(folder / "data.mdb"), subdir=False, readonly=True, lock=False) as env:
            theirs = _every_frame(env, windows)
            per_frame = interleave({"every frame, a transaction each": lambda: _every_frame(env, windows)}, rounds)
        with FeatureReader([folder]) as reader:
            batch = interleave({"slots, one transaction": lambda: reader.read(windows)}, rounds)
    arms = {**batch, **per_frame}
    ratio = arms["every frame, a transaction each"]["median_s"] / arms["slots, one transaction"]["median_s"]
    return {
        "name": "sgear_windows",
        "arms": arms,
        "ratios": {"every frame / slots": ratio},
        "target": {"every frame / slots": 15.0},
        "guard": {"every frame / slots": 8.0},
        "equal": bool(np.array_equal(ours, theirs)),
        "max_difference": float(np.abs(ours - theirs).max()),
        "note": f"{ACTIONS} windows; one file may be open once in a process, so arms follow each other",
    }


def _sorting_recall(scores: np.ndarray, labels: np.ndarray, classes: list[int]) -> float:
    """Sorts all columns again for every class, as the published evaluation does."""
    recalls = []
    for one in classes:
        rows = labels == one
        best = scores[rows].argsort()[:, ::-1][:, :K]
        recalls.append((best == one).any(axis=1).mean())
    return 100 * float(np.mean(recalls))


def _partition_recall(scores: np.ndarray, labels: np.ndarray) -> float:
    """One partition for all rows, then counts per class: a plain fast form."""
    best = np.argpartition(-scores, K, axis=1)[:, :K]
    hits = (best == labels[:, None]).any(axis=1)
    rows, right = np.bincount(labels), np.bincount(labels[hits], minlength=labels.max() + 1)
    return 100 * float((right[rows > 0] / rows[rows > 0]).mean())


def _ranked_once(scores: np.ndarray, labels: np.ndarray) -> list[float]:
    ranks = ranks_of(scores, labels)
    return [class_mean_recall(ranks, K) for _ in range(RECALLS)]


def bench_recall(rounds: int) -> dict[str, Any]:
    """Class-mean recall@5 over the classes of EPIC-Kitchens-100; a share of its validation rows, no equal scores."""
    generator = np.random.default_rng(2)
    scores = generator.standard_normal((REFERENCE_ROWS, CLASSES)).astype(np.float32)
    occurring = generator.choice(CLASSES, OCCURRING * REFERENCE_ROWS // ROWS, replace=False)
    labels = generator.choice(occurring, REFERENCE_ROWS)
    scores[np.arange(REFERENCE_ROWS), labels] += 2.0
    classes = sorted(set(labels.tolist()))
    arms: dict[str, Callable[[], Any]] = {
        "ours, with bounds of ties": lambda: class_mean_recall(ranks_of(scores, labels), K),
        "one partition": lambda: _partition_recall(scores, labels),
        "sorting per class": lambda: _sorting_recall(scores, labels, classes),
    }
    arms["four recalls, ours"] = lambda: _ranked_once(scores, labels)
    arms["four recalls, sorting"] = lambda: [_sorting_recall(scores, labels, classes) for _ in range(RECALLS)]
    values = [arms[name]() for name in ("ours, with bounds of ties", "one partition", "sorting per class")]
    spreads = interleave(arms, rounds)
    seconds = {name: one["median_s"] for name, one in spreads.items()}
    return {
        "name": "sgear_recall",
        "arms": spreads,
        "ratios": {
            "sorting / ours": seconds["sorting per class"] / seconds["ours, with bounds of ties"],
            "four recalls": seconds["four recalls, sorting"] / seconds["four recalls, ours"],
            "one partition / ours": seconds["one partition"] / seconds["ours, with bounds of ties"],
        },
        "target": {"sorting / ours": 12.0, "four recalls": 40.0},
        "guard": {"sorting / ours": 6.0},
        "equal": max(values) - min(values) < 1e-9,
        "max_difference": max(values) - min(values),
        "note": f"{REFERENCE_ROWS} rows, {CLASSES} columns, {len(classes)} classes occur",
    }


def run(rounds: int) -> list[dict[str, Any]]:
    """Returns the measurements of S-GEAR's data and metrics."""
    return [bench_windows(rounds), bench_recall(rounds)]
