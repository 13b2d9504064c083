"""Pictures taken out of videos, in a feature store: the one place that takes them, for all systems.

An item holds up to `FRAMES_PER_ITEM` neighbouring frames of one video in one form, as encoded bytes. Its key is
made of the video's digest, the frames, the form and the stage version, so that equal requests of several systems
are served once, and more requests leave what is stored where it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Self

import numpy as np

from sightline.errors import InputError, ResumableStop, StoreError, VideoError
from sightline.features.index import FeatureIndex, WorkStores
from sightline.features.store import FeatureStore
from sightline.records.files import content_key, from_json, to_json
from sightline.video.frames import FrameIndexRow
from sightline.video.requests import FrameTransform, Wanted
from sightline.video.seeking import pick_frames

log = logging.getLogger(__name__)
FRAMES_PER_ITEM = 256
_AGAIN = "ask for it in a list of frames and run the rule extract_frames"


@dataclass(frozen=True, slots=True)
class _Item:
    key: str
    video_sha256: str
    transform: FrameTransform
    frames: tuple[int, ...]

    def meta(self) -> dict[str, Any]:
        return {"video_sha256": self.video_sha256, "transform": self.transform.to_json(), "frames": list(self.frames)}


@dataclass(slots=True)
class _Filling:
    """An item whose frames are being decoded."""

    item: _Item
    pictures: list[np.ndarray] = field(default_factory=list)

    def arrays(self) -> dict[str, np.ndarray]:
        ends = np.cumsum([len(one) for one in self.pictures], dtype=np.int64)
        return {"encoded": np.concatenate(self.pictures), "ends": ends}


def _items(video_sha256: str, wanted: Mapping[FrameTransform, Sequence[int]], stage_version: int) -> list[_Item]:
    """Cuts the frames of one video into items by their numbers alone, so that later requests move nothing."""
    items = []
    for transform, frames in wanted.items():
        groups: dict[int, list[int]] = {}
        for frame in frames:
            groups.setdefault(frame // FRAMES_PER_ITEM, []).append(frame)
        for group in groups.values():
            key = content_key("extracted frames", video_sha256, group, transform.stored().to_json(), stage_version)
            items.append(_Item(key, video_sha256, transform.stored(), tuple(group)))
    return items


def _require(wanted: Wanted, rows: Mapping[str, FrameIndexRow], index: str | Path | None) -> None:
    """Refuses, before anything is decoded, what cannot be had."""
    for video_id, transforms in wanted.items():
        row = rows.get(video_id)
        if row is None:
            raise InputError("no such video in the frame index", file=index, item=video_id, mend="correct the request")
        if row.status != "ok" or row.info is None:
            raise VideoError(f"cannot be used: {row.reason}", file=index, item=video_id, mend="do not ask for it")
        for frames in transforms.values():
            if frames and frames[-1] >= row.info["frames"]:
                raise InputError(
                    f"frame {frames[-1]} is asked for, but the video has frames 0 to {row.info['frames'] - 1}",
                    file=index, item=video_id, field="frame", mend="correct the request",
                )  # fmt: skip


def _read_video(path: Path, row: FrameIndexRow, items: Sequence[_Item], commit: Callable[[_Filling], None]) -> None:
    """Decodes one video once and commits each item as soon as its last frame is there."""
    by_frame: dict[int, list[_Filling]] = {}
    for item in items:
        filling = _Filling(item)
        for frame in item.frames:
            by_frame.setdefault(frame, []).append(filling)
    assert row.info is not None
    found = pick_frames(
        path,
        sorted(by_frame),
        frames=row.info["frames"],
        apply_rotation=True,
        allow_high_bit_depth=row.info["bit_depth"] > 8,  # the frame index let it pass
    )
    for frame, picture in found:
        for filling in by_frame.pop(frame):
            try:
                filling.pictures.append(filling.item.transform.encode(filling.item.transform.apply(picture)))
            except InputError as error:
                raise InputError(
                    f"frame {frame}: {error.problem}", file=path, item=row.video_id, field=error.field, mend=error.mend
                ) from None
            if len(filling.pictures) == len(filling.item.frames):
                commit(filling)


def extract_frames(
    wanted: Wanted,
    rows: Iterable[FrameIndexRow],
    paths: Mapping[str, Path],
    store: FeatureStore | WorkStores,
    *,
    stage_version: int,
    index: str | Path | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> tuple[list[str], dict[str, int]]:
    """Takes pictures out of videos; what the store holds undamaged is not taken again.

    Args:
        wanted: The union of all requests.
        rows: The frame index of the dataset.
        paths: Video id to file.
        store: Opened for writing. Receives per item `encoded` uint8 [bytes] and `ends` int64 [frames], the end of
            each picture in it; and one item that says which digest belongs to which video id.
        stage_version: Part of every key.
        index: File of the frame index, for messages.
        workers: Videos decoded at the same time; decoding releases the interpreter lock, so threads do.
        progress: Called with (done, all) after each video.
        should_stop: Asked before each video.

    Returns:
        Keys for the index that `ExtractedFrames` reads; counts of videos, frames, items, and of frames computed.

    Raises:
        InputError: A video or frame asked for does not exist, or a crop leaves the picture; names both.
        VideoError: A video asked for cannot be used.
        ResumableStop: `should_stop` said so; finished items are in the store.
    """
    by_id = {row.video_id: row for row in rows}
    _require(wanted, by_id, index)
    items = {name: _items(by_id[name].sha256, transforms, stage_version) for name, transforms in wanted.items()}
    work = _Work(by_id, paths, store)
    jobs = [
        partial(work.one_video, name, list(needed.values()), should_stop)
        for name, needed in _one_reader_per_file(items).items()
    ]
    _run_all(jobs, workers, progress)
    listing = _put_listing(store, {name: by_id[name].sha256 for name in wanted})
    keys = {item.key for mine in items.values() for item in mine}
    frames = sum(len(frames) for transforms in wanted.values() for frames in transforms.values())
    counts = {"videos": len(wanted), "frames": frames, "items": len(keys), "computed_frames": work.computed}
    return [*sorted(keys), listing], counts


@dataclass(slots=True)
class _Work:
    """What the threads of an extraction share; the store is used by one at a time."""

    rows: Mapping[str, FrameIndexRow]
    paths: Mapping[str, Path]
    store: FeatureStore | WorkStores
    lock: Lock = field(default_factory=Lock)
    computed: int = 0

    def one_video(self, name: str, items: list[_Item], should_stop: Callable[[], bool] | None) -> None:
        """Fills the items of one video that the store does not hold undamaged."""
        if should_stop is not None and should_stop():
            raise ResumableStop("stopped between videos", mend="start it again; finished pictures are kept")
        with self.lock:
            missing = [item for item in items if not _is_sound(self.store, item.key)]
        if missing:
            _read_video(self.paths[name], self.rows[name], missing, self._commit)

    def _commit(self, filling: _Filling) -> None:
        with self.lock:
            self.store.put(filling.item.key, filling.arrays(), filling.item.meta())
            self.computed += len(filling.item.frames)


def _one_reader_per_file(items: Mapping[str, list[_Item]]) -> dict[str, dict[str, _Item]]:
    """Returns video id to key to item; copies of one file under several ids are left to the first of them."""
    readers: dict[str, str] = {}
    needed: dict[str, dict[str, _Item]] = {}
    for name, mine in items.items():
        for item in mine:
            needed.setdefault(readers.setdefault(item.video_sha256, name), {})[item.key] = item
    return needed


def _run_all(jobs: Sequence[Callable[[], None]], workers: int, progress: Callable[[int, int], None] | None) -> None:
    """Runs jobs in threads; after the first error none is begun, and it is raised."""
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        running = [pool.submit(job) for job in jobs]
        try:
            for done, job in enumerate(as_completed(running), 1):
                job.result()
                if progress is not None:
                    progress(done, len(jobs))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _is_sound(store: FeatureStore | WorkStores, key: str) -> bool:
    """Says whether the store holds an undamaged item; a damaged one is taken out."""
    if key not in store:
        return False
    try:
        store.verify(key)
    except StoreError as error:
        log.warning("%s; it is taken out and made again", error)
        store.quarantine(key)
        return False
    return True


def _put_listing(store: FeatureStore | WorkStores, digests: dict[str, str]) -> str:
    text = np.frombuffer(to_json(digests).encode("utf-8"), np.uint8)
    key = content_key("videos of extracted frames", digests)
    _is_sound(store, key)
    store.put(key, {"videos": text}, {"videos": len(digests)})
    return key


class ExtractedFrames:
    """Reads extracted pictures through their index. Use it as a context manager.

    Args:
        index: The file `pictures.json` of a dataset.

    Raises:
        StoreError: The file is missing, or is not an index of extracted frames.
    """

    def __init__(self, index: str | Path) -> None:
        self.path = Path(index)
        self._index = FeatureIndex(self.path)
        self._videos: dict[str, str] = {}
        self._places: dict[tuple[str, str], dict[int, tuple[str, int]]] = {}
        self._ends: dict[str, np.ndarray] = {}
        for key in self._index.keys():  # noqa: SIM118 - an index is no mapping
            meta = self._index.info(key).meta
            if meta.keys() == {"videos"}:
                self._videos = from_json(self._index.read(key)["videos"].tobytes().decode("utf-8"))
            elif meta.keys() == {"video_sha256", "transform", "frames"}:
                places = self._places.setdefault((meta["video_sha256"], to_json(meta["transform"])), {})
                places.update({frame: (key, position) for position, frame in enumerate(meta["frames"])})
            else:
                raise StoreError("not an index of extracted frames", file=self.path, mend="give a pictures.json")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the stores; pictures already read stay valid."""
        self._index.close()

    def videos(self) -> list[str]:
        """Returns the ids of the videos that pictures were taken out of, sorted."""
        return sorted(self._videos)

    def encoded(self, video_id: str, frame: int, transform: FrameTransform) -> bytes:
        """Returns one picture as stored: a PNG or JPEG file.

        Raises:
            InputError: It was not extracted; names video and frame.
            StoreError: The stored bytes are damaged, or the store is gone.
        """
        return self._bytes(video_id, frame, transform).tobytes()

    def read(self, video_id: str, frame: int, transform: FrameTransform) -> np.ndarray:
        """Returns one picture uint8 [height, width, 3], upright, channels in the order the transform names.

        Raises:
            InputError: It was not extracted; names video and frame.
            StoreError: The stored bytes are damaged, or the store is gone.
        """
        return transform.decode(self._bytes(video_id, frame, transform))

    def _bytes(self, video_id: str, frame: int, transform: FrameTransform) -> np.ndarray:
        digest = self._videos.get(video_id)
        if digest is None:
            raise InputError(
                f"no picture of this video, so not frame {frame}", file=self.path, item=video_id, mend=_AGAIN
            )
        form = to_json(transform.stored().to_json())
        place = self._places.get((digest, form), {}).get(frame)
        if place is None:
            raise InputError(
                f"frame {frame} was not extracted as {form}", file=self.path, item=video_id, field="frame", mend=_AGAIN
            )
        key, position = place
        ends = self._ends.get(key)
        if ends is None:
            ends = self._ends[key] = self._index.read(key, ["ends"], copy=True)["ends"]
        start = int(ends[position - 1]) if position else 0
        return self._index.read(key, ["encoded"], slice(start, int(ends[position])))["encoded"]
