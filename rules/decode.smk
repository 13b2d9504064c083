# Every video decoded once from end to end: integrity, rotation, timestamps, and the list of frames to use.
rule decode_frames:
    input:
        asset=collect(rules.acquire.output.record, asset=plan.asset_of_dataset),
    output:
        index="results/frames/{dataset}/{policy}/index.jsonl",
    log:
        "results/logs/decode_frames/{dataset}.{policy}.log",
    benchmark:
        "results/benchmarks/decode_frames/{dataset}.{policy}.tsv"
    conda:
        "../envs/video.yaml"
    threads: 2
    resources:
        mem_mb=growing(2000),
        runtime=growing(120),
    params:
        dataset=plan.dataset_params,
        policy=plan.policy_params,
        failed_videos=plan.flow.main.limits.failed_videos,
        stage_version=plan.versions["decode"],
    message:
        "Checking the videos of {wildcards.dataset} and listing the frames used ({wildcards.policy})"
    script:
        "../workflow_scripts/decode_frames.py"


# Every picture that a system asks for, taken out of its video once and kept for all that read it.
rule extract_frames:
    input:
        asset=collect(rules.acquire.output.record, asset=plan.asset_of_dataset),
        frames=collect(
            rules.decode_frames.output.index,
            policy=plan.pictures.policy,
            allow_missing=True,
        ),
        requests=plan.pictures.requests,
    output:
        index="results/frames/{dataset}/pictures.json",
    log:
        "results/logs/extract_frames/{dataset}.log",
    benchmark:
        "results/benchmarks/extract_frames/{dataset}.tsv"
    conda:
        "../envs/video.yaml"
    threads: 2
    resources:
        mem_mb=growing(4000),
        runtime=growing(240),
    params:
        dataset=plan.dataset_params,
        store=plan.flow.main.feature_store,
        stage_version=plan.versions["extract_frames"],
    message:
        "Taking the pictures that systems ask for out of the videos of {wildcards.dataset}"
    script:
        "../workflow_scripts/extract_frames.py"
