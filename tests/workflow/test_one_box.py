"""One machine: a shard per GPU, each on its own; and nothing but `acquire` needs a network."""

from __future__ import annotations

import copy
import json
import socket
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.workflow.conftest import NANO, RUN, Checkout
from tests.workflow.test_fitcoach_training import configure

pytestmark = pytest.mark.workflow
DEVICES = ("90", "91")  # no machine has so many: real jobs of this user are not kept waiting
CUT_OFF = ("unshare", "--user", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")


def on_gpus(checkout: Checkout, shards: int) -> dict[str, Any]:
    """Returns a configuration in which features and predictions want a GPU, cut into so many shards."""
    config = copy.deepcopy(NANO)
    demo = NANO["systems"]["fitcoach"]["variants"]["demo"]
    seconds = NANO["datasets"]["demo_test"]["items"] * demo["seconds_per_item"]
    variant = {"gpu_memory_gb": 1, "shard_minutes": seconds / 60 / (shards - 0.5)}
    config["systems"]["fitcoach"]["variants"]["demo"].update(variant)
    config["systems"]["fitcoach"]["extractors"]["efficientnet3d_demo"]["gpu_memory_gb"] = 1
    return config


def machine_with_gpus(folder: Path) -> str:
    """Returns a PATH on which `nvidia-smi` lists two devices; they are not there, so demo models run on the CPU."""
    folder.mkdir()
    (folder / "nvidia-smi").write_text("#!/bin/sh\nprintf '%s\\n' " + " ".join(DEVICES) + "\n")
    (folder / "nvidia-smi").chmod(0o755)
    return str(folder)


def timings(checkout: Checkout, rule: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in (checkout.folder / "results/work/timings").glob(f"{rule}~*.json")]


def overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one["started"] < other["started"] + other["wall_s"] and other["started"] < one["started"] + one["wall_s"]


def test_shards_run_at_once_each_on_its_own_gpu(acquired: Checkout, finished: Checkout, tmp_path: Path) -> None:
    """Two devices, three shards; `finished` had two shards and `test_one_shard_gives_the_same_results` has one."""
    acquired.configure(on_gpus(acquired, shards=3))
    path = f"{machine_with_gpus(tmp_path / 'bin')}:{acquired.environment['PATH']}"
    acquired.snakemake("--resources", "gpu=2", "--cores", "3", "--", "fitcoach_scores", PATH=path)
    assert len(list((acquired.folder / RUN / "shards").iterdir())) == 3
    for rule in ("fitcoach_extract", "fitcoach_predict"):
        jobs = timings(acquired, rule)
        assert {job["gpus"][0] for job in jobs} == set(DEVICES), rule
        assert all(len(job["gpus"]) == 1 for job in jobs)
        at_once = [pair for pair in combinations(jobs, 2) if overlap(*pair)]
        assert at_once, f"no two jobs of {rule} ran at once"
        if rule == "fitcoach_extract":  # as many jobs as devices: nothing was waited for
            assert all(one["gpus"] != other["gpus"] for one, other in at_once)
    assert {job["gpus"][0] if job["gpus"] else None for job in timings(acquired, "fitcoach_score")} == {None}
    names = (f"{RUN}/predictions.parquet", f"{RUN}/scores.parquet")
    assert acquired.digest(*names) == finished.digest(*names)
    assert acquired.feature_digests() == finished.feature_digests()


def test_no_gpu_is_the_cpu(acquired: Checkout, tmp_path: Path) -> None:
    """`--resources gpu=0` on a machine with GPUs."""
    acquired.configure(on_gpus(acquired, shards=1))
    path = f"{machine_with_gpus(tmp_path / 'bin')}:{acquired.environment['PATH']}"
    acquired.snakemake("--resources", "gpu=0", "--", "fitcoach_features", PATH=path)
    jobs = timings(acquired, "fitcoach_extract")
    assert jobs
    assert [job["gpus"] for job in jobs] == [[] for _ in jobs]


def cut_off(checkout: Checkout, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in a network namespace of its own, which has a loopback device and nothing else."""
    return subprocess.run(
        [*CUT_OFF, *command], cwd=checkout.folder, env=checkout.environment, capture_output=True, text=True
    )


def test_only_acquire_needs_a_network(acquired: Checkout) -> None:
    """Features, training, predictions, a judge on this machine, scores, report and submission, all without one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        call = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 5)"
        assert subprocess.run(["python3", "-c", call]).returncode == 0
        assert "Connection refused" in cut_off(acquired, "python3", "-c", call).stderr, "the network is not cut"
    configure(acquired)
    config = yaml.safe_load((acquired.folder / "nano.yaml").read_text())
    config["runs"][0]["judges"] = ["mock"]
    acquired.configure(config)
    assert "acquire" not in acquired.planned()
    done = cut_off(acquired, *acquired.command("all", "fitcoach_submission"))
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    ran = {path.name.split("~")[0].removesuffix(".json") for path in timings_folder(acquired).iterdir()}
    assert {"fitcoach_extract", "fitcoach_train", "fitcoach_predict", "judge", "report", "fitcoach_submit"} <= ran
    assert acquired.planned() == {}


def timings_folder(checkout: Checkout) -> Path:
    return checkout.folder / "results/work/timings"


def test_a_download_without_a_network_is_one_clear_error(tmp_path: Path) -> None:
    checkout = Checkout.fresh(tmp_path / "checkout")
    url = "https://example.org/weights.bin"
    far_away = {
        "title": "weights",
        "kind": "files",
        "licence": "none",
        "requires": ["weights.bin"],
        "parts": [{"url": url, "sha256": "0" * 64}],
    }
    checkout.configure({**NANO, "assets": {**NANO["assets"], "far_away": far_away}})
    done = cut_off(checkout, *checkout.command("--retries", "0", "--", "results/assets/far_away/asset.json"))
    assert done.returncode != 0
    errors = {line for line in (done.stdout + done.stderr).splitlines() if line.startswith("error: ")}
    assert errors, (done.stdout + done.stderr)[-3000:]
    assert all(url in error and " -> " in error for error in errors), errors
