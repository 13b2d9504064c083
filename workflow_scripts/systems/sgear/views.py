"""Draws the pictures of one run."""

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.systems.sgear.views_stage import draw_run

    given = snakemake.input
    job.counts = draw_run(
        data=given.data[0],
        dataset=snakemake.params.dataset,
        video_assets=list(given.get("videos") or []),
        videos=snakemake.params.videos,
        scoring=snakemake.params.scoring,
        bootstrap=snakemake.params.bootstrap,
        names=snakemake.params.names,
        windows=snakemake.params.settings["windows"],
        samples=given.samples,
        predictions=given.predictions,
        scores=given.scores,
        target=snakemake.output.views,
    )
