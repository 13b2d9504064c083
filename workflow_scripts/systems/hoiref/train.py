"""Trains VLM4HOI on conversations."""

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.systems.hoiref.train_stage import train_checkpoint

    name = snakemake.wildcards.training
    job.counts = train_checkpoint(
        name=name,
        data=snakemake.input.data[0],
        frames=list(snakemake.input.get("frames") or []),
        weights=list(snakemake.input.weights),
        base=list(snakemake.input.get("base") or []),
        dataset=snakemake.params.dataset,
        roots=snakemake.params.roots,
        settings=snakemake.params.settings,
        stage_version=snakemake.params.stage_version,
        gpus=snakemake.resources.get("gpu", 0),
        work=f"results/work/hoiref/training/{name}",
        tensorboard=f"results/tensorboard/hoiref/{name}",
        checkpoint=snakemake.output.checkpoint,
        record=snakemake.output.record,
    )
