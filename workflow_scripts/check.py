"""Prints what the configuration needs, what is there and what is missing."""

from pathlib import Path

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.registry import load_plan
    from sightline.run.check import describe, render

    report = describe(load_plan(snakemake.params.config, Path(snakemake.params.root)), Path.cwd())
    print(render(report))
