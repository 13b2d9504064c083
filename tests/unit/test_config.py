"""Mistakes in the configuration: all at once, in a user's words, with the nearest valid key."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from sightline.config.load import merge
from sightline.config.needs import needed_assets
from sightline.config.plan import shard_count
from sightline.errors import ConfigError
from sightline.registry import load_plan

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config"


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONFIG / name).read_text())


def full() -> dict[str, Any]:
    return merge(read("config.yaml"), read("full.yaml"))


def problems(config: dict[str, Any], root: Path = CONFIG) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_plan(config, root)
    return caught.value.problems


def test_every_example_configuration_loads() -> None:
    examples = [path for path in CONFIG.glob("*.yaml") if path.name != "config.yaml"]
    assert examples
    for path in examples:
        assert load_plan(merge(read("config.yaml"), yaml.safe_load(path.read_text())), CONFIG).runs


def test_full_configuration_leaves_no_demo_entry() -> None:
    plan = load_plan(full(), CONFIG)
    for run in plan.runs:
        assert not plan.dataset(run.dataset).demo
        assert plan.card(run.system).variants[run.variant].weights_kind != "demo"
    assert not [name for name in needed_assets(plan) if "demo" in name]


def test_misspelt_key_names_file_key_and_nearest() -> None:
    found = problems({**read("config.yaml"), "limts": {}})
    assert found == ["config, key limts: unknown. Did you mean limits? See config/README.md"]


def test_misspelt_key_in_a_card(tmp_path: Path) -> None:
    shutil.copytree(CONFIG, tmp_path / "config")
    card = tmp_path / "config" / "systems" / "fitcoach.yaml"
    card.write_text(card.read_text().replace("token_cap:", "tokn_cap:"))
    found, *_ = problems(read("config.yaml"), tmp_path / "config")
    assert str(card) in found
    assert "variants.demo_untrained.tokn_cap: unknown. Did you mean token_cap?" in found


def test_all_mistakes_are_shown_at_once() -> None:
    config = read("config.yaml")
    config["runs"] = [{"system": "fitcoach", "datasets": ["demo_tset"], "variants": ["dmo"]}]
    config["local_assets"] = {"llama2_7B": "/x"}
    found = problems(config)
    assert len(found) == 3
    assert any("demo_tset is unknown. Did you mean demo_test?" in line for line in found)
    assert any("dmo is unknown. Did you mean demo?" in line for line in found)
    assert any("llama2_7B is not in config/datasets. Did you mean llama2_7b?" in line for line in found)


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"runs": []}, "runs"),
        ({"limits": {"samples": 0}}, "limits.samples"),
        ({"feature_store": "sqlite"}, "feature_store"),
        ({"runs": [{"system": "fitcaoch", "datasets": ["demo_test"], "variants": ["demo"]}]}, "Did you mean fitcoach?"),
    ],
)
def test_wrong_values_name_their_key(over: dict[str, Any], words: str) -> None:
    assert any(words in line for line in problems({**read("config.yaml"), **over}))


def test_overrides_reach_the_cards() -> None:
    config = merge(
        read("config.yaml"),
        {
            "systems": {"fitcoach": {"variants": {"demo": {"loop": "realtime"}}}},
            "datasets": {"demo_test": {"items": 6}},
        },
    )
    plan = load_plan(config, CONFIG)
    assert plan.card("fitcoach").variants["demo"].loop == "realtime"
    assert plan.dataset("demo_test").items == 6


def test_paper_values_name_known_metrics_and_datasets() -> None:
    plan = load_plan(full(), CONFIG)
    for card in plan.flow.paper.values():
        for row in card.rows.values():
            assert row.dataset in plan.flow.datasets
            assert row.metrics


def test_shards_are_sized_in_time_and_stay_few() -> None:
    assert shard_count(0, 20) == 1
    assert shard_count(20 * 60, 20) == 1
    assert shard_count(20 * 60 + 1, 20) == 2
    assert shard_count(1e9, 1) == 500
    plan = load_plan(full(), CONFIG)
    wildcards = SimpleNamespace(dataset="qevd_test", variant="stream_vlm", extractor="efficientnet3d")
    jobs = len(plan.predict_shards(wildcards, "fitcoach")) + len(plan.feature_shards(wildcards))
    assert jobs < 1000


def test_profiles_have_disjoint_keys() -> None:
    profiles = {path.parent.name: yaml.safe_load(path.read_text()) for path in ROOT.glob("profiles/*/config.yaml")}
    assert set(profiles) == {"default", "laptop", "gpu", "slurm"}
    for name, keys in profiles.items():
        if name != "default":
            assert not set(keys) & set(profiles["default"]), f"{name} sets a key the default profile wins"


def test_environments_agree_with_the_local_one() -> None:
    pins = dict(
        line.split("==")
        for line in (ROOT / "envs/local.txt").read_text().splitlines()
        if "==" in line and line[0] != "#"
    )
    assert pins["torch"] == "2.13.0"
    for path in ROOT.glob("envs/*.yaml"):
        if path.stem == "vllm":  # pins its own torch and stands alone
            continue
        content = yaml.safe_load(path.read_text())["dependencies"]
        for line in next(entry["pip"] for entry in content if isinstance(entry, dict)):
            name, version = line.split("==")
            assert pins.get(name, version) == version, f"{path}: {line}"
