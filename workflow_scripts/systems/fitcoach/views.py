"""Draws the timelines of one run."""

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.systems.fitcoach.stages import draw_run

    job.counts = draw_run(
        data=snakemake.input.data[0],
        dataset=snakemake.params.dataset,
        extractor=snakemake.params.extractor,
        scoring=snakemake.params.scoring,
        samples=snakemake.input.samples,
        predictions=snakemake.input.predictions,
        scores=snakemake.input.scores,
        target=snakemake.output.views,
    )
