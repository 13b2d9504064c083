"""The four records every system exchanges, and the view it hands to the report.

A record is the waist of the house: rooms turn their own data into these, and merge, scoring and report
know nothing else. `payload` and `output` carry a room's own dataclass as a JSON object.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self, get_type_hints

from sightline.errors import InputError

_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}\Z")
_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "dict": (dict,),
    "list": (list,),
    "bool": (bool,),
}


def is_slug(text: str) -> bool:
    """Says whether `text` is safe as an id: letters, digits, '.', '_', '-', at most 200, no path."""
    return bool(_SLUG.match(text))


def _accepts(annotation: str, value: Any) -> bool:
    for option in annotation.split(" | "):
        name = option.split("[")[0].strip()
        if name == "None":
            if value is None:
                return True
            continue
        expected = _JSON_TYPES.get(name)
        if expected is None:
            return True
        if isinstance(value, expected) and not (isinstance(value, bool) and bool not in expected):
            return True
    return False


@dataclass(frozen=True, slots=True)
class Record:
    """What all records share: JSON in and out, checked field by field."""

    STATUSES: ClassVar[tuple[str, ...]] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns the record as a JSON object."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @classmethod
    def from_json(cls, row: Any, *, file: str | None = None, item: str | None = None) -> Self:
        """Builds the record from a JSON object.

        Raises:
            InputError: A field is missing, unknown or of the wrong type; names file, item and field.
        """
        if not isinstance(row, dict):
            raise InputError(
                f"expected a JSON object for a {cls.__name__}, found {type(row).__name__}",
                file=file,
                item=item,
            )
        where = {"file": file, "item": item or (row.get("id") if isinstance(row.get("id"), str) else None)}
        known = {entry.name: entry for entry in fields(cls)}
        for name in row:
            if name not in known:
                raise InputError(
                    f"unknown field in a {cls.__name__}",
                    field=name,
                    mend=f"use only {', '.join(known)}",
                    **where,
                )
        for name, entry in known.items():
            annotation = entry.type if isinstance(entry.type, str) else get_type_hints(cls)[name].__name__
            if name not in row:
                if entry.default is entry.default_factory:  # neither a default nor a factory
                    raise InputError("required field is missing", field=name, mend="add it", **where)
                continue
            if not _accepts(annotation, row[name]):
                raise InputError(
                    f"expected {annotation}, found {type(row[name]).__name__}",
                    field=name,
                    mend="correct the value",
                    **where,
                )
        record = cls(**row)
        record.check(file=file)
        return record

    def check(self, *, file: str | None = None) -> None:
        """Checks what types alone cannot say.

        Raises:
            InputError: The id is not a slug or the status is unknown.
        """
        identifier = getattr(self, "id")  # noqa: B009 - Record itself has no id
        if not is_slug(identifier):
            raise InputError(
                "id is not a slug", file=file, item=repr(identifier)[:80], field="id",
                mend="use letters, digits, '.', '_' and '-' only",
            )  # fmt: skip
        status = getattr(self, "status", None)
        if self.STATUSES and status not in self.STATUSES:
            raise InputError(
                f"status {status!r} is unknown", file=file, item=identifier, field="status",
                mend=f"use one of {', '.join(self.STATUSES)}",
            )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sample(Record):
    """One thing a model is asked about.

    Attributes:
        id: Slug, unique in its dataset.
        group: What is decoded and encoded once (a video, an image); shards never split it.
        cluster: What the bootstrap resamples (video, clip or participant).
        media: Content keys of the media or features the sample reads.
        cost: Estimated seconds of model time, used to balance shards.
        payload: The room's own dataclass as JSON.
    """

    id: str
    group: str
    cluster: str
    media: list[str]
    cost: float
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Prediction(Record):
    """What a model said about one sample.

    Attributes:
        id: The sample's id.
        status: `ok` or `failed`.
        reason: Why it failed; empty when ok.
        output: The room's own dataclass as JSON, never arrays.
        files: Keys and CRCs of arrays in a feature store.
        seed: Seed of the sample, if anything was drawn.
        key: Hash of sample, model, settings and stage version.
    """

    STATUSES: ClassVar[tuple[str, ...]] = ("ok", "failed")

    id: str
    status: str
    reason: str = ""
    output: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    key: str = ""


@dataclass(frozen=True, slots=True)
class Score(Record):
    """One metric's contribution of one sample: a value over a denominator.

    Attributes:
        id: The sample's id.
        metric: Name that says the implementation, e.g. `meteor_nltk`.
        group: Class or task the sample belongs to.
        value: Numerator, absent unless scored.
        denominator: What the value is divided by when aggregated (1 for a plain mean).
        status: `scored`, `unscored` (nothing to score) or `error`.
        reason: Why it is not scored.
    """

    STATUSES: ClassVar[tuple[str, ...]] = ("scored", "unscored", "error")

    id: str
    metric: str
    group: str
    value: float | None
    denominator: float
    status: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class View(Record):
    """A picture of one sample for the report.

    Attributes:
        id: The sample's id.
        kind: One of the kinds `report/views.py` draws: timeline, boxes, filmstrip, pair, triptych.
        payload: What the picture shows, as JSON.
        thumbs: JPEG pictures, base64 text, in the order the payload refers to them.
    """

    id: str
    kind: str
    payload: dict[str, Any]
    thumbs: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PreferencePair(Record):
    """Two answers to one prompt, one of them preferred; what preference training reads.

    Attributes:
        id: Slug, unique in its set.
        prompt: What was asked.
        chosen: The preferred answer.
        rejected: The other one.
        media: Paths or content keys of what the prompt is about.
        critique: Why the one is preferred; empty if nothing was said.
        provenance: Where the pair comes from (model, prompts, seed, iteration, kind of question), as JSON.
    """

    id: str
    prompt: str
    chosen: str
    rejected: str
    media: list[str]
    critique: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
