"""Answers the questions of one shard."""

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.systems.hoiref.stages import predict_shard

    wildcards, given = snakemake.wildcards, snakemake.input
    job.counts = predict_shard(
        data=given.data[0],
        frames=list(given.get("frames") or []),
        samples=given.samples,
        plan=given.plan,
        weights=list(given.get("weights") or []),
        trained=list(given.get("trained") or []),
        dataset=snakemake.params.dataset,
        roots=snakemake.params.roots,
        settings=snakemake.params.settings,
        stage_version=snakemake.params.stage_version,
        shard=wildcards.shard,
        gpus=snakemake.resources.get("gpu", 0),
        work=f"results/work/hoiref/{wildcards.dataset}/{wildcards.variant}",
        target=snakemake.output.rows,
    )
