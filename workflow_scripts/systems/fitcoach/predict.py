"""Runs Stream-VLM on one shard of episodes."""

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.systems.fitcoach.stages import predict_shard

    wildcards = snakemake.wildcards
    job.counts = predict_shard(
        samples=snakemake.input.samples,
        plan=snakemake.input.plan,
        features=snakemake.input.features[0],
        weights=list(snakemake.input.weights),
        trained=list(snakemake.input.get("trained") or []),
        settings=snakemake.params.settings,
        stage_version=snakemake.params.stage_version,
        shard=wildcards.shard,
        gpus=snakemake.resources.get("gpu", 0),
        work=f"results/work/fitcoach/{wildcards.dataset}/{wildcards.variant}",
        target=snakemake.output.rows,
    )
