# VLM4HOI fine-tuned on conversations: the frozen tower's outputs are kept -> a checkpoint of the released form.
rule hoiref_train:
    input:
        data=collect(rules.acquire.output.record, asset=hoiref.training.dataset_asset),
        frames=collect(rules.acquire.output.record, asset=hoiref.training.frames_assets),
        weights=collect(
            rules.acquire.output.record, asset=hoiref.training.weights_assets
        ),
        base=hoiref.training.base_checkpoint,
    output:
        checkpoint="results/checkpoints/hoiref/{training}/checkpoint.pth",
        record="results/checkpoints/hoiref/{training}/training.json",
    log:
        "results/logs/hoiref_train/{training}.log",
    benchmark:
        "results/benchmarks/hoiref_train/{training}.tsv"
    wildcard_constraints:
        training=hoiref.training.names,
    conda:
        "../../envs/train.yaml"
    threads: hoiref.training.threads
    resources:
        mem_mb=growing(hoiref.training.mem_mb),
        runtime=growing(hoiref.training.minutes),
        gpu=hoiref.training.gpus,
    params:
        dataset=hoiref.training.dataset_params,
        roots=hoiref.training.frames,
        settings=hoiref.training.settings,
        stage_version=plan.versions["train"],
    message:
        "Training VLM4HOI: {wildcards.training}"
    script:
        "../../workflow_scripts/systems/hoiref/train.py"
