"""Adds up the logits of other runs on one shard."""

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.systems.sgear.stages import fuse_shard

    wildcards, given = snakemake.wildcards, snakemake.input
    job.counts = fuse_shard(
        data=given.data[0],
        samples=given.samples,
        plan=given.plan,
        member_samples=list(given.member_samples),
        member_predictions=list(given.member_predictions),
        member_logits=list(given.member_logits),
        dataset=snakemake.params.dataset,
        settings=snakemake.params.settings,
        backend=snakemake.params.store,
        stage_version=snakemake.params.stage_version,
        shard=wildcards.shard,
        work=f"results/work/sgear/{wildcards.dataset}/{wildcards.variant}",
        rows_target=snakemake.output.rows,
        logits_target=snakemake.output.logits,
    )
