"""Lets a language model grade the pairs of one run."""

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.registry import room
    from sightline.run.judging import judge_run

    job.counts = judge_run(
        judged_samples=room(snakemake.wildcards.system, "score").judged_samples,
        samples=snakemake.input.samples,
        predictions=snakemake.input.predictions,
        scoring=snakemake.params.scoring,
        judge=snakemake.params.judge,
        assets=list(snakemake.input.assets),
        gpus=snakemake.resources.get("gpu", 0),
        stage_version=snakemake.params.stage_version,
        work="results/work/judge",
        writer="~".join([snakemake.wildcards.system, snakemake.wildcards.dataset, snakemake.wildcards.variant]),
        scores_target=snakemake.output.scores,
        replies_target=snakemake.output.replies,
        notes_target=snakemake.output.notes,
    )
