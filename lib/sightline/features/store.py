"""The interface of feature stores: arrays under a content key, committed whole and checked when read.

One key is one video. `open_store` gives a store on LMDB or HDF5; both hold the same values under the same
digest. Chunk sizes, checksums and digests are decided here, so that no backend can differ in them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from sightline.errors import NonFiniteError, StoreError
from sightline.records.files import to_json
from sightline.records.types import is_slug

log = logging.getLogger(__name__)

Backend = Literal["lmdb", "hdf5"]
Mode = Literal["r", "a"]
CHUNK_BYTES = 1 << 20
SUFFIXES: dict[str, str] = {"lmdb": ".lmdb", "hdf5": ".hdf5"}
MEND = "run the stage that writes this store again: it checks every item and recomputes only the damaged one"


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """What is known of one array without reading it.

    Attributes:
        shape: Shape; the first axis is the row axis.
        dtype: NumPy type string, little endian, e.g. `<f4`.
        chunk_rows: Rows per chunk; the last chunk may be shorter.
        crc32: CRC-32 of each chunk's raw bytes.
    """

    shape: tuple[int, ...]
    dtype: str
    chunk_rows: int
    crc32: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Length of the first axis; 1 for an array without axes."""
        return self.shape[0] if self.shape else 1

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class FeatureInfo:
    """What is known of one key.

    Attributes:
        key: The content key (a slug).
        arrays: Array name to its description.
        meta: What the writer noted; it describes and never decides whether two items are equal.
        digest: SHA-256 over sorted names, types, shapes and raw bytes; the same in every backend.
    """

    key: str
    arrays: dict[str, ArrayInfo]
    meta: dict[str, Any]
    digest: str

    def to_json(self) -> dict[str, Any]:
        """Returns the description as a JSON object."""
        arrays = {
            name: {
                "shape": list(one.shape),
                "dtype": one.dtype,
                "chunk_rows": one.chunk_rows,
                "crc32": list(one.crc32),
            }
            for name, one in self.arrays.items()
        }
        return {"key": self.key, "arrays": arrays, "meta": self.meta, "digest": self.digest}

    @classmethod
    def from_json(cls, row: Any, *, file: str | Path | None = None) -> Self:
        """Builds the description from a JSON object.

        Raises:
            StoreError: The object does not have the fields of a description.
        """
        try:
            arrays = {
                str(name): ArrayInfo(
                    tuple(int(size) for size in one["shape"]),
                    np.dtype(one["dtype"]).str,
                    int(one["chunk_rows"]),
                    tuple(int(crc) for crc in one["crc32"]),
                )
                for name, one in row["arrays"].items()
            }
            return cls(str(row["key"]), arrays, dict(row["meta"]), str(row["digest"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"description of an item is damaged ({error!r})", file=file, mend=MEND) from None


class FeatureStore(ABC):
    """Arrays under content keys. Use it as a context manager; `open_store` makes one."""

    backend: Backend

    def __init__(self, path: str | Path, mode: Mode) -> None:
        self.path = Path(path)
        self.mode = mode
        self._infos: dict[str, FeatureInfo] = {}
        self._checked: dict[tuple[str, str], bytearray] = {}

    # What a backend supplies.

    @abstractmethod
    def keys(self) -> list[str]:
        """Returns the keys of all committed items, sorted."""

    @abstractmethod
    def __contains__(self, key: object) -> bool:
        """Says whether an item was committed under `key`; its values are not checked."""

    @abstractmethod
    def close(self) -> None:
        """Closes the store; arrays already read stay valid."""

    @abstractmethod
    def _load_info(self, key: str) -> FeatureInfo:
        """Reads the description of a committed item; StoreError if it is absent or damaged."""

    @abstractmethod
    def _commit(self, info: FeatureInfo, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes an item, all of it or nothing."""

    @abstractmethod
    def _read_rows(self, info: FeatureInfo, name: str, start: int, stop: int) -> np.ndarray:
        """Returns rows [start, stop) of an array, unchecked; a view where the backend can give one."""

    @abstractmethod
    def _remove(self, key: str) -> None:
        """Removes an item, damaged or not."""

    # What all backends share.

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def put(
        self, key: str, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any] | None = None
    ) -> FeatureInfo:
        """Commits all arrays of one item at once and returns its description.

        After a kill the item is there completely or not at all. The same values again change nothing (the
        first `meta` stays).

        Args:
            key: Content key; a slug.
            arrays: Name to array of numbers or booleans, any shape; rows are the first axis.
            meta: JSON-serialisable notes.

        Raises:
            NonFiniteError: An array holds NaN or infinity; names key and array.
            StoreError: The store is read-only, a name or type cannot be stored, other values are already
                there under this key, or the disk is full.
        """
        self._require_writable()
        info, ready = describe(key, arrays, meta, file=self.path)
        if key in self:
            present = self.info(key)
            if present.digest != info.digest:
                raise StoreError(
                    f"other values are already stored under this key (digest {present.digest[:12]}, now "
                    f"{info.digest[:12]})",
                    file=self.path,
                    item=key,
                    mend="the key must change with whatever changed the values; raise the stage version",
                )
            return present
        self._commit(info, ready)
        self._forget(key)
        self._infos[key] = info
        return info

    def info(self, key: str) -> FeatureInfo:
        """Returns the description of an item.

        Raises:
            StoreError: The key is absent or its description is damaged.
        """
        found = self._infos.get(key)
        if found is None:
            found = self._infos[key] = self._load_info(key)
        return found

    def read(
        self, key: str, names: Iterable[str] | None = None, rows: slice | None = None, *, copy: bool = False
    ) -> dict[str, np.ndarray]:
        """Reads arrays of one item; each chunk's CRC-32 is verified the first time it is touched.

        Args:
            key: The item.
            names: Arrays wanted; all if None.
            rows: Slice of the first axis, applied to each array by its own length (positive step). Arrays
                without axes come whole.
            copy: Gives arrays of their own that may be written to. Otherwise arrays are read-only and
                are views of the store where possible; they stay valid after `close`.

        Raises:
            StoreError: Key or name is absent, or a checksum differs; names file, key, array and mend.
        """
        info = self.info(key)
        result = {}
        for name in info.arrays if names is None else names:
            array = self._read_checked(info, name, rows)
            if copy:
                array = array.copy()
            else:
                array.flags.writeable = False
            result[name] = array
        return result

    def verify(self, key: str) -> FeatureInfo:
        """Reads all of an item again and compares every checksum and the digest.

        Raises:
            StoreError: The item is absent or damaged.
        """
        self._forget(key)
        info = self.info(key)
        digest = _digest_of(
            (name, one, self._read_checked(info, name, None)) for name, one in info.arrays.items()
        )
        if digest != info.digest:
            raise StoreError("the digest of the values differs", file=self.path, item=key, mend=MEND)
        return info

    def quarantine(self, key: str) -> None:
        """Takes a damaged item out of the store, so that the next run recomputes it and nothing else.

        Raises:
            StoreError: The store is read-only.
        """
        self._require_writable()
        self._forget(key)
        self._remove(key)

    def value_digests(self) -> dict[str, str]:
        """Returns key to digest, to compare stores across backends and shardings."""
        return {key: self.info(key).digest for key in self.keys()}

    def _read_checked(self, info: FeatureInfo, name: str, rows: slice | None) -> np.ndarray:
        one = info.arrays.get(name)
        if one is None:
            raise StoreError(
                f"no array {name!r}; there are {', '.join(info.arrays)}", file=self.path, item=info.key,
                mend="ask for one of these",
            )  # fmt: skip
        start, stop, step = (0, one.rows, 1) if rows is None or not one.shape else rows.indices(one.rows)
        if step < 1:
            raise StoreError("rows are read forward only", file=self.path, item=info.key, field=name)
        stop = max(start, stop)
        first, last = start // one.chunk_rows, -(-stop // one.chunk_rows)
        checked = self._checked.setdefault((info.key, name), bytearray(len(one.crc32)))
        if start == stop or all(checked[first:last]):
            found = self._read_rows(info, name, start, stop)
        else:
            low = first * one.chunk_rows
            found = self._read_rows(info, name, low, min(last * one.chunk_rows, one.rows))
            self._check_chunks(info, name, found, first, checked)
            found = found[start - low : stop - low]
        return (found if step == 1 else found[::step]) if one.shape else found.reshape(())

    def _check_chunks(
        self, info: FeatureInfo, name: str, found: np.ndarray, first: int, checked: bytearray
    ) -> None:
        one = info.arrays[name]
        for offset in range(0, len(found), one.chunk_rows):
            chunk = first + offset // one.chunk_rows
            if checked[chunk]:
                continue
            if zlib.crc32(_raw(found[offset : offset + one.chunk_rows])) != one.crc32[chunk]:
                raise StoreError(
                    f"checksum of chunk {chunk} differs: the stored bytes were damaged",
                    file=self.path,
                    item=info.key,
                    field=name,
                    mend=MEND,
                )
            checked[chunk] = 1

    def _forget(self, key: str) -> None:
        self._infos.pop(key, None)
        for entry in [entry for entry in self._checked if entry[0] == key]:
            del self._checked[entry]

    def _require_writable(self) -> None:
        if self.mode != "a":
            raise StoreError("the store was opened for reading", file=self.path, mend='open it with mode "a"')

    def _absent(self, key: str) -> StoreError:
        return StoreError(
            "no such item in the store", file=self.path, item=key, mend="run the stage that writes this store"
        )


def _raw(rows: np.ndarray) -> memoryview:
    return memoryview(np.ascontiguousarray(rows).reshape(-1).view(np.uint8))


def _header(name: str, shape: tuple[int, ...], dtype: str) -> bytes:
    return to_json([name, dtype, list(shape)]).encode() + b"\n"


def _digest_of(items: Iterable[tuple[str, ArrayInfo, np.ndarray]]) -> str:
    digest = hashlib.sha256()
    for name, one, array in sorted(items, key=lambda item: item[0]):
        digest.update(_header(name, one.shape, one.dtype))
        digest.update(_raw(array))
    return digest.hexdigest()


def _ready(key: str, name: str, array: Any, file: str | Path | None) -> np.ndarray:
    value = np.asarray(array, order="C")
    if not is_slug(name) or len(name) > 100:
        raise StoreError(
            f"array name {name!r} is not a slug of at most 100 characters", file=file, item=key,
            mend="use letters, digits, '.', '_' and '-'",
        )  # fmt: skip
    if value.dtype.kind not in "fiub" or value.dtype.itemsize > 8:
        raise StoreError(
            f"type {value.dtype} cannot be stored", file=file, item=key, field=name,
            mend="store float16, float32, float64, integers or booleans",
        )  # fmt: skip
    return value.astype(value.dtype.newbyteorder("<"), copy=False)


def describe(
    key: str,
    arrays: Mapping[str, np.ndarray],
    meta: Mapping[str, Any] | None = None,
    *,
    file: str | Path | None = None,
) -> tuple[FeatureInfo, dict[str, np.ndarray]]:
    """Checks one item and computes its chunks, checksums and digest in one pass over the bytes.

    Returns:
        The description, and the arrays as they are stored: C order, little endian.

    Raises:
        NonFiniteError: NaN or infinity; names key and array.
        StoreError: Key, name, type or meta cannot be stored.
    """
    if not is_slug(key):
        raise StoreError("key is not a slug", file=file, item=repr(key)[:80], mend="use a content key")
    if not arrays:
        raise StoreError("nothing to store", file=file, item=key, mend="give at least one array")
    try:
        notes = json.loads(to_json(dict(meta or {})))
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"meta is not JSON ({error})", file=file, item=key, mend="use plain values"
        ) from None
    digest, infos, ready = hashlib.sha256(), {}, {}
    for name in sorted(arrays):
        value = ready[name] = _ready(key, name, arrays[name], file)
        rows = value.reshape(1) if value.ndim == 0 else value
        row_bytes = rows[:1].nbytes if len(rows) else int(np.prod(rows.shape[1:])) * rows.itemsize
        chunk_rows = max(1, CHUNK_BYTES // max(1, row_bytes))
        digest.update(_header(name, value.shape, value.dtype.str))
        checksums = []
        for start in range(0, len(rows), chunk_rows):
            chunk = rows[start : start + chunk_rows]
            if value.dtype.kind == "f" and not np.isfinite(chunk).all():
                bad = start + int(np.argmax(~np.isfinite(chunk).reshape(len(chunk), -1).all(axis=1)))
                raise NonFiniteError(
                    f"NaN or infinity in row {bad}", file=file, item=key, field=name,
                    mend="look at the input of this item; nothing was stored",
                )  # fmt: skip
            raw = _raw(chunk)
            checksums.append(zlib.crc32(raw))
            digest.update(raw)
        infos[name] = ArrayInfo(value.shape, value.dtype.str, chunk_rows, tuple(checksums))
    return FeatureInfo(key, infos, notes, digest.hexdigest()), ready


def open_store(
    path: str | Path, backend: Backend, mode: Mode = "r", *, timeout_s: float | None = None
) -> FeatureStore:
    """Opens a feature store: `lmdb` is one file, `hdf5` a folder with one file per key.

    Args:
        path: Where the store is.
        backend: `lmdb` or `hdf5`.
        mode: `r` reads, without locks, from read-only places too; `a` reads and writes, makes the store when
            absent, and holds the writer's lease until `close`.
        timeout_s: How long a second writer waits for the first; None waits as long as it takes.

    Raises:
        StoreError: The store is absent (mode `r`), truncated, or of another format.
    """
    if mode not in ("r", "a"):
        raise StoreError(f"mode {mode!r} is unknown", file=path, mend='use "r" or "a"')
    if backend == "lmdb":
        from sightline.features.lmdb_store import LmdbStore

        return LmdbStore(path, mode, timeout_s=timeout_s)
    if backend == "hdf5":
        from sightline.features.hdf5_store import Hdf5Store

        return Hdf5Store(path, mode, timeout_s=timeout_s)
    raise StoreError(f"backend {backend!r} is unknown", file=path, mend="use lmdb or hdf5")
