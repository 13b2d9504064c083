"""Features of the original's `.npy` pairs are taken into the store, or refused one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sightline.errors import InputError
from sightline.features.opening import open_store
from sightline.systems.fitcoach.features import FEATURE_SHAPE, import_npy_folder


def released(tmp_path: Path, names=("0001", "0002")) -> Path:
    folder = tmp_path / "split" / "efficientnet_features" / "long_range_videos"
    folder.mkdir(parents=True)
    for k, name in enumerate(names):
        rng = np.random.default_rng(k)
        np.save(folder / f"{name}_features.npy", rng.random((5, *FEATURE_SHAPE), dtype=np.float32))
        np.save(folder / f"{name}_timestamps.npy", 1.7e9 + np.arange(5) / 4)
    return folder


def test_features_of_the_original_are_taken_over(tmp_path):
    folder = released(tmp_path)
    with open_store(tmp_path / "store.lmdb", "lmdb", "a") as store:
        rows = import_npy_folder(tmp_path / "split", store)
        assert [(row["video_id"], row["status"], row["steps"]) for row in rows] == [
            ("0001", "ok", 5), ("0002", "ok", 5)
        ]  # fmt: skip
        found = store.read(rows[1]["key"])
        np.testing.assert_array_equal(found["features"], np.load(folder / "0002_features.npy"))
        np.testing.assert_array_equal(found["timestamps"], np.load(folder / "0002_timestamps.npy"))
        assert import_npy_folder(tmp_path / "split", store, video_ids=["0002"]) == [{**rows[1], "computed": False}]
        absent = import_npy_folder(tmp_path / "split", store, video_ids=["0009"])
        assert "no 0009_features.npy" in absent[0]["reason"]
        half = import_npy_folder(tmp_path / "split", store, storage_dtype="float16")
        assert store.read(half[0]["key"])["features"].dtype == np.float16


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("nan", "0001_features.npy: NaN or infinity in feature step 3"),
        ("short", "5 feature steps, but 4 times in 0001_timestamps.npy"),
        ("shape", "expected float32"),
        ("dtype", "expected float32"),
        ("cut", "not a readable .npy file"),
    ],
)
def test_a_bad_released_file_fails_alone(tmp_path, damage, words):
    folder = released(tmp_path)
    path = folder / "0001_features.npy"
    values = np.load(path)
    if damage == "nan":
        values[3, 5, 1, 1] = np.nan
        np.save(path, values)
    elif damage == "short":
        np.save(folder / "0001_timestamps.npy", np.arange(4.0))
    elif damage == "shape":
        np.save(path, values[:, :, :2])
    elif damage == "dtype":
        np.save(path, values.astype(np.int32))
    else:
        path.write_bytes(path.read_bytes()[:5000])
    with open_store(tmp_path / "store.lmdb", "lmdb", "a") as store:
        rows = import_npy_folder(tmp_path / "split", store)
        assert [row["status"] for row in rows] == ["failed", "ok"]
        assert words in rows[0]["reason"]
        assert store.keys() == [rows[1]["key"]]


@pytest.mark.parametrize("gone", ["0002_features.npy", "0002_timestamps.npy"])
def test_half_a_pair_is_an_error_that_names_both(tmp_path, gone):
    (released(tmp_path) / gone).unlink()
    with (
        open_store(tmp_path / "store.lmdb", "lmdb", "a") as store,
        pytest.raises(InputError, match=r"0002_\w+.npy.* is missing beside 0002_\w+.npy") as caught,
    ):
        import_npy_folder(tmp_path / "split", store)
    assert "0002_features.npy" in str(caught.value)
    assert "0002_timestamps.npy" in str(caught.value)
