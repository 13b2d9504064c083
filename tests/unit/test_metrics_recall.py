"""Ranks, recalls and class means: ties, absent classes, bad input, and equality with the slow forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sightline.errors import InputError, NonFiniteError
from sightline.metrics.aggregate import AGGREGATES, Column, MetricSpec, point_estimate
from sightline.metrics.bootstrap import ClusterBootstrap
from sightline.metrics.recall import (
    class_mean_recall,
    class_recalls,
    ranks_of,
    recall_bounds,
    top1_meancls,
    topk_accuracy,
    topk_bounds,
)


def _slow_recall(scores, labels, k, classes):
    """RULSTM's way: everything sorted, class by class."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    recalls = []
    for one in sorted(set(labels.tolist()) if classes is None else set(labels.tolist()) & set(classes)):
        rows = labels == one
        recalls.append((order[rows] == one).any(axis=1).mean())
    return 100 * np.mean(recalls) if recalls else float("nan")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(2, 30), st.integers(1, 7), st.booleans())
def test_recall_equals_the_slow_form(seed, rows, classes, k, coarse):
    generator = np.random.default_rng(seed)
    scores = generator.standard_normal((rows, classes))
    scores = np.round(scores) if coarse else scores
    labels = generator.integers(0, classes, rows)
    subset = generator.choice(classes, generator.integers(1, classes), replace=False).tolist()
    ranks = ranks_of(scores, labels)
    for wanted in (None, subset):
        found = class_mean_recall(ranks, k, wanted)
        assert found == pytest.approx(_slow_recall(scores, labels, k, wanted), abs=1e-9, nan_ok=True)
        low, high = recall_bounds(ranks, k, wanted)
        assert np.isnan(found) or low - 1e-9 <= found <= high + 1e-9
    assert topk_bounds(ranks, k)[0] <= topk_accuracy(ranks, k) <= topk_bounds(ranks, k)[1]


def test_among_equal_scores_the_lower_class_comes_first():
    scores = np.array([[1.0, 1.0, 1.0, 0.0]])
    assert [int(ranks_of(scores, [label]).rank[0]) for label in range(4)] == [0, 1, 2, 3]
    assert topk_bounds(ranks_of(scores, [1]), 1) == (0.0, 100.0)


def test_classes_without_rows():
    ranks = ranks_of(np.eye(4)[[0, 0, 1]], [0, 0, 2])
    assert class_mean_recall(ranks, 1) == pytest.approx(50.0)  # classes 0 and 2 alone
    assert top1_meancls(ranks) == pytest.approx(25.0)  # 1 of 4
    assert np.isnan(class_mean_recall(ranks, 1, [3]))
    assert np.isnan(topk_accuracy(ranks, 1, [1]))
    assert class_recalls(ranks, 1)[1].tolist() == [2, 0, 1, 0]


@pytest.mark.parametrize("place", [0, 2])
def test_nan_is_refused_with_a_count(place):
    scores = np.random.default_rng(0).standard_normal((5, 4))
    scores[[1, 3], place] = np.nan
    with pytest.raises(NonFiniteError, match="2 of 5 rows"):
        ranks_of(scores, [0] * 5)


def test_labels_outside_are_refused_with_a_count():
    with pytest.raises(InputError, match=r"1 of 3 labels lie outside 0\.\.3"):
        ranks_of(np.zeros((3, 4)), [0, -1, 2])
    with pytest.raises(InputError, match="do not fit"):
        ranks_of(np.zeros((3, 4)), [0])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 6), st.integers(1, 5))
def test_class_mean_equals_a_loop_under_any_weights(seed, rows, classes, replicates):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    values = generator.integers(0, 2, rows) * 100.0
    denominators = (generator.random(rows) < 0.8).astype(float)
    weights = generator.integers(0, 3, (replicates, rows)).astype(float)
    column = Column.of(list(values * denominators), list(denominators), [str(label) for label in labels])
    found = AGGREGATES["class_mean"]([column], weights)
    for row, weight in zip(found, weights, strict=True):
        means = [
            (weight * column.values)[labels == one].sum() / total
            for one in range(classes)
            if (total := (weight * denominators)[labels == one].sum()) > 0
        ]
        assert row == pytest.approx(np.mean(means) if means else np.nan, abs=1e-9, nan_ok=True)
    number = Column.of([float(classes)] * rows, [1.0] * rows)
    of_all = AGGREGATES["class_mean_of_all"]([column, number], weights)
    present = [sum((weight * denominators)[labels == one].sum() > 0 for one in range(classes)) for weight in weights]
    np.testing.assert_allclose(of_all, found * np.array(present) / classes, atol=1e-9)


def test_a_gain_is_paired():
    labels = ["a", "a", "b", "b"]
    ours, theirs = (
        Column.of(values, [1.0] * 4, labels) for values in ([100.0, 0.0, 100.0, 100.0], [0.0, 0.0, 100.0, 0.0])
    )
    spec = MetricSpec("gain", "", "class_mean_gain", ("ours", "theirs"))
    assert point_estimate(spec, [ours, theirs]) == pytest.approx(50.0)
    found = ClusterBootstrap(["v1", "v2", "v3", "v4"], replicates=200).estimate(spec, [ours, ours])
    assert (found.value, found.ci_low, found.ci_high) == (0.0, 0.0, 0.0)
