"""Draws the pictures of one run."""

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.systems.hoiref.views_stage import draw_run

    given = snakemake.input
    job.counts = draw_run(
        data=given.data[0],
        frames=list(given.get("frames") or []),
        dataset=snakemake.params.dataset,
        roots=snakemake.params.roots,
        scoring=snakemake.params.scoring,
        bootstrap=snakemake.params.bootstrap,
        samples=given.samples,
        predictions=given.predictions,
        scores=given.scores,
        answers=given.answers,
        target=snakemake.output.views,
    )
