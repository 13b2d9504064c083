"""Draws S-GEAR's demo dataset."""

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.systems.sgear.stages import make_demo

    job.counts = make_demo(target=snakemake.output.parts, generator=snakemake.params.generator)
