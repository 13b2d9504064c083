"""Scores one run; loads no model but a metric's own."""

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.systems.fitcoach.stages import score_run

    job.counts = score_run(
        samples=snakemake.input.samples,
        predictions=snakemake.input.predictions,
        encoders=list(snakemake.input.get("encoder") or []),
        scoring=snakemake.params.scoring,
        wordnet="results/assets/wordnet/corpora/wordnet",
        scores_target=snakemake.output.scores,
        absent_target=snakemake.output.absent,
        pairs_target=snakemake.output.pairs,
    )
