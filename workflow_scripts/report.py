"""Draws the report pages."""

from pathlib import Path

from sightline.run.logs import TIMINGS, stage

with stage(snakemake) as job:
    from sightline.report.pages import write_pages

    write_pages(
        metrics=[Path(path) for path in snakemake.input.metrics],
        views=[Path(path) for path in snakemake.input.views],
        timings_folder=TIMINGS,
        comparison=Path(snakemake.output.comparison),
        samples=Path(snakemake.output.timelines),
        timing=Path(snakemake.output.timing),
        timings=Path(snakemake.output.timings),
        trainings=[Path(path) for path in snakemake.input.get("trainings") or []],
    )
