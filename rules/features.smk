# The shards of an extraction joined into one readable store.
rule index_features:
    input:
        shards=collect(
            "results/features/{dataset}/{extractor}/shards/{shard}.json",
            shard=plan.feature_shards,
            allow_missing=True,
        ),
    output:
        index="results/features/{dataset}/{extractor}/index.json",
    log:
        "results/logs/index_features/{dataset}.{extractor}.log",
    localrule: True
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(20),
    params:
        stage_version=plan.versions["features"],
    message:
        "Joining the features of {wildcards.dataset} ({wildcards.extractor})"
    script:
        "../workflow_scripts/index_features.py"
