"""Many store files as one: the folder a job writes to, and the joined index that later stages read.

Each extraction job writes a store file of its own. While it runs it sees what the other files of the folder
hold (`WorkStores`), so that another number of shards, or a second attempt, computes nothing twice.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from sightline.errors import InputError, StoreError
from sightline.features.items import DamagedError, describe
from sightline.features.opening import open_store
from sightline.features.store import SUFFIXES, Backend, FeatureInfo, FeatureStore
from sightline.records.files import read_json, write_json
from sightline.records.lease import lease

log = logging.getLogger(__name__)

_FORMAT = "sightline-feature-index"
_VERSION = 1
_LISTED = 10


def quarantine_store(path: str | Path) -> Path:
    """Renames a damaged store file to `<name>.damaged`, unless a living writer holds it; returns the new path.

    Raises:
        StoreError: A writer holds the store.
    """
    path = Path(path)
    with lease(f"{path}.lease", timeout_s=0):
        target = path.with_name(f"{path.name}.damaged")
        number = 1
        while target.exists():
            number += 1
            target = path.with_name(f"{path.name}.damaged{number}")
        os.replace(path, target)
        path.with_name(f"{path.name}-lock").unlink(missing_ok=True)
    return target


class WorkStores:
    """The store one job writes, together with all others of its folder, which it only reads.

    Looking up a key (`in`) verifies the stored values once: what is damaged is set aside with a warning and
    counts as absent, so the caller computes it again. It has the methods of a `FeatureStore` that a writer
    needs and can be passed as one.

    Args:
        folder: Folder of the store files.
        writer: File stem of the store this job writes, normally the shard's name.
        backend: `lmdb` or `hdf5`.
        timeout_s: How long to wait for another writer of the same file; None waits as long as it takes.
    """

    def __init__(self, folder: str | Path, writer: str, backend: Backend, *, timeout_s: float | None = None) -> None:
        self.folder = Path(folder)
        self.backend = backend
        self.path = self.folder / f"{writer}{SUFFIXES[backend]}"
        self._siblings: dict[Path, FeatureStore] = {}
        self._sound: dict[str, FeatureStore] = {}
        try:
            self.own = open_store(self.path, backend, "a", timeout_s=timeout_s)
        except DamagedError as error:
            log.warning("%s; moved to %s", error, quarantine_store(self.path))
            self.own = open_store(self.path, backend, "a", timeout_s=timeout_s)
        self._look_for_siblings()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes all stores; arrays already read stay valid."""
        for store in (*self._siblings.values(), self.own):
            store.close()
        self._siblings.clear()
        self._sound.clear()

    def keys(self) -> list[str]:
        """Returns the keys in any of the stores, sorted; values are not verified."""
        self._look_for_siblings()
        stores = (self.own, *self._siblings.values())
        return sorted(set().union(*(store.keys() for store in stores)))

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._find(key) is not None

    def holder(self, key: str) -> FeatureStore:
        """Returns the store that holds sound values of `key`.

        Raises:
            StoreError: No store of the folder holds them.
        """
        found = self._find(key)
        if found is None:
            raise StoreError(
                "no store of the folder holds this item", file=self.folder, item=key,
                mend="run the stage that writes it",
            )  # fmt: skip
        return found

    def info(self, key: str) -> FeatureInfo:
        """Returns the description of an item; StoreError if no store holds it."""
        return self.holder(key).info(key)

    def read(
        self, key: str, names: Iterable[str] | None = None, rows: slice | None = None, *, copy: bool = False
    ) -> dict[str, np.ndarray]:
        """Reads arrays of one item from whichever store holds it; see `FeatureStore.read`."""
        return self.holder(key).read(key, names, rows, copy=copy)

    def put(self, key: str, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any] | None = None) -> FeatureInfo:
        """Commits an item to this job's own store; what any store already holds is left as it is.

        Raises:
            NonFiniteError: An array holds NaN or infinity.
            StoreError: Other values are stored under this key.
        """
        found = self._find(key)
        if found is not None and found is not self.own:
            info, _ = describe(key, arrays, meta, file=found.path)
            present = found.info(key)
            if present.digest == info.digest:
                return present
            raise _conflict(key, found.path, self.path)
        info = self.own.put(key, arrays, meta)
        self._sound[key] = self.own
        return info

    def verify(self, key: str) -> FeatureInfo:
        """Verifies an item where it is held; see `FeatureStore.verify`."""
        return self.holder(key).verify(key)

    def quarantine(self, key: str) -> None:
        """Takes an item out of this job's own store; others are only read."""
        self._sound.pop(key, None)
        self.own.quarantine(key)

    def value_digests(self) -> dict[str, str]:
        """Returns key to digest over all stores."""
        return {key: self.info(key).digest for key in self.keys()}

    def _find(self, key: str) -> FeatureStore | None:
        found = self._sound.get(key)
        if found is None:
            found = self._find_in((self.own, *self._siblings.values()), key)
        if found is None:
            found = self._find_in(self._look_for_siblings(), key)
        if found is not None:
            self._sound[key] = found
        return found

    def _find_in(self, stores: Iterable[FeatureStore], key: str) -> FeatureStore | None:
        for store in stores:
            if key not in store:
                continue
            try:
                store.verify(key)
            except DamagedError as error:
                log.warning("%s; it is set aside and will be computed again", error)
                self._set_aside(store, key)
            else:
                return store
        return None

    def _set_aside(self, store: FeatureStore, key: str) -> None:
        if store is self.own:
            store.quarantine(key)
            return
        store.close()
        del self._siblings[store.path]
        try:
            with open_store(store.path, self.backend, "a", timeout_s=0) as writable:
                writable.quarantine(key)
            self._siblings[store.path] = open_store(store.path, self.backend, "r")
        except StoreError as error:
            log.warning("the damaged item stays in its store: %s", error)

    def _look_for_siblings(self) -> list[FeatureStore]:
        """Opens stores that appeared since the last look; returns the new ones."""
        new = []
        for path in sorted(self.folder.glob(f"*{SUFFIXES[self.backend]}")):
            if path == self.path or path in self._siblings or (path.is_file() and not path.stat().st_size):
                continue
            try:
                store = open_store(path, self.backend, "r")
            except DamagedError as error:
                self._set_aside_store(path, error)
                continue
            self._siblings[path] = store
            new.append(store)
        return new

    def _set_aside_store(self, path: Path, error: DamagedError) -> None:
        try:
            moved = quarantine_store(path)
        except StoreError:  # its writer lives: it may just be making the file
            log.info("%s is left alone, its writer is at work", path)
        else:
            log.warning("%s; moved to %s, what it held is computed again", error, moved)


@dataclass(frozen=True, slots=True)
class _Entry:
    store: Path
    backend: Backend
    info: FeatureInfo


def _conflict(key: str, first: Path, second: Path) -> StoreError:
    return StoreError(
        f"{first} and {second} hold different values under the same key",
        item=key,
        mend="remove the store that is out of date and run the stage that writes it again",
    )


def _write(entries: Mapping[str, _Entry], target: str | Path) -> None:
    folder = Path(target).parent
    stores = sorted({(os.path.relpath(entry.store, folder), entry.backend) for entry in entries.values()})
    numbers = {path: number for number, (path, _) in enumerate(stores)}
    items = {}
    for key in sorted(entries):
        row = entries[key].info.to_json()
        del row["key"]
        items[key] = {**row, "store": numbers[os.path.relpath(entries[key].store, folder)]}
    listed = [{"path": path, "backend": backend} for path, backend in stores]
    write_json(target, {"format": _FORMAT, "version": _VERSION, "stores": listed, "items": items})


def _load(path: str | Path) -> dict[str, _Entry]:
    mend = "run the stage that writes this index again"
    try:
        document = read_json(path)
    except InputError as error:
        raise StoreError(error.problem, file=path, mend=mend) from None
    try:
        if (document["format"], document["version"]) != (_FORMAT, _VERSION):
            raise ValueError("of another format")
        folder = Path(path).parent
        stores = [(Path(os.path.normpath(folder / one["path"])), one["backend"]) for one in document["stores"]]
        return {
            key: _Entry(
                stores[row["store"]][0],
                stores[row["store"]][1],
                FeatureInfo.from_json({**row, "key": key}, file=path),
            )
            for key, row in document["items"].items()
        }
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise StoreError(f"not a feature index ({error!r})", file=path, mend=mend) from None


def write_shard_index(store: FeatureStore | WorkStores, keys: Iterable[str], target: str | Path) -> None:
    """Writes where the items of one shard are; equal stores give equal bytes.

    Args:
        store: The store, or the stores, that hold the items.
        keys: The items.
        target: The index file; paths inside are relative to its folder.

    Raises:
        StoreError: An item is in no store.
    """
    entries = {}
    for key in keys:
        holder = store.holder(key)
        entries[key] = _Entry(holder.path, holder.backend, holder.info(key))
    _write(entries, target)


def join_indexes(paths: Iterable[str | Path], target: str | Path, *, expected: Iterable[str] | None = None) -> None:
    """Joins shard indexes into one; the result depends on the set of items, not on order or sharding.

    Args:
        paths: The shard indexes.
        target: The joined index.
        expected: Keys that must be there; None accepts what there is.

    Raises:
        StoreError: Two stores hold different values under one key (names both), expected keys are missing
            (lists them), a store file is gone, or an index is damaged.
    """
    joined: dict[str, _Entry] = {}
    for path in paths:
        for key, entry in _load(path).items():
            if not entry.store.exists():
                raise StoreError(
                    "the store file is gone", file=entry.store, item=key, mend="run the stage that writes it again"
                )
            present = joined.get(key)
            if present is not None and present.info.digest != entry.info.digest:
                raise _conflict(key, *sorted((present.store, entry.store)))
            if present is None or str(entry.store) < str(present.store):
                joined[key] = entry
    missing = sorted(set(expected or ()) - set(joined))
    if missing:
        more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
        raise StoreError(
            f"{len(missing)} expected items are in no index: {', '.join(missing[:_LISTED])}{more}",
            file=target,
            mend="run the stage that writes them again",
        )
    _write(joined, target)


class FeatureIndex:
    """Reads items of many stores through a joined index. Use it as a context manager.

    Args:
        path: The index file.

    Raises:
        StoreError: The file is missing or is no feature index.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._entries = _load(self.path)
        self._stores: dict[Path, FeatureStore] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the stores; arrays already read stay valid."""
        for store in self._stores.values():
            store.close()
        self._stores.clear()

    def keys(self) -> list[str]:
        """Returns all keys, sorted."""
        return sorted(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def info(self, key: str) -> FeatureInfo:
        """Returns the description of an item without opening its store; StoreError if absent."""
        return self._entry(key).info

    def read(
        self, key: str, names: Iterable[str] | None = None, rows: slice | None = None, *, copy: bool = False
    ) -> dict[str, np.ndarray]:
        """Reads arrays of one item; see `FeatureStore.read`.

        Raises:
            StoreError: The key is absent, or the store was rewritten since the index was made.
            DamagedError: Stored bytes are damaged.
        """
        entry = self._entry(key)
        store = self._stores.get(entry.store)
        if store is None:
            store = self._stores[entry.store] = open_store(entry.store, entry.backend, "r")
        if store.info(key).digest != entry.info.digest:
            raise StoreError(
                f"{entry.store} holds other values than this index says", file=self.path, item=key,
                mend="run the stage that writes this index again",
            )  # fmt: skip
        return store.read(key, names, rows, copy=copy)

    def value_digests(self) -> dict[str, str]:
        """Returns key to digest, to compare runs across backends and shardings."""
        return {key: self._entries[key].info.digest for key in self.keys()}

    def _entry(self, key: str) -> _Entry:
        found = self._entries.get(key)
        if found is None:
            raise StoreError("no such item", file=self.path, item=key, mend="run the stage that writes it")
        return found
