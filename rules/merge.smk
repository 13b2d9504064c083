# Every id exactly once: none lost, none extra, none stale.
rule merge_predictions:
    input:
        samples="results/runs/{system}/{dataset}/{variant}/samples.parquet",
        shards=collect(
            "results/runs/{system}/{dataset}/{variant}/shards/{shard}.jsonl",
            shard=plan.predict_shards,
            allow_missing=True,
        ),
    output:
        predictions="results/runs/{system}/{dataset}/{variant}/predictions.parquet",
    log:
        "results/logs/merge_predictions/{system}.{dataset}.{variant}.log",
    benchmark:
        "results/benchmarks/merge_predictions/{system}.{dataset}.{variant}.tsv"
    localrule: True
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        stage_version=plan.versions["merge"],
    message:
        "Merging the predictions of {wildcards.system} on {wildcards.dataset} ({wildcards.variant})"
    script:
        "../workflow_scripts/merge_predictions.py"
