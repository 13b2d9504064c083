"""The manual and the schema say what the models say."""

from __future__ import annotations

import difflib
import shutil
from pathlib import Path
from typing import Literal

import jsonschema
import pytest
import yaml
from pydantic import Field
from sightline.cli import main
from sightline.config.judges import JudgeCard, PromptCard
from sightline.config.manual import json_schema, parts, render_manual, schema_text, sections_of, tables
from sightline.config.models import DataFile, MainConfig, PaperCard, Strict
from sightline.errors import ConfigError
from sightline.registry import card_models

CONFIG = Path(__file__).parents[2] / "config"
MANUAL = CONFIG / "README.md"
SCHEMA = CONFIG / "schema.json"
COMMAND = "run: python -m sightline manual"


def assert_same(found: str, wanted: str, name: str) -> None:
    lines = difflib.unified_diff(found.splitlines(), wanted.splitlines(), name, "as the models say", lineterm="", n=0)
    difference = "\n".join(lines)
    assert not difference, f"{name} is out of date; {COMMAND}\n{difference}"


def test_manual_says_what_the_models_say() -> None:
    text = MANUAL.read_text(encoding="utf-8")
    assert_same(text, render_manual(text, card_models()), "config/README.md")


def test_schema_says_what_the_models_say() -> None:
    assert_same(SCHEMA.read_text(encoding="utf-8"), schema_text(card_models()), "config/schema.json")


def test_every_key_of_every_file_stands_in_the_manual() -> None:
    text = MANUAL.read_text(encoding="utf-8")
    for name, model in parts(card_models()).items():
        part = text.split(f"<!-- keys of {name} -->")[1].split(f"<!-- end of {name} -->")[0]
        written = [line.split("`")[1] for line in part.splitlines() if line.startswith("| `")]
        assert written == [key.name for section in sections_of(model) for key in section.keys]


def test_tables_word_types_limits_and_defaults() -> None:
    class Inner(Strict):
        """What is inside."""

        size: int = Field(3, ge=1, lt=9, description="Size in cm.")

    class Outer(Strict):
        """The whole."""

        name: str = Field(pattern="^(a|b)$", description="A | B.")
        kind: Literal["x", "y"] = Field("x", description="Kind.")
        many: dict[str, Inner] = Field(default_factory=dict)
        some: list[float] | None = Field(None, description="Some.")

    found = tables(Outer).splitlines()
    assert found[0] == "The whole."
    assert "| `name` | text, matches `^(a\\|b)$` | required | A \\| B. |" in found
    assert '| `kind` | `x` or `y` | `"x"` | Kind. |' in found
    assert "| `many` | map of names to maps (`many.<name>`) | `{}` | What is inside. |" in found
    assert "| `some` | list of numbers or `null` | `null` | Some. |" in found
    assert "**`many.<name>`**: What is inside." in found
    assert "| `size` | whole number, at least 1, below 9 | `3` | Size in cm. |" in found


def test_a_model_in_two_places_is_explained_once() -> None:
    places = [section.places for section in sections_of(card_models()["fitcoach"])]
    shared = [place for place in places if len(place) > 1]
    assert ("extractors.<name>.weights", "variants.<name>.assets.<name>", "scoring.bertscore.weights") in shared
    assert len(places) == len({place for several in places for place in several}) - sum(len(s) - 1 for s in shared)


def test_a_part_without_marks_is_named() -> None:
    text = MANUAL.read_text(encoding="utf-8").replace("<!-- end of config.yaml -->", "")
    with pytest.raises(ConfigError) as caught:
        render_manual(text, card_models())
    assert [line.split(";")[0] for line in caught.value.problems] == ["config/README.md has 0 parts for config.yaml"]


def test_the_verb_mends_both_files_and_keeps_the_hand_written_text(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "config"
    folder.mkdir()
    stale = MANUAL.read_text(encoding="utf-8").replace("| `offline` |", "| `ofline` |")
    (folder / "README.md").write_text(f"mine\n{stale}", encoding="utf-8")
    main(["manual", "--folder", str(folder)])
    assert (folder / "README.md").read_text(encoding="utf-8") == "mine\n" + MANUAL.read_text(encoding="utf-8")
    assert (folder / "schema.json").read_bytes() == SCHEMA.read_bytes()
    assert "schema.json" in capsys.readouterr().out


def test_the_verb_refuses_a_folder_without_a_manual(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["manual", "--folder", str(tmp_path)])
    assert "is missing" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def kinds_of_files() -> list:
    cards = card_models()
    classes = {
        **dict.fromkeys(CONFIG.glob("*.yaml"), MainConfig),
        **dict.fromkeys(CONFIG.glob("datasets/*.yaml"), DataFile),
        **dict.fromkeys(CONFIG.glob("paper/*.yaml"), PaperCard),
        **dict.fromkeys(CONFIG.glob("judges/*.yaml"), JudgeCard),
        **dict.fromkeys(CONFIG.glob("prompts/*.yaml"), PromptCard),
        **{path: cards[path.stem] for path in CONFIG.glob("systems/*.yaml")},
    }
    return [pytest.param(path, model, id=str(path.relative_to(CONFIG))) for path, model in sorted(classes.items())]


@pytest.mark.parametrize(("path", "model"), kinds_of_files())
def test_schema_accepts_every_file_and_no_misspelt_key(path: Path, model: type[Strict], tmp_path: Path) -> None:
    schema = {**json_schema(card_models()), "$ref": f"#/$defs/{model.__name__}"}
    value = yaml.safe_load(path.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(value)
    with pytest.raises(jsonschema.ValidationError, match="mispselt"):
        jsonschema.Draft202012Validator(schema).validate({**value, "mispselt": 1})


def test_a_copy_with_an_edited_manual_fails_with_the_difference(tmp_path: Path) -> None:
    copy = shutil.copy(MANUAL, tmp_path / "README.md")
    text = Path(copy).read_text(encoding="utf-8").replace("Refuse every download.", "Refuse downloads.")
    with pytest.raises(AssertionError) as caught:
        assert_same(text, render_manual(text, card_models()), "config/README.md")
    assert COMMAND in str(caught.value)
    assert "Refuse downloads." in str(caught.value)
