"""How the released judge script reads answers and fills its template, and where we depart from it."""

from __future__ import annotations

from typing import Any

import pytest
from golden import load_json
from sightline.llm.judge import parse_reply
from sightline.llm.prompts import fill_template

GOLDEN: dict[str, Any] = load_json("fitcoach", "h_judge", "judge_parse.json") or {}
ROWS = GOLDEN.get("rows", [])
FILLS = GOLDEN.get("fill_template", [])
MARKS = ("<1>", "<2>")


@pytest.mark.parametrize("row", [pytest.param(row, id=f"fitcoach-judge-parse-{n}") for n, row in enumerate(ROWS)])
def test_an_answer_is_read_as_published(row: dict[str, Any]) -> None:
    verdict = parse_reply(row["response"], "published")
    assert verdict.score == row["score"]
    assert bool(verdict.reason) == (row["outcome"] != "scored")
    if "abort" in row["outcome"]:
        assert "the original stops here" in verdict.reason


@pytest.mark.parametrize("row", [pytest.param(row, id=f"fitcoach-judge-strict-{n}") for n, row in enumerate(ROWS)])
def test_the_strict_rule_takes_nothing_the_published_one_reads_otherwise(row: dict[str, Any]) -> None:
    strict, published = parse_reply(row["response"], "strict"), parse_reply(row["response"], "published")
    if strict.score is not None:
        assert strict.score == published.score
        assert strict.score in (1, 2, 3, 4, 5)
    else:
        assert strict.reason


@pytest.mark.parametrize("rows", [pytest.param(ROWS, id="fitcoach-judge-mean")] if "running_mean" in GOLDEN else [])
def test_the_mean_over_scored_answers(rows: list[dict[str, Any]]) -> None:
    verdicts = [parse_reply(row["response"], "published") for row in rows]
    scores = [verdict.score for verdict in verdicts if verdict.score is not None]
    assert sum(scores) / len(scores) == pytest.approx(GOLDEN["running_mean"], abs=1e-9)


@pytest.mark.parametrize("row", [pytest.param(row, id=f"fitcoach-judge-fill-{n}") for n, row in enumerate(FILLS)])
def test_the_template_is_filled(row: dict[str, Any]) -> None:
    marks = MARKS if len(row["fillers"]) == len(MARKS) else tuple(f"<{n + 1}>" for n in range(len(row["fillers"])))
    values = dict(zip(marks, row["fillers"], strict=True))
    assert fill_template(row["template"], values, "published") == row["result"]
    ours = fill_template(row["template"], values)
    if not any(mark in filler for filler in row["fillers"] for mark in marks):
        assert ours == row["result"]
    pieces = [row["template"]]
    for mark in marks:
        pieces = [part for piece in pieces for part in _split(piece, mark)]
    assert ours == "".join(values.get(piece, piece) for piece in pieces)


def _split(piece: str, mark: str) -> list[str]:
    """Cuts a template at a mark and keeps the mark as a piece of its own."""
    parts: list[str] = []
    for part in piece.split(mark):
        parts += [part, mark]
    return parts[:-1]
