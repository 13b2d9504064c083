"""Environments built from their files with their full lists: `make test-envs`; CI leaves it to the run of the demo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.workflow.conftest import ROOT

pytestmark = pytest.mark.timeout(1800)
IMPORTS = {
    "core": "numpy pyarrow lmdb h5py av cv2 httpx tenacity pydantic yaml tqdm jinja2 markupsafe",
    "video": "numpy pyarrow lmdb h5py av cv2 httpx tenacity pydantic yaml tqdm",
    "llm": "torch transformers accelerate safetensors tokenizers sentencepiece av cv2 lmdb h5py",
    "train": "torch transformers accelerate peft tensorboard safetensors torch.utils.tensorboard",
    "diffusion": "torch diffusers.models diffusers.schedulers transformers.models.clip accelerate safetensors",
    "metrics": "torch transformers bert_score nltk rapidfuzz numpy pyarrow",
}
BUILT_BY_HAND = {"vllm"}  # its torch is for GPUs only: names and pins are checked, nothing is built


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All stacks with --every-stack; without it one, so that the way of building is always tested."""
    chosen = sorted(IMPORTS) if metafunc.config.getoption("--every-stack", default=False) else ["video"]
    metafunc.parametrize("stack", chosen)


def test_a_stack_is_what_its_full_list_says(stack: str, tmp_path: Path) -> None:
    assert {path.stem for path in (ROOT / "envs").glob("*.yaml")} == IMPORTS.keys() | BUILT_BY_HAND
    prefix, listed = tmp_path / stack, ROOT / f"envs/{stack}.constraints.txt"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    create = ["env", "create", "--file", str(ROOT / f"envs/{stack}.yaml"), "--prefix", str(prefix)]
    subprocess.run(
        [sys.executable, str(ROOT / "envs/conda_stand_in.py"), *create],
        check=True,
        env={**clean, "PIP_CONSTRAINT": str(listed)},
    )
    python = str(prefix / "bin/python")
    frozen = subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout
    found = {line.split("+")[0].lower().replace("_", "-").replace(".", "-") for line in frozen.splitlines()}
    wanted = {line.replace(".", "-") for line in listed.read_text().splitlines() if not line.startswith("#")}
    assert found == wanted
    assert subprocess.run([python, "-m", "pip", "check"]).returncode == 0
    for module in IMPORTS[stack].split():
        subprocess.run([python, "-c", f"import {module}"], check=True, env=clean)
    minor = yaml.safe_load((ROOT / f"envs/{stack}.yaml").read_text())["dependencies"][0].split("=")[1]
    version = subprocess.run([python, "-V"], capture_output=True, text=True, check=True).stdout.split()[1]
    assert version.startswith(f"{minor}.")
