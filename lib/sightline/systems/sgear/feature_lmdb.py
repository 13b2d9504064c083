"""RULSTM's and AVT's feature files, read in place: genuine keys, raw float32, one transaction per batch.

Values have no header, so checksums of such a file stand in a sidecar beside it, never in the value.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import lmdb
import numpy as np

from sightline.errors import InputError, StoreError
from sightline.features.items import DamagedError
from sightline.features.lmdb_store import check_not_truncated
from sightline.systems.sgear.windows import FrameWindow

DATA_FILE = "data.mdb"
CRC_FILE = "crc32.mdb"
BACKWARD_FRAMES = 9
"""Frames before the one asked for that are tried when it is absent; then zeros."""
_MAP_BYTES = 1 << 40  # address space only
_MEND = "give the folder that holds data.mdb, as RULSTM or AVT offer it"


def feature_key(video_id: str, frame: int) -> bytes:
    """Returns the key of a frame (1-based, 30 per second)."""
    return f"{video_id}_frame_{frame:010d}.jpg".encode()


def data_file(folder: str | Path) -> Path:
    """Returns the LMDB file of a folder, or the path itself if it is a file.

    Raises:
        StoreError: There is none.
    """
    path = Path(folder)
    path = path / DATA_FILE if path.is_dir() else path
    if not path.is_file() or not path.stat().st_size:
        raise StoreError("no feature file", file=path, mend=_MEND)
    return path


class _Part:
    """One LMDB file and, where there is one, its checksums."""

    def __init__(self, folder: str | Path, verify: bool) -> None:
        self.path = data_file(folder)
        self.env = _open(self.path)
        sidecar = self.path.with_name(CRC_FILE)
        self.crc = _open(sidecar) if verify and sidecar.is_file() else None
        self.dim = self._first_dim()

    def _first_dim(self) -> int:
        with self.env.begin(buffers=True) as transaction, transaction.cursor() as cursor:
            if not cursor.first():
                raise StoreError("the feature file is empty", file=self.path, mend=_MEND)
            size = len(cursor.value())
        if not size or size % 4:
            raise StoreError(f"values of {size} bytes are no float32 vectors", file=self.path, mend=_MEND)
        return size // 4

    def close(self) -> None:
        self.env.close()
        if self.crc is not None:
            self.crc.close()


def _open(path: Path) -> lmdb.Environment:
    check_not_truncated(path)
    return lmdb.open(
        str(path), subdir=False, readonly=True, lock=False, create=False, readahead=False, max_dbs=0,
        map_size=max(_MAP_BYTES, path.stat().st_size),
    )  # fmt: skip


class FeatureReader:
    """Features of frame windows out of one or several LMDB files; several are joined on the channel axis.

    Use it as a context manager. A file may be open once in a process.

    Args:
        paths: Folders holding `data.mdb`, or the files.
        dim: Channels expected altogether; None takes what is there.
        verify: Compares each value with the sidecar's checksum where there is one.

    Raises:
        StoreError: A file is missing, empty, or of another width than `dim`.
        DamagedError: A file is truncated; refused before it is mapped, since touching a missing page kills Python.
    """

    def __init__(self, paths: Sequence[str | Path], *, dim: int | None = None, verify: bool = True) -> None:
        if not paths:
            raise InputError("no feature file was named", field="paths", mend="name at least one folder")
        self._parts: list[_Part] = []
        try:
            for path in paths:
                self._parts.append(_Part(path, verify))
        except BaseException:
            self.close()
            raise
        self.dim = sum(part.dim for part in self._parts)
        if dim is not None and dim != self.dim:
            found, file = self.dim, self._parts[0].path
            self.close()
            raise StoreError(f"features of {found} channels, expected {dim}", file=file, mend="name another modality")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the files."""
        parts, self._parts = self._parts, []
        for part in parts:
            part.close()

    def read(self, windows: Sequence[FrameWindow]) -> tuple[np.ndarray, np.ndarray]:
        """Reads a batch in one transaction per file.

        For each slot the frame asked for, else the nearest of the nine before it, else zeros.

        Args:
            windows: B windows of T slots each, from `feature_window`.

        Returns:
            Features float32 [B, T, dim], and what was filled with zeros in any of the files, bool [B, T].

        Raises:
            StoreError: A value has another length than the first of its file.
            DamagedError: A checksum differs.
        """
        features, sources = self.read_with_sources(windows)
        return features, (sources == 0).any(axis=-1)

    def read_with_sources(self, windows: Sequence[FrameWindow]) -> tuple[np.ndarray, np.ndarray]:
        """Reads a batch; like `read`, but says which frame was delivered.

        Returns:
            Features float32 [B, T, dim], and frame numbers int64 [B, T, files]; 0 stands for zeros.
        """
        slots = len(windows[0].frames) if windows else 0
        features = np.zeros((len(windows), slots, self.dim), np.float32)
        sources = np.zeros((len(windows), slots, len(self._parts)), np.int64)
        offset = 0
        for number, part in enumerate(self._parts):
            columns = slice(offset, offset + part.dim)
            _fill(part, windows, features[:, :, columns], sources[:, :, number])
            offset += part.dim
        return features, sources

    def is_empty(self, window: FrameWindow) -> bool:
        """Says whether a file has nothing at all for a window: the original stops there, a row cannot be used.

        Asked only about windows whose slots are all missing; it looks up every frame of the window.
        """
        for part in self._parts:
            with part.env.begin(buffers=True) as transaction:
                first = int(window.requested[0]) - BACKWARD_FRAMES
                every = range(max(first, 1), int(window.requested[-1]) + 1)
                if window.requested[-1] - window.requested[0] >= len(window.requested):
                    every = _reachable(window.requested)
                if not any(transaction.get(feature_key(window.video_id, frame)) is not None for frame in every):
                    return True
        return False


def _reachable(frames: np.ndarray) -> Any:
    return sorted({max(int(f) - back, 1) for f in frames for back in range(BACKWARD_FRAMES + 1)})


def _fill(part: _Part, windows: Sequence[FrameWindow], features: np.ndarray, sources: np.ndarray) -> None:
    size = part.dim * 4
    with part.env.begin(buffers=True) as transaction:
        get = transaction.get
        for b, window in enumerate(windows):
            for t, frame in enumerate(window.frames.tolist()):
                for number in range(frame, frame - BACKWARD_FRAMES - 1, -1):
                    key = feature_key(window.video_id, number)
                    value = get(key)
                    if value is not None:
                        break
                else:
                    continue
                if len(value) != size:
                    raise StoreError(
                        f"a value of {len(value)} bytes, expected {size}", file=part.path, item=key.decode(), mend=_MEND
                    )
                features[b, t] = np.frombuffer(value, "<f4")
                sources[b, t] = number
    if part.crc is not None:
        _verify(part, part.crc, windows, features, sources)


def _verify(
    part: _Part, crc: lmdb.Environment, windows: Sequence[FrameWindow], features: np.ndarray, sources: np.ndarray
) -> None:
    with crc.begin(buffers=True) as transaction:
        for b, t in zip(*np.nonzero(sources), strict=True):
            key = feature_key(windows[b].video_id, int(sources[b, t]))
            expected = transaction.get(key)
            if expected is None or int.from_bytes(expected, "little") != zlib.crc32(features[b, t].tobytes()):
                raise DamagedError(
                    "the checksum differs from the sidecar's", file=part.path, item=key.decode(),
                    mend="fetch or extract the file again, or delete its crc32.mdb if the file was replaced on purpose",
                )  # fmt: skip


def write_sidecar(folder: str | Path) -> int:
    """Writes the checksums of a feature file into `crc32.mdb` beside it; returns how many.

    Key by key CRC-32 of the value, four bytes, little-endian. Readers without it read the features as ever.

    Raises:
        StoreError: The file is missing.
        DamagedError: It is truncated.
    """
    path = data_file(folder)
    with _open(path) as source, source.begin(buffers=True) as transaction, transaction.cursor() as cursor:
        pairs = ((bytes(key), zlib.crc32(value)) for key, value in cursor)
        return _write_crcs(path.with_name(CRC_FILE), pairs)


def _write_crcs(target: Path, pairs: Iterable[tuple[bytes, int]]) -> int:
    from sightline.records.files import whole_file

    count = 0
    with whole_file(target) as temporary:
        temporary.unlink()
        with (
            lmdb.open(str(temporary), subdir=False, map_size=1 << 36, lock=False, max_dbs=0) as env,
            env.begin(write=True) as transaction,
        ):
            for key, crc in pairs:
                transaction.put(key, crc.to_bytes(4, "little"), append=True)
                count += 1
    return count
