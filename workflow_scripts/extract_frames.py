"""Takes the pictures that systems ask for out of a dataset's videos."""

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.registry import room_of_layout
    from sightline.run.extraction import extract_pictures

    layout = snakemake.params.dataset["layout"]
    media = room_of_layout(layout, "media")
    job.counts = extract_pictures(
        list_media=media.READERS[layout],
        landmark=media.LANDMARKS[layout],
        asset=snakemake.input.asset[0],
        folder=snakemake.params.dataset["folder"],
        frames=snakemake.input.frames[0],
        requests=list(snakemake.input.requests),
        backend=snakemake.params.store,
        stage_version=snakemake.params.stage_version,
        workers=snakemake.threads,
        work=f"results/work/frames/{snakemake.wildcards.dataset}",
        target=snakemake.output.index,
    )
