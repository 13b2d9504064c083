"""A training inside the workflow: killed and resumed to the same bytes, and read by the variant that names it."""

from __future__ import annotations

import copy
import json
import shutil

import pytest

from tests.workflow.conftest import NANO, Checkout, kill_group, wait_for

pytestmark = pytest.mark.workflow

CHECKPOINT = "results/checkpoints/fitcoach/short"
STEPS = 8
TRAINING = {
    "title": "a few steps",
    "dataset": "demo_train",
    "base": "demo",
    "epochs": None,
    "max_steps": STEPS,
    "learning_rate": 0.001,
    "trainable": ["*"],
    "copies": 4,
    "projector_rank": 8,
    "save_every": 1,
}
TUNED = {
    "title": "trained for a few steps",
    "weights_kind": "demo",
    "extractor": "efficientnet3d_demo",
    "assets": {"llama": {"asset": "fitcoach_demo", "file": "Llama-demo/config.json"}},
    "trained_by": "short",
    "cross_attention": {"layers": [0, 1, 2, 3], "attention_dim": 128},
    "lora": {"r": 4, "alpha": 2},
    "dtype": "float32",
    "token_cap": 1024,
    "seconds_per_item": 5,
}


def configure(checkout: Checkout) -> None:
    content = copy.deepcopy(NANO)
    content["datasets"]["demo_train"] = {"videos": 1, "items": 3, "video_seconds": 38}
    content["systems"]["fitcoach"]["training"] = {"short": TRAINING}
    content["systems"]["fitcoach"]["variants"]["tuned"] = TUNED
    content["runs"] = [{"system": "fitcoach", "datasets": ["demo_test"], "variants": ["demo", "tuned"]}]
    checkout.configure(content)


def test_a_killed_training_ends_with_the_same_bytes_and_feeds_its_variant(again: Checkout) -> None:
    configure(again)
    planned = again.planned("fitcoach_predictions")
    assert planned["fitcoach_train"] == 1
    work = again.folder / "results/work/fitcoach/training/short"
    process = again.start(f"{CHECKPOINT}/training.json")
    wait_for(lambda: list(work.glob("*/state.pt")))
    kill_group(process)
    assert not (again.folder / CHECKPOINT / "training.json").exists()
    again.snakemake("fitcoach_predictions")
    counts = again.counts("fitcoach_train")
    assert counts["steps"] == STEPS
    assert 0 < counts["computed"] < STEPS
    files = [f"{CHECKPOINT}/{name}" for name in ("state_dict.pth.tar", "training.json", "tokenizer.json")]
    killed = again.digest(*files)
    record = json.loads((again.folder / CHECKPOINT / "training.json").read_text())
    assert [row["step"] for row in record["curve"]] == list(range(1, STEPS + 1))
    assert list((again.folder / "results/tensorboard/fitcoach/short").glob("events.*"))

    keys = {
        json.loads(line)["key"].split("-")[0]
        for variant in ("demo", "tuned")
        for path in (again.folder / f"results/runs/fitcoach/demo_test/{variant}/shards").glob("*.jsonl")
        for line in path.read_text().splitlines()
    }
    assert len(keys) == 2  # other weights, other key

    shutil.rmtree(work)
    again.forget_timings()
    again.snakemake("--forcerun", "fitcoach_train", "--", files[1])
    assert again.counts("fitcoach_train")["computed"] == STEPS
    assert again.digest(*files) == killed
