"""The feature store against files, raw LMDB, HDF5 and a memory map: gathering items in random order, warm.

Every arm copies each item into the same output array, so all do the work a reader needs and can be compared
byte for byte. "First read" opens the store and verifies each chunk's CRC-32; "later reads" are of a store that is open.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import lmdb
import numpy as np
from sightline.features.opening import open_store
from sightline.features.store import FeatureStore

from benchmarks.timing import interleave

ITEM_NAME = "P00_00_frame_{:010d}.jpg"


def _names(count: int) -> list[str]:
    return [ITEM_NAME.format(number) for number in range(count)]


def _write_rivals(folder: Path, values: np.ndarray) -> None:
    """Writes the same items as files, raw LMDB, HDF5 rows and one plain array."""
    (folder / "files").mkdir()
    with (
        lmdb.open(str(folder / "raw.lmdb"), subdir=False, map_size=1 << 30) as env,
        env.begin(write=True) as transaction,
    ):
        for name, row in zip(_names(len(values)), values, strict=True):
            np.save(folder / "files" / f"{name}.npy", row)
            transaction.put(name.encode(), row.tobytes())
    with h5py.File(folder / "rows.h5", "w") as file:
        chunk = max(1, min(64, (1 << 20) // values[0].nbytes))
        file.create_dataset("rows", data=values, chunks=(chunk, *values.shape[1:]))
    np.save(folder / "rows.npy", values)


def _rival_arms(folder: Path, order: np.ndarray, out: np.ndarray) -> dict[str, Callable[[], Any]]:
    names = _names(len(order))
    keys = [name.encode() for name in names]
    env = lmdb.open(str(folder / "raw.lmdb"), subdir=False, readonly=True, lock=False)
    file = h5py.File(folder / "rows.h5", "r")

    def files() -> None:
        for place, number in enumerate(order):
            out[place] = np.load(folder / "files" / f"{names[number]}.npy", allow_pickle=False)

    def raw_lmdb() -> None:
        with env.begin(buffers=True) as transaction:
            for place, number in enumerate(order):
                out[place] = np.frombuffer(transaction.get(keys[number]), out.dtype).reshape(out.shape[1:])

    def hdf5_rows() -> None:
        rows = file["rows"]
        for place, number in enumerate(order):
            out[place] = rows[number]

    def memory_map() -> None:
        rows = np.load(folder / "rows.npy", mmap_mode="r", allow_pickle=False).view(np.ndarray)
        for place, number in enumerate(order):
            out[place] = rows[number]

    return {"file per item": files, "raw LMDB": raw_lmdb, "HDF5 rows": hdf5_rows, "mmap (limit)": memory_map}


def _measure(
    name: str,
    values: np.ndarray,
    rounds: int,
    put: Callable[[FeatureStore], None],
    gather: Callable[[FeatureStore, np.ndarray, np.ndarray], None],
) -> dict[str, Any]:
    order = np.random.default_rng(1).permutation(len(values))
    out = np.empty_like(values)
    with tempfile.TemporaryDirectory() as folder_name:
        folder = Path(folder_name)
        _write_rivals(folder, values)
        arms = _rival_arms(folder, order, out)
        started = time.perf_counter()
        with open_store(folder / "ours.lmdb", "lmdb", "a") as store:
            put(store)
        wrote_s = time.perf_counter() - started
        with open_store(folder / "ours.hdf5", "hdf5", "a") as store:
            put(store)
        on_disk = (folder / "ours.lmdb").stat().st_size
        opened = {backend: open_store(folder / f"ours.{backend}", backend) for backend in ("lmdb", "hdf5")}  # type: ignore[arg-type]

        def first() -> None:
            gather(open_store(folder / "ours.lmdb", "lmdb"), order, out)

        arms["ours, first read (CRC)"] = first
        arms["ours, later reads"] = lambda: gather(opened["lmdb"], order, out)
        arms["ours on HDF5, later reads"] = lambda: gather(opened["hdf5"], order, out)
        equal, difference = True, 0.0
        for arm in arms.values():
            out.fill(0)
            arm()
            equal &= out.tobytes() == values[order].tobytes()
            difference = max(difference, float(np.abs(out - values[order]).max()))
        spreads = interleave(arms, rounds)
    seconds = {arm: one["median_s"] for arm, one in spreads.items()}
    return {
        "name": name,
        "arms": spreads,
        "ratios": {
            "files / ours": seconds["file per item"] / seconds["ours, later reads"],
            "files / ours, first read": seconds["file per item"] / seconds["ours, first read (CRC)"],
            "mmap / ours": seconds["mmap (limit)"] / seconds["ours, later reads"],
            "mmap / ours, first read": seconds["mmap (limit)"] / seconds["ours, first read (CRC)"],
            "raw LMDB / ours": seconds["raw LMDB"] / seconds["ours, later reads"],
            "bytes of values / bytes on disk": values.nbytes / on_disk,
        },
        "max_difference": difference,
        "equal": equal,
        "note": f"warm, random order; our synced write took {wrote_s:.2f} s",
    }


def bench_rows(rounds: int) -> dict[str, Any]:
    """10 000 rows of 4 KiB, which our store keeps as one array of one video."""
    values = np.random.default_rng(0).standard_normal((10_000, 1024)).astype(np.float32)

    def gather(store: FeatureStore, order: np.ndarray, out: np.ndarray) -> None:
        rows = store.read("video")["rows"]
        for place, number in enumerate(order):
            out[place] = rows[number]

    row = _measure("store_rows", values, rounds, lambda store: void(store.put("video", {"rows": values})), gather)
    row["guard"] = {"files / ours": 10.0, "mmap / ours": 0.6, "bytes of values / bytes on disk": 1 / 1.1}
    row["target"] = {"files / ours": 20.0, "mmap / ours": 0.8}
    return row


def bench_items(rounds: int) -> dict[str, Any]:
    """200 items of 1 MiB under a key each: copying dominates, so files are not far behind."""
    values = np.random.default_rng(0).standard_normal((200, 256, 1024)).astype(np.float32)
    names = _names(len(values))

    def put(store: FeatureStore) -> None:
        for name, value in zip(names, values, strict=True):
            store.put(name, {"x": value})

    def gather(store: FeatureStore, order: np.ndarray, out: np.ndarray) -> None:
        for place, number in enumerate(order):
            out[place] = store.read(names[number])["x"]

    row = _measure("store_items", values, rounds, put, gather)
    row["guard"] = {"mmap / ours": 0.4, "bytes of values / bytes on disk": 1 / 1.1}
    row["target"] = {"mmap / ours": 0.8}
    return row


def void(_value: object) -> None:
    """Drops a value."""


def run(rounds: int) -> list[dict[str, Any]]:
    """Returns the measurements of the feature store."""
    return [bench_rows(rounds), bench_items(rounds)]
