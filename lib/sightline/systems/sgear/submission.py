"""Answers to the EPIC-Kitchens anticipation challenges as their servers take them.

EK100: one `test.json` with narration ids and the SLS levels of supervision. EK55: `seen.json` and `unseen.json` with
uids. Both are zipped flat as `submit.zip`.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sightline.errors import InputError
from sightline.records.files import whole_file
from sightline.systems.sgear.classes import ClassTable
from sightline.systems.sgear.fuse import ACTION, NOUN, VERB, RunScores

BEST_ACTIONS = 100
"""Actions a server takes per row."""
VERSIONS = {"ek100": "0.2", "ek55": "0.1"}
ZIP_NAME = "submit.zip"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # zip's earliest, so that equal answers give equal bytes


@dataclass(frozen=True, slots=True)
class Sls:
    """Supervision levels scale: pretraining, training labels, training data (1 to 5 each)."""

    pretraining: int = 1
    labels: int = 4
    data: int = 4


def answers(
    scores: RunScores, table: ClassTable, narration_ids: Mapping[str, str], discarded: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns the `results` of a submission.

    Args:
        scores: Fused probabilities of verbs and nouns, and raw logits of actions.
        table: Gives actions their verb and noun.
        narration_ids: Row to the key the server knows; uids stand for themselves where absent.
        discarded: Keys of rows without enough context; they get zeros and the actions `0,0` to `0,99`.

    Raises:
        InputError: Two rows lead to one key, or the dataset has no verbs and nouns.
    """
    for name in (VERB, NOUN):
        if name not in scores.spaces:
            raise InputError(f"a submission needs scores of {name}s", field=name, mend="submit for EPIC-Kitchens alone")
    verbs, nouns, actions = (scores.spaces[name] for name in (VERB, NOUN, ACTION))
    best = np.argsort(-actions, axis=1, kind="stable")[:, :BEST_ACTIONS]
    pairs = [f"{v},{n}" for v, n in zip(table.verb_of_action, table.noun_of_action, strict=True)]
    results: dict[str, Any] = {}
    for row, uid in enumerate(scores.uids):
        key = narration_ids.get(uid, uid)
        if key in results:
            raise InputError("two rows of one key", item=key, mend="look at the annotations")
        results[key] = {
            VERB: {str(n): float(value) for n, value in enumerate(verbs[row])},
            NOUN: {str(n): float(value) for n, value in enumerate(nouns[row])},
            ACTION: {pairs[n]: float(actions[row, n]) for n in best[row]},
        }
    for key in discarded:
        if key in results:
            raise InputError("a discarded row is scored as well", item=key, mend="look at the annotations")
        results[key] = {
            VERB: {str(n): 0.0 for n in range(verbs.shape[1])},
            NOUN: {str(n): 0.0 for n in range(nouns.shape[1])},
            ACTION: {f"0,{n}": 0.0 for n in range(BEST_ACTIONS)},
        }
    return results


def document(
    results: Mapping[str, Any], *, form: str, sls: Sls | None = None, challenge: str = "action_anticipation"
) -> dict[str, Any]:
    """Returns the whole JSON document of a submission.

    Args:
        results: From `answers`.
        form: `ek100` or `ek55`; the latter has no levels of supervision.
        sls: Levels of supervision of EK100.
        challenge: `action_recognition` where nothing was anticipated.
    """
    if form not in VERSIONS:
        raise InputError(f"there is no challenge for {form!r}", field="form", mend="use ek100 or ek55")
    head: dict[str, Any] = {"version": VERSIONS[form], "challenge": challenge}
    if form == "ek100":
        levels = sls or Sls()
        head |= {"sls_pt": levels.pretraining, "sls_tl": levels.labels, "sls_td": levels.data}
    return {**head, "results": dict(results)}


def check_document(
    content: Mapping[str, Any], *, form: str, verbs: int, nouns: int, keys: Sequence[str] | None = None
) -> None:
    """Checks a document by the server's rules.

    Args:
        content: The document.
        form: `ek100` or `ek55`.
        verbs, nouns: Classes there are.
        keys: Rows the server expects; None does not ask.

    Raises:
        InputError: A field is missing, rows are missing or unknown (with counts), a class lies outside its range,
            or a score is not finite.
    """
    wanted = {"version": VERSIONS.get(form), "challenge": content.get("challenge")}
    for name, value in wanted.items():
        if value not in ("action_anticipation", "action_recognition", VERSIONS.get(form)) or content.get(name) != value:
            raise InputError(f"expected {name} {value}, found {content.get(name)!r}", field=name)
    for name in ("sls_pt", "sls_tl", "sls_td") if form == "ek100" else ():
        if content.get(name) not in (1, 2, 3, 4, 5):
            raise InputError("expected a level from 1 to 5", field=name)
    results = content.get("results")
    if not isinstance(results, Mapping) or not results:
        raise InputError("no results", field="results")
    if keys is not None:
        missing, unknown = sorted(set(keys) - set(results)), sorted(set(results) - set(keys))
        if missing or unknown:
            raise InputError(
                f"{len(missing)} rows are missing and {len(unknown)} unknown (first: {(missing + unknown)[0]})",
                field="results", mend="take discarded rows along as zeros",
            )  # fmt: skip
    for key, row in results.items():
        _check_row(str(key), row, verbs, nouns)


def _check_row(key: str, row: Any, verbs: int, nouns: int) -> None:
    for name, size in ((VERB, verbs), (NOUN, nouns)):
        if set(row.get(name, ())) != {str(n) for n in range(size)}:
            raise InputError(f"expected classes 0 to {size - 1}", item=key, field=name)
    if not 0 < len(row.get(ACTION, ())) <= BEST_ACTIONS:
        raise InputError(f"expected 1 to {BEST_ACTIONS} actions", item=key, field=ACTION)
    if any(not math.isfinite(score) for name in (VERB, NOUN, ACTION) for score in row[name].values()):
        raise InputError("a score is not finite", item=key)


def write_zip(target: str | Path, documents: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes documents flat into a zip, JSON with an indent of 4; equal documents give equal bytes.

    Args:
        target: `submit.zip`.
        documents: Name inside the zip to document: `test.json`, or `seen.json` and `unseen.json`.
    """
    with whole_file(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in documents.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, json.dumps(content, indent=4, allow_nan=False))
