# Sightline, read top to bottom: settings, then the stages in the order data flows.
import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.0")

sys.path.insert(0, str(Path(workflow.basedir, "lib")))

from sightline.config.attempts import growing
from sightline.registry import load_plan
from sightline.run.cluster import refuse_what_cannot_run, request_params
from sightline.run.environment import use_library
from sightline.run.lock import note_holder, release_dead_lock


configfile: Path(workflow.basedir, "config", "config.yaml")


report: "rules/captions/workflow.rst"


plan = load_plan(config, Path(workflow.basedir, "config"))
use_library(Path(workflow.basedir, "lib"))
release_dead_lock()


onstart:
    note_holder()
    refuse_what_cannot_run(workflow, plan)


include: "rules/common.smk"
include: "rules/acquire.smk"
include: "rules/decode.smk"
include: "rules/features.smk"
include: "rules/merge.smk"
include: "rules/systems/fitcoach.smk"
include: "rules/systems/fitcoach_train.smk"
include: "rules/systems/fitcoach_targets.smk"
include: "rules/systems/sgear.smk"
include: "rules/systems/sgear_train.smk"
include: "rules/systems/sgear_targets.smk"
include: "rules/systems/hoiref.smk"
include: "rules/systems/hoiref_train.smk"
include: "rules/systems/hoiref_targets.smk"
include: "rules/judge.smk"
include: "rules/score.smk"
include: "rules/report.smk"


# --sdm apptainer: the container of a stack stands where its definition is.
for each in workflow.rules:
    if each.conda_env:
        each.container_img = Path(
            workflow.basedir, "containers", f"{Path(str(each.conda_env)).stem}.sif"
        ).as_posix()


rule all:
    default_target: True
    input:
        expand(rules.merge_predictions.output.predictions, zip, **plan.selected),
        expand(rules.summarise.output.metrics, system=plan.systems),
        rules.report.output,
    localrule: True
