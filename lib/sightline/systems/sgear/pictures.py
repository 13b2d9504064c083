"""What a model on raw frames is shown: pictures of the window before an action, scaled and cropped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from sightline.errors import VideoError
from sightline.systems.sgear.annotations import find_video, participant_of
from sightline.systems.sgear.pixels import evaluation_input, training_input
from sightline.systems.sgear.predict import Inputs, ReadInputs
from sightline.systems.sgear.records import SgearPayload
from sightline.systems.sgear.windows import FrameWindow, WindowSettings, video_window
from sightline.video.decode import scan_video
from sightline.video.requests import FrameTransform
from sightline.video.seeking import pick_frames

log = logging.getLogger(__name__)
STORED = FrameTransform(encoding="jpeg", quality=95)
"""How decoded pictures are kept: their own size, little lost."""
ReadPictures = Callable[[str, Sequence[int]], list[np.ndarray]]
"""Video and frames (0-based, ascending) to pictures uint8 [H, W, 3], RGB."""


@dataclass(frozen=True)
class VideoFacts:
    """What choosing frames needs of a video.

    Attributes:
        fps: Its own rate.
        times: float64, seconds of all its frames.
    """

    fps: float
    times: np.ndarray


class Facts(Protocol):
    """Facts of videos by their ids."""

    def get(self, video_id: str, /) -> VideoFacts | None:
        """Returns the facts of a video, or None if it cannot be used."""


@dataclass(frozen=True)
class PixelSettings:
    """How pictures reach the backbone; see `pixels.py`.

    Attributes:
        scale: Shorter side in evaluation.
        scale_train: Range of the shorter side in training.
        crop: Side of a crop.
        crops: Crops in evaluation.
        flip: Probability of mirroring in training.
    """

    scale: int = 388
    scale_train: tuple[int, int] = (384, 425)
    crop: int = 384
    crops: Literal[1, 3] = 3
    flip: float = 0.5


def window_of(payload: SgearPayload, facts: Facts, windows: WindowSettings) -> FrameWindow | None:
    """Returns the frames of a sample's window, or None where its video has none."""
    video = facts.get(payload.video_id)
    if video is None:
        return None
    window = video_window(payload.video_id, payload.start, payload.end, video.fps, video.times, windows)
    return window if len(window.frames) else None


class VideoFolder:
    """Videos under their datasets' names, looked at when first asked for; `get` gives facts, calling it pictures.

    Pictures stay in memory, encoded, up to a limit, so that a training decodes a video once.

    Args:
        roots: Folders; the first that has a video wins.
        megabytes: Memory for pictures.
    """

    def __init__(self, roots: Sequence[str | Path], megabytes: int = 0) -> None:
        self._roots = roots
        self._room = megabytes << 20
        self._videos: dict[str, tuple[Path, VideoFacts] | None] = {}
        self._kept: dict[tuple[str, int], np.ndarray] = {}

    def get(self, video_id: str, /) -> VideoFacts | None:
        """Returns the facts of a video; None, with a line in the log, if it is missing or damaged."""
        if video_id not in self._videos:
            self._videos[video_id] = self._look(video_id)
        found = self._videos[video_id]
        return found[1] if found else None

    def _look(self, video_id: str) -> tuple[Path, VideoFacts] | None:
        names = (f"{participant_of(video_id)}/{video_id}.MP4", *(f"{video_id}.{end}" for end in ("MP4", "mp4", "avi")))
        paths = [path for path, is_there in (find_video(name, self._roots) for name in names) if is_there]
        if not paths:
            log.error("%s: no video in %s", video_id, ", ".join(map(str, self._roots)))
            return None
        try:
            info, times = scan_video(paths[0], full_decode=False)
        except VideoError as error:
            log.error("%s: %s", video_id, error)
            return None
        return paths[0], VideoFacts(info.avg_fps or len(times) / max(info.duration_s, 1e-6), times - times[0])

    def __call__(self, video_id: str, places: Sequence[int]) -> list[np.ndarray]:
        """Returns pictures uint8 [H, W, 3], RGB, of a video that `get` knows."""
        found = self._videos[video_id]
        assert found is not None
        absent = sorted({place for place in places if (video_id, place) not in self._kept})
        fresh: dict[int, np.ndarray] = {}
        for frame, picture in pick_frames(found[0], absent) if absent else ():
            encoded = STORED.encode(picture)  # always through the encoding: the same pixels kept or not
            fresh[frame] = encoded
            if encoded.nbytes <= self._room:
                self._room -= encoded.nbytes
                self._kept[video_id, frame] = encoded
        return [STORED.decode(self._kept.get((video_id, place), fresh.get(place))) for place in places]  # type: ignore[arg-type]


def picture_inputs(
    read: ReadPictures,
    facts: Facts,
    windows: WindowSettings,
    pixels: PixelSettings,
    *,
    train: bool = False,
) -> ReadInputs:
    """Returns what a model on raw frames is shown.

    In training, scale, place and mirroring are drawn from numpy's global generator, whose state a training keeps.
    A sample without a picture is empty.

    Args:
        read: Pictures.
        facts: Of the videos.
        windows: Which frames.
        pixels: Scales and crops.
        train: Draw, instead of cutting fixed crops.
    """

    def one(payload: SgearPayload) -> np.ndarray | None:
        window = window_of(payload, facts, windows)
        if window is None:
            return None
        pictures = np.stack(read(window.video_id, window.frames.tolist()))
        if train:
            generator = np.random.default_rng(np.random.randint(2**62))
            return training_input(pictures, generator, scale=pixels.scale_train, crop=pixels.crop, flip=pixels.flip)
        return evaluation_input(pictures, scale=pixels.scale, crop=pixels.crop, crops=pixels.crops)

    def inputs(payloads: Sequence[SgearPayload]) -> Inputs:
        found = [one(payload) for payload in payloads]
        empty = np.array([values is None for values in found], bool)
        crops = () if train or pixels.crops == 1 else (pixels.crops,)
        blank = np.zeros((windows.num_frames, *crops, 3, pixels.crop, pixels.crop), np.float32)
        values = np.stack([blank if values is None else values for values in found])
        return Inputs(values, np.repeat(empty[:, None], windows.num_frames, axis=1), empty)

    return inputs
