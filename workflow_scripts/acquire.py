"""Fetches, verifies and unpacks one asset, or checks the copy the user already has."""

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.run.stages import acquire_asset

    job.counts = acquire_asset(
        asset=snakemake.wildcards.asset,
        card=snakemake.params.asset["card"],
        local=snakemake.params.asset["local"],
        generated_parts=next(iter(snakemake.input.parts), None),
        offline=snakemake.params.offline,
        record=snakemake.output.record,
    )
