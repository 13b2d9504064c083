import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sightline.errors import NonFiniteError
from sightline.metrics.aggregate import Column, MetricSpec, aggregate, point_estimate
from sightline.metrics.bootstrap import ClusterBootstrap

RATIO = MetricSpec("ratio", "", "ratio_of_sums")
MEAN = MetricSpec("mean", "", "mean")
CLASSES = MetricSpec("classes", "", "class_mean")
F = MetricSpec("f", "", "f_of_ratios", inputs=("precision", "recall"))


def test_point_estimates_by_hand():
    column = Column.of([1, 3, None, 0], [2, 4, 7, 4], ["a", "b", "b", "b"])
    assert point_estimate(RATIO, [column]) == pytest.approx(4 / 10)
    assert point_estimate(MEAN, [column]) == pytest.approx((1 / 2 + 3 / 4 + 0) / 3)
    assert point_estimate(CLASSES, [column]) == pytest.approx((1 / 2 + 3 / 8) / 2)
    precision, recall = Column.of([2], [4]), Column.of([3], [4])
    assert point_estimate(F, [precision, recall]) == pytest.approx(2 * 0.5 * 0.75 / 1.25, abs=1e-11)


def test_silence_is_an_f_of_zero_and_nothing_at_all_is_undefined():
    silent, wanted = Column.of([None], [0]), Column.of([0], [5])
    assert point_estimate(F, [silent, wanted]) == 0.0
    assert point_estimate(F, [silent, silent]) is None
    assert point_estimate(RATIO, [silent]) is None
    assert point_estimate(MEAN, [silent]) is None
    assert point_estimate(CLASSES, [silent]) is None
    assert point_estimate(MEAN, [Column.of([], [])]) is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=8))
def test_weights_mean_repeated_rows(rows):
    values, denominators, repeats = (list(part) for part in zip(*rows, strict=True))
    groups = ["ab"[i % 2] for i in range(len(rows))]
    column = Column.of(values, denominators, groups)
    repeated = [np.repeat(np.asarray(part), repeats).tolist() for part in (values, denominators, groups)]
    for spec in (RATIO, MEAN, CLASSES):
        weighted = aggregate(spec, [column], np.asarray([repeats], dtype=float))[0]
        expected = point_estimate(spec, [Column.of(*repeated)])
        assert (None if np.isnan(weighted) else weighted) == pytest.approx(expected, abs=1e-12)


def test_columns_refuse_what_is_no_number():
    with pytest.raises(NonFiniteError):
        Column.of([float("nan")], [1])
    with pytest.raises(ValueError, match="negative"):
        Column.of([1], [-1])
    with pytest.raises(ValueError, match="unknown"):
        MetricSpec("x", "", "median")
    with pytest.raises(ValueError, match="2 columns"):
        point_estimate(F, [Column.of([1], [1])])


def test_same_seed_same_interval_whatever_the_order_of_rows():
    rng = np.random.Generator(np.random.PCG64(3))
    values, clusters = rng.random(40), [f"v{i % 7}" for i in range(40)]
    order = rng.permutation(40)
    one = ClusterBootstrap(clusters, seed=5).estimate(RATIO, [Column.of(list(values), [1] * 40)])
    two = ClusterBootstrap(clusters, seed=5).estimate(RATIO, [Column.of(list(values), [1] * 40)])
    shuffled = ClusterBootstrap([clusters[i] for i in order], seed=5).estimate(
        RATIO, [Column.of(list(values[order]), [1] * 40)]
    )
    other = ClusterBootstrap(clusters, seed=6).estimate(RATIO, [Column.of(list(values), [1] * 40)])
    assert one == two
    assert (shuffled.ci_low, shuffled.ci_high) == pytest.approx((one.ci_low, one.ci_high), abs=1e-12)
    assert other.ci_low != one.ci_low
    assert one.ci_low < one.value < one.ci_high


def test_whole_clusters_are_drawn():
    clusters = ["a", "a", "a", "b"]
    for block in ClusterBootstrap(clusters, replicates=50).weights():
        assert (block[:, 0] == block[:, 1]).all()
        assert (block[:, 1] == block[:, 2]).all()
        assert (block[:, 0] + block[:, 3] == 2).all()


def test_metrics_share_the_resamples():
    clusters = [f"v{i}" for i in range(9)]
    values = np.random.Generator(np.random.PCG64(0)).random(9)
    bootstrap = ClusterBootstrap(clusters, replicates=200)
    base = bootstrap.replicates(RATIO, [Column.of(list(values), [1] * 9)])
    shifted = bootstrap.replicates(RATIO, [Column.of(list(values + 0.25), [1] * 9)])
    assert np.allclose(shifted - base, 0.25)


def test_blocks_do_not_change_the_result(monkeypatch):
    clusters = [f"v{i % 11}" for i in range(60)]
    column = Column.of(list(np.random.Generator(np.random.PCG64(1)).random(60)), [1] * 60)
    whole = ClusterBootstrap(clusters, replicates=100).replicates(RATIO, [column])
    monkeypatch.setattr("sightline.metrics.bootstrap._CHUNK_CELLS", 7 * 60)
    assert (ClusterBootstrap(clusters, replicates=100).replicates(RATIO, [column]) == whole).all()


def test_no_interval_without_two_clusters_that_count():
    column = Column.of([1, 1, None], [2, 2, 0])
    estimate = ClusterBootstrap(["a", "a", "b"]).estimate(RATIO, [column])
    assert (estimate.value, estimate.ci_low, estimate.ci_high, estimate.clusters) == (0.5, None, None, 1)
    nothing = ClusterBootstrap([]).estimate(RATIO, [Column.of([], [])])
    assert (nothing.value, nothing.ci_low, nothing.clusters) == (None, None, 0)
    off = ClusterBootstrap(["a", "b", "b"], replicates=0).estimate(RATIO, [Column.of([1, 1, 1], [2, 2, 2])])
    assert (off.value, off.ci_low) == (0.5, None)


def test_undefined_replicates_are_dropped_and_counted():
    # Two of three clusters count; a resample of the third alone has nothing to divide by (1 in 27).
    column = Column.of([1, 0, None], [1, 1, 0])
    estimate = ClusterBootstrap(["a", "b", "c"], replicates=2000).estimate(RATIO, [column])
    assert 30 < estimate.dropped_replicates < 130
    assert (estimate.ci_low, estimate.ci_high) == (0.0, 1.0)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.Generator(np.random.PCG64(11))
    covered = 0
    for trial in range(200):
        levels = rng.normal(0.5, 0.1, size=30)
        clusters = np.repeat(np.arange(30), 4)
        values = rng.normal(levels[clusters], 0.05)
        bootstrap = ClusterBootstrap([f"c{c:02d}" for c in clusters], replicates=200, seed=trial)
        estimate = bootstrap.estimate(RATIO, [Column.of(list(values), [1] * len(values))])
        covered += estimate.ci_low <= 0.5 <= estimate.ci_high
    assert 175 <= covered <= 199  # 95 % nominal; resampling rows instead of clusters gives about 140
