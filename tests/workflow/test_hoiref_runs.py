"""HOI-Ref's demo from nothing to its metrics, what reruns, and kills in its stages, on a tiny configuration."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workflow.conftest import Checkout, kill_group, wait_for

pytestmark = pytest.mark.workflow
RUN = "results/runs/hoiref/hoiref_demo_test/demo"
SMALL = {"train_videos": 4, "train_frames": 4, "test_videos": 2, "test_frames": 1, "tower_steps": 10}
HOIREF = {
    "runs": [{"system": "hoiref", "datasets": ["hoiref_demo_test"], "variants": ["demo"]}],
    "datasets": {"hoiref_demo_test": {"items": 48}},
    "assets": {"hoiref_demo": {"generator": SMALL}},
    "systems": {
        "hoiref": {
            "training": {"demo": {"steps_per_epoch": 40, "warmup_steps": 2, "batch_size": 4, "save_every": 2}},
            "variants": {"demo": {"shard_minutes": 0.03, "block_size": 8}},
            "bootstrap": {"replicates": 50},
        }
    },
}
RESULTS = ("samples.parquet", "predictions.parquet", "scores.parquet", "views.parquet", "answers.json")


def results(checkout: Checkout) -> dict[str, str]:
    pages = ("results/hoiref_metrics.json", "results/report/samples.html", "results/report/comparison.html")
    weights = "results/checkpoints/hoiref/demo/checkpoint.pth"
    return checkout.digest(*(f"{RUN}/{name}" for name in RESULTS), *pages, weights)


@pytest.fixture(scope="module")
def referred(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A run that ended undisturbed. Tests must not change it; they copy it."""
    checkout = Checkout.fresh(tmp_path_factory.mktemp("hoiref") / "checkout")
    checkout.configure(HOIREF)
    assert sum(checkout.planned().values()) <= 15
    checkout.snakemake()
    return checkout


@pytest.fixture
def again(referred: Checkout, tmp_path: Path) -> Iterator[Checkout]:
    yield referred.copy(tmp_path / "checkout")
    shutil.rmtree(tmp_path / "checkout", ignore_errors=True)


def test_hoiref_metrics_hold_every_protocol_and_the_baselines(referred: Checkout) -> None:
    assert referred.planned() == {}
    (run,) = json.loads((referred.folder / "results/hoiref_metrics.json").read_text())["runs"]
    metrics = run["metrics"]
    for name in ("published_final", "corrected_final", "corrected_epic", "corrected_ego4d", "corrected_hoi"):
        found = metrics[f"{name}_box_accuracy_iou50"]
        assert found["n"] > 0
        assert found["ci_low"] <= found["value"] <= found["ci_high"]
        assert found["paper"] is None, "a demo number stands beside the paper's"
    own, blind = metrics["corrected_final_box_accuracy_iou50"], metrics["centre_box_box_accuracy_iou50"]
    over = metrics["over_centre_box_box_accuracy_iou50"]
    assert over["value"] == pytest.approx(own["value"] - blind["value"])
    assert over["ci_low"] is not None
    assert {"frequent_box_mean_iou", "over_frequent_name_noun_accuracy"} <= metrics.keys()


def test_hoiref_answers_say_their_kinds_and_what_training_shows_too(referred: Checkout) -> None:
    facts = json.loads((referred.folder / RUN / "answers.json").read_text())
    assert set(facts["answers"]) == {"epic", "ego4d", "visor"}
    assert all(row["shared"] == 0 < row["pictures"] for row in facts["shared_pictures"].values())
    assert facts["baselines"]["boxes"] > 0


def test_hoiref_report_draws_boxes_over_pictures(referred: Checkout) -> None:
    page = (referred.folder / "results/report/samples.html").read_text()
    assert page.count('<svg class="frame"') == 24 == page.count("<image href=")
    assert 'class="truth"' in page


def test_hoiref_redone_shard_calls_no_model(again: Checkout) -> None:
    before = results(again)
    shards = sorted((again.folder / RUN / "shards").iterdir())
    assert len(shards) == 2
    shards[0].unlink()
    (again.folder / RUN / "predictions.parquet").unlink()
    again.forget_timings()
    again.snakemake()
    assert again.counts("hoiref_predict")["computed"] == 0
    assert results(again) == before


def test_hoiref_killed_training_goes_on_to_the_same_bytes(again: Checkout) -> None:
    before = results(again)
    for name in ("results/checkpoints/hoiref", "results/work/hoiref/training", "results/work/timings", RUN):
        shutil.rmtree(again.folder / name)
    process = again.start()
    wait_for(lambda: list((again.folder / "results/work/hoiref/training").rglob("state.pt")))
    kill_group(process)
    assert not (again.folder / "results/checkpoints/hoiref/demo/checkpoint.pth").exists()
    again.snakemake()
    counts = again.counts("hoiref_train")
    assert counts["computed"] < counts["steps"] == 40
    assert results(again) == before


def test_hoiref_killed_shards_go_on_to_the_same_bytes(again: Checkout) -> None:
    before = results(again)
    work = again.folder / "results/work/hoiref/hoiref_demo_test"
    shutil.rmtree(again.folder / RUN)
    shutil.rmtree(work)
    process = again.start()
    wait_for(lambda: list(work.rglob("*.jsonl")))
    kill_group(process)
    again.snakemake()
    assert results(again) == before


def test_hoiref_missing_and_damaged_pictures_fail_alone(again: Checkout) -> None:
    frames = sorted((again.folder / "results/assets/hoiref_demo").rglob("frame_*.jpg"))
    samples = json.loads((again.folder / RUN / "plan.json").read_text())["samples"]
    tests = [path for path in frames if path.parts[-2].startswith(("P02", "P03"))]
    tests[-1].write_bytes(b"no picture")
    shutil.rmtree(again.folder / RUN)
    shutil.rmtree(again.folder / "results/work/hoiref/hoiref_demo_test")
    again.snakemake()
    (run,) = json.loads((again.folder / "results/hoiref_metrics.json").read_text())["runs"]
    errors = run["metrics"]["corrected_final_box_accuracy_iou50"]["n_error"]
    assert 0 < errors < samples
