"""The pages show everything, run nothing foreign, ask for nothing, and are the same bytes for the same inputs."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from sightline.errors import InputError
from sightline.records.files import write_json
from sightline.records.rows import write_parquet
from sightline.records.types import View
from sightline.report.figures import WIDTH, as_list, draw_timeline, shown, wrap
from sightline.report.pages import write_comparison, write_pages
from sightline.report.views import Mark, TimelineView

HOSTILE = [
    "<script>alert('x')</script>",
    "</script></title></style><img src=x onerror=alert(1)>",
    '" onload="alert(1)" \' autofocus onfocus=alert(2) x=\'',
    "javascript:alert(1) {{ 7*7 }} {% raw %}",
    "=cmd|' /C calc'!A0",
    "\u202egnp.exe \u2066abc אבג 😀 \x00\x07\x1b[31m\ud800",
]
VOID = {"meta", "img", "br", "wbr", "link", "input", "hr", "area", "base", "col", "embed", "source", "track"}


class Page(HTMLParser):
    """What a browser would find: tags, attributes, scripts, styles, text; and whether tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.content: dict[str, list[str]] = {"script": [], "style": []}
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        inside = self.open[-1] if self.open else ""
        self.content.get(inside, self.text).append(data)

    def attributes(self, name: str) -> list[str]:
        return [value or "" for _, attributes in self.tags for key, value in attributes.items() if key == name]


def timeline(text: str = "Good job!", **changed: Any) -> TimelineView:
    fields: dict[str, Any] = {
        "title": "squats",
        "subtitle": "video 1",
        "duration_s": 12.0,
        "frames": [1.0, 6.0],
        "truth": [Mark(2.0, text, True), Mark(8.0, "Lower!", False)],
        "said": [Mark(2.5, text, True)],
        "pairs": [(0, 0)],
        "numbers": {"recall": 0.5, "text": None},
        "facets": {"video": "1", "exercise": "squats"},
        **changed,
    }
    return TimelineView(**fields)


THUMB = base64.b64encode(b"\xff\xd8 not quite a picture").decode()


def metric(value: float = 0.5, **changed: Any) -> dict[str, Any]:
    return {
        "value": value,
        "ci_low": 0.4,
        "ci_high": 0.6,
        "clusters": 3,
        "n": 5,
        "n_unscored": 1,
        "n_error": 0,
        "coverage": 5 / 6,
        "implementation": "ours",
        "unit": "",
        "higher_is_better": True,
        "paper": None,
        "paper_note": None,
        **changed,
    }


def one_run(variant: str, demo: bool, text: str) -> dict[str, Any]:
    published = {"value": 0.777, "tolerance": 0.01, "difference": -0.277, "within": False, "note": text, "source": "T1"}
    compared = {"compared": True, "reference": text, "source": "T1", "deviations": [text], "values": {"judge": 2.345}}
    return {
        "dataset": "data",
        "variant": variant,
        "dataset_title": text,
        "dataset_note": text,
        "variant_title": f"{variant} {text}",
        "weights_kind": "demo" if demo else "released",
        "demo": demo,
        "n_samples": 6,
        "n_clusters": 3,
        "n_failed": 0,
        "partial": None,
        "paper": compared,
        "metrics": {"f": metric(paper=published), "judge": {"absent": text}},
        "dropped": [{"reason": text, "count": 2}],
    }


def build(folder: Path, text: str = "plain", views: list[View] | None = None) -> dict[str, Path]:
    """Writes inputs in which every text is `text`, and the pages."""
    summary = {
        "title": f"System {text}",
        "metric_order": ["f"],
        "runs": [one_run("released", False, text), one_run("demo", True, text)],
        "provenance": {"bootstrap": {"replicates": 100, "seed": 0, "confidence": 0.95}},
    }
    clean = json.loads(json.dumps(summary).encode("utf-8", "replace").decode().replace("\\ud800", ""))
    write_json(folder / "sys_metrics.json", clean)
    if views is None:
        told = {"title": text, "subtitle": text, "facets": {text[:40]: text}, "notes": [text]}
        told = {**told, "numbers": {text: 1.0, "none": None}}
        drawn = timeline(text, **told).to_view("s-0", [THUMB, THUMB])
        broken = timeline(text, status="failed", reason=text, frames=[], said=[], pairs=[]).to_view("s-1", [])
        views = [drawn, broken]
    place = folder / "runs" / "sys" / "data" / "released" / "views.parquet"
    safe = [View.from_json(json.loads(json.dumps(view.to_json()).replace("\\ud800", ""))) for view in views]
    write_parquet(place, View, safe)
    row = {"job": f"predict~{text}", "rule": f"predict {text}", "status": "ok", "started": 1.7e9, "wall_s": 2.0}
    row |= {"cpu_s": 1.5, "max_rss_mib": 100.0, "host": "h", "pid": 1, "counts": {text: text}}
    write_json(folder / "timings" / "a.json", json.loads(json.dumps(row).replace("\\ud800", "")))
    targets = {name: folder / "report" / f"{name}.html" for name in ("comparison", "samples", "timing")}
    targets["timings"] = folder / "report" / "timings.parquet"
    write_pages([folder / "sys_metrics.json"], [place], folder / "timings", **targets)
    return targets


def test_values_absence_and_reason_are_shown(tmp_path: Path) -> None:
    pages = {name: Page(path.read_text()) for name, path in build(tmp_path).items() if path.suffix == ".html"}
    comparison = " ".join(pages["comparison"].text)
    for words in ("0.500", "[0.400, 0.600]", "83 %", "0.777", "\u22120.277", "2.345", "not computed"):
        assert words in comparison
    samples = " ".join(pages["samples"].text)
    for words in ("squats", "Lower!", "missed", "failed"):
        assert words in samples
    assert len([tag for tag, _ in pages["samples"].tags if tag == "img"]) == 2
    assert "2.0 s" in " ".join(pages["timing"].text)


def test_demo_rows_are_marked_and_never_beside_the_paper(tmp_path: Path) -> None:
    text = build(tmp_path)["comparison"].read_text()
    released, demo = re.split(r'<tbody[^>]*class="demo"', text)
    demo = demo.split("</tbody>")[0]
    assert "0.777" in released
    assert "2.345" in released
    assert "demo" in demo
    assert "0.777" not in demo
    assert "2.345" not in demo
    assert "compares with nothing published" in text


def test_a_system_of_demo_runs_has_no_columns_for_a_paper(tmp_path: Path) -> None:
    released, demo = one_run("released", False, "plain"), one_run("demo", True, "plain")
    headers = []
    for number, runs in enumerate(([released, demo], [demo])):
        target = tmp_path / f"{number}.html"
        content = {"title": "S", "runs": runs, "provenance": {"bootstrap": {"confidence": 0.95, "replicates": 9}}}
        write_comparison([("s", content)], target)
        headers.append(re.findall(r'scope="col"[^>]*>([^<]+)', target.read_text()))
    assert headers[0][4:] == ["Paper", "Difference", "Why"]
    assert headers[1] == headers[0][:4]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_shown_and_never_run(tmp_path: Path, text: str) -> None:
    plain = build(tmp_path / "plain")
    for name, path in build(tmp_path / "hostile", text).items():
        if path.suffix != ".html":
            continue
        page, expected = Page(path.read_text(encoding="utf-8")), Page(plain[name].read_text())
        assert not page.open, "tags are left open"
        assert page.content == expected.content, "a script or style that is not ours"
        assert {tag for tag, _ in page.tags} <= {tag for tag, _ in expected.tags} | {"details", "label", "select"} | {
            "option",
            "wbr",
        }
        assert not [key for _, found in page.tags for key in found if key.startswith("on") or key == "style"]
        assert not [href for href in page.attributes("href") if not re.match(r"#[\w.-]+\Z|[a-z]+\.html\Z", href)]
        assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", path.read_text(encoding="utf-8"))
    shown_text = "".join(Page((tmp_path / "hostile/report/samples.html").read_text(encoding="utf-8")).text)
    assert shown(text.replace("\ud800", ""))[:20] in shown_text


def test_nothing_is_asked_of_the_network_and_the_policy_fits(tmp_path: Path) -> None:
    for path in build(tmp_path).values():
        if path.suffix != ".html":
            continue
        text = path.read_text()
        page = Page(text)
        assert not re.search(r"(https?:)?//[a-z]", "".join(page.content["script"] + page.content["style"]))
        assert not [tag for tag, _ in page.tags if tag in ("link", "iframe", "object", "embed", "base")]
        assert all(source.startswith("data:image/jpeg;base64,") for source in page.attributes("src"))
        policy = next(found["content"] for _, found in page.tags if "http-equiv" in found)
        assert policy
        assert policy.startswith("default-src 'none'")
        for kind in ("script", "style"):
            (content,) = page.content[kind]
            digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            assert f"{kind}-src 'sha256-{digest}'" in policy
        assert "unsafe" not in policy


def test_equal_inputs_give_equal_bytes(tmp_path: Path) -> None:
    first, second = build(tmp_path / "a"), build(tmp_path / "b")
    for name in ("comparison", "samples"):
        assert first[name].read_bytes() == second[name].read_bytes()
        assert str(tmp_path).encode() not in first[name].read_bytes()


def test_timings_table_and_unreadable_record(tmp_path: Path) -> None:
    build(tmp_path)
    (tmp_path / "timings" / "b.json").write_text("{")
    (tmp_path / "timings" / "c.json").write_text('{"job": 3}')
    targets = build(tmp_path)
    rows = pq.read_table(targets["timings"]).to_pylist()
    assert [row["rule"] for row in rows] == ["predict plain"]
    assert rows[0]["wall_s"] == 2.0
    assert "2 records could not be read" in " ".join(targets["timing"].read_text().split())


def test_empty_report_is_still_a_page(tmp_path: Path) -> None:
    targets = {name: tmp_path / f"{name}.html" for name in ("comparison", "samples", "timing")}
    write_pages([], [], tmp_path / "none", **targets, timings=tmp_path / "t.parquet")
    assert all(not Page(path.read_text()).open for path in targets.values())
    assert pq.read_table(tmp_path / "t.parquet").num_rows == 0


@pytest.mark.parametrize(
    ("view", "words"),
    [
        (View("s", "boxes", {}), "boxes"),
        (View("s", "timeline", {"title": "x"}), "Field required"),
        (timeline().to_view("s", [THUMB]), "1 pictures for 2"),
        (timeline().to_view("s", [THUMB, '"><script>']), "not base64"),
    ],
    ids=["unknown kind", "field missing", "picture missing", "picture not base64"],
)
def test_malformed_views_are_refused(tmp_path: Path, view: View, words: str) -> None:
    with pytest.raises(InputError, match=words):
        build(tmp_path, views=[view])


def test_boxes_stay_inside_and_apart() -> None:
    truth = [Mark(0.3 * number, f"feedback number {number} " * (1 + number % 4), False) for number in range(14)]
    said = [Mark(-0.2, "early", False), Mark(99.0, "late", False)]
    figure = draw_timeline(timeline(truth=truth, said=said, pairs=[], duration_s=5.0))
    assert len(figure.boxes) == 16
    for index, box in enumerate(figure.boxes):
        assert box.x >= 0
        assert box.x + box.width <= WIDTH
        assert box.y >= 0
        assert box.y + box.height <= figure.height
        for other in figure.boxes[index + 1 :]:
            apart_x = box.x + box.width <= other.x or other.x + other.width <= box.x
            apart_y = box.y + box.height <= other.y or other.y + other.height <= box.y
            assert apart_x or apart_y


def test_crowded_lanes_keep_every_text_in_the_list() -> None:
    truth = [Mark(0.1 * number, f"t{number}", False) for number in range(500)]
    view = timeline(truth=truth, said=[], pairs=[])
    figure = draw_timeline(view)
    assert figure.crowded
    assert not figure.boxes
    assert len(figure.dots) == 500
    assert len(as_list(view)) == 500


def test_list_pairs_each_text_once() -> None:
    marks = [Mark(1.0, "a", True), Mark(2.0, "b", True)]
    rows = as_list(timeline(truth=marks, said=marks, pairs=[(0, 0), (0, 1), (1, 1)]))
    assert [(row.truth, row.said) for row in rows] == [(marks[0], marks[0]), (marks[1], marks[1])]


@pytest.mark.parametrize("text", ["", "short", "x" * 500, "many words " * 60, "深蹲" * 80, "e\u0301" * 90])
def test_wrapped_lines_are_few_and_narrow(text: str) -> None:
    lines = wrap(text)
    assert 1 <= len(lines) <= 4
    assert max(len(line) for line in lines) <= 100
    if len(text) < 20 and text:
        assert lines == [text]


def test_shown_caps_a_megabyte() -> None:
    assert len(shown("x" * 1_000_000)) < 700
    assert "999400 more" in shown("x" * 1_000_000)
