"""Writes the zip that the challenge's server takes."""

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.systems.sgear.score_stage import submit_run

    given = snakemake.input
    job.counts = submit_run(
        data=given.data[0],
        dataset=snakemake.params.dataset,
        samples=given.samples,
        plan=given.plan,
        predictions=given.predictions,
        logits=list(given.logits),
        settings=snakemake.params.settings,
        target=snakemake.output.submission,
    )
