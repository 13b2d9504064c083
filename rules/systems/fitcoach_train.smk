# Stream-VLM fine-tuned on a split: samples and features -> a checkpoint in the released layout.
rule fitcoach_train:
    input:
        data=collect(rules.acquire.output.record, asset=fitcoach.training.dataset_asset),
        features=collect(
            rules.index_features.output.index,
            dataset=fitcoach.training.dataset,
            extractor=fitcoach.training.extractor,
        ),
        weights=collect(
            rules.acquire.output.record, asset=fitcoach.training.weights_assets
        ),
        base=fitcoach.training.base_checkpoint,
    output:
        checkpoint="results/checkpoints/fitcoach/{training}/state_dict.pth.tar",
        record="results/checkpoints/fitcoach/{training}/training.json",
    log:
        "results/logs/fitcoach_train/{training}.log",
    benchmark:
        "results/benchmarks/fitcoach_train/{training}.tsv"
    wildcard_constraints:
        training=fitcoach.training.names,
    conda:
        "../../envs/train.yaml"
    threads: fitcoach.training.threads
    resources:
        mem_mb=growing(fitcoach.training.mem_mb),
        runtime=growing(fitcoach.training.minutes),
        gpu=fitcoach.training.gpus,
    params:
        dataset=fitcoach.training.dataset_params,
        settings=fitcoach.training.settings,
        stage_version=plan.versions["train"],
    message:
        "Training Stream-VLM: {wildcards.training}"
    script:
        "../../workflow_scripts/systems/fitcoach/train.py"
