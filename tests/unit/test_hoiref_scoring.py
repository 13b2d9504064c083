"""Scores on bad input, and what the corrected protocol corrects."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sightline.errors import InputError
from sightline.metrics.boxes import ZeroUnionError, clip_boxes, iou, match_boxes, published_iou
from sightline.records.types import Prediction
from sightline.systems.hoiref.annotations import Interaction, Referral
from sightline.systems.hoiref.exchange import import_predictions, released_tables
from sightline.systems.hoiref.judging import CORRECTED, PUBLISHED, PublishedStop, judge, question_place
from sightline.systems.hoiref.records import Answer, Question
from sightline.systems.hoiref.samples import build_samples
from sightline.systems.hoiref.score import METRICS, ScoreSettings, answer_kinds, metric_specs, score

BOX = st.lists(st.floats(-50, 150), min_size=4, max_size=4)


def refer(part="epic", noun="cup", box=(0, 0, 960, 540), size=(1920, 1080)):
    return Question(
        part, "ref", "k", "v/f.jpg", "Where is the cup", noun=noun, boxes=[list(box)], width=size[0], height=size[1]
    )


def name(noun):
    return Question("epic", "iden", "k", "v/f.jpg", "{<1><2><3><4>}", noun=noun, boxes=[[1, 2, 3, 4]])


def hands(boxes):
    tagged = "[refer] Where are the hands of the person?"
    return Question("visor", "hoi", "k", "v/f.jpg", tagged[8:], tagged=tagged, boxes=boxes, answer="x")


@given(BOX, BOX)
def test_overlap_is_symmetric_and_bounded(first, second):
    a, b = np.sort(np.array(first).reshape(2, 2), 0).ravel(), np.sort(np.array(second).reshape(2, 2), 0).ravel()
    value = float(iou(a, b))
    assert 0 <= value <= 1
    assert value == float(iou(b, a))
    assert (clip_boxes(a, (100, 80)) >= 0).all()
    assert (clip_boxes(a, (100, 80))[[1, 3]] <= 80).all()


def test_a_union_of_nothing_stops_only_the_published_form():
    assert float(iou([5, 5, 4, 9], [7, 7, 6, 9])) == 0.0
    with pytest.raises(ZeroUnionError):
        published_iou([5, 5, 4, 9], [7, 7, 6, 9])


def test_no_box_serves_two():
    left, right = [0, 0, 10, 10], [20, 0, 30, 10]
    assert match_boxes([left, right], [left]) == [1.0, 0.0]
    assert match_boxes([left, right], [right, left]) == [1.0, 1.0]
    assert match_boxes([left, right], []) == [0.0, 0.0]


def test_the_corrected_protocol():
    spray = "{<90><90><99><99>}{<0><0><50><50>}"
    assert judge(refer(), Answer(spray), PUBLISHED).correct(0.5) == 1
    assert judge(refer(), Answer(spray), CORRECTED).correct(0.5) == 0
    ego = refer("ego4d", size=(1440, 1080), box=(0, 0, 720, 540))
    twice = "{<0><0><50><50>}{<0><0><50><50>}"
    assert judge(ego, Answer(twice), PUBLISHED).ious[0] < judge(ego, Answer(twice), CORRECTED).ious[0] == 1.0
    assert judge(refer(), Answer("nothing"), PUBLISHED).ious == ()
    assert judge(refer(), Answer("nothing"), CORRECTED).ious == (0.0,)
    assert judge(refer(), Answer("{<-50><-50><50><50>}"), CORRECTED).ious == (1.0,)
    pair = hands([[0, 0, 960, 540], [960, 540, 1920, 1080]])
    one_right = "{<0><0><50><50>}<delim>{<0><0><10><10>}"
    assert judge(pair, Answer(one_right), PUBLISHED).correct(0.5) == 0
    assert judge(pair, Answer(one_right), CORRECTED).correct(0.5) == 1


@pytest.mark.parametrize(
    ("noun", "said", "published", "corrected"),
    [
        ("chopping board", "Chopping board.", False, True),
        ("tap", "tap,", False, True),
        ("tap", "the tap.", True, True),
        ("tap", "taps", False, False),
        ("left hand", "Left hand of the person", True, True),
        ("left hand", "left hand right hand", True, False),
        ("Knife", "knife", False, True),
    ],
)
def test_names(noun, said, published, corrected):
    assert judge(name(noun), Answer(said), PUBLISHED).noun is published
    assert judge(name(noun), Answer(said), CORRECTED).noun is corrected


def test_boxes_of_another_spelling_count_alike():
    genuine = judge(refer(), Answer("{<0><0><50><50>}"), PUBLISHED)
    other = judge(refer(), Answer("[0, 0, 960, 540]", boxes=[[0, 0, 960, 540]]), PUBLISHED)
    assert other.ious == genuine.ious
    assert judge(refer(), Answer("I cannot", boxes=[]), PUBLISHED).kind == "no_box"


def test_an_unknown_question_is_an_error():
    asked = Question("visor", "hoi", "k", "v/f.jpg", "x", tagged="[refer] Where is the pan?", boxes=[[1, 2, 3, 4]])
    with pytest.raises(PublishedStop) as caught:
        question_place(asked)
    assert caught.value.kind == "ValueError"


def small_set():
    split = {
        "epic": [Referral("a", "P01/f1.jpg", "left hand", [0, 0, 960, 540])],
        "visor": [
            Interaction("h", "P02/f1.jpg", "[vqa] What hand is holding the cup?", "left hand"),
            Interaction("u", "P02/f1.jpg", "no tag", "x"),
        ],
    }
    return build_samples(split).samples


def said(samples, **texts):
    return [
        Prediction(one.id, "ok", output=Answer(texts.get(one.payload["task"], "")).to_json())
        if texts.get(one.payload["task"]) != "failed"
        else Prediction(one.id, "failed", "the picture is missing")
        for one in samples
    ]


def test_rows_of_a_small_set():
    samples = small_set()
    predictions = said(samples, ref="{<0><0><50><50>}", iden="failed", hoi="left hand")
    rows, absent = score(samples, predictions)
    assert {row.metric for row in rows} | set(absent) == {spec.name for spec in METRICS}
    table = {(row.id, row.metric): row for row in rows}
    assert table["epic-a-ref", "published_epic_box_accuracy_iou50"].value == 100
    assert table["epic-a-iden", "published_epic_noun_accuracy"].status == "error"
    assert table["visor-u-hoi", "published_final_noun_accuracy"].status == "error"
    assert "published_ego4d_noun_accuracy" in absent
    assert answer_kinds(samples, predictions) == {"epic": {"ok": 1}}
    assert len(metric_specs(ScoreSettings(iou_thresholds=(0.25, 0.5)))) > len(METRICS)
    assert score([], []) == ([], {})


@pytest.mark.parametrize("change", ["doubled", "missing", "unknown"])
def test_predictions_must_fit_the_samples(change):
    samples = small_set()
    predictions = said(samples, ref="", iden="", hoi="")
    if change == "doubled":
        predictions.append(predictions[0])
    elif change == "missing":
        predictions.pop()
    else:
        predictions.append(Prediction("other", "ok", output=Answer("").to_json()))
    with pytest.raises(InputError):
        score(samples, predictions)


def test_released_files_there_and_back(tmp_path):
    samples = [one for one in small_set() if one.id != "visor-u-hoi"]
    predictions = said(samples, ref="r", iden="i", hoi="h")
    tables = released_tables(samples, predictions)
    assert tables["epic"]["a"] == {"question": "Where is the left hand", "ref_answer": "r", "iden_answer": "i"}
    files = {}
    for part, table in tables.items():
        files[part] = tmp_path / f"{part}.json"
        files[part].write_text(json.dumps(table))
    assert import_predictions(samples, files) == predictions
    files["epic"].write_text('{"a": {"ref_answer": "r", "iden_answer": "i"}, "b": {}}')
    with pytest.raises(InputError, match="no such id"):
        import_predictions(samples, files)
    files["epic"].write_text('{"a": {"ref_answer": "r"}}')
    with pytest.raises(InputError, match="field iden_answer"):
        import_predictions(samples, files)
    files["epic"].write_text('{"a": {}, "a": {}}')
    with pytest.raises(InputError, match="twice"):
        import_predictions(samples, files)
