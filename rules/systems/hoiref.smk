# VLM4HOI: frames and questions -> boxes and names -> accuracy by task, under the published and the corrected rules.
hoiref = plan.room("hoiref")


rule hoiref_demo:
    output:
        parts=plan.generated("hoiref_demo"),
    log:
        "results/logs/hoiref_demo.log",
    benchmark:
        "results/benchmarks/hoiref_demo.tsv"
    conda:
        "../../envs/train.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        generator=plan.generator("hoiref_demo"),
        stage_version=plan.versions["demo"],
    message:
        "Drawing HOI-Ref's demo: hands and objects, and a tower that has seen some"
    script:
        "../../workflow_scripts/systems/hoiref/demo.py"


rule hoiref_samples:
    input:
        data=collect(rules.acquire.output.record, asset=plan.asset_of_dataset),
    output:
        samples="results/runs/hoiref/{dataset}/{variant}/samples.parquet",
        plan="results/runs/hoiref/{dataset}/{variant}/plan.json",
    log:
        "results/logs/hoiref_samples/{dataset}.{variant}.log",
    wildcard_constraints:
        dataset=hoiref.datasets,
        variant=hoiref.variants,
    localrule: True
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        dataset=plan.dataset_params,
        settings=hoiref.episode_params,
        sampling=hoiref.sampling,
        stage_version=plan.versions["samples"],
    message:
        "Questions of {wildcards.dataset} for {wildcards.variant}, grouped by picture"
    script:
        "../../workflow_scripts/systems/hoiref/samples.py"


rule hoiref_predict:
    input:
        data=rules.hoiref_samples.input.data,
        frames=hoiref.frames_records,
        samples=rules.hoiref_samples.output.samples,
        plan=rules.hoiref_samples.output.plan,
        weights=collect(rules.acquire.output.record, asset=hoiref.weights_assets),
        trained=hoiref.training.of_variant,
    output:
        rows="results/runs/hoiref/{dataset}/{variant}/shards/{shard}.jsonl",
    log:
        "results/logs/hoiref_predict/{dataset}.{variant}.{shard}.log",
    benchmark:
        "results/benchmarks/hoiref_predict/{dataset}.{variant}.{shard}.tsv"
    wildcard_constraints:
        dataset=hoiref.datasets,
        variant=hoiref.variants,
    conda:
        "../../envs/llm.yaml"
    threads: 1
    resources:
        mem_mb=growing(hoiref.mem_mb),
        runtime=growing(240),
        gpu=hoiref.gpus,
    params:
        dataset=plan.dataset_params,
        roots=hoiref.frames,
        settings=hoiref.settings,
        stage_version=plan.versions["predict"],
    message:
        "{wildcards.variant} answers {wildcards.dataset}, shard {wildcards.shard}"
    script:
        "../../workflow_scripts/systems/hoiref/predict.py"


rule hoiref_score:
    input:
        samples=rules.hoiref_samples.output.samples,
        predictions="results/runs/hoiref/{dataset}/{variant}/predictions.parquet",
        counted=hoiref.counted,
    output:
        scores="results/runs/hoiref/{dataset}/{variant}/scores.parquet",
        absent="results/runs/hoiref/{dataset}/{variant}/absent.json",
        answers="results/runs/hoiref/{dataset}/{variant}/answers.json",
    log:
        "results/logs/hoiref_score/{dataset}.{variant}.log",
    benchmark:
        "results/benchmarks/hoiref_score/{dataset}.{variant}.tsv"
    wildcard_constraints:
        dataset=hoiref.datasets,
        variant=hoiref.variants,
    conda:
        "../../envs/metrics.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        counted=hoiref.counted_dataset,
        scoring=hoiref.scoring,
        stage_version=plan.versions["score"],
    message:
        "Scoring {wildcards.variant} on {wildcards.dataset}"
    script:
        "../../workflow_scripts/systems/hoiref/score.py"


rule hoiref_views:
    input:
        data=rules.hoiref_samples.input.data,
        frames=hoiref.frames_records,
        samples=rules.hoiref_samples.output.samples,
        predictions=rules.hoiref_score.input.predictions,
        scores=rules.hoiref_score.output.scores,
        answers=rules.hoiref_score.output.answers,
    output:
        views="results/runs/hoiref/{dataset}/{variant}/views.parquet",
    log:
        "results/logs/hoiref_views/{dataset}.{variant}.log",
    wildcard_constraints:
        dataset=hoiref.datasets,
        variant=hoiref.variants,
    conda:
        "../../envs/llm.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        dataset=plan.dataset_params,
        roots=hoiref.frames,
        scoring=hoiref.scoring,
        bootstrap=hoiref.bootstrap,
        stage_version=plan.versions["views"],
    message:
        "Pictures of {wildcards.variant} on {wildcards.dataset}"
    script:
        "../../workflow_scripts/systems/hoiref/views.py"
