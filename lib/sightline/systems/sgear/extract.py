"""Features of one's own videos, by any image or video backbone of transformers, in the form of RULSTM's files.

Keys and values are those every reader of such files knows; checksums, and which videos are finished, stand in the
sidecar `crc32.mdb`. A video is committed whole: after a kill the next run goes on with the first one that is not.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import lmdb
import numpy as np

from sightline.errors import CheckpointError, InputError, NonFiniteError, ResumableStop, StoreError
from sightline.features.lmdb_store import check_not_truncated
from sightline.records.files import content_key
from sightline.records.lease import lease
from sightline.systems.sgear.annotations import find_video
from sightline.systems.sgear.feature_lmdb import BACKWARD_FRAMES, CRC_FILE, DATA_FILE, feature_key
from sightline.systems.sgear.windows import FEATURE_FPS
from sightline.video.decode import iter_frames, scan_video

log = logging.getLogger(__name__)
_DONE = b"\0done\0"  # sorts before every key of a frame
_FIRST_MAP_BYTES = 1 << 28
Pool = Literal["first", "mean", "pooler"]
Encode = Callable[[np.ndarray], np.ndarray]
"""Clips uint8 [B, T, H, W, 3] (RGB) to features float32 [B, D]."""


@dataclass(frozen=True, slots=True)
class ExtractSettings:
    """Which frames get a feature.

    Attributes:
        every: Frames at 30 per second from one feature to the next; at most 10, so that a reader that looks nine
            frames back finds one for every frame.
        clip_frames: Pictures a backbone is shown at once; 1 for images. A clip ends with the frame of the key.
        clip_step: Frames at 30 per second between them.
        batch: Clips in one forward pass.
    """

    every: int = 5
    clip_frames: int = 1
    clip_step: int = 2
    batch: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.every <= BACKWARD_FRAMES + 1:
            raise InputError(
                f"every {self.every} frames leaves gaps that readers fill with zeros", field="every",
                mend=f"use 1 to {BACKWARD_FRAMES + 1}",
            )  # fmt: skip
        for name in ("clip_frames", "clip_step", "batch"):
            if getattr(self, name) < 1:
                raise InputError("must be at least 1", field=name)


def open_backbone(
    folder: str | Path, *, device: str = "cpu", pool: Pool = "first", dtype: str = "float32"
) -> tuple[Encode, str]:
    """Opens a backbone in Hugging Face layout.

    Args:
        folder: Weights, config and preprocessor config. Nothing is fetched, and no code of the folder runs.
        device: Torch device.
        pool: `first` token, `mean` of all, or the model's own `pooler`.
        dtype: Precision of the forward pass; features are stored as float32.

    Returns:
        The encoder, and a key of everything its results depend on.

    Raises:
        CheckpointError: The folder is missing or is no backbone.
    """
    import torch
    from transformers import AutoImageProcessor, AutoModel

    if not Path(folder).is_dir():
        raise CheckpointError("no such backbone", file=folder, mend="give a folder in Hugging Face layout")
    try:
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model = AutoModel.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0][:160]
        raise CheckpointError(f"not usable as a backbone ({reason})", file=folder, mend="fetch it again") from None
    model = model.to(device=device, dtype=getattr(torch, dtype)).eval()

    @torch.inference_mode()
    def encode(clips: np.ndarray) -> np.ndarray:
        count, length = clips.shape[:2]
        pixels = processor(images=list(clips.reshape(-1, *clips.shape[2:])), return_tensors="pt")["pixel_values"]
        pixels = pixels.reshape(count, length, *pixels.shape[-3:]) if length > 1 else pixels
        out = model(pixel_values=pixels.to(device=device, dtype=model.dtype))
        return _pooled(out, pool).float().cpu().numpy()

    weights = {path.name: _crc_of(path) for path in sorted(Path(folder).iterdir()) if path.is_file()}
    return encode, content_key("sgear backbone", weights, pool, dtype)


def _pooled(out: Any, pool: Pool) -> Any:
    if pool == "pooler":
        if getattr(out, "pooler_output", None) is None:
            raise InputError("the backbone has no pooler", field="pool", mend="use first or mean")
        return out.pooler_output.flatten(1)
    states = out.last_hidden_state
    if states.ndim == 4:  # a convolutional backbone: [B, D, H, W]
        return states.flatten(2).mean(dim=2)
    return states[:, 0] if pool == "first" else states.mean(dim=1)


def _crc_of(path: Path) -> int:
    crc = 0
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            crc = zlib.crc32(chunk, crc)
    return crc


def frame_numbers(duration_s: float, every: int) -> np.ndarray:
    """Returns the numbers (1-based at 30 per second) of the frames that get a feature, int64."""
    return np.arange(1, max(1, int(duration_s * FEATURE_FPS + 1e-6)) + 1, every, dtype=np.int64)


def source_frames(numbers: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """Returns which frame of a video is shown at each number's time, int64; times count from the first frame.

    Args:
        numbers: 1-based at 30 per second; smaller ones count as 1.
        times_s: float64, ascending times of the video's frames.
    """
    at = (np.maximum(numbers, 1) - 1) / FEATURE_FPS
    found = np.searchsorted(times_s - times_s[0], at + 1e-6, side="right") - 1
    return np.clip(found, 0, len(times_s) - 1)


def _clips(path: Path, sources: np.ndarray) -> Iterator[np.ndarray]:
    """Yields clips uint8 [T, H, W, 3] (RGB) of ascending source frames [n, T] in one pass over the video."""
    held: dict[int, np.ndarray] = {}
    done = 0
    for index, picture in iter_frames(path, np.unique(sources).tolist(), apply_rotation=True):
        held[index] = np.ascontiguousarray(picture[..., ::-1])
        while done < len(sources) and sources[done, -1] == index:
            yield np.stack([held[int(frame)] for frame in sources[done]])
            done += 1
        oldest = sources[done].min() if done < len(sources) else index + 1
        held = {frame: kept for frame, kept in held.items() if frame >= oldest}


def encode_video(path: str | Path, encode: Encode, settings: ExtractSettings) -> tuple[np.ndarray, np.ndarray]:
    """Returns frame numbers int64 [n] and features float32 [n, D] of one video.

    Raises:
        VideoError: The video cannot be read.
        NonFiniteError: A feature is NaN or infinite.
    """
    path = Path(path)
    info, times = scan_video(path, full_decode=False)
    numbers = frame_numbers(info.duration_s, settings.every)
    offsets = settings.clip_step * np.arange(settings.clip_frames - 1, -1, -1)
    sources = source_frames(numbers[:, None] - offsets, times)
    batch: list[np.ndarray] = []
    found: list[np.ndarray] = []
    for clip in _clips(path, sources):
        batch.append(clip)
        if len(batch) == settings.batch:
            found.append(encode(np.stack(batch)))
            batch = []
    if batch:
        found.append(encode(np.stack(batch)))
    features = np.concatenate(found).astype("<f4")
    if not np.isfinite(features).all():
        raise NonFiniteError("a feature is not finite", file=path, mend="use float32, and look at the weights")
    return numbers, features


class _Writer:
    """The two files of an extraction, for one writer at a time."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._held = ExitStack()
        self._held.enter_context(lease(folder / "extract.lease"))
        self.data = self._open(folder / DATA_FILE)
        self.crc = self._open(folder / CRC_FILE)

    def _open(self, path: Path) -> lmdb.Environment:
        if path.exists() and path.stat().st_size:
            check_not_truncated(path)
        size = max(_FIRST_MAP_BYTES, 2 * path.stat().st_size if path.exists() else 0)
        env = lmdb.open(str(path), subdir=False, map_size=size, lock=False, max_dbs=0, meminit=False)
        self._held.callback(env.close)
        return env

    def close(self) -> None:
        self._held.close()

    def has(self, video_id: str, key: str) -> bool:
        """Says whether a video is finished; refuses one that was made under another key."""
        with self.crc.begin() as transaction:
            value = transaction.get(_DONE + video_id.encode())
        if value is not None and bytes(value).decode() != key:
            raise StoreError(
                "made with another backbone or other settings", file=self.data.path(), item=video_id,
                mend="extract into another folder",
            )  # fmt: skip
        return value is not None

    def commit(self, video_id: str, key: str, numbers: np.ndarray, features: np.ndarray) -> None:
        """Writes features first and the mark last, so that a mark never stands for half a video."""
        rows = [(feature_key(video_id, int(n)), row.tobytes()) for n, row in zip(numbers, features, strict=True)]
        _put(self.data, rows)
        crcs = [(name, zlib.crc32(value).to_bytes(4, "little")) for name, value in rows]
        _put(self.crc, [*crcs, (_DONE + video_id.encode(), key.encode())])


def _put(env: lmdb.Environment, pairs: Sequence[tuple[bytes, bytes]]) -> None:
    while True:
        try:
            with env.begin(write=True) as transaction:
                for key, value in pairs:
                    transaction.put(key, value)
            return
        except lmdb.MapFullError:
            env.set_mapsize(env.info()["map_size"] * 2)


def _located(videos: Mapping[str, str], roots: Sequence[str | Path]) -> dict[str, Path]:
    found = {name: find_video(relative, roots) for name, relative in sorted(videos.items())}
    lost = [name for name, (_, is_there) in found.items() if not is_there]
    if lost:
        raise InputError(
            f"{len(lost)} of {len(found)} videos are in none of {len(roots)} roots", item=lost[0], field="roots",
            mend="name the folders that hold them",
        )  # fmt: skip
    return {name: path for name, (path, _) in found.items()}


def extract_features(
    videos: Mapping[str, str],
    roots: Sequence[str | Path],
    folder: str | Path,
    encode: Encode,
    encoder_key: str,
    settings: ExtractSettings | None = None,
    *,
    should_stop: Callable[[], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Extracts what is not finished yet.

    Args:
        videos: Video id to its path below a root (`annotations.video_path`).
        roots: Folders of videos; the first that has one wins.
        folder: Gets `data.mdb`, which `FeatureReader` and any reader of RULSTM's files can read, and `crc32.mdb`.
        encode, encoder_key: From `open_backbone`.
        settings: Frames; the defaults when None.
        should_stop: Asked between videos.
        progress: Called with (done, all) after each video.

    Returns:
        Counts: videos, computed, features.

    Raises:
        InputError: A video lies in no root; says how many.
        StoreError: A finished video was made with another backbone or other settings.
        VideoError: A video cannot be read; those before it are kept.
        ResumableStop: `should_stop` said so.
    """
    settings = settings or ExtractSettings()
    found = _located(videos, roots)
    key = content_key("sgear extraction", encoder_key, {**asdict(settings), "batch": 0})
    counts = {"videos": len(found), "computed": 0, "features": 0}
    writer = _Writer(Path(folder))
    try:
        for done, (name, path) in enumerate(found.items(), 1):
            if not writer.has(name, key):
                if should_stop is not None and should_stop():
                    raise ResumableStop(f"stopped after {done - 1} of {len(found)} videos", mend="start it again")
                numbers, features = encode_video(path, encode, settings)
                writer.commit(name, key, numbers, features)
                counts["computed"] += 1
                counts["features"] += len(numbers)
            if progress is not None:
                progress(done, len(found))
    finally:
        writer.close()
    return counts
