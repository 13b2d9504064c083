"""The interface of feature stores: arrays under a content key, committed whole and checked when read.

One key is one video. `features/opening.py` gives a store on LMDB or HDF5; both hold the same values under the
same digest.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from sightline.errors import StoreError
from sightline.features.items import MEND, ArrayInfo, DamagedError, FeatureInfo, describe, digest_of, raw_bytes

__all__ = [
    "MEND",
    "SUFFIXES",
    "ArrayInfo",
    "Backend",
    "DamagedError",
    "FeatureInfo",
    "FeatureStore",
    "Mode",
]

Backend = Literal["lmdb", "hdf5"]
Mode = Literal["r", "a"]
SUFFIXES: dict[str, str] = {"lmdb": ".lmdb", "hdf5": ".hdf5"}


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

    def put(self, key: str, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any] | None = None) -> FeatureInfo:
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
            StoreError: Key or name is absent.
            DamagedError: A checksum differs; names file, key, array and mend.
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
            StoreError: The item is absent.
            DamagedError: The item is damaged.
        """
        self._forget(key)
        info = self.info(key)
        digest = digest_of((name, one, self._read_checked(info, name, None)) for name, one in info.arrays.items())
        if digest != info.digest:
            raise DamagedError("the digest of the values differs", file=self.path, item=key, mend=MEND)
        return info

    def quarantine(self, key: str) -> None:
        """Takes a damaged item out of the store, so that the next run recomputes it and nothing else.

        Raises:
            StoreError: The store is read-only.
        """
        self._require_writable()
        self._forget(key)
        self._remove(key)

    def holder(self, key: str) -> FeatureStore:
        """Returns the store that holds `key`: this one (a group of stores answers with a member).

        Raises:
            StoreError: The key is absent.
        """
        if key not in self:
            raise self._absent(key)
        return self

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

    def _check_chunks(self, info: FeatureInfo, name: str, found: np.ndarray, first: int, checked: bytearray) -> None:
        one = info.arrays[name]
        for offset in range(0, len(found), one.chunk_rows):
            chunk = first + offset // one.chunk_rows
            if checked[chunk]:
                continue
            if zlib.crc32(raw_bytes(found[offset : offset + one.chunk_rows])) != one.crc32[chunk]:
                raise DamagedError(
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
