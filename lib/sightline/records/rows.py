"""Rows on disk: an append-only journal while a shard runs, JSON lines to exchange, Parquet when merged."""

from __future__ import annotations

import json
import logging
import os
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from sightline.errors import InputError, StoreError
from sightline.records.files import from_json, fsync_directory, to_json, whole_file
from sightline.records.types import Prediction, Record, Sample, Score, View

log = logging.getLogger(__name__)
RecordType = TypeVar("RecordType", bound=Record)

ROW_GROUP = 1000
_BLOCK = re.compile(rb'\{"block":"([0-9a-f]+)"')
_JSON_COLUMNS = {"payload", "output", "files"}
_LIST_COLUMNS = {"media", "thumbs"}


class Journal:
    """Durable results of one shard: one line per finished block, fsynced, each line with its CRC-32.

    A line holds the block's key and its rows. Lines of other shards in the same folder are read too, so a
    run with another number of shards finds what is already there. A torn or damaged line is left out with
    a warning: its block is computed again.

    Args:
        folder: Folder of the journals of one run key.
        writer: File stem this journal appends to, normally the shard's name.
        wanted: Blocks to look for; None reads all, which with many shards is much that nobody asks for.
    """

    def __init__(self, folder: str | Path, writer: str, wanted: Collection[str] | None = None) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / f"{writer}.jsonl"
        self._blocks: dict[str, list[dict[str, Any]]] = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            self._blocks.update(self._read(path, wanted))
        self._mend_tail()
        self._stream = open(self.path, "ab")  # noqa: SIM115 - open for the life of the journal
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="fsync")
        self._pending: Future[None] | None = None
        fsync_directory(self.folder)

    def _read(self, path: Path, wanted: Collection[str] | None) -> dict[str, list[dict[str, Any]]]:
        found = {}
        with open(path, "rb") as stream:
            for number, line in enumerate(stream, start=1):
                crc, _, body = line.rstrip(b"\n").partition(b" ")
                named = _BLOCK.match(body)
                if not crc or (wanted is not None and named and named[1].decode() not in wanted):
                    continue
                try:
                    if int(crc, 16) != zlib.crc32(body):
                        raise ValueError("checksum differs")
                    entry = json.loads(body)
                    found[entry["block"]] = entry["rows"]
                except (ValueError, KeyError, TypeError) as error:
                    log.warning("%s, line %d: damaged (%s); its block is computed again", path, number, error)
        return found

    def _mend_tail(self) -> None:
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        if data and not data.endswith(b"\n"):
            with open(self.path, "ab") as stream:
                stream.write(b"\n")

    def __contains__(self, block: str) -> bool:
        return block in self._blocks

    def rows(self, block: str) -> list[dict[str, Any]]:
        """Returns the rows of a finished block."""
        return self._blocks[block]

    def append(self, block: str, rows: Sequence[Record]) -> None:
        """Writes a finished block.

        When this returns the block survives the death of the process; it survives a power failure once
        the next `append` or `close` has returned, since the disk is awaited while the next block is computed.
        """
        plain = [row.to_json() for row in rows]
        body = to_json({"block": block, "rows": plain}).encode("utf-8")
        self._stream.write(b"%08x %s\n" % (zlib.crc32(body), body))
        self._stream.flush()
        self._await_disk()
        self._pending = self._disk.submit(os.fsync, self._stream.fileno())
        self._blocks[block] = json.loads(body)["rows"]

    def _await_disk(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def close(self) -> None:
        """Waits for the disk and closes the file."""
        self._await_disk()
        self._disk.shutdown()
        self._stream.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_lines(target: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes JSON lines as a whole file."""
    with whole_file(target) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            stream.write(to_json(row))
            stream.write("\n")


def read_lines(path: str | Path) -> Iterator[tuple[int, Any]]:
    """Yields (line number, value) of a JSON-lines file; blank lines, CRLF and a byte-order mark are accepted.

    Raises:
        InputError: The file is missing or a line is not strict JSON; names the line.
    """
    try:
        stream = open(path, encoding="utf-8-sig")  # noqa: SIM115 - closed below
    except FileNotFoundError:
        raise InputError("file not found", file=path, mend="run the stage that writes it") from None
    with stream:
        for number, line in enumerate(stream, start=1):
            text = line.strip()
            if not text:
                continue
            try:
                yield number, from_json(text)
            except ValueError as error:
                raise InputError(
                    f"line {number} is not valid JSON ({error})", file=path, mend="correct or remove the line"
                ) from None


def read_records(path: str | Path, kind: type[RecordType]) -> list[RecordType]:
    """Reads a JSON-lines file of one kind of record; duplicate ids are left to the caller.

    Raises:
        InputError: As `read_lines`, or a record has a missing, unknown or mistyped field.
    """
    return [
        kind.from_json(row, file=str(path), item=f"line {number}")
        if not isinstance(row, dict) or "id" not in row
        else kind.from_json(row, file=str(path))
        for number, row in read_lines(path)
    ]


def _schema(kind: type[Record]) -> Any:
    import pyarrow as pa

    types = {"float": pa.float64(), "float | None": pa.float64(), "int | None": pa.int64()}
    columns = []
    for entry in fields(kind):
        if entry.name in _LIST_COLUMNS:
            columns.append(pa.field(entry.name, pa.list_(pa.string())))
        else:
            columns.append(pa.field(entry.name, types.get(str(entry.type), pa.string())))
    return pa.schema(columns, metadata={"sightline.record": kind.__name__})


def write_parquet(target: str | Path, kind: type[RecordType], records: Iterable[RecordType]) -> None:
    """Writes records sorted by id (and metric) in row groups of 1000: equal records give equal bytes."""
    ordered = sorted(records, key=lambda record: (record.id, getattr(record, "metric", "")))  # type: ignore[attr-defined]
    write_columns(target, kind, {item.name: [getattr(one, item.name) for one in ordered] for item in fields(kind)})


def write_columns(target: str | Path, kind: type[Record], columns: dict[str, list[Any]]) -> None:
    """Writes records given as columns, already sorted; see `write_parquet`."""
    count = len(next(iter(columns.values()), []))
    groups = (
        {
            name: [to_json(value) for value in values[start : start + ROW_GROUP]]
            if name in _JSON_COLUMNS
            else values[start : start + ROW_GROUP]
            for name, values in columns.items()
        }
        for start in range(0, count, ROW_GROUP)
    )
    write_row_groups(target, kind, groups)


def write_row_groups(target: str | Path, kind: type[Record], groups: Iterable[dict[str, list[Any]]]) -> None:
    """Writes records given as columns, `ROW_GROUP` rows at a time (the last may be shorter), already sorted.

    Columns that hold JSON are given as canonical text. Only one group is in memory at a time.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(kind)
    with whole_file(target) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd", version="2.6") as out:
        for columns in groups:
            out.write_table(pa.Table.from_pydict(columns, schema=schema), row_group_size=ROW_GROUP)


@contextmanager
def _open_table(path: str | Path, kind: type[Record]) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            if file.schema_arrow.names != [entry.name for entry in fields(kind)]:
                raise StoreError(
                    f"columns are not those of a {kind.__name__}", file=path, mend="delete it and run the stage again"
                )
            yield file
    except FileNotFoundError:
        raise StoreError("file not found", file=path, mend="run the stage that writes it") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise StoreError(f"not a readable Parquet file ({error})", file=path, mend="delete it and run again") from None


def read_parquet(path: str | Path, kind: type[RecordType], only: Collection[str] | None = None) -> list[RecordType]:
    """Reads records written by `write_parquet`, or those of them with these ids.

    Raises:
        StoreError: The file is missing, damaged, or holds another kind of record.
    """
    with _open_table(path, kind) as file:
        table = file.read() if only is None else _rows_of(file, only)
    columns = [
        [from_json(text) for text in table[name].to_pylist()] if name in _JSON_COLUMNS else table[name].to_pylist()
        for name in table.schema.names
    ]
    return [kind(*row) for row in zip(*columns, strict=True)]


def _rows_of(file: Any, only: Collection[str]) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = pa.array(sorted(only), pa.string())
    batches = file.iter_batches(batch_size=10 * ROW_GROUP)
    kept = [batch.filter(pc.is_in(batch.column("id"), value_set=wanted)) for batch in batches]
    return pa.Table.from_batches(kept, schema=file.schema_arrow)


def sample_texts(path: str | Path) -> Iterator[tuple[str, str]]:
    """Yields each sample's id and identity as JSON text, `[id, group, cluster, media, payload]`, in file order.

    The payload stands in the file as canonical JSON already, so nothing is parsed, and few row groups are in memory
    at a time.

    Raises:
        StoreError: The file is missing, damaged, or holds another kind of record.
    """
    names = ["id", "group", "cluster", "media", "payload"]
    with _open_table(path, Sample) as file:
        for batch in file.iter_batches(batch_size=10 * ROW_GROUP, columns=names):
            columns = [batch.column(name) for name in names]
            yield from zip(columns[0].to_pylist(), _identities(*columns), strict=True)


def _identities(*columns: Any) -> list[str]:
    """Returns the identity texts of Arrow columns id, group, cluster, media, payload; no escape, no Python loop."""
    import pyarrow.compute as pc

    identifier, group, cluster, media, payload = columns
    texts = (identifier, group, cluster, media.flatten())
    if any(pc.any(pc.match_substring_regex(column, r'["\\\x00-\x1f]')).as_py() for column in texts):
        rows = zip(*(column.to_pylist() for column in columns), strict=True)
        return [f"[{','.join([*map(to_json, known), payload])}]" for *known, payload in rows]
    joined = pc.binary_join_element_wise('["', pc.binary_join(media, '","'), '"]', "")
    listed = pc.if_else(pc.equal(pc.list_value_length(media), 0), "[]", joined)
    parts = ('["', identifier, '","', group, '","', cluster, '",', listed, ",", payload, "]", "")
    return pc.binary_join_element_wise(*parts).to_pylist()


def read_samples(path: str | Path, only: Collection[str] | None = None) -> list[Sample]:
    """Reads `samples.parquet`, or those samples of it with these ids: a shard needs few of many."""
    return read_parquet(path, Sample, only)


def read_predictions(path: str | Path) -> list[Prediction]:
    """Reads `predictions.parquet`."""
    return read_parquet(path, Prediction)


def read_scores(path: str | Path) -> list[Score]:
    """Reads `scores.parquet`."""
    return read_parquet(path, Score)


def read_views(path: str | Path) -> list[View]:
    """Reads `views.parquet`."""
    return read_parquet(path, View)
