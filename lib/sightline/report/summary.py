"""Scores of all runs of one system -> `results/<system>_metrics.json`: values, intervals, coverage, paper.

The file holds nothing but functions of its inputs: no times, hosts or paths, so equal scores give equal bytes.
A metric without a scored row is absent with its reason; it is never a zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.config.versions import STAGE
from sightline.errors import InputError, StoreError
from sightline.metrics.aggregate import Column, MetricSpec, point_estimate
from sightline.metrics.bootstrap import ClusterBootstrap, Estimate
from sightline.records.files import read_json, sha256_file, write_json
from sightline.records.rows import read_samples, read_scores
from sightline.records.types import Sample, Score
from sightline.report.judged import JudgedRun, read_judged

_UPSTREAM = ("acquire", "decode", "features", "samples", "predict", "merge", "score", "summarise")
_COPIED = ("dataset", "variant", "dataset_title", "dataset_note", "variant_title", "weights_kind", "demo")
DEMO_NOTE = "demo model: compares with nothing published"


@dataclass(frozen=True)
class _Table:
    """The score rows of one run, by metric and sample.

    Attributes:
        samples: Samples sorted by id.
        rows: Metric -> one row per sample, in the order of `samples`.
    """

    samples: list[Sample]
    rows: dict[str, list[Score]]

    @property
    def clusters(self) -> list[str]:
        return [sample.cluster for sample in self.samples]

    def columns(self, spec: MetricSpec) -> list[Column]:
        """Returns one column per input of a metric, rows in the order of `samples`."""
        return [
            Column.of(
                [row.value if row.status == "scored" else None for row in self.rows[name]],
                [row.denominator for row in self.rows[name]],
                [row.group for row in self.rows[name]],
            )
            for name in spec.inputs
        ]

    def failed(self) -> int:
        """Number of samples of which nothing could be scored because something failed."""
        return sum(
            bool(self.rows) and all(rows[index].status == "error" for rows in self.rows.values())
            for index in range(len(self.samples))
        )


def _table(samples_path: Path, scores_path: Path, judged: JudgedRun) -> _Table:
    samples = sorted(read_samples(samples_path), key=lambda sample: sample.id)
    known = {sample.id for sample in samples}
    by_metric: dict[str, dict[str, Score]] = {}
    for row in [*read_scores(scores_path), *(row for rows in judged.rows.values() for row in rows)]:
        found = by_metric.setdefault(row.metric, {})
        if row.id in found:
            raise StoreError(
                f"two rows of {row.metric}", file=scores_path, item=row.id, mend="delete it and score again"
            )
        found[row.id] = row
    for metric, found in by_metric.items():
        odd = sorted(known ^ found.keys())
        if odd:
            raise StoreError(
                f"{metric} has rows for {len(found)} samples, the run has {len(known)}",
                file=scores_path, item=odd[0], mend="delete it and score again",
            )  # fmt: skip
    rows = {metric: [found[sample.id] for sample in samples] for metric, found in by_metric.items()}
    return _Table(samples, rows)


def _absent_reasons(path: Path) -> dict[str, str]:
    reasons = read_json(path, mend="delete it and score again")
    if not isinstance(reasons, dict) or not all(isinstance(reason, str) for reason in reasons.values()):
        raise InputError("expected an object of metric and reason", file=path, mend="delete it and score again")
    return reasons


def _why_nothing(rows: Sequence[Score]) -> str:
    """Says why no row was scored, commonest reason first."""
    if not rows:
        return "the run has no sample"
    reasons = Counter(row.reason or row.status for row in rows)
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return "; ".join(f"{reason} ({count} of {len(rows)} samples)" for reason, count in ordered[:3])


def _estimate(spec: MetricSpec, columns: list[Column], sampler: ClusterBootstrap | None) -> Estimate:
    if sampler is None:
        return Estimate(point_estimate(spec, columns), None, None, 0, 0)
    return sampler.estimate(spec, columns)


def _metric(
    spec: MetricSpec, table: _Table, reasons: Mapping[str, str], sampler: ClusterBootstrap | None
) -> dict[str, Any]:
    """Returns a metric's entry without its paper value, or `{absent: reason}`."""
    if spec.name in reasons:
        return {"absent": reasons[spec.name]}
    lacking = [name for name in spec.inputs if name not in table.rows]
    if lacking:
        fallback = "the run has no sample" if not table.samples else "this run was not asked for it"
        return {"absent": next((reasons[name] for name in lacking if name in reasons), fallback)}
    inputs = [table.rows[name] for name in spec.inputs]
    states = [{row.status for row in rows} for rows in zip(*inputs, strict=True)]
    scored = sum("scored" in state for state in states)
    if not scored:
        return {"absent": _why_nothing([row for rows in inputs for row in rows])}
    columns = table.columns(spec)
    found = _estimate(spec, columns, sampler)
    if found.value is None:
        return {"absent": "nothing to divide by in any scored sample"}
    errors = sum("scored" not in state and "error" in state for state in states)
    return {
        "value": found.value,
        "ci_low": found.ci_low,
        "ci_high": found.ci_high,
        "clusters": found.clusters,
        "n": scored,
        "n_unscored": len(states) - scored - errors,
        "n_error": errors,
        "coverage": scored / len(states),
        **_items(spec, columns, table),
        "implementation": spec.implementation,
        "unit": spec.unit,
        "higher_is_better": spec.higher_is_better,
    }


def _items(spec: MetricSpec, columns: Sequence[Column], table: _Table) -> dict[str, float]:
    """Returns how many items the metric counted (pairs, feedbacks), and of how many where it says which."""
    if len(columns) != 1:
        return {}
    whole = table.rows.get(spec.out_of, [])
    total = {"items_total": float(sum(row.denominator for row in whole))} if whole else {}
    return {"items": float(columns[0].denominators.sum()), **total}


def _paper_row(run: Mapping[str, Any], paper: Mapping[str, Any] | None) -> tuple[dict[str, Any] | None, str]:
    """Returns the published row a run may be compared with, or None and why there is none."""
    if run["demo"]:
        return None, DEMO_NOTE
    name = run.get("paper_row")
    row = paper["rows"].get(name) if paper and name else None
    if row is None:
        return None, "nothing published for this variant"
    if row["dataset"] != run["dataset"]:
        return None, f"published for another dataset ({row['dataset']})"
    return row, ""


def _compared(value: float, metric: str, row: dict[str, Any] | None, why: str, partial: bool) -> dict[str, Any]:
    """Returns `paper` and `paper_note` of a metric."""
    if row is None or metric not in row["metrics"]:
        return {"paper": None, "paper_note": why or "not published for this metric"}
    published = row["metrics"][metric]
    difference = value - published["value"]
    return {
        "paper": {
            "value": published["value"],
            "tolerance": published["tolerance"],
            "difference": difference,
            "within": None if partial else abs(difference) <= published["tolerance"] + 1e-12,
            "note": published.get("note"),
            "source": row["source"],
        },
        "paper_note": "partial run: only some of the samples the paper used" if partial else None,
    }


def _published(row: dict[str, Any] | None, why: str, paper: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns what a run says about the published row as a whole."""
    if row is None or paper is None:
        return {"compared": False, "reason": why}
    values = {name: entry["value"] for name, entry in row["metrics"].items()}
    return {
        "compared": True,
        "reference": paper["reference"],
        "source": row["source"],
        "values": values,
        "deviations": list(row.get("deviations") or []),
    }


def _sampler(table: _Table, bootstrap: Mapping[str, Any]) -> ClusterBootstrap | None:
    if not bootstrap["replicates"] or not table.samples:
        return None
    return ClusterBootstrap(
        table.clusters,
        replicates=bootstrap["replicates"],
        seed=bootstrap["seed"],
        level=bootstrap["confidence"],
    )


def _dropped(path: Path | None) -> list[dict[str, Any]]:
    """Returns why parts of the dataset gave no sample, and how many for each reason."""
    if path is None:
        return []
    rows = read_json(path, mend="run the samples stage again").get("dropped", [])
    counted = Counter(str(row["reason"]) for row in rows)
    return [
        {"reason": reason, "count": number}
        for reason, number in sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    ]


def _run(
    run: Mapping[str, Any],
    table: _Table,
    reasons: Mapping[str, str],
    paper: Mapping[str, Any] | None,
    bootstrap: Mapping[str, Any],
    partial: int | None,
    specs: Sequence[MetricSpec],
    judged: JudgedRun,
) -> dict[str, Any]:
    row, why = _paper_row(run, paper)
    sampler = _sampler(table, bootstrap)
    metrics: dict[str, dict[str, Any]] = {}
    for spec in specs:
        entry = _metric(spec, table, reasons, sampler)
        if "absent" not in entry:
            entry |= _compared(entry["value"], spec.name, row, why, partial is not None)
        metrics[spec.name] = entry
    judged.complete(metrics)
    metrics |= {name: {"absent": reason} for name, reason in reasons.items() if name not in metrics}
    return {
        **{name: run[name] for name in _COPIED},
        "n_samples": len(table.samples),
        "n_clusters": len(set(table.clusters)),
        "n_failed": table.failed(),
        "partial": partial,
        "paper": _published(row, why, paper),
        "metrics": metrics,
    }


def _against(
    run: Mapping[str, Any],
    known: Mapping[tuple[str, str], tuple[dict[str, Any], _Table]],
    bootstrap: Mapping[str, Any],
    specs: Sequence[MetricSpec],
) -> dict[str, Any] | None:
    """Returns how far a run is above the baseline its variant names, metric by metric, each a paired difference.

    None when the run names none, or the baseline was not run on the same samples.
    """
    other = known.get((run["dataset"], run.get("to_beat") or ""))
    entry, table = known[run["dataset"], run["variant"]]
    if other is None or [one.id for one in table.samples] != [one.id for one in other[1].samples]:
        return None
    sampler = _sampler(table, bootstrap) or ClusterBootstrap(table.clusters, replicates=0)
    found: dict[str, Any] = {}
    for spec in specs:
        if any("absent" in side["metrics"][spec.name] for side in (entry, other[0])):
            continue
        difference = sampler.difference(spec, table.columns(spec), other[1].columns(spec))
        if difference.value is not None:
            found[spec.name] = {
                "value": difference.value,
                "ci_low": difference.ci_low,
                "ci_high": difference.ci_high,
            }
    return {"variant": other[0]["variant"], "variant_title": other[0]["variant_title"], "differences": found}


def _refuse_unknown(table: _Table, specs: Sequence[MetricSpec], path: Path) -> None:
    known = {name for spec in specs for name in (spec.name, *spec.inputs)}
    unknown = sorted(table.rows.keys() - known)
    if unknown:
        raise StoreError(
            f"rows of {', '.join(unknown)}, which the system does not list among its metrics",
            file=path, mend="score again, or add the metric to the system's list",
        )  # fmt: skip


def summarise(
    *,
    title: str,
    runs: Sequence[Mapping[str, Any]],
    samples: Sequence[Path],
    scores: Sequence[Path],
    absent: Sequence[Path],
    paper: Mapping[str, Any] | None,
    bootstrap: Mapping[str, Any],
    partial: int | None,
    specs: Sequence[MetricSpec],
    target: Path,
    plans: Sequence[Path] | None = None,
    judge_rows: Sequence[Path] = (),
    judge_notes: Sequence[Path] = (),
) -> dict[str, int]:
    """Writes the metrics file of one system.

    Args:
        title: The system's name for people.
        runs: Per run: dataset, variant, their titles and notes, weights_kind, demo, paper_row.
        samples: `samples.parquet` per run, in the order of `runs`.
        scores: `scores.parquet` per run.
        absent: JSON object of metric and reason per run, for metrics that could not be computed.
        paper: The published numbers (`PaperCard`), if any.
        bootstrap: replicates (0: no intervals), seed, confidence.
        partial: The limit on samples, if one was set; the file then says it is partial.
        specs: The system's metrics, in the order of the report.
        target: File to write.
        plans: `plan.json` per run, whose `dropped` says what of the dataset gave no sample; None leaves it out.
        judge_rows, judge_notes: What each judge of each run wrote, in the order of the runs' `judges`.

    Returns:
        Counts for the timings table: runs, samples, metrics, absent.

    Raises:
        StoreError: Rows are missing, doubled, or belong to no sample or no known metric.
        InputError: An input is malformed.
    """
    entries, digests = [], {}
    by_run: dict[tuple[str, str], tuple[dict[str, Any], _Table]] = {}
    known_plans: Sequence[Path | None] = plans if plans is not None else [None] * len(runs)
    rows_of_judges, notes_of_judges = iter(judge_rows), iter(judge_notes)
    order = [spec.name for spec in specs]
    for run, *paths, plan in zip(runs, samples, scores, absent, known_plans, strict=True):
        judged = read_judged(run, specs, rows_of_judges, notes_of_judges)
        asked = judged.all_specs(specs)
        order += [spec.name for spec in judged.specs if spec.name not in order]
        table = _table(Path(paths[0]), Path(paths[1]), judged)
        _refuse_unknown(table, asked, Path(paths[1]))
        reasons = {name: why for name, why in _absent_reasons(Path(paths[2])).items() if name not in judged.rows}
        entry = _run(run, table, reasons, paper, bootstrap, partial, asked, judged)
        entries.append(entry | {"dropped": _dropped(plan)})
        by_run[run["dataset"], run["variant"]] = (entries[-1], table)
        digests[f"{run['dataset']}/{run['variant']}"] = {
            name: sha256_file(path) for name, path in zip(("samples", "scores", "absent"), paths, strict=True)
        }
    for run, entry in zip(runs, entries, strict=True):
        entry["against"] = _against(run, by_run, bootstrap, specs)
    summary = {
        "title": title,
        "metric_order": order,
        "runs": entries,
        "provenance": {
            "inputs_sha256": digests,
            "stage_versions": {name: STAGE[name] for name in _UPSTREAM},
            "bootstrap": dict(bootstrap),
        },
    }
    write_json(target, summary)
    everything = [metric for entry in entries for metric in entry["metrics"].values()]
    return {
        "runs": len(entries),
        "samples": sum(entry["n_samples"] for entry in entries),
        "metrics": sum("absent" not in metric for metric in everything),
        "absent": sum("absent" in metric for metric in everything),
    }


def as_text(path: str | Path) -> str:
    """Returns a metrics file as a table for the terminal.

    Raises:
        InputError: The file is missing or is not a metrics file.
    """
    from sightline.report.comparison import read_summaries, tables

    (table,) = tables(read_summaries([Path(path)]))
    lines = [table.title]
    for run in table.runs:
        lines += ["", f"{run.title}: {run.dataset} ({run.names})", f"  {', '.join(run.facts)}"]
        width = max((len(row.name) for row in run.rows), default=0)
        for row in run.rows:
            if row.absent:
                lines.append(f"  {row.name:{width}}  not computed: {row.absent}")
                continue
            beside = f"paper {row.paper}, {row.difference}; {row.why}" if run.compared else row.why
            lines.append(f"  {row.name:{width}}  {row.value:>7} {row.interval:17} n={row.samples:<6} {beside}")
    return "\n".join(lines)
