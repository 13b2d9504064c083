"""Where the time went: the jobs' own records as one table, per stage and per job."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sightline.errors import InputError
from sightline.records.files import read_json, to_json, whole_file

log = logging.getLogger(__name__)

_FIELDS: dict[str, type | tuple[type, ...]] = {
    "job": str,
    "rule": str,
    "status": str,
    "started": (int, float),
    "wall_s": (int, float),
    "cpu_s": (int, float),
    "max_rss_mib": (int, float),
    "host": str,
}


@dataclass(frozen=True)
class StageTime:
    """The jobs of one rule together.

    Attributes:
        rule: Rule name.
        jobs: Number of jobs.
        failed: How many of them ended badly the last time they ran.
        wall_s: Sum of wall seconds.
        cpu_s: Sum of CPU seconds.
        peak_mib: Largest resident memory of one job in MiB.
        share: Part of all wall seconds, 0 to 1.
    """

    rule: str
    jobs: int
    failed: int
    wall_s: float
    cpu_s: float
    peak_mib: float
    share: float


def read_timings(folder: Path) -> tuple[list[dict[str, Any]], int]:
    """Reads every job's record, by start; returns them and how many files could not be read."""
    rows, unreadable = [], 0
    for path in sorted(folder.glob("*.json")):
        try:
            row = read_json(path)
            if not isinstance(row, dict):
                raise InputError("not a timing record", file=path)
            wrong = [name for name, kind in _FIELDS.items() if not isinstance(row.get(name), kind)]
            if wrong:
                raise InputError("not a timing record", file=path, field=wrong[0])
        except InputError as error:
            log.warning("left out of the timings: %s", error)
            unreadable += 1
            continue
        rows.append(row)
    return sorted(rows, key=lambda row: (row["started"], row["job"])), unreadable


def by_stage(rows: Sequence[dict[str, Any]]) -> list[StageTime]:
    """Returns one entry per rule, in the order in which they first started."""
    total = sum(row["wall_s"] for row in rows)
    stages = []
    for rule in dict.fromkeys(row["rule"] for row in rows):
        members = [row for row in rows if row["rule"] == rule]
        wall = sum(row["wall_s"] for row in members)
        stages.append(
            StageTime(
                rule=rule,
                jobs=len(members),
                failed=sum(row["status"] != "ok" for row in members),
                wall_s=wall,
                cpu_s=sum(row["cpu_s"] for row in members),
                peak_mib=max(row["max_rss_mib"] for row in members),
                share=wall / total if total > 0 else 0.0,
            )
        )
    return stages


def span_s(rows: Sequence[dict[str, Any]]) -> float:
    """Returns the seconds from the first start to the last end."""
    if not rows:
        return 0.0
    return max(row["started"] + row["wall_s"] for row in rows) - min(row["started"] for row in rows)


def write_table(target: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes `timings.parquet`: one row per job, `counts` as JSON text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("job", pa.string()),
            ("rule", pa.string()),
            ("status", pa.string()),
            ("started", pa.timestamp("ms", tz="UTC")),
            ("wall_s", pa.float64()),
            ("cpu_s", pa.float64()),
            ("max_rss_mib", pa.float64()),
            ("host", pa.string()),
            ("counts", pa.string()),
        ]
    )
    plain = [
        {
            **{name: row[name] for name in _FIELDS},
            "started": datetime.fromtimestamp(row["started"], UTC),
            "counts": to_json(row.get("counts") or {}),
        }
        for row in rows
    ]
    with whole_file(target) as temporary:
        pq.write_table(pa.Table.from_pylist(plain, schema=schema), temporary, compression="zstd")


def duration(seconds: float) -> str:
    """Returns seconds for people: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def memory(mib: float) -> str:
    """Returns MiB for people."""
    return f"{mib:.0f} MiB" if mib < 1024 else f"{mib / 1024:.1f} GiB"


def percent(share: float) -> str:
    """Returns a share of one as per cent; small ones are not rounded to nothing."""
    return "< 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"
