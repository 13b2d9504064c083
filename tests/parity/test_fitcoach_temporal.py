"""Temporal matching against the released evaluator, row by row and accumulated."""

from __future__ import annotations

import numpy as np
import pytest
from golden import load_jsonl
from sightline.metrics.aggregate import Column, MetricSpec, point_estimate
from sightline.metrics.temporal import match_feedbacks

ROWS = load_jsonl("fitcoach", "d_temporal", "temporal_matching.jsonl")
SPEC = MetricSpec("temporal_f", "", "f_of_ratios", inputs=("temporal_precision", "temporal_recall"))


def _match(row):
    return match_feedbacks(row["gt_timestamps"], row["gt"], row["pred_timestamps"], row["pred"])


def _f_score(matches) -> float:
    precision = Column.of([len(m.precision_pairs) for m in matches], [m.predictions for m in matches])
    recall = Column.of([len(m.recall_pairs) for m in matches], [m.references for m in matches])
    return point_estimate(SPEC, [precision, recall]) or 0.0


@pytest.mark.parametrize(
    "index", [pytest.param(i, id=f"fitcoach-temporal-{i}-{row['kind']}") for i, row in enumerate(ROWS)]
)
def test_pairs_equal_the_released_matching(index):
    row = ROWS[index]
    match = _match(row)
    assert [list(pair) for pair in match.recall_pairs] == row["recall_pairs"]
    assert [list(pair) for pair in match.precision_pairs] == row["precision_pairs_pred_to_gt"]
    assert [[row["gt"][g], row["pred"][p]] for g, p in match.recall_pairs] == row["matched"]
    assert _f_score([match]) == pytest.approx(row["f_alone"], abs=1e-12)


@pytest.mark.parametrize("rows", [pytest.param(ROWS, id="fitcoach-temporal-running")] if ROWS else [])
def test_accumulated_f_equals_the_running_score(rows):
    matches = []
    for row in rows:
        matches.append(_match(row))
        assert _f_score(matches) == pytest.approx(row["running_f"], abs=1e-12)
        totals = row["running"]
        assert sum(m.references for m in matches) == totals["total_num_gt_feedbacks"]
        assert sum(m.predictions for m in matches) == totals["total_num_pred_feedbacks"]
        assert sum(len(m.recall_pairs) for m in matches) == totals["total_matched_gt_feedbacks"]
        assert sum(len(m.precision_pairs) for m in matches) == totals["total_matched_pred_feedbacks"]
    assert np.isfinite(_f_score(matches))
