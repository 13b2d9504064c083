"""`check`: what is there, what is missing, how to get it; without the network."""

from __future__ import annotations

import socket
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from sightline.assets.acquire import AssetSpec, acquire
from sightline.config.load import merge
from sightline.config.plan import Plan
from sightline.registry import load_plan
from sightline.run.check import CheckReport, describe, find_gpus, render

CONFIG = Path(__file__).parents[2] / "config"
FULL = ("config.yaml", "full.yaml")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("check used the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def plan_of(*files: str, **over: Any) -> Plan:
    config: dict[str, Any] = {}
    for name in files or ("config.yaml",):
        config = merge(config, yaml.safe_load((CONFIG / name).read_text()))
    return load_plan(merge(config, over), CONFIG)


def states(report: CheckReport) -> dict[str, str]:
    return {asset.asset: asset.state for asset in report.assets}


def llama(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def benchmark(folder: Path) -> Path:
    inner = folder / "extra" / "QEVD-FIT-COACH-Benchmark"
    inner.mkdir(parents=True)
    (inner / "feedbacks_long_range.json").write_text("[]")
    return folder


def test_demo_is_ready_and_says_so_last(tmp_path: Path) -> None:
    report = describe(plan_of(), tmp_path)
    text = render(report)
    assert report.ok
    assert states(report)["fitcoach_demo"] == "generate"
    assert text.splitlines()[-1] == "ready to run"
    assert "fitcoach on demo_test as demo" in text
    assert "tokens and environment variables: none needed" in text
    assert {estimate.stage for estimate in report.estimates} == {"features", "predict"}


def test_full_setup_lists_what_is_missing_and_how_to_get_it(tmp_path: Path) -> None:
    plan = plan_of(*FULL)
    report = describe(plan, tmp_path)
    found = states(report)
    assert found["qevd_benchmark"] == "supply"
    assert found["llama2_7b"] == "supply"
    assert found["streamvlm_weights"] == "download"
    assert not report.ok
    cards = [plan.flow.assets[name] for name in ("streamvlm_weights", "streamvlm_cnn")]
    assert report.download_gb == pytest.approx(sum(card.download_gb for card in cards))
    assert report.gpu_needed_gb == plan.card("fitcoach").variants["stream_vlm"].gpu_memory_gb > 0
    text = render(report)
    after = text[text.index("not ready, missing:") :]
    assert "local_assets.qevd_benchmark" in after
    assert "local_assets.llama2_7b" in after
    assert "streamvlm_weights" not in after
    assert "roberta" not in after, "an optional encoder must not stop a run"
    assert "Llama 2 Community License" in text


def test_local_paths_make_it_ready(tmp_path: Path) -> None:
    given = {"qevd_benchmark": str(benchmark(tmp_path / "q")), "llama2_7b": str(llama(tmp_path / "l"))}
    report = describe(plan_of(*FULL, local_assets=given), tmp_path)
    assert states(report)["qevd_benchmark"] == "present"
    assert states(report)["llama2_7b"] == "present"
    assert report.ok


@pytest.mark.parametrize("kind", ["absent", "wrong folder", "wrong file"])
def test_wrong_local_path_is_missing_with_its_reason(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "llama"
    if kind == "wrong folder":
        path.mkdir()
    elif kind == "wrong file":
        path.write_text("x")
    report = describe(plan_of(*FULL, local_assets={"llama2_7b": str(path)}), tmp_path)
    (asset,) = (one for one in report.assets if one.asset == "llama2_7b")
    assert asset.state == "supply"
    assert str(path) in asset.detail
    assert "local_assets.llama2_7b" in asset.mend


def test_local_archive_needs_room_to_unpack(tmp_path: Path) -> None:
    archive = tmp_path / "QEVD.zip"
    archive.write_bytes(b"PK")
    plan = plan_of(*FULL, local_assets={"qevd_benchmark": str(archive)})
    (asset,) = (one for one in describe(plan, tmp_path).assets if one.asset == "qevd_benchmark")
    assert asset.state == "unpack"
    assert asset.disk_gb == plan.flow.assets["qevd_benchmark"].disk_gb > 0


def test_acquired_asset_is_present_until_a_file_changes(tmp_path: Path) -> None:
    source = llama(tmp_path / "source")
    plan = plan_of(*FULL, local_assets={"llama2_7b": str(source)})
    card = plan.flow.assets["llama2_7b"]
    spec = AssetSpec("llama2_7b", card.title, (), card.kind, tuple(card.requires), version=card.version)
    acquire(spec, tmp_path / "results" / "assets" / "llama2_7b", local=source)
    (asset,) = (one for one in describe(plan, tmp_path).assets if one.asset == "llama2_7b")
    assert (asset.state, asset.detail) == ("present", "acquired and complete")
    (source / "config.json").unlink()
    (asset,) = (one for one in describe(plan, tmp_path).assets if one.asset == "llama2_7b")
    assert asset.state == "supply"


def test_offline_turns_downloads_into_what_the_user_must_supply(tmp_path: Path) -> None:
    report = describe(plan_of(*FULL, offline=True), tmp_path)
    assert states(report)["streamvlm_weights"] == "supply"
    assert any("streamvlm_weights.tar.gz.aa" in entry for entry in report.missing)


def test_too_little_disk_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1e6))
    report = describe(plan_of(), tmp_path)
    assert not report.ok
    assert report.missing[-1].startswith("disk: ")
    assert "0.0 GB free" in report.missing[-1]


@pytest.mark.parametrize(
    ("script", "count"),
    [
        ("echo 'NVIDIA H200, 143771'; echo 'NVIDIA A10, 23028'", 2),
        ("echo broken; exit 9", 0),
        ("echo 'No devices were found'", 0),
    ],
    ids=["two", "fails", "none"],
)
def test_gpus_are_those_of_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, count: int) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_gpus()
    assert len(found) == count
    if count:
        assert found[0].name == "NVIDIA H200"
        assert found[0].memory_gb == pytest.approx(150.8, abs=0.1)


def test_a_small_gpu_is_a_remark_not_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    given = {"qevd_benchmark": str(benchmark(tmp_path / "q")), "llama2_7b": str(llama(tmp_path / "l"))}
    report = describe(plan_of(*FULL, local_assets=given), tmp_path)
    assert report.ok
    assert any("stream_vlm (" in remark and "no GPU was found" in remark for remark in report.remarks)


def test_a_limit_is_told_and_shortens_the_estimate(tmp_path: Path) -> None:
    whole, part = (describe(plan_of(limits=limits), tmp_path) for limits in ({}, {"samples": 2}))
    hours = [next(one.hours for one in report.estimates if one.stage == "predict") for report in (whole, part)]
    assert hours[1] < hours[0]
    assert any("partial" in remark for remark in part.remarks)
