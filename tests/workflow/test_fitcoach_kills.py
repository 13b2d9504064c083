"""SIGKILL in the middle of every stage, then the same command again: it finishes with the same bytes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import psutil
import pytest
from sightline.errors import StoreError
from sightline.features.opening import open_store

from tests.workflow.conftest import RUN, Checkout, kill_group, wait_for

pytestmark = pytest.mark.workflow


def jobs_of(pid: int, script: str) -> list[psutil.Process]:
    """Returns the running jobs of one adapter below a process."""
    found = []
    try:
        for child in psutil.Process(pid).children(recursive=True):
            try:
                if any(script in word for word in child.cmdline()) and child.name().startswith("python"):
                    found.append(child)
            except psutil.Error:
                continue
    except psutil.Error:
        return []
    return found


def journal_lines(checkout: Checkout) -> int:
    return sum(path.read_bytes().count(b"\n") for path in (checkout.folder / "results/work/fitcoach").rglob("*.jsonl"))


def finished_videos(checkout: Checkout) -> int:
    """Counts the videos that extraction jobs have committed so far."""
    total = 0
    for path in (checkout.folder / "results/work/features/demo_test/efficientnet3d_demo").glob("*.lmdb"):
        try:
            with open_store(path, "lmdb") as store:
                total += len(store.keys())
        except StoreError:  # the writer is just making the file
            continue
    return total


def test_killed_in_features(acquired: Checkout, finished: Checkout) -> None:
    run = acquired.start("--cores", "1", "fitcoach_features")
    wait_for(lambda: finished_videos(acquired) >= 1)
    kill_group(run)
    assert not (acquired.folder / "results/features/demo_test/efficientnet3d_demo/index.json").exists()
    acquired.forget_timings()
    acquired.snakemake()
    assert acquired.counts("fitcoach_extract")["computed"] <= 1, "the committed video was computed again"
    assert acquired.feature_digests() == finished.feature_digests()
    assert acquired.results() == finished.results()


def test_killed_in_predict(acquired: Checkout, finished: Checkout) -> None:
    acquired.snakemake("fitcoach_features")
    run = acquired.start("--cores", "1", "fitcoach_predictions")
    wait_for(lambda: journal_lines(acquired) >= 1)
    kill_group(run)
    kept = journal_lines(acquired)
    assert not (acquired.folder / RUN / "predictions.parquet").exists()
    acquired.forget_timings()
    acquired.snakemake()
    assert acquired.counts("fitcoach_predict")["computed"] == 6 - kept
    assert acquired.results() == finished.results()


def test_killed_in_merge(again: Checkout, finished: Checkout) -> None:
    target = again.folder / RUN / "predictions.parquet"
    target.unlink()
    run = again.start()
    job = wait_for(lambda: jobs_of(run.pid, "merge_predictions.py"))
    job[0].kill()
    kill_group(run)
    if target.exists():
        assert again.digest(f"{RUN}/predictions.parquet") == finished.digest(f"{RUN}/predictions.parquet")
    again.forget_timings()
    again.snakemake()
    assert again.counts("fitcoach_predict") == {}, "the shards were kept"
    assert again.results() == finished.results()


def test_killed_snakemake_leaves_an_orphan_that_is_waited_for(acquired: Checkout, finished: Checkout) -> None:
    run = acquired.start("fitcoach_features")
    orphans = wait_for(lambda: jobs_of(run.pid, "extract.py"))
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert any(orphan.is_running() for orphan in orphans)
    acquired.snakemake()
    assert acquired.results() == finished.results()
    assert acquired.feature_digests() == finished.feature_digests()


def test_the_lock_of_a_living_run_is_respected(acquired: Checkout) -> None:
    run = acquired.start("fitcoach_features")
    wait_for(lambda: jobs_of(run.pid, "extract.py"))
    try:
        output = acquired.snakemake("fitcoach_features", ok=False)
        assert "lock" in output.lower()
        assert run.poll() is None
    finally:
        kill_group(run)


def test_sigterm_ends_the_shard_between_blocks(acquired: Checkout, finished: Checkout) -> None:
    acquired.snakemake("fitcoach_features")
    run = acquired.start("--cores", "1", "fitcoach_predictions")
    wait_for(lambda: journal_lines(acquired) >= 1)
    for job in jobs_of(run.pid, "predict.py"):
        job.send_signal(signal.SIGTERM)
    run.wait(timeout=120)
    logs = "".join(path.read_text() for path in (acquired.folder / "results/logs/fitcoach_predict").iterdir())
    if run.returncode:  # the signal came before the shard's last block
        assert "blocks durable -> run the same command again" in logs
    acquired.snakemake()
    assert acquired.results() == finished.results()


def test_timings_name_the_stage_that_failed(acquired: Checkout) -> None:
    index = Path("results/frames/demo_test/realtime16/index.jsonl")
    acquired.snakemake(str(index))
    (acquired.folder / index).write_text("not a row\n")
    acquired.snakemake("fitcoach_features", "--rerun-triggers", "mtime", ok=False)
    records = [
        json.loads(path.read_text())
        for path in (acquired.folder / "results/work/timings").glob("fitcoach_extract~*.json")
    ]
    assert {record["status"] for record in records} == {"failed"}
