"""The videos of a QEVD split and their timestamps, as the annotations name them."""

from __future__ import annotations

from pathlib import Path

from sightline.errors import InputError
from sightline.records.files import read_json
from sightline.systems.fitcoach.annotations import ANNOTATION_FILE
from sightline.video.frames import VideoSource

LANDMARK = ANNOTATION_FILE


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
