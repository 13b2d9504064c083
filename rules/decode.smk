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
        mem_mb=2000,
        runtime=120,
    params:
        dataset=plan.dataset_params,
        policy=plan.policy_params,
        failed_videos=plan.flow.main.limits.failed_videos,
        stage_version=plan.versions["decode"],
    message:
        "Checking the videos of {wildcards.dataset} and listing the frames used ({wildcards.policy})"
    script:
        "../workflow_scripts/decode_frames.py"
