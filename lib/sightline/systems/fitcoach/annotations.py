"""Reads `feedbacks_long_range.json` of a QEVD split and the clock of its videos.

The folder layout, the clock and the rules for spans are those of QEVD-FIT-COACH (arXiv 2407.08101) as its
released loader reads them. Where that loader is wrong or harsh, `QevdQuirks` says so by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from sightline.errors import InputError, NonFiniteError
from sightline.records.files import read_json
from sightline.records.types import is_slug

ANNOTATION_FILE = "feedbacks_long_range.json"
SPLIT_FOLDERS = {"test": "QEVD-FIT-COACH-Benchmark", "train": "QEVD-FIT-COACH"}
CLOCK_OFFSET_S = 28800.0
_CLOCK_SLACK_S = 600.0


@dataclass(frozen=True)
class QevdQuirks:
    """Switches for what the released loaders do; the defaults reproduce published numbers without aborting.

    Attributes:
        clock_offset_s: Added to video timestamps; the annotations are on that clock.
        rename_arms_cross_chest: Says "deltoid stretch" where the annotations say "armcrosschest".
        unclosed_last_span: What to do when a feedback is still shown at the last frame, or when for another
            reason spans and feedback timestamps differ in number: `skip` the workout with a report (the
            fork), `abort` (the official loader), or `close` the open span and abort if they still differ.
        length_mismatch: A workout with another number of frame timestamps than frames: `abort` or `skip`.
        drop_silent_episodes: Leaves out exercises without feedback, so false alarms there are free.
        full_workout_cut: `fixed` reads every feature step; `published` loses the first one, as the fork does.
        window_dealing: `fixed` covers the workout without gap or overlap and gives each feedback to the
            window of its time; `published` deals as the fork does.
    """

    clock_offset_s: float = CLOCK_OFFSET_S
    rename_arms_cross_chest: bool = True
    unclosed_last_span: Literal["skip", "abort", "close"] = "skip"
    length_mismatch: Literal["abort", "skip"] = "abort"
    drop_silent_episodes: bool = True
    full_workout_cut: Literal["fixed", "published"] = "fixed"
    window_dealing: Literal["fixed", "published"] = "fixed"


@dataclass(frozen=True)
class Span:
    """One feedback on display: its text, first and last frame, both inclusive."""

    text: str
    first_frame: int
    last_frame: int


@dataclass(frozen=True, eq=False)  # an array has no truth value to compare by
class Workout:
    """One annotated video.

    Attributes:
        video: Path of the video inside the split's folder, as written.
        video_id: File name without suffix.
        frame_times: float64 [frames], UNIX seconds on the annotations' clock.
        spans: Feedbacks in order.
        feedback_times: UNIX seconds, one per span.
        is_transition: One per span: announces the next exercise or the end.
        problem: Why the workout cannot be used; empty when it can.
    """

    video: str
    video_id: str
    frame_times: np.ndarray
    spans: tuple[Span, ...]
    feedback_times: tuple[float, ...]
    is_transition: tuple[bool, ...]
    problem: str = ""


def parse_spans(texts: Sequence[str], *, close_last: bool = False) -> list[Span]:
    """Finds the feedbacks in the text shown at each frame.

    A span ends where the text changes. One still shown at the last frame never ends: it is left out unless
    `close_last`.
    """
    spans = []
    first = 0
    for frame in range(1, len(texts)):
        if texts[frame] != texts[frame - 1]:
            if texts[first]:
                spans.append(Span(texts[first], first, frame - 1))
            first = frame
    if close_last and len(texts) and texts[-1]:
        spans.append(Span(texts[-1], first, len(texts) - 1))
    return spans


def load_video_timestamps(path: Path, clock_offset_s: float = CLOCK_OFFSET_S) -> np.ndarray:
    """Reads a video's frame times.

    Args:
        path: `.npy` with [frames] UNIX nanoseconds, float64 in QEVD.
        clock_offset_s: Constant of QEVD's clock.

    Returns:
        float64 [frames], seconds on the annotations' clock, added up in the order of the released loader.

    Raises:
        InputError: The file is missing, damaged or not a list of numbers.
        NonFiniteError: It holds NaN or infinity.
    """
    try:
        stored = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(
            "the video's frame timestamps are missing", file=path, mend="extract the dataset again"
        ) from None
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"not a .npy array ({error})", file=path, mend="extract the dataset again") from None
    if stored.ndim != 1 or stored.dtype.kind not in "fiu":
        raise InputError(
            f"expected one number per frame, found {stored.dtype} {list(stored.shape)}",
            file=path, mend="extract the dataset again",
        )  # fmt: skip
    if not np.isfinite(stored).all():
        raise NonFiniteError("a frame timestamp is not finite", file=path, mend="extract the dataset again")
    seconds = stored / 1e9
    return np.trunc(seconds) + np.mod(seconds, 1.0) + clock_offset_s


def load_annotations(split_folder: Path, quirks: QevdQuirks | None = None) -> list[Workout]:
    """Reads all workouts of a split, in the order of the file.

    Args:
        split_folder: Folder that holds `feedbacks_long_range.json` and `long_range_videos/`.
        quirks: Switches; the defaults when None.

    Returns:
        Every record; one that must be skipped carries its `problem` and no spans.

    Raises:
        InputError: The file is missing or malformed, a field is missing or of the wrong type, a video
            stands there twice, or its timestamps do not fit; names file, item and field.
    """
    quirks = quirks or QevdQuirks()
    path = Path(split_folder) / ANNOTATION_FILE
    records = read_json(path, mend="point the dataset at the folder that holds it")
    if not isinstance(records, list):
        raise InputError("expected a list of workouts", file=path, mend="extract the dataset again")
    workouts: list[Workout] = []
    seen: dict[str, int] = {}
    for index, record in enumerate(records):
        workout = _read_workout(record, index, path, quirks)
        if workout.video_id in seen:
            raise InputError(
                f"the video stands here twice (records {seen[workout.video_id]} and {index})",
                file=path, item=workout.video_id, field="long_range_video_file", mend="remove one of them",
            )  # fmt: skip
        seen[workout.video_id] = index
        workouts.append(workout)
    return workouts


_FIELDS: dict[str, tuple[str, type | tuple[type, ...]]] = {
    "feedbacks": ("text", str),
    "feedback_timestamps": ("number", (int, float)),
    "is_transition": ("true or false", bool),
}


def _read_workout(record: Any, index: int, path: Path, quirks: QevdQuirks) -> Workout:
    where: dict[str, Any] = {"file": path, "item": f"record {index}"}
    if not isinstance(record, dict):
        raise InputError("expected a JSON object", mend="extract the dataset again", **where)
    video = _path_field(record, "long_range_video_file", where)
    where["item"] = f"record {index} ({video})"
    video_id = PurePosixPath(video).stem
    if not is_slug(video_id):
        raise InputError(
            "the video's name cannot serve as an id", field="long_range_video_file",
            mend="use letters, digits, '.', '_' and '-' only", **where,
        )  # fmt: skip
    timestamps = _path_field(record, "video_timestamps", where)
    columns = {name: _list_field(record, name, where) for name in _FIELDS}
    feedback_times = tuple(float(time) for time in columns["feedback_timestamps"])
    if len(columns["is_transition"]) != len(feedback_times):
        raise InputError(
            f"{len(columns['is_transition'])} values for {len(feedback_times)} feedback_timestamps",
            field="is_transition", mend="give one per feedback", **where,
        )  # fmt: skip
    texts = columns["feedbacks"]
    if quirks.rename_arms_cross_chest:
        texts = [text.replace("armcrosschest", "deltoid stretch") for text in texts]
    frame_times = load_video_timestamps(path.parent / timestamps, quirks.clock_offset_s)
    spans, problem = _spans_or_problem(texts, feedback_times, frame_times, quirks, where)
    if not problem:
        _check_clock(feedback_times, frame_times, where)
    return Workout(video, video_id, frame_times, tuple(spans), feedback_times, tuple(columns["is_transition"]), problem)


def _spans_or_problem(
    texts: list[str],
    feedback_times: tuple[float, ...],
    frame_times: np.ndarray,
    quirks: QevdQuirks,
    where: dict[str, Any],
) -> tuple[list[Span], str]:
    if len(frame_times) != len(texts):
        problem = f"{len(frame_times)} frame timestamps for {len(texts)} frames in feedbacks"
        if quirks.length_mismatch == "skip":
            return [], problem
        mend = "extract the dataset again, or set length_mismatch: skip"
        raise InputError(problem, field="video_timestamps", mend=mend, **where)
    spans = parse_spans(texts)
    if len(spans) + 1 == len(feedback_times) and quirks.unclosed_last_span == "close":
        spans = parse_spans(texts, close_last=True)
    if len(spans) == len(feedback_times):
        return spans, ""
    problem = f"{len(spans)} feedbacks that begin and end for {len(feedback_times)} feedback_timestamps"
    if texts and texts[-1]:
        problem += "; the last one is still shown at the last frame"
    if quirks.unclosed_last_span == "skip":
        return [], problem
    mend = "correct the record, or set unclosed_last_span: skip"
    raise InputError(problem, field="feedback_timestamps", mend=mend, **where)


def _path_field(record: dict[str, Any], name: str, where: dict[str, Any]) -> str:
    """Returns a relative path that stays inside the split's folder."""
    value = _field(record, name, where)
    if not isinstance(value, str):
        raise InputError(f"expected text, found {type(value).__name__}", field=name, mend="correct the value", **where)
    parts = PurePosixPath(value).parts
    if not parts or value.startswith("/") or ".." in parts or "\0" in value:
        raise InputError(
            f"{value!r} is not a path inside the split's folder", field=name, mend="correct the path", **where
        )
    return value


def _list_field(record: dict[str, Any], name: str, where: dict[str, Any]) -> list[Any]:
    value = _field(record, name, where)
    kind, types = _FIELDS[name]
    if not isinstance(value, list):
        raise InputError(
            f"expected a list, found {type(value).__name__}", field=name, mend="correct the value", **where
        )
    for position, entry in enumerate(value):
        if not isinstance(entry, types) or (isinstance(entry, bool) and types is not bool):
            raise InputError(
                f"expected {kind}, found {type(entry).__name__}",
                field=f"{name}[{position}]", mend="correct the value", **where,
            )  # fmt: skip
    return value


def _field(record: dict[str, Any], name: str, where: dict[str, Any]) -> Any:
    if name not in record:
        raise InputError("required field is missing", field=name, mend="add it", **where)
    return record[name]


def _check_clock(feedback_times: tuple[float, ...], frame_times: np.ndarray, where: dict[str, Any]) -> None:
    """Refuses annotations on another clock than the video: eight hours off would silently score zero."""
    if not feedback_times:
        return
    low, high = float(frame_times.min()) - _CLOCK_SLACK_S, float(frame_times.max()) + _CLOCK_SLACK_S
    for position, time in enumerate(feedback_times):
        if not low <= time <= high:
            off = time - float(frame_times[0])
            raise InputError(
                f"the feedback starts {off:.0f} s after the video's first frame, outside the video",
                field=f"feedback_timestamps[{position}]",
                mend="check video_timestamps and the setting clock_offset_s", **where,
            )  # fmt: skip
