"""Videos as tiles: decord's frame count and rate read through PyAV, frames picked sparsely, bytes until the device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sightline.errors import InputError, VideoError
from sightline.systems.videosavi.segments import FrameProfile, indices_inside, segment_indices
from sightline.video.decode import opened
from sightline.video.info import container_of
from sightline.video.seeking import pick_frames
from sightline.video.tiles import choose_grid, cut_tiles

# ImageNet statistics, which InternVL keeps.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class VideoCount:
    """What decides which frames are looked at.

    Attributes:
        packets: Packets of the video track: decord's frame count.
        shown: Those that a player shows; fewer where an edit list hides some.
        fps: Average frames per second that the container states: decord's `get_avg_fps`.
    """

    packets: int
    shown: int
    fps: float


@dataclass(frozen=True, slots=True)
class VideoTiles:
    """A video as the model sees it.

    Attributes:
        tiles: uint8 [tiles, 3, size, size], RGB, frame after frame.
        tiles_per_frame: Number of tiles of each frame.
        indices: Frame index of each frame; repeats in short videos.
    """

    tiles: np.ndarray
    tiles_per_frame: list[int]
    indices: list[int]


def count_frames(path: str | Path) -> VideoCount:
    """Counts the frames of a video as decord does, without decoding any.

    decord reads the track that FFmpeg rates best; frames here come from the first one. Where those differ the
    video is refused, since other frames would be shown to the model than the original shows.

    Raises:
        VideoError: Not a readable video, no frame, no average rate, or the best of its video tracks is not the first.
    """
    path = Path(path)
    with opened(path, 1) as stream:
        best = container_of(stream).streams.best("video")
        if best is not None and best.index != stream.index:
            raise VideoError(
                f"the best video track is number {best.index}, not the first ({stream.index})",
                file=path,
                mend=f"keep that track alone (ffmpeg -i IN -map 0:{best.index} -c copy OUT)",
            )
        hidden = [packet.is_discard for packet in container_of(stream).demux(stream) if packet.size]
        fps = float(stream.average_rate or 0)
    shown = len(hidden) - sum(hidden)
    if not shown or not fps > 0:
        raise VideoError(f"{shown} frames at {fps:g} per second", file=path, mend="re-encode it (ffmpeg)")
    return VideoCount(len(hidden), shown, fps)


def read_tiles(
    path: str | Path,
    profile: FrameProfile,
    bound: tuple[float, float] | None = None,
    *,
    allow_high_bit_depth: bool = True,
) -> VideoTiles:
    """Reads the frames of a profile, upright as decord shows them, and cuts them into tiles.

    Args:
        path: The video.
        profile: Number of frames and tiles.
        bound: Start and end in seconds; None for the whole video.
        allow_high_bit_depth: Bring more than 8 bits per component down to 8, as decord does.

    Raises:
        VideoError: The video cannot be read up to the last of these frames.
    """
    count = count_frames(path)
    indices = segment_indices(count.shown, count.fps, profile.segments, bound)
    indices = indices_inside(indices, count.shown, video=str(path))
    cut = {
        index: _tiles_of(np.ascontiguousarray(picture[:, :, ::-1]), profile)
        for index, picture in pick_frames(
            path, sorted(set(indices)), apply_rotation=True, allow_high_bit_depth=allow_high_bit_depth
        )
    }
    return _joined([cut[index] for index in indices], indices)


def tile_frames(frames: np.ndarray, profile: FrameProfile) -> VideoTiles:
    """Cuts frames that are already chosen; `frames` is uint8 [frames, height, width, 3], RGB.

    Raises:
        InputError: There is no frame, or the array has another type or shape.
    """
    if not len(frames):
        raise InputError("no frame to cut", mend="give at least one frame")
    return _joined([_tiles_of(frame, profile) for frame in frames], list(range(len(frames))))


def _tiles_of(picture: np.ndarray, profile: FrameProfile) -> np.ndarray:
    height, width = picture.shape[:2]
    grid = choose_grid(
        width, height, max_tiles=profile.max_tiles, size=profile.size, use_thumbnail=profile.use_thumbnail
    )
    return cut_tiles(picture, grid)


def _joined(cut: list[np.ndarray], indices: list[int]) -> VideoTiles:
    return VideoTiles(np.concatenate(cut), [len(tiles) for tiles in cut], indices)


def normalise(
    tiles: np.ndarray | Tensor, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    """Returns tiles as the vision tower takes them: bytes go to the device, numbers are made there in float32.

    Args:
        tiles: uint8 [N, 3, size, size].
        device: Where the model is.
        dtype: Of the result; the cast comes last.

    Returns:
        [N, 3, size, size], ImageNet-normalised.

    Raises:
        InputError: The tiles are not bytes.
    """
    given = torch.from_numpy(tiles) if isinstance(tiles, np.ndarray) else tiles
    if given.dtype != torch.uint8:
        raise InputError(f"tiles are {given.dtype}, expected uint8")
    mean = torch.tensor(MEAN, device=device).view(3, 1, 1)
    std = torch.tensor(STD, device=device).view(3, 1, 1)
    return given.to(device).float().div_(255).sub_(mean).div_(std).to(dtype)
