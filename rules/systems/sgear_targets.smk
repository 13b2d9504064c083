# What can be asked of S-GEAR by name, and the job that small runs share.
rule sgear_small_runs:
    input:
        unpack(sgear.shared_inputs),
    output:
        sgear.shared_files,
    log:
        "results/logs/sgear_small_runs.log",
    benchmark:
        "results/benchmarks/sgear_small_runs.tsv"
    conda:
        "../../envs/llm.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        runs=sgear.shared_runs,
        scoring=sgear.scoring,
        store=plan.flow.main.feature_store,
        stage_versions={
            name: plan.versions[name]
            for name in ("samples", "predict", "merge", "score", "views")
        },
    message:
        "S-GEAR on small datasets: everything after the trainings, in one job"
    script:
        "../../workflow_scripts/systems/sgear/small_runs.py"


ruleorder: sgear_small_runs > sgear_samples
ruleorder: sgear_small_runs > merge_predictions
ruleorder: sgear_small_runs > sgear_score
ruleorder: sgear_small_runs > sgear_views


rule sgear_submit:
    input:
        data=rules.sgear_samples.input.data,
        samples=rules.sgear_samples.output.samples,
        plan=rules.sgear_samples.output.plan,
        predictions=rules.sgear_score.input.predictions,
        logits=sgear.logits,
    output:
        submission="results/runs/sgear/{dataset}/{variant}/submit.zip",
    log:
        "results/logs/sgear_submit/{dataset}.{variant}.log",
    wildcard_constraints:
        dataset=sgear.datasets,
        variant=sgear.variants,
    conda:
        "../../envs/llm.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(20),
    params:
        dataset=plan.dataset_params,
        settings=sgear.sample_settings,
        stage_version=plan.versions["submit"],
    message:
        "Challenge submission of {wildcards.variant} on {wildcards.dataset}"
    script:
        "../../workflow_scripts/systems/sgear/submit.py"


rule sgear_submission:
    input:
        expand(rules.sgear_submit.output.submission, zip, **sgear.selected),
    localrule: True


rule sgear_predictions:
    input:
        expand(
            "results/runs/sgear/{dataset}/{variant}/predictions.parquet",
            zip,
            **sgear.selected,
        ),
    localrule: True


rule sgear_scores:
    input:
        expand(rules.sgear_score.output.scores, zip, **sgear.selected),
    localrule: True
