# The pages people open, and the check before anything runs.
rule report:
    input:
        metrics=expand(rules.summarise.output.metrics, system=plan.systems),
        views=plan.view_files(),
        trainings=plan.training_records(),
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
    log:
        "results/logs/report.log",
    benchmark:
        "results/benchmarks/report.tsv"
    localrule: True
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        stage_version=plan.versions["report"],
    message:
        "Drawing the report pages"
    script:
        "../workflow_scripts/report.py"


rule check:
    log:
        "results/logs/check.log",
    retries: 0
    localrule: True
    conda:
        "../envs/core.yaml"
    threads: 1
    params:
        config=plan.flow.main.model_dump(mode="json"),
        root=Path(workflow.basedir, "config").as_posix(),
        stacks=Path(workflow.basedir, "envs").as_posix(),
        cluster=request_params(workflow),
    message:
        "What this configuration needs, what is there, what is missing"
    script:
        "../workflow_scripts/check.py"
