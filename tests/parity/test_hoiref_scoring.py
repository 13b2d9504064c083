"""Boxes and the whole evaluation against the original's helper and evaluator, its failures among them."""

from __future__ import annotations

import numpy as np
import pytest
from golden import find, load_json, load_jsonl
from hoiref_data import SYSTEM
from sightline.metrics.boxes import ZeroUnionError, best_published_ious, published_iou, rescale_truncating
from sightline.records.types import Prediction
from sightline.systems.hoiref.annotations import read_interactions, read_referrals
from sightline.systems.hoiref.boxes import parse_boxes, parse_many
from sightline.systems.hoiref.judging import PublishedStop
from sightline.systems.hoiref.published import evaluate_published
from sightline.systems.hoiref.records import Answer
from sightline.systems.hoiref.samples import build_samples
from sightline.systems.hoiref.score import ScoreSettings, metric_specs, score

PARSER = load_jsonl(SYSTEM, "parser_cases.jsonl")
TABLES = load_json(SYSTEM, "iou_and_normalise.json") or {}
FOLDER = find(SYSTEM, "evaluate")
RUNS = [
    pytest.param(path.name, number, id=f"hoiref-{path.name}-{number}")
    for path in (sorted(FOLDER.iterdir()) if FOLDER else [])
    for number in range(len(load_json(SYSTEM, "evaluate", path.name, "expected.json") or []))
]


def check_iou(found, wanted):
    if isinstance(wanted, dict):
        with pytest.raises(ZeroUnionError):
            found()
    else:
        assert np.abs(found() - np.array(wanted)).max() < 1e-12


@pytest.mark.parametrize("number", range(len(PARSER)), ids=lambda number: f"hoiref-text{number}")
def test_parser(number):
    case = PARSER[number]
    boxes = parse_boxes(case["text"])
    assert boxes == case["boxes"]
    for name, wanted in case.items():
        kind, _, width = name.rpartition("_")
        if kind not in ("px", "iou", "multi_iou"):
            continue
        pixels = rescale_truncating(np.array(boxes), (100, 100), (int(width), 1080))
        if kind == "px":
            assert pixels[0].tolist() == wanted
        elif kind == "iou":
            check_iou(lambda pixels=pixels: published_iou(case["gt"], pixels[0]), wanted)
        else:
            check_iou(lambda pixels=pixels: published_iou(case["gt"], pixels), wanted)


def test_all_answers_at_once_hoiref():
    texts = [case["text"] for case in PARSER]
    boxes, owner = parse_many(texts)
    if not texts:
        return
    widths = {name.rpartition("_")[2] for case in PARSER for name in case if name.startswith("iou_")}
    for width in widths:
        sizes = np.full((len(texts), 2), (int(width), 1080))
        found, stops = best_published_ious(boxes, owner, np.array([case["gt"] for case in PARSER]), sizes)
        for case, value, stopped in zip(PARSER, found, stops, strict=True):
            several = case.get(f"multi_iou_{width}")
            wanted = case.get(f"iou_{width}", max(several) if isinstance(several, list) else several)
            assert stopped == isinstance(wanted, dict)
            if wanted is not None and not stopped:
                assert abs(value - wanted) < 1e-12


@pytest.mark.parametrize("case", TABLES.get("iou", []), ids=lambda case: f"hoiref-iou-{case['a']}-{case['b']}")
def test_iou(case):
    check_iou(lambda: published_iou(case["a"], case["b"]), case["iou"])


def test_normalise_hoiref():
    for case in TABLES.get("bb_normalize", []):
        assert rescale_truncating(case["bbox"], case["original"], case["new"]).tolist() == case["out"]


def inputs(scenario):
    path = find(SYSTEM, "evaluate", scenario)
    said = {
        "epic": load_json(SYSTEM, "evaluate", scenario, "pred.json"),
        "ego4d": load_json(SYSTEM, "evaluate", scenario, "pred_ego4d.json"),
        "visor": load_json(SYSTEM, "evaluate", scenario, "pred_hoi.json"),
    }
    epic, ego4d = read_referrals(path / "epic_test.json"), read_referrals(path / "ego4d_test.json")
    return epic, ego4d, read_interactions(path / "hoi.json"), said


def settings_of(run):
    arguments = dict(zip(run["args"][::2], run["args"][1::2], strict=True))
    return float(arguments.get("--iou_thresh", 0.5))


def numbers_of_lines(lines):
    """Returns the values the original printed before it stopped, in order."""
    return [float(line.partition(": ")[2].partition(";")[0]) for line in lines if "Accuracy" in line or "Mean" in line]


@pytest.mark.parametrize(("scenario", "number"), RUNS)
def test_evaluation(scenario, number):
    run = load_json(SYSTEM, "evaluate", scenario, "expected.json")[number]
    arguments = inputs(scenario)
    if run["returncode"] == 0:
        assert evaluate_published(*arguments, threshold=settings_of(run)) == run["numbers"]
        return
    with pytest.raises(PublishedStop) as caught:
        evaluate_published(*arguments, threshold=settings_of(run))
    kind, _, text = run["error"].partition(": ")
    assert caught.value.kind == kind
    if kind != "ZeroDivisionError":
        assert text.split(". ")[0].split(":")[0] in caught.value.problem
    printed = [entry["value"] for name, entry in caught.value.numbers.items() if "Wrong" not in name]
    assert printed == numbers_of_lines(run["stdout_lines"])


def fits_rows(scenario, number):
    """Says whether a run ended well and has one answer per question: rows hold no answer to nothing."""
    run = load_json(SYSTEM, "evaluate", scenario, "expected.json")[number]
    ids = [row["id"] for row in load_json(SYSTEM, "evaluate", scenario, "hoi.json")]
    said = load_json(SYSTEM, "evaluate", scenario, "pred_hoi.json")
    return run["returncode"] == 0 and sorted(ids) == sorted(said)


ROWS = [run for run in RUNS if fits_rows(*run.values)]


@pytest.mark.parametrize(("scenario", "number"), ROWS)
def test_score_rows_add_up_to_the_same_numbers(scenario, number):
    run = load_json(SYSTEM, "evaluate", scenario, "expected.json")[number]
    epic, ego4d, interactions, said = inputs(scenario)
    threshold = settings_of(run)
    samples = build_samples({"epic": epic, "ego4d": ego4d, "visor": interactions}).samples
    fields = {"ref": "ref_answer", "iden": "iden_answer", "hoi": "answer"}
    predictions = [
        Prediction(
            sample.id,
            "ok",
            output=Answer(
                said[sample.payload["part"]][sample.payload["key"]][fields[sample.payload["task"]]]
            ).to_json(),
        )
        for sample in samples
    ]
    settings = ScoreSettings(iou_thresholds=(threshold,))
    rows, absent = score(samples, predictions, settings)
    assert not absent
    found = {}
    for row in rows:
        top, bottom = found.get(row.metric, (0.0, 0.0))
        found[row.metric] = (top + (row.value or 0.0), bottom + row.denominator)
    assert set(found) == {spec.name for spec in metric_specs(settings)}
    for label, entry in run["numbers"].items():
        top, bottom = found[settings.published_name(label, threshold)]
        if "Wrong" in label:
            assert round(top / 100) == entry["value"]
            continue
        assert round(top / bottom, 2) == pytest.approx(entry["value"], abs=0.0101)
        assert bottom == entry.get("total", entry.get("count", bottom))
        if "correct" in entry:
            assert round(top / 100) == entry["correct"]
