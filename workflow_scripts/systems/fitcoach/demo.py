"""Draws the demo workouts and fills the demo weights."""

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.systems.fitcoach.stages import make_demo

    job.counts = make_demo(
        target=snakemake.output.parts, generator=snakemake.params.generator, workers=snakemake.threads
    )
