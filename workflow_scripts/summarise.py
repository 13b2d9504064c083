"""Turns the scores of one system into its metrics file."""

from pathlib import Path

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.registry import room
    from sightline.report.summary import summarise

    summary = snakemake.params.summary
    job.counts = summarise(
        title=summary["title"],
        runs=summary["runs"],
        paper=summary["paper"],
        bootstrap=summary["bootstrap"],
        partial=summary["partial"],
        samples=[Path(path) for path in snakemake.input.samples],
        scores=[Path(path) for path in snakemake.input.scores],
        absent=[Path(path) for path in snakemake.input.absent],
        plans=[Path(path) for path in snakemake.input.plan],
        judge_rows=[Path(path) for path in snakemake.input.get("judge_rows", [])],
        judge_notes=[Path(path) for path in snakemake.input.get("judge_notes", [])],
        specs=room(snakemake.wildcards.system, "stages").metrics_of(summary["scoring"]),
        target=Path(snakemake.output.metrics),
    )
