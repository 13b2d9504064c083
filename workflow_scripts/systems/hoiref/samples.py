"""Turns the records of HOI-QA's test split into questions, blocks and shards."""

from sightline.run.logs import stage

with stage(snakemake) as job:
    from sightline.systems.hoiref.stages import make_samples

    job.counts = make_samples(
        data=snakemake.input.data[0],
        dataset=snakemake.params.dataset,
        settings=snakemake.params.settings,
        sampling=snakemake.params.sampling,
        samples_target=snakemake.output.samples,
        plan_target=snakemake.output.plan,
    )
