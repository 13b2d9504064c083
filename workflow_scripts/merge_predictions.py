"""Merges the shards of one run."""

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.run.merge import merge_predictions

    job.counts = merge_predictions(snakemake.input.samples, list(snakemake.input.shards), snakemake.output.predictions)
