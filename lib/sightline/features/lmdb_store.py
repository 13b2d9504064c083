"""Feature store in one LMDB file: one synced transaction per item, zero-copy checked reads.

Layout (keys are bytes, parts joined by NUL): `format` names the layout; `i,key` holds a CRC-32 and the item's
description as JSON; `v,key,array,number` holds rows of an array, at most `SEGMENT_BYTES` per value and always
whole chunks. Segments are larger than chunks so that an ordinary video's features lie in one piece of the
file and can be handed out as a view; checksums stay per chunk.

Readers take no locks (read-only trees, network file systems). That is safe beside a living writer because
the writer pins the state it found: pages that state or a later one freed are not used again while it lives.
"""

from __future__ import annotations

import json
import os
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import lmdb
import numpy as np

from sightline.errors import StoreError
from sightline.features.items import MEND, ArrayInfo, DamagedError, FeatureInfo, raw_bytes
from sightline.features.store import FeatureStore, Mode
from sightline.records.files import fsync_directory, to_json
from sightline.records.lease import lease

SEGMENT_BYTES = 256 << 20
_FORMAT_KEY = b"format"
_FORMAT = b"sightline-features 1"
_READER_MAP_BYTES = 1 << 40  # address space only; a writer may grow the file far beyond what it was
_WRITER_MAP_BYTES = 1 << 30
# LMDB reports a write that was cut short, as on a full disk, as an input/output error.
_DISK_FULL = ("No space left", "File too large", "quota", "Input/output error")
_REBUILD = "move the file away and run the stage that writes it; only what it held is recomputed"


class _Environment:
    """An open LMDB environment, closed when the last store and the last view of it are gone."""

    def __init__(self, path: Path, writable: bool, map_bytes: int) -> None:
        self.writable = writable
        self.env = lmdb.open(
            str(path), subdir=False, map_size=map_bytes, readonly=not writable, lock=writable, create=writable,
            readahead=True, meminit=False, max_dbs=0,
        )  # fmt: skip
        self.lock = threading.RLock()  # the map must not move while a thread reads from it
        self._pinned: lmdb.Transaction | None = None
        if writable:
            self.env.reader_check()

    def pin(self) -> None:
        """Keeps every page of the present state from being used again."""
        if self._pinned is None:
            self._pinned = self.begin()

    def begin(self) -> lmdb.Transaction:
        """Starts reading, also when another process grew the file after this one let go of the lease."""
        try:
            return self.env.begin(buffers=True)
        except lmdb.MapResizedError:
            self.env.set_mapsize(0)
            return self.env.begin(buffers=True)

    def unpin(self) -> None:
        """Lets go of the pinned state."""
        if self._pinned is not None:
            self._pinned.abort()
            self._pinned = None

    def grow(self) -> None:
        """Doubles the map; only a writable environment, of which no views exist, is ever grown."""
        self.unpin()
        self.env.set_mapsize(self.env.info()["map_size"] * 2)
        self.pin()


class _View:
    """Bytes inside the map that keep the environment open as long as an array refers to them."""

    def __init__(self, buffer: memoryview, environment: _Environment) -> None:
        self.environment = environment
        self.__array_interface__ = np.frombuffer(buffer, np.uint8).__array_interface__


_open: WeakValueDictionary[tuple[int, int], _Environment] = WeakValueDictionary()
_open_lock = threading.Lock()


def _failure(problem: str, error: Exception, path: Path, key: str | None = None) -> StoreError:
    if isinstance(error, lmdb.CorruptedError | lmdb.InvalidError | lmdb.PageNotFoundError):
        return DamagedError(problem, file=path, item=key, mend=_REBUILD)
    if isinstance(error, lmdb.DiskError) or any(words in problem for words in _DISK_FULL):
        mend = "free disk space (or quota) and run again; nothing was stored"
        return StoreError(problem, file=path, item=key, mend=mend)
    return StoreError(problem, file=path, item=key, mend="look at the permissions and the disk, then run again")


def check_not_truncated(path: Path) -> None:
    """Refuses a file shorter than its last page: touching what is missing would kill the process (SIGBUS).

    Raises:
        DamagedError: The file is truncated or is no LMDB file.
    """
    size = path.stat().st_size
    try:
        with lmdb.open(str(path), subdir=False, readonly=True, lock=False, create=False, max_dbs=0) as env:
            needed = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    except lmdb.Error as error:
        raise _failure(f"cannot be opened ({error})", error, path) from None
    if needed > size:
        raise DamagedError(f"truncated: {size} of {needed} bytes are there", file=path, mend=_REBUILD)


def _environment(path: Path, writable: bool) -> _Environment:
    """Opens a file, or shares it when this process has it open: LMDB allows one environment per file."""
    with _open_lock:
        if path.exists() and path.stat().st_size:
            identity = (path.stat().st_dev, path.stat().st_ino)
            present = _open.get(identity)
            if present is not None:
                if writable and not present.writable:
                    raise StoreError(
                        "this process still reads the store it wants to write",
                        file=path,
                        mend="close the reader and drop the arrays it gave first",
                    )
                return present
            check_not_truncated(path)
        map_bytes = _WRITER_MAP_BYTES if writable else _READER_MAP_BYTES
        if path.exists():
            map_bytes = max(map_bytes, 2 * path.stat().st_size)
        try:
            made = _Environment(path, writable, map_bytes)
        except (lmdb.Error, OSError) as error:
            raise _failure(f"cannot be opened ({error})", error, path) from None
        _open[(path.stat().st_dev, path.stat().st_ino)] = made
        return made


class LmdbStore(FeatureStore):
    """`FeatureStore` in one LMDB file; see `open_store`."""

    backend = "lmdb"

    def __init__(self, path: str | Path, mode: Mode, *, timeout_s: float | None = None) -> None:
        super().__init__(path, mode)
        self._held = ExitStack()
        self._views: dict[tuple[str, str], np.ndarray] = {}
        self._environment: _Environment | None = None
        try:
            if mode == "a":
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._held.enter_context(lease(f"{self.path}.lease", timeout_s=timeout_s))
                self._open_for_writing()
            elif not self.path.is_file():
                raise StoreError("no such store", file=self.path, mend="run the stage that writes it")
            elif self.path.stat().st_size:
                self._environment = _environment(self.path, False)
            self._check_format()
        except BaseException:
            self.close()
            raise

    def _open_for_writing(self) -> None:
        if self.path.exists() and self.path.stat().st_size == 0:
            self.path.unlink()  # killed before the first page was written
        self._environment = _environment(self.path, True)
        self._environment.pin()
        if self._environment.env.stat()["entries"] == 0:
            with self._guarded(), self._environment.env.begin(write=True) as transaction:
                transaction.put(_FORMAT_KEY, _FORMAT)
            fsync_directory(self.path.parent)

    def _check_format(self) -> None:
        if self._environment is None:
            return
        with self._reading() as transaction:
            found = transaction.get(_FORMAT_KEY)
            empty = self._environment.env.stat()["entries"] == 0
        if not empty and (found is None or bytes(found) != _FORMAT):
            raise StoreError("an LMDB file of another format", file=self.path, mend="give the path of a feature store")

    @contextmanager
    def _guarded(self, key: str | None = None) -> Iterator[None]:
        try:
            yield
        except lmdb.Error as error:
            raise _failure(f"LMDB refuses: {error}", error, self.path, key) from None

    @contextmanager
    def _reading(self, key: str | None = None) -> Iterator[lmdb.Transaction]:
        if self._environment is None:
            raise StoreError("the store is closed or empty", file=self.path, item=key)
        environment = self._environment
        lock = environment.lock if environment.writable else nullcontext()
        with self._guarded(key), lock, environment.begin() as transaction:
            yield transaction

    def keys(self) -> list[str]:
        """Returns the keys of all committed items, sorted."""
        if self._environment is None:
            return []
        found, prefix = [], b"i\0"
        with self._reading() as transaction, transaction.cursor() as cursor:
            alive = cursor.set_range(prefix)
            while alive and bytes(cursor.key()[:2]) == prefix:
                found.append(bytes(cursor.key()[2:]).decode("ascii", "replace"))
                alive = cursor.next()
        return found

    def __contains__(self, key: object) -> bool:
        if self._environment is None or not isinstance(key, str) or not 0 < len(key) <= 200:
            return False
        with self._reading(key) as transaction:
            return transaction.get(_info_key(key)) is not None

    def close(self) -> None:
        """Closes the store; views already handed out keep the file mapped until they are gone."""
        self._views.clear()
        environment, self._environment = self._environment, None
        if environment is not None and self.mode == "a":
            environment.unpin()
        del environment
        self._held.close()

    def _load_info(self, key: str) -> FeatureInfo:
        if key not in self:
            raise self._absent(key)
        with self._reading(key) as transaction:
            value = bytes(transaction.get(_info_key(key)) or b"")
        body = value[4:]
        if len(value) < 4 or zlib.crc32(body) != int.from_bytes(value[:4], "big"):
            raise DamagedError("checksum of the description differs", file=self.path, item=key, mend=MEND)
        return FeatureInfo.from_json(json.loads(body), file=self.path)

    def _commit(self, info: FeatureInfo, arrays: Mapping[str, np.ndarray]) -> None:
        if self._environment is None:
            raise StoreError("the store is closed", file=self.path, item=info.key)
        body = to_json(info.to_json()).encode()
        with self._guarded(info.key), self._environment.lock:
            while True:
                try:
                    with self._environment.env.begin(write=True) as transaction:
                        for name, array in arrays.items():
                            for number, segment in enumerate(_segments(info.arrays[name], array)):
                                transaction.put(_value_key(info.key, name, number), segment)
                        transaction.put(_info_key(info.key), zlib.crc32(body).to_bytes(4, "big") + body)
                    return
                except lmdb.MapFullError:
                    self._environment.grow()

    def _read_rows(self, info: FeatureInfo, name: str, start: int, stop: int) -> np.ndarray:
        one = info.arrays[name]
        writable = self._environment is not None and self._environment.writable
        if writable or self._environment is None or one.rows > _segment_rows(one):
            return self._fetch_rows(info, name, start, stop)
        whole = self._views.get((info.key, name))
        if whole is None:
            whole = self._views[info.key, name] = self._fetch_rows(info, name, 0, one.rows)
        return whole[start:stop]

    def _forget(self, key: str) -> None:
        super()._forget(key)
        for entry in [entry for entry in self._views if entry[0] == key]:
            del self._views[entry]

    def _fetch_rows(self, info: FeatureInfo, name: str, start: int, stop: int) -> np.ndarray:
        one = info.arrays[name]
        shape = (stop - start, *one.shape[1:])
        if start == stop or one.row_bytes == 0:
            return np.zeros(shape, one.dtype)
        per_segment = _segment_rows(one)
        pieces = []
        with self._reading(info.key) as transaction:
            for number in range(start // per_segment, -(-stop // per_segment)):
                value: Any = transaction.get(_value_key(info.key, name, number))
                origin = number * per_segment
                length = (min(per_segment, one.rows - origin)) * one.row_bytes
                if value is None or len(value) != length:
                    raise DamagedError("rows are missing", file=self.path, item=info.key, field=name, mend=MEND)
                low, high = max(start, origin) - origin, min(stop, origin + per_segment) - origin
                pieces.append(self._rows_of(value[low * one.row_bytes : high * one.row_bytes]))
        flat = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        rows = flat.view(one.dtype).reshape(shape)
        return rows if rows.flags.aligned else rows.copy()  # small values share a page and may lie anywhere

    def _rows_of(self, value: memoryview) -> np.ndarray:
        assert self._environment is not None
        if self._environment.writable:  # its map moves when it grows
            return np.frombuffer(bytes(value), np.uint8)
        return np.asarray(_View(value, self._environment))

    def _remove(self, key: str) -> None:
        if self._environment is None:
            raise StoreError("the store is closed", file=self.path, item=key)
        prefix = b"v\0" + key.encode() + b"\0"
        with self._guarded(key), self._environment.env.begin(write=True) as transaction:
            transaction.delete(_info_key(key))
            with transaction.cursor() as cursor:
                alive = cursor.set_range(prefix)
                while alive and cursor.key().startswith(prefix):
                    alive = cursor.delete()


def remove_lock_file(path: Path) -> None:
    """Removes what LMDB leaves beside a file that was moved away."""
    with suppress(FileNotFoundError):
        os.unlink(f"{path}-lock")


def _info_key(key: str) -> bytes:
    return b"i\0" + key.encode("utf-8", "replace")


def _value_key(key: str, name: str, number: int) -> bytes:
    return b"v\0" + key.encode() + b"\0" + name.encode() + b"\0" + number.to_bytes(4, "big")


def _segment_rows(one: ArrayInfo) -> int:
    chunk_bytes = max(1, one.chunk_rows * one.row_bytes)
    return one.chunk_rows * max(1, SEGMENT_BYTES // chunk_bytes)


def _segments(one: ArrayInfo, array: np.ndarray) -> Iterator[memoryview]:
    rows = array.reshape(1) if array.ndim == 0 else array
    if one.row_bytes:
        for start in range(0, len(rows), _segment_rows(one)):
            yield raw_bytes(rows[start : start + _segment_rows(one)])
