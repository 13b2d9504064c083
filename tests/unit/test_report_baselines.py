"""Whether a model beats its baselines: paired differences in the metrics file, and plain words on the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sightline.metrics.aggregate import Column, MetricSpec
from sightline.metrics.bootstrap import ClusterBootstrap
from sightline.report.baselines import baseline_rows
from sightline.report.pages import write_comparison

from tests.unit.test_report_summary import BOOTSTRAP, run, silent, spoken, write

SPEC = MetricSpec("m", "a ratio", "ratio_of_sums")


def test_a_difference_is_paired() -> None:
    values = np.random.default_rng(0).uniform(0, 1, 12)
    clusters = [f"c{number // 2}" for number in range(12)]
    sampler = ClusterBootstrap(clusters, replicates=400)
    high, low = (Column.of((values + shift).tolist(), [1.0] * 12) for shift in (0.1, 0.0))
    found = sampler.difference(SPEC, [high], [low])
    assert (found.value, found.ci_low, found.ci_high) == pytest.approx((0.1, 0.1, 0.1))
    alone = sampler.estimate(SPEC, [high])
    assert alone.ci_low is not None and alone.ci_high is not None  # noqa: PT018
    assert alone.ci_high - alone.ci_low > 0.1
    empty = Column.of([None] * 12, [0.0] * 12)
    assert sampler.difference(SPEC, [high], [empty]).value is None
    assert ClusterBootstrap(clusters, replicates=0).difference(SPEC, [high], [low]).ci_low is None


def both(folder: Path, **changed: Any) -> list[dict[str, Any]]:
    runs = [run(variant="trained", to_beat="before", demo=True), run(variant="before", demo=True)]
    return write(folder, runs, [spoken(), silent()], **changed)["runs"]


def test_the_metrics_file_says_how_far_a_run_is_above_its_baseline(tmp_path: Path) -> None:
    trained, before = both(tmp_path)
    assert before["against"] is None
    assert trained["against"]["variant"] == "before"
    differences = trained["against"]["differences"]
    assert differences["f"]["value"] == pytest.approx(trained["metrics"]["f"]["value"])  # silence reaches 0
    assert differences["f"]["ci_low"] > 0
    assert set(differences) == {"recall", "f"}  # the silent run has no precision, no text and no judge
    without = both(tmp_path, bootstrap={**BOOTSTRAP, "replicates": 0})[0]["against"]["differences"]
    assert without["f"] == {"value": differences["f"]["value"], "ci_low": None, "ci_high": None}


def test_a_baseline_that_was_not_run_is_left_out(tmp_path: Path) -> None:
    (alone,) = write(tmp_path, [run(to_beat="before")], [spoken()])["runs"]
    assert alone["against"] is None


def content(low: float, high: float) -> dict[str, Any]:
    def metric(value: float, **more: float) -> dict[str, Any]:
        return {"value": value, "higher_is_better": True, **more}

    bounds = {"ci_low": low, "ci_high": high}
    trained = {
        "x": metric(0.6),
        "x_shuffled": metric(0.4),
        "x_gain": metric(0.2, **bounds),
        "y": metric(0.5),
    }
    against = {"variant": "v0", "variant_title": "before", "differences": {"x": {"value": 0.6, **bounds}}}
    names = {"dataset": "d", "variant_title": "after"}
    return {
        "runs": [
            {**names, "variant": "v", "metrics": trained, "against": against},
            {**names, "variant": "v0", "metrics": {"x": metric(0.0)}, "against": None},
        ]
    }


@pytest.mark.parametrize(
    ("low", "high", "words"), [(0.1, 0.3, "above"), (-0.1, 0.5, "the interval holds 0"), (-0.3, -0.1, "below")]
)
def test_a_difference_is_put_into_words(low: float, high: float, words: str) -> None:
    before, elsewhere = baseline_rows(content(low, high))
    assert (before.metric, before.baseline, before.reached, before.difference) == ("x", "before", "0.000", "+0.600")
    assert (elsewhere.baseline, elsewhere.reached, elsewhere.difference) == (
        "the same words, other videos", "0.400", "+0.200",
    )  # fmt: skip
    assert {before.why, elsewhere.why} == {words}


def test_the_page_shows_the_differences(tmp_path: Path) -> None:
    runs = both(tmp_path)
    for entry in runs:
        for name in ("f_shuffled", "f_gain"):
            entry["metrics"][name] = {**entry["metrics"]["f"], "value": 0.1}
    full = {
        "title": "System",
        "metric_order": ["f"],
        "runs": runs,
        "provenance": {"bootstrap": BOOTSTRAP},
    }
    write_comparison([("system", full)], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "Do the words come from the video?" in page
    assert "the same words, other videos" in page
    for entry in runs:
        entry["against"] = None
    write_comparison([("system", full)], tmp_path / "page.html")
    assert "Do the words come" not in (tmp_path / "page.html").read_text()
