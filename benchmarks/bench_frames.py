"""Frames of a video, dense and sparse: plain loops, ours, and decoding or reading alone, which nothing can beat."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.video.frame import PictureType
from sightline.systems.fitcoach.pictures import FramePreparer
from sightline.video.decode import iter_frames
from sightline.video.sampling import frames_at_rate
from sightline.video.seeking import pick_frames, read_packets

from benchmarks.timing import interleave

FRAMES, RATE, SAMPLED_RATE = 300, 30, 16.0
# Stored height and width, whether pictures are turned, and the guard: turning a picture moves all of it once more.
SIZES = {
    "640x360": (360, 640, False, 0.65),
    "480x640": (640, 480, False, 0.65),
    "640x360_turned": (360, 640, True, 0.5),
}


def write_texture_video(path: Path, height: int, width: int) -> None:
    """Writes H.264 of a smooth texture panned back and forth, a moving disc and noise of +-6 grey levels."""
    rng = np.random.default_rng(11)
    margin = 48
    coarse = rng.integers(0, 256, (height // 16, width // 16, 3), np.uint8)
    texture = cv2.resize(coarse, (width + 2 * margin, height + 2 * margin), interpolation=cv2.INTER_CUBIC)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast", "crf": "23", "g": "60"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for index in range(FRAMES):
            x = margin + round(margin * np.sin(index / 20))
            y = margin + round(margin * np.cos(index / 33))
            picture = texture[y : y + height, x : x + width].astype(np.int16)
            center = (width // 2 + round(width / 4 * np.sin(index / 9)), height // 2)
            picture = cv2.circle(picture, center, height // 8, (40, 180, 220), -1)
            noise = rng.integers(-6, 7, (height, width, 1), np.int16)
            picture = np.clip(picture + noise, 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode())


def plain_loop(path: Path, times: np.ndarray, turned: bool) -> Iterator[np.ndarray]:
    """The shape of the original loop: every step on the full picture, float32 at the end."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    following, index = 0.0, 0
    while capture.grab():
        if times[index] - times[0] >= following:
            following += 1 / SAMPLED_RATE
            frame = capture.retrieve()[1]
            if turned:
                frame = cv2.rotate(frame, cv2.ROTATE_90_CLOCKWISE)
                height, width = frame.shape[:2]
                side = max(height, width)
                top, left = (side - height) // 2, (side - width) // 2
                frame = cv2.copyMakeBorder(
                    frame, top, side - height - top, left, side - width - left, cv2.BORDER_CONSTANT, value=(0, 0, 0)
                )
            frame = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            height, width = frame.shape[:2]
            if height / width > 1.4:
                kept = int(width * 1.4)
                frame = frame[int((height - kept) / 2) :][:kept]
            elif height / width < 1.4:
                kept = int(height / 1.4)
                frame = frame[:, int((width - kept) / 2) :][:, :kept]
            frame = cv2.resize(frame, (160, 224))
            yield (frame.astype(np.float32) / 255).transpose(2, 0, 1)
        index += 1


def ours(path: Path, times: np.ndarray, turned: bool) -> Iterator[np.ndarray]:
    """The project's reader: converts only what is used, bytes all the way."""
    wanted = frames_at_rate(times, SAMPLED_RATE).tolist()
    prepare = FramePreparer(turned)
    for _, frame in iter_frames(path, wanted, expected=len(times), alpha=True):
        yield prepare(frame)


def decode_only(path: Path, times: np.ndarray, turned: bool) -> Iterator[np.ndarray]:
    """The limit: every frame decoded, nothing converted."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        count = sum(1 for _ in container.decode(video=0))
    assert count == len(times)
    return iter(())


ARMS: dict[str, Callable[[Path, np.ndarray, bool], Iterator[np.ndarray]]] = {
    "seed shape": plain_loop,
    "ours exact": ours,
    "decode only": decode_only,
}


def compare(path: Path, times: np.ndarray, turned: bool) -> float:
    """Returns the largest difference of grey levels between the two readers."""
    plain, found = list(plain_loop(path, times, turned)), list(ours(path, times, turned))
    if len(plain) != len(found):
        return float("inf")
    return max(
        float(np.abs(np.rint(one * 255) - two.astype(np.float32)).max()) for one, two in zip(plain, found, strict=True)
    )


def consume(arm: Callable[[Path, np.ndarray, bool], Iterator[np.ndarray]], *arguments: Any) -> None:
    """Runs an arm and keeps nothing, as a network that eats the pictures would."""
    deque(arm(*arguments), maxlen=0)


def measure(name: str, size: tuple[int, int, bool, float], rounds: int, folder: Path) -> dict[str, Any]:
    """Runs the arms in turn on one video and returns the row of the benchmark."""
    height, width, turned, guard = size
    path = folder / f"{name}.mp4"
    write_texture_video(path, height, width)
    times = np.arange(FRAMES) / RATE
    difference = compare(path, times, turned)
    arms = interleave({arm: partial(consume, function, path, times, turned) for arm, function in ARMS.items()}, rounds)
    limit, mine, plain = (arms[arm]["median_s"] for arm in ("decode only", "ours exact", "seed shape"))
    return {
        "name": f"frames_dense_{name}",
        "arms": arms,
        "ratios": {"fraction of decode only": limit / mine, "over seed shape": plain / mine,
                   "seed shape's fraction of decode only": limit / plain},
        "max_difference": difference,
        "equal": difference == 0,
        "guard": {"fraction of decode only": guard},
        "target": {"fraction of decode only": 0.8},
        "note": f"{FRAMES} H.264 frames, {SAMPLED_RATE:g} of {RATE} per second used, one thread, CPU time",
    }  # fmt: skip


# Sparse frames: key frames every so many frames, frames wanted.
SPARSE_SECONDS, SPARSE = 60, [(gop, wanted) for gop in (250, 30) for wanted in (8, 32)]


def write_sparse_video(path: Path, gop: int) -> None:
    """Writes a minute of H.264 with moving shapes, a key frame every `gop` frames and nowhere else."""
    source = f"testsrc2=size=640x360:rate={RATE}:duration={SPARSE_SECONDS}"
    options = {"preset": "veryfast", "crf": "23", "g": str(gop), "sc_threshold": "0"}
    with av.open(source, format="lavfi") as reader, av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options=options)
        stream.height, stream.width, stream.pix_fmt = 360, 640, "yuv420p"
        for frame in reader.decode(video=0):
            frame = frame.reformat(format="yuv420p")
            frame.pict_type = PictureType.NONE  # a raw frame is a key frame, and would be encoded as one
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def sequential(path: Path, wanted: list[int]) -> Iterator[np.ndarray]:
    """Decodes from the beginning up to the last wanted frame."""
    return (picture for _, picture in iter_frames(path, wanted))


def seek_each(path: Path, wanted: list[int]) -> Iterator[np.ndarray]:
    """OpenCV's way: set the position for every frame."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    for index in wanted:
        capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        yield capture.retrieve()[1] if capture.grab() else np.zeros(0, np.uint8)


def planned(path: Path, wanted: list[int]) -> Iterator[np.ndarray]:
    """The project's reader: jumps where the packets say that it saves decoding."""
    return (picture for _, picture in pick_frames(path, wanted, frames=SPARSE_SECONDS * RATE))


def demux_only(path: Path, wanted: list[int]) -> Iterator[np.ndarray]:
    """What planning costs: the packets read, nothing decoded."""
    read_packets(path)
    return iter(())


SPARSE_ARMS: dict[str, Callable[[Path, list[int]], Iterator[np.ndarray]]] = {
    "sequential": sequential,
    "seek per frame": seek_each,
    "ours": planned,
    "demux only": demux_only,
}


def measure_sparse(gop: int, count: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Runs the arms in turn on frames spread evenly over a clip; pixels compared first."""
    path = folder / f"gop{gop}.mp4"
    if not path.exists():
        write_sparse_video(path, gop)
    wanted = np.linspace(0, SPARSE_SECONDS * RATE - 1, count).round().astype(int).tolist()
    others = [list(arm(path, wanted)) for arm in (sequential, seek_each, planned)]
    equal = all(len(one) == count and all(map(np.array_equal, others[0], one)) for one in others)
    arms = interleave({name: partial(consume, arm, path, wanted) for name, arm in SPARSE_ARMS.items()}, rounds)
    taken = {name: arms[name]["median_s"] for name in SPARSE_ARMS}
    best = min(taken["sequential"], taken["seek per frame"], taken["ours"])
    return {
        "name": f"frames_sparse_gop{gop}_{count}",
        "arms": arms,
        "ratios": {"fraction of the best arm": best / taken["ours"],
                   "over sequential": taken["sequential"] / taken["ours"],
                   "over a seek per frame": taken["seek per frame"] / taken["ours"]},
        "equal": equal,
        "guard": {"fraction of the best arm": 0.9},
        "note": f"{count} of {SPARSE_SECONDS * RATE} H.264 frames of 640x360, a key frame every {gop}, CPU time",
    }  # fmt: skip


def run(rounds: int) -> list[dict[str, Any]]:
    """Returns a row per picture size, then one per kind of sparse reading; arms interleaved, pixels compared first."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            dense = [measure(name, size, rounds, Path(folder)) for name, size in SIZES.items()]
            return dense + [measure_sparse(gop, count, rounds, Path(folder)) for gop, count in SPARSE]
    finally:
        cv2.setNumThreads(threads)
