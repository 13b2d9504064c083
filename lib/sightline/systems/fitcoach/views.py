"""Samples, predictions and scores become timelines: frames, what should have been said, what was said."""

from __future__ import annotations

import base64
import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from sightline.errors import InputError, SightlineError, StoreError, VideoError
from sightline.metrics.temporal import HALF_WINDOW_S, TemporalMatch, match_feedbacks
from sightline.records.types import Prediction, Sample, Score, View
from sightline.report.views import Mark, TimelineView
from sightline.systems.fitcoach.annotations import load_video_timestamps
from sightline.systems.fitcoach.media import QEVD, READERS
from sightline.systems.fitcoach.pictures import ExtractorSettings, is_rotated, preprocess
from sightline.systems.fitcoach.records import Coaching, Episode
from sightline.systems.fitcoach.score import NO_TRUTH
from sightline.video.decode import iter_frames, scan_video
from sightline.video.frames import VideoSource

log = logging.getLogger(__name__)
THUMB_HEIGHT = 96
_JPEG_QUALITY = 72
_Thumb = tuple[float, str]


def draw_views(
    samples: Sequence[Sample],
    predictions: Sequence[Prediction],
    scores: Sequence[Score],
    split_folder: str | Path,
    *,
    rotate_upto_id: int | None,
    layout: str = QEVD,
    frames_per_episode: int = 10,
    half_window_s: float = HALF_WINDOW_S,
    apply_display_rotation: bool = True,
    allow_high_bit_depth: bool = False,
) -> list[View]:
    """Draws one timeline per sample, sorted by id; each video is decoded once for all its episodes.

    Args:
        samples: All samples of the run.
        predictions: One per sample, in any order.
        scores: Score rows; their values are shown beside the timeline.
        split_folder: Folder of the split, which holds the annotations and the videos, or of the videos alone.
        rotate_upto_id: Videos of QEVD with a number up to this are turned, as for the CNN; None turns none.
        layout: `qevd` or `videos`.
        frames_per_episode: Pictures over the length of an episode.
        half_window_s: Half of the matching window in seconds, as in scoring.
        apply_display_rotation: Follow the display matrix of a file, as the extractor does.
        allow_high_bit_depth: Accept video of more than 8 bits per component.

    Returns:
        Views of kind `timeline`. Where a video cannot be decoded they have no pictures and say so.

    Raises:
        InputError: A sample has no prediction, or a payload is malformed.
    """
    folder = Path(split_folder)
    said_by_id = {prediction.id: prediction for prediction in predictions}
    numbers = _numbers(scores)
    by_video: dict[str, list[tuple[Sample, Episode]]] = defaultdict(list)
    for sample in samples:
        episode = Episode.from_json(sample.payload, item=sample.id)
        by_video[episode.video].append((sample, episode))
    settings = ExtractorSettings(
        rotate_upto_id=rotate_upto_id if layout == QEVD else None,
        apply_display_rotation=apply_display_rotation,
        allow_high_bit_depth=allow_high_bit_depth,
    )
    sources = _sources(folder, layout)
    views = []
    for video, members in sorted(by_video.items()):
        episodes = [episode for _, episode in members]
        strips, problem = _strips_or_problem(
            sources.get(str(PurePosixPath(video))), episodes, settings, frames_per_episode
        )
        for (sample, episode), strip in zip(members, strips, strict=True):
            if sample.id not in said_by_id:
                raise InputError("the sample has no prediction", item=sample.id, mend="predict again")
            timeline = _timeline(episode, said_by_id[sample.id], numbers[sample.id], strip, problem, half_window_s)
            views.append(timeline.to_view(sample.id, [picture for _, picture in strip]))
    return sorted(views, key=lambda view: view.id)


def _numbers(scores: Sequence[Score]) -> defaultdict[str, dict[str, float | None]]:
    found: defaultdict[str, dict[str, float | None]] = defaultdict(dict)
    for row in sorted(scores, key=lambda score: (score.id, score.metric)):
        scored = row.status == "scored" and row.value is not None and row.denominator > 0
        found[row.id][row.metric] = row.value / row.denominator if scored and row.value is not None else None
    return found


def _sources(folder: Path, layout: str) -> dict[str, VideoSource]:
    """Returns the dataset's videos by path; none if annotations or videos are gone."""
    try:
        return {str(PurePosixPath(source.shown_path)): source for source in READERS[layout](folder)}
    except InputError as error:
        log.warning("no pictures: %s", error)
        return {}


def _strips_or_problem(
    source: VideoSource | None,
    episodes: Sequence[Episode],
    settings: ExtractorSettings,
    count: int,
) -> tuple[list[list[_Thumb]], str]:
    """Returns a strip of pictures per episode; or empty strips and why there are none."""
    empty: list[list[_Thumb]] = [[] for _ in episodes]
    if count < 1:
        return empty, ""
    if source is None:
        return empty, "No pictures: the dataset does not name this video any more."
    try:
        return _strips(source.path, _frame_times(source, settings), episodes, settings, count), ""
    except (VideoError, InputError, StoreError) as error:
        log.warning("%s: no pictures: %s", source.shown_path, error)
        return empty, f"No pictures: {_plainly(error)}."


def _frame_times(source: VideoSource, settings: ExtractorSettings) -> np.ndarray:
    if source.timestamps_path is not None:
        return load_video_timestamps(source.timestamps_path)
    times = scan_video(source.path, allow_high_bit_depth=settings.allow_high_bit_depth)[1]
    return times - times[0]


def _plainly(error: SightlineError) -> str:
    """Returns the problem without folders, so that equal failures give equal bytes anywhere."""
    return error.problem.rstrip(".")


def _strips(
    path: Path, frame_times: np.ndarray, episodes: Sequence[Episode], settings: ExtractorSettings, count: int
) -> list[list[_Thumb]]:
    chosen = [_frames_of(episode, frame_times, count) for episode in episodes]
    wanted = sorted({index for indices in chosen for index in indices})
    rotate = is_rotated(path.stem, settings)
    pictures = {
        index: _thumbnail(preprocess(frame, rotate))
        for index, frame in iter_frames(
            path,
            wanted,
            apply_rotation=settings.apply_display_rotation,
            allow_high_bit_depth=settings.allow_high_bit_depth,
        )
    }
    return [
        [(float(frame_times[index] - episode.start), pictures[index]) for index in indices]
        for episode, indices in zip(episodes, chosen, strict=True)
    ]


def _frames_of(episode: Episode, frame_times: np.ndarray, count: int) -> list[int]:
    """Returns the frames nearest to the middles of `count` equal parts of the episode, ascending."""
    if not len(frame_times):
        return []
    middles = episode.start + (np.arange(count) + 0.5) * (episode.end - episode.start) / count
    nearest = np.abs(frame_times[None, :] - middles[:, None]).argmin(axis=1)
    return sorted({int(index) for index in nearest})


def _thumbnail(picture: np.ndarray) -> str:
    """Returns a small base64 JPEG of a picture the CNN sees, uint8 [3, height, width] RGB."""
    image = cv2.cvtColor(np.ascontiguousarray(picture.transpose(1, 2, 0)), cv2.COLOR_RGB2BGR)
    width = max(1, round(image.shape[1] * THUMB_HEIGHT / image.shape[0]))
    small = cv2.resize(image, (width, THUMB_HEIGHT), interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not done:
        raise VideoError("a frame could not be written as JPEG")
    return base64.b64encode(data.tobytes()).decode("ascii")


def _timeline(
    episode: Episode,
    prediction: Prediction,
    numbers: dict[str, float | None],
    strip: Sequence[_Thumb],
    problem: str,
    half_window_s: float,
) -> TimelineView:
    failed = prediction.status != "ok"
    coaching = Coaching([], []) if failed else Coaching.from_json(prediction.output, item=prediction.id)
    match = TemporalMatch((), (), len(episode.responses), 0)
    if not failed:
        match = match_feedbacks(
            episode.response_times, episode.responses, coaching.times, coaching.feedbacks, half_window_s
        )
    heard = {reference for reference, _ in match.recall_pairs}
    justified = {said for said, _ in match.precision_pairs}
    pairs = sorted({*match.recall_pairs, *((reference, said) for said, reference in match.precision_pairs)})
    exercises = ", ".join(episode.exercises) or "workout"
    duration = max(0.0, episode.end - episode.start)
    return TimelineView(
        title=exercises,
        subtitle=f"video {episode.video_id}, {duration:.1f} s",
        duration_s=duration,
        frames=[seconds for seconds, _ in strip],
        truth=_marks(episode.response_times, episode.responses, heard),
        said=_marks(coaching.times, coaching.feedbacks, justified),
        pairs=pairs,
        status=prediction.status,
        reason=(prediction.reason or "the prediction failed") if failed else "",
        numbers=numbers,
        facets={"video": episode.video_id, "exercise": exercises},
        notes=[note for note in ("" if episode.annotated else NO_TRUTH, problem, *coaching.warnings) if note],
    )


def _marks(times: Sequence[float], texts: Sequence[str], matched: set[int]) -> list[Mark]:
    if len(times) != len(texts):
        raise InputError(f"{len(texts)} feedbacks but {len(times)} times", mend="give one time per feedback")
    return [
        Mark(float(time), text, index in matched) for index, (time, text) in enumerate(zip(times, texts, strict=True))
    ]
