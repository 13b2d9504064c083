"""Logs of samples in lmms-eval's form: the same entries, but for the document and its hash."""

from __future__ import annotations

import json
import random

import pytest
from golden import find, load_json, load_jsonl
from sightline.systems.videosavi.benchmarks import question_from_row, verdict_on
from sightline.systems.videosavi.lmms_logs import logged_sample, processed, read_logged
from sightline.systems.videosavi.tasks import TASKS

SYSTEM = "videosavi"
FOLDER = find(SYSTEM, "tasks")
FILES = sorted(FOLDER.glob("*.jsonl")) if FOLDER else []
NAMED = [path.stem for path in FILES if TASKS[path.stem].benchmark != "tempcompass"]  # those are shortened there
LOGGED = load_jsonl(SYSTEM, "evaluate", "samples.jsonl")
DOCS = (load_json(SYSTEM, "evaluate", "inputs.json") or {"docs": {}})["docs"]


def seeded(_):
    return random.Random(0)


@pytest.mark.parametrize("task", [pytest.param(task, id=f"{SYSTEM}-{task}") for task in NAMED])
def test_processed_results(task):
    for number, row in enumerate(load_jsonl(SYSTEM, "tasks", f"{task}.jsonl")):
        question = question_from_row(task, row["doc"], number)
        verdict = verdict_on(question, row["raw_answer"], seeded)
        assert processed(row["doc"], question, row["raw_answer"], verdict) == row["process_results"], number


@pytest.mark.parametrize("task", [pytest.param(t, id=f"{SYSTEM}-{t}") for t in sorted({r["_task"] for r in LOGGED})])
def test_logs_are_read_and_written_alike(task, tmp_path):
    lines = [row for row in LOGGED if row["_task"] == task]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in reversed(lines)), encoding="utf-8")
    found = read_logged(path)
    assert len(found) == len(lines)
    for line in lines:
        question = question_from_row(task, DOCS[task][line["doc_id"]], line["doc_id"])
        prompt, answer = found[line["doc_id"]]
        assert prompt == question.prompt
        written = logged_sample(DOCS[task][line["doc_id"]], question, answer, seeded)
        ours = {key: value for key, value in written.items() if key not in ("doc", "doc_hash", "resps")}
        assert ours == {key: value for key, value in line.items() if key not in ("_task", "doc_hash", "token_counts")}
