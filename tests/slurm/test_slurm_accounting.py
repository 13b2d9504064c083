"""The same on a cluster with an accounting database, where `sacct` tells what became of a job."""

from __future__ import annotations

from tests.slurm.conftest import OnCluster, numbers
from tests.slurm.slurm_here import ACCOUNT, Slurm, command, missing_programs
from tests.workflow.conftest import Checkout

ACCOUNTING = True


def test_a_run_with_an_account_and_a_cancelled_job(extracted: OnCluster, finished: Checkout, slurm: Slurm) -> None:
    assert not missing_programs(True), f"not installed: {missing_programs(True)}; run `make test-slurm`"
    run = extracted.start("results/fitcoach_metrics.json")
    extracted.first_block(run)
    job = slurm.jobs_of("fitcoach_predict", "RUNNING")[0]
    command("scancel", str(job.id))
    extracted.finish(run)
    told = command("sacct", "-X", "-n", "-P", "--format=JobID,State,Account,AllocTRES").splitlines()
    rows = {line.split("|")[0]: line.split("|")[1:] for line in told}
    assert rows[str(job.id)][0].startswith("CANCELLED")
    assert {row[1] for row in rows.values()} == {ACCOUNT}
    assert "gres/gpu=1" in rows[str(job.id)][2]
    assert [state for state, *_ in rows.values()].count("COMPLETED") == len(rows) - 1
    assert numbers(extracted) == numbers(finished)
