"""Pictures of a run as the workflow calls it."""

from __future__ import annotations

import base64
import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sightline.assets.asset_record import locate
from sightline.errors import InputError, SightlineError, VideoError
from sightline.records.files import read_json
from sightline.records.rows import read_predictions, read_samples, read_scores, write_parquet
from sightline.records.types import Sample, View
from sightline.systems.sgear.annotations import find_video
from sightline.systems.sgear.records import SgearPayload
from sightline.systems.sgear.score_stage import horizon_metric, metrics_of
from sightline.systems.sgear.stages import classes_of
from sightline.systems.sgear.views import (
    RunNumbers,
    Strip,
    chosen_examples,
    confused_bars,
    example_view,
    gain_bars,
    group_bars,
    horizon_curve,
)
from sightline.video.decode import iter_frames, scan_video

log = logging.getLogger(__name__)
_THUMB_HEIGHT, _JPEG_QUALITY, _PICTURES = 96, 72, 8
_NO_VIDEO = "No pictures: the video is not here, features alone were read."


def draw_run(
    *,
    data: str,
    dataset: dict[str, Any],
    video_assets: list[str],
    videos: list[dict[str, str]],
    scoring: dict[str, Any],
    bootstrap: dict[str, Any],
    windows: dict[str, Any],
    names: dict[str, str],
    samples: str,
    predictions: str,
    scores: str,
    target: str,
) -> dict[str, int]:
    """Draws examples and charts of one run.

    Args:
        data: Record of the asset with the annotations.
        dataset: Which split.
        video_assets: Records of the assets with videos, as far as they can be had.
        videos: Folders of videos, `asset` and `file`.
        scoring, bootstrap: Of the card.
        windows: Of the variant.
        names: `own` and, where a gain is measured, `reference`: titles of the variants.
        samples, predictions, scores: Of the run.
        target: Written.
    """
    table = classes_of(data, dataset)
    asked, made = read_samples(samples), {one.id: one for one in read_predictions(predictions)}
    numbers = RunNumbers(asked, read_scores(scores), metrics_of(scoring), bootstrap)
    k = scoring["k"]
    horizons = {seconds: horizon_metric(seconds, k) for seconds in scoring["horizons"]}
    charts = [
        group_bars(numbers, k),
        horizon_curve(numbers, k, windows["tau_a"], horizons),
        gain_bars(numbers, k, names["own"], names["reference"]) if names.get("reference") else None,
        confused_bars(asked, list(made.values()), table),
    ]
    found = _videos(asked, dataset["layout"], _roots(video_assets, videos))
    examples = chosen_examples(asked, set(found))
    strips = _strips(examples, found)
    views = [chart for chart in charts if chart is not None]
    views += [
        example_view(one, made[one.id], table, numbers.of_sample(one.id), strips.get(one.id, ([], [], _NO_VIDEO)))
        for one in examples
    ]
    write_parquet(target, View, views)
    return {"views": len(views), "with_pictures": sum(bool(one.thumbs) for one in views)}


def _roots(records: Sequence[str], videos: Sequence[dict[str, str]]) -> list[Path]:
    by_asset = {str(read_json(path)["asset"]): Path(path) for path in records}
    return [locate(by_asset[one["asset"]], one["file"]) for one in videos if one["asset"] in by_asset]


def relative_video(payload: SgearPayload, layout: str) -> str:
    """Returns where a row's video lies below a root of its dataset."""
    if layout in ("ek100", "ek55"):
        return f"{payload.participant_id}/{payload.video_id}.MP4"
    return f"{payload.video_id}.{'mp4' if layout == 'egtea' else 'avi'}"


def _videos(samples: Sequence[Sample], layout: str, roots: Sequence[Path]) -> dict[str, Path]:
    """Returns video id to file, of the videos that are here."""
    found: dict[str, Path] = {}
    if not roots:
        return found
    for sample in samples:
        if sample.group not in found:
            path, here = find_video(relative_video(SgearPayload.from_json(sample.payload), layout), roots)
            if here:
                found[sample.group] = path
    return found


def _strips(examples: Sequence[Sample], videos: dict[str, Path]) -> dict[str, Strip]:
    """Takes pictures out of each video once, for all its examples."""
    by_video: dict[str, list[Sample]] = defaultdict(list)
    for one in examples:
        if one.group in videos:
            by_video[one.group].append(one)
    strips: dict[str, Strip] = {}
    for video, members in sorted(by_video.items()):
        try:
            strips |= _strips_of(videos[video], members)
        except (VideoError, InputError) as error:
            log.warning("%s: no pictures: %s", video, error)
            strips |= {one.id: ([], [], f"No pictures: {_plainly(error)}.") for one in members}
    return strips


def _plainly(error: SightlineError) -> str:
    return error.problem.rstrip(".")


def _strips_of(path: Path, members: Sequence[Sample]) -> dict[str, Strip]:
    times = scan_video(path)[1]
    chosen: dict[str, list[tuple[int, float]]] = {}
    for one in members:
        payload = SgearPayload.from_json(one.payload, item=one.id)
        moments = np.linspace(max(payload.start, 0.0), payload.end, _PICTURES)
        frames = sorted({int(np.abs(times - moment).argmin()) for moment in moments})
        chosen[one.id] = [(frame, float(times[frame] - payload.action_start)) for frame in frames]
    wanted = sorted({frame for frames in chosen.values() for frame, _ in frames})
    pictures = {frame: thumbnail(picture) for frame, picture in iter_frames(path, wanted)}
    return {
        name: ([seconds for _, seconds in frames], [pictures[frame] for frame, _ in frames], "")
        for name, frames in chosen.items()
    }


def thumbnail(picture: np.ndarray) -> str:
    """Returns a small base64 JPEG of a picture, uint8 [height, width, 3] BGR.

    Raises:
        VideoError: It cannot be written.
    """
    image = np.ascontiguousarray(picture)
    width = max(1, round(image.shape[1] * _THUMB_HEIGHT / image.shape[0]))
    small = cv2.resize(image, (width, _THUMB_HEIGHT), interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not done:
        raise VideoError("a frame could not be written as JPEG")
    return base64.b64encode(data.tobytes()).decode("ascii")
