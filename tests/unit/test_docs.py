"""The documentation speaks of files, commands, keys and rules that exist."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml
from sightline.cli import main
from sightline.config.manual import sections_of
from sightline.registry import card_models, room
from sightline.run.profiles import install_profiles
from snakemake.cli import get_argument_parser

ROOT = Path(__file__).parents[2]
ROOM_READMES = sorted((ROOT / "lib" / "sightline" / "systems").glob("*/README.md"))
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "config" / "README.md",
    ROOT / "results" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *ROOM_READMES,
]
CONFIGS = sorted((ROOT / "config").rglob("*.yaml"))
COMMENTED = [*CONFIGS, ROOT / "Makefile"]
TOP = {
    "Snakefile", "Makefile", "config", "rules", "workflow_scripts", "lib", "envs", "profiles", "tests", "benchmarks",
    "docs", "LICENSE", "CONTRIBUTING.md", "CHANGELOG.md", "README.md",
}  # fmt: skip
SNAKEMAKE = str(Path(sys.executable).with_name("snakemake"))
OUTSIDE = {"-n", "--use-conda", "--report"}  # added anyway; need conda; need a finished run
HOSTS = {
    "github.com", "raw.githubusercontent.com", "www.qualcomm.com", "ai.meta.com", "www.llama.com", "huggingface.co",
    "arxiv.org", "127.0.0.1:8000", "iplab.dmi.unict.it", "dl.fbaipublicfiles.com", "epic-kitchens.github.io",
    "cvip.computing.dundee.ac.uk", "storage.googleapis.com", "ego4ddataset.com",
}  # fmt: skip
EXAMPLE_ROOTS = {"path", "data"}  # of absolute paths that stand for the reader's own


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def code_spans(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", without_blocks(text))


def code_lines(text: str) -> Iterator[str]:
    """Yields lines set as code: indented by four or more, or between fences."""
    fenced = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield line.strip()


def commands(program: str) -> list:
    found = {}
    for path in DOCUMENTS:
        for line in [*code_lines(text_of(path)), *code_spans(text_of(path))]:
            if re.match(rf"(\.venv/bin/)?{program} ", line) and "<" not in line and "…" not in line:
                found.setdefault(line.removeprefix(".venv/bin/"), name_of(path))
    for path in COMMENTED:
        for line in text_of(path).splitlines():
            if match := re.match(rf"# +({program} .*?)( {{2,}}.*)?$", line):
                found.setdefault(match[1], name_of(path))
    return [pytest.param(line, id=f"{where}: {line}") for line, where in found.items()]


# --- paths ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_relative_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(path)):
        if not target.startswith(("http://", "https://", "#")):
            assert (path.parent / target.split("#")[0]).exists(), f"{name_of(path)}: {target}"


def named_paths(path: Path) -> Iterator[str]:
    for span in code_spans(text_of(path)):
        head = span.split("/")[0]
        if head in TOP and ("/" in span or "." in span or head == span) and not re.search(r"[<>\s=*{]", span):
            yield span


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path not in ROOM_READMES], ids=name_of)
def test_paths_of_the_checkout_exist(path: Path) -> None:
    for span in named_paths(path):
        here = [ROOT / span, path.parent / span, ROOT / "lib" / "sightline" / span]
        assert any(place.exists() for place in here), f"{name_of(path)} names {span}"


def test_some_paths_are_named() -> None:
    assert len({span for path in DOCUMENTS for span in named_paths(path)}) > 30


def map_entries(text: str) -> Iterator[tuple[str, str]]:
    """Yields (path, phrase) of the map in README.md, two spaces per level."""
    block = text.split("## Map of the house")[1].split("```")[1]
    stack: list[str] = []
    for line in block.strip().splitlines():
        entry, phrase = re.split(r" {2,}", line.strip(), maxsplit=1)
        level = (len(line) - len(line.lstrip())) // 2
        stack = [*stack[:level], entry]
        yield "".join(stack), phrase


def test_the_map_shows_what_is_there() -> None:
    entries = dict(map_entries(text_of(ROOT / "README.md")))
    for path, phrase in entries.items():
        assert (ROOT / path).exists(), path
        assert phrase, path
    packages = [f"lib/sightline/{path.parent.name}/" for path in ROOT.glob("lib/sightline/*/__init__.py")]
    assert packages
    assert not [package for package in packages if not any(entry.startswith(package) for entry in entries)]


@pytest.mark.parametrize("path", ROOM_READMES, ids=name_of)
def test_room_readme_names_files_of_the_room(path: Path) -> None:
    spans = [span for span in code_spans(text_of(path)) if re.fullmatch(r"[a-z_*]+(\.py|/)", span)]
    assert spans
    for span in spans:
        assert list(path.parent.glob(span)), f"{name_of(path)} names {span}"


def switches(text: str) -> list[tuple[str, str]]:
    """Returns the keys named in the last column of the tables, each with the value given, if any."""
    columns = [line.rstrip("| ").split(" | ")[-1] for line in text.splitlines() if line.startswith("|")]
    found = [re.fullmatch(r"([a-z][a-z_<>.]+)(?:: (\w+))?", span) for column in columns for span in code_spans(column)]
    named = [(match[1], match[2] or "") for match in found if match and ("." in match[1] or match[2])]
    return [(key, value) for key, value in named if not key.endswith((".py", ".json", ".parquet"))]


@pytest.mark.parametrize("path", ROOM_READMES, ids=name_of)
def test_room_readme_names_switches_of_the_card(path: Path) -> None:
    sections = sections_of(card_models()[path.parent.name])
    kinds = {
        f"{place}.{key.name}": key.kind for section in sections for place in section.places for key in section.keys
    }
    assert len(switches(text_of(path))) > 5
    for key, value in switches(text_of(path)):
        kind = kinds.get(key) or kinds.get(f"variants.<name>.{key}")
        assert kind, f"{name_of(path)}: {key} is no key of the card"
        assert not value or value.isdigit() or f"`{value}`" in kind, f"{name_of(path)}: {key} cannot be {value}"


def rule_outputs() -> set[str]:
    texts = [text_of(path) for path in [ROOT / "Snakefile", *ROOT.glob("rules/**/*.smk")]]
    return {path for text in texts for path in re.findall(r'"(results/[^"]+)"', text)}


@cache
def output_patterns() -> list[re.Pattern[str]]:
    patterns = [re.sub(r"\\{[a-z]+\\}", "[^/]+", re.escape(path)) for path in rule_outputs()]
    return [re.compile(pattern) for pattern in patterns]


@pytest.mark.parametrize("path", [ROOT / "docs" / "architecture.md", ROOT / "README.md"], ids=name_of)
def test_result_files_are_outputs_of_rules(path: Path) -> None:
    generated = {line.split()[1] for file in CONFIGS for line in text_of(file).splitlines() if "generated:" in line}
    files = [span for span in code_spans(text_of(path)) if re.fullmatch(r"results/[\w./-]+\.[a-z]+", span)]
    assert files
    for file in files:
        known = file in generated or any(pattern.fullmatch(file) for pattern in output_patterns())
        assert known or (ROOT / file).exists(), f"{name_of(path)}: no rule makes {file}"


def test_every_lasting_output_is_explained() -> None:
    """What a rule writes for others to read stands in the architecture page."""
    text = text_of(ROOT / "docs" / "architecture.md")
    for output in rule_outputs():
        if output.startswith(
            ("results/runs", "results/report", "results/features", "results/frames", "results/assets")
        ):
            assert output.rsplit("/", 1)[1].replace("{shard}", "1-of-1").replace("{judge}", "mock") in text, output


# --- commands ------------------------------------------------------------------------------------------


def split_command(line: str) -> tuple[tuple[str, ...], list[str]]:
    """Returns the options and the targets of a command, without what needs more than the checkout.

    Snakemake's own parser decides what is a target, so a word that an option swallows is seen here.
    """
    words = shlex.split(line)[1:]
    targets = list(get_argument_parser().parse_args(words).targets)
    options: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        if word not in targets and word not in OUTSIDE and before != "--report":
            options.append(word)
    return tuple(options), targets or ["all"]


def dry_runs() -> list:
    """Returns one dry-run per set of options, with the targets of all commands that use it."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for param in commands("snakemake"):
        options, targets = split_command(param.values[0])
        groups.setdefault(options, []).extend(targets)
    return [
        pytest.param(list(options), sorted(set(targets)), id=" ".join(options) or "no options")
        for options, targets in groups.items()
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with what the commands name by relative path, the profiles set up, and no results."""
    folder = tmp_path_factory.mktemp("docs")
    install_profiles(ROOT / "profiles", folder / "user/snakemake")
    for name in ("config", "profiles"):
        shutil.copytree(ROOT / name, folder / name)
    examples = dict(re.findall(r"```yaml\n# (\w+\.yaml)\n(.*?)```", text_of(ROOT / "config" / "README.md"), re.DOTALL))
    assert "my.yaml" in examples, "config/README.md shows no my.yaml"
    for name, text in examples.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.workflow
@pytest.mark.parametrize(("options", "targets"), dry_runs())
def test_snakemake_commands_run_dry(options: list[str], targets: list[str], place: Path) -> None:
    command = [SNAKEMAKE, *targets, "-n", "--quiet", "all", "--snakefile", str(ROOT / "Snakefile"), *options]
    environment = {**os.environ, "XDG_CONFIG_HOME": str(place / "user")}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{options} {targets}\n{done.stdout}{done.stderr}"
    assert not (place / "results").exists()


def test_snakemake_commands_are_found() -> None:
    lines = [param.values[0] for param in commands("snakemake")]
    assert len(lines) > 10
    assert any("--profile" in line for line in lines)
    assert any("full.yaml" in line for line in lines)


@pytest.mark.parametrize("line", commands("python -m sightline"))
def test_commands_name_verbs_that_exist(line: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main([shlex.split(line)[3], "--help"])
    assert ended.value.code == 0, line


@pytest.mark.parametrize("line", commands("make"))
def test_make_targets_exist(line: str) -> None:
    targets = re.search(r"^\.PHONY: (.*)$", text_of(ROOT / "Makefile"), re.MULTILINE)
    assert targets
    assert shlex.split(line)[1] in targets[1].split()


# --- words ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*DOCUMENTS, *COMMENTED], ids=name_of)
def test_no_machine_and_no_unknown_host_is_named(path: Path) -> None:
    for number, line in enumerate(text_of(path).splitlines(), start=1):
        hosts = set(re.findall(r"https?://([^/\s)`\"]+)", line))
        roots = set(re.findall(r"(?:^|[\s`\"'(=])/([A-Za-z][\w.-]*)/", line))
        assert hosts <= HOSTS, f"{name_of(path)}, line {number}: {line}"
        assert roots <= EXAMPLE_ROOTS | ({"bin"} if path.name == "Makefile" else set()), (
            f"{name_of(path)}, line {number}: {line}"
        )


def test_result_table_says_what_the_cards_say() -> None:
    """The published row holds the numbers of config/paper, in the order of the names below it."""
    rows = {
        cells[0]: cells[1:]
        for line in text_of(ROOT / "README.md").splitlines()
        if line.startswith("|") and len(cells := [cell.strip(" `") for cell in line.strip("|").split("|")]) == 6
    }
    card = yaml.safe_load(text_of(ROOT / "config" / "paper" / "fitcoach.yaml"))["rows"]["stream_vlm"]["metrics"]
    names = rows["name in the metrics file"]
    assert [float(value) for value in rows["Stream-VLM, as published"]] == [card[name]["value"] for name in names]
    assert set(names) <= {spec.name for spec in room("fitcoach", "score").METRICS}


def test_licence_is_apache() -> None:
    text = text_of(ROOT / "LICENSE")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert 'license = "Apache-2.0"' in text_of(ROOT / "pyproject.toml")


def test_no_files_of_a_hosting_service() -> None:
    assert not [name for name in (".github", ".gitlab-ci.yml", ".circleci", ".travis.yml") if (ROOT / name).exists()]
