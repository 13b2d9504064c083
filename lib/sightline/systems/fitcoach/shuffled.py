"""The baseline that shows whether the video reaches the words: what was said of one episode, scored against another.

A coach that speaks at likely moments and says likely things scores well without looking. So every episode is
also scored against what the model said in every other episode of the same prompt: the model was told the same,
the clock is the same, only the video differs. The mean over those pairings is what shuffling the predictions
gives in expectation, without drawing a shuffle. Where no other episode has the prompt, all others serve.

`timed_*` measures timing and wording at once, as dense captioning does (SODA, ECCV 2020): a matched pair
counts as much as its texts agree, an unmatched one nothing, so that neither silence nor chatter is free.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sightline.metrics.aggregate import MetricSpec
from sightline.metrics.temporal import TemporalMatch, match_feedbacks
from sightline.records.types import Score
from sightline.systems.fitcoach.records import Coaching, Episode

Pair = tuple[str, str]
TIMED, SHUFFLED, GAIN = "timed_rouge_l", "_shuffled", "_gain"
_SIDES = ("precision", "recall")


@dataclass(frozen=True)
class Watched:
    """An episode and what was said in it.

    Attributes:
        name: Sample id.
        group: Class of its rows.
        episode: What should have been said.
        said: What was; None when the prediction failed.
        reason: Why it failed.
    """

    name: str
    group: str
    episode: Episode
    said: Coaching | None
    reason: str = ""


def shuffled_specs(temporal: tuple[str, str, str], matching: str) -> tuple[MetricSpec, ...]:
    """Returns the baselines, the joint measure and how far the predictions are above their baselines.

    Args:
        temporal: Names of temporal precision, recall and F.
        matching: How predictions and references are matched, for people.
    """
    timed = tuple(f"{TIMED}_{side}" for side in _SIDES)
    agreement = f"ROUGE-L of matched pairs, unmatched ones 0; F of both sides; {matching}"
    other = "said in other episodes of the same prompt"
    specs = [MetricSpec(TIMED, agreement, "f_of_ratios", timed)]
    for name, inputs, what in ((temporal[2], temporal[:2], "temporal F"), (TIMED, timed, "timed ROUGE-L")):
        shuffled = tuple(f"{one}{SHUFFLED}" for one in inputs)
        specs += [
            MetricSpec(f"{name}{SHUFFLED}", f"{what} of what was {other}: the baseline", "f_of_ratios", shuffled),
            MetricSpec(f"{name}{GAIN}", f"{what} minus that of what was {other}", "f_gain", (*inputs, *shuffled)),
        ]
    return tuple(specs)


def shuffled_rows(
    watched: Sequence[Watched],
    temporal: tuple[str, str],
    half_window_s: float,
    agreement: Callable[[Sequence[Pair]], Sequence[float]],
) -> list[Score]:
    """Returns the rows of the joint measure and of both baselines, by sample and then by metric.

    Args:
        watched: Episodes of a run and what was said in them.
        temporal: Names of temporal precision and recall.
        half_window_s: A match is closer than this, seconds.
        agreement: Pairs of texts to values from 0 to 1.
    """
    partners = _partners(watched)
    matches = {
        (i, j): _match(watched[i].episode, said, half_window_s)
        for i, others in enumerate(partners)
        for j in (i, *others)
        if (said := watched[j].said) is not None
    }
    texts = {(i, j): _texts(watched[i].episode, watched[j].said, match) for (i, j), match in matches.items()}
    unique = list(dict.fromkeys(text for sides in texts.values() for side in sides for text in side))
    values = dict(zip(unique, agreement(unique), strict=True))
    rows: list[Score] = []
    for i, others in enumerate(partners):
        crossed = [(i, j) for j in others if (i, j) in matches]
        tables = [("", [(i, i)] if (i, i) in matches else []), (SHUFFLED, crossed)]
        for suffix, pairs in tables:
            shares = _timed_means(pairs, matches, texts, values)
            rows += _rows(watched[i], [f"{TIMED}_{side}{suffix}" for side in _SIDES], shares)
        rows += _rows(watched[i], [f"{name}{SHUFFLED}" for name in temporal], _temporal_means(crossed, matches))
    return rows


def _partners(watched: Sequence[Watched]) -> list[list[int]]:
    """Returns the other episodes of each episode's prompt; all others where there is none."""
    alike: dict[str, list[int]] = {}
    for place, one in enumerate(watched):
        alike.setdefault(one.episode.prompt, []).append(place)
    everyone = range(len(watched))
    found = []
    for place, one in enumerate(watched):
        same = alike[one.episode.prompt]
        found.append([other for other in (same if len(same) > 1 else everyone) if other != place])
    return found


def _match(episode: Episode, said: Coaching, half_window_s: float) -> TemporalMatch:
    return match_feedbacks(episode.response_times, episode.responses, said.times, said.feedbacks, half_window_s)


def _texts(episode: Episode, said: Coaching | None, match: TemporalMatch) -> tuple[list[Pair], list[Pair]]:
    """Returns the pairs of texts of the precision side and of the recall side."""
    if said is None:
        return [], []
    return (
        [(episode.responses[g], said.feedbacks[p]) for p, g in match.precision_pairs],
        [(episode.responses[g], said.feedbacks[p]) for g, p in match.recall_pairs],
    )


def _temporal_means(
    pairs: Sequence[tuple[int, int]], matches: Mapping[tuple[int, int], TemporalMatch]
) -> list[tuple[float, float]]:
    """Returns (matched, all) of predictions and of references, each the mean over pairings."""
    count = max(len(pairs), 1)
    found = [matches[pair] for pair in pairs]
    return [
        (sum(len(m.precision_pairs) for m in found) / count, sum(m.predictions for m in found) / count),
        (sum(len(m.recall_pairs) for m in found) / count, sum(m.references for m in found) / count),
    ]


def _timed_means(
    pairs: Sequence[tuple[int, int]],
    matches: Mapping[tuple[int, int], TemporalMatch],
    texts: Mapping[tuple[int, int], tuple[list[Pair], list[Pair]]],
    values: Mapping[Pair, float],
) -> list[tuple[float, float]]:
    """Returns (agreement of matched texts, all) of predictions and of references, each the mean over pairings."""
    count = max(len(pairs), 1)
    tops = [sum(values[text] for pair in pairs for text in texts[pair][side]) / count for side in (0, 1)]
    return [(top, bottom) for top, (_, bottom) in zip(tops, _temporal_means(pairs, matches), strict=True)]


def _rows(one: Watched, metrics: Sequence[str], shares: Sequence[tuple[float, float]]) -> list[Score]:
    rows = []
    for metric, (value, denominator) in zip(metrics, shares, strict=True):
        if one.said is None:
            rows.append(Score(one.name, metric, one.group, None, 0.0, "error", one.reason))
        elif not denominator:
            rows.append(Score(one.name, metric, one.group, None, 0.0, "unscored", "nothing to count"))
        else:
            rows.append(Score(one.name, metric, one.group, float(value), float(denominator), "scored"))
    return rows
