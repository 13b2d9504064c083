# The pages people open, and the check before anything runs.
rule report:
    message:
        "Drawing the report pages"
    input:
        metrics=expand(rules.summarise.output.metrics, system=plan.systems),
        views=plan.view_files(),
    output:
        comparison=report(
            "results/report/comparison.html",
            category="Comparison",
            labels={"content": "our values, intervals and the paper's"},
            caption="captions/comparison.rst",
        ),
        timelines=report(
            "results/report/samples.html",
            category="Samples",
            labels={"content": "what was said and what should have been said"},
            caption="captions/samples.rst",
        ),
        timing=report(
            "results/report/timing.html",
            category="Time",
            labels={"content": "where the time went, per stage"},
            caption="captions/timing.rst",
        ),
        timings="results/report/timings.parquet",
    params:
        stage_version=plan.versions["report"],
    log:
        "results/logs/report.log",
    benchmark:
        "results/benchmarks/report.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    conda:
        "../envs/core.yaml"
    script:
        "../workflow_scripts/report.py"


rule check:
    message:
        "What this configuration needs, what is there, what is missing"
    localrule: True
    params:
        config=plan.flow.main.model_dump(mode="json"),
        root=Path(workflow.basedir, "config").as_posix(),
    log:
        "results/logs/check.log",
    threads: 1
    conda:
        "../envs/core.yaml"
    script:
        "../workflow_scripts/check.py"
