"""From a judge's replies to score rows: what was scored, what was not and why, over both denominators."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sightline.llm.judge import Judgement, ParseRule, pair_key, parse_reply
from sightline.llm.prompts import Prompt
from sightline.records.types import Score

SCORED, ALL_PAIRS = "judge", "judge_all_pairs"
"""Metrics of the rows: the sum of scores over the pairs scored, and over all pairs (unscored ones count 0)."""


@dataclass(frozen=True)
class JudgedSample:
    """What the judge is to see of one sample.

    Attributes:
        id: The sample's id.
        group: Class or task of the sample.
        pairs: Fields of each pair, e.g. `reference` and `candidate`.
        error: Why there is nothing to judge, if the prediction failed.
    """

    id: str
    group: str
    pairs: tuple[dict[str, str], ...]
    error: str = ""


@dataclass(frozen=True)
class PairScore:
    """One pair and what became of it.

    Attributes:
        sample, number: The sample and the pair's number in it, from 1.
        fields: What the judge saw.
        replies: One per repeat.
        scores: One per repeat; None where it said none.
        reasons: Why not, per repeat; empty where scored.
    """

    sample: str
    number: int
    fields: dict[str, str]
    replies: tuple[Judgement, ...]
    scores: tuple[float | None, ...]
    reasons: tuple[str, ...]

    @property
    def score(self) -> float | None:
        """Mean over the repeats that gave a score."""
        known = [score for score in self.scores if score is not None]
        return sum(known) / len(known) if known else None

    @property
    def failed(self) -> bool:
        """True when no repeat got an answer at all."""
        return all(reply.finish == "failed" for reply in self.replies)

    def rows(self) -> list[dict[str, Any]]:
        """Returns the pair as people read it, one row per repeat."""
        return [
            {
                "sample": self.sample,
                "pair": self.number,
                "repeat": repeat,
                **self.fields,
                "reply": reply.text,
                "finish": reply.finish,
                "score": score,
                "reason": reason,
            }
            for repeat, (reply, score, reason) in enumerate(
                zip(self.replies, self.scores, self.reasons, strict=True), start=1
            )
        ]


def read_scores_of(
    samples: Sequence[JudgedSample], judgements: Mapping[str, Judgement], prompt: Prompt, rule: ParseRule, repeats: int
) -> list[PairScore]:
    """Returns every pair with its scores, in the order of the samples."""
    found = []
    for sample in samples:
        for number, fields in enumerate(sample.pairs, start=1):
            key = pair_key(fields, prompt)
            replies = tuple(judgements[f"{key}-{repeat}"] for repeat in range(1, repeats + 1))
            verdicts = [_verdict(reply, rule) for reply in replies]
            found.append(
                PairScore(
                    sample.id, number, dict(fields), replies,
                    tuple(score for score, _ in verdicts), tuple(reason for _, reason in verdicts),
                )
            )  # fmt: skip
    return found


def _verdict(reply: Judgement, rule: ParseRule) -> tuple[float | None, str]:
    if reply.finish == "failed":
        return None, f"no answer: {reply.reason}"
    verdict = parse_reply(reply.text, rule)
    return verdict.score, verdict.reason


def score_rows(samples: Sequence[JudgedSample], pairs: Sequence[PairScore]) -> list[Score]:
    """Returns two rows per sample: over the pairs that were scored, and over all pairs."""
    of_sample: dict[str, list[PairScore]] = {}
    for pair in pairs:
        of_sample.setdefault(pair.sample, []).append(pair)
    rows = []
    for sample in samples:
        mine = of_sample.get(sample.id, [])
        for metric in (SCORED, ALL_PAIRS):
            rows.append(_row(sample, metric, mine))
    return rows


def _row(sample: JudgedSample, metric: str, pairs: Sequence[PairScore]) -> Score:
    def without(status: str, reason: str) -> Score:
        return Score(sample.id, metric, sample.group, None, 0.0, status, reason)

    if sample.error:
        return without("error", sample.error)
    if not pairs:
        return without("unscored", "no pair to judge")
    scores = [pair.score for pair in pairs if pair.score is not None]
    if metric == SCORED and not scores:
        reason = Counter(reason for pair in pairs for reason in pair.reasons).most_common(1)[0][0]
        return without("error" if all(pair.failed for pair in pairs) else "unscored", reason)
    count = len(scores) if metric == SCORED else len(pairs)
    return Score(sample.id, metric, sample.group, float(sum(scores)), float(count), "scored")


def counts(pairs: Sequence[PairScore], repeats: int) -> dict[str, Any]:
    """Returns what became of the pairs, why some are unscored, and the spread over repeats."""
    means = []
    for repeat in range(repeats):
        scores = [score for pair in pairs if (score := pair.scores[repeat]) is not None]
        means.append(sum(scores) / len(scores) if scores else None)
    known = [mean for mean in means if mean is not None]
    reasons = Counter(reason for pair in pairs for reason in pair.reasons if reason)
    return {
        "pairs": len(pairs),
        "pairs_scored": sum(pair.score is not None for pair in pairs),
        "pairs_unscored": sum(pair.score is None and not pair.failed for pair in pairs),
        "pairs_failed": sum(pair.failed for pair in pairs),
        "cut_off": sum(reply.finish == "length" for pair in pairs for reply in pair.replies),
        "near_ties": sum(reply.near_ties for pair in pairs for reply in pair.replies),
        "repeats": repeats,
        "repeat_means": means,
        "repeat_spread": statistics.stdev(known) if len(known) > 1 else None,
        "reasons": [
            {"reason": reason, "replies": count}
            for reason, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
        ],
    }
