"""Samples, predictions and scores become pictures: examples as filmstrips, and what all rows say together."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sightline.metrics.aggregate import Column, MetricSpec
from sightline.metrics.bootstrap import ClusterBootstrap, Estimate
from sightline.records.types import Prediction, Sample, Score, View
from sightline.report.kinds import Bar, BarsView, Candidate, CurveView, FilmstripView, Line, Point
from sightline.systems.sgear.classes import ClassTable
from sightline.systems.sgear.records import Anticipation, SgearPayload

EXAMPLES = 24
_CONFUSED = 12
_GROUP_TITLES = {
    "": "all rows",
    "_unseen": "unseen participants",
    "_tail": "tail classes",
    "_many_shot": "many-shot classes",
}
Strip = tuple[list[float], list[str], str]
"""Seconds before the action (negative), base64 JPEGs, and why there are none."""


def chosen_examples(samples: Sequence[Sample], shown: set[str], count: int = EXAMPLES) -> list[Sample]:
    """Returns samples to show: first those whose video is at hand, drawn by a hash of their id, sorted by id."""
    ordered = sorted(
        samples, key=lambda one: (one.group not in shown, hashlib.sha256(one.id.encode()).hexdigest(), one.id)
    )
    return sorted(ordered[:count], key=lambda one: one.id)


def example_view(
    sample: Sample, prediction: Prediction, table: ClassTable, numbers: Mapping[str, float | None], strip: Strip
) -> View:
    """Draws one row: what was seen, what came, and what the model expected."""
    payload = SgearPayload.from_json(sample.payload, item=sample.id)
    seconds, pictures, problem = strip
    candidates: list[Candidate] = []
    notes = [problem] if problem else []
    if prediction.status == "ok":
        output = Anticipation.from_json(prediction.output, item=sample.id)
        candidates = [
            Candidate(table.actions[label].strip(), share, label == payload.action)
            for label, share in zip(output.top, _shares(output.top_logits), strict=True)
        ]
        if output.missing_frames:
            notes.append(f"{output.missing_frames} frames had no features and were zeros")
    truth = table.actions[payload.action].strip() if payload.action >= 0 else ""
    return FilmstripView(
        title=f"next: {truth}" if truth else "next action",
        subtitle=f"video {payload.video_id}, action at {payload.action_start:.1f} s, seen up to {payload.end:.1f} s",
        frames=seconds,
        truth=truth,
        candidates=candidates,
        status=prediction.status,
        reason="" if prediction.status == "ok" else prediction.reason or "the prediction failed",
        numbers=dict(numbers),
        facets={"video": payload.video_id, "picture": "example"},
        notes=notes,
    ).to_view(sample.id, pictures)


def _shares(logits: Sequence[float]) -> list[float]:
    """Returns the five best as parts of their own sum; the others' logits are not in the prediction."""
    if not logits:
        return []
    peak = max(logits)
    weights = [math.exp(value - peak) for value in logits]
    return [weight / sum(weights) for weight in weights]


class RunNumbers:
    """Metrics of one run with the intervals that the summary gives them.

    Args:
        samples: All samples.
        scores: Their rows.
        specs: The room's metrics.
        bootstrap: `replicates`, `seed`, `confidence`.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        scores: Sequence[Score],
        specs: Sequence[MetricSpec],
        bootstrap: Mapping[str, Any],
    ) -> None:
        self._ids = sorted(one.id for one in samples)
        clusters = {one.id: one.cluster for one in samples}
        self._rows: dict[str, dict[str, Score]] = {}
        for row in scores:
            self._rows.setdefault(row.metric, {})[row.id] = row
        self._specs = {spec.name: spec for spec in specs}
        self._sampler = ClusterBootstrap(
            [clusters[name] for name in self._ids],
            replicates=bootstrap["replicates"], seed=bootstrap["seed"], level=bootstrap["confidence"],
        )  # fmt: skip

    def estimate(self, metric: str) -> tuple[Estimate, int] | None:
        """Returns a metric with its interval and number of scored rows; None when nothing was scored."""
        spec = self._specs.get(metric)
        if spec is None or any(name not in self._rows for name in spec.inputs):
            return None
        columns = []
        for name in spec.inputs:
            rows = [self._rows[name][one] for one in self._ids]
            values = [row.value if row.status == "scored" else None for row in rows]
            columns.append(Column.of(values, [row.denominator for row in rows], [row.group for row in rows]))
        found = self._sampler.estimate(spec, columns)
        count = int(np.all([column.denominators > 0 for column in columns], axis=0).sum())
        return None if found.value is None else (found, count)

    def bar(self, label: str, metric: str, *, mark: bool = False) -> Bar | None:
        """Returns a metric as a bar."""
        found = self.estimate(metric)
        if found is None or found[0].value is None:
            return None
        return Bar(label, found[0].value, found[0].ci_low, found[0].ci_high, found[1], mark)

    def of_sample(self, identifier: str) -> dict[str, float | None]:
        """Returns the values of one sample, for the rows that say something about a single one."""
        found = {
            name: rows[identifier] for name, rows in sorted(self._rows.items()) if name.endswith(("_top1", "_top5"))
        }
        return {name: row.value if row.status == "scored" else None for name, row in found.items()}


def group_bars(numbers: RunNumbers, k: int) -> View | None:
    """Draws class-mean recall of actions, verbs and nouns by group of rows."""
    bars = [
        numbers.bar(f"{part}, {title}", f"{part}_recall{k}{group}", mark=not group)
        for part in ("action", "verb", "noun")
        for group, title in _GROUP_TITLES.items()
    ]
    kept = [bar for bar in bars if bar is not None]
    if not kept:
        return None
    return BarsView(
        f"Class-mean recall@{k} by group",
        "lines: 95 % intervals over videos",
        "%",
        kept,
        {"picture": "recall by group"},
    ).to_view("0-recall-by-group")


def horizon_curve(numbers: RunNumbers, k: int, tau_a: float, horizons: Mapping[float, str]) -> View | None:
    """Draws recall over the anticipation time; `horizons` maps seconds to metric names."""
    points = []
    for seconds, metric in sorted({tau_a: f"action_recall{k}", **horizons}.items()):
        found = numbers.estimate(metric)
        if found is not None and found[0].value is not None:
            points.append(Point(seconds, found[0].value, found[0].ci_low, found[0].ci_high))
    if len(points) < 2:
        return None
    return CurveView(
        "How far ahead", "the same model, windows moved back in time", "seconds between what is seen and the action",
        f"recall@{k} of actions, %", [Line("recall", points)], {"picture": "horizons"},
    ).to_view("0-horizons")  # fmt: skip


def gain_bars(numbers: RunNumbers, k: int, own: str, reference: str) -> View | None:
    """Draws a run beside the one it is compared with, and the difference on the same rows."""
    gain = numbers.bar("difference, same rows", f"action_recall{k}_gain", mark=True)
    mine = numbers.bar(own, f"action_recall{k}")
    if gain is None or mine is None:
        return None
    theirs = Bar(reference, mine.value - gain.value, None, None, gain.n)
    return BarsView(
        f"{own} against {reference}",
        f"class-mean recall@{k} of actions",
        "%",
        [mine, theirs, gain],
        {"picture": "gain"},
    ).to_view("0-gain")


def confused_bars(samples: Sequence[Sample], predictions: Sequence[Prediction], table: ClassTable) -> View | None:
    """Draws which actions are most often taken for which others, among rows whose first answer is wrong."""
    by_id = {one.id: one for one in predictions if one.status == "ok"}
    pairs: Counter[tuple[int, int]] = Counter()
    totals: Counter[int] = Counter()
    for sample in samples:
        label = SgearPayload.from_json(sample.payload, item=sample.id).action
        if label < 0 or sample.id not in by_id:
            continue
        first = Anticipation.from_json(by_id[sample.id].output, item=sample.id).top[0]
        totals[label] += 1
        if first != label:
            pairs[label, first] += 1
    ordered = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:_CONFUSED]
    if not ordered:
        return None
    bars = [
        Bar(
            f"{table.actions[true].strip()} → {table.actions[said].strip()}", 100 * count / totals[true], n=totals[true]
        )
        for (true, said), count in ordered
    ]
    return BarsView(
        "Most often taken for another", "share of an action's rows whose first answer is the other one", "%", bars,
        {"picture": "confused"},
    ).to_view("0-confused")  # fmt: skip
