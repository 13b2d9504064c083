"""What the coach said in each video of a run, in the form the QEVD competition takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sightline.errors import InputError
from sightline.records.files import write_json
from sightline.records.rows import read_predictions, read_samples
from sightline.records.types import Prediction, Sample
from sightline.systems.fitcoach.records import Coaching, Episode


def submission(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Joins the episodes of each video.

    Returns:
        Per video, sorted by its path: `video_file`, as the dataset writes it; `feedbacks`; and
        `feedback_timestamps` in seconds on the dataset's clock (that of the annotations' field of this name;
        for videos without annotations, from the first frame), ascending. A video of which every prediction
        failed has none.

    Raises:
        InputError: A sample has no prediction, or a payload is malformed.
    """
    by_id = {prediction.id: prediction for prediction in predictions}
    said: dict[str, list[tuple[float, str]]] = {}
    for sample in samples:
        episode = Episode.from_json(sample.payload, item=sample.id)
        if sample.id not in by_id:
            raise InputError("the sample has no prediction", item=sample.id, mend="predict again")
        prediction = by_id[sample.id]
        lines = said.setdefault(episode.video, [])
        if prediction.status == "ok":
            coaching = Coaching.from_json(prediction.output, item=sample.id)
            lines += [
                (episode.start + time, text) for time, text in zip(coaching.times, coaching.feedbacks, strict=True)
            ]
    return [
        {
            "video_file": video,
            "feedbacks": [text for _, text in sorted(lines, key=lambda line: line[0])],
            "feedback_timestamps": sorted(time for time, _ in lines),
        }
        for video, lines in sorted(said.items())
    ]


def write_submission(*, samples: str | Path, predictions: str | Path, target: str | Path) -> dict[str, int]:
    """Writes the submission of one run."""
    read, made = read_samples(samples), read_predictions(predictions)
    rows = submission(read, made)
    write_json(target, rows)
    return {
        "videos": len(rows),
        "feedbacks": sum(len(row["feedbacks"]) for row in rows),
        "failed": sum(prediction.status != "ok" for prediction in made),
    }
