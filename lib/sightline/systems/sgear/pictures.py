"""What a model on raw frames is shown: pictures of the window before an action, scaled and cropped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from sightline.features.extracted_frames import ExtractedFrames
from sightline.systems.sgear.pixels import evaluation_input, training_input
from sightline.systems.sgear.predict import Inputs, ReadInputs
from sightline.systems.sgear.records import SgearPayload
from sightline.systems.sgear.windows import FrameWindow, WindowSettings, video_window
from sightline.video.frames import FrameIndexRow
from sightline.video.requests import FrameRequest, FrameTransform
from sightline.video.seeking import pick_frames

STORED = FrameTransform(encoding="jpeg", quality=95)
"""How pictures are kept between decoding and reading: their own size, little lost."""
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


def facts_of(rows: Iterable[FrameIndexRow]) -> dict[str, VideoFacts]:
    """Returns the facts of the usable videos of a frame index; frames are taken to be evenly spaced."""
    found = {}
    for row in rows:
        if row.status == "ok" and row.info is not None and row.info["avg_fps"] > 0:
            fps = float(row.info["avg_fps"])
            found[row.video_id] = VideoFacts(fps, np.arange(row.info["frames"]) / fps)
    return found


def window_of(payload: SgearPayload, facts: Mapping[str, VideoFacts], windows: WindowSettings) -> FrameWindow | None:
    """Returns the frames of a sample's window, or None where its video has none."""
    video = facts.get(payload.video_id)
    if video is None:
        return None
    window = video_window(payload.video_id, payload.start, payload.end, video.fps, video.times, windows)
    return window if len(window.frames) else None


def frame_requests(
    payloads: Iterable[SgearPayload], facts: Mapping[str, VideoFacts], windows: WindowSettings
) -> list[FrameRequest]:
    """Returns the pictures that some samples need out of their videos, each once."""
    wanted = {
        (window.video_id, int(frame))
        for payload in payloads
        if (window := window_of(payload, facts, windows)) is not None
        for frame in window.frames
    }
    return [FrameRequest(video, frame, STORED) for video, frame in sorted(wanted)]


def extracted_pictures(frames: ExtractedFrames) -> ReadPictures:
    """Returns a reader of pictures that were taken out beforehand."""
    return lambda video, places: [frames.read(video, place, STORED) for place in places]


def decoded_pictures(files: Mapping[str, Path]) -> ReadPictures:
    """Returns a reader that decodes videos when asked, for single samples.

    Args:
        files: Video id to file.
    """

    def read(video: str, places: Sequence[int]) -> list[np.ndarray]:
        wanted = sorted(set(places))
        found = {frame: picture[..., ::-1].copy() for frame, picture in pick_frames(files[video], wanted)}  # from BGR
        return [found[place] for place in places]

    return read


def picture_inputs(
    read: ReadPictures,
    facts: Mapping[str, VideoFacts],
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
