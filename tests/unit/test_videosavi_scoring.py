"""Readers of answers in corners the golden documents do not reach, whole runs, files and missing videos."""

from __future__ import annotations

import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sightline.errors import ConfigError, InputError
from sightline.metrics.aggregate import Column, point_estimate
from sightline.metrics.choice import (
    caption_verdict,
    careful_letter,
    earliest_mention,
    judged_caption_verdict,
    judged_verdict,
    last_mention,
    letter_or_draw,
    mvbench_letter,
)
from sightline.records.types import Prediction
from sightline.systems.videosavi.benchmarks import document_generator, question_from_row, submission_index, verdict_on
from sightline.systems.videosavi.samples import build_samples
from sightline.systems.videosavi.score import EMPTY, METRICS, OTHER_PART, UNJUDGED, score
from sightline.systems.videosavi.tasks import BENCHMARKS, TASKS


@pytest.mark.parametrize(
    ("text", "letter"),
    [("b. left", "B"), ("B.", "B"), ("a man walks", "A"), ("I", None), ("(C)", "C"), ("1,000 d", "D"), ("C\nD", "C")],
)
def test_mvbench_answers(text, letter):
    assert mvbench_letter(text) == letter


def test_only_so_many_periods_go():
    assert mvbench_letter("x" + "." * 32 + "b") is None  # "xb"
    assert mvbench_letter("x" + "." * 33 + "b") == "B"  # one period is left and parts them


def test_option_texts_are_searched_in_long_answers_alone():
    options = ["a cat sleeps", "a dog runs"]
    assert last_mention("in the end a dog runs", options) == "B"
    assert last_mention("a dog runs", options) is None
    assert last_mention("first a dog runs, and later a cat sleeps", options) == "A"
    assert earliest_mention("i think a. a cat sleeps or b. a dog runs", ["A. a cat sleeps", "B. a dog runs"]) == "A"


@pytest.mark.parametrize(
    ("text", "letter"),
    [("A man runs", None), ("A", "A"), ("(B)", "B"), ("C. a dog", "C"), ("The answer is D.", "D"), ("Because", None)],
)
def test_careful_reading(text, letter):
    assert careful_letter(text) == letter


@pytest.mark.parametrize(
    ("reply", "verdict"), [("Correct.", True), ("It is Incorrect", False), ("It is Correct", True), ("maybe", None)]
)
def test_a_judges_reply(reply, verdict):
    assert judged_verdict(reply) is verdict


def test_a_judges_choice_for_a_caption():
    assert judged_caption_verdict("Reasoning: it says so\nAnswer: B. runs", "B. runs") is True
    assert judged_caption_verdict("Answer: A. sits or B. runs", "A. sits") is False
    assert judged_caption_verdict("", "A. sits") is None


def test_a_caption_without_a_label_is_refused():
    with pytest.raises(InputError, match="no label"):
        caption_verdict("A", "Which?\na dog runs", "Caption A: a dog runs")


def test_draws_depend_on_the_question_alone():
    rows = [nextqa_row(answer=number % 5) for number in range(40)]
    questions = [question_from_row("nextqa_mc_test", row, number) for number, row in enumerate(rows)]
    drawn = [verdict_on(question, "no idea").drawn for question in questions]
    assert drawn == [verdict_on(question, "no idea").drawn for question in reversed(questions)][::-1]
    assert set(drawn) == set("ABCDE")
    assert letter_or_draw("B", "ABC", random.Random(0)) == "B"
    assert document_generator(questions[0]).random() != document_generator(questions[1]).random()


def nextqa_row(answer=0, video="7", **more):
    return {"video": video, "question": "why", "answer": answer, "qid": "1", "type": "CW"} | {
        f"a{option}": f"reason {option}" for option in range(5)
    } | more  # fmt: skip


def mvbench_row(answer="left", video="a.mp4"):
    return {"video": video, "question": "where", "candidates": ["left", "right"], "answer": answer}


def tempcompass_row(video="3"):
    return {"video_id": video, "question": "q\nA. up\nB. down", "answer": "B. down", "dim": "direction"}


ROWS = {
    "mvbench_moving_count": [mvbench_row(), mvbench_row("right"), mvbench_row("right", "b.mp4")],
    "mvbench_object_shuffle": [mvbench_row()],
    "nextqa_mc_test": [nextqa_row(), nextqa_row(1, 8)],
    "tempcompass_multi_choice": [tempcompass_row(), tempcompass_row()],
}


@pytest.fixture
def folder(tmp_path):
    for task, rows in ROWS.items():
        (tmp_path / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for row in rows:
            name = str(row.get("video", row.get("video_id")))
            file = tmp_path / TASKS[task].folder / (name if name.endswith(".mp4") else f"{name}.mp4")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"")
    return tmp_path


def value(rows, name):
    spec = next(spec for spec in METRICS if spec.name == name)
    chosen = [row for row in rows if row.metric == spec.inputs[0]]
    column = Column.of(
        [row.value for row in chosen], [row.denominator for row in chosen], [row.group for row in chosen]
    )
    return point_estimate(spec, [column])


def test_a_run_over_several_benchmarks(folder):
    samples = build_samples(folder, folder, list(ROWS)).samples
    assert len({sample.group for sample in samples}) == 6  # a.mp4 lies in two folders
    answers = iter(["A", "", "no idea", "(A)", "A. reason 0", "no idea", "B. down", "who knows"])
    predictions = [Prediction(sample.id, "ok", output={"text": next(answers)}) for sample in samples]
    rows, absent = score(samples, predictions)
    assert value(rows, "mvbench_accuracy") == pytest.approx(50)
    assert value(rows, "mvbench_accuracy_macro") == pytest.approx((100 / 3 + 100) / 2)
    assert value(rows, "mvbench_moving_count_accuracy_lmms_eval") == pytest.approx(50)
    assert value(rows, "nextqa_accuracy") == pytest.approx(50)
    assert value(rows, "nextqa_unread_answers") == pytest.approx(50)
    assert value(rows, "tempcompass_multi_choice_accuracy") == pytest.approx(100)
    assert value(rows, "tempcompass_multi_choice_accuracy_lmms_eval") == pytest.approx(50)
    reasons = {row.reason for row in rows if row.status == "unscored"}
    assert {OTHER_PART, UNJUDGED, EMPTY} <= reasons
    assert "egoschema_accuracy" in absent
    assert "tempcompass_yes_no_accuracy" in absent
    assert not {row.metric for row in rows} & absent.keys()
    metrics = {row.metric for row in rows}
    assert len(rows) == len(metrics) * len(samples)


def test_a_judges_answer_and_a_failed_prediction_count_as_what_they_are(folder):
    samples = build_samples(folder, folder, ["tempcompass_multi_choice"]).samples
    predictions = [
        Prediction(samples[0].id, "failed", "out of memory"),
        Prediction(samples[1].id, "ok", output={"text": "it goes down", "letter": None}),
    ]
    rows, _ = score(samples, predictions, judged={samples[1].id: "Correct"})
    assert value(rows, "tempcompass_accuracy") == 100
    assert {row.reason for row in rows if row.status == "error"} == {"out of memory"}


def test_letters_beside_texts(folder):
    samples = build_samples(folder, folder, ["nextqa_mc_test"]).samples
    predictions = [Prediction(one.id, "ok", output={"text": "A", "letter": "B"}) for one in samples]
    rows, _ = score(samples, predictions)
    assert value(rows, "nextqa_letter_accuracy") == 50
    assert value(rows, "nextqa_letter_agreement") == 0


def test_missing_videos_are_named_and_capital_suffixes_found(folder):
    (folder / "nextqa/NExTVideo/7.mp4").rename(folder / "nextqa/NExTVideo/7.MP4")
    (folder / "nextqa/NExTVideo/8.mp4").unlink()
    found = build_samples(folder, folder, ["nextqa_mc_test"])
    assert [sample.media for sample in found.samples] == [["nextqa/NExTVideo/7.MP4"]]
    assert found.missing == {"nextqa_mc_test-00001": "nextqa/NExTVideo/8.mp4"}
    assert found.dropped()[0]["reason"] == "the video is missing"


def test_mvbenchs_old_layout_is_recognised(folder):
    old = folder / "mvbench_video/star/Charades_v1_480"
    old.mkdir(parents=True)
    (old / "a.mp4").write_bytes(b"")
    pq.write_table(pa.Table.from_pylist([mvbench_row()]), folder / "action_sequence.parquet")
    found = build_samples(folder, folder, ["mvbench_action_sequence"])
    assert found.layouts == {"mvbench_action_sequence": "uncut2024"}
    assert len(found.samples) == 1


@pytest.mark.parametrize(
    ("task", "row", "words"),
    [
        ("mvbench_moving_count", mvbench_row("up"), "none of the candidates"),
        ("nextqa_mc_test", nextqa_row(5), "none of 5 options"),
        ("nextqa_mc_test", {"question": "why"}, "missing"),
        ("perceptiontest_val_mc", {"question": "q", "options": "abc", "answer_id": 0, "video_name": "v"}, "list"),
        ("tempcompass_caption_matching", tempcompass_row(), "no label"),
    ],
)
def test_malformed_rows(task, row, words):
    with pytest.raises(InputError, match=words):
        question_from_row(task, row, 3)


def test_names_that_lead_elsewhere_and_unknown_tasks(folder):
    (folder / "nextqa_mc_test.jsonl").write_text(json.dumps(nextqa_row(video="../../secret")) + "\n")
    with pytest.raises(InputError, match="leads out"):
        build_samples(folder, folder, ["nextqa_mc_test"])
    with pytest.raises(ConfigError, match="unknown"):
        build_samples(folder, folder, ["nextqa"])
    with pytest.raises(InputError, match="are not there"):
        build_samples(folder, folder, ["egoschema_subset"])


def test_the_full_egoschema_is_submitted_not_scored():
    row = {"question": "q", "video_idx": "v1", "option": [f"{letter}. x" for letter in "ABCDE"], "answer": None}
    question = question_from_row("egoschema", row, 0)
    verdict = verdict_on(question, "D")
    assert verdict.correct is None
    assert (question.server_id, submission_index(question, verdict)) == ("v1", 3)


def test_twenty_tasks_of_mvbench():
    assert sum(task.benchmark == "mvbench" for task in TASKS.values()) == 20
    assert set(BENCHMARKS) == {"mvbench", "perceptiontest", "egoschema", "nextqa", "longvideobench", "tempcompass"}
