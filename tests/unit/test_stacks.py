"""The environments: their names, their pins and what their rules import fit together."""

from __future__ import annotations

import importlib.metadata
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.stacks.reach import ROOT, Import, Reach, rules_with_scripts

ENVS = ROOT / "envs"
STACKS = {"core", "video", "llm", "vllm", "diffusion", "metrics", "train"}
OWN_WORLD = {"vllm"}  # pins its own torch and shares no version with the others
RULES = rules_with_scripts()
# Looked for by name and refused with a sentence where absent: not a package of the stack.
ASKED_FOR = {"llm": {"vllm"}}
HEAVY = {"torch", "transformers", "diffusers", "accelerate", "peft", "vllm"}
CLIP_TEXT = {"CLIPTextConfig", "CLIPTextModel", "CLIPTextModelWithProjection", "CLIPTokenizer", "CLIPTokenizerFast"}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins_in(path: Path) -> dict[str, str]:
    """Returns name -> version of a requirements or constraints file."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {normalised(line.split("==")[0]): line.split("==")[1] for line in lines}


@cache
def environment(stack: str) -> tuple[list[str], dict[str, str]]:
    """Returns the conda packages and the pip pins of a stack."""
    entries = yaml.safe_load((ENVS / f"{stack}.yaml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in entries if isinstance(entry, dict))
    for line in pip:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][a-z0-9.]*", line), f"{stack}: {line} is no pin"
    return [entry for entry in entries if isinstance(entry, str)], dict(line.split("==") for line in pip)


@cache
def packages_of(module: str) -> frozenset[str]:
    return frozenset(map(normalised, importlib.metadata.packages_distributions().get(module, [module])))


def findings(stack: str, imports: set[Import], modules: set[str]) -> list[str]:
    """Returns what the code of a stack imports and must not."""
    pins = environment(stack)[1].keys() | ASKED_FOR.get(stack, set())
    found = [
        f"{one.where} imports {one.package}, which envs/{stack}.yaml does not pin"
        for one in imports
        if not packages_of(one.package) & pins
    ]
    if stack == "diffusion":
        found += [
            f"{one.where} takes {one.name or one.module} of transformers"
            for one in imports
            if one.package == "transformers" and one.name not in CLIP_TEXT
        ]
        found += [f"{name} belongs to the llm stack" for name in modules if name.startswith("sightline.llm.backend")]
    return sorted(set(found))


def test_there_is_one_file_per_stack() -> None:
    assert {path.stem for path in ENVS.glob("*.yaml")} == STACKS


@pytest.mark.parametrize("stack", sorted(STACKS))
def test_the_conda_part_is_python_and_pip(stack: str) -> None:
    """All have the Python of the controller; no file that Snakemake would hand to `conda create --file`."""
    assert environment(stack)[0] == ["python=3.11", "pip"]
    assert not list(ENVS.glob("*.pin.txt"))


@pytest.mark.parametrize("stack", sorted(STACKS))
def test_a_container_is_made_from_the_same_files(stack: str) -> None:
    text = (ROOT / f"containers/{stack}.def").read_text()
    assert set(re.findall(r"envs/[\w.]+", text)) == {f"envs/{stack}.yaml", f"envs/{stack}.constraints.txt"}
    assert {path.stem for path in ROOT.glob("containers/*.def")} == STACKS


@pytest.mark.parametrize("stack", sorted(STACKS - OWN_WORLD))
def test_versions_agree_everywhere(stack: str) -> None:
    """The same package has one version in all stacks, in the local environment and in the full lists."""
    local, full = pins_in(ENVS / "local.txt"), pins_in(ENVS / f"{stack}.constraints.txt")
    others = {name: version for other in STACKS - OWN_WORLD for name, version in environment(other)[1].items()}
    for name, version in environment(stack)[1].items():
        assert local.get(name, version) == version, f"{name} of {stack}"
        assert others[name] == version, f"{name} of {stack}"
        assert full.get(name) == version, (
            f"{name}: write envs/{stack}.constraints.txt again (envs/write_constraints.py)"
        )


@pytest.mark.parametrize("stack", sorted(STACKS - OWN_WORLD))
def test_full_lists_agree(stack: str) -> None:
    mine = pins_in(ENVS / f"{stack}.constraints.txt")
    for other in STACKS - OWN_WORLD - {stack}:
        theirs = pins_in(ENVS / f"{other}.constraints.txt")
        assert {name: theirs[name] for name in mine.keys() & theirs} == {
            name: mine[name] for name in mine.keys() & theirs
        }, f"{stack} and {other}"


def test_what_only_one_stack_has() -> None:
    pins = {stack: environment(stack)[1].keys() for stack in STACKS}
    assert not HEAVY & pins["core"]
    assert not HEAVY & pins["video"]
    assert [stack for stack in sorted(STACKS) if "diffusers" in pins[stack]] == ["diffusion"]
    assert [stack for stack in sorted(STACKS) if "vllm" in pins[stack]] == ["vllm"]
    assert not {"torchvision", "torchaudio", "torchcodec"} & set().union(*pins.values())
    assert pins["llm"] <= pins["train"], "a model that is trained is loaded and run as in llm"


@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_rule_imports_only_what_its_environment_pins(rule: str) -> None:
    adapter, env = RULES[rule]
    assert env is not None, f"{rule} names no environment"
    assert env.is_file(), f"{rule} names {env}"
    reach = Reach().adapter(adapter)
    assert reach.modules, "nothing of the library was followed"
    assert findings(env.stem, reach.found, reach.modules) == []


def test_trainings_run_in_the_stack_for_training() -> None:
    trainings = {rule: env for rule, (_, env) in RULES.items() if rule.endswith("_train")}
    assert trainings
    assert {env.stem for env in trainings.values() if env} == {"train"}


@pytest.mark.parametrize(
    ("stack", "line", "problem"),
    [
        ("core", "from sightline.run.devices import fix_threads; fix_threads(1)", "imports torch"),
        ("core", "from sightline.records.rows import read_samples; import pandas", "imports pandas"),
        ("video", "from sightline.registry import room; room('fitcoach', 'stages').predict_shard", "imports torch"),
        ("llm", "import diffusers", "imports diffusers"),
        ("metrics", "import vllm", "imports vllm"),
        ("diffusion", "from transformers import AutoModelForCausalLM", "takes AutoModelForCausalLM"),
        ("diffusion", "import transformers", "takes transformers"),
        ("diffusion", "import sightline.llm.backend_transformers", "belongs to the llm stack"),
    ],
)
def test_a_foreign_import_is_found(tmp_path: Path, stack: str, line: str, problem: str) -> None:
    adapter = tmp_path / "adapter.py"
    adapter.write_text(f"with stage(snakemake) as job:\n    {line}\n")
    reach = Reach().adapter(adapter)
    assert any(problem in finding for finding in findings(stack, reach.found, reach.modules))


def test_clip_text_is_all_that_diffusion_may_take(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter.py"
    adapter.write_text(
        "import torch\nfrom diffusers import UNet2DConditionModel\nfrom transformers import CLIPTextModel\n"
    )
    reach = Reach().adapter(adapter)
    assert findings("diffusion", reach.found, reach.modules) == []


def test_what_the_snakefile_imports_comes_with_snakemake_and_pydantic(tmp_path: Path) -> None:
    """A controller has Snakemake, its plugins, pydantic and pygments; cards of all rooms are read by it."""
    lines = [line for line in (ROOT / "Snakefile").read_text().splitlines() if line.startswith(("from ", "import "))]
    assert any("sightline" in line for line in lines)
    adapter = tmp_path / "snakefile.py"
    cards = [
        f"from sightline.systems.{path.parent.name}.{path.stem} import *"
        for path in sorted((ROOT / "lib/sightline/systems").glob("*/card.py"))
    ]
    calls = "load_plan({}, Path()).room('x')\nuse_library('')\nrelease_dead_lock()\nnote_holder()\n"
    adapter.write_text("\n".join([*lines, *cards, calls]))
    found = {one.package for one in Reach().adapter(adapter).found}
    assert found <= {"snakemake", "pydantic", "yaml"}, found
