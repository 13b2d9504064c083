# What can be asked of Stream-VLM by name, and the file a benchmark takes.
rule fitcoach_submit:
    input:
        samples=rules.fitcoach_samples.output.samples,
        predictions=rules.fitcoach_score.input.predictions,
    output:
        submission="results/runs/fitcoach/{dataset}/{variant}/submission.json",
    log:
        "results/logs/fitcoach_submit/{dataset}.{variant}.log",
    wildcard_constraints:
        dataset=fitcoach.datasets,
        variant=fitcoach.variants,
    localrule: True
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(20),
    params:
        stage_version=plan.versions["submit"],
    message:
        "What {wildcards.variant} said in each video of {wildcards.dataset}, as a submission"
    script:
        "../../workflow_scripts/systems/fitcoach/submit.py"


rule fitcoach_submission:
    input:
        expand(rules.fitcoach_submit.output.submission, zip, **fitcoach.selected),
    localrule: True


rule fitcoach_features:
    input:
        expand(rules.index_features.output.index, zip, **fitcoach.selected_features),
    localrule: True


rule fitcoach_predictions:
    input:
        expand(
            "results/runs/fitcoach/{dataset}/{variant}/predictions.parquet",
            zip,
            **fitcoach.selected,
        ),
    localrule: True


rule fitcoach_scores:
    input:
        expand(rules.fitcoach_score.output.scores, zip, **fitcoach.selected),
    localrule: True
