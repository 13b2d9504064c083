"""The stand-in for conda: installed only where there is none, honest about what it is, one line when it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = f"python={sys.version_info.major}.{sys.version_info.minor}"
SCRIPT = ROOT / "envs/conda_stand_in.py"


def conda(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *words], capture_output=True, text=True, env={**os.environ, **environment}
    )


def bare_path(folder: Path) -> str:
    """Returns a PATH with `folder` first and without any conda."""
    return os.pathsep.join([str(folder), "/usr/bin", "/bin"])


def test_it_is_installed_where_there_is_no_conda(tmp_path: Path) -> None:
    told = conda("install", str(tmp_path), PATH=bare_path(tmp_path)).stdout
    assert f"conda stand-in: installed as {tmp_path / 'conda'}" in told
    assert "solves nothing" in told
    version = subprocess.run([tmp_path / "conda", "--version"], capture_output=True, text=True).stdout
    assert "stand-in" in version


def test_it_steps_aside_for_a_real_conda(tmp_path: Path) -> None:
    conda("install", str(tmp_path), PATH=bare_path(tmp_path))
    real = tmp_path / "real"
    real.mkdir()
    (real / "conda").write_text("#!/bin/sh\n")
    (real / "conda").chmod(0o755)
    told = conda("install", str(tmp_path), PATH=f"{bare_path(tmp_path)}:{real}").stdout
    assert told == f"conda: {real / 'conda'}\n"
    assert not (tmp_path / "conda").exists()


def test_a_conda_in_the_same_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "conda").write_text("#!/bin/sh\necho real\n")
    assert conda("install", str(tmp_path), PATH=bare_path(tmp_path)).stdout == f"conda: {tmp_path / 'conda'}\n"
    assert (tmp_path / "conda").read_text() == "#!/bin/sh\necho real\n"


def test_every_run_is_told_what_it_is(tmp_path: Path) -> None:
    answer = conda("info", "--json")
    assert "no conda here" in answer.stderr
    prefix = Path(json.loads(answer.stdout)["conda_prefix"])
    command = f'source {prefix}/bin/activate "{tmp_path}/my env"; echo "$PATH"'
    shown = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert shown.stdout.startswith(f"{tmp_path}/my env/bin:")


def environment_file(folder: Path, *lines: str, python: str = PYTHON) -> Path:
    path = folder / "stack.yaml"
    listed = "".join(f"      - {line}\n" for line in lines)
    path.write_text(f"channels: [conda-forge]\ndependencies:\n  - {python}\n  - pip\n  - pip:\n{listed}")
    return path


def test_a_package_is_installed_from_the_pip_section(tmp_path: Path) -> None:
    package = tmp_path / "tiny-1.0.dist-info"
    wheel = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny.py", "VALUE = 7\n")
        archive.writestr(f"{package.name}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr(f"{package.name}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{package.name}/RECORD", "")
    file = environment_file(tmp_path, "tiny==1.0")
    prefix = tmp_path / "made"
    pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": "/dev/null"}
    create = ("env", "create", "--quiet", "--no-default-packages")
    done = conda(*create, "--file", str(file), "--prefix", str(prefix), **pip)
    assert done.returncode == 0, done.stderr
    code = "import sys, tiny; print(tiny.VALUE, sys.prefix)"
    shown = subprocess.run([prefix / "bin/python", "-I", "-c", code], capture_output=True, text=True)
    assert shown.stdout.split() == ["7", str(prefix)]
    other = environment_file(tmp_path, "tiny==2.0")
    failed = conda("env", "create", "--file", str(other), "--prefix", str(tmp_path / "never"), **pip)
    assert failed.returncode == 1
    assert "No matching distribution found for tiny==2.0" in failed.stderr
    assert "could not be built" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("create", "--file", "core.linux-64.pin.txt", "--prefix", "there", "--yes"), "needs a real conda"),
        (("list", "--explicit"), "needs a real conda"),
    ],
)
def test_what_it_cannot_do_it_refuses(words: tuple[str, ...], reason: str) -> None:
    done = conda(*words)
    assert done.returncode == 1
    assert reason in done.stderr


@pytest.mark.parametrize(
    ("python", "reason"), [("python", "names no version of python"), ("python=3.99", "python 3.99 is not installed")]
)
def test_another_python_is_not_taken_instead(tmp_path: Path, python: str, reason: str) -> None:
    file = environment_file(tmp_path, "tiny==1.0", python=python)
    done = conda("env", "create", "--file", str(file), "--prefix", str(tmp_path / "made"))
    assert done.returncode == 1
    assert reason in done.stderr
