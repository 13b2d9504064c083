"""The user manual of the configuration, written from the typed models so that it cannot be wrong.

`config/README.md` is hand-written text with marked parts; the tables between the marks come from here, and
so does `config/schema.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import models_json_schema

from sightline.config.judges import JudgeCard, PromptCard
from sightline.config.models import DataFile, MainConfig, PaperCard, SystemCard
from sightline.errors import ConfigError
from sightline.records.files import write_text

MANUAL_FILE = "README.md"
SCHEMA_FILE = "schema.json"

_PLURALS = {"text": "texts", "whole number": "whole numbers", "number": "numbers", "map": "maps"}
_WORDS: dict[Any, str] = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`", Any: "anything"}
_LIMITS = (
    ("ge", "at least {}"),
    ("gt", "above {}"),
    ("le", "at most {}"),
    ("lt", "below {}"),
    ("multiple_of", "multiple of {}"),
    ("min_length", "at least {} in it"),
    ("pattern", "matches `{}`"),
)


@dataclass(frozen=True)
class Key:
    """One line of a table.

    Attributes:
        name: The key as written in the file.
        kind: What may stand there, in words.
        default: Value when it is left out, or `required`.
        meaning: What it does.
    """

    name: str
    kind: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Section:
    """The keys of one model.

    Attributes:
        places: Where in the file the keys stand, e.g. `variants.<name>`; empty text for the top.
        meaning: What the model is.
        keys: Its keys, in the order of the model.
    """

    places: tuple[str, ...]
    meaning: str
    keys: tuple[Key, ...]


def _options(annotation: Any) -> tuple[Any, ...]:
    """Returns the members of a union, or the annotation alone."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _models_in(annotation: Any, place: str) -> Iterator[tuple[type[BaseModel], str]]:
    """Yields every model an annotation leads to, with the place of its keys."""
    for option in _options(annotation):
        if isinstance(option, type) and issubclass(option, BaseModel):
            yield option, place
        elif get_origin(option) is list:
            yield from _models_in(get_args(option)[0], f"{place}[]")
        elif get_origin(option) is dict:
            yield from _models_in(get_args(option)[1], f"{place}.<name>")


def _kind(annotation: Any, place: str) -> str:
    """Says in words what an annotation accepts."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"map (`{place}`)"
    if annotation is NoneType:
        return "`null`"
    if annotation in _WORDS:
        return _WORDS[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join(_kind(option, place) for option in arguments)
    if origin is list:
        return f"list of {_plural(_kind(arguments[0], f'{place}[]'))}"
    if origin is dict:
        of = _kind(arguments[1], f"{place}.<name>")
        return "map" if of == "anything" else f"map of names to {_plural(of)}"
    raise TypeError(f"no words for {annotation}")


def _plural(kind: str) -> str:
    head, bracket, rest = kind.partition(" (")
    return _PLURALS.get(head, head) + bracket + rest


def _limits(field: FieldInfo) -> str:
    words = [
        text.format(getattr(rule, name))
        for rule in field.metadata
        for name, text in _LIMITS
        if getattr(rule, name, None) is not None
    ]
    return "".join(f", {word}" for word in words)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel):
        return "its defaults"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _meaning(field: FieldInfo, place: str) -> str:
    """Returns a field's description, or else what the model behind it is."""
    if field.description:
        return field.description
    return next((_first_line(model) for model, _ in _models_in(field.annotation, place)), "")


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().splitlines()[0]


def _walk(model: type[BaseModel], place: str) -> Iterator[tuple[type[BaseModel], str]]:
    """Yields a model and all below it, in the order of the keys."""
    yield model, place
    for name, field in model.model_fields.items():
        for found, where in _models_in(field.annotation, f"{place}.{name}" if place else name):
            yield from _walk(found, where)


def sections_of(model: type[BaseModel]) -> list[Section]:
    """Returns one section per model reachable from `model`; a model used in several places has one."""
    places: dict[type[BaseModel], list[str]] = {}
    for found, place in _walk(model, ""):
        places.setdefault(found, []).append(place)
    sections = []
    for found, where in places.items():
        keys = []
        for name, field in found.model_fields.items():
            place = f"{where[0]}.{name}" if where[0] else name
            kind = _kind(field.annotation, place) + _limits(field)
            keys.append(Key(name, kind, _default(field), _meaning(field, place)))
        sections.append(Section(tuple(where), _first_line(found), tuple(keys)))
    return sections


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _rendered(section: Section) -> str:
    head = "" if section.places == ("",) else " and ".join(f"`{place}`" for place in section.places)
    lines = [f"**{head}**: {section.meaning}" if head else section.meaning, ""]
    lines += ["| key | what may stand there | default | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{key.name}` | {_cell(key.kind)} | {_cell(key.default)} | {_cell(key.meaning)} |" for key in section.keys
    ]
    return "\n".join(lines)


def tables(model: type[BaseModel]) -> str:
    """Returns the tables of a model and of everything below it, as Markdown."""
    return "\n\n".join(_rendered(section) for section in sections_of(model))


def parts(cards: Mapping[str, type[SystemCard]]) -> dict[str, type[BaseModel]]:
    """Returns the model behind each marked part of the manual, by name.

    Args:
        cards: The card class of each system.
    """
    systems = {f"systems/{system}.yaml": card for system, card in cards.items()}
    return {
        "config.yaml": MainConfig,
        "datasets/*.yaml": DataFile,
        "paper/*.yaml": PaperCard,
        "judges/*.yaml": JudgeCard,
        "prompts/*.yaml": PromptCard,
        **systems,
    }


def _marked(name: str) -> re.Pattern[str]:
    begin, end = (re.escape(f"<!-- {word} of {name} -->") for word in ("keys", "end"))
    return re.compile(f"({begin}\n).*?({end})", re.DOTALL)


def render_manual(text: str, cards: Mapping[str, type[SystemCard]]) -> str:
    """Returns the manual with every marked part written anew and all other text as it was.

    Args:
        text: The manual as it stands.
        cards: The card class of each system.

    Raises:
        ConfigError: A part has no marks, or more than one pair; all are named.
    """
    problems = []
    for name, model in parts(cards).items():
        pieces = _marked(name).split(text)
        count = len(pieces) // 3
        if count == 1:
            before, begin, end, after = pieces
            text = f"{before}{begin}\n{tables(model)}\n\n{end}{after}"
        else:
            marks = f"'<!-- keys of {name} -->' and '<!-- end of {name} -->'"
            problems.append(f"config/{MANUAL_FILE} has {count} parts for {name}; it needs one, between {marks}")
    if problems:
        raise ConfigError(problems)
    return text


def json_schema(cards: Mapping[str, type[SystemCard]]) -> dict[str, Any]:
    """Returns one JSON Schema of all configuration files, for editors.

    The top describes config.yaml and what is laid over it; `#/$defs/<class>` describes the other files.
    """
    _, schema = models_json_schema([(model, "validation") for model in parts(cards).values()])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Sightline configuration",
        "$ref": f"#/$defs/{MainConfig.__name__}",
        "$defs": schema["$defs"],
    }


def schema_text(cards: Mapping[str, type[SystemCard]]) -> str:
    """Returns `json_schema` as the file holds it."""
    return json.dumps(json_schema(cards), ensure_ascii=False, sort_keys=True, indent=1) + "\n"


def write_manual(folder: str | Path, cards: Mapping[str, type[SystemCard]]) -> list[Path]:
    """Writes the manual's tables and the schema in `folder`, normally `config/`; returns both paths.

    Raises:
        ConfigError: The manual is missing or lacks the marks of a part.
    """
    manual, schema = Path(folder) / MANUAL_FILE, Path(folder) / SCHEMA_FILE
    if not manual.is_file():
        raise ConfigError([f"{manual} is missing; run this in the checkout, or name its config folder"])
    write_text(manual, render_manual(manual.read_text(encoding="utf-8"), cards))
    write_text(schema, schema_text(cards))
    return [manual, schema]
