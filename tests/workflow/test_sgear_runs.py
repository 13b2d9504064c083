"""S-GEAR inside the workflow on a nano demo: whole, killed in each stage, in one job or in many."""

from __future__ import annotations

import copy
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.workflow.conftest import Checkout, kill_group, wait_for
from tests.workflow.test_fitcoach_kills import jobs_of

pytestmark = pytest.mark.workflow

VIDEOS, ROWS = 3, 36  # the first action of a video has nothing before it
DATASET = "sgear_demo_val"
VARIANTS = ("demo_rgb", "demo_flow", "demo_obj", "demo_fusion", "demo_last_action")
MODELS = ("demo_rgb", "demo_flow", "demo_obj")
RUNS = f"results/runs/sgear/{DATASET}"
WORK = "results/work/sgear"
FILES = ("samples.parquet", "predictions.parquet", "scores.parquet", "absent.json", "views.parquet")
CHECKPOINTS = "results/checkpoints/sgear"
SMALL = {"seconds_per_item": 1, "shard_minutes": 0.3, "block_size": 4}
WINDOWS = {"tau_o": 4, "num_frames": 4}
MODEL = {"decoder": {"width": 32, "layers": 1, "heads": 2}}
SHORT = {"epochs": 2, "batch_size": 8, "save_every": 1}
NANO: dict[str, Any] = {
    "runs": [{"system": "sgear", "datasets": [DATASET], "variants": list(VARIANTS)}],
    "assets": {
        "sgear_demo": {
            "generator": {
                "verbs": 3, "nouns": 3, "train_videos": 4, "validation_videos": 3, "test_videos": 1, "actions": 12,
                "drawn_videos": 1, "part_mb": 1,
            }
        }
    },
    "datasets": {
        DATASET: {"videos": VIDEOS, "items": ROWS, "video_seconds": 90},
        "sgear_demo_train": {"videos": 4, "items": 48, "video_seconds": 120},
    },
    "systems": {
        "sgear": {
            "variants": {
                **{name: {**SMALL, "windows": WINDOWS, "model": MODEL} for name in MODELS},
                "demo_recognition": {"windows": WINDOWS, "model": MODEL},
                **{name: {**SMALL, "windows": WINDOWS} for name in ("demo_fusion", "demo_last_action")},
            },
            "training": dict.fromkeys(("demo_recognition", *MODELS), SHORT),
            "scoring": {"gains": {"demo_rgb": None}},
            "bootstrap": {"replicates": 50},
            "one_job": [],
        }
    },
}  # fmt: skip


def nano(one_job: bool = False) -> dict[str, Any]:
    content = copy.deepcopy(NANO)
    content["systems"]["sgear"]["one_job"] = [DATASET] if one_job else []
    return content


def results(checkout: Checkout) -> dict[str, str]:
    names = [f"{RUNS}/{variant}/{name}" for variant in VARIANTS for name in FILES]
    return checkout.digest(*names, "results/sgear_metrics.json")


def forget(checkout: Checkout, *folders: str) -> None:
    for name in (*folders, "runs", "report", "logs", "benchmarks"):
        shutil.rmtree(checkout.folder / "results" / name, ignore_errors=True)
    (checkout.folder / "results/sgear_metrics.json").unlink(missing_ok=True)
    checkout.forget_timings()


def journal_lines(checkout: Checkout) -> int:
    folder = checkout.folder / WORK / DATASET
    return sum(path.read_bytes().count(b"\n") for path in folder.rglob("*.jsonl"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A run that ended undisturbed, a job per stage. Tests copy it."""
    checkout = Checkout.fresh(tmp_path_factory.mktemp("sgear") / "checkout")
    checkout.configure(nano())
    checkout.snakemake()
    return checkout


@pytest.fixture
def again(whole: Checkout, tmp_path: Path) -> Iterator[Checkout]:
    yield whole.copy(tmp_path / "checkout")
    shutil.rmtree(tmp_path / "checkout", ignore_errors=True)


def test_a_whole_run_has_every_row_and_nothing_is_left_to_do(whole: Checkout) -> None:
    summary = json.loads((whole.folder / "results/sgear_metrics.json").read_text())
    assert [run["variant"] for run in summary["runs"]] == list(VARIANTS)
    by_name = {run["variant"]: run for run in summary["runs"]}
    assert all(run["n_samples"] == ROWS - VIDEOS and run["n_failed"] == 0 for run in summary["runs"])
    recall = by_name["demo_rgb"]["metrics"]["action_recall5"]
    assert 0 <= recall["ci_low"] <= recall["value"] <= recall["ci_high"] <= 100
    gain = by_name["demo_fusion"]["metrics"]["action_recall5_gain"]
    values = [by_name[name]["metrics"]["action_recall5"]["value"] for name in ("demo_fusion", "demo_rgb")]
    assert gain["value"] == pytest.approx(values[0] - values[1])
    assert "value" in by_name["demo_rgb"]["metrics"]["action_recall5_at_0_5s"]
    assert "absent" in by_name["demo_last_action"]["metrics"]["action_recall5_gain"]
    page = (whole.folder / "results/report/samples.html").read_text()
    assert "Class-mean recall@5 by group" in page
    assert "data:image/jpeg" in page, "examples of the drawn video have pictures"
    assert whole.planned() == {}


def test_one_job_gives_the_same_bytes_as_a_job_per_stage(again: Checkout, whole: Checkout) -> None:
    forget(again, "work")
    again.configure(nano(one_job=True))
    planned = again.planned()
    assert planned["sgear_small_runs"] == 1
    assert "sgear_predict" not in planned
    again.snakemake("--rerun-triggers", "mtime")
    assert results(again) == results(whole)


@pytest.mark.parametrize("one_job", [False, True])
def test_killed_in_predictions(again: Checkout, whole: Checkout, one_job: bool) -> None:
    forget(again, "work")
    again.configure(nano(one_job))
    triggers = ("--rerun-triggers", "mtime")
    run = again.start("sgear_predictions", "--cores", "1", *triggers)
    wait_for(lambda: journal_lines(again) >= 1)
    kill_group(run)
    kept = journal_lines(again)
    assert kept >= 1
    again.forget_timings()
    again.snakemake(*triggers)
    counts = [again.counts(rule) for rule in ("sgear_predict", "sgear_fuse", "sgear_small_runs")]
    blocks = sum(len(hands) for name in VARIANTS for hands in plan_of(again, name)["shards"].values())
    assert sum(count.get("computed", 0) for count in counts) <= blocks - min(kept, 1)
    assert results(again) == results(whole)


def plan_of(checkout: Checkout, variant: str) -> dict[str, Any]:
    return json.loads((checkout.folder / RUNS / variant / "plan.json").read_text())  # type: ignore[no-any-return]


def test_killed_in_training(again: Checkout, whole: Checkout) -> None:
    names = [f"{CHECKPOINTS}/demo_rgb/{name}" for name in ("checkpoint.pth", "training.json")]
    for name in names:
        (again.folder / name).unlink()
    shutil.rmtree(again.folder / WORK / "training/demo_rgb")
    again.forget_timings()
    run = again.start(names[0])
    wait_for(lambda: list((again.folder / WORK / "training/demo_rgb").glob("*/state.pt")))
    kill_group(run)
    assert not (again.folder / names[1]).exists()
    again.snakemake(names[0])
    counts = again.counts("sgear_train")
    assert 0 < counts["computed"] <= counts["steps"]
    assert again.digest(*names) == whole.digest(*names)


@pytest.mark.parametrize(
    ("script", "target"),
    [
        (".demo.py", "results/demo/sgear/parts.json"),
        (".prototypes.py", "results/prototypes/sgear/demo_visual/prototypes.safetensors"),
        (".samples.py", f"{RUNS}/demo_rgb/samples.parquet"),
        (".fuse.py", f"{RUNS}/demo_fusion/shards/1-of-2.jsonl"),
        (".score.py", f"{RUNS}/demo_rgb/scores.parquet"),
        (".views.py", f"{RUNS}/demo_rgb/views.parquet"),
    ],
)
def test_killed_in_a_short_stage(again: Checkout, whole: Checkout, script: str, target: str) -> None:
    (again.folder / target).unlink()
    run = again.start(target)
    wait_for(lambda: jobs_of(run.pid, script))
    kill_group(run)
    again.snakemake(target)  # alone a missing file that later ones were made of is, to Snakemake, nothing to do
    assert again.digest(target) == whole.digest(target)


def test_a_submission_holds_every_row(again: Checkout) -> None:
    again.snakemake(f"{RUNS}/demo_fusion/submit.zip")
    with zipfile.ZipFile(again.folder / RUNS / "demo_fusion/submit.zip") as archive:
        content = json.loads(archive.read("test.json"))
    assert (content["version"], content["challenge"]) == ("0.2", "action_anticipation")
    assert len(content["results"]) == ROWS
    row = next(iter(content["results"].values()))
    assert (len(row["verb"]), len(row["noun"]), len(row["action"])) == (3, 3, 9)
