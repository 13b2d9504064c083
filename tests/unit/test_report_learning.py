"""Loss curves in the report."""

from __future__ import annotations

from pathlib import Path

import pytest
from sightline.errors import InputError
from sightline.records.files import write_json
from sightline.report.learning import HEIGHT, WIDTH, read_curves
from sightline.report.pages import write_comparison


def record(folder: Path, losses: list[float], **changes) -> Path:
    curve = [{"step": number, "loss": loss} for number, loss in enumerate(losses, start=1)]
    row = {"name": "a <b> training", "samples": ["x", "y"], "ended_by": "end", "curve": curve, **changes}
    write_json(folder / "training.json", row)
    return folder / "training.json"


def test_a_curve_falls_from_top_left_to_bottom_right(tmp_path):
    (curve,) = read_curves([record(tmp_path, [4.0, 2.0, 1.0])])
    assert curve.points == f"0.0,0.0 {WIDTH / 2:.1f},{HEIGHT / 2:.1f} {WIDTH:.1f},{HEIGHT * 3 / 4:.1f}"
    assert (curve.first, curve.last, curve.top) == (4.0, 1.0, 4.0)
    assert curve.facts == "3 steps on 2 samples"


def test_long_curves_are_averaged_and_keep_their_ends(tmp_path):
    (curve,) = read_curves([record(tmp_path, [float(10000 - step) for step in range(10000)])])
    points = curve.points.split()
    assert len(points) <= 320
    assert points[0].endswith(",0.0")
    assert curve.first > 9000
    assert curve.last < 1000


def test_the_page_shows_it_and_runs_nothing(tmp_path):
    page = tmp_path / "comparison.html"
    write_comparison([], page, read_curves([record(tmp_path, [2.0, 1.0])]))
    text = page.read_text()
    assert "<polyline points=" in text
    assert "a &lt;b&gt; training" in text
    write_comparison([], page)
    assert "polyline points" not in page.read_text()


@pytest.mark.parametrize("changes", [{"curve": []}, {"curve": [{}]}, {"samples": None}])
def test_what_is_no_record_is_refused(tmp_path, changes):
    with pytest.raises(InputError, match=r"training\.json"):
        read_curves([record(tmp_path, [1.0], **changes)])
