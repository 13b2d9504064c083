"""Joins the shards of an extraction into one readable store."""

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.features.index import join_indexes

    join_indexes(list(snakemake.input.shards), snakemake.output.index)
