"""The simulated cluster, the bandwidth model, the GPU benchmark's logic on a tiny shape, and the pages they fill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sightline.records.files import read_json

from benchmarks import bench_gpu, performance_page
from benchmarks.bandwidth import DECODERS, GPUS, Decoder, class_of
from benchmarks.cluster import Cluster, scenarios, simulate
from benchmarks.tables import cells, fill_page

ROOT = Path(__file__).parents[2]
TINY = Decoder("tiny", layers=2, hidden=32, heads=4, kv_heads=2, intermediate=48, vocabulary=50, context=6)


def test_a_quiet_slot_takes_what_its_shards_cost() -> None:
    quiet = Cluster(1, spread=0.0)
    found = simulate([3600.0, 1800.0], quiet)
    assert found.makespan_h * 3600 == pytest.approx(5400 + 2 * quiet.start_s)
    assert found.ideal_h == pytest.approx(1.5)
    assert (found.failures, found.exhausted) == (0, 0)
    assert simulate([3600.0] * 4, replace(quiet, slots=4)).makespan_h * 3600 == pytest.approx(3600 + quiet.start_s)


def test_slow_slots_and_failures_cost_time_and_draws_are_seeded() -> None:
    work = [3000.0] * 40
    fast, slow = Cluster(4, spread=0.0), Cluster(4, spread=0.0, slow_share=1.0)
    assert simulate(work, slow).makespan_h > 1.8 * simulate(work, fast).makespan_h
    failing = replace(fast, mean_hours_between_failures=1.0)
    anew = replace(failing, resumes=False)
    assert simulate(work, failing) == simulate(work, failing)
    assert simulate(work, failing) != simulate(work, failing, seed=1)
    assert simulate(work, failing).failures > 0
    assert simulate(work, fast).makespan_h < simulate(work, failing).makespan_h < simulate(work, anew).makespan_h


def test_a_resumed_shard_loses_no_more_than_its_blocks() -> None:
    cluster = Cluster(1, spread=0.0, mean_hours_between_failures=0.5, start_s=0.0, back_s=0.0, block_s=10.0)
    found = simulate([7200.0], cluster)
    assert found.failures > 0
    assert 7200 <= found.busy_h * 3600 <= 7200 + found.failures * cluster.block_s


def test_every_scenario_of_the_page_is_worse_than_the_quiet_one() -> None:
    hours = [simulate([2000.0] * 100, cluster).makespan_h for cluster in scenarios(16).values()]
    assert hours[0] == min(hours)
    assert hours[-1] == max(hours)


def test_bytes_are_those_of_the_published_shapes() -> None:
    seven = next(model for model in DECODERS if model.hidden == 4096 and not model.extra)
    assert seven.parameters + seven.vocabulary * seven.hidden == 6_738_415_616  # LLaMA-2-7B with its embedding table
    assert seven.kv_bytes == 524_288
    seventy = next(model for model in DECODERS if model.hidden == 8192)
    assert seventy.parameters + seventy.vocabulary * seventy.hidden == 70_553_706_496  # LLaMA-3-70B
    assert seventy.kv_bytes == 327_680
    assert seven.step_bytes(32, 100) - seven.step_bytes(1, 100) == 31 * 100 * seven.kv_bytes


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA H200", "H200"), ("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA A100-SXM4-80GB", "A100-80"),
        ("NVIDIA A100-PCIE-40GB", "A100-40"), ("NVIDIA GeForce RTX 4090", "RTX 4090"), ("Tesla T4", None),
    ],
)  # fmt: skip
def test_devices_are_known_by_their_drivers_names(name: str, known: str | None) -> None:
    found = class_of(name)
    assert (found.name if found else None) == known


def test_the_gpu_benchmark_measures_a_tiny_shape() -> None:
    found = bench_gpu.measure(TINY, [1, 3], 4, 2, "cpu", peak=1e12, read_bytes=1 << 16)
    assert [row["batch"] for row in found["rows"]] == [1, 3]
    for row in found["rows"]:
        assert row["bytes"] == TINY.step_bytes(row["batch"], 5)
        assert row["tokens_per_s"] == pytest.approx(row["batch"] / row["median_s"])
        assert row["of_peak"] == pytest.approx(row["bytes"] / row["median_s"] / 1e12)
        assert 0 < row["of_read_bandwidth"] < float("inf")
    model = bench_gpu.random_model(TINY, "cpu")
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}
    assert sum(value.numel() for value in model.parameters()) == TINY.parameters + TINY.vocabulary * TINY.hidden


def test_without_a_gpu_nothing_is_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["bench_gpu"])
    with pytest.raises(SystemExit, match="no GPU here"):
        bench_gpu.main()
    assert bench_gpu.run(3) == []
    assert "a machine with a GPU" in capsys.readouterr().out


def test_the_page_says_what_was_not_measured_and_shows_what_was() -> None:
    assert performance_page.decode_table(None).count(performance_page.NOT_MEASURED) == 2 * len(DECODERS)
    row = {"batch": 32, "tokens_per_s": 4321.4, "of_peak": 0.625}
    found = {"device": "NVIDIA H200", "decode": [{"model": DECODERS[1].name, "rows": [row]}]}
    table = performance_page.decode_table(found)
    assert "4,321 tokens/s on NVIDIA H200, 0.62 of the model" in table
    assert table.count("not run") == 2 * len(DECODERS) - 1
    assert len(table.splitlines()[2].split("|")) == 2 + 3 + len(GPUS)


def test_the_performance_page_holds_what_the_command_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "performance.md"
    page.write_text((ROOT / "docs" / "performance.md").read_text())
    monkeypatch.setattr(performance_page, "PAGE", page)
    performance_page.main()
    assert page.read_text() == (ROOT / "docs" / "performance.md").read_text()
    document = read_json(ROOT / "benchmarks" / "results.json")
    assert performance_page.ratios_table(document).count("\n") > len(document["rows"])


def test_only_the_named_place_is_filled(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- x: measured -->\nold\n<!-- end -->\nb\n<!-- y: measured -->\nkept\n<!-- end -->\n")
    fill_page(page, "x", cells(["h"], [["\\1"]]))
    assert page.read_text().startswith("a\n<!-- x: measured -->\n\n| h |\n| --- |\n| \\1 |\n\n<!-- end -->\nb\n")
    assert "kept" in page.read_text()
    with pytest.raises(ValueError, match="0 places named z"):
        fill_page(page, "z", "")
