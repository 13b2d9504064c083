"""Scoring and submitting runs as the workflow calls them; loads no model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sightline.metrics.aggregate import MetricSpec
from sightline.records.files import read_json, write_json
from sightline.records.rows import read_predictions, read_samples, write_parquet
from sightline.records.types import Prediction, Sample, Score
from sightline.systems.sgear.fuse import RunScores
from sightline.systems.sgear.logits import scores_of
from sightline.systems.sgear.records import Anticipation, SgearPayload
from sightline.systems.sgear.score import metric_specs, score
from sightline.systems.sgear.stages import HELD_OUT, classes_of, read_split
from sightline.systems.sgear.stored import StoredLogits
from sightline.systems.sgear.submission import answers, check_document, document, write_zip

log = logging.getLogger(__name__)
_NO_WINDOW = "nothing was seen that long before the action"
_NOT_ASKED = "this run was not asked at this anticipation time"


def horizon_metric(seconds: float, k: int) -> str:
    """Returns the name of class-mean recall of actions at an anticipation time, e.g. `action_recall5_at_0_5s`."""
    return f"action_recall{k}_at_{seconds:g}s".replace(".", "_")


def _horizon_rows(seconds: float) -> str:
    return f"action_top_at_{seconds:g}s".replace(".", "_")


def metrics_of(scoring: Mapping[str, Any]) -> tuple[MetricSpec, ...]:
    """Returns the metrics the card asks for, those at further anticipation times last."""
    k = scoring["k"]
    return (
        *metric_specs(k, scoring["groups"]),
        *(
            MetricSpec(
                horizon_metric(seconds, k),
                f"class-mean recall@{k} of actions, seen up to {seconds:g} s before they begin",
                "class_mean",
                (_horizon_rows(seconds),),
                unit="%",
            )
            for seconds in scoring["horizons"]
        ),
    )


def score_run(
    *,
    data: str,
    dataset: dict[str, Any],
    samples: str,
    predictions: str,
    logits: list[str],
    reference_predictions: list[str],
    reference_logits: list[str],
    scoring: dict[str, Any],
    scores_target: str,
    absent_target: str,
) -> dict[str, int]:
    """Scores one run, and beside it the run its gain is measured against."""
    table = classes_of(data, dataset)
    asked, made = read_samples(samples), read_predictions(predictions)
    with StoredLogits(logits) as stored:
        own = stored.scores(made, table)
    reference: RunScores | None = None
    if reference_predictions:
        wanted = {one.id for one in asked}
        others = [one for one in read_predictions(reference_predictions[0]) if one.id in wanted]
        with StoredLogits(reference_logits) as stored:
            reference = stored.scores(others, table)
    rows, absent = score(asked, made, own, k=scoring["k"], groups=scoring["groups"], reference=reference)
    for seconds in scoring["horizons"]:
        found = horizon_scores(asked, made, seconds, scoring["k"])
        if found is None:
            absent[horizon_metric(seconds, scoring["k"])] = _NOT_ASKED
        else:
            rows += found
    for name, reason in absent.items():
        log.info("%s is absent: %s", name, reason)
    write_parquet(scores_target, Score, rows)
    write_json(absent_target, absent)
    return {"samples": len(asked), "rows": len(rows), "absent": len(absent)}


def horizon_scores(
    samples: Sequence[Sample], predictions: Sequence[Prediction], seconds: float, k: int
) -> list[Score] | None:
    """Returns whether the right action is among the k best at a further anticipation time, in percent, per sample.

    None when no prediction says anything about that time. At most the five stored classes are looked at.
    """
    key = f"{seconds:g}"
    by_id = {one.id: one for one in predictions}
    outputs = {one.id: Anticipation.from_json(one.output, item=one.id) for one in predictions if one.status == "ok"}
    if not any(key in one.horizons for one in outputs.values()):
        return None
    rows = []
    for sample in samples:
        label = SgearPayload.from_json(sample.payload, item=sample.id).action
        top = outputs[sample.id].horizons.get(key, []) if sample.id in outputs else []
        facts = (sample.id, _horizon_rows(seconds), str(label))
        if sample.id not in outputs:
            rows.append(Score(*facts, None, 0.0, "error", by_id[sample.id].reason))
        elif label < 0:
            rows.append(Score(*facts, None, 0.0, "unscored", "the class is unknown"))
        elif not top or top[0] < 0:
            rows.append(Score(*facts, None, 0.0, "unscored", _NO_WINDOW))
        else:
            rows.append(Score(*facts, 100.0 * (label in top[:k]), 1.0, "scored"))
    return rows


def submit_run(
    *,
    data: str,
    dataset: dict[str, Any],
    samples: str,
    plan: str,
    predictions: str,
    logits: list[str],
    settings: dict[str, Any],
    target: str,
) -> dict[str, int]:
    """Writes the zip that the challenge's server takes; rows that were dropped stand in it as zeros.

    Raises:
        InputError: The dataset has no challenge, a row has no logits, or the document breaks the server's rules.
    """
    split = read_split(data, dataset)
    asked = read_samples(samples)
    payloads = {one.id: SgearPayload.from_json(one.payload, item=one.id) for one in asked}
    with StoredLogits(logits) as stored:
        scores = scores_of(read_predictions(predictions), stored, split.table, expected=[one.id for one in asked])
    scores = _evened(scores)
    narration = {name: one.narration_id for name, one in payloads.items()}
    discarded = [row["item"] for row in read_json(plan)["dropped"] if row["reason"] != HELD_OUT]
    challenge = "action_anticipation" if settings["windows"]["tau_a"] >= 0 else "action_recognition"
    content = document(answers(scores, split.table, narration, discarded), form=split.form, challenge=challenge)
    keys = [row.narration_id for row in split.segments]
    check_document(content, form=split.form, verbs=len(split.table.verbs), nouns=len(split.table.nouns), keys=keys)
    write_zip(target, {"test.json": content})
    return {"rows": len(content["results"]), "zeros": len(discarded)}


def _evened(scores: RunScores) -> RunScores:
    """Returns the scores as float64, which JSON writes without surprises."""
    return RunScores(scores.uids, {name: np.asarray(found, np.float64) for name, found in scores.spaces.items()})
