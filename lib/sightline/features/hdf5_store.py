"""Feature store in a folder: one HDF5 file per item, written under a temporary name and renamed.

HDF5 itself promises nothing to a killed writer, so a file only gets its final name when it is closed and on
disk. Each file holds `arrays/<name>`, chunked along the rows, and `info`: CRC-32 and JSON description.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import h5py
import numpy as np

from sightline.errors import StoreError
from sightline.features.items import MEND, DamagedError, FeatureInfo
from sightline.features.store import FeatureStore, Mode
from sightline.records.files import fsync_directory, to_json, write_bytes
from sightline.records.lease import lease

_ENDING = ".h5"
_OPEN_FILES = 16
_CHUNK_CACHE_BYTES = 4 << 20


class Hdf5Store(FeatureStore):
    """`FeatureStore` in a folder of HDF5 files; see `open_store`."""

    backend = "hdf5"

    def __init__(self, path: str | Path, mode: Mode, *, timeout_s: float | None = None) -> None:
        super().__init__(path, mode)
        self._held = ExitStack()
        self._files: OrderedDict[str, h5py.File] = OrderedDict()
        self._lock = threading.RLock()
        if mode == "a":
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._held.enter_context(lease(f"{self.path}.lease", timeout_s=timeout_s))
            self.path.mkdir(exist_ok=True)
            for leftover in self.path.glob(".*.part"):
                leftover.unlink()
        elif not self.path.is_dir():
            raise StoreError("no such store", file=self.path, mend="run the stage that writes it")

    def keys(self) -> list[str]:
        """Returns the keys of all committed items, sorted."""
        names = os.listdir(self.path)
        return sorted(name[: -len(_ENDING)] for name in names if name.endswith(_ENDING) and not name.startswith("."))

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._file_of(key).is_file()

    def close(self) -> None:
        """Closes the store."""
        with self._lock:
            while self._files:
                self._files.popitem()[1].close()
        self._held.close()

    def _file_of(self, key: str) -> Path:
        return self.path / f"{key}{_ENDING}"

    @contextmanager
    def _guarded(self, key: str, field: str | None = None) -> Iterator[None]:
        try:
            yield
        except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
            path, problem = self._file_of(key), f"HDF5 refuses: {error}"
            code = error.errno if isinstance(error, OSError) else None
            if code is None:  # HDF5's own complaints about the content carry no error number
                raise DamagedError(problem, file=path, item=key, field=field, mend=MEND) from None
            full = code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            mend = "free disk space and run again; nothing was stored" if full else "look at the disk and run again"
            raise StoreError(problem, file=path, item=key, field=field, mend=mend) from None

    def _file(self, key: str) -> h5py.File:
        found = self._files.get(key)
        if found is None:
            # No HDF5 locks: they fail on read-only and network file systems, and finished files never change.
            found = h5py.File(self._file_of(key), "r", locking=False, rdcc_nbytes=_CHUNK_CACHE_BYTES)
            self._files[key] = found
            while len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(key)
        return found

    def _load_info(self, key: str) -> FeatureInfo:
        if key not in self:
            raise self._absent(key)
        with self._lock, self._guarded(key):
            value = bytes(self._file(key)["info"][()])
        body = value[4:]
        if len(value) < 4 or zlib.crc32(body) != int.from_bytes(value[:4], "big"):
            raise DamagedError("checksum of the description differs", file=self._file_of(key), item=key, mend=MEND)
        return FeatureInfo.from_json(json.loads(body), file=self._file_of(key))

    def _commit(self, info: FeatureInfo, arrays: Mapping[str, np.ndarray]) -> None:
        body = to_json(info.to_json()).encode()
        value = zlib.crc32(body).to_bytes(4, "big") + body
        with self._guarded(info.key):
            write_bytes(self._file_of(info.key), _image(info, arrays, value))

    def _read_rows(self, info: FeatureInfo, name: str, start: int, stop: int) -> np.ndarray:
        one = info.arrays[name]
        with self._lock, self._guarded(info.key, name):
            stored = self._file(info.key)[f"arrays/{name}"]
            if stored.shape != one.shape or stored.dtype != np.dtype(one.dtype):
                raise ValueError(f"shape {stored.shape} and type {stored.dtype} are not those described")
            if not one.shape:
                return np.asarray(stored[()], one.dtype).reshape(1)
            rows = np.empty((stop - start, *one.shape[1:]), one.dtype)
            if rows.size:
                stored.read_direct(rows, np.s_[start:stop])
            return rows

    def _remove(self, key: str) -> None:
        with self._lock:
            opened = self._files.pop(key, None)
            if opened is not None:
                opened.close()
            with suppress(FileNotFoundError):
                os.replace(self._file_of(key), self.path / f"{key}{_ENDING}.damaged")
            fsync_directory(self.path)


def _image(info: FeatureInfo, arrays: Mapping[str, np.ndarray], value: bytes) -> bytes:
    """Returns the bytes of an item's file, made in memory: HDF5 can crash the process when a disk is full."""
    room = sum(array.nbytes for array in arrays.values()) + (1 << 20)
    memory = {"driver": "core", "backing_store": False, "block_size": room}
    with h5py.File(f"{info.key}{_ENDING}", "w", libver="latest", **memory) as file:
        group = file.create_group("arrays")
        for name, array in arrays.items():
            chunked = array.size > 0 and array.ndim > 0
            chunks = (min(info.arrays[name].chunk_rows, len(array)), *array.shape[1:]) if chunked else None
            group.create_dataset(name, data=array, chunks=chunks)
        file.create_dataset("info", data=np.frombuffer(value, np.uint8))
        file.flush()
        return file.id.get_file_image()
