"""Prediction files of the released driver: ours in its form, and others' as predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sightline.errors import InputError
from sightline.records.types import Prediction, Sample
from sightline.systems.hoiref.records import EGO4D, EPIC, HOI, IDEN, REF, VISOR, Answer, Question
from sightline.systems.hoiref.score import paired

FIELDS = {REF: "ref_answer", IDEN: "iden_answer", HOI: "answer"}
SUFFIXES = {EPIC: "", VISOR: "_hoi", EGO4D: "_ego4d"}
"""What stands before `.json` in the names of the three files."""


def released_tables(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> dict[str, dict[str, Any]]:
    """Returns part -> id -> {question, answers}, in the order of the samples; failed predictions are left out.

    `question` is that of the referral where a record has two.
    """
    tables: dict[str, dict[str, Any]] = {}
    for _, question, prediction in paired(samples, predictions):
        if prediction.status != "ok":
            continue
        entry = tables.setdefault(question.part, {}).setdefault(question.key, {})
        if question.task != IDEN:
            entry["question"] = question.question
        entry[FIELDS[question.task]] = Answer.from_json(prediction.output, item=prediction.id).text
    return tables


def _table(path: str | Path) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            seen: set[str] = set()
            doubled = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise InputError("an id stands there twice", file=path, item=doubled, mend="keep one of them")
        return table

    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=once)
    except FileNotFoundError:
        raise InputError("file not found", file=path, mend="correct the path") from None
    except ValueError as error:
        raise InputError(f"not valid JSON ({error})", file=path, mend="write the file again") from None
    if not isinstance(table, dict):
        raise InputError("expected an object of id and answers", file=path, mend="is it a prediction file?")
    return table


def import_predictions(samples: Sequence[Sample], files: Mapping[str, str | Path]) -> list[Prediction]:
    """Reads prediction files of the released form.

    Args:
        samples: The questions.
        files: Part -> file.

    Raises:
        InputError: An id is unknown, doubled or missing, or an answer is no text; names file, id and field.
    """
    tables = {part: _table(path) for part, path in files.items()}
    known: dict[str, set[str]] = {part: set() for part in tables}
    found = []
    for sample in samples:
        question = Question.from_json(sample.payload, item=sample.id)
        name = FIELDS[question.task]
        path = files.get(question.part)
        if path is None:
            raise InputError(f"no prediction file for {question.part}", item=sample.id, mend="give all parts' files")
        known[question.part].add(question.key)
        entry = tables[question.part].get(question.key)
        answer = entry.get(name) if isinstance(entry, dict) else None
        if not isinstance(answer, str):
            what = "the id is missing" if entry is None else "the answer is no text"
            raise InputError(what, file=path, item=question.key, field=name, mend="predict it again")
        found.append(Prediction(sample.id, "ok", output=Answer(answer).to_json()))
    for part, table in tables.items():
        unknown = sorted(table.keys() - known[part])
        if unknown:
            raise InputError(
                "the test file has no such id", file=files[part], item=unknown[0], mend="use the file of this test set"
            )
    return found
