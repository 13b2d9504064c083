"""Rows, merge, shard runner and workflow overhead: what surrounds the models must cost next to nothing."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from sightline.records.rows import Journal, write_lines, write_parquet
from sightline.records.types import Prediction, Sample
from sightline.run.merge import merge_predictions
from sightline.run.shards import make_plan, prediction_key, run_shard

from benchmarks.timing import interleave, spread


def _samples(count: int) -> list[Sample]:
    return [Sample(f"s{n:06d}", f"g{n // 4}", f"g{n // 4}", [f"m{n}"], 1.0, {"n": n}) for n in range(count)]


def _predictions(samples: list[Sample]) -> list[Prediction]:
    text = "keep your back straight " * 23
    return [
        Prediction(one.id, "ok", output={"text": f"{one.id} {text}"}, key=prediction_key("r", one)) for one in samples
    ]


def bench_rows(rounds: int) -> dict[str, Any]:
    """800 clips of 5 rows: rewriting one JSON file per clip against appending with an fsync."""
    clips = [[row.to_json() for row in _predictions(_samples(4000))[start : start + 5]] for start in range(0, 4000, 5)]
    records = [[Prediction(**row) for row in clip] for clip in clips]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def rewrite() -> None:
            everything: list[dict[str, Any]] = []
            for clip in clips:
                everything += clip
                (folder / "all.json").write_text(json.dumps(everything, indent=4))

        def ours() -> None:
            shutil.rmtree(folder / "journal", ignore_errors=True)
            with Journal(folder / "journal", "w") as journal:
                for number, clip in enumerate(records):
                    journal.append(f"b{number}", clip)

        arms = interleave({"rewrite per clip": rewrite, "ours (fsync per clip)": ours}, rounds, time.perf_counter)
        with Journal(folder / "journal", "w") as journal:
            kept = [row for number in range(len(clips)) for row in journal.rows(f"b{number}")]
        written = (folder / "journal" / "w.jsonl").stat().st_size
    plain = sum(len(json.dumps(row, separators=(",", ":"))) + 1 for clip in clips for row in clip)
    return {
        "name": "rows",
        "arms": arms,
        "ratios": {
            "rewrite / ours, wall": arms["rewrite per clip"]["median_s"] / arms["ours (fsync per clip)"]["median_s"],
            "bytes of rows / bytes written": plain / written,
        },
        "max_difference": 0.0,
        "equal": kept == [row for clip in clips for row in clip],
        "guard": {"rewrite / ours, wall": 40.0, "bytes of rows / bytes written": 1 / 1.05},
        "target": {"rewrite / ours, wall": 98.0},
        "note": "800 clips x 5 rows of about 600 bytes",
    }


def bench_merge(rounds: int) -> dict[str, Any]:
    """100 000 rows in 8 shards: parsing alone against the validated merge."""
    samples = _samples(100_000)
    rows = _predictions(samples)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_parquet(folder / "samples.parquet", Sample, samples)
        shards = [folder / f"{n}.jsonl" for n in range(8)]
        for n, path in enumerate(shards):
            write_lines(path, (row.to_json() for row in rows[n::8]))
        uneven = [folder / f"u{n}.jsonl" for n in range(3)]
        for n, path in enumerate(uneven):
            write_lines(path, (row.to_json() for row in reversed(rows[n::3])))

        def parse_only() -> None:
            for path in shards:
                with open(path, encoding="utf-8") as stream:
                    for line in stream:
                        json.loads(line)

        def update_and_dump() -> None:
            everything: dict[str, Any] = {}
            for path in shards:
                with open(path, encoding="utf-8") as stream:
                    for line in stream:
                        row = json.loads(line)
                        everything[row["id"]] = row
            (folder / "merged.json").write_text(json.dumps(everything, indent=4))

        def ours() -> None:
            merge_predictions(folder / "samples.parquet", shards, folder / "merged.parquet")

        merge_predictions(folder / "samples.parquet", list(reversed(uneven)), folder / "again.parquet")
        arms = interleave({"parse only": parse_only, "update + dump": update_and_dump, "ours": ours}, rounds)
        equal = (folder / "merged.parquet").read_bytes() == (folder / "again.parquet").read_bytes()
    return {
        "name": "merge",
        "arms": arms,
        "ratios": {
            "parse only / ours (1 is the limit)": arms["parse only"]["median_s"] / arms["ours"]["median_s"],
            "update + dump / ours": arms["update + dump"]["median_s"] / arms["ours"]["median_s"],
        },
        "max_difference": 0.0,
        "equal": equal,
        "guard": {"parse only / ours (1 is the limit)": 0.15},
        "target": {"parse only / ours (1 is the limit)": 0.4},
        "note": "ours checks types, ids, completeness and staleness against the samples, sorts, writes Parquet",
    }


def bench_overhead(rounds: int) -> dict[str, Any]:
    """A fake model of 20 ms per call: the bare loop against the whole shard runner."""
    samples = _samples(200)
    plan = make_plan(samples, 4, block_size=4, declared_seconds=None)

    class Fake:
        batch_limit = 32

        def predict(self, block: list[Sample]) -> list[Prediction]:
            time.sleep(0.02)
            return [Prediction(one.id, "ok", output={"text": "go on"}) for one in block]

    blocks = [[one for one in samples if one.id in block] for hand in plan["shards"].values() for block in hand]
    results: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def bare() -> None:
            results["bare"] = sorted(row.id for block in blocks for row in Fake().predict(block))

        def runner() -> None:
            shutil.rmtree(folder / "work", ignore_errors=True)
            found = []
            for shard in plan["shards"]:
                rows, _ = run_shard(
                    plan=plan, shard=shard, samples=samples, run_key="r" * 32, work=folder / "work", load_predictor=Fake
                )
                found += rows
            results["runner"] = sorted(row.id for row in found)

        with open(os.devnull, "w") as quiet:
            terminal, sys.stderr = sys.stderr, quiet
            try:
                arms = interleave({"bare loop": bare, "runner": runner}, rounds, time.perf_counter)
            finally:
                sys.stderr = terminal
    return {
        "name": "pipeline_overhead",
        "arms": arms,
        "ratios": {"bare loop / runner (1 is the limit)": arms["bare loop"]["median_s"] / arms["runner"]["median_s"]},
        "max_difference": 0.0,
        "equal": results["bare"] == results["runner"],
        "guard": {"bare loop / runner (1 is the limit)": 0.8},
        "target": {"bare loop / runner (1 is the limit)": 0.95},
        "note": "4 shards, 50 calls of 20 ms; journal with an fsync per call",
    }


_WORKFLOW = """
rule all:
    input: expand("out/{{stage}}/{{shard}}.txt", stage=range(6), shard=range({shards}))
rule stage:
    output: "out/{{stage}}/{{shard}}.txt"
    shell: "touch {{output}}"
"""


def _cpu(command: list[str], folder: Path) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def bench_workflow(rounds: int) -> dict[str, Any]:
    """Planning with Snakemake: 6 stages of 8, 64 and 512 shards; and our own workflow with nothing to plan away."""
    snakemake = [sys.executable, "-m", "snakemake", "-n", "--quiet", "all", "--cores", "1"]
    root = Path(__file__).parents[1]
    taken: dict[str, list[float]] = {"S=8": [], "S=64": [], "S=512": [], "our dry-run": []}
    with tempfile.TemporaryDirectory() as name:
        for shards in (8, 64, 512):
            folder = Path(name, str(shards))
            folder.mkdir()
            (folder / "Snakefile").write_text(_WORKFLOW.format(shards=shards))
        for _ in range(rounds):
            for shards in (8, 64, 512):
                taken[f"S={shards}"].append(_cpu(snakemake, Path(name, str(shards))))
            own = [*snakemake, "--nolock", "--snakefile", str(root / "Snakefile")]
            taken["our dry-run"].append(_cpu(own, Path(name)))
    arms = {label: spread(values) for label, values in taken.items()}
    per_job = (arms["S=512"]["median_s"] - arms["S=8"]["median_s"]) / (6 * (512 - 8))
    return {
        "name": "workflow",
        "arms": arms,
        "ratios": {
            "1.5 ms / planning CPU per job": 0.0015 / per_job,
            "3 s / our dry-run": 3 / arms["our dry-run"]["median_s"],
        },
        "max_difference": 0.0,
        "equal": True,
        "guard": {"1.5 ms / planning CPU per job": 1.0, "3 s / our dry-run": 1.0},
        "target": {},
        "note": "CPU of the whole process",
    }


def run(rounds: int) -> list[dict[str, Any]]:
    """Runs all of them."""
    return [bench_rows(rounds), bench_merge(rounds), bench_overhead(rounds), bench_workflow(rounds)]
