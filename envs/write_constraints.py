#!/usr/bin/env python3
"""Writes down every package that pip would install for a stack, direct or not; nothing is installed.

    python envs/write_constraints.py            all stacks
    python envs/write_constraints.py core llm   these

Of vllm, whose torch is for GPUs only, just the direct pins are looked up.

The lists are for pip (`PIP_CONSTRAINT`). They are not named `<stack>.linux-64.pin.txt`: Snakemake hands a file of
that name to `conda create --file`, which wants a list of conda packages; only a conda solve can write that.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from conda_stand_in import fail, read_environment

ENVS = Path(__file__).parent
ALONE = "vllm"
HEADER = """\
# {what} of {name}.yaml (Python 3.11, linux-64).
# Written by envs/write_constraints.py. To get the same again: PIP_CONSTRAINT=envs/{name}.constraints.txt
"""
EVERYTHING = "Every package that pip installs for the pip section"
DIRECT = "The direct pins alone, as they can be had, never installed together here,"


def resolved(path: Path) -> list[str]:
    """Returns `name==version` of everything an environment file brings, names normalised, local versions dropped."""
    version, _, pip = read_environment(path)
    if version != f"{sys.version_info.major}.{sys.version_info.minor}":
        fail(f"{path}: run this with python {version}")
    with tempfile.TemporaryDirectory() as folder:
        requirements, report = Path(folder) / "requirements.txt", Path(folder) / "report.json"
        requirements.write_text("".join(f"{line}\n" for line in pip), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--dry-run"]
        command += ["--no-deps"] if path.stem == ALONE else []
        subprocess.run([*command, "--ignore-installed", "--report", report, "--requirement", requirements], check=True)
        found = [entry["metadata"] for entry in json.loads(report.read_text(encoding="utf-8"))["install"]]
    names = {re.sub(r"[-_.]+", "-", entry["name"]).lower(): entry["version"].split("+")[0] for entry in found}
    return [f"{name}=={version}" for name, version in sorted(names.items())]


def main(names: list[str]) -> None:
    """Writes one list per named stack."""
    for name in names or sorted(path.stem for path in ENVS.glob("*.yaml")):
        lines = resolved(ENVS / f"{name}.yaml")
        text = HEADER.format(name=name, what=DIRECT if name == ALONE else EVERYTHING) + "".join(
            f"{line}\n" for line in lines
        )
        (ENVS / f"{name}.constraints.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
