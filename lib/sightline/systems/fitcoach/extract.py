"""One video to feature maps: the frames, pixels and calls that Stream-VLM's extraction fixes.

Frames are decoded and made ready in a thread of their own while the CNN runs; pictures stay uint8 until they
are on the CNN's device. The CNN is always called with the same number of frames counted from the first, so
that the same video gives the same bytes wherever it stands in a run.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from sightline.errors import NonFiniteError, VideoError
from sightline.systems.fitcoach.model.cnn import FEATURE_CHANNELS, FRAMES_PER_STEP, CnnState, StreamingEfficientNet
from sightline.video.decode import iter_frames
from sightline.video.sampling import frames_at_rate, seconds_from_ns

QEVD_CLOCK_OFFSET_S = 28800.0  # the annotations' clock is eight hours ahead of the recorded one
INPUT_HEIGHT, INPUT_WIDTH = 224, 160
_ASPECT = 1.4  # height to width of the crop
_QUEUED_PICTURES = 64


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


@dataclass(frozen=True, slots=True)
class VideoFeatures:
    """Features of one video.

    Attributes:
        features: float32 [steps, 1280, 7, 5], 0 to 6.
        timestamps: float64 [steps], time of the last frame of each step, on the clock of the frame times.
        used_frames: Number of frames taken from the video.
    """

    features: np.ndarray
    timestamps: np.ndarray
    used_frames: int


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


def _ahead(pictures: Generator[np.ndarray, None, None]) -> Generator[np.ndarray, None, None]:
    """Runs an iterator in a thread, a bounded number of items ahead; its errors are raised here."""
    line: queue.Queue[tuple[np.ndarray | None, BaseException | None]] = queue.Queue(_QUEUED_PICTURES)
    stopped = threading.Event()

    def offer(item: tuple[np.ndarray | None, BaseException | None]) -> None:
        while not stopped.is_set():
            try:
                line.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            with closing(pictures) as source:
                for picture in source:
                    offer((picture, None))
                    if stopped.is_set():
                        return
            offer((None, None))
        except BaseException as error:  # handed to the reader, which raises it
            offer((None, error))

    thread = threading.Thread(target=work, name="decode", daemon=True)
    thread.start()
    try:
        while True:
            picture, error = line.get()
            if error is not None:
                raise error
            if picture is None:
                return
            yield picture
    finally:
        stopped.set()
        thread.join()


def _pictures(
    path: Path, used: np.ndarray, expected: int, settings: ExtractorSettings, rotate: bool
) -> Generator[np.ndarray, None, None]:
    frames = iter_frames(
        path,
        used.tolist(),
        threads=settings.decoder_threads,
        expected=expected,
        apply_rotation=settings.apply_display_rotation,
        allow_high_bit_depth=settings.allow_high_bit_depth,
        alpha=True,
    )
    prepare = FramePreparer(rotate)
    for _, frame in frames:
        yield prepare(frame)


@dataclass(slots=True)
class _Carry:
    """What the CNN remembers: temporal state, and frames that did not fill a step."""

    state: CnnState | None = None
    buffered: list[np.ndarray] = field(default_factory=list)


def _primed(pictures: Iterable[np.ndarray], copies: int) -> Iterator[np.ndarray]:
    pictures = iter(pictures)
    for first in islice(pictures, 1):
        yield from repeat(first, copies + 1)
    yield from pictures


@torch.inference_mode()
def _run_cnn(
    pictures: Iterator[np.ndarray],
    carry: _Carry,
    settings: ExtractorSettings,
    cnn: StreamingEfficientNet,
    device: str | torch.device,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns features float32 [steps, 1280, h, w] and, per step, the place of its last frame among the used.

    Steps that end within the priming copies are discarded. `carry` is left as the next video would find it.
    """
    before = len(carry.buffered) + settings.priming_copies
    discarded = before // FRAMES_PER_STEP
    line = chain(carry.buffered, _primed(pictures, settings.priming_copies))
    scale = torch.tensor(255.0, device=device)  # a tensor: dividing by a number multiplies by its inverse on a GPU
    outputs: list[torch.Tensor] = []
    carry.buffered = []
    while not carry.buffered and (chunk := list(islice(line, settings.chunk_frames))):
        whole = len(chunk) // FRAMES_PER_STEP * FRAMES_PER_STEP
        carry.buffered = chunk[whole:]
        if whole:
            # Pictures are channels-last views, so stacking their memory gives the CNN's own layout.
            batch = torch.from_numpy(np.stack([one.transpose(1, 2, 0) for one in chunk[:whole]]))
            frames = batch.to(device).permute(0, 3, 1, 2).float() / scale
            features, carry.state = cnn(frames, carry.state)
            outputs.append(features)
    steps = torch.cat(outputs)[discarded:] if outputs else torch.zeros((0, FEATURE_CHANNELS, 0, 0))
    last = FRAMES_PER_STEP * (discarded + np.arange(len(steps))) + FRAMES_PER_STEP - 1 - before
    return steps.cpu().contiguous().numpy(), last


def _extract(
    path: Path,
    times_s: np.ndarray,
    settings: ExtractorSettings,
    cnn: StreamingEfficientNet,
    device: str | torch.device,
    rotate: bool,
    carry: _Carry,
) -> VideoFeatures:
    used = frames_at_rate(times_s, settings.fps)
    pictures = _ahead(_pictures(path, used, len(times_s), settings, rotate))
    with closing(pictures):
        features, last = _run_cnn(pictures, carry, settings, cnn, device)
    finite = np.isfinite(features).all(axis=(1, 2, 3))
    if not finite.all():
        raise NonFiniteError(
            f"NaN or infinity in feature step {int(np.argmin(finite))}", file=path, item=path.stem,
            mend="check the CNN's weights and the device",
        )  # fmt: skip
    return VideoFeatures(features, np.asarray(times_s, np.float64)[used[last]], len(used))


def extract_video(
    path: str | Path,
    times_s: np.ndarray,
    settings: ExtractorSettings,
    cnn: StreamingEfficientNet,
    device: str | torch.device = "cpu",
    *,
    rotate: bool | None = None,
) -> VideoFeatures:
    """Extracts the features of one video, from a zero state.

    Args:
        path: The video.
        times_s: float64 [frames], time of every frame; as many as the video has frames.
        settings: Extraction settings.
        cnn: The backbone, on `device`.
        device: Where the CNN runs.
        rotate: Turn the pictures; None decides by the file name (`is_rotated`).

    Raises:
        VideoError: The video is broken, has another number of frames, or too few for one step.
        NonFiniteError: A feature is NaN or infinite; names the video and the step.
    """
    path = Path(path)
    turn = is_rotated(path.stem, settings) if rotate is None else rotate
    found = _extract(path, times_s, settings, cnn, device, turn, _Carry())
    if not len(found.features):
        raise VideoError(
            f"{found.used_frames} frames used, at least {FRAMES_PER_STEP} needed for one feature step",
            file=path, mend="leave the video out of the dataset",
        )  # fmt: skip
    return found


def extract_group_compat(
    videos: Sequence[tuple[str | Path, np.ndarray]],
    settings: ExtractorSettings,
    cnn: StreamingEfficientNet,
    device: str | torch.device = "cpu",
) -> list[VideoFeatures]:
    """Extracts videos in the given order as the published script did, for comparison only.

    Neither the temporal state nor frames left over in the 4-frame buffer are reset between videos, so features
    depend on the order. Use the order of the original's `glob` to reproduce a released file.

    Args:
        videos: (path, float64 [frames] seconds) in order.
        settings: Extraction settings.
        cnn: The backbone, on `device`.
        device: Where the CNN runs.
    """
    carry = _Carry()
    return [
        _extract(Path(path), times, settings, cnn, device, is_rotated(Path(path).stem, settings), carry)
        for path, times in videos
    ]
