"""The frame index of a dataset: for every video whether it is whole, and which of its frames are used."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sightline.errors import InputError, SightlineError, VideoError
from sightline.records.files import sha256_file, to_json, write_text
from sightline.video.decode import scan_video
from sightline.video.sampling import frames_at_rate, read_timestamps, seconds_from_ns


@dataclass(frozen=True, slots=True)
class VideoSource:
    """One video of a dataset.

    Attributes:
        video_id: Unique in the dataset.
        path: The file.
        shown_path: The path written to the index, relative to the dataset.
        timestamps_path: `.npy` with one UNIX nanosecond time per frame; None uses the stream's own times.
    """

    video_id: str
    path: Path
    shown_path: str
    timestamps_path: Path | None = None


@dataclass(frozen=True, slots=True)
class FramePolicy:
    """Which frames a dataset uses.

    Attributes:
        fps: Frames per second of real time; None uses every frame.
        allow_high_bit_depth: Accept more than 8 bits per component.
    """

    fps: float | None = None
    allow_high_bit_depth: bool = False


@dataclass(frozen=True, slots=True)
class FrameIndexRow:
    """What is known about one video of a dataset.

    Attributes:
        video_id: Its id.
        path: Path relative to the dataset.
        sha256: Digest of the file; empty if it could not be read.
        status: `ok` or `failed`.
        reason: Why it failed; empty when ok.
        info: The `VideoInfo`, as JSON; None when failed before decoding ended.
        used: Indices of the used frames, ascending; empty when failed.
        timestamps: Number of timestamps in the dataset's file; None without a file.
        timestamps_sha256: Digest of that file; empty without one.
    """

    video_id: str
    path: str
    sha256: str
    status: str
    reason: str = ""
    info: dict[str, Any] | None = None
    used: list[int] = field(default_factory=list)
    timestamps: int | None = None
    timestamps_sha256: str = ""


def short_reason(error: SightlineError) -> str:
    """Returns an error as one line without folders, so that equal failures give equal bytes anywhere."""
    where = f"{Path(error.file).name}: " if error.file else ""
    return f"{where}{error.problem}" + (f" -> {error.mend}" if error.mend else "")


def index_video(source: VideoSource, policy: FramePolicy) -> FrameIndexRow:
    """Decodes one video completely and returns its row; whatever is wrong with it is a failed row."""
    known: dict[str, Any] = {}
    try:
        info, times = scan_video(source.path, allow_high_bit_depth=policy.allow_high_bit_depth)
        known.update(info=info.to_json())
        if (stamps_path := source.timestamps_path) is not None:
            stamps = read_timestamps(stamps_path)
            known.update(timestamps=len(stamps), timestamps_sha256=sha256_file(stamps_path))
            if len(stamps) != info.frames:
                raise VideoError(
                    f"{info.frames} frames decoded, but {len(stamps)} timestamps in {stamps_path.name}",
                    file=source.path,
                    mend="fetch the video and its timestamps again; they must belong together",
                )
            times = seconds_from_ns(stamps)
        used = np.arange(len(times)) if policy.fps is None else frames_at_rate(times, policy.fps)
        status, reason = "ok", ""
    except (VideoError, InputError) as error:
        status, reason, used = "failed", short_reason(error), np.zeros(0, np.int64)
    digest = sha256_file(source.path) if source.path.is_file() else ""
    return FrameIndexRow(source.video_id, source.shown_path, digest, status, reason, used=used.tolist(), **known)


def write_index(path: str | Path, rows: Iterable[FrameIndexRow]) -> None:
    """Writes rows as JSON lines sorted by video id, whole and with the same bytes for the same rows."""
    ordered = sorted(rows, key=lambda row: row.video_id)
    write_text(path, "".join(to_json(asdict(row)) + "\n" for row in ordered))


def read_index(path: str | Path) -> list[FrameIndexRow]:
    """Reads what `write_index` wrote.

    Raises:
        InputError: The file is missing or a line is not a row.
    """
    mend = "decode the dataset again"
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise InputError("frame index not found", file=path, mend=mend) from None
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(FrameIndexRow(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise InputError(f"line {number} is not a row of a frame index ({error})", file=path, mend=mend) from None
    return rows


def index_dataset(
    videos: Sequence[VideoSource],
    target: str | Path,
    policy: FramePolicy,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[FrameIndexRow]:
    """Indexes every video and writes the index; one bad video is a failed row, the others go on.

    Args:
        videos: The dataset's videos.
        target: File to write.
        policy: Which frames are used.
        workers: Videos decoded at the same time; decoding releases the interpreter lock, so threads do.
        progress: Called with (done, all) after each video.

    Returns:
        The rows, sorted by video id.

    Raises:
        InputError: Two videos have the same id.
    """
    seen: dict[str, VideoSource] = {}
    for video in videos:
        if video.video_id in seen:
            raise InputError(
                f"also the id of {seen[video.video_id].path}", file=video.path, item=video.video_id,
                mend="give every video of a dataset its own id",
            )  # fmt: skip
        seen[video.video_id] = video
    rows: list[FrameIndexRow] = []
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        for done in as_completed([pool.submit(index_video, video, policy) for video in videos]):
            rows.append(done.result())
            if progress is not None:
                progress(len(rows), len(videos))
    rows.sort(key=lambda row: row.video_id)
    write_index(target, rows)
    return rows
