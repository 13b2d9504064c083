"""Merging shards: every id exactly once, none lost, none extra, none stale; the same bytes for any sharding."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sightline.errors import StoreError
from sightline.records.files import key_of_text
from sightline.records.rows import read_lines, read_sample_texts, write_columns
from sightline.records.types import Prediction
from sightline.run.shards import SAMPLE_KEY_DIGITS

log = logging.getLogger(__name__)
_FIELDS = ("id", "status", "reason", "output", "files", "seed", "key")
_FIELD_SET = frozenset(_FIELDS)
_SHOWN = 5


def _quick_check(row: Any) -> bool:
    """Accepts a well-formed row fast; anything else goes through the slow check that explains itself."""
    return (
        type(row) is dict
        and row.keys() == _FIELD_SET
        and type(row["id"]) is str
        and row["status"] in ("ok", "failed")
        and type(row["output"]) is dict
        and type(row["key"]) is str
    )


def collect_predictions(shards: Sequence[str | Path]) -> dict[str, tuple[dict[str, Any], str]]:
    """Reads all shard files into id -> (row, file); identical duplicates collapse with a warning.

    Raises:
        StoreError: Two shards hold different predictions for one id.
        InputError: A row is malformed.
    """
    found: dict[str, tuple[dict[str, Any], str]] = {}
    for path in shards:
        name = str(path)
        for number, row in read_lines(path):
            if not _quick_check(row):
                row = Prediction.from_json(row, file=name, item=f"line {number}").to_json()
            identifier = row["id"]
            earlier = found.get(identifier)
            if earlier is None:
                found[identifier] = (row, name)
            elif earlier[0] == row:
                log.warning("%s: identical row for %s stands in %s too", name, identifier, earlier[1])
            else:
                raise StoreError(
                    f"conflicts with the prediction in {earlier[1]}",
                    file=name,
                    item=identifier,
                    mend="delete both shard files and run again",
                )
    return found


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def merge_predictions(samples_path: str | Path, shards: Sequence[str | Path], target: str | Path) -> dict[str, int]:
    """Merges the shards of one run into Parquet, sorted by id.

    Returns:
        Counts: samples, ok, failed.

    Raises:
        StoreError: An id is missing, extra, contradictory, or was computed for other inputs or settings.
    """
    samples = read_sample_texts(samples_path)
    found = collect_predictions(shards)
    mend = "delete the shard files of this run and run again; finished rows are kept"
    missing = sorted(samples.keys() - found.keys())
    if missing:
        raise StoreError(f"{len(missing)} samples have no prediction: {_listed(missing)}", file=target, mend=mend)
    extra = sorted(found.keys() - samples.keys())
    if extra:
        raise StoreError(
            f"{len(extra)} predictions belong to no sample: {_listed(extra)}",
            file=found[extra[0]][1],
            mend=mend,
        )
    runs = sorted({row["key"].partition("-")[0] for row, _ in found.values()})
    if len(runs) > 1:
        raise StoreError(f"shards come from {len(runs)} different settings: {_listed(runs)}", file=target, mend=mend)
    stale = sorted(
        name
        for name, (row, _) in found.items()
        if row["key"].partition("-")[2] != key_of_text(samples[name])[:SAMPLE_KEY_DIGITS]
    )
    if stale:
        raise StoreError(
            f"{len(stale)} predictions were made for another version of their sample: {_listed(stale)}",
            file=found[stale[0]][1],
            mend=mend,
        )
    rows = [found[name][0] for name in sorted(found)]
    write_columns(target, Prediction, {name: [row[name] for row in rows] for name in _FIELDS})
    failed = [row for row in rows if row["status"] == "failed"]
    for row in failed[:_SHOWN]:
        log.warning("%s failed: %s", row["id"], row["reason"])
    return {"samples": len(samples), "ok": len(samples) - len(failed), "failed": len(failed)}
