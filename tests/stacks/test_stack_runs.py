"""The demo with one environment per stack, started from an environment that has none of their packages."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import pytest

from tests.stacks.conftest import PLANTED, Controller, StackRun
from tests.stacks.reach import rules_with_scripts
from tests.workflow.conftest import RUN

pytestmark = [pytest.mark.workflow, pytest.mark.timeout(1800)]
RULES = rules_with_scripts()


def test_the_run_ends_and_says_that_no_conda_was_used(stack_run: StackRun) -> None:
    assert "conda stand-in: no conda here" in stack_run.output
    for name in ("predictions.parquet", "scores.parquet", "views.parquet"):
        assert (stack_run.checkout.folder / RUN / name).is_file()
    assert (stack_run.checkout.folder / "results/fitcoach_metrics.json").is_file()


def test_every_rule_ran_in_the_environment_it_names(stack_run: StackRun) -> None:
    found = {job["rule"]: stack_run.environment(job["prefix"]) for job in stack_run.seen}
    assert {"acquire", "fitcoach_extract", "fitcoach_predict", "fitcoach_score", "summarise", "report"} <= found.keys()
    for rule, stack in found.items():
        named = RULES[rule][1]
        assert named is not None
        assert stack == named.stem, rule
    assert {"core", "video", "llm", "metrics"} <= set(found.values())


def test_no_job_can_import_what_the_controller_has(controller: Controller, stack_run: StackRun) -> None:
    def importable(name: str) -> bool:
        return subprocess.run([controller.python, "-c", f"import {name}"], capture_output=True).returncode == 0

    assert importable(PLANTED), "nothing was planted"
    assert not importable("torch")
    assert importlib.util.find_spec("torch"), "the tests' own environment would have it"
    site = str(controller.folder / "lib")
    for job in stack_run.seen:
        assert PLANTED not in job["importable"], job["rule"]
        assert not [entry for entry in job["path"] if entry.startswith(site)], job["rule"]


def test_jobs_load_only_from_their_own_environment(stack_run: StackRun) -> None:
    """Snakemake's own modules, loaded before the adapter's first line, are the one exception."""
    library = stack_run.checkout.folder / "lib"
    for job in stack_run.seen:
        for name, file in job["loaded"].items():
            if file is None or name.startswith("snakemake"):
                continue
            path = Path(file)
            in_site = "site-packages" in path.parts or "dist-packages" in path.parts
            assert not in_site or path.is_relative_to(job["prefix"]), f"{job['rule']} loaded {name} from {file}"
            if name == "sightline":
                assert path.is_relative_to(library)


@pytest.mark.parametrize(
    ("stack", "has", "lacks"),
    [
        ("core", set(), {"torch", "transformers", "diffusers", "accelerate", "peft", "bert_score", "torchvision"}),
        ("video", set(), {"torch", "transformers", "diffusers", "accelerate", "peft", "bert_score", "torchvision"}),
        ("llm", {"torch", "transformers", "accelerate"}, {"diffusers", "bert_score", "torchvision"}),
        ("metrics", {"torch", "transformers", "bert_score"}, {"diffusers", "peft", "torchvision"}),
    ],
)
def test_a_stack_has_its_packages_and_no_others(
    stack_run: StackRun, stack: str, has: set[str], lacks: set[str]
) -> None:
    jobs = [job for job in stack_run.seen if stack_run.environment(job["prefix"]) == stack]
    assert jobs
    for job in jobs:
        assert has <= set(job["importable"]), job["rule"]
        assert not lacks & set(job["importable"]), job["rule"]


def test_packages_of_each_environment_fit_together(stack_run: StackRun) -> None:
    assert {"core", "video", "llm", "metrics"} <= stack_run.prefixes.keys()
    for stack, prefix in stack_run.prefixes.items():
        done = subprocess.run([f"{prefix}/bin/python", "-m", "pip", "check"], capture_output=True, text=True)
        assert done.returncode == 0, f"{stack}: {done.stdout}"


def test_a_second_run_builds_nothing_and_has_nothing_to_do(controller: Controller, stack_run: StackRun) -> None:
    output = stack_run.checkout.snakemake("--use-conda", PATH=controller.path)
    assert "Nothing to be done" in output
    assert "Creating conda environment" not in output
