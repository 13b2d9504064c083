"""Makes the prototypes of a dataset's actions."""

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.systems.sgear.prototype_stage import make_prototypes

    given = snakemake.input
    job.counts = make_prototypes(
        data=given.data[0],
        files=list(given.get("files") or []),
        language=list(given.get("language") or []),
        trained=list(given.get("trained") or []),
        weights=list(given.get("weights") or []),
        settings=snakemake.params.settings,
        gpus=snakemake.resources.get("gpu", 0),
        target=snakemake.output.prototypes,
    )
