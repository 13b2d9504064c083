"""Benchmarks in the layout their authors publish become samples; what is missing is found before any model runs."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sightline.errors import InputError
from sightline.records.files import content_key, read_json
from sightline.records.rows import read_lines
from sightline.records.types import Sample
from sightline.systems.videosavi.benchmarks import question_from_row
from sightline.systems.videosavi.tasks import Layout, Task, task_named

log = logging.getLogger(__name__)
_FORMS = ("jsonl", "json", "parquet")
_FETCH = "fetch the benchmark's rows"


@dataclass
class Benchmarks:
    """Questions of several tasks.

    Attributes:
        samples: Those whose video is there, sorted by id; `group` is the video, so that it is decoded once for all
            tasks that ask about it.
        missing: Question id to the video that was looked for.
        layouts: Task to the layout of its videos' folder.
    """

    samples: list[Sample] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    layouts: dict[str, Layout] = field(default_factory=dict)

    def dropped(self) -> list[dict[str, str]]:
        """Returns the questions left out, each with its reason, for `plan.json`."""
        return [{"id": name, "reason": "the video is missing", "video": path} for name, path in self.missing.items()]


def read_rows(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of a JSON list, JSON lines or Parquet file.

    Raises:
        InputError: The file is missing or unreadable, or a row is no object.
    """
    path = Path(path)
    rows: Iterator[Any]
    if path.suffix == ".jsonl":
        rows = (row for _, row in read_lines(path))
    elif path.suffix == ".parquet":
        rows = _parquet_rows(path)
    else:
        content = read_json(path, mend=_FETCH)
        if not isinstance(content, list):
            raise InputError("expected a list of rows", file=path, mend=_FETCH)
        rows = iter(content)
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise InputError("expected an object", file=path, item=f"row {number}", mend=_FETCH)
        yield row


def _parquet_rows(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"not a readable Parquet file ({error})", file=path, mend=_FETCH) from None


def rows_file(folder: str | Path, task: str) -> Path:
    """Returns the file of a task's rows: `<task>.jsonl`, `.json` or `.parquet`; MVBench's also by its own names.

    Raises:
        InputError: There is none.
    """
    folder, known = Path(folder), task_named(task)
    names = [task, *([known.config] if known.config and known.benchmark == "mvbench" else [])]
    for name in names:
        for form in _FORMS:
            if (folder / f"{name}.{form}").is_file():
                return folder / f"{name}.{form}"
    raise InputError("the rows of the task are not there", file=folder, item=task, mend=f"add {task}.jsonl or .parquet")


def video_layout(task: Task, root: str | Path) -> Layout:
    """Returns which of MVBench's two layouts the folder has; the current one where neither or both are there."""
    current, uncut = (Path(root, task.folder_in(layout)) for layout in ("segments", "uncut2024"))  # type: ignore[arg-type]
    return "uncut2024" if uncut != current and uncut.exists() and not current.exists() else "segments"


def find_video(root: str | Path, folder: str, name: str) -> Path | None:
    """Returns a video below `root`, its suffix in small or capital letters; None if it is not there.

    Raises:
        InputError: The name leads out of the folder.
    """
    place = Path(root, folder)
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError("a video's name leads out of its folder", file=place, item=name, mend="correct the rows")
    for candidate in (name, re.sub(r"\.mp4$", ".MP4", name)):
        if (place / candidate).exists():
            return place / candidate
    return None


def build_samples(
    rows_folder: str | Path,
    root: str | Path,
    tasks: Sequence[str],
    *,
    layout: Layout | None = None,
    limit: int | None = None,
    seconds_per_question: float = 1.0,
) -> Benchmarks:
    """Reads the questions of several tasks and looks for their videos.

    Args:
        rows_folder: Holds one file of rows per task.
        root: Holds the videos' folders, as `$HF_HOME` does for lmms-eval.
        tasks: Keys of `tasks.TASKS`.
        layout: MVBench's layout; None takes the one that is there.
        limit: Number of rows per task; None for all.
        seconds_per_question: Estimated model time.

    Raises:
        ConfigError: A task is unknown.
        InputError: Rows are missing or malformed.
    """
    found = Benchmarks()
    for name in tasks:
        task, file = task_named(name), rows_file(rows_folder, name)
        found.layouts[name] = layout or video_layout(task, root)
        folder = task.folder_in(found.layouts[name])
        for number, row in enumerate(read_rows(file)):
            if limit is not None and number >= limit:
                break
            question = question_from_row(name, row, number)
            video = find_video(root, folder, question.video)
            if video is None:
                found.missing[question.id] = f"{folder}/{question.video}"
                continue
            path = video.relative_to(root).as_posix()
            # The folder is part of the key: two data sets of MVBench have videos of the same names.
            group = f"video-{content_key(path)}"
            found.samples.append(Sample(question.id, group, group, [path], seconds_per_question, question.to_json()))
    found.samples.sort(key=lambda sample: sample.id)
    if found.missing:
        log.warning("%d questions are left out, their videos are missing", len(found.missing))
    return found
