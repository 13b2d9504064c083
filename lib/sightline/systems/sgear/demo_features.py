"""The demo's features: what three extractors might have seen, under genuine keys in LMDB files of genuine form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import lmdb
import numpy as np

from sightline.records.files import whole_file
from sightline.systems.sgear.demo_plan import DemoVideo, Sizes
from sightline.systems.sgear.feature_lmdb import DATA_FILE, feature_key
from sightline.systems.sgear.windows import FEATURE_FPS

STORED_EVERY = 6
"""Frames between two that have a vector; the reader looks up to nine frames back, as for irCSN."""
_GAP_EVERY = 8  # every so many videos lack a stretch, as real files do
_GAP_FRAMES = (300, 345)


@dataclass(frozen=True)
class Modality:
    """One kind of feature.

    Attributes:
        name: Folder of its LMDB.
        dim: Length of a vector.
        verb, noun: How strongly verb and noun show.
        segment_noise: Deviation of what is wrong for a whole action.
        frame_noise: Deviation of what is wrong for a frame.
    """

    name: str
    dim: int
    verb: float
    noun: float
    segment_noise: float
    frame_noise: float


MODALITIES = (
    Modality("rgb", 64, 1.0, 1.0, 2.0, 0.9),
    Modality("flow", 64, 1.1, 0.7, 2.0, 0.9),
    Modality("obj", 48, 0.7, 1.2, 2.0, 0.9),
)


def write_features(folder: str | Path, videos: Sequence[DemoVideo], sizes: Sizes, seed: int) -> None:
    """Writes `<modality>/data.mdb` for each modality; noises are independent, equal arguments give equal values."""
    for number, modality in enumerate(MODALITIES):
        generator = np.random.default_rng([seed, number])
        looks = (
            _directions(generator, sizes.verbs, modality.dim),
            _directions(generator, sizes.nouns, modality.dim),
        )
        with whole_file(Path(folder) / modality.name / DATA_FILE) as temporary:
            temporary.unlink(missing_ok=True)
            _write_lmdb(temporary, videos, modality, looks, generator)


def _directions(generator: np.random.Generator, count: int, dim: int) -> np.ndarray:
    found = generator.standard_normal((count, dim))
    return found / np.linalg.norm(found, axis=1, keepdims=True) * np.sqrt(dim)


def _write_lmdb(
    path: Path,
    videos: Sequence[DemoVideo],
    modality: Modality,
    looks: tuple[np.ndarray, np.ndarray],
    generator: np.random.Generator,
) -> None:
    frames = sum(int(video.seconds * FEATURE_FPS) // STORED_EVERY + 1 for video in videos)
    room = (64 << 20) + 8 * frames * (modality.dim * 4 + 256)
    ordered = sorted(enumerate(videos), key=lambda pair: pair[1].name)
    with lmdb.open(str(path), subdir=False, map_size=room, lock=False) as env, env.begin(write=True) as transaction:
        for number, video in ordered:
            for frame, vector in _vectors(video, modality, looks, generator, gap=number % _GAP_EVERY == 0):
                transaction.put(feature_key(video.name, frame), vector.astype("<f4").tobytes(), append=True)


def _vectors(
    video: DemoVideo,
    modality: Modality,
    looks: tuple[np.ndarray, np.ndarray],
    generator: np.random.Generator,
    *,
    gap: bool,
) -> Iterator[tuple[int, np.ndarray]]:
    frames = np.arange(1, int(video.seconds * FEATURE_FPS) + 1, STORED_EVERY)
    found = generator.standard_normal((len(frames), modality.dim)) * modality.frame_noise
    times = frames / FEATURE_FPS
    for action in video.actions:
        noise = generator.standard_normal(modality.dim) * modality.segment_noise
        look = modality.verb * looks[0][action.verb] + modality.noun * looks[1][action.noun]
        found[(times >= action.start_cs / 100) & (times < action.stop_cs / 100)] += look + noise
    low, high = _GAP_FRAMES
    for frame, vector in zip(frames, found, strict=True):
        if not (gap and low <= frame < high):
            yield int(frame), vector
