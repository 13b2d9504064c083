"""Scores one run, beside answers without looking."""

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.systems.hoiref.score_stage import score_run

    given = snakemake.input
    job.counts = score_run(
        samples=given.samples,
        predictions=given.predictions,
        counted=list(given.get("counted") or []),
        counted_dataset=snakemake.params.counted,
        scoring=snakemake.params.scoring,
        scores_target=snakemake.output.scores,
        absent_target=snakemake.output.absent,
        answers_target=snakemake.output.answers,
    )
