"""Whether a model beats its baselines, as the comparison page shows it.

Two kinds are known: another variant that the card names as `to_beat`, and what a metric `x_shuffled` says was
reached by the same predictions held against other samples; `x_gain` is then the difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sightline.report.comparison import number

SHUFFLED, GAIN = "_shuffled", "_gain"


@dataclass(frozen=True)
class BaselineRow:
    """One metric of one run beside one baseline, ready to be shown."""

    run: str
    metric: str
    value: str
    baseline: str
    reached: str
    difference: str
    interval: str
    verdict: str
    why: str


def baseline_rows(content: Mapping[str, Any]) -> list[BaselineRow]:
    """Returns the rows of all runs of a metrics file, in their order; none where no run has a baseline."""
    by_name = {(run["dataset"], run["variant"]): run for run in content["runs"]}
    return [row for run in content["runs"] for row in _of_run(run, by_name)]


def _of_run(run: Mapping[str, Any], by_name: Mapping[tuple[str, str], Mapping[str, Any]]) -> Iterator[BaselineRow]:
    against, metrics = run.get("against"), run["metrics"]
    if not against:
        return
    other = by_name[run["dataset"], against["variant"]]["metrics"]
    for name, entry in metrics.items():
        if "absent" in entry or name + GAIN not in metrics:
            continue
        if name in against["differences"]:
            title = against["variant_title"]
            yield _row(run, name, entry, title, other[name]["value"], against["differences"][name])
        gain, shuffled = metrics[name + GAIN], metrics.get(name + SHUFFLED, {"absent": ""})
        if "absent" not in gain and "absent" not in shuffled:
            yield _row(run, name, entry, "the same words, other videos", shuffled["value"], gain)


def _row(
    run: Mapping[str, Any],
    name: str,
    entry: Mapping[str, Any],
    baseline: str,
    reached: float,
    difference: Mapping[str, Any],
) -> BaselineRow:
    low, high = difference["ci_low"], difference["ci_high"]
    better = entry["higher_is_better"]
    verdict, why = "", "no interval"
    if low is not None and high is not None:
        verdict, why = "outside", "the interval holds 0"
        if low > 0 or high < 0:
            beats = (low > 0) == better
            verdict, why = ("within", "above") if beats else ("outside", "below")
    return BaselineRow(
        run=run["variant_title"],
        metric=name,
        value=number(entry["value"]),
        baseline=baseline,
        reached=number(reached),
        difference=number(difference["value"], signed=True),
        interval=f"[{number(low)}, {number(high)}]" if low is not None else "",
        verdict=verdict,
        why=why,
    )
