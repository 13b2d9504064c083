# S-GEAR: features or videos -> logits of the next action -> recall by group, fused with other runs' logits.
sgear = plan.room("sgear")


rule sgear_demo:
    output:
        parts=plan.generated("sgear_demo"),
    log:
        "results/logs/sgear_demo.log",
    benchmark:
        "results/benchmarks/sgear_demo.tsv"
    conda:
        "../../envs/video.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        generator=plan.generator("sgear_demo"),
        stage_version=plan.versions["demo"],
    message:
        "Drawing S-GEAR's demo: actions, features, videos"
    script:
        "../../workflow_scripts/systems/sgear/demo.py"


rule sgear_samples:
    input:
        data=collect(rules.acquire.output.record, asset=plan.asset_of_dataset),
    output:
        samples="results/runs/sgear/{dataset}/{variant}/samples.parquet",
        plan="results/runs/sgear/{dataset}/{variant}/plan.json",
    log:
        "results/logs/sgear_samples/{dataset}.{variant}.log",
    wildcard_constraints:
        dataset=sgear.datasets,
        variant=sgear.variants,
    localrule: True
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        dataset=plan.dataset_params,
        settings=sgear.sample_settings,
        sampling=sgear.sampling,
        stage_version=plan.versions["samples"],
    message:
        "Actions of {wildcards.dataset} to be anticipated by {wildcards.variant}"
    script:
        "../../workflow_scripts/systems/sgear/samples.py"


rule sgear_predict:
    input:
        unpack(sgear.prediction_inputs),
        data=rules.sgear_samples.input.data,
        samples=rules.sgear_samples.output.samples,
        plan=rules.sgear_samples.output.plan,
    output:
        rows="results/runs/sgear/{dataset}/{variant}/shards/{shard}.jsonl",
        logits="results/runs/sgear/{dataset}/{variant}/logits/{shard}.json",
    log:
        "results/logs/sgear_predict/{dataset}.{variant}.{shard}.log",
    benchmark:
        "results/benchmarks/sgear_predict/{dataset}.{variant}.{shard}.tsv"
    wildcard_constraints:
        dataset=sgear.datasets,
        variant=sgear.answering,
    conda:
        "../../envs/llm.yaml"
    threads: 1
    resources:
        mem_mb=growing(sgear.mem_mb),
        runtime=growing(240),
        gpu=sgear.gpus,
    params:
        dataset=plan.dataset_params,
        counted=sgear.counted_dataset,
        settings=sgear.settings,
        store=plan.flow.main.feature_store,
        stage_version=plan.versions["predict"],
    message:
        "S-GEAR ({wildcards.variant}) anticipates {wildcards.dataset}, shard {wildcards.shard}"
    script:
        "../../workflow_scripts/systems/sgear/predict.py"


# The logits of other runs, weighted and added.
rule sgear_fuse:
    input:
        unpack(sgear.member_inputs),
        data=rules.sgear_samples.input.data,
        samples=rules.sgear_samples.output.samples,
        plan=rules.sgear_samples.output.plan,
    output:
        rows="results/runs/sgear/{dataset}/{variant}/shards/{shard}.jsonl",
        logits="results/runs/sgear/{dataset}/{variant}/logits/{shard}.json",
    log:
        "results/logs/sgear_fuse/{dataset}.{variant}.{shard}.log",
    benchmark:
        "results/benchmarks/sgear_fuse/{dataset}.{variant}.{shard}.tsv"
    wildcard_constraints:
        dataset=sgear.datasets,
        variant=sgear.fusions,
    conda:
        "../../envs/llm.yaml"
    threads: 1
    resources:
        mem_mb=growing(sgear.mem_mb),
        runtime=growing(60),
    params:
        dataset=plan.dataset_params,
        settings=sgear.settings,
        store=plan.flow.main.feature_store,
        stage_version=plan.versions["predict"],
    message:
        "Fusing logits for {wildcards.variant} on {wildcards.dataset}, shard {wildcards.shard}"
    script:
        "../../workflow_scripts/systems/sgear/fuse.py"


rule sgear_score:
    input:
        unpack(sgear.reference_inputs),
        data=rules.sgear_samples.input.data,
        samples=rules.sgear_samples.output.samples,
        predictions="results/runs/sgear/{dataset}/{variant}/predictions.parquet",
        logits=sgear.logits,
    output:
        scores="results/runs/sgear/{dataset}/{variant}/scores.parquet",
        absent="results/runs/sgear/{dataset}/{variant}/absent.json",
    log:
        "results/logs/sgear_score/{dataset}.{variant}.log",
    benchmark:
        "results/benchmarks/sgear_score/{dataset}.{variant}.tsv"
    wildcard_constraints:
        dataset=sgear.datasets,
        variant=sgear.variants,
    conda:
        "../../envs/llm.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        dataset=plan.dataset_params,
        scoring=sgear.scoring,
        stage_version=plan.versions["score"],
    message:
        "Scoring {wildcards.variant} on {wildcards.dataset}"
    script:
        "../../workflow_scripts/systems/sgear/score.py"


rule sgear_views:
    input:
        data=rules.sgear_samples.input.data,
        videos=sgear.video_assets,
        samples=rules.sgear_samples.output.samples,
        predictions=rules.sgear_score.input.predictions,
        scores=rules.sgear_score.output.scores,
    output:
        views="results/runs/sgear/{dataset}/{variant}/views.parquet",
    log:
        "results/logs/sgear_views/{dataset}.{variant}.log",
    wildcard_constraints:
        dataset=sgear.datasets,
        variant=sgear.variants,
    conda:
        "../../envs/video.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        dataset=plan.dataset_params,
        scoring=sgear.scoring,
        settings=sgear.sample_settings,
        videos=sgear.videos,
        bootstrap=sgear.bootstrap,
        names=sgear.names,
        stage_version=plan.versions["views"],
    message:
        "Pictures of {wildcards.variant} on {wildcards.dataset}"
    script:
        "../../workflow_scripts/systems/sgear/views.py"
