"""The demo through a real SLURM, without accounting: undisturbed, with a job cancelled, with Snakemake killed."""

from __future__ import annotations

import os
import signal

import pytest

from tests.slurm.conftest import DeviceWatch, OnCluster, numbers
from tests.slurm.slurm_here import Slurm, command
from tests.workflow.conftest import Checkout

pytestmark = pytest.mark.quick
LOCAL = {"acquire", "index_features", "fitcoach_samples", "merge_predictions", "summarise", "report"}


def test_the_literal_command(fresh: OnCluster, finished: Checkout, slurm: Slurm) -> None:
    with DeviceWatch(fresh.folder, "extract.py", "predict.py") as watch:
        output = fresh.snakemake("results/fitcoach_metrics.json")
    jobs = slurm.jobs()
    assert {job.state for job in jobs} == {"COMPLETED"}
    rules = {job.rule for job in jobs}
    assert {"fitcoach_extract", "fitcoach_predict", "fitcoach_score", "decode_frames"} <= rules
    assert not rules & LOCAL, "a light rule was submitted"
    assert output.count("has been submitted with SLURM jobid") == len(jobs)
    assert {job.facts["Partition"] for job in jobs if job.rule in ("fitcoach_extract", "fitcoach_predict")} == {"gpu"}
    assert {job.facts["Partition"] for job in jobs if job.rule == "fitcoach_score"} == {"cpu"}
    assert numbers(fresh) == numbers(finished)
    assert fresh.feature_digests() == finished.feature_digests()
    together = [at_once for at_once in watch.seen if len(at_once) > 1]
    assert together, "no two GPU jobs ran at the same time"
    for at_once in together:
        assert len(set(at_once.values())) == len(at_once), f"two jobs on one GPU: {at_once}"


def test_a_cancelled_job_goes_on_where_it_was(extracted: OnCluster, finished: Checkout, slurm: Slurm) -> None:
    run = extracted.start("results/fitcoach_metrics.json")
    extracted.first_block(run)
    job = slurm.jobs_of("fitcoach_predict", "RUNNING")[0]
    command("scancel", str(job.id))
    extracted.finish(run)
    states = [(one.state, one.mem_mb, one.minutes) for one in slurm.jobs_of("fitcoach_predict")]
    assert "CANCELLED" in [state for state, _, _ in states]
    again = [one for one in slurm.jobs_of("fitcoach_predict") if one.mem_mb == 2 * job.mem_mb]
    assert again, f"the second attempt did not ask for more memory: {states}"
    assert again[0].minutes == 2 * job.minutes
    assert numbers(extracted) == numbers(finished)


def test_snakemake_killed_and_started_again(extracted: OnCluster, finished: Checkout, slurm: Slurm) -> None:
    run = extracted.start("results/fitcoach_metrics.json")
    extracted.first_block(run)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    orphans = slurm.jobs_of("fitcoach_predict", "RUNNING")
    assert orphans, "the jobs died with their Snakemake"
    extracted.snakemake("results/fitcoach_metrics.json")
    states = {job.id: job.state for job in slurm.jobs()}
    assert {states[orphan.id] for orphan in orphans} == {"COMPLETED"}
    assert numbers(extracted) == numbers(finished)
