"""Opening a feature store by the name of its backend; the backend's package is imported only then."""

from __future__ import annotations

from pathlib import Path

from sightline.errors import StoreError
from sightline.features.store import Backend, FeatureStore, Mode


def open_store(path: str | Path, backend: Backend, mode: Mode = "r", *, timeout_s: float | None = None) -> FeatureStore:
    """Opens a feature store: `lmdb` is one file, `hdf5` a folder with one file per key.

    Args:
        path: Where the store is.
        backend: `lmdb` or `hdf5`.
        mode: `r` reads, without locks, from read-only places too; `a` reads and writes, makes the store when
            absent, and holds the writer's lease until `close`.
        timeout_s: How long a second writer waits for the first; None waits as long as it takes.

    Raises:
        StoreError: The store is absent (mode `r`), of another format, or its writer did not end in time.
        DamagedError: The file is truncated or unreadable.
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
