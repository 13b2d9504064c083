"""Pictures of a run as the workflow calls it."""

from __future__ import annotations

from typing import Any

from sightline.records.files import read_json
from sightline.records.rows import read_predictions, read_samples, read_scores, write_parquet
from sightline.records.types import View
from sightline.systems.hoiref.loading import frame_roots, picture_reader
from sightline.systems.hoiref.score_stage import metrics_of
from sightline.systems.hoiref.views import RunNumbers, accuracy_charts, gallery, iou_chart, kinds_chart


def draw_run(
    *,
    data: str,
    frames: list[str],
    dataset: dict[str, Any],
    roots: dict[str, dict[str, str]],
    scoring: dict[str, Any],
    bootstrap: dict[str, Any],
    samples: str,
    predictions: str,
    scores: str,
    answers: str,
    target: str,
) -> dict[str, int]:
    """Draws charts and a gallery of one run.

    Args:
        data: Record of the asset with the annotations.
        frames: Records of the assets with pictures that do not lie beside them.
        dataset, roots: Which split, and where its pictures are.
        scoring, bootstrap: Of the card.
        samples, predictions, scores: Of the run.
        answers: What scoring counted beside the metrics.
        target: Written.
    """
    asked, made = read_samples(samples), read_predictions(predictions)
    numbers = RunNumbers(asked, read_scores(scores), metrics_of(scoring), bootstrap)
    facts, threshold = read_json(answers), scoring["iou_thresholds"][0]
    charts = [*accuracy_charts(numbers, threshold, facts), iou_chart(numbers), kinds_chart(facts["answers"])]
    views = [chart for chart in charts if chart is not None]
    views += gallery(asked, made, numbers, threshold, picture_reader(frame_roots(data, dataset, frames, roots)))
    write_parquet(target, View, views)
    return {"views": len(views), "with_pictures": sum(bool(one.thumbs) for one in views)}
