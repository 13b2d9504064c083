"""How far it carries: planning, merging and indexing a million clips, dry-runs of many jobs, a simulated cluster.

`make bench` runs a small form with guards. The tables of docs/scale.md are measured and written by

python -m benchmarks.bench_scale [--clips 10000 100000 1000000] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from sightline.run.shards import deal_out

from benchmarks.cluster import scenarios, simulate
from benchmarks.tables import cells, fill_page
from benchmarks.timing import spread

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "scale.md"
STEPS = ("samples", "rows", "shard", "merge", "index")
TITLES = {
    "samples": "plan: draw blocks, deal 500 shards, write the list",
    "shard": "start of one shard: plan, its samples, all journals",
    "merge": "merge 500 shards, every check",
    "index": "join 500 feature indexes and open them",
}
SECONDS_PER_CLIP = 5.0
SIZES = (1_000_000, 100_000, 10_000)


def measure(clips: int, folder: Path) -> dict[str, dict[str, float]]:
    """Runs every step on generated rows, each in a process of its own."""
    found = {}
    for step in STEPS:
        command = [sys.executable, "-m", "benchmarks.scale_steps", step, str(folder), str(clips)]
        paths = os.pathsep.join([str(ROOT / "lib"), str(ROOT)])
        environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        found[step] = json.loads(done.stdout)
        print(f"{clips} clips, {step}: {found[step]}", flush=True)
    return found


def many_jobs(datasets: int, shards: int) -> dict[str, Any]:
    """Returns a configuration of about `2 x datasets x shards` jobs: the demo's system on generated datasets."""
    card = {
        "title": "generated", "asset": "fitcoach_demo", "layout": "qevd", "folder": "QEVD-FIT-COACH", "split": "train",
        "demo": True, "note": "generated", "videos": 10 * shards, "items": 9 * shards, "video_seconds": 120 * shards,
    }  # fmt: skip
    names = [f"generated_{number}" for number in range(datasets)]
    return {
        "runs": [{"system": "fitcoach", "datasets": names, "variants": ["demo"]}],
        "datasets": dict.fromkeys(names, card),
    }


PLAIN = """
rule all:
    input: expand("out/{stage}/{shard}.txt", stage=range(10), shard=range(506))
rule stage:
    output: "out/{stage}/{shard}.txt"
    shell: "touch {output}"
"""


def dry_run(config: dict[str, Any] | str | None) -> tuple[int, float, float]:
    """Returns jobs, CPU seconds and wall seconds of `snakemake -n` in an empty folder; text is a workflow itself."""
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "rules", "--cores", "1", "--nolock"]
        if isinstance(config, str):
            Path(name, "Snakefile").write_text(config)
        else:
            command += ["--snakefile", str(ROOT / "Snakefile")]
        if isinstance(config, dict):
            Path(name, "many.json").write_text(json.dumps(config))
            command += ["--configfile", str(ROOT / "config" / "config.yaml"), str(Path(name, "many.json"))]
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(command, cwd=name, check=True, capture_output=True, text=True)
        wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    total = next(line for line in (done.stdout + done.stderr).splitlines() if line.startswith("total"))
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return int(total.split()[1]), cpu, wall


def steps_table(found: dict[int, dict[str, dict[str, float]]]) -> str:
    """Returns what each step took at each size."""
    rows = []
    for step, title in TITLES.items():
        for clips, steps in found.items():
            one = steps[step]
            rows.append([title, f"{clips:,}", f"{one['wall_s']:.1f}", f"{one['cpu_s']:.1f}", f"{one['rss_mib']:,.0f}",
                         f"{one['bytes'] / 1e6:,.1f}"])  # fmt: skip
    for clips, steps in found.items():
        rows.append(["shard files, JSON lines", f"{clips:,}", "", "", "", f"{steps['rows']['bytes'] / 1e6:,.1f}"])
    return cells(["step", "clips", "wall s", "CPU s", "peak MiB", "MB on disk"], rows)


def jobs_table(configs: dict[str, dict[str, Any] | str | None]) -> str:
    """Returns what dry-runs take."""
    rows = []
    for title, config in configs.items():
        jobs, cpu, wall = dry_run(config)
        rows.append([title, f"{jobs:,}", f"{cpu:.1f}", f"{wall:.1f}", f"{1000 * cpu / jobs:.2f}"])
    return cells(["configuration", "jobs", "CPU s", "wall s", "ms of CPU per job"], rows)


def cluster_table(clips: int, slots: int, shards: tuple[int, ...]) -> str:
    """Returns makespans of the shards of a run on simulated clusters."""
    rows = []
    for title, cluster in scenarios(slots).items():
        for count in shards:
            found = simulate([clips * SECONDS_PER_CLIP / count] * count, cluster)
            lost = found.busy_h - found.ideal_h * slots
            rows.append([title, f"{count:,}", f"{found.makespan_h:.1f}", f"{found.over_ideal:.2f}", f"{lost:,.0f}",
                         f"{found.failures:,}", str(found.exhausted)])  # fmt: skip
    head = [
        "cluster",
        "shards",
        "hours",
        "over ideal",
        "GPU hours beyond the work",
        "failed attempts",
        "runs ended by it",
    ]
    return cells(head, rows)


def run(rounds: int) -> list[dict[str, Any]]:
    """The small form: dealing grows in proportion, resuming beats beginning anew, 5,000 jobs are planned soon."""
    taken: dict[str, list[float]] = {"20 000 bundles": [], "80 000 bundles": []}
    for _ in range(rounds):
        for label, count in (("20 000 bundles", 20_000), ("80 000 bundles", 80_000)):
            started = time.process_time()
            deal_out([1.0 + n % 7 for n in range(count)], 500)
            taken[label].append(time.process_time() - started)
    arms = {label: spread(values) for label, values in taken.items()}
    many = many_jobs(10, 250)
    planned = [dry_run(many) for _ in range(max(1, rounds // 3))]
    arms["dry-run of 5 000 jobs"] = spread([cpu for _, cpu, _ in planned])
    hostile = list(scenarios(64).values())[-2:]
    resumed, anew = (simulate([10_000.0] * 500, cluster).makespan_h for cluster in hostile)
    return [
        {
            "name": "scale",
            "arms": arms,
            "ratios": {
                "4 x small / large": 4 * arms["20 000 bundles"]["median_s"] / arms["80 000 bundles"]["median_s"],
                "10 s / dry-run of 5 000 jobs": 10 / arms["dry-run of 5 000 jobs"]["median_s"],
                "makespan anew / resumed, simulated": anew / resumed,
            },
            "max_difference": 0.0,
            "equal": all(jobs >= 5000 for jobs, _, _ in planned),
            "guard": {"4 x small / large": 0.5, "10 s / dry-run of 5 000 jobs": 0.4,
                      "makespan anew / resumed, simulated": 1.2},
            "target": {"10 s / dry-run of 5 000 jobs": 1.0},
            "note": "CPU; the tables of docs/scale.md come from the same module",
        }
    ]  # fmt: skip


def main() -> None:
    """Measures everything and writes the tables into docs/scale.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, nargs="+", default=sorted(SIZES))
    parser.add_argument("--folder", type=Path, help="where rows are generated (about 3 GB for a million)")
    arguments = parser.parse_args()
    configs: dict[str, dict[str, Any] | str | None] = {
        "for comparison: a workflow of one rule that touches files": PLAIN,
        "default (the demo)": None,
        "10 datasets, 500 shards each": many_jobs(10, 250),
    }
    fill_page(PAGE, "jobs", jobs_table(configs))
    fill_page(PAGE, "cluster", cluster_table(max(arguments.clips), 64, (500, 5_000)))
    found = {}
    for clips in arguments.clips:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            found[clips] = measure(clips, Path(name))
    fill_page(PAGE, "steps", steps_table(found))


if __name__ == "__main__":
    main()
