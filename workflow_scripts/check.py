"""Prints what the configuration and the profile need, what is there and what is missing; fails if something is."""

from pathlib import Path

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.registry import load_plan
    from sightline.run.check import check

    plan = load_plan(snakemake.params.config, Path(snakemake.params.root))
    check(plan, Path.cwd(), snakemake.params.cluster, snakemake.params.stacks)
