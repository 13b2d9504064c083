"""Decodes videos with PyAV: what a file holds, and its frames with the pixels OpenCV's reader gives.

A video is either decoded completely or refused with a `VideoError`; a stream that breaks, ends early or
holds damaged pictures is never handed on as a shorter one. What H.264 itself cannot notice (a flipped byte
that still decodes to a legal picture) is left to the SHA-256 of the file.

Frames are numbered 0, 1, 2 ... in presentation order, as a reader that takes one after the other counts them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from sightline.errors import VideoError
from sightline.video.info import (
    VideoInfo,
    bit_depth,
    container_of,
    frame_times,
    header_duration,
    header_frames,
    is_variable,
)

_FETCH_AGAIN = "fetch or export the file again"
_TEN_BIT_MEND = "convert it to 8 bit (ffmpeg -pix_fmt yuv420p), or declare high bit depth in the dataset's card"


@contextmanager
def opened(path: Path, threads: int) -> Iterator[VideoStream]:
    """Opens the first video stream of a file, decoding with `threads` threads."""
    if not path.is_file():
        raise VideoError("file not found", file=path, mend="correct the path or fetch the file")
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(f"cannot be opened as a video ({_reason(error)})", file=path, mend=_FETCH_AGAIN) from None
    with container:
        streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
            raise VideoError(f"no video stream, only {kinds}", file=path, mend="give a file with a picture track")
        stream = streams[0]
        if stream.codec_context is None:
            raise VideoError("no decoder for its codec", file=path, mend="convert it to H.264 (ffmpeg)")
        stream.codec_context.thread_count = threads
        if threads > 1:
            stream.codec_context.thread_type = "AUTO"
        yield stream


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__


class _FrameChecks:
    """What must hold for every decoded frame of one file, and for all of them together."""

    def __init__(self, path: Path, stream: VideoStream, allow_high_bit_depth: bool) -> None:
        self.path = path
        self.stream = stream
        self.header_frames = header_frames(stream)
        self.allow_high_bit_depth = allow_high_bit_depth
        self.first: VideoFrame | None = None
        self.pts: list[int | None] = []

    def fail(self, problem: str, mend: str = _FETCH_AGAIN) -> VideoError:
        return VideoError(problem, file=self.path, mend=mend)

    def said(self) -> str:
        return "" if self.header_frames is None else f"; the header says {self.header_frames}"

    def broken(self, count: int, error: Exception) -> VideoError:
        return self.fail(f"the stream breaks after {count} frames ({_reason(error)}){self.said()}")

    def frame(self, frame: VideoFrame) -> None:
        """Checks the next frame and counts it."""
        index = len(self.pts)
        if frame.is_corrupt:
            raise self.fail(f"frame {index} is damaged{self.said()}")
        if frame.interlaced_frame:
            raise self.fail(f"frame {index} is interlaced", "deinterlace the file first (ffmpeg -vf yadif)")
        first = self.first = self.first or frame
        depth = bit_depth(frame.format)
        if depth != 8 and not self.allow_high_bit_depth:
            raise self.fail(f"{depth} bits per component ({frame.format.name}), expected 8", _TEN_BIT_MEND)
        if (first.width, first.height) != (frame.width, frame.height):
            sizes = f"{first.width}x{first.height} to {frame.width}x{frame.height}"
            raise self.fail(f"the picture changes at frame {index} from {sizes}", "re-encode it at one size")
        self.pts.append(frame.pts)

    def end(self, expected: int | None = None) -> tuple[np.ndarray, float]:
        """Checks count and length of the ended stream; returns the frame times and the last one's seconds."""
        count = len(self.pts)
        if count == 0:
            raise self.fail(f"no frame could be decoded{self.said()}")
        if self.header_frames is not None and count != self.header_frames:
            raise self.fail(f"{count} frames decoded{self.said()}")
        times = frame_times(self.pts, self.stream)
        rate = float(self.stream.average_rate or 0)
        last_s = float(np.median(np.diff(times))) if count > 1 else (1 / rate if rate > 0 else 0.0)
        stated, end_s = header_duration(self.stream), float(times[-1]) + last_s
        if stated is not None and stated - end_s > max(2 * last_s, 0.1):
            raise self.fail(f"ends at {end_s:.2f} s after {count} frames; the header says {stated:.2f} s")
        if expected is not None and count != expected:
            raise self.fail(
                f"{count} frames decoded, {expected} expected",
                "give the timestamps of this very file, or fetch it again",
            )
        return times, last_s


def _decoded(checks: _FrameChecks) -> Iterator[VideoFrame]:
    """Yields checked frames; a break of the stream is a `VideoError` that says after how many."""
    try:
        for frame in container_of(checks.stream).decode(checks.stream):
            checks.frame(frame)
            yield frame
    except (av.error.FFmpegError, OSError) as error:
        raise checks.broken(len(checks.pts), error) from None


def _packet_times(checks: _FrameChecks) -> list[int | None]:
    """Returns the presentation times of all shown packets, reading the file a second time."""
    pts: list[int | None] = []
    try:
        with opened(checks.path, 1) as stream:
            for packet in container_of(stream).demux(stream):
                if packet.size and not packet.is_discard:
                    pts.append(packet.pts)
    except (av.error.FFmpegError, OSError) as error:
        raise checks.broken(len(pts), error) from None
    known = [value for value in pts if value is not None]
    return [*sorted(known)] if len(known) == len(pts) else pts


def scan_video(
    path: str | Path, *, full_decode: bool = True, allow_high_bit_depth: bool = False, threads: int = 1
) -> tuple[VideoInfo, np.ndarray]:
    """Reads a whole video and returns what it holds and the presentation time of every frame.

    Args:
        path: The file.
        full_decode: Decode every frame (no colour conversion). False decodes the first frame and only reads
            the packets of the others, which finds a truncated file but no damaged picture.
        allow_high_bit_depth: Accept more than 8 bits per component.
        threads: Decoder threads.

    Returns:
        The info, and float64 [frames] seconds.

    Raises:
        VideoError: Missing, not a video, no frame, broken, truncated, damaged, high bit depth or interlaced.
    """
    path = Path(path)
    with opened(path, threads) as stream:
        checks = _FrameChecks(path, stream, allow_high_bit_depth)
        for _ in _decoded(checks):
            if not full_decode:
                break
        if checks.first is not None and not full_decode:
            checks.pts = _packet_times(checks)
        times, last_s = checks.end()
        return _info(checks, times, last_s), times


def _info(checks: _FrameChecks, times: np.ndarray, last_s: float) -> VideoInfo:
    stream, first = checks.stream, checks.first
    assert first is not None  # an ended stream has a frame
    return VideoInfo(
        name=checks.path.name,
        codec=stream.codec_context.name,
        pix_fmt=first.format.name,
        bit_depth=bit_depth(first.format),
        width=first.width,
        height=first.height,
        rotation=-first.rotation % 360,
        header_frames=checks.header_frames,
        frames=len(times),
        avg_fps=float(stream.average_rate or 0),
        duration_s=float(times[-1] - times[0]) + last_s,
        first_pts_s=float(times[0]),
        last_pts_s=float(times[-1]),
        is_variable_rate=is_variable(times, float(stream.time_base or 0)),
    )


def probe_video(
    path: str | Path, *, full_decode: bool = True, allow_high_bit_depth: bool = False, threads: int = 1
) -> VideoInfo:
    """Returns what a video holds after reading all of it; arguments and errors as in `scan_video`."""
    return scan_video(path, full_decode=full_decode, allow_high_bit_depth=allow_high_bit_depth, threads=threads)[0]


def turned_upright(picture: np.ndarray, rotation: int, path: Path) -> np.ndarray:
    if rotation % 90:
        raise VideoError(
            f"display rotation of {rotation} degrees",
            file=path,
            mend="re-encode it with the rotation applied",
        )
    return np.ascontiguousarray(np.rot90(picture, -rotation // 90)) if rotation else picture


def to_pixels(frame: VideoFrame, converter: VideoReformatter, alpha: bool) -> np.ndarray:
    """Returns uint8 [h, w, 3 or 4], a view into the converted frame."""
    # libswscale leaves the last columns of four-channel pictures unwritten at some widths.
    direct = alpha and frame.width % 8 == 0 and frame.format.name in ("yuv420p", "yuvj420p")
    channels = 4 if direct else 3
    converted = converter.reformat(frame, format="bgra" if direct else "bgr24", threads=1)
    plane = converted.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(converted.height, plane.line_size)
    picture = rows[:, : channels * converted.width].reshape(converted.height, converted.width, channels)
    return cv2.cvtColor(picture, cv2.COLOR_BGR2BGRA) if alpha and not direct else picture


def iter_frames(
    path: str | Path,
    wanted: Sequence[int] | None = None,
    *,
    threads: int = 1,
    expected: int | None = None,
    apply_rotation: bool = False,
    allow_high_bit_depth: bool = False,
    alpha: bool = False,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (frame index, picture uint8 [height, width, 3] in BGR), converting only the wanted frames.

    On 8-bit files the pixels are those of OpenCV's `VideoCapture`, bit for bit: as stored
    (`CAP_PROP_ORIENTATION_AUTO` off), or turned upright (OpenCV's default) with `apply_rotation`.

    Args:
        path: The file.
        wanted: Ascending frame indices; None for all. Decoding stops after the last one unless `expected`
            is given.
        threads: Decoder threads.
        expected: Number of frames the file must have, e.g. of its timestamps; decodes to the end to check.
        apply_rotation: Turn the picture as the display matrix asks; only multiples of 90 degrees.
        allow_high_bit_depth: Convert pictures of more than 8 bits instead of refusing them.
        alpha: Give pictures [height, width, 4] with an opaque fourth channel, which are faster to turn and scale.

    Raises:
        VideoError: As `scan_video`, or the stream ends before the last wanted frame.
        ValueError: `wanted` is not ascending, or negative.
    """
    path = Path(path)
    pending = None if wanted is None else deque(int(index) for index in wanted)
    if pending and (pending[0] < 0 or any(after <= before for before, after in pairwise(pending))):
        raise ValueError("wanted frame indices must be ascending and not negative")
    with opened(path, threads) as stream:
        checks, converter = _FrameChecks(path, stream, allow_high_bit_depth), VideoReformatter()
        for index, frame in enumerate(_decoded(checks)):
            if pending is not None:
                if not pending and expected is None:
                    return
                if not pending or pending[0] != index:
                    continue
                pending.popleft()
            picture = to_pixels(frame, converter, alpha)
            yield index, turned_upright(picture, -frame.rotation % 360, path) if apply_rotation else picture
            if pending is not None and not pending and expected is None:
                return
        checks.end(expected)
        if pending:
            raise checks.fail(f"{len(checks.pts)} frames decoded, frame {pending[-1]} wanted{checks.said()}")
