"""Jobs on a cluster: few enough, submitted only where they are heavy, and given more when they are tried again."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from sightline.config.load import merge
from sightline.config.plan import Plan
from sightline.registry import load_plan

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config"
MOST_JOBS = 1000
JOBS_BESIDE_SHARDS = 20  # of one run: assets, frames, samples, merge, score, views, report and the like


def full() -> Plan:
    config = yaml.safe_load((CONFIG / "config.yaml").read_text())
    return load_plan(merge(config, yaml.safe_load((CONFIG / "full.yaml").read_text())), CONFIG)


PLAN = full()


def shards_of(plan: Plan, system: str, dataset: str, variant: str) -> int:
    """Counts the sharded jobs behind one run."""
    extractor = plan.card(system).variants[variant].extractor
    wildcards = SimpleNamespace(system=system, dataset=dataset, variant=variant, extractor=extractor)
    features = len(plan.feature_shards(wildcards)) if extractor else 0  # type: ignore[arg-type]
    return len(plan.room(system).shards(wildcards)) + features  # type: ignore[arg-type]


def test_all_full_benchmarks_together_stay_few_jobs() -> None:
    assert PLAN.runs
    jobs = sum(shards_of(PLAN, run.system, run.dataset, run.variant) + JOBS_BESIDE_SHARDS for run in PLAN.runs)
    assert jobs < MOST_JOBS


@pytest.mark.parametrize("run", PLAN.runs, ids=lambda run: f"{run.system}-{run.dataset}-{run.variant}")
def test_a_shard_of_a_full_benchmark_is_worth_its_start(run: SimpleNamespace) -> None:
    """Shards are sized in time: starting one costs a minute at most, so it must not be made for less than five."""
    variant = PLAN.card(run.system).variants[run.variant]
    assert variant.shard_minutes >= 5


def rules() -> dict[str, str]:
    """Returns the text of every rule that runs a script."""
    found = {}
    for path in sorted(ROOT.glob("rules/**/*.smk")):
        for name, text in re.findall(r"^(?:rule|checkpoint) (\w+):\n(.*?)(?=^\S|\Z)", path.read_text(), re.M | re.S):
            if "script:" in text:
                found[name] = text
    return found


@pytest.mark.parametrize("name", rules())
def test_every_job_says_what_it_needs_or_stays_here(name: str) -> None:
    """A light rule runs beside Snakemake; any other says how much it needs, and asks for more when tried again."""
    text = rules()[name]
    if "localrule: True" not in text:
        assert "mem_mb=growing(" in text
        assert "runtime=growing(" in text


def test_only_acquire_touches_the_network_and_it_stays_where_the_network_is() -> None:
    assert "localrule: True" in rules()["acquire"]
