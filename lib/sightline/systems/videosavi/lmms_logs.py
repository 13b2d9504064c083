"""lmms-eval's logs of samples: written from our answers so that its tools read them, read so that old runs compare.

Unlike lmms-eval's own, a written line holds the document and its true hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sightline.errors import InputError
from sightline.records.files import to_json
from sightline.records.rows import read_lines
from sightline.systems.videosavi.benchmarks import (
    Generator,
    Verdict,
    document_generator,
    submission_index,
    verdict_on,
)
from sightline.systems.videosavi.records import BenchmarkQuestion
from sightline.systems.videosavi.tasks import TASKS

Row = Mapping[str, Any]


def processed(row: Row, question: BenchmarkQuestion, answer: str, verdict: Verdict) -> dict[str, Any]:
    """Returns what lmms-eval's `process_results` gives for a document, drawn options among it.

    TempCompass answers that no rule reads have a rating of None here, where lmms-eval writes 0.
    """
    text, benchmark = answer.strip(), TASKS[question.task].benchmark
    letter = verdict.choice or verdict.drawn
    if benchmark == "mvbench":
        score = int(bool(verdict.correct))
        return {"mvbench_accuracy": {"pred_answer": text, "gt_answer": question.gold, "score": score}}
    if benchmark == "perceptiontest":
        given = {name: row[name] for name in ("video_name", "question")}
        right = {"answer_id": int(row["answer_id"]), "correct": int(bool(verdict.correct))}
        return {"accuracy": {**given, "pred_id": submission_index(question, verdict), **right}}
    if benchmark == "egoschema":
        index = submission_index(question, verdict)
        return {"submission": {question.server_id: index}, "score": {"pred": index, "ground_truth": row.get("answer")}}
    if benchmark == "nextqa":
        return {"exact_match": letter == question.gold}
    if benchmark == "longvideobench":
        given = {name: row[name] for name in ("id", "duration_group", "question_category")}
        return {
            "lvb_acc": {**given, "answer": question.gold, "parsed_pred": letter},
            "submission": {row["id"]: text},
        }
    rating = None if verdict.correct is None else int(verdict.correct)
    rated = {
        "video_id": row["video_id"], "question": row["question"], "gt-answer": question.gold,
        "video-llm-prediction": text, "match_success": verdict.correct is not None, "rating": rating,
        "dim": row["dim"],
    }  # fmt: skip
    return {"avg_accuracy": rated, f"{row['dim']}_accuracy": rated}


def logged_sample(
    row: Row, question: BenchmarkQuestion, answer: str, generator: Generator = document_generator
) -> dict[str, Any]:
    """Returns one line of a `..._samples_<task>.jsonl`.

    Args:
        row: The benchmark's own row.
        question: Made of it.
        answer: What the model wrote.
        generator: Of the random fall-back.
    """
    return {
        "doc_id": question.number,
        "doc": dict(row),
        "target": str(question.target),
        "filtered_resps": answer.strip(),
        "resps": [[answer]],
        "doc_hash": hashlib.sha256(to_json(dict(row)).encode()).hexdigest(),
        "input": question.prompt,
        **processed(row, question, answer, verdict_on(question, answer, generator)),
    }


def read_logged(path: str | Path) -> dict[int, tuple[str, str]]:
    """Reads a log of samples, lmms-eval's or ours, in any order of lines.

    Returns:
        Number of the document to the prompt as logged and the answer, for a comparison with one's own questions.

    Raises:
        InputError: A line lacks its number or answer, or a document stands twice.
    """
    found: dict[int, tuple[str, str]] = {}
    for line, entry in read_lines(path):
        number = entry.get("doc_id") if isinstance(entry, dict) else None
        answer = entry.get("filtered_resps") if isinstance(entry, dict) else None
        if isinstance(answer, list) and len(answer) == 1:
            answer = answer[0]
        if not isinstance(number, int) or not isinstance(answer, str):
            raise InputError(
                "not a logged sample", file=path, item=f"line {line}", field="doc_id, filtered_resps",
                mend="give a ..._samples_<task>.jsonl of lmms-eval with --log_samples",
            )  # fmt: skip
        if number in found:
            raise InputError("a document stands twice", file=path, item=str(number), mend="give the log of one run")
        found[number] = (str(entry.get("input", "")), answer)
    return found
