# A language model grades what was said; only for judges that a run selects. No pair is ever judged twice.
judging = plan.judging


rule judge:
    input:
        samples="results/runs/{system}/{dataset}/{variant}/samples.parquet",
        predictions="results/runs/{system}/{dataset}/{variant}/predictions.parquet",
        assets=collect(rules.acquire.output.record, asset=judging.assets),
    output:
        scores="results/runs/{system}/{dataset}/{variant}/judge.{judge}.parquet",
        replies="results/runs/{system}/{dataset}/{variant}/judge.{judge}.jsonl",
        notes="results/runs/{system}/{dataset}/{variant}/judge.{judge}.json",
    log:
        "results/logs/judge/{system}.{dataset}.{variant}.{judge}.log",
    benchmark:
        "results/benchmarks/judge/{system}.{dataset}.{variant}.{judge}.tsv"
    wildcard_constraints:
        judge=judging.names,
    conda:
        "../envs/llm.yaml"
    threads: 1
    resources:
        mem_mb=growing(judging.mem_mb),
        runtime=growing(720),
        gpu=judging.gpus,
    params:
        judge=judging.params,
        scoring=judging.scoring,
        stage_version=plan.versions["judge"],
    message:
        "Judge {wildcards.judge} grades {wildcards.variant} on {wildcards.dataset}"
    script:
        "../workflow_scripts/judge.py"
