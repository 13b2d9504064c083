# Fetch, verify and unpack what is published, or check what the user already has.
rule acquire:
    message:
        "Fetching and checking {wildcards.asset}"
    input:
        parts=plan.asset_sources,
    output:
        record="results/assets/{asset}/asset.json",
    params:
        asset=plan.asset_params,
        offline=plan.flow.main.offline,
        stage_version=plan.versions["acquire"],
    log:
        "results/logs/acquire/{asset}.log",
    benchmark:
        "results/benchmarks/acquire/{asset}.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=720,
    retries: 2
    conda:
        "../envs/core.yaml"
    script:
        "../workflow_scripts/acquire.py"
