"""Scores one run, beside the run its gain is measured against."""

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.systems.sgear.score_stage import score_run

    given = snakemake.input
    job.counts = score_run(
        data=given.data[0],
        dataset=snakemake.params.dataset,
        samples=given.samples,
        predictions=given.predictions,
        logits=list(given.logits),
        reference_predictions=list(given.get("reference_predictions") or []),
        reference_logits=list(given.get("reference_logits") or []),
        scoring=snakemake.params.scoring,
        scores_target=snakemake.output.scores,
        absent_target=snakemake.output.absent,
    )
