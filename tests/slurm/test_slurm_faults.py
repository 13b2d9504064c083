"""What clusters do to jobs: requeues, time limits, dead nodes and controllers; every run ends with the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess

from tests.slurm.conftest import OnCluster, adapters, numbers
from tests.slurm.slurm_here import NODES, ClusterJob, Slurm, command, wait_until
from tests.workflow.conftest import Checkout, wait_for

Run = subprocess.Popen[str]
STOPPED = "blocks durable -> run the same command again"


def a_predicting_job(run: Run, checkout: OnCluster, slurm: Slurm) -> ClusterJob:
    """Waits until a block is durable and returns a job that still runs."""
    checkout.first_block(run)
    return slurm.jobs_of("fitcoach_predict", "RUNNING")[0]


def hold(run: Run, checkout: OnCluster, slurm: Slurm) -> ClusterJob:
    """Waits until a block is durable, then freezes a job that is not through; SLURM's signals thaw it."""

    def freeze() -> ClusterJob | None:
        for job in slurm.jobs_of("fitcoach_predict", "RUNNING"):
            for process in adapters(checkout.folder, "predict.py", job.id):
                process.send_signal(signal.SIGSTOP)
                return job
        return None

    checkout.first_block(run)
    return wait_for(freeze, 30)


def attempts_logged(checkout: OnCluster) -> str:
    return "".join(path.read_text() for path in (checkout.folder / ".snakemake/slurm_logs").rglob("*.log"))


def test_a_requeued_job_runs_to_its_end_under_the_same_id(
    extracted: OnCluster, finished: Checkout, slurm: Slurm
) -> None:
    run = extracted.start("results/fitcoach_metrics.json")
    job = a_predicting_job(run, extracted, slurm)
    command("scontrol", "requeue", str(job.id))
    extracted.finish(run)
    (same,) = [one for one in slurm.jobs() if one.id == job.id]
    assert same.facts["Restarts"] == "1"
    assert same.state == "COMPLETED"
    assert len(slurm.jobs_of("fitcoach_predict")) == 2, "Snakemake took the requeue for a failure"
    assert numbers(extracted) == numbers(finished)


def state_of(slurm: Slurm, job: ClusterJob) -> str:
    return next(one.state for one in slurm.jobs() if one.id == job.id)


def test_a_job_is_warned_before_its_time_limit(extracted: OnCluster, finished: Checkout, slurm: Slurm) -> None:
    run = extracted.start("results/fitcoach_metrics.json")
    job = hold(run, extracted, slurm)
    command("scontrol", "update", f"JobId={job.id}", "TimeLimit=1")  # a minute is less than the profile's two
    extracted.finish(run)
    assert state_of(slurm, job) == "FAILED", "it should have stopped by itself, before the limit"
    assert STOPPED in attempts_logged(extracted)
    assert [one for one in slurm.jobs_of("fitcoach_predict") if one.minutes == 2 * job.minutes]
    assert numbers(extracted) == numbers(finished)


def test_a_job_over_its_time_limit_keeps_its_blocks(extracted: OnCluster, finished: Checkout, slurm: Slurm) -> None:
    extracted.edit_profile({"default-resources": {"slurm_extra": "''"}})  # no warning
    run = extracted.start("results/fitcoach_metrics.json")
    job = hold(run, extracted, slurm)
    command("scontrol", "update", f"JobId={job.id}", "TimeLimit=1")
    extracted.finish(run)
    assert state_of(slurm, job) == "TIMEOUT"
    assert STOPPED in attempts_logged(extracted)
    assert [one for one in slurm.jobs_of("fitcoach_predict") if one.minutes == 2 * job.minutes]
    assert numbers(extracted) == numbers(finished)


def test_a_node_that_goes_down_takes_nothing_along(extracted: OnCluster, finished: Checkout, slurm: Slurm) -> None:
    run = extracted.start("results/fitcoach_metrics.json")
    job = a_predicting_job(run, extracted, slurm)
    command("scontrol", "update", f"NodeName={job.node}", "State=DOWN", "Reason=test")
    try:
        extracted.finish(run)
        assert slurm.node_states()[job.node] == "DOWN"
    finally:
        command("scontrol", "update", f"NodeName={job.node}", "State=RESUME")
    other = next(node for node in NODES if node != job.node)
    assert {one.node for one in slurm.jobs_of("fitcoach_score")} == {other}
    assert numbers(extracted) == numbers(finished)


def test_the_controller_restarts_while_jobs_run(extracted: OnCluster, finished: Checkout, slurm: Slurm) -> None:
    run = extracted.start("results/fitcoach_metrics.json")
    a_predicting_job(run, extracted, slurm)
    slurm.end("slurmctld")
    slurm.start_controller()
    extracted.finish(run)
    assert {job.state for job in slurm.jobs()} == {"COMPLETED"}
    assert numbers(extracted) == numbers(finished)


def test_snakemake_killed_while_features_are_made(acquired: OnCluster, finished: Checkout, slurm: Slurm) -> None:
    run = acquired.start("results/fitcoach_metrics.json")
    orphan = slurm.running("fitcoach_extract")
    wait_until(lambda: adapters(acquired.folder, "extract.py", orphan.id), "the orphan's work", 60)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert slurm.jobs_of("fitcoach_extract", "RUNNING"), "the job died with its Snakemake"
    acquired.snakemake("results/fitcoach_metrics.json")
    assert [job.state for job in slurm.jobs() if job.id == orphan.id] == ["COMPLETED"]
    assert numbers(acquired) == numbers(finished)
    assert acquired.feature_digests() == finished.feature_digests()


# --- refused before anything is submitted ----------------------------------------------------------------


def refused(checkout: OnCluster, words: str) -> None:
    """Both `check` and the run itself say what is wrong, and nothing is submitted."""
    said = checkout.snakemake("check", ok=False)
    assert words in " ".join(said.split())
    said = checkout.snakemake("results/fitcoach_metrics.json", ok=False)
    assert words in " ".join(said.split())
    assert "has been submitted" not in said
    assert "Traceback" not in said


def test_a_partition_that_does_not_exist_is_refused(extracted: OnCluster, slurm: Slurm) -> None:
    extracted.edit_partitions({"main": {}, "gpu": {"max_gpu": 2}})
    refused(extracted, "does not exist on this cluster. It has: cpu, gpu")
    assert not [job for job in slurm.jobs() if job.state == "RUNNING"]


def test_gpus_that_do_not_exist_are_refused(extracted: OnCluster, slurm: Slurm) -> None:
    extracted.edit_partitions({"cpu": {}, "gpu": {"max_gpu": 4}})
    refused(extracted, "is to give 4 GPUs a job, but its nodes have 2")


def test_a_missing_munge_key_is_refused(extracted: OnCluster, slurm: Slurm) -> None:
    slurm.end("munge/munged")
    try:
        refused(extracted, "start munge (`munged`) with the key that all machines of the cluster share")
    finally:
        slurm.start_munge()


def test_a_controller_that_is_down_is_refused(extracted: OnCluster, slurm: Slurm) -> None:
    slurm.end("slurmctld")
    try:
        refused(extracted, "SLURM does not answer")
    finally:
        slurm.start_controller()


def test_a_full_scratch_disk_is_refused(extracted: OnCluster, slurm: Slurm) -> None:
    scratch = extracted.folder / "scratch"
    scratch.mkdir()
    command("mount", "-t", "tmpfs", "-o", "size=50m", "tmpfs", str(scratch))
    try:
        said = extracted.snakemake("check", "--directory", str(scratch), ok=False)
        assert "disk: 1.0 GB needed, 0.1 GB free" in " ".join(said.split())
    finally:
        command("umount", str(scratch))


def test_a_sound_cluster_is_ready(extracted: OnCluster) -> None:
    said = extracted.snakemake("check")
    assert "partition gpu: up, 2 GPUs per node" in said
    assert "ready to run" in said
