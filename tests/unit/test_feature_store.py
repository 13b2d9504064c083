"""Feature stores: whole items or none, checked values, the same digests on LMDB and HDF5."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from sightline.errors import NonFiniteError, StoreError
from sightline.features import items, lmdb_store
from sightline.features.index import FeatureIndex, WorkStores, join_indexes, write_shard_index
from sightline.features.opening import open_store
from sightline.features.store import DamagedError

BACKENDS = ["lmdb", "hdf5"]
LIB = Path(items.__file__).parents[2]


def arrays(seed=0, rows=600):
    rng = np.random.default_rng(seed)
    return {
        "features": rng.standard_normal((rows, 5, 256)).astype(np.float32),
        "half": rng.standard_normal((rows, 16)).astype(np.float16),
        "timestamps": np.arange(rows, dtype=np.float64) / 4,
        "count": np.int64(rows),
        "none": np.zeros((0, 3), np.float32),
        "big_endian": np.arange(7, dtype=">i4"),
        "mask": np.array([True, False, True]),
        "column_order": np.asfortranarray(rng.standard_normal((9, 4))),
    }


def store_file(folder, backend, name="s"):
    return folder / f"{name}.{backend}"


def python(code, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(LIB), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def flip_inside(path, needle):
    """Flips one byte in the middle of every place where `needle` lies in a file.

    LMDB may leave an older copy of a page behind; the one in use must be hit.
    """
    data = bytearray(path.read_bytes())
    at = data.find(needle)
    assert at >= 0
    while at >= 0:
        data[at + len(needle) // 2] ^= 1
        at = data.find(needle, at + len(needle))
    path.write_bytes(data)


def values_file(path, key):
    return path / f"{key}.h5" if path.is_dir() else path


@pytest.mark.parametrize("backend", BACKENDS)
def test_values_come_back_exactly(tmp_path, backend, monkeypatch):
    monkeypatch.setattr(lmdb_store, "SEGMENT_BYTES", 2 << 20)  # several values per array
    given = arrays()
    with open_store(store_file(tmp_path, backend), backend, "a") as store:
        info = store.put("v1", given, {"fps": 4.0})
        assert len(info.arrays["features"].crc32) == 3
        assert store.keys() == ["v1"]
        assert "v1" in store
        assert "v2" not in store
    with open_store(store_file(tmp_path, backend), backend, "r") as store:
        found = store.read("v1")
        assert store.verify("v1") == info
        assert store.info("v1").meta == {"fps": 4.0}
    assert set(found) == set(given)
    for name, value in given.items():
        assert found[name].shape == np.shape(value)
        assert found[name].dtype == np.asarray(value).dtype.newbyteorder("<")
        assert np.array_equal(found[name], value)  # still valid after close
        assert not found[name].flags.writeable


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rows", [slice(0, 1), slice(3, 300), slice(200, 420), slice(-5, None, 2), slice(700, 900)])
def test_row_slices(tmp_path, backend, rows, monkeypatch):
    monkeypatch.setattr(lmdb_store, "SEGMENT_BYTES", 1 << 20)
    given = arrays()
    with open_store(store_file(tmp_path, backend), backend, "a") as store:
        store.put("v1", given)
    with open_store(store_file(tmp_path, backend), backend, "r") as store:
        for _ in range(2):  # the second time without checking
            found = store.read("v1", ["features", "half", "count"], rows)
            assert np.array_equal(found["features"], given["features"][rows])
            assert np.array_equal(found["half"], given["half"][rows])
            assert found["count"] == 600
        own = store.read("v1", ["half"], rows, copy=True)["half"]
        own += 1
        assert np.array_equal(store.read("v1", ["half"], rows)["half"], given["half"][rows])
        with pytest.raises(StoreError, match=r"no array 'nothing'.*features"):
            store.read("v1", ["nothing"])


def test_digests_do_not_depend_on_backend_order_or_meta(tmp_path):
    given = arrays()
    digests = []
    for number, backend in enumerate(BACKENDS):
        with open_store(store_file(tmp_path, backend), backend, "a") as store:
            for key in (["v1", "v2"], ["v2", "v1"])[number]:
                names = sorted(given, reverse=bool(number))
                store.put(key, {name: given[name] for name in names}, {"written_by": backend})
            digests.append(store.value_digests())
    assert digests[0] == digests[1]
    changed = {**given, "half": given["half"].astype(np.float32)}
    assert items.describe("v1", changed)[0].digest != digests[0]["v1"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_values_that_are_not_finite_are_refused(tmp_path, backend, bad, dtype):
    value = np.zeros((50, 4), dtype)
    value[37, 2] = bad
    with open_store(store_file(tmp_path, backend), backend, "a") as store:
        with pytest.raises(NonFiniteError, match=r"item v1, field features: NaN or infinity in row 37"):
            store.put("v1", {"features": value, "fine": np.zeros(3)})
        assert store.keys() == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_same_content_is_no_work_and_other_content_is_an_error(tmp_path, backend):
    with open_store(store_file(tmp_path, backend), backend, "a") as store:
        first = store.put("v1", arrays(0), {"a": 1})
        assert store.put("v1", arrays(0), {"a": 2}) == first
        with pytest.raises(StoreError, match=r"item v1: other values are already stored"):
            store.put("v1", arrays(1))
        assert np.array_equal(store.read("v1")["half"], arrays(0)["half"])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("key", "given", "meta", "words"),
    [
        ("../v", {"a": np.zeros(2)}, None, "key is not a slug"),
        ("v", {"a/b": np.zeros(2)}, None, "array name 'a/b' is not a slug"),
        ("v", {"a": np.array(["x"])}, None, "type <U1 cannot be stored"),
        ("v", {"a": np.array([{}])}, None, "type object cannot be stored"),
        ("v", {}, None, "nothing to store"),
        ("v", {"a": np.zeros(2)}, {"x": float("nan")}, "meta is not JSON"),
    ],
)
def test_what_cannot_be_stored_is_refused(tmp_path, backend, key, given, meta, words):
    with open_store(store_file(tmp_path, backend), backend, "a") as store, pytest.raises(StoreError, match=words):
        store.put(key, given, meta)


@pytest.mark.parametrize("backend", BACKENDS)
def test_flipped_byte_is_found_and_only_that_item_is_made_again(tmp_path, backend):
    path = store_file(tmp_path, backend)
    with open_store(path, backend, "a") as store:
        for seed in range(3):
            store.put(f"v{seed}", arrays(seed))
    flip_inside(values_file(path, "v1"), arrays(1)["features"][250:300].tobytes())
    with open_store(path, backend, "r") as store:
        assert np.array_equal(store.read("v1", ["half"])["half"], arrays(1)["half"])
        assert np.array_equal(store.read("v1", rows=slice(0, 5))["features"], arrays(1)["features"][:5])
        for _ in range(2):
            with pytest.raises(DamagedError, match=r"item v1, field features: checksum of chunk 1.* -> run the stage"):
                store.read("v1", ["features"])
        store.verify("v0")
        store.verify("v2")
    with open_store(path, backend, "a") as store:
        store.quarantine("v1")
        assert store.keys() == ["v0", "v2"]
        store.put("v1", arrays(1))
        assert store.verify("v1").digest == items.describe("v1", arrays(1))[0].digest


@pytest.mark.parametrize("backend", BACKENDS)
def test_damaged_description_is_found(tmp_path, backend):
    path = store_file(tmp_path, backend)
    with open_store(path, backend, "a") as store:
        store.put("v1", arrays())
    flip_inside(values_file(path, "v1"), b'"chunk_rows"')
    with open_store(path, backend, "a") as store:
        with pytest.raises(DamagedError, match="checksum of the description"):
            store.info("v1")
        store.quarantine("v1")
        store.put("v1", arrays())
        store.verify("v1")


WRITE_FOR_EVER = """
    import sys
    import numpy as np
    from sightline.features.opening import open_store
    path, backend = sys.argv[1:]
    with open_store(path, backend, "a") as store:
        number = len(store.keys())
        while True:
            value = np.random.default_rng(number).standard_normal((2000, 256)).astype(np.float32)
            store.put(f"v{number:05d}", {"x": value, "t": np.arange(2000.0)})
            number += 1
            print(number, flush=True)
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_killed_writer_leaves_whole_items(tmp_path, backend):
    path, promised = store_file(tmp_path, backend), 0
    for attempt in range(4):
        writer = python(WRITE_FOR_EVER, path, backend)
        promised = int(writer.stdout.readline())
        time.sleep(0.015 * attempt)
        writer.send_signal(signal.SIGKILL)
        rest = writer.communicate()[0].split()
        promised = int(rest[-1]) if rest else promised
        with open_store(path, backend, "r") as store:
            keys = store.keys()
            assert len(keys) in (promised, promised + 1)
            for key in keys:
                assert set(store.verify(key).arrays) == {"x", "t"}
    with open_store(path, backend, "a") as store:  # and it can be written on
        store.put("last", {"x": np.ones(3)})
    if backend == "hdf5":
        assert not list(path.glob("*.part"))


def test_truncated_lmdb_is_found_before_it_kills_the_process(tmp_path):
    path = store_file(tmp_path, "lmdb")
    with open_store(path, "lmdb", "a") as store:
        store.put("v1", arrays())
    code = """
        import sys
        from sightline.features.opening import open_store
        from sightline.features.store import DamagedError
        for mode in ("r", "a"):
            try:
                open_store(sys.argv[1], "lmdb", mode).verify("v1")
            except DamagedError as error:
                print(error)
    """
    whole = path.stat().st_size
    for size in (whole - 4096, whole // 2, 8192, 5000, 100):
        os.truncate(path, size)
        child = python(code, path)
        out, error = child.communicate()
        assert child.returncode == 0, error
        assert len(out.splitlines()) == 2
        assert "truncated" in out if size >= 8192 else "cannot be opened" in out or "truncated" in out


def test_truncated_hdf5_item_is_one_damaged_item(tmp_path):
    path = store_file(tmp_path, "hdf5")
    with open_store(path, "hdf5", "a") as store:
        store.put("v1", arrays())
        store.put("v2", arrays())
    os.truncate(path / "v1.h5", 3000)
    with open_store(path, "hdf5", "a") as store:
        with pytest.raises(DamagedError, match=r"v1\.h5, item v1"):
            store.info("v1")
        store.verify("v2")
        store.quarantine("v1")
        assert store.keys() == ["v2"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_second_writer_waits_and_never_fails_for_waiting(tmp_path, backend):
    path = store_file(tmp_path, backend)
    with open_store(path, backend, "a") as store:
        with pytest.raises(StoreError, match=r"still held by .* pid"):
            open_store(path, backend, "a", timeout_s=0.05)
        child = python(
            """
            import sys
            import numpy as np
            from sightline.features.opening import open_store
            with open_store(sys.argv[1], sys.argv[2], "a") as store:
                store.put("second", {"n": np.int64(len(store.keys()))})
            """,
            path, backend,
        )  # fmt: skip
        time.sleep(0.6)
        assert child.poll() is None
        store.put("first", arrays())
    assert child.wait(20) == 0, child.stderr.read()
    with open_store(path, backend, "r") as store:
        assert store.keys() == ["first", "second"]
        assert store.read("second")["n"] == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_reader_follows_a_living_writer(tmp_path, backend):
    path = store_file(tmp_path, backend)
    open_store(path, backend, "a").close()
    writer = python(WRITE_FOR_EVER, path, backend)
    try:
        with open_store(path, backend, "r") as store:
            seen = 0
            while seen < 25:
                written = int(writer.stdout.readline())
                keys = store.keys()
                assert len(keys) >= written > seen
                assert len(store.verify(keys[-1]).arrays) == 2
                assert store.verify(keys[0]).arrays["x"].shape == (2000, 256)
                seen = written
    finally:
        writer.kill()
        writer.communicate()


def test_lmdb_map_grows_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(lmdb_store, "_WRITER_MAP_BYTES", 1 << 20)
    with open_store(store_file(tmp_path, "lmdb"), "lmdb", "a") as store:
        for seed in range(4):
            store.put(f"v{seed}", arrays(seed))
            assert np.array_equal(store.read("v0")["features"], arrays(0)["features"])
    with open_store(store_file(tmp_path, "lmdb"), "lmdb", "r") as store:
        assert [store.verify(key).key for key in store.keys()] == ["v0", "v1", "v2", "v3"]  # noqa: SIM118


def test_lmdb_views_share_the_file_and_outlive_the_store(tmp_path):
    path = store_file(tmp_path, "lmdb")
    with open_store(path, "lmdb", "a") as store:
        store.put("v1", {"x": np.arange(1 << 20, dtype=np.float32)})
    store = open_store(path, "lmdb", "r")
    whole = store.read("v1")["x"]
    again = store.read("v1", rows=slice(5, 9))["x"]
    assert np.shares_memory(whole, again)
    store.close()
    with open_store(path, "lmdb", "r") as second:  # a file is open once per process, however often it is asked for
        assert np.shares_memory(second.read("v1")["x"], whole)
    del second, again
    assert whole[-1] == (1 << 20) - 1
    with pytest.raises(StoreError, match="still reads the store"):
        open_store(path, "lmdb", "a")
    del whole, store
    open_store(path, "lmdb", "a").close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_read_only_tree_and_missing_store(tmp_path, backend):
    with pytest.raises(StoreError, match="no such store"):
        open_store(store_file(tmp_path, backend), backend, "r")
    with open_store(store_file(tmp_path, backend), backend, "a") as store:
        store.put("v1", arrays())
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with open_store(store_file(tmp_path, backend), backend, "r") as store:
        store.verify("v1")
        with pytest.raises(StoreError, match="opened for reading"):
            store.put("v2", arrays())
        with pytest.raises(StoreError, match=r"item v2: no such item"):
            store.read("v2")
    assert sorted(path.name for path in tmp_path.rglob("*")) == before  # a reader leaves nothing behind


@pytest.mark.parametrize("backend", BACKENDS)
def test_full_disk_stores_nothing_and_says_so(tmp_path, backend):
    code = """
        import resource, signal, sys
        import numpy as np
        from sightline.features.opening import open_store
        from sightline.errors import StoreError
        with open_store(sys.argv[1], sys.argv[2], "a") as store:
            store.put("small", {"x": np.ones(10)})
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
            try:
                store.put("large", {"x": np.ones(1 << 20)})
            except StoreError as error:
                print(error)
    """
    child = python(code, store_file(tmp_path, backend), backend)
    out, error = child.communicate()
    assert child.returncode == 0, error
    assert "item large" in out
    assert "free disk space" in out
    with open_store(store_file(tmp_path, backend), backend, "a") as store:
        assert store.keys() == ["small"]
        store.put("large", {"x": np.ones(1 << 20)})
        store.verify("small")
        store.verify("large")


def test_reading_from_threads_while_the_map_moves(tmp_path, monkeypatch):
    monkeypatch.setattr(lmdb_store, "_WRITER_MAP_BYTES", 1 << 20)
    with open_store(store_file(tmp_path, "lmdb"), "lmdb", "a") as store:
        store.put("v0", arrays(0, rows=50))
        wrong, stop = [], threading.Event()

        def read():
            while not stop.is_set():
                if not np.array_equal(store.read("v0")["half"], arrays(0, rows=50)["half"]):
                    wrong.append(1)

        reader = threading.Thread(target=read)
        reader.start()
        for seed in range(1, 5):
            store.put(f"v{seed}", arrays(seed))
        stop.set()
        reader.join()
    assert not wrong


@pytest.mark.parametrize("backend", BACKENDS)
def test_jobs_of_one_folder_see_each_other(tmp_path, backend):
    with WorkStores(tmp_path, "0-of-2", backend) as first, WorkStores(tmp_path, "1-of-2", backend) as second:
        first.put("a", arrays(0))
        assert "a" in second
        second.put("b", arrays(1))
        assert "b" in first
        assert second.put("a", arrays(0)).digest == first.info("a").digest
        assert second.own.keys() == ["b"]
        with pytest.raises(StoreError, match="hold different values"):
            second.put("a", arrays(2))
    with WorkStores(tmp_path, "0-of-1", backend) as third:
        assert third.keys() == ["a", "b"]
        assert "a" in third
        assert "b" in third
        assert third.own.keys() == []
        assert np.array_equal(third.read("b", rows=slice(2, 4))["half"], arrays(1)["half"][2:4])
        assert set(third.value_digests()) == {"a", "b"}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("writer", ["0-of-2", "1-of-2"])
def test_damaged_item_is_set_aside_and_computed_again(tmp_path, backend, writer, caplog):
    with WorkStores(tmp_path, "0-of-2", backend) as stores:
        stores.put("a", arrays(0))
        stores.put("b", arrays(1))
    flip_inside(values_file(tmp_path / f"0-of-2.{backend}", "a"), arrays(0)["features"][:50].tobytes())
    with WorkStores(tmp_path, writer, backend) as stores:
        assert "b" in stores
        assert "a" not in stores
        assert "set aside" in caplog.text
        stores.put("a", arrays(0))
        assert "a" in stores
    with WorkStores(tmp_path, "check", backend) as stores:
        assert np.array_equal(stores.read("a")["features"], arrays(0)["features"])
        assert stores.keys() == ["a", "b"]


@pytest.mark.parametrize("writer", ["0-of-2", "1-of-2"])
def test_truncated_store_file_is_set_aside(tmp_path, writer, caplog):
    with WorkStores(tmp_path, "0-of-2", "lmdb") as stores:
        stores.put("a", arrays(0))
    os.truncate(tmp_path / "0-of-2.lmdb", 100_000)
    with WorkStores(tmp_path, writer, "lmdb") as stores:
        assert "a" not in stores
        stores.put("a", arrays(0))
    assert "truncated" in caplog.text
    assert (tmp_path / "0-of-2.lmdb.damaged").stat().st_size == 100_000


def build_index(folder, deal, backend):
    """Writes stores and the joined index for a dealing of keys to writers."""
    shards = []
    for writer, keys in deal.items():
        with WorkStores(folder / "stores", writer, backend) as stores:
            for key in keys:
                if key not in stores:
                    stores.put(key, arrays(int(key[1:]), rows=40), {"n": key})
            shards.append(folder / "shards" / f"{writer}.json")
            write_shard_index(stores, keys, shards[-1])
    return shards


@pytest.mark.parametrize("backend", BACKENDS)
def test_joined_index_reads_all_stores_and_moves_with_its_folder(tmp_path, backend):
    shards = build_index(tmp_path / "run", {"x": ["k1", "k4"], "y": ["k2"], "z": []}, backend)
    target = tmp_path / "run" / "features.json"
    join_indexes(shards, target, expected=["k1", "k2", "k4"])
    first = target.read_bytes()
    join_indexes(reversed(shards), target)
    assert target.read_bytes() == first
    os.rename(tmp_path / "run", tmp_path / "moved")
    with FeatureIndex(tmp_path / "moved" / "features.json") as index:
        assert index.keys() == ["k1", "k2", "k4"]
        for key in index.keys():  # noqa: SIM118
            assert np.array_equal(index.read(key)["half"], arrays(int(key[1:]), rows=40)["half"])
        assert index.info("k2").meta == {"n": "k2"}
        assert "k3" not in index
        with pytest.raises(StoreError, match=r"item k3: no such item"):
            index.read("k3")
        digests = index.value_digests()
    other = {"lmdb": "hdf5", "hdf5": "lmdb"}[backend]
    build = build_index(tmp_path / "other", {"one": ["k4", "k2", "k1"]}, other)
    join_indexes(build, tmp_path / "other" / "features.json")
    with FeatureIndex(tmp_path / "other" / "features.json") as index:
        assert index.value_digests() == digests


def test_join_collapses_equal_refuses_conflicting_and_lists_missing(tmp_path):
    def shard(name, seed):
        with open_store(tmp_path / f"{name}.lmdb", "lmdb", "a") as store:
            store.put("k", {"x": np.full(4, seed)})
            write_shard_index(store, ["k"], tmp_path / f"{name}.json")
        return tmp_path / f"{name}.json"

    a, b, c = shard("a", 1), shard("b", 1), shard("c", 2)
    join_indexes([b, a], tmp_path / "joined.json")
    with FeatureIndex(tmp_path / "joined.json") as index:
        assert index.keys() == ["k"]
        assert index.read("k")["x"][0] == 1
    with pytest.raises(StoreError, match=r"a\.lmdb and .*c\.lmdb hold different values"):
        join_indexes([c, a], tmp_path / "joined.json")
    with pytest.raises(StoreError, match=r"2 expected items are in no index: m1, m2"):
        join_indexes([a], tmp_path / "joined.json", expected=["m2", "k", "m1"])
    with pytest.raises(StoreError, match="no such item"), open_store(tmp_path / "a.lmdb", "lmdb") as store:
        write_shard_index(store, ["gone"], tmp_path / "x.json")
    os.remove(tmp_path / "a.lmdb")
    with pytest.raises(StoreError, match="store file is gone"):
        join_indexes([a], tmp_path / "joined.json")
    (tmp_path / "bad.json").write_text("[1]")
    with pytest.raises(StoreError, match="not a feature index"):
        FeatureIndex(tmp_path / "bad.json")
    with pytest.raises(StoreError, match="file not found"):
        FeatureIndex(tmp_path / "absent.json")


def test_index_refuses_a_store_that_was_rewritten(tmp_path):
    with open_store(tmp_path / "a.lmdb", "lmdb", "a") as store:
        store.put("k", {"x": np.ones(4)})
        write_shard_index(store, ["k"], tmp_path / "a.json")
        store.quarantine("k")
        store.put("k", {"x": np.zeros(4)})
    with FeatureIndex(tmp_path / "a.json") as index, pytest.raises(StoreError, match="other values than this index"):
        index.read("k")
