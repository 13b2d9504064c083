"""Prompts, answers, scores and aggregates against lmms-eval's, document by document."""

from __future__ import annotations

import random

import pytest
from golden import find, load_json, load_jsonl
from sightline.metrics.aggregate import Column, point_estimate
from sightline.records.types import Prediction, Sample
from sightline.systems.videosavi.benchmarks import DRAWS, question_from_row, submission_index, verdict_on
from sightline.systems.videosavi.score import LMMS_EVAL, metric_specs, score
from sightline.systems.videosavi.tasks import TASKS

SYSTEM = "videosavi"
FOLDER = find(SYSTEM, "tasks")
META = load_json(SYSTEM, "tasks", "tasks_meta.json") or {}
DOCUMENTS = (
    {path.stem: load_jsonl(SYSTEM, "tasks", path.name) for path in sorted(FOLDER.glob("*.jsonl"))} if FOLDER else {}
)
CASES = [
    pytest.param(task, number, id=f"{SYSTEM}-{task}-{number}")
    for task, rows in DOCUMENTS.items()
    for number in range(len(rows))
]


def seeded(_):
    return random.Random(0)


def judged(task, number):
    row = DOCUMENTS[task][number]
    question = question_from_row(task, row["doc"], number)
    return row, question, verdict_on(question, row["raw_answer"], seeded)


def parsed_as_recorded(task, question, verdict, row):
    benchmark = TASKS[task].benchmark
    if benchmark in ("perceptiontest", "egoschema"):
        return submission_index(question, verdict)
    if task == "tempcompass_yes_no":
        return verdict.choice or False
    if task == "tempcompass_caption_matching":
        return "fail" if verdict.correct is None else int(verdict.correct)
    return verdict.choice or verdict.drawn


@pytest.mark.parametrize(("task", "number"), CASES)
def test_documents(task, number):
    row, question, verdict = judged(task, number)
    assert question.prompt == row["prompt"]
    assert question.target == row["target"]
    assert (verdict.drawn is not None) == row["random_fallback"]
    if TASKS[task].benchmark == "tempcompass":
        assert (verdict.correct is None) == row["judge_called"]
        assert f"{question.group}_accuracy" in row["process_results"]["keys"]
    if "parsed" in row:
        assert parsed_as_recorded(task, question, verdict, row) == row["parsed"]
    assert int(bool(verdict.correct or verdict.drawn_correct)) == row["score"]


@pytest.mark.parametrize("task", [pytest.param(task, id=f"{SYSTEM}-{task}") for task in META])
def test_task_facts(task):
    meta, known = META[task], TASKS[task]
    assert (known.repository, known.config, known.split) == (
        meta["dataset_path"], meta["dataset_name"], meta["test_split"],
    )  # fmt: skip
    assert known.max_new_tokens == meta["generation_kwargs"].get("max_new_tokens", 1024)
    verdicts = [judged(task, number)[2] for number in range(len(DOCUMENTS[task]))]
    assert sum(one.drawn is not None for one in verdicts) == meta["n_random_fallback"]
    assert sum(one.correct is None for one in verdicts) == meta["n_judge"]
    if known.benchmark not in DRAWS:
        assert not any(one.drawn for one in verdicts)


# ----------------------------------------------------------------------------------------- whole benchmarks
def estimates(task, rows, answers):
    """Returns what the room's score rows give for a task: as a whole, and by group of question."""
    questions = [question_from_row(task, row, number) for number, row in enumerate(rows)]
    samples = [Sample(one.id, one.video, one.video, [one.video], 1.0, one.to_json()) for one in questions]
    predictions = [
        Prediction(one.id, "ok", output={"text": text}) for one, text in zip(questions, answers, strict=True)
    ]
    found, absent = score(samples, predictions, generator=seeded)
    name = f"{task}_{LMMS_EVAL}"
    spec = next(spec for spec in metric_specs() if spec.name == name)
    of_task = [row for row in found if row.metric == name]
    assert len(of_task) == len(rows)
    assert name not in absent

    def estimate(chosen):
        return point_estimate(spec, [Column.of([one.value for one in chosen], [one.denominator for one in chosen])])

    groups = {one.group for one in questions}
    by_group = {
        group: estimate([row for row, one in zip(of_task, questions, strict=True) if one.group == group])
        for group in groups
    }
    return estimate(of_task), by_group


def check(task, recorded, rows, answers):
    """Compares with lmms-eval's values: percent for MVBench and TempCompass, fractions for the others."""
    overall, by_group = estimates(task, rows, answers)
    percent = TASKS[task].benchmark in ("mvbench", "tempcompass")
    assert recorded
    for metric, wanted in recorded.items():
        group = metric.removesuffix("_accuracy")
        value = by_group.get(group, overall)
        if value is None:  # nothing was answered: absent here, 0 there
            assert wanted == 0
            continue
        found = value if percent else value / 100
        if metric == "lvb_acc":
            found = round(found, 5)  # the original rounds
        assert found == pytest.approx(wanted, rel=1e-12), metric


@pytest.mark.parametrize("task", [pytest.param(task, id=f"{SYSTEM}-{task}") for task in META])
def test_aggregates(task):
    rows = DOCUMENTS[task]
    check(
        task, META[task]["aggregate_of_process_results"], [row["doc"] for row in rows],
        [row["raw_answer"] for row in rows],
    )  # fmt: skip


INPUTS = load_json(SYSTEM, "evaluate", "inputs.json") or {"docs": {}, "requests": []}
RESULTS = (load_json(SYSTEM, "evaluate", "results.json") or {"results": {}})["results"]


@pytest.mark.parametrize("task", [pytest.param(task, id=f"{SYSTEM}-{task}") for task in INPUTS["docs"]])
def test_a_whole_evaluation(task):
    recorded = {
        name.removesuffix(",none"): value
        for name, value in RESULTS[task].items()
        if name.endswith(",none") and "_stderr" not in name and isinstance(value, int | float)
    }
    check(task, recorded, INPUTS["docs"][task], INPUTS["answers"][task])


@pytest.mark.parametrize("number", [pytest.param(n, id=f"{SYSTEM}-{n}") for n in range(len(INPUTS["requests"]))])
def test_requests(number):
    wanted = INPUTS["requests"][number]
    question = question_from_row(wanted["task"], INPUTS["docs"][wanted["task"]][wanted["doc_id"]], wanted["doc_id"])
    assert question.prompt == wanted["context"]


SAMPLES = load_jsonl(SYSTEM, "evaluate", "samples.jsonl")


@pytest.mark.parametrize("number", [pytest.param(n, id=f"{SYSTEM}-{n}") for n in range(len(SAMPLES))])
def test_logged_samples(number):
    logged = SAMPLES[number]
    task = logged["_task"]
    question = question_from_row(task, INPUTS["docs"][task][logged["doc_id"]], logged["doc_id"])
    assert question.prompt == logged["input"]
    assert str(question.target) == logged["target"]
    verdict = verdict_on(question, logged["filtered_resps"], seeded)
    if "mvbench_accuracy" in logged:
        assert question.gold == logged["mvbench_accuracy"]["gt_answer"]
        assert int(bool(verdict.correct)) == logged["mvbench_accuracy"]["score"]
    if "lvb_acc" in logged:
        assert (verdict.choice, question.gold) == (logged["lvb_acc"]["parsed_pred"], logged["lvb_acc"]["answer"])
    if "submission" in logged and question.server_id:
        assert logged["submission"] == {question.server_id: submission_index(question, verdict)}
