"""Logs of samples: what is refused, and what a TempCompass line says."""

from __future__ import annotations

import json

import pytest
from sightline.errors import InputError
from sightline.systems.videosavi.benchmarks import question_from_row
from sightline.systems.videosavi.lmms_logs import logged_sample, read_logged

ROW = {"video_id": "3", "question": "q\nA. up\nB. down", "answer": "B. down", "dim": "direction"}


def test_what_nobody_judged_has_no_rating():
    question = question_from_row("tempcompass_multi_choice", ROW, 4)
    line = logged_sample(ROW, question, "it goes down")
    assert line["direction_accuracy"]["rating"] is None
    assert logged_sample(ROW, question, "B")["avg_accuracy"]["rating"] == 1
    assert line["doc"] == ROW
    other = logged_sample(ROW | {"dim": "speed"}, question, "B")
    assert other["doc_hash"] != line["doc_hash"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([{"doc_id": 0}], "not a logged sample"),
        ([["a"]], "not a logged sample"),
        ([{"doc_id": 0, "filtered_resps": "A"}, {"doc_id": 0, "filtered_resps": ["B"]}], "twice"),
    ],
)
def test_files_that_are_no_logs(tmp_path, lines, words):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=words):
        read_logged(path)
