"""Writes what was said in each video as a benchmark submission."""

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.systems.fitcoach.submission import write_submission

    job.counts = write_submission(
        samples=snakemake.input.samples,
        predictions=snakemake.input.predictions,
        target=snakemake.output.submission,
    )
