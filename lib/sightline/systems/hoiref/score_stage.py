"""Scoring one run as the workflow calls it; loads no model."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from sightline.errors import InputError
from sightline.metrics.aggregate import MetricSpec
from sightline.records.files import write_json
from sightline.records.rows import read_predictions, read_samples, write_parquet
from sightline.records.types import Score
from sightline.systems.hoiref.annotations import TRAIN_FILES, TrainRecord, read_conversations
from sightline.systems.hoiref.blind import CENTRE, FREQUENT, baseline_metrics, baseline_rows, count_blind
from sightline.systems.hoiref.loading import annotations_folder
from sightline.systems.hoiref.records import Question
from sightline.systems.hoiref.score import ScoreSettings, answer_kinds, metric_specs, score

log = logging.getLogger(__name__)
_WHAT = {
    CENTRE: "a box of mean size in the middle of every picture",
    FREQUENT: "the commonest box of the training split for every picture",
}


def score_settings(scoring: dict[str, Any]) -> ScoreSettings:
    """Returns the metric settings of the card."""
    return ScoreSettings(tuple(scoring["iou_thresholds"]), tuple(scoring["protocols"]))


def metrics_of(scoring: dict[str, Any]) -> tuple[MetricSpec, ...]:
    """Returns the metrics the card asks for: the original's, the corrected ones, baselines and what is over them."""
    specs = list(metric_specs(score_settings(scoring)))
    for baseline, metrics in baseline_metrics(scoring["iou_thresholds"]).items():
        what = _WHAT.get(baseline, "the commonest name of the training split for every question")
        for source, name in metrics.items():
            specs.append(MetricSpec(name, f"{source} of {what}", "ratio_of_sums", unit="%"))
            specs.append(
                MetricSpec(f"over_{name}", f"{source} minus that of {what}, same questions", "ratio_of_sums", unit="%")
            )
    return tuple(specs)


def score_run(
    *,
    samples: str,
    predictions: str,
    counted: list[str],
    counted_dataset: dict[str, Any],
    scoring: dict[str, Any],
    scores_target: str,
    absent_target: str,
    answers_target: str,
) -> dict[str, int]:
    """Scores one run beside answers without looking.

    Args:
        samples, predictions: Of the run.
        counted: Record of the asset with the training split, or nothing.
        counted_dataset: That split.
        scoring: Of the card.
        scores_target: Written: rows.
        absent_target: Written: metric -> why there is none.
        answers_target: Written: answers by kind, the baselines' answers, pictures shared with the training split.
    """
    asked, made = read_samples(samples), read_predictions(predictions)
    rows, absent = score(asked, made, score_settings(scoring))
    facts: dict[str, Any] = {"answers": answer_kinds(asked, made), "baselines": None, "shared_pictures": {}}
    names = [name for table in baseline_metrics(scoring["iou_thresholds"]).values() for name in table.values()]
    if counted:
        records = _training_records(counted[0], counted_dataset)
        blind = count_blind(records)
        rows += baseline_rows(asked, rows, blind, scoring["iou_thresholds"])
        facts["baselines"], facts["shared_pictures"] = asdict(blind), _shared(asked, records)
    there = {row.metric for row in rows}
    reason = "no question asks for it" if counted else "the training split is not here, so nothing is counted on it"
    absent |= {one: reason for name in names for one in (name, f"over_{name}") if one not in there}
    for name, why in absent.items():
        log.warning("%s is absent: %s", name, why)
    write_parquet(scores_target, Score, rows)
    write_json(absent_target, absent)
    write_json(answers_target, facts)
    return {"samples": len(asked), "rows": len(rows), "absent": len(absent)}


def _training_records(counted: str, dataset: dict[str, Any]) -> list[TrainRecord]:
    folder = annotations_folder(counted, dataset)
    files = {part: folder / name for part, name in TRAIN_FILES.items() if (folder / name).is_file()}
    if not files:
        raise InputError("no training file of HOI-QA here", file=folder, mend="correct scoring.baselines_from")
    return [record for part, path in files.items() for record in read_conversations(path, part)]


def _shared(samples: list[Any], records: list[TrainRecord]) -> dict[str, dict[str, int]]:
    """Returns for each part its pictures, and how many of them training shows too."""
    seen = {record.image for record in records}
    parts: dict[str, set[str]] = {}
    for sample in samples:
        question = Question.from_json(sample.payload, item=sample.id)
        parts.setdefault(question.part, set()).add(question.image)
    return {part: {"pictures": len(images), "shared": len(images & seen)} for part, images in sorted(parts.items())}
