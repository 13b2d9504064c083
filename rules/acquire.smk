# Fetch, verify and unpack what is published, or check what the user already has.
rule acquire:
    input:
        parts=plan.asset_sources,
    output:
        record="results/assets/{asset}/asset.json",
    log:
        "results/logs/acquire/{asset}.log",
    benchmark:
        "results/benchmarks/acquire/{asset}.tsv"
    retries: 2
    localrule: True
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(720),
    params:
        asset=plan.asset_params,
        offline=plan.flow.main.offline,
        stage_version=plan.versions["acquire"],
    message:
        "Fetching and checking {wildcards.asset}"
    script:
        "../workflow_scripts/acquire.py"
