"""Extracts the 3D-CNN features of one shard of videos."""

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.systems.fitcoach.stages import extract_features

    job.counts = extract_features(
        frames=snakemake.input.frames[0],
        data=snakemake.input.data[0],
        weights=snakemake.input.weights[0],
        dataset=snakemake.params.dataset,
        extractor=snakemake.params.extractor,
        backend=snakemake.params.store,
        failed_videos=snakemake.params.failed_videos,
        stage_version=snakemake.params.stage_version,
        shard=snakemake.wildcards.shard,
        gpus=snakemake.resources.get("gpu", 0),
        work=f"results/work/features/{snakemake.wildcards.dataset}/{snakemake.wildcards.extractor}",
        target=snakemake.output.index,
    )
