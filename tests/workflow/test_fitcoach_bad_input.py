"""Bad input stops with one clear error that names file, item and mend, and keeps what was finished."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sightline.features.opening import open_store

from tests.workflow.conftest import NANO, RUN, Checkout

pytestmark = pytest.mark.workflow
SPLIT = "data/QEVD-FIT-COACH-Benchmark"
STORES = "results/work/features/demo_test/efficientnet3d_demo"


@pytest.fixture
def own_data(acquired: Checkout) -> Path:
    """A user's own copy of the dataset, named in the configuration; returns the split's folder."""
    data = acquired.folder / "own"
    shutil.copytree(acquired.folder / "results/assets/fitcoach_demo/content", data)
    acquired.configure({**NANO, "local_assets": {"fitcoach_demo": str(data)}})
    return data / SPLIT


def annotations(split: Path) -> list[dict]:
    return json.loads((split / "feedbacks_long_range.json").read_text())


def write_annotations(split: Path, records: list[dict]) -> None:
    (split / "feedbacks_long_range.json").write_text(json.dumps(records))


def truncate_video(split: Path) -> str:
    video = sorted((split / "long_range_videos").glob("*.mp4"))[0]
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    return video.name


def lose_timestamps(split: Path) -> str:
    path = sorted((split / "long_range_videos").glob("*_timestamps.npy"))[0]
    np.save(path, np.load(path)[:-7])
    return path.name


def wrong_field(split: Path) -> str:
    records = annotations(split)
    records[0]["is_transition"][0] = "yes"
    write_annotations(split, records)
    return "is_transition"


def missing_field(split: Path) -> str:
    records = annotations(split)
    del records[1]["feedback_timestamps"]
    write_annotations(split, records)
    return "feedback_timestamps"


def duplicate_video(split: Path) -> str:
    records = annotations(split)
    write_annotations(split, [*records, records[0]])
    return Path(records[0]["long_range_video_file"]).stem


def broken_json(split: Path) -> str:
    path = split / "feedbacks_long_range.json"
    path.write_text(path.read_text()[:-20])
    return path.name


def no_video(split: Path) -> str:
    video = sorted((split / "long_range_videos").glob("*.mp4"))[0]
    video.unlink()
    return video.name


@pytest.mark.parametrize(
    "damage",
    [truncate_video, lose_timestamps, wrong_field, missing_field, duplicate_video, broken_json, no_video],
    ids=lambda damage: f"fitcoach-{damage.__name__}",
)
def test_damaged_data_is_named(acquired: Checkout, own_data: Path, damage: Callable[[Path], str]) -> None:
    named = damage(own_data)
    output = acquired.snakemake("fitcoach_scores", ok=False)
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, output[-3000:]
    assert named in errors[0]
    assert " -> " in errors[0], "the error says no mend"
    assert "Traceback" not in output


def test_one_bad_video_may_be_tolerated(acquired: Checkout, own_data: Path) -> None:
    truncate_video(own_data)
    acquired.configure(
        {**NANO, "local_assets": {"fitcoach_demo": str(own_data.parents[1])}, "limits": {"failed_videos": 1}}
    )
    acquired.snakemake("results/fitcoach_metrics.json")
    (run,) = json.loads((acquired.folder / "results/fitcoach_metrics.json").read_text())["runs"]
    assert run["n_samples"] == 3
    assert [row["reason"] for row in run["dropped"]] == ["the video has no features"]


def test_a_flipped_byte_in_the_store_is_found_and_mended(again: Checkout, finished: Checkout) -> None:
    for path in (again.folder / RUN / "shards").iterdir():
        path.unlink()
    (again.folder / RUN / "predictions.parquet").unlink()
    shutil.rmtree(again.folder / "results/work/fitcoach")
    store = sorted((again.folder / STORES).glob("*.lmdb"))[0]
    with open_store(store, "lmdb") as opened:
        (key,) = opened.keys()
    data = bytearray(store.read_bytes())
    data[len(data) // 2] ^= 0x10
    store.write_bytes(bytes(data))
    output = again.snakemake("--keep-going", "fitcoach_predictions", ok=False)
    (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert store.name in error
    assert key in error
    assert "checksum" in error
    assert "--forcerun" in error, "the error says how to mend it"
    again.forget_timings()
    again.snakemake("--forcerun", "fitcoach_extract")
    assert again.counts("fitcoach_extract")["computed"] == 1, "only the damaged video is computed again"
    assert again.feature_digests() == finished.feature_digests()
    assert again.results() == finished.results()


def test_a_nan_in_released_features_is_named(acquired: Checkout, own_data: Path) -> None:
    folder = own_data / "efficientnet_features/long_range_videos"
    folder.mkdir(parents=True)
    for video in (own_data / "long_range_videos").glob("*.mp4"):
        features = np.zeros((12, 1280, 7, 5), np.float32)
        if video == sorted((own_data / "long_range_videos").glob("*.mp4"))[1]:
            features[5, 7, 0, 0] = np.nan
            named = f"{video.stem}_features.npy"
        np.save(folder / f"{video.stem}_features.npy", features)
        np.save(folder / f"{video.stem}_timestamps.npy", np.arange(12) / 4 + 1.7e9)
    config = json.loads(json.dumps({**NANO, "local_assets": {"fitcoach_demo": str(own_data.parents[1])}}))
    config["systems"]["fitcoach"]["extractors"]["efficientnet3d_demo"].update(released_features=True, shard_minutes=60)
    acquired.configure(config)
    output = acquired.snakemake("fitcoach_features", ok=False)
    (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert named in error
    assert "step 5" in error
    with open_store(next((acquired.folder / STORES).glob("*.lmdb")), "lmdb") as store:
        assert len(store.keys()) == 1, "the sound video was kept"
