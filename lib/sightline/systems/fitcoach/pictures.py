"""From a frame as stored to the picture the 3D CNN gets, and the settings that decide it. Imports no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np

from sightline.systems.fitcoach.model import FRAMES_PER_STEP
from sightline.video.sampling import seconds_from_ns

QEVD_CLOCK_OFFSET_S = 28800.0  # the annotations' clock is eight hours ahead of the recorded one
INPUT_HEIGHT, INPUT_WIDTH = 224, 160
_ASPECT = 1.4  # height to width of the crop


@dataclass(frozen=True, slots=True)
class ExtractorSettings:
    """Everything besides video and weights that decides the features.

    Attributes:
        fps: Frames used per second of real time.
        storage_dtype: Type of the stored features, `float32` or `float16`; the CNN runs in float32.
        rotate_upto_id: Videos whose file name is a number up to this are turned 90 degrees clockwise and padded
            to a square; None turns none.
        priming_copies: Copies of the first frame fed before it; their steps are discarded.
        chunk_frames: Frames per call of the CNN, a multiple of 4.
        apply_display_rotation: Follow the display matrix of a file, as OpenCV does unless told otherwise.
        allow_high_bit_depth: Accept video of more than 8 bits, rounded to 8.
        cpu_threads: Intra-op threads the caller gives torch on a CPU; decides the last bit.
        decoder_threads: Threads of the decoder; decides nothing and is not part of the key.
    """

    fps: float = 16.0
    storage_dtype: str = "float32"
    rotate_upto_id: int | None = 145
    priming_copies: int = 12
    chunk_frames: int = 4
    apply_display_rotation: bool = True
    allow_high_bit_depth: bool = False
    cpu_threads: int = 1
    decoder_threads: int = field(default=1, compare=False)

    def __post_init__(self) -> None:
        if self.chunk_frames < FRAMES_PER_STEP or self.chunk_frames % FRAMES_PER_STEP:
            raise ValueError(f"chunk_frames must be a multiple of {FRAMES_PER_STEP}, got {self.chunk_frames}")
        if self.storage_dtype not in ("float32", "float16"):
            raise ValueError(f"storage_dtype must be float32 or float16, got {self.storage_dtype}")

    def to_json(self) -> dict[str, Any]:
        """Returns what decides the stored bytes, for content keys."""
        return {name: value for name, value in asdict(self).items() if name != "decoder_threads"}


def qevd_seconds(times_ns: np.ndarray) -> np.ndarray:
    """Returns QEVD's nanosecond frame times as seconds on the annotations' clock, float64 [frames]."""
    return seconds_from_ns(times_ns, QEVD_CLOCK_OFFSET_S)


def is_rotated(video_id: str, settings: ExtractorSettings) -> bool:
    """Says whether a video of this id (its file name without ending) is turned before use."""
    return (
        settings.rotate_upto_id is not None
        and video_id.isascii()
        and video_id.isdigit()
        and int(video_id) <= settings.rotate_upto_id
    )


class FramePreparer:
    """Turns, pads, crops and scales the frames of one video as the original does.

    Args:
        rotate: Turn frames 90 degrees clockwise and pad them to a square with black.
    """

    def __init__(self, rotate: bool) -> None:
        self.rotate = rotate
        self._canvas = np.zeros((0, 0, 0), np.uint8)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Maps uint8 [height, width, 3 or 4], BGR or BGRA as stored, to uint8 [3, 224, 160] in RGB.

        The result is a view with the channels innermost in memory.
        """
        picture = self._turned_square_crop(frame) if self.rotate else _crop(frame)
        # Channels are swapped last: scaling treats each alone, and the small picture is cheaper to copy.
        small = cv2.resize(picture, (INPUT_WIDTH, INPUT_HEIGHT), interpolation=cv2.INTER_LINEAR)
        code = cv2.COLOR_BGR2RGB if frame.shape[2] == 3 else cv2.COLOR_BGRA2RGB
        return cv2.cvtColor(small, code).transpose(2, 0, 1)

    def _turned_square_crop(self, frame: np.ndarray) -> np.ndarray:
        """Turns a frame clockwise and writes what the crop of its padded square keeps, and only that."""
        width, height = frame.shape[:2]  # of the turned picture
        side = max(height, width)
        kept = int(side / _ASPECT)
        left_cut = int((side - kept) / 2)
        left, top = (side - width) // 2, (side - height) // 2
        first, last = max(left, left_cut), min(left + width, left_cut + kept)
        # Column x of the turned picture is row (width - 1 - x) of the stored one.
        rows = frame[width - (last - left) : width - (first - left)]
        shape = (side, kept, frame.shape[2])
        if self._canvas.shape != shape:
            self._canvas = np.zeros(shape, np.uint8)  # its border stays black from frame to frame
        place = self._canvas[top : top + height, first - left_cut : last - left_cut]
        cv2.rotate(rows, cv2.ROTATE_90_CLOCKWISE, dst=place)  # writes through the view
        return self._canvas


def preprocess(frame: np.ndarray, rotate: bool) -> np.ndarray:
    """Prepares a single frame; see `FramePreparer`."""
    return FramePreparer(rotate)(frame)


def _crop(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    if height / width > _ASPECT:
        wanted = int(width * _ASPECT)
        top = int((height - wanted) / 2)
        return frame[top : top + wanted]
    if height / width < _ASPECT:
        wanted = int(height / _ASPECT)
        left = int((width - wanted) / 2)
        return frame[:, left : left + wanted]
    return frame
