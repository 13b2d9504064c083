"""An environment file that cannot be built is named before anything is built from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from sightline.registry import load_plan
from sightline.run.check import describe
from sightline.run.stack_check import ask_pip, stack_problems

ROOT = Path(__file__).parents[2]


@pytest.fixture
def only_wheels_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Makes pip look into one folder of wheels and nowhere else."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name, value in {"CONFIG_FILE": "/dev/null", "NO_INDEX": "1", "FIND_LINKS": str(wheels)}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    return wheels


def write_stack(folder: Path, *pins: str, known: tuple[str, ...] = ()) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "core.yaml").write_text(yaml.safe_dump({"dependencies": ["python=3.11", "pip", {"pip": list(pins)}]}))
    (folder / "core.constraints.txt").write_text("# all\n" + "".join(f"{pin}\n" for pin in known))
    return folder


def test_the_released_files_need_no_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sightline.run.stack_check.ask_pip", lambda pin: pytest.fail(f"asked for {pin}"))
    assert stack_problems(ROOT / "envs", network=True) == ([], [])


def test_a_version_that_does_not_exist_is_named(tmp_path: Path, only_wheels_here: Path) -> None:
    folder = write_stack(tmp_path / "envs", "numpy==99.9", "tqdm==4.70.1", known=("numpy==2.4.6", "tqdm==4.70.1"))
    (problem,), remarks = stack_problems(folder, network=True)
    assert f"{folder / 'core.yaml'} pins numpy==99.9, which does not exist" in problem
    assert "No matching distribution found for numpy==99.9" in problem
    assert remarks == []


def test_it_stops_the_check(tmp_path: Path, only_wheels_here: Path) -> None:
    plan = load_plan(yaml.safe_load((ROOT / "config/config.yaml").read_text()), ROOT / "config")
    folder = write_stack(tmp_path / "envs", "no-such-package==1.0")
    report = describe(plan, tmp_path, stacks=folder)
    assert [entry for entry in report.missing if "no-such-package==1.0" in entry]
    assert not report.ok


def test_without_an_index_it_is_only_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EXTRA_INDEX_URL", "FIND_LINKS", "NO_INDEX"):
        monkeypatch.delenv(f"PIP_{name}", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert ask_pip("numpy==99.9") == "unknown"
    folder = write_stack(tmp_path / "envs", "numpy==99.9")
    assert stack_problems(folder, network=False) == (
        [],
        [f"{folder}/core.yaml pins numpy==99.9, which no index was asked about"],
    )


def loose(path: Path) -> str:
    path.write_text(path.read_text().replace("==", ">="))
    return "not a pin"


def no_yaml(path: Path) -> str:
    path.write_text("dependencies: [python=3.11\n")
    return "cannot be read"


def no_list(path: Path) -> str:
    path.write_text("- python=3.11\n")
    return "no list `dependencies`"


def no_pip(path: Path) -> str:
    path.write_text("dependencies: [python=3.11, pip]\n")
    return "no pip section"


@pytest.mark.parametrize("damage", [loose, no_yaml, no_list, no_pip], ids=lambda damage: damage.__name__)
def test_a_damaged_file_is_one_problem(tmp_path: Path, damage: Callable[[Path], str]) -> None:
    folder = write_stack(tmp_path / "envs", "numpy==2.4.6", known=("numpy==2.4.6",))
    words = damage(folder / "core.yaml")
    (problem,), _ = stack_problems(folder, network=False)
    assert words in problem
    assert str(folder / "core.yaml") in problem
