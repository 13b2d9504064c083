# One file per system: every configured dataset and variant, value, interval, coverage, paper.
rule summarise:
    message:
        "Summarising {wildcards.system}: results/{wildcards.system}_metrics.json"
    input:
        unpack(plan.summary_inputs),
    output:
        metrics=report(
            "results/{system}_metrics.json",
            category="{system}",
            subcategory="metrics",
            labels={"content": "all metrics (JSON)"},
            caption="captions/metrics.rst",
        ),
    params:
        summary=plan.summary_params,
        stage_version=plan.versions["summarise"],
    log:
        "results/logs/summarise/{system}.log",
    benchmark:
        "results/benchmarks/summarise/{system}.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    conda:
        "../envs/core.yaml"
    script:
        "../workflow_scripts/summarise.py"
