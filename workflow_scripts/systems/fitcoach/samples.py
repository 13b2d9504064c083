"""Cuts a split into episodes, blocks and shards."""

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.systems.fitcoach.stages import make_samples

    job.counts = make_samples(
        data=snakemake.input.data[0],
        features=snakemake.input.features[0],
        dataset=snakemake.params.dataset,
        episodes=snakemake.params.episodes,
        sampling=snakemake.params.sampling,
        samples_target=snakemake.output.samples,
        plan_target=snakemake.output.plan,
    )
