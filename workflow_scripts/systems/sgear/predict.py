"""Runs S-GEAR, or a baseline, on one shard."""

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.systems.sgear.stages import predict_shard

    wildcards, given = snakemake.wildcards, snakemake.input
    job.counts = predict_shard(
        data=given.data[0],
        samples=given.samples,
        plan=given.plan,
        weights=list(given.get("weights") or []),
        trained=list(given.get("trained") or []),
        counted=list(given.get("counted") or []),
        dataset=snakemake.params.dataset,
        counted_dataset=snakemake.params.counted,
        settings=snakemake.params.settings,
        backend=snakemake.params.store,
        stage_version=snakemake.params.stage_version,
        shard=wildcards.shard,
        gpus=snakemake.resources.get("gpu", 0),
        work=f"results/work/sgear/{wildcards.dataset}/{wildcards.variant}",
        rows_target=snakemake.output.rows,
        logits_target=snakemake.output.logits,
    )
