"""Decodes every video of a dataset from end to end and lists the frames used."""

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.registry import room_of_layout
    from sightline.run.stages import index_frames

    layout = snakemake.params.dataset["layout"]
    media = room_of_layout(layout, "media")
    job.counts = index_frames(
        list_media=media.READERS[layout],
        landmark=media.LANDMARKS[layout],
        asset=snakemake.input.asset[0],
        folder=snakemake.params.dataset["folder"],
        policy=snakemake.params.policy,
        failed_videos=snakemake.params.failed_videos,
        workers=snakemake.threads,
        target=snakemake.output.index,
    )
