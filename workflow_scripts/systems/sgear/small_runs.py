"""All runs of small datasets in one job."""

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.systems.sgear.small_runs import small_runs

    job.counts = small_runs(
        runs=snakemake.params.runs,
        scoring=snakemake.params.scoring,
        backend=snakemake.params.store,
        stage_versions=snakemake.params.stage_versions,
        results="results/runs/sgear",
        work="results/work/sgear",
    )
