# What can be asked of VLM4HOI by name.
rule hoiref_predictions:
    input:
        expand(
            "results/runs/hoiref/{dataset}/{variant}/predictions.parquet",
            zip,
            **hoiref.selected,
        ),
    localrule: True


rule hoiref_scores:
    input:
        expand(rules.hoiref_score.output.scores, zip, **hoiref.selected),
    localrule: True
