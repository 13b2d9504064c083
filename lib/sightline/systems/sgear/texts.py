"""The words of each class that a sentence encoder reads, as S-GEAR builds them per dataset."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from sightline.errors import InputError
from sightline.systems.sgear.classes import ClassTable, Form

_STAGE = re.compile(r"(prep|core|post)$")  # 50 Salads' fine labels end with the stage of an action


@dataclass(frozen=True)
class ClassTexts:
    """Texts of a class table, by class id as the file writes it, in file order.

    Attributes:
        actions: What is encoded.
        verbs, nouns: Its parts; empty for 50 Salads.
    """

    actions: dict[str, str] = field(default_factory=dict)
    verbs: dict[str, str] = field(default_factory=dict)
    nouns: dict[str, str] = field(default_factory=dict)


def _turned(noun: str) -> str:
    """`board:chopping` is a chopping board; of three parts the middle one is lost, as in the original."""
    parts = noun.split(":")
    return f"{parts[-1]} {parts[0]}" if len(parts) > 1 else noun


def _two(name: str, separator: str) -> tuple[str, str]:
    parts = name.split(separator)
    if len(parts) < 2:
        raise InputError(
            f"{name.strip()!r} is no verb and noun", field="action",
            mend="delete the header line, and give the action table of this dataset",
        )  # fmt: skip
    return parts[0], parts[1]


def ek100_parts(name: str) -> tuple[str, str]:
    """Returns verb and noun of `verb noun:qualifier`; further words are dropped."""
    verb, noun = _two(name, " ")
    return verb, _turned(noun)


def ek55_parts(name: str) -> tuple[str, str]:
    """Returns verb and noun of ` verb_noun:qualifier`; the blank in front stays."""
    verb, noun = _two(name, "_")
    return verb, _turned(noun)


def egtea_parts(name: str, *, first_character: Literal["blank", "any"] = "blank") -> tuple[str, str]:
    """Returns verb and noun of ` Verb/Other_noun:qualifier`; the order of a noun's words stays.

    Args:
        name: As the file has it, with the blank after the comma.
        first_character: `any` cuts off the first character whatever it is, as the original does.
    """
    verb, noun = _two(name, "_")
    verb = verb.split("/")[0]
    return verb[1:] if first_character == "any" or verb.startswith(" ") else verb, noun.replace(":", " ")


def salads_text(name: str) -> str:
    """Returns `cut_tomato` as `cut tomato`."""
    return name.replace("_", " ")


def salads_action_texts(labels: Iterable[str]) -> list[str]:
    """Returns the distinct actions of 50 Salads' fine labels (`cut_tomato_prep`) without their stage, sorted.

    The blank that the stage leaves behind stays, as in the original.
    """
    return sorted({salads_text(_STAGE.sub("", label)) for label in labels})


_PARTS: Mapping[str, Callable[[str], tuple[str, str]]] = {
    "ek100": ek100_parts,
    "ek55": ek55_parts,
    "egtea": egtea_parts,
}


def texts_of_classes(table: ClassTable, form: Form) -> list[str]:
    """Returns the text of every action of a class table, in class order.

    Raises:
        InputError: A name has no verb and noun.
    """
    if form == "salads":
        return [salads_text(name) for name in table.actions]
    return [" ".join(_PARTS[form](name)) for name in table.actions]


def texts_of_csv(
    text: str, form: Form, *, first_character: Literal["blank", "any"] = "any", separator: str = ","
) -> ClassTexts:
    """Builds texts from the raw lines of an action table, as the original does: split at commas, no header.

    Args:
        text: Content of the file.
        form: Dataset.
        first_character: As in `egtea_parts`.
        separator: What fields are split at.

    Raises:
        InputError: A line has no verb and noun, e.g. because it is a header; names the line.
    """
    found = ClassTexts()
    for number, line in enumerate(text.splitlines(), 1):
        try:
            if form == "salads":
                key, name = _two(line, " ")
                found.actions[key] = salads_text(name)
                continue
            fields = line.split(separator)
            if len(fields) < 2:
                raise InputError("expected fields with commas between them", mend="give the table of this dataset")
            name = fields[1] if form == "ek55" else fields[-1]
            verb, noun = egtea_parts(name, first_character=first_character) if form == "egtea" else _PARTS[form](name)
        except InputError as error:
            raise InputError(error.problem, item=f"line {number}", field="action", mend=error.mend) from None
        found.actions[fields[0]] = f"{verb} {noun}"
        found.verbs[fields[0]], found.nouns[fields[0]] = verb, noun
    return found
