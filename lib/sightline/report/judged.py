"""What judges add to a run's summary: their rows, their metrics, and what became of the pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sightline.errors import StoreError
from sightline.llm.judged import ALL_PAIRS, SCORED
from sightline.metrics.aggregate import MetricSpec
from sightline.records.files import read_json
from sightline.records.rows import read_scores
from sightline.records.types import Score

_NOTED = (
    "pairs", "pairs_scored", "pairs_unscored", "pairs_failed", "near_ties", "repeats", "repeat_means", "repeat_spread",
    "reasons",
)  # fmt: skip
_JUDGE = ("backend", "model", "prompt", "prompt_version", "prompt_sha256", "parse", "temperature", "fingerprint")


@dataclass
class JudgedRun:
    """The judges of one run.

    Attributes:
        rows: Metric -> rows of the run's samples, in no order.
        specs: Two metrics per judge: over the pairs it scored, and over all pairs.
        extras: Metric -> what stands in its entry beside value and interval.
        over_all: Metric over scored pairs -> its twin over all pairs.
        own_judges: Metrics of judges that are not the paper's.
    """

    rows: dict[str, list[Score]] = field(default_factory=dict)
    specs: list[MetricSpec] = field(default_factory=list)
    extras: dict[str, dict[str, Any]] = field(default_factory=dict)
    over_all: dict[str, str] = field(default_factory=dict)
    own_judges: set[str] = field(default_factory=set)

    def all_specs(self, own: Sequence[MetricSpec]) -> list[MetricSpec]:
        """Returns the system's metrics, those a judge gives replaced by the judge's."""
        judged = {spec.name for spec in self.specs}
        return [*(spec for spec in own if spec.name not in judged), *self.specs]

    def complete(self, metrics: dict[str, dict[str, Any]]) -> None:
        """Adds to the entries of judged metrics what the notes say, and the mean over all pairs."""
        for name, twin in self.over_all.items():
            entry = metrics[name]
            if "absent" in entry:
                continue
            entry |= self.extras[name] | {"value_over_all": metrics[twin]["value"]}
            if name in self.own_judges and entry["paper"] is not None:
                entry |= {"paper": None, "paper_note": "another judge or prompt than the paper's"}


def read_judged(
    run: Mapping[str, Any], specs: Sequence[MetricSpec], rows: Iterator[Path], notes: Iterator[Path]
) -> JudgedRun:
    """Reads the files of a run's judges, which stand next in `rows` and `notes`.

    Raises:
        StoreError: A file is missing or is not what the judge stage writes.
    """
    found = JudgedRun()
    for judge in run.get("judges", ()):
        _add(found, judge, specs, next(rows), next(notes))
    return found


def _add(found: JudgedRun, judge: Mapping[str, Any], specs: Sequence[MetricSpec], rows: Path, notes: Path) -> None:
    name, twin = judge["metric"], f"{judge['metric']}_all_pairs"
    known = read_json(notes, mend="delete it and judge again")
    for row in read_scores(rows):
        if row.metric not in (SCORED, ALL_PAIRS):
            raise StoreError(
                f"rows of {row.metric}, which no judge writes", file=rows, mend="delete it and judge again"
            )
        metric = name if row.metric == SCORED else twin
        found.rows.setdefault(metric, []).append(replace(row, metric=metric))
    how = "greedy" if not known["temperature"] else f"temperature {known['temperature']:g}"
    by = f"{judge['title']}; prompt {known['prompt']} v{known['prompt_version']} ({known['prompt_sha256'][:8]}), {how}"
    basis = next((spec for spec in specs if spec.name in (name, "llm_acc")), MetricSpec(name, "", "ratio_of_sums"))
    scored = f"score from 1 to 5 by {by}; mean over the pairs it scored"
    every = f"as {name}, mean over all pairs: one without a score counts 0"
    found.specs.append(replace(basis, name=name, inputs=(name,), implementation=scored))
    found.specs.append(replace(basis, name=twin, inputs=(twin,), implementation=every))
    found.over_all[name] = twin
    if not judge["as_published"]:
        found.own_judges.add(name)
    found.extras[name] = {
        **{key: known[key] for key in _NOTED},
        "judge": {"name": judge["judge"], "title": judge["title"], **{key: known[key] for key in _JUDGE}},
    }
