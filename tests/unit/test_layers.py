"""The law of the house, read from the imports themselves."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIB = ROOT / "lib" / "sightline"
MODULES = sorted(LIB.rglob("*.py"))
# A package may import itself and what stands on a lower floor.
FLOORS = {
    "errors": 0,
    "records": 1,
    "video": 2,
    "config": 3,
    "assets": 4,
    "features": 4,
    "metrics": 4,
    "llm": 5,
    "run": 6,
    "training": 7,
    "report": 7,
    "systems": 8,
    "registry": 9,
    "cli": 10,
    "__main__": 11,
    "__init__": 11,
}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def place(name: str) -> tuple[str, str]:
    """Returns (package, room) of a dotted module name of ours."""
    parts = name.split(".")
    package = parts[1] if len(parts) > 1 else "__init__"
    return package, parts[2] if package == "systems" and len(parts) > 2 else ""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(LIB)))
def test_imports_go_down_only(path: Path) -> None:
    parts = path.relative_to(LIB).with_suffix("").parts
    package, room = parts[0], parts[1] if parts[0] == "systems" and len(parts) > 2 else ""
    for name in imported(path):
        assert name.split(".")[0] != "snakemake", f"{path} imports snakemake"
        if not name.startswith("sightline."):
            continue
        target, target_room = place(name)
        if target == package:
            assert target_room in ("", room) or package != "systems", f"{path}: room {room} looks into {name}"
        else:
            assert FLOORS[target] < FLOORS[package], f"{path}: {package} must not import {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(LIB)))
def test_library_reads_no_environment_and_never_exits(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path != LIB / "run" / "environment.py":
        assert "os.environ" not in text
        assert "getenv" not in text
    assert "sys.exit" not in text


def test_no_import_circle_between_packages() -> None:
    arrows = {
        (path.relative_to(LIB).parts[0].removesuffix(".py"), place(name)[0])
        for path in MODULES
        for name in imported(path)
        if name.startswith("sightline.")
    }
    for source, target in arrows:
        assert source == target or (target, source) not in arrows, f"{source} and {target} import each other"


def test_parse_time_is_light() -> None:
    """What the Snakefile imports pulls in no heavy package, in a bare interpreter."""
    code = (
        "import sys; from pathlib import Path; import yaml\n"
        "from sightline.registry import load_plan; from sightline.run.lock import release_dead_lock\n"
        "from sightline.run.environment import use_library\n"
        "load_plan(yaml.safe_load(Path('config/config.yaml').read_text()), Path('config'))\n"
        "heavy = {'torch', 'transformers', 'diffusers', 'pandas', 'numpy', 'pyarrow', 'cv2', 'av'} & set(sys.modules)\n"
        "print(sorted(heavy)); raise SystemExit(bool(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={"PYTHONPATH": str(ROOT / "lib")}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("pattern", "limit"),
    [("Snakefile", 80), ("rules/common.smk", 60), ("rules/**/*.smk", 200), ("workflow_scripts/**/*.py", 40)],
)
def test_size_budgets(pattern: str, limit: int) -> None:
    files = list(ROOT.glob(pattern))
    assert files
    for path in files:
        assert len(path.read_text().splitlines()) <= limit, path


def test_rules_define_no_functions() -> None:
    for path in [ROOT / "Snakefile", *ROOT.glob("rules/**/*.smk")]:
        for line in path.read_text().splitlines():
            assert not line.lstrip().startswith(("def ", "class ", "run:")), f"{path}: {line}"
            assert "lambda" not in line, f"{path}: {line}"


def test_adapters_make_one_call_and_read_no_config() -> None:
    adapters = list(ROOT.glob("workflow_scripts/**/*.py"))
    assert adapters
    for path in adapters:
        text = path.read_text()
        assert "snakemake.config" not in text, path
        assert "with stage(snakemake) as job:" in text, path
