"""The comparison table: our numbers beside the published ones, with a plain word on why they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sightline.errors import InputError
from sightline.records.files import read_json

MINUS = "\u2212"
NONE = "\u2013"


@dataclass(frozen=True)
class MetricRow:
    """One metric of one run, ready to be shown; an absent one has only `absent`."""

    name: str
    implementation: str = ""
    value: str = NONE
    interval: str = ""
    samples: str = NONE
    left_out: list[str] = field(default_factory=list)
    coverage: str = NONE
    items: str = ""
    paper: str = NONE
    difference: str = NONE
    verdict: str = ""
    why: str = ""
    absent: str = ""


@dataclass(frozen=True)
class RunBlock:
    """One run: a system's variant on a dataset."""

    anchor: str
    title: str
    dataset: str
    names: str
    demo: bool
    compared: bool
    note: str
    facts: list[str]
    dropped: list[tuple[str, str]]
    rows: list[MetricRow]
    reference: str = ""
    deviations: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class SystemTable:
    """All runs of one system; `beside` says whether anything is to be said of published numbers."""

    system: str
    title: str
    runs: list[RunBlock]
    confidence: str
    replicates: int
    beside: bool


def number(value: float, *, signed: bool = False) -> str:
    """Returns three decimals with a true minus sign."""
    text = f"{value:+.3f}" if signed else f"{value:.3f}"
    if float(text) == 0:
        text = "+0.000" if signed else "0.000"
    return text.replace("-", MINUS)


def count(value: float) -> str:
    """Returns a count with thin thousands separators."""
    return f"{value:,.0f}".replace(",", "\u202f")


def read_summaries(paths: Sequence[Path]) -> list[tuple[str, dict[str, Any]]]:
    """Reads metrics files as (system, content).

    Raises:
        InputError: A file is missing or is not a metrics file.
    """
    found = []
    for path in paths:
        content = read_json(path, mend="run the stage summarise again")
        if not isinstance(content, dict) or "runs" not in content or "title" not in content:
            raise InputError("not a metrics file", file=path, mend="run the stage summarise again")
        found.append((Path(path).name.removesuffix("_metrics.json"), content))
    return found


def tables(summaries: Sequence[tuple[str, Mapping[str, Any]]]) -> list[SystemTable]:
    """Returns one table per system, runs in the configured order and metrics in the system's."""
    return [_table(system, content) for system, content in summaries]


def _table(system: str, content: Mapping[str, Any]) -> SystemTable:
    order = content.get("metric_order", [])
    bootstrap = content["provenance"]["bootstrap"]
    runs = [_run(system, run, order) for run in content["runs"]]
    return SystemTable(
        system=system,
        title=content["title"],
        runs=runs,
        confidence=f"{100 * bootstrap['confidence']:g} %",
        replicates=bootstrap["replicates"],
        beside=any(run.compared or any(row.why for row in run.rows) for run in runs),
    )


def _run(system: str, run: Mapping[str, Any], order: Sequence[str]) -> RunBlock:
    metrics = run["metrics"]
    names = [name for name in order if name in metrics]
    names += sorted(metrics.keys() - set(names))
    published = run["paper"]
    return RunBlock(
        anchor=f"{system}-{run['dataset']}-{run['variant']}",
        title=run["variant_title"],
        dataset=run["dataset_title"],
        names=f"{run['dataset']} / {run['variant']}",
        demo=run["demo"],
        compared=_may_compare(run),
        note=run.get("dataset_note") or "",
        facts=_facts(run),
        dropped=[(count(entry["count"]), entry["reason"]) for entry in run.get("dropped", [])],
        rows=[_metric(name, metrics[name], run) for name in names],
        reference=f"{published['reference']}; {published['source']}" if published["compared"] else "",
        deviations=published.get("deviations", []),
    )


def _facts(run: Mapping[str, Any]) -> list[str]:
    samples, failed = run["n_samples"], run["n_failed"]
    facts = [f"{count(samples)} samples in {count(run['n_clusters'])} clusters"]
    facts.append(f"{count(failed)} failed" if failed else "none failed")
    if run["partial"] is not None:
        facts.append(f"partial: at most {count(run['partial'])} samples were drawn")
    if not run["demo"]:
        facts.append(f"{run['weights_kind']} weights")
    return facts


def _may_compare(run: Mapping[str, Any]) -> bool:
    return bool(run["paper"]["compared"] and not run["demo"])


def _metric(name: str, entry: Mapping[str, Any], run: Mapping[str, Any]) -> MetricRow:
    may_compare = _may_compare(run)
    if "absent" in entry:
        published = run["paper"].get("values", {}).get(name) if may_compare else None
        shown = NONE if published is None else number(published)
        return MetricRow(name, absent=entry["absent"].replace(" -> ", "; "), paper=shown)
    low, high = entry["ci_low"], entry["ci_high"]
    verdict, why = _why(entry, run["demo"])
    paper = entry["paper"] if may_compare else None
    return MetricRow(
        name=name,
        implementation=entry["implementation"],
        value=number(entry["value"]) + (f" {entry['unit']}" if entry.get("unit") else ""),
        interval=f"[{number(low)}, {number(high)}]" if low is not None else "no interval",
        samples=count(entry["n"]),
        left_out=_left_out(entry),
        coverage=f"{100 * entry['coverage']:.0f} %",
        items=_items(entry),
        paper=number(paper["value"]) if paper else NONE,
        difference=number(paper["difference"], signed=True) if paper else NONE,
        verdict=verdict,
        why=why,
    )


def _left_out(entry: Mapping[str, Any]) -> list[str]:
    words = (("n_unscored", "unscored"), ("n_error", "failed"))
    return [f"{count(entry[name])} {word}" for name, word in words if entry[name]]


def _items(entry: Mapping[str, Any]) -> str:
    if "items_total" in entry:
        return f"{count(entry['items'])} of {count(entry['items_total'])} items"
    return f"{count(entry['items'])} items" if "items" in entry else ""


def _why(entry: Mapping[str, Any], demo: bool) -> tuple[str, str]:
    """Returns (verdict for the style, plain words)."""
    paper = entry["paper"]
    if demo:
        return "", ""  # said once, above the table
    if paper is None:
        return "", entry.get("paper_note") or ""
    tolerance = f"\u00b1{paper['tolerance']:g}"
    if paper["within"] is None:
        return "", entry.get("paper_note") or ""
    note = f"; {paper['note']}" if paper["note"] else ""
    low, high = entry["ci_low"], entry["ci_high"]
    inside = low is not None and low <= paper["value"] <= high
    if paper["within"]:
        return "within", f"within {tolerance}{note}"
    reason = "the paper's value lies inside our interval" if inside else "see the known deviations below"
    return "outside", f"outside {tolerance}{note}; {reason}"
