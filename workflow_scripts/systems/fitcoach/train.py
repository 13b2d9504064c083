"""Trains Stream-VLM on a split's episodes."""

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.systems.fitcoach.train_stage import train_checkpoint

    name = snakemake.wildcards.training
    job.counts = train_checkpoint(
        name=name,
        data=snakemake.input.data[0],
        features=snakemake.input.features[0],
        weights=list(snakemake.input.weights),
        base=list(snakemake.input.get("base") or []),
        dataset=snakemake.params.dataset,
        settings=snakemake.params.settings,
        stage_version=snakemake.params.stage_version,
        gpus=snakemake.resources.get("gpu", 0),
        work=f"results/work/fitcoach/training/{name}",
        tensorboard=f"results/tensorboard/fitcoach/{name}",
        checkpoint=snakemake.output.checkpoint,
        record=snakemake.output.record,
    )
