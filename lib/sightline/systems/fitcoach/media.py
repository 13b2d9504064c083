"""The videos of a dataset: those a QEVD split's annotations name, or all of a plain folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sightline.errors import InputError
from sightline.records.files import read_json
from sightline.run.stages import split_folder
from sightline.systems.fitcoach.annotations import ANNOTATION_FILE
from sightline.video.frames import VideoSource

QEVD, VIDEOS = "qevd", "videos"
VIDEO_ENDINGS = frozenset(
    f".{name}" for name in ("mp4", "m4v", "mov", "webm", "mkv", "avi", "mpg", "mpeg", "ts", "flv", "wmv", "3gp", "ogv")
)


def list_media(split_folder: Path) -> list[VideoSource]:
    """Returns one source per annotated video, in the order of the annotations.

    Raises:
        InputError: The annotation file is missing or malformed, or two records name one video.
    """
    path = split_folder / ANNOTATION_FILE
    records = read_json(path, mend="correct the dataset's path; the split's folder must hold this file")
    if not isinstance(records, list):
        raise InputError("expected a list of workouts", file=path, mend="fetch the annotations again")
    sources: list[VideoSource] = []
    seen: set[str] = set()
    for index, record in enumerate(records):
        names = []
        for field in ("long_range_video_file", "video_timestamps"):
            value = record.get(field) if isinstance(record, dict) else None
            if not isinstance(value, str) or Path(value).is_absolute() or ".." in Path(value).parts:
                raise InputError(
                    "expected a path inside the split's folder",
                    file=path,
                    item=f"record {index}",
                    field=field,
                    mend="correct the annotations",
                )
            names.append(value)
        identifier = Path(names[0]).stem
        if identifier in seen:
            raise InputError(
                "two records have this video", file=path, item=identifier, mend="remove one of the records"
            )
        seen.add(identifier)
        sources.append(VideoSource(identifier, split_folder / names[0], str(Path(names[0])), split_folder / names[1]))
    return sources


def list_videos(folder: Path) -> list[VideoSource]:
    """Returns one source per video file of a folder and the folders below it, sorted by path.

    Ids are file names without ending; what an id cannot hold becomes `-`. Times are the stream's own.

    Raises:
        InputError: There is no video, or two files would have one id.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_ENDINGS and path.is_file())
    if not files:
        endings = ", ".join(sorted(VIDEO_ENDINGS))
        raise InputError("no video in this folder", file=folder, mend=f"correct the dataset's path; endings: {endings}")
    seen: dict[str, Path] = {}
    for path in files:
        identifier = video_id_of(path)
        if identifier in seen:
            raise InputError(
                f"{path.name} and {seen[identifier].name} would have one id",
                file=path, item=identifier, mend="rename one of them",
            )  # fmt: skip
        seen[identifier] = path
    return [VideoSource(name, path, path.relative_to(folder).as_posix()) for name, path in seen.items()]


def video_id_of(path: Path) -> str:
    """Returns the id of a video that no dataset names."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).lstrip("-._")[:150] or "video"


READERS: Mapping[str, Callable[[Path], list[VideoSource]]] = {QEVD: list_media, VIDEOS: list_videos}
LANDMARKS: Mapping[str, str] = {QEVD: ANNOTATION_FILE, VIDEOS: ""}
"""The file that tells a split's folder; a plain folder has none."""


def folder_of(asset: str | Path, dataset: Mapping[str, Any]) -> Path:
    """Returns the folder of a dataset (its `layout` and `folder`) inside an acquired asset."""
    return split_folder(asset, dataset["folder"], LANDMARKS[dataset["layout"]])
