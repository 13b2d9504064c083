"""Writes the report pages: one self-contained file each, which asks for nothing and runs nothing foreign.

Every text passes through Jinja2's autoescape. The page's policy allows its own style and script by their hashes
and pictures only as data, so that even a text that slipped through could not run.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sightline.errors import InputError
from sightline.records.files import to_json, write_text
from sightline.records.rows import read_views
from sightline.records.types import View
from sightline.report import comparison as compare
from sightline.report import timings as times
from sightline.report.baselines import baseline_rows
from sightline.report.figures import WIDTH, ListRow, TimelineFigure, as_list, draw_timeline, shown
from sightline.report.kinds import BARS, BOXES, CURVE, FILMSTRIP, BarsView, BoxesView, CurveView, FilmstripView
from sightline.report.learning import HEIGHT, LearningCurve, read_curves
from sightline.report.learning import WIDTH as CURVE_WIDTH
from sightline.report.plots import (
    BAR_WIDTH,
    BOXES_WIDTH,
    LABEL_WIDTH,
    VALUE_WIDTH,
    BarsFigure,
    BoxesFigure,
    CurveFigure,
    draw_bars,
    draw_boxes,
    draw_curve,
)
from sightline.report.plots import CURVE_HEIGHT as PLOT_HEIGHT
from sightline.report.plots import CURVE_WIDTH as PLOT_WIDTH
from sightline.report.views import TIMELINE, TimelineView

_TEMPLATES = Path(__file__).parent / "templates"
_PICTURE_BUDGET = 24 << 20
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}\Z")


@dataclass(frozen=True)
class _Card:
    """One sample on the page."""

    anchor: str
    identifier: str
    run: str
    kind: str
    view: TimelineView | FilmstripView | BarsView | CurveView | BoxesView
    figure: TimelineFigure | BarsFigure | CurveFigure | BoxesFigure | None
    strip: list[tuple[str, str]]
    facets: str
    rows: list[ListRow] = field(default_factory=list)
    heard: int = 0


@dataclass
class _Budget:
    """How many bytes of pictures a page may still take."""

    left: int = _PICTURE_BUDGET
    dropped: int = 0


@dataclass(frozen=True)
class _RunCards:
    """All samples of one run, with what stands above them."""

    anchor: str
    title: str
    demo: bool
    cards: list[_Card] = field(default_factory=list)


def breakable(name: str) -> Markup:
    """Returns an escaped name that may be broken after an underscore."""
    return Markup("_<wbr>").join(shown(name, 120).split("_"))


_KINDS: dict[str, Any] = {FILMSTRIP: FilmstripView.of, BARS: BarsView.of, CURVE: CurveView.of, BOXES: BoxesView.of}
_SIZES = {
    "label": LABEL_WIDTH,
    "bar": BAR_WIDTH,
    "value": VALUE_WIDTH,
    "curve_width": PLOT_WIDTH,
    "curve_height": PLOT_HEIGHT,
    "boxes": BOXES_WIDTH,
}


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        shown=shown,
        breakable=breakable,
        duration=times.duration,
        memory=times.memory,
        percent=times.percent,
        number=compare.number,
    )
    return environment


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii") + "'"


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _render(template: str, scripts: Sequence[str] = (), **content: Any) -> str:
    style = (_TEMPLATES / "style.css").read_text(encoding="utf-8")
    script = "".join((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.js", *scripts))
    return (
        _environment()
        .get_template(template)
        .render(style=Markup(style), script=Markup(script), policy=_policy(style, script), **content)
    )


def write_comparison(
    summaries: Sequence[tuple[str, Mapping[str, Any]]], target: Path, curves: Sequence[LearningCurve] = ()
) -> None:
    """Writes the table of our numbers and the published ones, and how models learned; equal inputs, equal bytes."""
    found = compare.tables(summaries)
    any_demo = any(run.demo for table in found for run in table.runs)
    page = _render(
        "comparison.html.j2",
        tables=found,
        baselines={system: baseline_rows(content) for system, content in summaries},
        any_demo=any_demo,
        curves=curves,
        width=CURVE_WIDTH,
        height=HEIGHT,
    )
    write_text(target, page)


def write_samples(summaries: Sequence[tuple[str, Mapping[str, Any]]], views: Sequence[Path], target: Path) -> None:
    """Writes every sample's picture with a filter; equal inputs, equal bytes.

    Args:
        summaries: Metrics files as `comparison.read_summaries` returns them; they give the runs their names.
        views: `views.parquet` files at `<system>/<dataset>/<variant>/views.parquet`.
        target: File to write.

    Raises:
        InputError: A view is malformed or of a kind that cannot be drawn.
    """
    known = {(system, run["dataset"], run["variant"]): run for system, content in summaries for run in content["runs"]}
    budget = _Budget()
    runs: list[_RunCards] = []
    choices: dict[str, set[str]] = {}
    for path in views:
        key = (path.parts[-4], path.parts[-3], path.parts[-2]) if len(path.parts) > 3 else ("", "", path.stem)
        run = known.get(key)
        title = f"{run['variant_title']}, {run['dataset_title']}" if run else " / ".join(key)
        block = _RunCards("-".join(key), title, bool(run and run["demo"]))
        for view in read_views(path):
            card, facets = _card(view, block, str(path), budget)
            block.cards.append(card)
            for name, value in facets.items():
                choices.setdefault(name, set()).add(value)
        runs.append(block)
    filters = [(name, sorted(values)) for name, values in choices.items() if len(values) > 1]
    write_text(
        target,
        _render(
            "samples.html.j2",
            ("filter.js",),
            runs=runs,
            filters=filters,
            dropped=budget.dropped,
            width=WIDTH,
            sizes=_SIZES,
            timelines=any(card.kind == TIMELINE for run in runs for card in run.cards),
        ),
    )


def _card(view: View, block: _RunCards, file: str, budget: _Budget) -> tuple[_Card, dict[str, str]]:
    picture = _KINDS[view.kind](view, file=file) if view.kind in _KINDS else TimelineView.of(view, file=file)
    seconds = picture.frames if isinstance(picture, (TimelineView, FilmstripView)) else [0.0] * len(view.thumbs)
    status = "ok" if isinstance(picture, (BarsView, CurveView)) else picture.status
    named = {"run": block.title, "status": status, **picture.facets}
    facets = {shown(name, 40): shown(value, 160) for name, value in named.items()}
    strip = _strip(view, seconds, file)
    size = sum(len(one) for _, one in strip)
    if size > budget.left:
        budget.dropped += 1
        strip = []
    else:
        budget.left -= size
    anchor, facts = f"{block.anchor}-{view.id}", to_json(facets)
    if isinstance(picture, TimelineView):
        figure, rows = draw_timeline(picture), as_list(picture)
        heard = sum(mark.matched for mark in picture.truth)
        return _Card(anchor, view.id, block.title, view.kind, picture, figure, strip, facts, rows, heard), facets
    drawn: BarsFigure | CurveFigure | BoxesFigure | None = None
    if isinstance(picture, BarsView):
        drawn = draw_bars(picture)
    elif isinstance(picture, CurveView):
        drawn = draw_curve(picture)
    elif isinstance(picture, BoxesView):
        drawn = draw_boxes(picture)
    return _Card(anchor, view.id, block.title, view.kind, picture, drawn, strip, facts), facets


def _strip(view: View, seconds: Sequence[float], file: str) -> list[tuple[str, str]]:
    for position, picture in enumerate(view.thumbs):
        if not _BASE64.match(picture):
            raise InputError(
                "not base64",
                file=file,
                item=view.id,
                field=f"thumbs[{position}]",
                mend="draw the views again",
            )
    return [(f"{one:.1f} s", picture) for one, picture in zip(seconds, view.thumbs, strict=True)]


def write_timing(rows: Sequence[Mapping[str, Any]], unreadable: int, target: Path) -> None:
    """Writes where the time went, per stage and per job."""
    records = [dict(row) for row in rows]
    stages = times.by_stage(records)
    content: dict[str, Any] = {
        "stages": stages,
        "jobs": records,
        "unreadable": unreadable,
        "wall_s": sum(stage.wall_s for stage in stages),
        "cpu_s": sum(stage.cpu_s for stage in stages),
        "span_s": times.span_s(records),
        "peak_mib": max((stage.peak_mib for stage in stages), default=0.0),
        "hosts": len({row["host"] for row in records}),
    }
    write_text(target, _render("timing.html.j2", **content))


def write_pages(
    metrics: Sequence[Path],
    views: Sequence[Path],
    timings_folder: Path,
    comparison: Path,
    samples: Path,
    timing: Path,
    timings: Path,
    trainings: Sequence[Path] = (),
) -> dict[str, int]:
    """Writes all pages and the timings table.

    Args:
        metrics: `<system>_metrics.json` files.
        views: `views.parquet` files of the runs.
        timings_folder: Folder of the jobs' timing records.
        comparison: Page to write: the comparison table.
        samples: Page to write: every sample.
        timing: Page to write: where the time went.
        timings: Parquet file to write: one row per job.
        trainings: `training.json` files of the models that were trained here.

    Returns:
        Counts for the timings table: systems, runs, jobs.

    Raises:
        InputError: A metrics file or a view is malformed.
        StoreError: A views file is missing or damaged.
    """
    summaries = compare.read_summaries([Path(path) for path in metrics])
    write_comparison(summaries, Path(comparison), read_curves([Path(path) for path in trainings]))
    write_samples(summaries, [Path(path) for path in views], Path(samples))
    rows, unreadable = times.read_timings(Path(timings_folder))
    times.write_table(Path(timings), rows)
    write_timing(rows, unreadable, Path(timing))
    return {"systems": len(summaries), "runs": len(views), "jobs": len(rows)}
