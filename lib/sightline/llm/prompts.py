"""Prompts that stand in config/prompts, or as constants in a published script that is read and never run."""

from __future__ import annotations

import ast
import hashlib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sightline.errors import InputError
from sightline.llm.base import Message
from sightline.records.files import content_key

Care = Literal["full", "marks", "none"]
Filling = Literal["one_pass", "published"]

_MARKS = re.compile(
    r"<\s*[|\uff5c][^<>]*[|\uff5c]\s*>"  # <|eot_id|>, <|im_start|> and the like
    r"|</?s>|<<\s*/?\s*SYS\s*>>|</?(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>|</?think>"
    r"|\[\s*/?\s*(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\s*\]",
    re.IGNORECASE,
)
_BRACKETS = str.maketrans({"<": "\u2039", ">": "\u203a", "[": "(", "]": ")"})


@dataclass(frozen=True)
class Prompt:
    """A prompt with places to fill.

    Attributes:
        name: File name in config/prompts.
        version: Its version.
        system, user: The two turns; an empty system turn is left out.
        placeholders: Field of a pair -> mark in the text that stands for it.
        care: What is done to data before it enters; see `neutralise`.
        fill: `one_pass`, or `published`: one field after another, so that a field may be written into another.
    """

    name: str
    version: int
    system: str
    user: str
    placeholders: Mapping[str, str]
    care: Care = "full"
    fill: Filling = "one_pass"

    @property
    def sha256(self) -> str:
        """Hash of everything that decides what is sent; the name and the version are words for it."""
        marks = sorted(self.placeholders.items())
        return hashlib.sha256(
            content_key(self.system, self.user, marks, self.care, self.fill).encode("ascii")
        ).hexdigest()

    @property
    def label(self) -> str:
        """Name, version and the head of the hash, for people."""
        return f"{self.name} v{self.version} ({self.sha256[:8]})"

    def messages(self, fields: Mapping[str, str]) -> tuple[Message, ...]:
        """Returns the chat that asks about one pair.

        Raises:
            InputError: The pair lacks a field that the prompt has a place for.
        """
        missing = sorted(set(self.placeholders) - set(fields))
        if missing:
            raise InputError(f"the prompt {self.name} asks for a field that is not there", field=missing[0])
        values = {mark: neutralise(fields[name], self.care) for name, mark in self.placeholders.items()}
        turns = [Message.of("system", self.system)] if self.system else []
        return (*turns, Message.of("user", fill_template(self.user, values, self.fill)))


def fill_template(template: str, values: Mapping[str, str], fill: Filling = "one_pass") -> str:
    """Puts values in the place of their marks.

    Args:
        template: Text with marks.
        values: Mark -> value.
        fill: `one_pass`: a mark inside a value stays as it is. `published`: marks are replaced one after the
            other, as the script of Stream-VLM does, so that an earlier value can swallow a later one.
    """
    if fill == "published":
        for mark, value in values.items():
            template = template.replace(mark, value)
        return template
    marks = "|".join(re.escape(mark) for mark in sorted(values, key=len, reverse=True))
    return re.sub(marks, lambda match: values[match[0]], template) if marks else template


def neutralise(text: str, care: Care = "full") -> str:
    """Makes data harmless inside a chat; ordinary sentences come through unchanged.

    Args:
        text: A feedback, from people or from a model.
        care: `full`: one line, no control characters, and no angle or square brackets, so that neither a
            delimiter nor a control mark nor a turn on a line of its own can stand in it. `marks`: only the
            control marks of chat templates are broken. `none`: nothing.
    """
    if care == "none":
        return text
    if care == "marks":
        return _MARKS.sub(lambda match: match[0].translate(_BRACKETS), text)
    plain = "".join(
        " " if character.isspace() else character
        for character in text
        if character.isspace() or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
    )
    return " ".join(plain.split()).translate(_BRACKETS)


def read_constants(path: str | Path, names: Mapping[str, str | None]) -> dict[str, str]:
    """Reads text constants of a Python file from its syntax tree; nothing in the file runs.

    Args:
        path: The file.
        names: Constant -> SHA-256 its text must have, or None.

    Raises:
        InputError: No such file, no Python, a constant is missing, is no plain text, or has another digest.
    """
    try:
        tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("file not found", file=path, mend="give the copy of the original repository") from None
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"not a Python file ({error})", file=path, mend="fetch it again") from None
    found: dict[str, str] = {}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        for target in targets:
            if isinstance(target, ast.Name) and target.id in names and isinstance(node, ast.Assign):
                found[target.id] = _text_of(node.value, path, target.id)
    for name, digest in names.items():
        if name not in found:
            raise InputError("the constant is not in the file", file=path, item=name, mend="take the pinned commit")
        actual = hashlib.sha256(found[name].encode("utf-8")).hexdigest()
        if digest is not None and actual != digest:
            raise InputError(
                f"the constant has the digest {actual[:12]}..., not {digest[:12]}...",
                file=path, item=name, mend="take the pinned commit of the original, unchanged",
            )  # fmt: skip
    return found


def _text_of(node: ast.expr, path: str | Path, name: str) -> str:
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, str):
        raise InputError("the constant is no plain text", file=path, item=name, mend="take the pinned commit")
    return value


def build_prompt(name: str, card: Mapping[str, Any], source: Path | None = None) -> Prompt:
    """Returns the prompt a card describes.

    Args:
        name: File name in config/prompts.
        card: Its content.
        source: File that holds the texts, for a prompt that names one.

    Raises:
        InputError: As `read_constants`, or a placeholder stands nowhere in the text.
    """
    system, user = card["system"] or "", card["user"] or ""
    if card["source"]:
        where = card["source"]
        if source is None:
            raise InputError("the prompt's file is not here", item=name, mend=f"acquire the asset {where['asset']}")
        texts = read_constants(source, {where["system"]: where["system_sha256"], where["user"]: where["user_sha256"]})
        system, user = texts[where["system"]], texts[where["user"]]
    for field, mark in card["placeholders"].items():
        if mark not in user:
            raise InputError(f"the mark {mark} stands nowhere in the prompt", item=name, field=field)
    return Prompt(name, card["version"], system, user, dict(card["placeholders"]), card["care"], card["fill"])
