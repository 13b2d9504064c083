"""Merging shards: every id exactly once, none lost, none extra, none stale; the same bytes for any sharding.

The shards are read twice. The first pass checks every row and remembers where it stands; the second writes them in
the order of their ids. So memory grows with the number of rows, not with their length.
"""

from __future__ import annotations

import logging
import mmap
import re
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson

from sightline.errors import InputError, StoreError
from sightline.records.files import from_json, key_of_text, to_json
from sightline.records.rows import ROW_GROUP, sample_texts, write_row_groups
from sightline.records.types import Prediction
from sightline.run.shards import SAMPLE_KEY_DIGITS

log = logging.getLogger(__name__)
_FIELDS = ("id", "status", "reason", "output", "files", "seed", "key")
_FIELD_SET = frozenset(_FIELDS)
_SHOWN = 5
_MEND = "delete the shard files of this run and run again; finished rows are kept"
_BOM = b"\xef\xbb\xbf"
_NOWHERE = (1 << 64) - 1
# A canonical row without files and without escapes: its texts are taken as they stand.
_PLAIN = re.compile(
    r'\{"files":\{\},"id":"([^"\\]*)","key":"([^"\\]*)","output":(\{.*\}),'
    r'"reason":"([^"\\]*)","seed":null,"status":"(ok|failed)"\}'
)


def _well_formed(row: Any) -> bool:
    """Accepts a well-formed row fast; anything else goes through the slow check that explains itself."""
    return (
        type(row) is dict
        and row.keys() == _FIELD_SET
        and type(row["id"]) is str
        and row["status"] in ("ok", "failed")
        and type(row["reason"]) is str
        and type(row["output"]) is dict
        and type(row["files"]) is dict
        and (row["seed"] is None or type(row["seed"]) is int)
        and type(row["key"]) is str
    )


def _canonical(line: bytes) -> dict[str, Any] | None:
    """Returns the row of a line that is what `to_json` would write of it, or None if that is not certain."""
    try:
        row = orjson.loads(line)
        same = orjson.dumps(row, option=orjson.OPT_SORT_KEYS) == line
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None
    return row if same and _well_formed(row) else None


def _explained(line: bytes, file: str, number: int) -> tuple[dict[str, Any], bytes]:
    """Returns the row of any other line with its canonical text, or says what is wrong with it."""
    try:
        row = from_json(line.decode("utf-8"))
        if not _well_formed(row):
            row = Prediction.from_json(row, file=file, item=f"line {number}").to_json()
        return row, to_json(row).encode("utf-8")
    except ValueError as error:  # half a surrogate pair among them: JSON may spell it, UTF-8 cannot
        raise InputError(
            f"line {number} is not valid JSON ({error})", file=file, mend="correct or remove the line"
        ) from None


class _Shards:
    """The rows of all shard files, found by number of file and place of the line."""

    def __init__(self, paths: Sequence[str | Path], stack: ExitStack) -> None:
        self.names = [str(path) for path in paths]
        self._rewritten: dict[tuple[int, int], bytes] = {}
        self._maps: list[Any] = []
        for path in paths:
            try:
                stream = stack.enter_context(open(path, "rb"))  # noqa: SIM115 - the stack closes it
            except FileNotFoundError:
                raise InputError("file not found", file=path, mend="run the stage that writes it") from None
            empty = not stream.seek(0, 2)
            self._maps.append(b"" if empty else stack.enter_context(mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ)))

    def rows(self, file: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields place and row of every line of a file.

        Raises:
            InputError: A line is not strict JSON, or no prediction.
        """
        name, data = self.names[file], self._maps[file]
        place = len(_BOM) if data[: len(_BOM)] == _BOM else 0
        number = 0
        while place < len(data):
            number += 1
            end = data.find(b"\n", place)
            end = len(data) if end < 0 else end
            line = data[place:end]
            row = _canonical(line)
            if row is None and (stripped := line.strip()):
                row, text = _explained(stripped, name, number)
                if text != line:
                    self._rewritten[file, place] = text
            if row is not None:
                yield place, row
            place = end + 1

    def text(self, file: int, place: int) -> bytes:
        """Returns the canonical text of a row."""
        if (file, place) in self._rewritten:
            return self._rewritten[file, place]
        data = self._maps[file]
        end = data.find(b"\n", place)
        return bytes(data[place : len(data) if end < 0 else end])


class _Places:
    """Which samples there are, and where the row of each stands."""

    def __init__(self, samples: str | Path) -> None:
        self.position: dict[str, int] = {}
        keys = array("Q")
        for position, (name, text) in enumerate(sample_texts(samples)):
            self.position[name] = position
            keys.append(int(key_of_text(text)[:SAMPLE_KEY_DIGITS], 16))
        self._keys = keys
        self.file = array("L", bytes(array("L").itemsize * len(keys)))
        self.place = array("Q", [_NOWHERE]) * len(keys)

    def is_stale(self, position: int, made_for: str) -> bool:
        """Says whether a prediction was made for another version of the sample."""
        try:
            return int(made_for, 16) != self._keys[position]
        except ValueError:
            return True

    def missing(self) -> list[str]:
        """Returns the samples without a row."""
        return sorted(name for name, position in self.position.items() if self.place[position] == _NOWHERE)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _settle_double(shards: _Shards, name: str, first: tuple[int, int], second: tuple[int, int]) -> None:
    here, there = shards.names[second[0]], shards.names[first[0]]
    if shards.text(*first) != shards.text(*second):
        raise StoreError(
            f"conflicts with the prediction in {there}",
            file=here, item=name, mend="delete both shard files and run again",
        )  # fmt: skip
    log.warning("%s: identical row for %s stands in %s too", here, name, there)


def _find_rows(shards: _Shards, places: _Places, target: str | Path) -> int:
    """Checks every row and notes where it stands; returns how many failed."""
    extra: dict[str, tuple[int, int]] = {}
    stale: dict[str, int] = {}
    runs: set[str] = set()
    failed = 0
    for file in range(len(shards.names)):
        for place, row in shards.rows(file):
            name, here = row["id"], (file, place)
            position = places.position.get(name)
            if position is None:
                earlier = extra.setdefault(name, here)
            else:
                known = places.place[position]
                earlier = here if known == _NOWHERE else (places.file[position], known)
            if earlier != here:
                _settle_double(shards, name, earlier, here)
                continue
            run, _, made_for = row["key"].partition("-")
            runs.add(run)
            if position is not None:
                places.file[position], places.place[position] = here
                failed += row["status"] == "failed"
                if places.is_stale(position, made_for):
                    stale[name] = file
    _refuse(shards, target, places.missing(), extra, runs, stale)
    return failed


def _refuse(
    shards: _Shards,
    target: str | Path,
    missing: list[str],
    extra: dict[str, tuple[int, int]],
    runs: set[str],
    stale: dict[str, int],
) -> None:
    if missing:
        raise StoreError(f"{len(missing)} samples have no prediction: {_listed(missing)}", file=target, mend=_MEND)
    if extra:
        names = sorted(extra)
        raise StoreError(
            f"{len(names)} predictions belong to no sample: {_listed(names)}",
            file=shards.names[extra[names[0]][0]], mend=_MEND,
        )  # fmt: skip
    if len(runs) > 1:
        raise StoreError(
            f"shards come from {len(runs)} different settings: {_listed(sorted(runs))}", file=target, mend=_MEND
        )
    if stale:
        names = sorted(stale)
        raise StoreError(
            f"{len(names)} predictions were made for another version of their sample: {_listed(names)}",
            file=shards.names[stale[names[0]]], mend=_MEND,
        )  # fmt: skip


def _columns(text: str) -> tuple[Any, ...]:
    """Returns a row's columns in the order of `_FIELDS`; `output` and `files` as canonical text."""
    plain = _PLAIN.fullmatch(text)
    if plain:
        name, key, output, reason, status = plain.groups()
        return name, status, reason, output, "{}", None, key
    row = from_json(text)
    return tuple(to_json(row[name]) if name in ("output", "files") else row[name] for name in _FIELDS)


def _row_groups(shards: _Shards, places: _Places) -> Iterator[dict[str, list[Any]]]:
    warned = 0
    names = sorted(places.position)
    for start in range(0, len(names), ROW_GROUP):
        positions = [places.position[name] for name in names[start : start + ROW_GROUP]]
        rows = [_columns(shards.text(places.file[one], places.place[one]).decode("utf-8")) for one in positions]
        for name, status, reason, *_ in rows:
            if status == "failed" and warned < _SHOWN:
                warned += 1
                log.warning("%s failed: %s", name, reason)
        yield dict(zip(_FIELDS, map(list, zip(*rows, strict=True)), strict=True))


def merge_predictions(samples_path: str | Path, shards: Sequence[str | Path], target: str | Path) -> dict[str, int]:
    """Merges the shards of one run into Parquet, sorted by id.

    Returns:
        Counts: samples, ok, failed.

    Raises:
        StoreError: An id is missing, extra, contradictory, or was computed for other inputs or settings.
        InputError: A row is malformed; names file and line.
    """
    places = _Places(samples_path)
    with ExitStack() as stack:
        files = _Shards(shards, stack)
        failed = _find_rows(files, places, target)
        write_row_groups(target, Prediction, _row_groups(files, places))
    return {"samples": len(places.position), "ok": len(places.position) - failed, "failed": failed}
