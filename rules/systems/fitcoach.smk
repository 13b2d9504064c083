# Stream-VLM: workout videos -> 3D-CNN features -> what was said and when -> temporal F and text metrics.
fitcoach = plan.room("fitcoach")


rule fitcoach_demo:
    output:
        parts=plan.generated("fitcoach_demo"),
    log:
        "results/logs/fitcoach_demo.log",
    benchmark:
        "results/benchmarks/fitcoach_demo.tsv"
    conda:
        "../../envs/llm.yaml"
    threads: 2
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        generator=plan.generator("fitcoach_demo"),
        stage_version=plan.versions["demo"],
    message:
        "Drawing the demo workouts and filling the demo weights"
    script:
        "../../workflow_scripts/systems/fitcoach/demo.py"


rule fitcoach_extract:
    input:
        frames=collect(
            rules.decode_frames.output.index,
            policy=plan.extractor_policy,
            allow_missing=True,
        ),
        data=collect(rules.acquire.output.record, asset=plan.asset_of_dataset),
        weights=collect(rules.acquire.output.record, asset=plan.extractor_asset),
    output:
        index="results/features/{dataset}/{extractor}/shards/{shard}.json",
    log:
        "results/logs/fitcoach_extract/{dataset}.{extractor}.{shard}.log",
    benchmark:
        "results/benchmarks/fitcoach_extract/{dataset}.{extractor}.{shard}.tsv"
    wildcard_constraints:
        dataset=fitcoach.datasets,
        extractor=fitcoach.extractors,
    conda:
        "../../envs/llm.yaml"
    threads: 1
    resources:
        mem_mb=growing(plan.extractor_mem_mb),
        runtime=growing(240),
        gpu=plan.extractor_gpus,
    params:
        dataset=plan.dataset_params,
        extractor=plan.extractor_settings,
        store=plan.flow.main.feature_store,
        failed_videos=plan.flow.main.limits.failed_videos,
        stage_version=plan.versions["features"],
    message:
        "3D-CNN features of {wildcards.dataset}, shard {wildcards.shard}"
    script:
        "../../workflow_scripts/systems/fitcoach/extract.py"


rule fitcoach_samples:
    input:
        data=collect(rules.acquire.output.record, asset=plan.asset_of_dataset),
        features=collect(
            rules.index_features.output.index,
            extractor=fitcoach.extractor,
            allow_missing=True,
        ),
    output:
        samples="results/runs/fitcoach/{dataset}/{variant}/samples.parquet",
        plan="results/runs/fitcoach/{dataset}/{variant}/plan.json",
    log:
        "results/logs/fitcoach_samples/{dataset}.{variant}.log",
    wildcard_constraints:
        dataset=fitcoach.datasets,
        variant=fitcoach.variants,
    localrule: True
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        dataset=plan.dataset_params,
        episodes=fitcoach.episode_params,
        sampling=fitcoach.sampling,
        stage_version=plan.versions["samples"],
    message:
        "Episodes of {wildcards.dataset} for {wildcards.variant}, cut into blocks and shards"
    script:
        "../../workflow_scripts/systems/fitcoach/samples.py"


rule fitcoach_predict:
    input:
        samples=rules.fitcoach_samples.output.samples,
        plan=rules.fitcoach_samples.output.plan,
        features=rules.fitcoach_samples.input.features,
        weights=collect(rules.acquire.output.record, asset=fitcoach.weights_assets),
        trained=fitcoach.training.of_variant,
    output:
        rows="results/runs/fitcoach/{dataset}/{variant}/shards/{shard}.jsonl",
    log:
        "results/logs/fitcoach_predict/{dataset}.{variant}.{shard}.log",
    benchmark:
        "results/benchmarks/fitcoach_predict/{dataset}.{variant}.{shard}.tsv"
    wildcard_constraints:
        dataset=fitcoach.datasets,
        variant=fitcoach.variants,
    conda:
        "../../envs/llm.yaml"
    threads: 1
    resources:
        mem_mb=growing(fitcoach.mem_mb),
        runtime=growing(240),
        gpu=fitcoach.gpus,
    params:
        settings=fitcoach.settings,
        stage_version=plan.versions["predict"],
    message:
        "Stream-VLM ({wildcards.variant}) coaches {wildcards.dataset}, shard {wildcards.shard}"
    script:
        "../../workflow_scripts/systems/fitcoach/predict.py"


rule fitcoach_score:
    input:
        samples=rules.fitcoach_samples.output.samples,
        predictions="results/runs/fitcoach/{dataset}/{variant}/predictions.parquet",
        encoder=collect(rules.acquire.output.record, asset=fitcoach.scoring_assets),
    output:
        scores="results/runs/fitcoach/{dataset}/{variant}/scores.parquet",
        absent="results/runs/fitcoach/{dataset}/{variant}/absent.json",
        pairs="results/runs/fitcoach/{dataset}/{variant}/matched_pairs.json",
    log:
        "results/logs/fitcoach_score/{dataset}.{variant}.log",
    benchmark:
        "results/benchmarks/fitcoach_score/{dataset}.{variant}.tsv"
    wildcard_constraints:
        dataset=fitcoach.datasets,
        variant=fitcoach.variants,
    conda:
        "../../envs/metrics.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        scoring=fitcoach.scoring,
        stage_version=plan.versions["score"],
    message:
        "Scoring {wildcards.variant} on {wildcards.dataset}"
    script:
        "../../workflow_scripts/systems/fitcoach/score.py"


rule fitcoach_views:
    input:
        data=collect(rules.acquire.output.record, asset=plan.asset_of_dataset),
        samples=rules.fitcoach_samples.output.samples,
        predictions=rules.fitcoach_score.input.predictions,
        scores=rules.fitcoach_score.output.scores,
    output:
        views="results/runs/fitcoach/{dataset}/{variant}/views.parquet",
    log:
        "results/logs/fitcoach_views/{dataset}.{variant}.log",
    wildcard_constraints:
        dataset=fitcoach.datasets,
        variant=fitcoach.variants,
    conda:
        "../../envs/video.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        dataset=plan.dataset_params,
        extractor=fitcoach.extractor_settings,
        scoring=fitcoach.scoring,
        stage_version=plan.versions["views"],
    message:
        "Timelines of {wildcards.variant} on {wildcards.dataset}"
    script:
        "../../workflow_scripts/systems/fitcoach/views.py"
