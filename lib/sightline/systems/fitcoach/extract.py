"""One video to feature maps: the frames, pixels and calls that Stream-VLM's extraction fixes.

Frames are decoded and made ready in a thread of their own while the CNN runs; pictures stay uint8 until they
are on the CNN's device. The CNN is always called with the same number of frames counted from the first, so
that the same video gives the same bytes wherever it stands in a run.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, islice, repeat
from pathlib import Path

import numpy as np
import torch

from sightline.errors import NonFiniteError, VideoError
from sightline.systems.fitcoach.model import FEATURE_CHANNELS, FRAMES_PER_STEP
from sightline.systems.fitcoach.model.cnn import CnnState
from sightline.systems.fitcoach.pictures import ExtractorSettings, FramePreparer, is_rotated
from sightline.video.decode import iter_frames
from sightline.video.sampling import frames_at_rate

_QUEUED_PICTURES = 64

Cnn = Callable[[torch.Tensor, CnnState | None], tuple[torch.Tensor, CnnState]]
"""The streaming backbone: frames float32 [4k, 3, 224, 160] and its state to features [k, 1280, 7, 5] and state."""


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
def _cnn_steps(
    pictures: Iterator[np.ndarray],
    carry: _Carry,
    settings: ExtractorSettings,
    cnn: Cnn,
    device: str | torch.device,
) -> Iterator[tuple[torch.Tensor, np.ndarray]]:
    """Yields, call by call, features float32 [steps, 1280, h, w] and the place of each step's last frame.

    Features stay on the device, so that a GPU is not waited for. Places count the used frames.
    Steps that end within the priming copies are discarded. `carry` is left as the next video would find it.
    """
    before = len(carry.buffered) + settings.priming_copies
    discarded = before // FRAMES_PER_STEP
    line = chain(carry.buffered, _primed(pictures, settings.priming_copies))
    scale = torch.tensor(255.0, device=device)  # a tensor: dividing by a number multiplies by its inverse on a GPU
    carry.buffered = []
    done = 0
    while not carry.buffered and (chunk := list(islice(line, settings.chunk_frames))):
        whole = len(chunk) // FRAMES_PER_STEP * FRAMES_PER_STEP
        carry.buffered = chunk[whole:]
        if whole:
            # Pictures are channels-last views, so stacking their memory gives the CNN's own layout.
            batch = torch.from_numpy(np.stack([one.transpose(1, 2, 0) for one in chunk[:whole]]))
            frames = batch.to(device).permute(0, 3, 1, 2).float() / scale
            features, carry.state = cnn(frames, carry.state)
            first, done = max(discarded - done, 0), done + len(features)
            steps = np.arange(done - len(features) + first, done)
            if len(steps):
                yield features[first:], FRAMES_PER_STEP * steps + FRAMES_PER_STEP - 1 - before


def _frames_and_steps(
    path: Path,
    times_s: np.ndarray,
    settings: ExtractorSettings,
    cnn: Cnn,
    device: str | torch.device,
    rotate: bool,
    carry: _Carry,
) -> Generator[tuple[torch.Tensor, np.ndarray], None, None]:
    """Yields features [steps, 1280, h, w] and their times, float64 [steps], as the video is decoded."""
    used = frames_at_rate(times_s, settings.fps)
    pictures = _ahead(_pictures(path, used, len(times_s), settings, rotate))
    with closing(pictures):
        for features, last in _cnn_steps(pictures, carry, settings, cnn, device):
            yield features, np.asarray(times_s, np.float64)[used[last]]


def _checked(features: torch.Tensor, path: Path, first_step: int = 0) -> np.ndarray:
    """Brings features to the host and refuses NaN and infinity."""
    found = features.cpu().contiguous().numpy()
    finite = np.isfinite(found).all(axis=(1, 2, 3))
    if not finite.all():
        raise NonFiniteError(
            f"NaN or infinity in feature step {first_step + int(np.argmin(finite))}", file=path, item=path.stem,
            mend="check the CNN's weights and the device",
        )  # fmt: skip
    return found


def _extract(
    path: Path,
    times_s: np.ndarray,
    settings: ExtractorSettings,
    cnn: Cnn,
    device: str | torch.device,
    rotate: bool,
    carry: _Carry,
) -> VideoFeatures:
    parts = list(_frames_and_steps(path, times_s, settings, cnn, device, rotate, carry))
    used = len(frames_at_rate(times_s, settings.fps))
    if not parts:
        return VideoFeatures(np.zeros((0, FEATURE_CHANNELS, 0, 0), np.float32), np.zeros(0), used)
    features = _checked(torch.cat([part for part, _ in parts]), path)
    return VideoFeatures(features, np.concatenate([times for _, times in parts]), used)


def _require_step(used: int, path: Path) -> None:
    if used < FRAMES_PER_STEP:
        raise VideoError(
            f"{used} frames used, at least {FRAMES_PER_STEP} needed for one feature step",
            file=path, mend="leave the video out of the dataset",
        )  # fmt: skip


def iter_features(
    path: str | Path,
    times_s: np.ndarray,
    settings: ExtractorSettings,
    cnn: Cnn,
    device: str | torch.device = "cpu",
    *,
    rotate: bool | None = None,
) -> Generator[tuple[np.ndarray, float], None, None]:
    """Yields the features of one video step by step, as it is decoded: what `extract_video` returns at the end.

    Args:
        path, times_s, settings, cnn, device, rotate: As of `extract_video`.

    Yields:
        float32 [1280, 7, 5] and the time of the step.

    Raises:
        VideoError, NonFiniteError: As `extract_video`, before the step in question.
    """
    path = Path(path)
    turn = is_rotated(path.stem, settings) if rotate is None else rotate
    _require_step(len(frames_at_rate(times_s, settings.fps)), path)
    done = 0
    for features, times in _frames_and_steps(path, times_s, settings, cnn, device, turn, _Carry()):
        yield from zip(_checked(features, path, done), times.tolist(), strict=True)
        done += len(times)


def extract_video(
    path: str | Path,
    times_s: np.ndarray,
    settings: ExtractorSettings,
    cnn: Cnn,
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
        _require_step(found.used_frames, path)
    return found


def extract_group_compat(
    videos: Sequence[tuple[str | Path, np.ndarray]],
    settings: ExtractorSettings,
    cnn: Cnn,
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
