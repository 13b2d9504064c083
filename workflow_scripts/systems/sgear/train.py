"""Trains S-GEAR on a split."""

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.systems.sgear.train_stage import train_checkpoint

    name = snakemake.wildcards.training
    job.counts = train_checkpoint(
        name=name,
        data=snakemake.input.data[0],
        weights=list(snakemake.input.weights),
        base=list(snakemake.input.get("init") or []),
        prototypes=snakemake.input.prototypes,
        dataset=snakemake.params.dataset,
        settings=snakemake.params.settings,
        stage_version=snakemake.params.stage_version,
        gpus=snakemake.resources.get("gpu", 0),
        work=f"results/work/sgear/training/{name}",
        tensorboard=f"results/tensorboard/sgear/{name}",
        checkpoint=snakemake.output.checkpoint,
        record=snakemake.output.record,
    )
