"""Runs every `bench_*.py`, writes `results.json` and `RESULTS.md` beside them, and fails if a guard does.

python -m benchmarks [--rounds N] [--only NAME ...]
"""

from __future__ import annotations

import argparse
import os
import platform
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy and torch are imported

HERE = Path(__file__).parent
PACKAGES = (
    "torch", "numpy", "av", "opencv-python-headless", "nltk", "rouge-score", "rapidfuzz", "lmdb", "h5py", "snakemake",
)  # fmt: skip


def machine() -> dict[str, Any]:
    """Returns what the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), platform.processor())
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }


def number(value: float) -> str:
    """Returns a measured value with three digits, or whole from a thousand on."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def verdict(row: dict[str, Any], label: str) -> str:
    """Returns what a ratio says of its guard and target."""
    ratio = row["ratios"][label]
    target, guard = row.get("target", {}).get(label), row.get("guard", {}).get(label)
    if not row["equal"]:
        return "results differ"
    if guard is not None and ratio < guard:
        return f"below the guard of {number(guard)}"
    if target is not None and ratio < target:
        return f"short of the target of {number(target)}"
    return "target met" if target is not None else "guard met" if guard is not None else ""


def table(document: dict[str, Any]) -> str:
    """Returns the measurements as Markdown."""
    packages = ", ".join(f"{name} {version}" for name, version in document["machine"]["packages"].items())
    lines = [
        "# Measured ratios",
        "",
        "Written by `make bench`. Arms are interleaved in one process on one thread and must give equal results; a",
        "ratio is the time of the other arm over ours, so more is better, unless its name says otherwise. Machines",
        "are noisy: compare ratios, not seconds.",
        "",
        f"{document['machine']['cpu']}, Python {document['machine']['python']}, "
        f"{document['rounds']} rounds; {packages}.",
        "",
        "| benchmark | ratio | measured | target or guard | arms, median s (min-max) | note |",
        "|---|---|---|---|---|---|",
    ]
    for row in document["rows"]:
        arms = "; ".join(
            f"{name} {number(one['median_s'])} ({number(one['min_s'])}-{number(one['max_s'])})"
            for name, one in row["arms"].items()
        )
        for label, ratio in row["ratios"].items():
            cells = [row["name"], label, number(ratio), verdict(row, label), arms, row.get("note", "")]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Runs the benchmarks and reports; exit status 1 if arms differ or a guard fails."""
    from sightline.records.files import write_json, write_text

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="modules, e.g. text frames")
    parser.add_argument("--target", type=Path, default=HERE)
    arguments = parser.parse_args()
    names = sorted(path.stem for path in HERE.glob("bench_*.py"))
    if arguments.only:
        names = [name for name in names if name.removeprefix("bench_") in arguments.only]
    rows: list[dict[str, Any]] = []
    for name in names:
        print(f"{name} ...", flush=True)
        rows += import_module(f"benchmarks.{name}").run(arguments.rounds)
    document = {"machine": machine(), "rounds": arguments.rounds, "rows": rows}
    text = table(document)
    print(text)
    if not arguments.only:
        write_json(arguments.target / "results.json", document)
        write_text(arguments.target / "RESULTS.md", text)
    bad = [
        f"{row['name']}: {label}"
        for row in rows
        for label in row["ratios"]
        if verdict(row, label).startswith(("results differ", "below the guard"))
    ]
    raise SystemExit(f"guards that fail: {', '.join(bad)}" if bad else 0)


if __name__ == "__main__":
    main()
