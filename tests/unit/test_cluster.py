"""What a profile asks of a cluster, compared with what `sinfo` says, before anything is submitted."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from sightline.config.attempts import growing
from sightline.errors import ClusterError, InputError
from sightline.registry import load_plan
from sightline.run import cluster
from sightline.run.check import SCRATCH_GB, check, describe, render
from sightline.run.cluster import (
    ClusterRequest,
    Partition,
    ask_cluster,
    cluster_problems,
    read_partitions,
    read_sinfo,
    refuse_what_cannot_run,
)

ROOT = Path(__file__).parents[2]
SINFO = "main|up|(null)\ngpu|up|gpu:a100:4(S:0-1),shard:8\ngpu|up|gpu:8\nold|down|(null)\n"
THERE = {"main": Partition(True, 0), "gpu": Partition(True, 8), "old": Partition(False, 0)}
NO_REQUEST = ClusterRequest(None, {})


@pytest.fixture
def sinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns a function that puts a `sinfo` on the path which prints a text or fails with it."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def write(text: str, code: int = 0) -> None:
        program = folder / "sinfo"
        (folder / "text").write_text(text)
        program.write_text(f"#!/bin/sh\n/bin/cat {folder}/text {'>&2' if code else ''}\nexit {code}\n")
        program.chmod(0o755)

    return write


def partitions_file(folder: Path, **partitions: Any) -> ClusterRequest:
    path = folder / "partitions.yaml"
    path.write_text(yaml.safe_dump({"partitions": partitions}))
    return ClusterRequest(str(path), {})


def test_partitions_are_read_off_sinfo() -> None:
    assert read_sinfo(SINFO) == THERE


def test_the_delivered_list_of_partitions_is_one() -> None:
    listed = read_partitions(ROOT / "profiles/slurm/partitions.yaml")
    assert sum(bool(limits.get("max_gpu")) for limits in listed.values()) == 1


def test_a_fitting_profile_has_no_problems(tmp_path: Path) -> None:
    request = partitions_file(tmp_path, main={"max_runtime": "7d"}, gpu={"max_gpu": 8})
    assert cluster_problems(request, THERE, ["fitcoach/stream_vlm"]) == []
    assert cluster_problems(NO_REQUEST, THERE, ["fitcoach/stream_vlm"]) == []


@pytest.mark.parametrize(
    ("partitions", "words"),
    [
        ({"mian": {}, "gpu": {"max_gpu": 1}}, "partition mian"),
        ({"old": {}, "gpu": {"max_gpu": 1}}, "partition old"),
        ({"gpu": {"max_gpu": 16}}, "16 GPUs a job, but its nodes have 8"),
        ({"gpu": {"max_gpu": 1}, "main": {"max_gpu": 1}}, "1 GPUs a job, but its nodes have no"),
        ({"main": {}}, "a GPU is wanted by fitcoach/stream_vlm"),
    ],
)
def test_each_fault_is_one_line(tmp_path: Path, partitions: dict[str, Any], words: str) -> None:
    (problem,) = cluster_problems(partitions_file(tmp_path, **partitions), THERE, ["fitcoach/stream_vlm"])
    assert words in problem


def test_a_partition_named_by_key_is_looked_up_too() -> None:
    (problem,) = cluster_problems(ClusterRequest(None, {"fast": "default-resources"}), THERE, [])
    assert "partition fast (default-resources) does not exist" in problem
    assert "gpu, main, old" in problem


@pytest.mark.parametrize("text", ["", "partitions: 3", "partitions: {a: 3}", "[", "other: {}"])
def test_a_wrong_list_of_partitions_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "partitions.yaml"
    path.write_text(text)
    with pytest.raises(ClusterError, match="not a list of partitions"):
        read_partitions(path)


@pytest.mark.parametrize(
    ("said", "mend"),
    [
        ('Munge encode failed: Failed to access "/run/munge/munge.socket.2"', "start munge"),
        ("slurm_load_partitions: Unable to contact slurm controller (connect failure)", "controller is down"),
        ("slurm_load_partitions: Protocol authentication error", "not the cluster's"),
        ("fatal: Could not establish a configuration source", "no slurm.conf"),
        ("fatal: something else", "log in"),
    ],
)
def test_a_cluster_that_does_not_answer_is_explained(sinfo: Any, said: str, mend: str) -> None:
    sinfo(said, 1)
    with pytest.raises(ClusterError, match=mend) as caught:
        ask_cluster()
    assert said in str(caught.value)


def test_a_machine_without_slurm_is_explained(sinfo: Any) -> None:
    with pytest.raises(ClusterError, match="not on this machine"):
        ask_cluster()


def test_a_cluster_that_hangs_is_given_up(sinfo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sinfo("")
    program = Path(shutil.which("sinfo") or "")
    program.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    monkeypatch.setattr(cluster, "_ANSWER_S", 0.2)
    with pytest.raises(ClusterError, match="took more than"):
        ask_cluster()


def workflow(
    executor: str, *targets: str, file: str | None = None, gpu: int | None = None, **resources: str | None
) -> Any:
    raw = {name: SimpleNamespace(raw=value) for name, value in resources.items()}
    settings = SimpleNamespace(
        default_resources=raw, overwrite_resources={}, resources={} if gpu is None else {"gpu": gpu}
    )
    return SimpleNamespace(
        executor_plugin=SimpleNamespace(name=executor),
        executor_settings=SimpleNamespace(partition_config=file),
        resource_settings=settings,
        dag_settings=SimpleNamespace(targets=set(targets)),
    )


def test_only_a_run_on_slurm_is_compared(sinfo: Any) -> None:
    plan = SimpleNamespace(runs=[])
    refuse_what_cannot_run(workflow("local"), plan)  # type: ignore[arg-type]
    sinfo(SINFO)
    refuse_what_cannot_run(workflow("slurm"), plan)  # type: ignore[arg-type]
    refuse_what_cannot_run(workflow("slurm", slurm_partition=None), plan)  # type: ignore[arg-type]
    with pytest.raises(ClusterError, match="fast"):
        refuse_what_cannot_run(workflow("slurm", slurm_partition="'fast'"), plan)  # type: ignore[arg-type]
    refuse_what_cannot_run(workflow("slurm", "check", slurm_partition="'fast'"), plan)  # type: ignore[arg-type]


def test_no_gpu_is_wanted_under_gpu_0() -> None:
    assert ClusterRequest.of(workflow("slurm", gpu=0)) == ClusterRequest(None, {}, gpus=False)
    assert ClusterRequest.of(workflow("slurm")) == ClusterRequest(None, {}, gpus=True)


def test_check_reports_the_cluster(sinfo: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = load_plan(yaml.safe_load((ROOT / "config/config.yaml").read_text()), ROOT / "config")
    sinfo(SINFO)
    report = describe(plan, tmp_path, ClusterRequest(None, {"main": "default-resources"}))
    assert report.ok
    assert "partition gpu: up, 8 GPUs per node" in render(report)
    with pytest.raises(InputError, match="1 thing is missing"):
        check(plan, tmp_path, {"partitions_file": None, "partitions": {"fast": "default-resources"}, "gpus": True})
    assert "partition fast (default-resources) does not exist" in " ".join(capsys.readouterr().out.split())
    sinfo("Unable to contact slurm controller", 1)
    report = describe(plan, tmp_path, NO_REQUEST)
    assert [problem for problem in report.missing if "SLURM does not answer" in problem]


def test_a_full_disk_is_missing_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = load_plan(yaml.safe_load((ROOT / "config/config.yaml").read_text()), ROOT / "config")
    assert describe(plan, tmp_path).ok
    free = int(SCRATCH_GB * 1e9) - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    (problem,) = describe(plan, tmp_path).missing
    assert problem.startswith("disk: ")


def test_a_job_tried_again_asks_for_more() -> None:
    assert [growing(1000)(None, attempt) for attempt in (1, 2, 3)] == [1000, 2000, 3000]
    wildcards = SimpleNamespace(variant="large")
    assert growing(lambda found: 500 if found.variant == "large" else 1)(wildcards, 2) == 1000
