"""Turns a split's actions into samples, blocks and shards."""

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.systems.sgear.stages import make_samples

    job.counts = make_samples(
        data=snakemake.input.data[0],
        dataset=snakemake.params.dataset,
        settings=snakemake.params.settings,
        sampling=snakemake.params.sampling,
        samples_target=snakemake.output.samples,
        plan_target=snakemake.output.plan,
    )
