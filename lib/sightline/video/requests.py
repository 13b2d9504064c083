"""Which pictures a system needs out of videos, and in what form: one JSON line per picture.

    {"video_id": "0007", "frame": 120, "transform": {"short_side": 224, "encoding": "jpeg", "quality": 90}}

`frame` counts in presentation order from 0, as the frame index does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

import cv2
import numpy as np

from sightline.errors import InputError
from sightline.records.files import from_json, to_json, write_text

Encoding = Literal["png", "jpeg"]
ColourOrder = Literal["rgb", "bgr"]
Interpolation = Literal["area", "linear", "cubic"]
_FLAGS = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}
_CHOICES = {"encoding": Encoding, "colour_order": ColourOrder, "interpolation": Interpolation}
_MEND = "correct the request"
MAX_SIDE = 16384


def _is_count(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


@dataclass(frozen=True, slots=True)
class FrameTransform:
    """What is done with an upright frame: cut, scale, encode, in this order.

    Attributes:
        crop: (left, top, width, height) in pixels of the upright frame; None keeps all of it.
        short_side: Length of the shorter side after scaling, proportions kept; excludes `size`.
        size: (width, height) after scaling, whatever the proportions; None with `short_side` None keeps the size.
        interpolation: How OpenCV scales; `area` suits shrinking.
        encoding: `png` is lossless.
        quality: JPEG quality, 1 to 100; None for PNG.
        colour_order: Order of the channels a reader gets; the stored bytes are the same.

    Raises:
        InputError: A field is not of this form; names it.
    """

    crop: tuple[int, int, int, int] | None = None
    short_side: int | None = None
    size: tuple[int, int] | None = None
    interpolation: Interpolation = "area"
    encoding: Encoding = "png"
    quality: int | None = None
    colour_order: ColourOrder = "rgb"

    def __post_init__(self) -> None:
        for name, count in (("crop", 4), ("size", 2)):
            value = getattr(self, name)
            if value is None:
                continue
            lows = (0, 0, 1, 1)[-count:]
            if not isinstance(value, list | tuple) or len(value) != count:
                raise InputError(f"{value!r} is not a list of {count} whole numbers", field=name, mend=_MEND)
            if not all(_is_count(one, low, MAX_SIDE) for one, low in zip(value, lows, strict=True)):
                raise InputError(f"{list(value)} holds what is no length in pixels", field=name, mend=_MEND)
            object.__setattr__(self, name, tuple(value))
        if self.short_side is not None and not _is_count(self.short_side, 1, MAX_SIDE):
            raise InputError(f"{self.short_side!r} is no length in pixels", field="short_side", mend=_MEND)
        if self.short_side is not None and self.size is not None:
            raise InputError("given together with size", field="short_side", mend="give one of the two")
        for name, kind in _CHOICES.items():
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise InputError(f"{getattr(self, name)!r} is unknown", field=name, mend=f"use one of {known}")
        if self.encoding == "jpeg" and not _is_count(self.quality, 1, 100):
            raise InputError(f"{self.quality!r} is no JPEG quality", field="quality", mend="give 1 to 100")
        if self.encoding == "png" and self.quality is not None:
            raise InputError("PNG is lossless and has no quality", field="quality", mend="leave it out, or use jpeg")

    @classmethod
    def from_json(cls, row: Any) -> Self:
        """Builds a transform from a JSON object; absent fields have their defaults.

        Raises:
            InputError: It is no object, has other fields, or a value is wrong.
        """
        if not isinstance(row, dict):
            raise InputError(f"{row!r} is not an object", field="transform", mend=_MEND)
        names = [entry.name for entry in fields(cls)]
        for name in row:
            if name not in names:
                raise InputError("no such field", field=str(name), mend=f"use {', '.join(names)}")
        return cls(**row)

    def to_json(self) -> dict[str, Any]:
        """Returns all fields as a JSON object."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def stored(self) -> FrameTransform:
        """Returns the transform as far as it decides about the stored bytes."""
        return replace(self, colour_order="rgb")

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """Cuts and scales an upright picture uint8 [height, width, 3].

        Raises:
            InputError: The crop leaves the picture.
        """
        if self.crop is not None:
            left, top, width, height = self.crop
            if left + width > picture.shape[1] or top + height > picture.shape[0]:
                raise InputError(
                    f"{list(self.crop)} leaves the picture of {picture.shape[1]}x{picture.shape[0]}",
                    field="crop", mend=_MEND,
                )  # fmt: skip
            picture = picture[top : top + height, left : left + width]
        size = self._scaled(picture.shape[1], picture.shape[0])
        if size != (picture.shape[1], picture.shape[0]):
            picture = cv2.resize(picture, size, interpolation=_FLAGS[self.interpolation])
        return picture

    def _scaled(self, width: int, height: int) -> tuple[int, int]:
        if self.size is not None:
            return self.size
        if self.short_side is None:
            return width, height
        short, target = min(width, height), self.short_side
        # Whole numbers, halves up: the same size on every machine.
        return tuple(max(1, (2 * side * target + short) // (2 * short)) for side in (width, height))  # type: ignore[return-value]

    def encode(self, picture: np.ndarray) -> np.ndarray:
        """Returns the encoded bytes uint8 [bytes] of a picture uint8 [height, width, 3] in BGR."""
        if self.encoding == "png":
            return cv2.imencode(".png", picture)[1].reshape(-1)
        return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(self.quality or 0)])[1].reshape(-1)

    def decode(self, data: np.ndarray) -> np.ndarray:
        """Returns the picture uint8 [height, width, 3] in `colour_order` of what `encode` gave.

        Raises:
            InputError: The bytes are no picture.
        """
        flag = cv2.IMREAD_COLOR_RGB if self.colour_order == "rgb" else cv2.IMREAD_COLOR
        picture = cv2.imdecode(np.ascontiguousarray(data), flag)
        if picture is None:
            raise InputError("stored bytes are not a picture", mend="extract the frames again")
        return np.asarray(picture, np.uint8)


@dataclass(frozen=True, slots=True)
class FrameRequest:
    """One picture a system needs.

    Attributes:
        video_id: Id of the video in its frame index.
        frame: Index in presentation order.
        transform: What is done with it.

    Raises:
        InputError: The id is empty or the index negative.
    """

    video_id: str
    frame: int
    transform: FrameTransform

    def __post_init__(self) -> None:
        if not isinstance(self.video_id, str) or not self.video_id:
            raise InputError(f"{self.video_id!r} is no video id", field="video_id", mend=_MEND)
        if not _is_count(self.frame, 0, 2**53):
            raise InputError(
                f"{self.frame!r} is no frame index", item=self.video_id, field="frame", mend="count from 0"
            )


Wanted = dict[str, dict[FrameTransform, list[int]]]


def write_requests(path: str | Path, requests: Iterable[FrameRequest]) -> None:
    """Writes requests as JSON lines, each once and sorted, so that equal requests give equal bytes."""
    rows = {
        to_json({"video_id": one.video_id, "frame": one.frame, "transform": one.transform.to_json()})
        for one in requests
    }
    write_text(path, "".join(f"{row}\n" for row in sorted(rows)))


def read_requests(path: str | Path) -> list[FrameRequest]:
    """Reads JSON lines of requests.

    Raises:
        InputError: The file is missing or a line is not a request; names file, line and field.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise InputError("list of frames not found", file=path, mend="run the stage that writes it") from None
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text ({error})", file=path, mend="write it again") from None
    requests = []
    for number, line in enumerate(lines, 1):
        try:
            row = from_json(line)
            if not isinstance(row, dict) or row.keys() != {"video_id", "frame", "transform"}:
                raise InputError("not an object of video_id, frame and transform", mend=_MEND)
            requests.append(FrameRequest(row["video_id"], row["frame"], FrameTransform.from_json(row["transform"])))
        except InputError as error:
            raise InputError(
                error.problem, file=path, item=f"line {number}", field=error.field, mend=error.mend
            ) from None
        except ValueError as error:
            raise InputError(f"not JSON ({error})", file=path, item=f"line {number}", mend=_MEND) from None
    return requests


def union(requests: Iterable[FrameRequest]) -> Wanted:
    """Returns, per video and stored form, the frames needed: each once, ascending, whoever asks and how often."""
    found: dict[str, dict[FrameTransform, set[int]]] = {}
    for one in requests:
        found.setdefault(one.video_id, {}).setdefault(one.transform.stored(), set()).add(one.frame)
    return {
        video: {
            transform: sorted(found[video][transform])
            for transform in sorted(found[video], key=lambda entry: to_json(entry.to_json()))
        }
        for video in sorted(found)
    }
