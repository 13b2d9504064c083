"""The metrics file: what is counted, what is absent and why, what is set beside the paper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sightline.errors import InputError, StoreError
from sightline.metrics.aggregate import MetricSpec
from sightline.records.files import write_json
from sightline.records.rows import write_parquet
from sightline.records.types import Sample, Score
from sightline.report.summary import as_text, summarise

P, R = "precision", "recall"
SPECS = (
    MetricSpec(P, "matched over said", "ratio_of_sums"),
    MetricSpec(R, "matched over wanted", "ratio_of_sums"),
    MetricSpec("f", "F of both", "f_of_ratios", (P, R)),
    MetricSpec("text", "mean over pairs", "ratio_of_sums"),
    MetricSpec("judge", "a judge", "ratio_of_sums"),
)
BOOTSTRAP = {"replicates": 200, "seed": 0, "confidence": 0.95}
PAPER = {
    "reference": "A paper",
    "rows": {
        "row": {
            "dataset": "real",
            "source": "Table 1",
            "metrics": {
                "f": {"value": 0.5, "tolerance": 0.02, "note": None},
                "judge": {"value": 2.5, "tolerance": 0.1, "note": None},
            },
            "deviations": ["another decoder"],
        }
    },
}


def run(dataset: str = "real", variant: str = "v", **changed: Any) -> dict[str, Any]:
    return {
        "dataset": dataset,
        "variant": variant,
        "dataset_title": "Data",
        "dataset_note": None,
        "variant_title": "Variant",
        "weights_kind": "released",
        "demo": False,
        "paper_row": "row",
        **changed,
    }


def scored(identifier: str, metric: str, value: float, denominator: float) -> Score:
    return Score(identifier, metric, "g", value, denominator, "scored")


def nothing(identifier: str, metric: str, status: str = "unscored", reason: str = "no matched pair") -> Score:
    return Score(identifier, metric, "g", None, 0.0, status, reason)


def spoken(count: int = 6) -> list[Score]:
    """Every second sample says one thing, which matches; each should have said two."""
    rows = []
    for number in range(count):
        name, speaks = f"s{number}", number % 2 == 0
        rows.append(scored(name, P, 1, 1) if speaks else nothing(name, P, reason="nothing said"))
        rows.append(scored(name, R, float(speaks), 2))
        rows.append(scored(name, "text", 0.25, 1) if speaks else nothing(name, "text"))
    return rows


def silent(count: int = 6) -> list[Score]:
    names = [f"s{number}" for number in range(count)]
    return [
        row
        for name in names
        for row in (nothing(name, P, reason="nothing said"), scored(name, R, 0, 2), nothing(name, "text"))
    ]


def write(folder: Path, runs: list[dict], rows: list[list[Score]], count: int = 6, **changed: Any) -> dict[str, Any]:
    samples, scores, absent = [], [], []
    for entry, scores_of_run in zip(runs, rows, strict=True):
        place = folder / entry["dataset"] / entry["variant"]
        members = [Sample(f"s{n}", f"g{n // 2}", f"c{n // 2}", [], 1.0, {}) for n in range(count)]
        write_parquet(place / "samples.parquet", Sample, members)
        write_parquet(place / "scores.parquet", Score, scores_of_run)
        write_json(place / "absent.json", changed.pop("reasons", {"judge": "no judge is configured"}))
        samples.append(place / "samples.parquet")
        scores.append(place / "scores.parquet")
        absent.append(place / "absent.json")
    target = folder / "sys_metrics.json"
    given = {"paper": PAPER, "bootstrap": BOOTSTRAP, "partial": None, "specs": SPECS, **changed}
    summarise(title="System", runs=runs, samples=samples, scores=scores, absent=absent, target=target, **given)
    return json.loads(target.read_text())


def test_values_counts_and_interval(tmp_path: Path) -> None:
    entry = write(tmp_path, [run()], [spoken()])["runs"][0]
    metrics = entry["metrics"]
    assert metrics[P]["value"] == 1.0
    assert (metrics[P]["n"], metrics[P]["n_unscored"], metrics[P]["n_error"]) == (3, 3, 0)
    assert metrics[P]["coverage"] == 0.5
    assert metrics[R]["value"] == pytest.approx(3 / 12)
    assert metrics[R]["items"] == 12
    assert metrics["f"]["value"] == pytest.approx(0.4)
    assert metrics["f"]["n"] == 6
    assert metrics["text"]["value"] == 0.25
    assert metrics["text"]["ci_low"] <= 0.25 <= metrics["text"]["ci_high"]
    assert metrics[R]["implementation"] == "matched over wanted"
    assert entry["n_samples"] == 6
    assert entry["n_failed"] == 0


def test_silence_scores_f_zero_and_leaves_text_absent(tmp_path: Path) -> None:
    metrics = write(tmp_path, [run()], [silent()])["runs"][0]["metrics"]
    assert metrics["f"]["value"] == 0.0
    assert metrics["f"]["n"] == 6
    assert metrics["text"] == {"absent": "no matched pair (6 of 6 samples)"}
    assert metrics[P] == {"absent": "nothing said (6 of 6 samples)"}
    assert metrics["judge"] == {"absent": "no judge is configured"}


def test_paper_stands_beside_its_own_dataset_only(tmp_path: Path) -> None:
    runs = [
        run(),
        run("other"),
        run(variant="demo", demo=True, weights_kind="demo"),
        run(variant="none", paper_row=None),
    ]
    found = write(tmp_path, runs, [spoken()] * 4)["runs"]
    beside = found[0]["metrics"]["f"]["paper"]
    assert beside["value"] == 0.5
    assert beside["difference"] == pytest.approx(-0.1)
    assert beside["within"] is False
    assert beside["source"] == "Table 1"
    assert found[0]["paper"]["deviations"] == ["another decoder"]
    assert found[0]["metrics"]["text"]["paper_note"] == "not published for this metric"
    for entry, words in zip(found[1:], ("another dataset", "demo model", "nothing published"), strict=True):
        assert entry["metrics"]["f"]["paper"] is None
        assert words in entry["metrics"]["f"]["paper_note"]
        assert "0.5" not in json.dumps(entry["paper"])


def test_within_tolerance_and_partial(tmp_path: Path) -> None:
    close = json.loads(json.dumps(PAPER))
    close["rows"]["row"]["metrics"]["f"]["value"] = 0.42
    assert write(tmp_path, [run()], [spoken()], paper=close)["runs"][0]["metrics"]["f"]["paper"]["within"] is True
    partial = write(tmp_path, [run()], [spoken()], paper=close, partial=6)["runs"][0]
    assert partial["partial"] == 6
    assert partial["metrics"]["f"]["paper"]["within"] is None
    assert "partial" in partial["metrics"]["f"]["paper_note"]


def test_failed_samples_are_counted_not_scored(tmp_path: Path) -> None:
    rows = [
        row if row.id != "s0" else Score(row.id, row.metric, "g", None, 0.0, "error", "out_of_memory")
        for row in spoken()
    ]
    entry = write(tmp_path, [run()], [rows])["runs"][0]
    assert entry["n_failed"] == 1
    assert entry["metrics"]["text"]["n_error"] == 1
    assert entry["metrics"]["text"]["n"] == 2


def test_equal_inputs_give_equal_bytes_whatever_the_row_order(tmp_path: Path) -> None:
    write(tmp_path / "a", [run()], [spoken()])
    write(tmp_path / "b", [run()], [spoken()[::-1]])
    first, second = ((tmp_path / name / "sys_metrics.json").read_bytes() for name in "ab")
    assert first == second
    assert b"NaN" not in first
    assert str(tmp_path).encode() not in first


def test_no_replicates_no_interval(tmp_path: Path) -> None:
    metrics = write(tmp_path, [run()], [spoken()], bootstrap={**BOOTSTRAP, "replicates": 0})["runs"][0]["metrics"]
    assert metrics["f"]["value"] == pytest.approx(0.4)
    assert metrics["f"]["ci_low"] is None


def test_run_without_samples(tmp_path: Path) -> None:
    metrics = write(tmp_path, [run()], [[]], count=0)["runs"][0]["metrics"]
    assert metrics["f"] == {"absent": "the run has no sample"}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda rows: rows[3:], "rows for 5 samples"),
        (lambda rows: [*rows, rows[0]], "two rows of"),
        (lambda rows: [*rows, scored("s9", P, 1, 1)], "s9"),
        (lambda rows: [*rows, *(scored(f"s{n}", "stray", 1, 1) for n in range(6))], "stray"),
    ],
    ids=["missing", "doubled", "of no sample", "of no metric"],
)
def test_rows_that_do_not_fit_are_refused(tmp_path: Path, damage: Any, words: str) -> None:
    with pytest.raises(StoreError, match=words):
        write(tmp_path, [run()], [damage(spoken())])


def test_malformed_reasons_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.json"):
        write(tmp_path, [run()], [spoken()], reasons={"judge": 3})


def test_what_was_left_out_is_counted_by_reason(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    rows = [{"video_id": str(n), "item": "", "reason": "no feedback" if n else "skipped"} for n in range(3)]
    write_json(plan, {"dropped": rows})
    found = write(tmp_path, [run()], [spoken()], plans=[plan])["runs"][0]["dropped"]
    assert found == [{"reason": "no feedback", "count": 2}, {"reason": "skipped", "count": 1}]


def test_as_text_says_value_interval_and_reason(tmp_path: Path) -> None:
    write(tmp_path, [run()], [spoken()])
    text = as_text(tmp_path / "sys_metrics.json")
    assert "0.400" in text
    assert "paper 0.500" in text
    assert "not computed: no judge is configured" in text
