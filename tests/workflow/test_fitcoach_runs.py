"""What reruns, what does not, and that it is the same result either way."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from pathlib import Path

import pytest
import yaml

from tests.workflow.conftest import NANO, RUN, Checkout

pytestmark = pytest.mark.workflow
AFTER_MERGE = {"fitcoach_score", "fitcoach_views", "summarise", "report", "all"}


def changed(*path_and_value: object) -> dict:
    """Returns the nano configuration with one value changed."""
    *path, value = path_and_value
    config = json.loads(json.dumps(NANO))
    place = config
    for step in path[:-1]:
        place = place.setdefault(step, {})
    place[path[-1]] = value
    return config


def test_a_finished_run_has_nothing_to_do(finished: Checkout) -> None:
    assert finished.planned() == {}


def test_jobs_use_the_library_of_their_own_checkout(finished: Checkout) -> None:
    used = {path.parents[1] for path in finished.folder.glob("lib/sightline/run/__pycache__/stages.*.pyc")}
    assert used, "no job imported the checkout's own library"


def test_metrics_list_every_configured_run_and_hide_nothing(finished: Checkout) -> None:
    document = json.loads((finished.folder / "results/fitcoach_metrics.json").read_text())
    (run,) = document["runs"]
    assert (run["dataset"], run["variant"], run["demo"], run["n_samples"]) == ("demo_test", "demo", True, 6)
    assert {"temporal_f", "temporal_precision", "temporal_recall", "llm_acc"} <= run["metrics"].keys()
    for name, metric in run["metrics"].items():
        if "absent" in metric:
            assert metric["absent"], name
        else:
            assert metric["n"] > 0, name
            assert metric["paper"] is None, "a demo number stands beside the paper's"
    assert run["metrics"]["llm_acc"] == {"absent": "no judge is configured"}


def test_every_rule_of_the_run_left_a_log_and_a_timing(finished: Checkout) -> None:
    timings = list((finished.folder / "results/work/timings").iterdir())
    rules = {path.name.split("~")[0].removesuffix(".json") for path in timings}
    assert {"acquire", "decode_frames", "fitcoach_extract", "fitcoach_predict", "merge_predictions", "report"} <= rules
    logs = list((finished.folder / "results/logs").rglob("*.log"))
    assert len(logs) == len(timings)


def test_deleting_a_shard_and_the_merge_redoes_these_and_what_follows(again: Checkout) -> None:
    before = again.results()
    shards = sorted((again.folder / RUN / "shards").iterdir())
    assert len(shards) == 2
    shards[0].unlink()
    (again.folder / RUN / "predictions.parquet").unlink()
    assert again.planned() == {"fitcoach_predict": 1, "merge_predictions": 1, **dict.fromkeys(AFTER_MERGE, 1)}
    again.forget_timings()
    again.snakemake()
    assert again.counts("fitcoach_predict")["computed"] == 0
    assert again.results() == before


@pytest.mark.parametrize(
    ("config", "rules"),
    [
        pytest.param(
            changed("systems", "fitcoach", "scoring", {"tolerance_s": 2.0}),
            {"fitcoach_score", "fitcoach_views", "summarise", "report", "all"},
            id="fitcoach-tolerance",
        ),
        pytest.param(
            changed("systems", "fitcoach", "bootstrap", {"replicates": 60}),
            {"summarise", "report", "all"},
            id="fitcoach-bootstrap",
        ),
        pytest.param(
            changed("systems", "fitcoach", "variants", "demo", "loop", "realtime"),
            {"fitcoach_predict", "merge_predictions", *AFTER_MERGE},
            id="fitcoach-loop",
        ),
        pytest.param(
            changed("systems", "fitcoach", "variants", "demo", "mode", "full_workout"),
            {"fitcoach_samples", "fitcoach_predict", "merge_predictions", *AFTER_MERGE},
            id="fitcoach-mode",
        ),
        pytest.param(changed("systems", "fitcoach", "variants", "demo", "mem_mb", 2500), set(), id="fitcoach-memory"),
    ],
)
def test_one_changed_value_reruns_what_depends_on_it(again: Checkout, config: dict, rules: set[str]) -> None:
    if "scoring" in config["systems"]["fitcoach"] or "bootstrap" in config["systems"]["fitcoach"]:
        config["systems"]["fitcoach"].setdefault("bootstrap", NANO["systems"]["fitcoach"]["bootstrap"])
    again.configure(config)
    assert set(again.planned()) == rules


def test_editing_adapters_calls_no_model(again: Checkout) -> None:
    before = again.results()
    for name in ("extract", "predict"):
        path = again.folder / f"workflow_scripts/systems/fitcoach/{name}.py"
        path.write_text(path.read_text() + "\n# a comment\n")
    planned = again.planned()
    assert planned["fitcoach_extract"] == planned["fitcoach_predict"] == 2
    again.forget_timings()
    again.snakemake()
    assert again.counts("fitcoach_extract")["computed"] == 0
    assert again.counts("fitcoach_predict")["computed"] == 0
    for log in (again.folder / "results/logs/fitcoach_extract").iterdir():
        assert "loading the 3D CNN" not in log.read_text()
    assert again.results() == before


CONDA = """#!/bin/sh
# A stand-in for conda: every environment is a link to the one the tests run in. It solves nothing.
case "$1 $2" in
    "info --json") echo '{{"conda_prefix": "{prefix}", "platform": "linux-64"}}' ;;
    "--version "*) echo "conda 24.7.1" ;;
    "config --get") echo '{{"get": {{"channel_priority": "strict"}}}}' ;;
    "env create"|"create --quiet")
        while [ "$1" != "--prefix" ]; do shift; done
        mkdir -p "$2/bin" "$2/lib/{python}/site-packages"
        ln -s {environment}/lib/{python}/site-packages/* "$2/lib/{python}/site-packages/"
        rm -f "$2/lib/{python}/site-packages/sightline.pth"
        ln -s {environment}/bin/python "$2/bin/python"
        cp {environment}/pyvenv.cfg "$2/" ;;
esac
"""


def test_toggling_use_conda_calls_no_model(again: Checkout, tmp_path: Path) -> None:
    before = again.results()
    tools = tmp_path / "tools" / "bin"
    tools.mkdir(parents=True)
    conda = tools / "conda"
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    conda.write_text(CONDA.format(prefix=tools.parent, environment=sys.prefix, python=python))
    conda.chmod(conda.stat().st_mode | stat.S_IEXEC)
    (tools / "activate").write_text('export PATH="$1/bin:$PATH"\n')
    again.forget_timings()
    path = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    again.snakemake("--use-conda", PATH=path)
    used = [path for path in (again.folder / ".snakemake/conda").iterdir() if path.is_dir()]
    assert len(used) >= 3, "each stack has its environment"
    assert again.counts("fitcoach_extract").get("computed", 0) == 0
    assert again.counts("fitcoach_predict").get("computed", 0) == 0
    assert again.results() == before


def test_hdf5_gives_the_same_values_and_results(acquired: Checkout, finished: Checkout) -> None:
    acquired.configure({**NANO, "feature_store": "hdf5"})
    acquired.snakemake()
    assert acquired.feature_digests() == finished.feature_digests()
    assert acquired.results() == finished.results()
    stores = acquired.folder / "results/work/features/demo_test/efficientnet3d_demo"
    assert list(stores.glob("*.hdf5"))
    assert not list(stores.glob("*.lmdb"))


def test_one_shard_gives_the_same_results(acquired: Checkout, finished: Checkout) -> None:
    acquired.configure(changed("systems", "fitcoach", "variants", "demo", "shard_minutes", 60))
    acquired.snakemake("fitcoach_scores")
    names = (f"{RUN}/predictions.parquet", f"{RUN}/scores.parquet")
    assert len(list((acquired.folder / RUN / "shards").iterdir())) == 1
    assert acquired.digest(*names) == finished.digest(*names)


def test_another_variant_reruns_only_the_summary_of_the_first(again: Checkout) -> None:
    config = json.loads(json.dumps(NANO))
    variant = yaml.safe_load((again.folder / "config/systems/fitcoach.yaml").read_text())["variants"]["demo"]
    config["systems"]["fitcoach"]["variants"]["demo_realtime"] = {
        **variant,
        **NANO["systems"]["fitcoach"]["variants"]["demo"],
        "loop": "realtime",
    }
    config["runs"] = [{"system": "fitcoach", "datasets": ["demo_test"], "variants": ["demo", "demo_realtime"]}]
    again.configure(config)
    output = again.snakemake("-n")
    assert "demo_test/demo_realtime/predictions.parquet" in output
    assert "output: results/runs/fitcoach/demo_test/demo/" not in output
    assert "fitcoach_extract" not in output


@pytest.mark.parametrize(
    ("target", "rules"),
    [
        ("fitcoach_features", {"fitcoach_extract", "index_features", "fitcoach_features"}),
        (
            "fitcoach_predictions",
            {"fitcoach_extract", "index_features", "fitcoach_samples", "fitcoach_predict", "merge_predictions"}
            | {"fitcoach_predictions"},
        ),
        ("results/fitcoach_metrics.json", {"fitcoach_extract", "fitcoach_score", "summarise"}),
        ("results/features/demo_train/efficientnet3d_demo/index.json", {"fitcoach_extract", "decode_frames"}),
        (f"{RUN}/shards/1-of-2.jsonl", {"fitcoach_predict", "fitcoach_samples"}),
    ],
)
def test_partial_targets_are_planned(acquired: Checkout, target: str, rules: set[str]) -> None:
    planned = set(acquired.planned(target))
    assert rules <= planned
    assert not {"report", "all"} & planned


def test_check_says_what_is_needed_and_what_is_missing(finished: Checkout) -> None:
    output = finished.snakemake("check")
    assert "fitcoach_demo" in output
    missing = finished.snakemake(
        "check", "--configfile", "config/full.yaml", "--config", "feature_store=lmdb", ok=False
    )
    for words in ("qevd_benchmark", "llama2_7b", "Llama 2 Community License", "local_assets.qevd_benchmark"):
        assert words in missing


def test_the_report_is_one_offline_file(finished: Checkout, tmp_path: Path) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    checkout.snakemake("--report", "report.html")
    text = (checkout.folder / "report.html").read_text(errors="replace")
    for words in ("comparison.html", "samples.html", "timing.html"):
        assert words in text
    shutil.rmtree(checkout.folder)


@pytest.mark.parametrize("profile", ["laptop", "gpu", "slurm"])
def test_profiles_can_be_typed(finished: Checkout, profile: str) -> None:
    output = finished.snakemake("-n", "--profile", f"profiles/{profile}")
    assert "Nothing to be done" in output


def test_a_misspelt_key_stops_at_once_with_the_nearest_one(finished: Checkout) -> None:
    output = finished.snakemake("-n", "--config", "feature_stor=lmdb", ok=False)
    assert "feature_stor: unknown. Did you mean feature_store?" in output
