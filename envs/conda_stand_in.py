#!/usr/bin/env python3
"""A stand-in for conda, for machines without one. It is not conda and solves nothing.

It answers the few commands that Snakemake gives, and builds each environment as a Python virtual environment:
the `pip:` section of the file is installed with plain pip, the conda packages and the channels are ignored. So what it
shows is that the pip sections install, together with the Python they name, and that the rules run on them; whether
conda can solve the rest it cannot show.

    python envs/conda_stand_in.py install .venv/bin    puts it there as `conda`, unless there is a conda already
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import yaml

NAME = "conda stand-in"
NOTICE = f"{NAME}: no conda here; environments are built by pip from the pip sections, no conda package is installed"
VERSION = "24.7.1"  # of the conda whose commands are answered
MARK = "conda_stand_in.py"
PIP = ("install", "--quiet", "--disable-pip-version-check", "--no-compile", "--requirement")
ACTIVATE = 'export CONDA_PREFIX="$1" PATH="$1/bin:$PATH"\nunset PYTHONHOME\n'


def fail(message: str) -> NoReturn:
    """Ends with one line."""
    print(f"{NAME}: {message}", file=sys.stderr)
    raise SystemExit(1)


def read_environment(path: Path) -> tuple[str, list[str], list[str]]:
    """Returns the Python version, the other conda packages and the lines for pip of an environment file."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    entries: list[Any] = content["dependencies"]
    packages = [entry for entry in entries if isinstance(entry, str)]
    pip = [line for entry in entries if isinstance(entry, dict) for line in entry["pip"]]
    versions = [entry.partition("=")[2].strip("=") for entry in packages if entry.split("=")[0] == "python"]
    if len(versions) != 1 or not versions[0]:
        fail(f"{path}: names no version of python")
    others = [entry for entry in packages if entry.split("=")[0] not in ("python", "pip")]
    return versions[0], others, pip


def find_python(version: str) -> str:
    """Returns an interpreter of this minor version that is no virtual environment's own."""
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    wanted = ".".join(version.split(".")[:2])
    found = os.path.realpath(sys.executable) if wanted == own else shutil.which(f"python{wanted}")
    return found or fail(f"python {wanted} is not installed")


def create(file: Path, prefix: Path) -> None:
    """Builds a virtual environment from the pip section of an environment file."""
    version, others, pip = read_environment(file)
    print(f"{NAME}: building {prefix} with python {version} and pip; ignored: {', '.join(others) or 'channels only'}")
    python = find_python(version)
    requirements = prefix.with_name(f"{prefix.name}.requirements.txt")
    requirements.parent.mkdir(parents=True, exist_ok=True)
    requirements.write_text("".join(f"{line}\n" for line in pip), encoding="utf-8")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        subprocess.run([python, "-m", "venv", str(prefix)], check=True, env=clean)
        subprocess.run(
            [str(prefix / "bin/python"), "-m", "pip", *PIP, str(requirements)],
            check=True,
            env=clean,
        )
    except subprocess.CalledProcessError as error:
        shutil.rmtree(prefix, ignore_errors=True)
        fail(f"{file} could not be built: {' '.join(map(str, error.cmd))} ended with {error.returncode}")
    finally:
        requirements.unlink(missing_ok=True)


def install(folder: Path) -> None:
    """Writes `conda` into a folder of programs, unless another conda is on PATH."""
    target = folder.resolve() / "conda"
    paths = [entry for entry in os.environ["PATH"].split(os.pathsep) if Path(entry or ".").resolve() != target.parent]
    real = shutil.which("conda", path=os.pathsep.join(paths))
    if target.exists() and MARK not in target.read_text(encoding="utf-8", errors="replace"):
        print(f"conda: {target}")
    elif real:
        target.unlink(missing_ok=True)
        print(f"conda: {real}")
    else:
        target.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).resolve()}" "$@"\n', encoding="utf-8")
        target.chmod(0o755)
        print(f"{NAME}: installed as {target}, because no conda is on PATH; it builds the environments of --use-conda")
        print("with pip from the pip sections of envs/*.yaml and solves nothing. Install conda and it steps aside.")


def info() -> None:
    """Answers `conda info --json`; Snakemake sources `bin/activate` below `conda_prefix`."""
    prefix = Path(sys.prefix) / "conda-stand-in"
    activate = prefix / "bin" / "activate"
    if not activate.exists() or activate.read_text(encoding="utf-8") != ACTIVATE:
        activate.parent.mkdir(parents=True, exist_ok=True)
        activate.write_text(ACTIVATE, encoding="utf-8")
    print(NOTICE, file=sys.stderr)
    print(json.dumps({"conda_prefix": str(prefix), "platform": "linux-64"}))


def main(words: list[str]) -> None:
    """Answers one command line."""
    options = dict(zip(words, [*words[1:], ""], strict=True))
    if words[:1] == ["install"]:
        install(Path(words[1]))
    elif words[:1] == ["info"]:
        info()
    elif words[:1] == ["--version"]:
        print(f"conda {VERSION} (stand-in)")
    elif words[:3] == ["config", "--get", "channel_priority"]:
        print(json.dumps({"get": {"channel_priority": "strict"}}))
    elif words[:2] == ["env", "create"]:
        create(Path(options["--file"]), Path(options["--prefix"]))
    elif words[:1] == ["clean"]:
        print(f"{NAME}: nothing to clean")
    else:
        fail(f"does not know `conda {' '.join(words)}`; that needs a real conda")


if __name__ == "__main__":
    main(sys.argv[1:])
