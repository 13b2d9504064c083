# S-GEAR's trainings, and what they must know of the classes beforehand: language and visual prototypes.
rule sgear_prototypes:
    input:
        unpack(sgear.prototype_inputs),
    output:
        prototypes="results/prototypes/sgear/{prototypes}/prototypes.safetensors",
        record="results/prototypes/sgear/{prototypes}/prototypes.json",
    log:
        "results/logs/sgear_prototypes/{prototypes}.log",
    benchmark:
        "results/benchmarks/sgear_prototypes/{prototypes}.tsv"
    wildcard_constraints:
        prototypes=sgear.prototype_names,
    conda:
        "../../envs/llm.yaml"
    threads: 1
    resources:
        mem_mb=growing(sgear.prototype_mem_mb),
        runtime=growing(240),
        gpu=sgear.prototype_gpus,
    params:
        settings=sgear.prototype_settings,
        stage_version=plan.versions["features"],
    message:
        "Prototypes of the actions: {wildcards.prototypes}"
    script:
        "../../workflow_scripts/systems/sgear/prototypes.py"


rule sgear_train:
    input:
        data=collect(rules.acquire.output.record, asset=sgear.training.dataset_asset),
        weights=collect(
            rules.acquire.output.record, asset=sgear.training.weights_assets
        ),
        prototypes=sgear.training.prototypes,
        init=sgear.training.base_checkpoint,
    output:
        checkpoint="results/checkpoints/sgear/{training}/checkpoint.pth",
        record="results/checkpoints/sgear/{training}/training.json",
    log:
        "results/logs/sgear_train/{training}.log",
    benchmark:
        "results/benchmarks/sgear_train/{training}.tsv"
    wildcard_constraints:
        training=sgear.training.names,
    conda:
        "../../envs/train.yaml"
    threads: sgear.training.threads
    resources:
        mem_mb=growing(sgear.training.mem_mb),
        runtime=growing(sgear.training.minutes),
        gpu=sgear.training.gpus,
    params:
        dataset=sgear.training.dataset_params,
        settings=sgear.training.settings,
        stage_version=plan.versions["train"],
    message:
        "Training S-GEAR: {wildcards.training}"
    script:
        "../../workflow_scripts/systems/sgear/train.py"
