"""Which frames HOI-QA needs out of which videos, and whether a picture fits what was annotated.

Frames are named `<video>/frame_<n>.jpg`. Where counting starts, and which video of Ego4D a name means, the release
does not say: both are settings here, checked against the videos.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

from sightline.errors import InputError
from sightline.systems.hoiref.annotations import video_of
from sightline.systems.hoiref.records import FRAME_SIZES

_FRAME = re.compile(r"frame_(\d+)\.[A-Za-z]+\Z")
ASPECT_TOLERANCE = 0.02
DIGITS = 10
"""Digits of a frame's number in the released names."""


@dataclass(frozen=True)
class Numbering:
    """How a frame's name leads to a frame of a video.

    Attributes:
        first: Number of a video's first frame: 1 for the published EPIC-KITCHENS frames.
        videos: Name in HOI-QA -> id of the video it is taken from, where the two differ.
    """

    first: int = 1
    videos: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Misfit:
    """A picture that cannot be had, or does not look like what was annotated.

    Attributes:
        image: The picture's path in HOI-QA.
        reason: What does not fit.
    """

    image: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Returns the row as a JSON object."""
        return asdict(self)


def frame_number(image: str) -> int:
    """Returns the number in a picture's name.

    Raises:
        InputError: The name is not of the form `frame_<n>.jpg`.
    """
    match = _FRAME.match(PurePosixPath(image).name)
    if match is None:
        raise InputError("not the name of a frame", item=image, mend="name it frame_<n>.jpg")
    return int(match[1])


def locate_frames(
    images: Iterable[str], frame_counts: Mapping[str, int], numbering: Numbering
) -> tuple[dict[str, tuple[str, int]], list[Misfit]]:
    """Finds the frame of every picture.

    Args:
        images: Paths of HOI-QA, in any number.
        frame_counts: Video id -> its decoded frames.
        numbering: How names lead to frames.

    Returns:
        Picture -> (video id, frame from 0), and what cannot be found: an unknown video, or a number beyond its end,
        which is how a wrong numbering or the wrong one of Ego4D's lists of videos shows.
    """
    found: dict[str, tuple[str, int]] = {}
    misfits = []
    for image in dict.fromkeys(images):
        name = video_of(image)
        video = numbering.videos.get(name, name)
        try:
            frame = frame_number(image) - numbering.first
        except InputError as error:
            misfits.append(Misfit(image, error.problem))
            continue
        count = frame_counts.get(video)
        if count is None:
            misfits.append(Misfit(image, f"no video {video}"))
        elif not 0 <= frame < count:
            misfits.append(Misfit(image, f"frame {frame} of a video of {count} frames"))
        else:
            found[image] = (video, frame)
    return found, misfits


def check_shape(image: str, part: str, width: int, height: int) -> Misfit | None:
    """Compares a picture's proportions with those of its annotations, whose size differs from the stored one.

    Args:
        image: The picture's path in HOI-QA.
        part: `epic`, `ego4d` or `visor`.
        width, height: Of the stored picture, in pixels.
    """
    across, down = FRAME_SIZES[part]
    if abs(width / height / (across / down) - 1) <= ASPECT_TOLERANCE:
        return None
    return Misfit(image, f"the picture is {width}x{height}, but its boxes are drawn in {across}x{down}")
