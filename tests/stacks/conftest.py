"""Snakemake in an environment of its own, beside a conda stand-in, and a run whose jobs say what they see."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.workflow.conftest import ROOT, Checkout

PLANTED = "planted_in_the_controller"
# Appended to every adapter: what the job can import once its stage is over.
WITNESS = f"""
import importlib.util, json, os, sys
from pathlib import Path

names = ({PLANTED!r}, "torch", "transformers", "diffusers", "accelerate", "peft", "bert_score", "torchvision")
top = [(name, module) for name, module in list(sys.modules.items()) if "." not in name]
seen = {{
    "rule": snakemake.rule,
    "prefix": sys.prefix,
    "base": sys.base_prefix,
    "path": sys.path,
    "importable": [name for name in names if importlib.util.find_spec(name)],
    "loaded": {{name: getattr(module, "__file__", None) for name, module in top}},
}}
Path("results/seen").mkdir(parents=True, exist_ok=True)
Path(f"results/seen/{{snakemake.rule}}-{{os.getpid()}}.json").write_text(json.dumps(seen))
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every-stack", action="store_true", help="build every stack's environment, not those of CI only")


@dataclass
class Controller:
    """An environment with Snakemake, its plugins, pydantic and pygments."""

    folder: Path

    @property
    def python(self) -> str:
        return str(self.folder / "bin/python")

    @property
    def path(self) -> str:
        """PATH with this environment first and no other virtual environment."""
        own = Path(sys.prefix) / "bin"
        rest = [entry for entry in os.environ["PATH"].split(os.pathsep) if Path(entry).resolve() != own.resolve()]
        return os.pathsep.join([str(self.folder / "bin"), *rest])


@dataclass
class StackRun:
    """A finished run of the demo with one environment per stack."""

    checkout: Checkout
    output: str
    seen: list[dict[str, Any]]

    def environment(self, prefix: str) -> str:
        """Returns the stack whose file an environment was built from."""
        built_from = Path(f"{prefix}.yaml").read_text()
        files = (self.checkout.folder / "envs").glob("*.yaml")
        (stack,) = [path.stem for path in files if path.read_text() == built_from]
        return stack

    @property
    def prefixes(self) -> dict[str, str]:
        """Stack -> folder of its environment, of those that were built."""
        folders = [path for path in (self.checkout.folder / ".snakemake/conda").iterdir() if path.is_dir()]
        return {self.environment(str(path)): str(path) for path in folders}


@pytest.fixture(scope="session")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Controller:
    """Builds the controller's environment, puts a conda stand-in into it, and plants a package."""
    folder = tmp_path_factory.mktemp("controller") / "venv"
    made = Controller(folder)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, env=clean)
    pip = [made.python, "-m", "pip", "install", "-q", "--no-compile", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", str(ROOT / "envs/controller.txt")], check=True, env=clean)
    package = next(folder.glob("lib/python*/site-packages")) / PLANTED
    package.mkdir()
    (package / "__init__.py").write_text("")
    install = [made.python, str(ROOT / "envs/conda_stand_in.py"), "install", str(folder / "bin")]
    told = subprocess.run(install, check=True, env={**clean, "PATH": made.path}, capture_output=True, text=True).stdout
    assert "conda stand-in: installed as" in told, f"there is a conda here: {told}"
    return made


@pytest.fixture(scope="session")
def stack_run(controller: Controller, tmp_path_factory: pytest.TempPathFactory) -> StackRun:
    """Types `snakemake --use-conda` in a checkout whose adapters say what they see."""
    checkout = Checkout.fresh(tmp_path_factory.mktemp("stacks") / "checkout")
    for adapter in (checkout.folder / "workflow_scripts").rglob("*.py"):
        adapter.write_text(adapter.read_text() + WITNESS)
    output = checkout.snakemake("--use-conda", PATH=controller.path)
    seen = [json.loads(path.read_text()) for path in sorted((checkout.folder / "results/seen").iterdir())]
    return StackRun(checkout, output, seen)
