"""Draws HOI-Ref's demo dataset and makes its small weights."""

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.systems.hoiref.stages import make_demo

    job.counts = make_demo(
        target=snakemake.output.parts, generator=snakemake.params.generator, threads=snakemake.threads
    )
