"""Whether the environment files of the stacks pin what exists, before Snakemake builds anything from them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

_PIN = re.compile(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!_-]+)\Z")
_UNREACHED = ("Retrying", "connection error", "No module named pip")
_ASK = (
    "-m",
    "pip",
    "install",
    "--dry-run",
    "--ignore-installed",
    "--no-deps",
    "--quiet",
    "--disable-pip-version-check",
)


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def known_pins(path: Path) -> dict[str, str]:
    """Returns name -> version of a list of packages that pip is known to find together; empty if there is none."""
    if not path.is_file():
        return {}
    found = (_PIN.match(line.strip()) for line in path.read_text(encoding="utf-8").splitlines())
    return {_normalised(match[1]): match[2] for match in found if match}


def _pip_lines(path: Path) -> list[str] | str:
    """Returns the pip section of an environment file, or what is wrong with the file."""
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        return f"cannot be read: {' '.join(str(error).split())}"
    entries = content.get("dependencies") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        return "has no list `dependencies`"
    lines = [line for entry in entries if isinstance(entry, dict) for line in entry.get("pip") or []]
    return [str(line) for line in lines] or "has no pip section"


def ask_pip(pin: str) -> str | None:
    """Asks pip whether a pinned package can be had; nothing is installed.

    Returns:
        None if it can, `unknown` if no index was reached, else what pip answers.
    """
    command = [sys.executable, *_ASK, "--retries", "1", "--timeout", "15", pin]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return None
    answer = done.stdout + done.stderr
    if any(words in answer for words in _UNREACHED):
        return "unknown"
    errors = [line.removeprefix("ERROR: ") for line in answer.splitlines() if line.startswith("ERROR: ")]
    return errors[-1] if errors else answer.strip().splitlines()[-1]


def stack_problems(folder: str | Path, *, network: bool) -> tuple[list[str], list[str]]:
    """Checks every environment file of a folder.

    Pins that stand in the stack's full list (`<stack>.constraints.txt`) were found when that was written and are
    not asked for again. Others are asked of pip's index, unless the network must not be used.

    Returns:
        What stops a run with `--use-conda`, each with its mend; and what is not known.
    """
    problems, remarks = [], []
    for path in sorted(Path(folder).glob("*.yaml")):
        lines = _pip_lines(path)
        if isinstance(lines, str):
            problems.append(f"{path}: {lines}. Mend it, or take the released file")
            continue
        loose = [line for line in lines if not _PIN.match(line)]
        if loose:
            problems.append(f"{path}: {', '.join(loose)}: not a pin. Write name==version")
        known = known_pins(path.with_suffix(".constraints.txt"))
        new = [match for line in lines if (match := _PIN.match(line)) and known.get(_normalised(match[1])) != match[2]]
        for match in new:
            answer = ask_pip(match[0]) if network else "unknown"
            if answer == "unknown":
                remarks.append(f"{path} pins {match[0]}, which no index was asked about")
            elif answer:
                problems.append(f"{path} pins {match[0]}, which does not exist ({answer}). Pin a version that does")
    return problems, remarks
