"""Videos to the feature store: one item per video under a key made of everything that decides its bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sightline.errors import InputError, NonFiniteError, ResumableStop, StoreError, VideoError
from sightline.features.index import WorkStores
from sightline.features.store import FeatureStore
from sightline.records.files import content_key, sha256_file
from sightline.systems.fitcoach.extract import Cnn, VideoFeatures, extract_group_compat, extract_video
from sightline.systems.fitcoach.model import FEATURE_CHANNELS
from sightline.systems.fitcoach.pictures import (
    INPUT_HEIGHT,
    INPUT_WIDTH,
    ExtractorSettings,
    is_rotated,
    preprocess,
    qevd_seconds,
)
from sightline.video.decode import scan_video
from sightline.video.frames import short_reason
from sightline.video.sampling import read_timestamps

__all__ = [
    "FEATURE_SHAPE", "ExtractorSettings", "VideoFeatures", "VideoToExtract", "extract_group_compat",
    "extract_shard", "extract_video", "feature_key", "import_npy_folder", "is_rotated", "preprocess",
    "qevd_seconds",
]  # fmt: skip

FEATURE_SHAPE = (FEATURE_CHANNELS, INPUT_HEIGHT // 32, INPUT_WIDTH // 32)
_RELEASED_FOLDER = Path("efficientnet_features") / "long_range_videos"
_FEATURES, _TIMESTAMPS = "_features.npy", "_timestamps.npy"


@dataclass(frozen=True, slots=True)
class VideoToExtract:
    """One video of a shard.

    Attributes:
        video_id: Its id, unique in the dataset.
        path: The file.
        video_sha256: Digest of the file.
        timestamps_path: QEVD's `.npy` of nanoseconds; None uses the stream's own times, from 0.
        timestamps_sha256: Digest of that file; empty without one.
        rotate: Turn the pictures; None decides by the file name.
    """

    video_id: str
    path: Path
    video_sha256: str
    timestamps_path: Path | None = None
    timestamps_sha256: str = ""
    rotate: bool | None = None

    def turned(self, settings: ExtractorSettings) -> bool:
        """Says whether the pictures are turned before use."""
        return is_rotated(self.path.stem, settings) if self.rotate is None else self.rotate


def feature_key(
    video_id: str,
    video_sha256: str,
    timestamps_sha256: str,
    settings: ExtractorSettings,
    weights_sha256: str,
    stage_version: str | int,
    *,
    rotate: bool,
) -> str:
    """Returns the content key of a video's features: equal inputs, equal key; anything else changes it.

    The id is part of it, so that two videos of equal content stay two items; `rotate` because it may come from
    the file's name, which no digest covers.
    """
    return content_key(
        "fitcoach features", video_id, video_sha256, timestamps_sha256, settings.to_json(), weights_sha256,
        stage_version, rotate,
    )  # fmt: skip


def _frame_times(video: VideoToExtract, settings: ExtractorSettings) -> np.ndarray:
    if video.timestamps_path is not None:
        return qevd_seconds(read_timestamps(video.timestamps_path))
    times = scan_video(video.path, allow_high_bit_depth=settings.allow_high_bit_depth)[1]
    return times - times[0]


def _has_sound(store: FeatureStore | WorkStores, key: str) -> bool:
    """Says whether the store holds an undamaged item; a damaged one is taken out."""
    if key not in store:
        return False
    try:
        store.verify(key)
    except StoreError:
        store.quarantine(key)
        return False
    return True


def _stored(features: np.ndarray, timestamps: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
    return {"features": features.astype(dtype, copy=False), "timestamps": timestamps}


def _row(video_id: str, key: str, steps: int = 0, reason: str = "", *, computed: bool = False) -> dict[str, Any]:
    status = "failed" if reason else "ok"
    return {
        "video_id": video_id, "status": status, "reason": reason, "key": key, "steps": steps, "computed": computed,
    }  # fmt: skip


def _extract_one(
    video: VideoToExtract,
    store: FeatureStore | WorkStores,
    key: str,
    cnn: Cnn,
    settings: ExtractorSettings,
    device: str | torch.device,
) -> None:
    turn = video.turned(settings)
    found = extract_video(video.path, _frame_times(video, settings), settings, cnn, device, rotate=turn)
    meta = {"video_id": video.video_id, "used_frames": found.used_frames, "rotated": turn}
    arrays = _stored(found.features, found.timestamps, settings.storage_dtype)
    store.put(key, arrays, meta={**meta, "settings": settings.to_json()})


def extract_shard(
    videos: Sequence[VideoToExtract],
    store: FeatureStore | WorkStores,
    cnn: Cnn,
    settings: ExtractorSettings,
    *,
    weights_sha256: str,
    stage_version: str | int,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[dict[str, Any]]:
    """Extracts every video that the store does not hold yet; each is committed as soon as it is finished.

    A stored item that fails its checksums is taken out and computed again. A bad video becomes a failed row and
    the others go on.

    Args:
        videos: The shard's videos.
        store: Opened for writing; receives `features` [steps, 1280, 7, 5] and `timestamps` float64 [steps].
        cnn: The backbone, on `device`.
        settings: Extraction settings.
        weights_sha256: Digest of the CNN's checkpoint; with `stage_version` part of every key.
        progress: Called with (done, all) after each video.
        should_stop: Asked before each video.

    Returns:
        One row per video in the order given: `video_id`, `status` (ok or failed), `reason`, `key`, `steps`,
        `computed` (it was not in the store).

    Raises:
        ResumableStop: `should_stop` said so; finished videos are in the store.
        StoreError: The store cannot be written.
    """
    rows = []
    for done, video in enumerate(videos, 1):
        if should_stop is not None and should_stop():
            raise ResumableStop(f"stopped after {done - 1} of {len(videos)} videos", mend="start it again")
        key = feature_key(
            video.video_id, video.video_sha256, video.timestamps_sha256, settings, weights_sha256, stage_version,
            rotate=video.turned(settings),
        )  # fmt: skip
        try:
            missing = not _has_sound(store, key)
            if missing:
                _extract_one(video, store, key, cnn, settings, device)
            steps = store.info(key).arrays["timestamps"].shape[0]
            rows.append(_row(video.video_id, key, steps, computed=missing))
        except (VideoError, InputError, NonFiniteError) as error:
            rows.append(_row(video.video_id, key, reason=short_reason(error)))
        if progress is not None:
            progress(done, len(videos))
    return rows


def _pairs(folder: Path) -> list[tuple[str, Path, Path]]:
    """Returns (video id, features, timestamps) of a folder of the original's files, sorted."""
    if not folder.is_dir():
        raise InputError(
            "folder of extracted features not found", file=folder,
            mend="extract features from the videos instead, or correct the data root",
        )  # fmt: skip
    ids = {path.name.removesuffix(ending) for ending in (_FEATURES, _TIMESTAMPS) for path in folder.glob(f"*{ending}")}
    pairs = [(name, folder / f"{name}{_FEATURES}", folder / f"{name}{_TIMESTAMPS}") for name in sorted(ids)]
    for name, features, timestamps in pairs:
        for present, absent in ((features, timestamps), (timestamps, features)):
            if not absent.is_file():
                raise InputError(
                    f"{absent.name} is missing beside {present.name}", file=present, item=name,
                    mend="extract this video again, or remove the single file",
                )  # fmt: skip
    return pairs


def _load_pair(features_path: Path, timestamps_path: Path, shape: tuple[int, ...] | None) -> tuple:
    mend = "extract this video again"
    try:
        features = np.load(features_path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"not a readable .npy file ({error})", file=features_path, mend=mend) from None
    wanted = "" if shape is None else f", {', '.join(map(str, shape))}"
    if (
        features.dtype not in (np.float32, np.float16)
        or features.ndim != 4
        or 0 in features.shape
        or (shape is not None and features.shape[1:] != shape)
    ):
        raise InputError(
            f"holds {features.dtype} {list(features.shape)}, expected float32 [steps{wanted}]",
            file=features_path, mend=mend,
        )  # fmt: skip
    timestamps = read_timestamps(timestamps_path)
    if len(timestamps) != len(features):
        raise InputError(
            f"{len(features)} feature steps, but {len(timestamps)} times in {timestamps_path.name}",
            file=features_path, mend=mend,
        )  # fmt: skip
    for start in range(0, len(features), 64):
        finite = np.isfinite(features[start : start + 64]).reshape(len(features[start : start + 64]), -1)
        if not finite.all():
            step = start + int(np.argmin(finite.all(axis=1)))
            raise NonFiniteError(f"NaN or infinity in feature step {step}", file=features_path, mend=mend)
    return np.asarray(features), timestamps


def import_npy_folder(
    split_folder: str | Path,
    store: FeatureStore | WorkStores,
    *,
    storage_dtype: str = "float32",
    feature_shape: tuple[int, ...] | None = FEATURE_SHAPE,
    video_ids: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[dict[str, Any]]:
    """Puts existing features of the original (`efficientnet_features/long_range_videos`) into the store.

    Times are taken as they are: the original's feature timestamps are already in seconds on the annotations'
    clock.

    Args:
        split_folder: Folder of one split, e.g. `QEVD-FIT-COACH-Benchmark`.
        store: Opened for writing.
        storage_dtype: `float32` or `float16`.
        feature_shape: Shape of one step; None accepts any [channels, height, width].
        video_ids: Videos wanted; None takes all. A wanted one that is absent is a failed row.
        progress: Called with (done, all) after each video.
        should_stop: Asked before each video.

    Returns:
        Rows as `extract_shard`, sorted by video id.

    Raises:
        InputError: The folder is missing, or one file of a pair is.
        ResumableStop: `should_stop` said so.
    """
    folder = Path(split_folder) / _RELEASED_FOLDER
    pairs = {name: (features, timestamps) for name, features, timestamps in _pairs(folder)}
    wanted = sorted(pairs if video_ids is None else set(video_ids))
    rows = []
    for done, name in enumerate(wanted, 1):
        if should_stop is not None and should_stop():
            raise ResumableStop(f"stopped after {done - 1} of {len(wanted)} videos", mend="start it again")
        try:
            if name not in pairs:
                raise InputError(f"no {name}{_FEATURES} in the folder", file=folder, mend="extract this video")
            rows.append(_import_one(name, *pairs[name], store, storage_dtype, feature_shape))
        except (InputError, NonFiniteError) as error:
            rows.append(_row(name, "", reason=short_reason(error)))
        if progress is not None:
            progress(done, len(wanted))
    return rows


def _import_one(
    name: str,
    features_path: Path,
    timestamps_path: Path,
    store: FeatureStore | WorkStores,
    storage_dtype: str,
    feature_shape: tuple[int, ...] | None,
) -> dict[str, Any]:
    digests = [sha256_file(features_path), sha256_file(timestamps_path)]
    key = content_key("fitcoach imported features", name, *digests, storage_dtype)
    missing = not _has_sound(store, key)
    if missing:
        features, timestamps = _load_pair(features_path, timestamps_path, feature_shape)
        store.put(key, _stored(features, timestamps, storage_dtype), meta={"video_id": name, "imported": True})
    return _row(name, key, store.info(key).arrays["timestamps"].shape[0], computed=missing)
