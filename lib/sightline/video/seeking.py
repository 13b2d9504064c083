"""Chosen frames of a video, by jumping between key frames where that saves decoding; the pixels stay the same.

The packets are read first, without decoding them. They say when every frame is shown and where decoding may
start. From them a file is read in stretches: decoding goes on, or jumps to a key frame further on. Where the
packets leave any doubt the file is read from its beginning, as `iter_frames` does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from sightline.video.decode import iter_frames, opened, to_pixels, turned_upright
from sightline.video.info import bit_depth, container_of

# Codecs whose pictures shown after a key frame never need one from before it.
SEEKABLE = frozenset({"h264", "hevc", "vp8", "vp9"})
# A jump costs about as much as decoding this many frames: what the decoder holds back is decoded and thrown away.
JUMP_FRAMES = 6


@dataclass(frozen=True, slots=True)
class PacketIndex:
    """What the packets of a file say without being decoded.

    Attributes:
        pts: int64 [frames], presentation times of the shown frames in ticks of the stream, ascending.
        keyframes: int64 [key frames], presentation times of the packets that decoding may start at, ascending.
    """

    pts: np.ndarray
    keyframes: np.ndarray


@dataclass(frozen=True, slots=True)
class Stretch:
    """Frames read by decoding on without a jump.

    Attributes:
        start: Presentation time of the key frame jumped to; None begins at the beginning of the file.
        wanted: Frame indices, ascending.
    """

    start: int | None
    wanted: list[int]


class _DoubtError(Exception):
    """What came out of the decoder is not what the packets promised."""


def read_packets(path: str | Path) -> PacketIndex | None:
    """Reads the packets of a file; None where they do not say for certain which frame is which.

    Raises:
        VideoError: The file is absent or is not a video.
    """
    pts: list[int | None] = []
    keyframes: list[int] = []
    with opened(Path(path), 1) as stream:
        if stream.codec_context.name not in SEEKABLE:
            return None
        try:
            for packet in container_of(stream).demux(stream):
                if not packet.size:
                    continue
                if packet.is_keyframe and packet.pts is not None:
                    keyframes.append(packet.pts)
                if not packet.is_discard:
                    pts.append(packet.pts)
        except (av.error.FFmpegError, OSError):
            return None  # decoding it says in full what is wrong
    known = [value for value in pts if value is not None]
    if len(known) != len(pts) or len(set(known)) != len(known) or not keyframes:
        return None
    return PacketIndex(np.sort(np.asarray(known, np.int64)), np.sort(np.asarray(keyframes, np.int64)))


def plan_stretches(index: PacketIndex, wanted: Sequence[int]) -> list[Stretch]:
    """Decides before each wanted frame whether to decode on or to jump; a jump is taken only if it saves frames.

    Args:
        index: The packets.
        wanted: Ascending indices of frames in `index`.

    Returns:
        Stretches that hold every wanted frame once; one stretch without a jump is sequential reading.
    """
    first_shown = np.searchsorted(index.pts, index.keyframes)
    stretches: list[Stretch] = []
    position = 0  # index of the frame that decoding on would give next
    for frame in wanted:
        key = int(np.searchsorted(index.keyframes, index.pts[frame], side="right")) - 1
        if key >= 0 and int(first_shown[key]) - position > JUMP_FRAMES:
            stretches.append(Stretch(int(index.keyframes[key]), []))
        elif not stretches:
            stretches.append(Stretch(None, []))
        stretches[-1].wanted.append(frame)
        position = frame + 1
    return stretches


def _jump(stream: VideoStream, start: int) -> None:
    container_of(stream).seek(start, stream=stream, backward=True, any_frame=False)


def _jumps_land(path: Path, index: PacketIndex, stretches: Sequence[Stretch]) -> bool:
    """Tries every jump without decoding: a file without a table of its key frames may send readers elsewhere."""
    position = 0
    with opened(path, 1) as stream:
        for stretch in stretches:
            if stretch.start is not None:
                try:
                    _jump(stream, stretch.start)
                    packet = next((one for one in container_of(stream).demux(stream) if one.size), None)
                except (av.error.FFmpegError, OSError):
                    return False
                if packet is None or not packet.is_keyframe or packet.pts is None:
                    return False
                if not index.pts[position] <= packet.pts <= index.pts[stretch.wanted[0]]:
                    return False
            position = min(stretch.wanted[-1] + 1, len(index.pts) - 1)
    return True


def _stretch_frames(
    stream: VideoStream, index: PacketIndex, stretch: Stretch, allow_high_bit_depth: bool
) -> Iterator[tuple[int, VideoFrame]]:
    """Yields the decoded frames of a stretch, each found by its presentation time."""
    pending = deque((frame, int(index.pts[frame])) for frame in stretch.wanted)
    last = None
    for packet in container_of(stream).demux(stream):
        for frame in packet.decode():
            if frame.pts is None or (last is not None and frame.pts <= last):
                raise _DoubtError
            last = frame.pts
            if frame.pts < pending[0][1]:
                continue
            deep = bit_depth(frame.format) != 8 and not allow_high_bit_depth
            if frame.pts > pending[0][1] or frame.is_corrupt or frame.interlaced_frame or deep:
                raise _DoubtError
            yield pending.popleft()[0], frame
            if not pending:
                return
    raise _DoubtError


def _read_stretches(
    path: Path, index: PacketIndex, stretches: Sequence[Stretch], apply_rotation: bool, allow_high_bit_depth: bool
) -> Iterator[tuple[int, np.ndarray]]:
    converter = VideoReformatter()
    with opened(path, 1) as stream:
        for stretch in stretches:
            try:
                if stretch.start is not None:
                    _jump(stream, stretch.start)
                for position, frame in _stretch_frames(stream, index, stretch, allow_high_bit_depth):
                    picture = to_pixels(frame, converter, False)
                    rotation = -frame.rotation % 360
                    yield position, turned_upright(picture, rotation, path) if apply_rotation else picture
            except (av.error.FFmpegError, OSError):
                raise _DoubtError from None


def _way_with_jumps(path: Path, wanted: Sequence[int], frames: int | None) -> tuple[PacketIndex, list[Stretch]] | None:
    """Returns the packets and the stretches to read; None where reading from the beginning is right or as fast."""
    steps = [after - before for before, after in pairwise([-1, *wanted])]
    if not steps or min(steps) < 1 or max(steps) <= JUMP_FRAMES:
        return None
    index = read_packets(path)
    if index is None or len(index.pts) <= wanted[-1] or frames not in (None, len(index.pts)):
        return None
    stretches = plan_stretches(index, wanted)
    if all(one.start is None for one in stretches) or not _jumps_land(path, index, stretches):
        return None
    return index, stretches


def pick_frames(
    path: str | Path,
    wanted: Sequence[int],
    *,
    frames: int | None = None,
    apply_rotation: bool = False,
    allow_high_bit_depth: bool = False,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields what `iter_frames` yields for the wanted frames, bit for bit, decoding less where it can.

    Args:
        path: The file.
        wanted: Ascending frame indices.
        frames: Number of frames found when the file was decoded from end to end; if the packets disagree, it is
            read from the beginning.
        apply_rotation: Turn the picture as the display matrix asks.
        allow_high_bit_depth: Convert pictures of more than 8 bits instead of refusing them.

    Raises:
        VideoError: As `iter_frames`.
        ValueError: `wanted` is not ascending, or negative.
    """
    path, remaining = Path(path), [int(frame) for frame in wanted]
    found = _way_with_jumps(path, remaining, frames)
    if found is not None:
        try:
            for position, picture in _read_stretches(path, *found, apply_rotation, allow_high_bit_depth):
                yield position, picture
                del remaining[0]
            return
        except _DoubtError:
            pass  # the rest is read from the beginning, which also says what is wrong if anything is
    yield from iter_frames(path, remaining, apply_rotation=apply_rotation, allow_high_bit_depth=allow_high_bit_depth)
