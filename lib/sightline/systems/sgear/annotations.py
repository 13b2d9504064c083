"""Annotated actions of EPIC-Kitchens-55 and -100 and EGTEA Gaze+, and the windows observed before them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sightline.errors import InputError
from sightline.systems.sgear.classes import ClassTable, Form, integer, read_rows
from sightline.systems.sgear.windows import FEATURE_FPS, Observation, is_kept, observe

RULSTM_COLUMNS = ("uid", "video_id", "start_frame", "end_frame", "verb", "noun", "action")
_TEST_COLUMNS = 4
_INDEX_NAMES = {"ek100": "narration_id", "ek55": "uid"}
_NEEDED = ("video_id", "start_timestamp", "stop_timestamp")


@dataclass(frozen=True, slots=True)
class Segment:
    """One annotated action.

    Attributes:
        uid: Row key.
        narration_id: Key that a submission uses; `uid` where there is no other.
        video_id: Video without suffix.
        participant_id: Who wears the camera.
        action_start, action_end: Seconds.
        action, verb, noun: Classes; -1 when unknown.
        observed: The window before it; None before `anticipate`.
    """

    uid: str
    narration_id: str
    video_id: str
    participant_id: str
    action_start: float
    action_end: float
    action: int
    verb: int
    noun: int
    observed: Observation | None = None


@dataclass(frozen=True)
class Anticipations:
    """Rows with their observed windows.

    Attributes:
        kept: Rows a model is asked about, in file order.
        discarded: Rows without enough context; a submission must hold them, as zeros.
    """

    kept: list[Segment]
    discarded: list[Segment]


def participant_of(video_id: str) -> str:
    """Returns a video's participant: what stands before the first underscore."""
    return video_id.split("_")[0]


def video_path(segment: Segment, form: Form) -> str:
    """Returns where a video lies below a root of its dataset."""
    if form == "egtea":
        return f"{segment.video_id}.mp4"
    if form == "salads":
        return f"{segment.video_id}.avi"
    return f"{segment.participant_id}/{segment.video_id}.MP4"


def find_video(relative: str, roots: Sequence[str | Path]) -> tuple[Path, bool]:
    """Returns the video in the first root that has it, and True; else the last candidate, and False.

    Raises:
        InputError: No root was given.
    """
    if not roots:
        raise InputError("no video root was given", field="roots", mend="name at least one folder")
    candidates = [Path(root) / relative for root in roots]
    found = next((path for path in candidates if path.exists()), None)
    return (candidates[-1], False) if found is None else (found, True)


def read_annotations(path: str | Path, form: Form, table: ClassTable) -> list[Segment]:
    """Reads annotated actions in file order.

    Args:
        path: RULSTM's csv (no header, times in frames at 30 per second) or its test csv of four columns;
            EPIC's csv with a header; EPIC's pickle, of which nothing is executed; or a `.parquet` made of one.
        form: Dataset.
        table: Looks up actions where the file has none.

    Raises:
        InputError: The file is malformed; names line and field, and says when a header line is in the way.
    """
    path = Path(path)
    if path.suffix in (".pkl", ".parquet"):
        return _from_frame(_read_frame(path), path, form, table)
    lines = read_rows(path)
    if lines and lines[0][0].strip() in ("narration_id", "uid") and "video_id" in [c.strip() for c in lines[0]]:
        header = [name.strip() for name in lines[0]]
        if "start_timestamp" in header:
            return _from_frame([dict(zip(header, line, strict=False)) for line in lines[1:]], path, form, table)
    return _checked([_rulstm_row(line, number, path) for number, line in enumerate(lines, 1)], path)


def _checked(segments: list[Segment], path: Path) -> list[Segment]:
    seen: set[str] = set()
    for segment in segments:
        if segment.uid in seen:
            raise InputError("two rows of one uid", file=path, item=segment.uid, field="uid", mend="remove one")
        seen.add(segment.uid)
        if segment.action_end < segment.action_start:
            raise InputError("an action ends before it begins", file=path, item=segment.uid, mend="correct the row")
    return segments


def _rulstm_row(line: list[str], number: int, path: Path) -> Segment:
    fields = [value.lstrip() for value in line]
    if len(fields) not in (_TEST_COLUMNS, len(RULSTM_COLUMNS)):
        raise InputError(
            f"{len(fields)} fields, expected {len(RULSTM_COLUMNS)} ({', '.join(RULSTM_COLUMNS)})", file=path,
            item=f"line {number}", mend="give RULSTM's csv of this dataset",
        )  # fmt: skip
    values = [integer(value, path, number, name) for value, name in zip(fields[2:], RULSTM_COLUMNS[2:], strict=False)]
    start, end, verb, noun, action = (*values, -1, -1, -1)[:5]
    uid, video = fields[:2]
    return Segment(
        uid, uid, video, participant_of(video), start / FEATURE_FPS, end / FEATURE_FPS, action, verb, noun
    )  # fmt: skip


def _read_frame(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        import pyarrow.parquet as parquet

        return parquet.read_table(path).to_pylist()  # type: ignore[no-any-return]
    from sightline.systems.sgear.pickled import read_pickled_table

    return read_pickled_table(path)


def seconds_of(stamp: str) -> float:
    """Returns the seconds of an EPIC time stamp `hours:minutes:seconds.fraction`.

    Raises:
        ValueError: It is none.
    """
    hours, minutes, rest = stamp.split(":")
    seconds, _, fraction = rest.partition(".")
    if not (hours + minutes + seconds + (fraction or "0")).isdigit() or len(fraction) > 6:
        raise ValueError(f"{stamp!r} is no time")
    if int(minutes) > 59 or int(seconds) > 61:
        raise ValueError(f"{stamp!r} is no time")
    whole = int(hours) * 3600 + int(minutes) * 60 + int(seconds)
    return (whole * 10**6 + int(fraction.ljust(6, "0"))) / 10**6  # rounded once, as a timedelta's seconds


def _from_frame(rows: list[dict[str, Any]], path: Path, form: Form, table: ClassTable) -> list[Segment]:
    """Rows of EPIC's own table: EK100 numbers them from 1 in row order and submits narration ids."""
    segments = []
    for number, row in enumerate(rows, 1):
        key = row.get(_INDEX_NAMES.get(form, "uid"))
        for name in (_INDEX_NAMES.get(form, "uid"), *_NEEDED):
            if row.get(name) is None:
                raise InputError("the column is missing", file=path, item=f"row {number}", field=name)
        try:
            start, end = (seconds_of(str(row[name])) for name in _NEEDED[1:])
        except ValueError as error:
            raise InputError(str(error), file=path, item=str(key), mend="write times as 00:01:02.345") from None
        verb, noun = (_class(row.get(f"{part}_class"), path, str(key), part) for part in ("verb", "noun"))
        video = str(row["video_id"])
        uid = str(number) if form == "ek100" else str(key)
        participant = str(row.get("participant_id") or participant_of(video))
        action = table.action_of(verb, noun)
        segments.append(Segment(uid, str(key), video, participant, start, end, action, verb, noun))
    return _checked(segments, path)


def _class(value: Any, path: Path, item: str, part: str) -> int:
    if value is None or value == "" or value != value:
        return -1
    try:
        if float(value) == int(float(value)):
            return int(float(value))
    except (TypeError, ValueError, OverflowError):
        pass
    raise InputError(f"{value!r} is no class", file=path, item=item, field=f"{part}_class", mend="correct the row")


def write_annotations(segments_source: str | Path, target: str | Path) -> int:
    """Converts a pickled table to Parquet, once, executing nothing; returns the number of rows.

    Raises:
        InputError: The pickle is damaged or holds something else than a table.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    from sightline.records.files import whole_file

    rows = _read_frame(Path(segments_source))
    plain = [{name: value for name, value in row.items() if not isinstance(value, (list, tuple))} for row in rows]
    with whole_file(target) as temporary:
        parquet.write_table(pyarrow.Table.from_pylist(plain), temporary)
    return len(rows)


def keep_videos(segments: Sequence[Segment], videos: Collection[str]) -> list[Segment]:
    """Returns the rows of the listed videos."""
    return [segment for segment in segments if segment.video_id in videos]


def read_videos(path: str | Path) -> frozenset[str]:
    """Returns the video ids of a list (RULSTM's `training_videos.csv`), one per line."""
    return frozenset(row[0].strip() for row in read_rows(path))


def anticipate(segments: Sequence[Segment], *, tau_a: float, tau_o: float, drop_style: str) -> Anticipations:
    """Gives each row the window observed before it, and sets those apart that have too little context.

    Args:
        segments: Rows in file order.
        tau_a: Seconds between the window and the action; negative for recognition; -999 for the action itself.
        tau_o: Seconds observed.
        drop_style: `correct`, `full_context_in` or `action_banks`.

    Raises:
        InputError: The style is unknown.
    """
    result = Anticipations([], [])
    for segment in segments:
        seen = observe(segment.action_start, segment.action_end, tau_a, tau_o)
        row = replace(segment, observed=seen)
        (result.kept if is_kept(seen.start, seen.end, drop_style) else result.discarded).append(row)
    return result


def class_counts(segments: Sequence[Segment], table: ClassTable) -> Mapping[int, int]:
    """Returns how many rows each action has; -1 counts rows of unknown action."""
    counts = dict.fromkeys(range(-1, len(table.actions)), 0)
    for segment in segments:
        counts[segment.action] = counts.get(segment.action, 0) + 1
    return counts
