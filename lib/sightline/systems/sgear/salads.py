"""50 Salads: frame-wise labels and folds as segments."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from sightline.errors import InputError
from sightline.systems.sgear.annotations import Segment

Times = Literal["float64", "float16"]
"""`float16` is the original's (0.25 s apart above 256 s); the published numbers were made with it."""
FOLDS = 5
_SUFFIX = ".txt"


@dataclass(frozen=True, slots=True)
class LabelRun:
    """Frames of one label after each other.

    Attributes:
        name: Label.
        first: First frame, from 0.
        stop: Frame after the last.
    """

    name: str
    first: int
    stop: int


def read_bundle(path: str | Path) -> list[str]:
    """Returns the ground-truth file names of one fold's list, e.g. `rgb-01-1.txt`.

    Raises:
        InputError: The file is missing, or its first line is not the comment it should be.
    """
    lines = _lines(path)
    if not lines or not lines[0].startswith("#"):
        raise InputError("the first line must begin with '#'", file=path, mend="give a .bundle file of 50 Salads")
    return [line.strip() for line in lines[1:] if line.strip()]


def _lines(path: str | Path) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise InputError("file not found", file=path, mend="fetch the annotations or correct the path") from None


def label_runs(labels: Sequence[str]) -> list[LabelRun]:
    """Returns the runs of equal labels, in order."""
    runs, first = [], 0
    for name, frames in itertools.groupby(labels):
        length = sum(1 for _ in frames)
        runs.append(LabelRun(name, first, first + length))
        first += length
    return runs


def read_labels(path: str | Path) -> list[str]:
    """Returns one label per frame of a ground-truth file."""
    return [line.strip() for line in _lines(path) if line.strip()]


def segments_of(
    bundle_name: str, labels: Sequence[str], classes: Sequence[str], fps: float, *, times: Times = "float64"
) -> list[Segment]:
    """Returns the segments of one video.

    Args:
        bundle_name: Name of the ground-truth file.
        labels: One per frame.
        classes: Names in class order, from `read_mapping`.
        fps: Frames per second.
        times: Precision of start and end.

    Raises:
        InputError: A label is unknown, or the rate is not positive.
    """
    if not fps > 0:
        raise InputError(f"{fps:g} frames per second", item=bundle_name, field="fps", mend="look at the video")
    number = {name: place for place, name in enumerate(classes)}
    video = bundle_name.removesuffix(_SUFFIX)
    kind = np.float16 if times == "float16" else np.float64
    segments = []
    for place, run in enumerate(label_runs(labels)):
        if run.name not in number:
            raise InputError(f"label {run.name!r} is not in the mapping", item=video, mend="give the right mapping.txt")
        start, end = float(kind(run.first / fps)), float(kind(run.stop / fps))
        uid = f"{video}_{place}"
        segments.append(Segment(uid, uid, video, participant_of(video), start, end, number[run.name], -1, -1))
    return segments


def participant_of(video: str) -> str:
    """Returns the cook of a video: `rgb-XX-Y` is the Y-th salad of XX; each made two."""
    parts = video.split("-")
    return parts[1] if len(parts) > 2 else video


def read_fold(
    bundle: str | Path,
    labels_folder: str | Path,
    classes: Sequence[str],
    fps: float | Mapping[str, float],
    *,
    times: Times = "float64",
) -> list[Segment]:
    """Reads the segments of one fold.

    Args:
        bundle: `train.split1.bundle` or `test.split1.bundle`.
        labels_folder: Folder of the ground truth.
        classes: Names in class order.
        fps: One rate for all videos (the original takes the first video's), or each video's own by its name.
        times: Precision of start and end.

    Raises:
        InputError: A file is missing, a label or a video's rate unknown.
    """
    found = []
    for name in read_bundle(bundle):
        video = name.removesuffix(_SUFFIX)
        if isinstance(fps, Mapping) and video not in fps:
            raise InputError("the rate of the video is unknown", item=video, field="fps", mend="index the videos first")
        rate = fps[video] if isinstance(fps, Mapping) else fps
        found += segments_of(name, read_labels(Path(labels_folder) / name), classes, rate, times=times)
    return found
