# One file per system: every configured dataset and variant, value, interval, coverage, paper.
rule summarise:
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
    log:
        "results/logs/summarise/{system}.log",
    benchmark:
        "results/benchmarks/summarise/{system}.tsv"
    localrule: True
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        summary=plan.summary_params,
        stage_version=plan.versions["summarise"],
    message:
        "Summarising {wildcards.system}: results/{wildcards.system}_metrics.json"
    script:
        "../workflow_scripts/summarise.py"
