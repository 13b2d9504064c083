"""One video, now: what comes next at every moment of it, by the code that evaluates datasets; JSON and a timeline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal
from xml.sax.saxutils import escape

import numpy as np

from sightline.errors import AssetError, ConfigError, InputError
from sightline.records.files import content_key, write_json, write_text
from sightline.run.devices import choose_device, fix_threads
from sightline.systems.sgear.classes import ClassTable
from sightline.systems.sgear.feature_lmdb import FeatureReader
from sightline.systems.sgear.loading import feature_paths, input_files, load_predictor, window_settings
from sightline.systems.sgear.plan import SgearPlan
from sightline.systems.sgear.predict import NO_FEATURES, NON_FINITE, best, feature_inputs
from sightline.systems.sgear.records import SgearPayload
from sightline.systems.sgear.stages import classes_of
from sightline.video.decode import scan_video

_WIDTH, _ROW, _LEFT = 1000, 22, 190
_COLOURS = ("#0067a8", "#a84300", "#2e7d32", "#6a3d9a", "#8d6e00", "#00838f", "#ad1457", "#4e5b6b")


@dataclass(frozen=True)
class Moment:
    """What is expected at one moment.

    Attributes:
        time_s: Seconds of the video seen so far.
        actions: The five best, best first, with their probability.
        reason: Why there is no answer; empty when there is.
    """

    time_s: float
    actions: list[tuple[str, float]]
    reason: str = ""


def anticipate_video(
    plan: SgearPlan,
    video: Path,
    *,
    variant: str,
    results: Path,
    every_s: float = 1.0,
    dataset: str | None = None,
    backbone: Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    json_target: Path | None = None,
    plot_target: Path | None = None,
) -> Iterator[str]:
    """Yields one line per moment; writes everything as JSON and a timeline as SVG where asked to.

    Features are those the variant's feature file holds of a video of this name. Where it has none, `backbone`
    extracts them; the variant must then have been trained on features of the same backbone.

    Args:
        plan: The configuration as the room sees it.
        video: The file; its name without ending is its id.
        variant: Which model.
        results: The workflow's folder.
        every_s: Seconds between moments.
        dataset: Whose classes they are; the training's by default.
        backbone: Folder of a transformers backbone.
        device: `auto` takes a GPU if there is one.
        json_target, plot_target: Files to write.

    Raises:
        InputError: The video, the variant or the features do not allow it.
        AssetError: Weights are not there; says how to get them.
    """
    if every_s <= 0:
        raise InputError("moments need some time between them", field="every", mend="ask for e.g. --every 1")
    asked = _variant(plan, variant)
    info, _ = scan_video(video, full_decode=False)
    settings = plan.settings(asked)
    table = _classes(plan, asked, results, dataset)
    with ExitStack() as stack:
        times = np.arange(every_s, info.duration_s + 1e-6, every_s)
        logits, reasons = _answers(plan, asked, video, times, results, backbone, device, stack)
    tau = settings["windows"]["tau_a"]
    moments = [_moment(time, row, reason, table) for time, row, reason in zip(times, logits, reasons, strict=True)]
    yield f"{video.name}: {info.duration_s:.1f} s, expected {tau:g} s ahead ({variant})"
    for moment in moments:
        yield _line(moment)
    if json_target:
        write_json(json_target, _document(video, variant, tau, moments))
    if plot_target:
        write_text(plot_target, draw_timeline(moments, info.duration_s, f"{video.name}, next action by {variant}"))


def _variant(plan: SgearPlan, variant: str) -> Any:
    variants = plan.plan.card(plan.system).variants
    able = [name for name, one in variants.items() if one.model is not None and one.model.vit is None]
    if variant not in able:
        raise InputError(
            f"the card has no model {variant} on features", field="variant", mend=f"use one of {', '.join(able)}"
        )
    return SimpleNamespace(variant=variant)


def _needed(path: Path) -> Path:
    if not path.is_file():
        raise AssetError("it is not here", file=path, mend=f"run `snakemake {path.as_posix()}` first")
    return path


def _classes(plan: SgearPlan, asked: Any, results: Path, dataset: str | None) -> ClassTable:
    card = plan.plan.card(plan.system)
    trained_by = card.variants[asked.variant].trained_by
    name = dataset or (card.training[trained_by].dataset if trained_by else None)
    if name is None:
        raise ConfigError([f"variant {asked.variant} was trained elsewhere: say whose classes with --dataset"])
    found = plan.plan.dataset(name)
    record = _needed(results / "assets" / found.asset / "asset.json")
    return classes_of(str(record), {"layout": found.layout, "folder": found.folder})


def _answers(
    plan: SgearPlan, asked: Any, video: Path, times: np.ndarray, results: Path, backbone: Path | None, device: str,
    stack: ExitStack,
) -> tuple[np.ndarray, list[str]]:  # fmt: skip
    """Returns logits [n, A] at each moment (seconds), and why one has none."""
    settings = plan.settings(asked)
    records = [str(_needed(results / "assets" / name / "asset.json")) for name in plan.weights_assets(asked)]
    trained = [str(_needed(results.joinpath(*Path(path).parts[1:]))) for path in plan.training.of_variant(asked)]
    files = input_files(records, trained, settings)
    chosen = "cpu" if device == "cpu" else choose_device(1, demo_weights=device == "auto")
    fix_threads(settings["cpu_threads"])
    windows = window_settings(settings)
    tau_a, tau_o = settings["windows"]["tau_a"], settings["windows"]["tau_o"]
    payloads = [_payload(video.stem, float(time), tau_a, tau_o) for time in times]
    if not payloads:
        raise InputError("the video is shorter than one step", file=video, mend="ask for a smaller --every")
    paths = feature_paths(files)
    if backbone is not None:
        paths = [_extracted(video, backbone, chosen, results)]
    reader = stack.enter_context(FeatureReader(paths, dim=settings["model"]["input_dim"]))
    predictor = load_predictor(files, settings, chosen, feature_inputs(reader, windows))
    logits, _, empty = predictor.logits(payloads)
    if empty.all():
        raise InputError(
            f"no feature of a video named {video.stem} is stored", file=paths[0],
            mend="name the file as the dataset does, or extract features with --backbone",
        )  # fmt: skip
    finite = np.isfinite(logits).all(axis=1)
    reasons = np.where(empty, NO_FEATURES, np.where(finite, "", NON_FINITE)).tolist()
    return logits, reasons


def _payload(video_id: str, time: float, tau_a: float, tau_o: float) -> SgearPayload:
    return SgearPayload(
        uid=f"{time:.3f}", narration_id=f"{time:.3f}", video_id=video_id, participant_id=video_id.split("_")[0],
        start=time - tau_o, end=time, action_start=time + tau_a, action_end=time + tau_a, action=-1, verb=-1, noun=-1,
        row=0,
    )  # fmt: skip


def _extracted(video: Path, backbone: Path, device: str, results: Path) -> Path:
    """Extracts the features of one video, or finds them from an earlier call."""
    from sightline.systems.sgear.extract import ExtractSettings, extract_features, open_backbone

    encode, key = open_backbone(backbone, device=device)
    folder = results / "work" / "sgear" / "own" / content_key(key)[:16]
    extract_features({video.stem: video.name}, [video.parent], folder, encode, key, ExtractSettings())
    return folder


def _moment(time: float, logits: np.ndarray, reason: str, table: ClassTable) -> Moment:
    if reason:
        return Moment(float(time), [], reason)
    weights = np.exp(np.asarray(logits, np.float64) - logits.max())
    shares = weights / weights.sum()
    top = best(logits[None])[0]
    return Moment(float(time), [(table.actions[label].strip(), float(shares[label])) for label in top])


def _line(moment: Moment) -> str:
    if moment.reason:
        return f"{moment.time_s:7.1f} s  no answer: {moment.reason}"
    return f"{moment.time_s:7.1f} s  " + ", ".join(f"{name} {100 * share:.0f} %" for name, share in moment.actions)


def _document(video: Path, variant: str, tau_a: float, moments: Sequence[Moment]) -> dict[str, Any]:
    return {
        "video": video.name,
        "variant": variant,
        "tau_a_s": tau_a,
        "moments": [
            {
                "time_s": one.time_s,
                "reason": one.reason,
                "next": [{"action": name, "probability": share} for name, share in one.actions],
            }
            for one in moments
        ],
    }


def draw_timeline(moments: Sequence[Moment], duration_s: float, title: str) -> str:
    """Returns an SVG: a row per action that was ever first, a dot where it was among the five, as dark as likely."""
    firsts = list(dict.fromkeys(one.actions[0][0] for one in moments if one.actions))
    height = _ROW * (len(firsts) + 3)

    def across(time: float) -> float:
        return round(_LEFT + (_WIDTH - _LEFT - 20) * time / max(duration_s, 1e-9), 1)

    step = (moments[1].time_s - moments[0].time_s) if len(moments) > 1 else duration_s
    width = max(1.0, across(step) - across(0) - 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="8" y="16" font-weight="bold">{escape(title)}</text>',
    ]
    for row, name in enumerate(firsts):
        y = _ROW * (row + 1.5)
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 12}" text-anchor="end">{escape(name[:28])}</text>')
        for one in moments:
            share = dict(one.actions).get(name)
            if share is not None:
                edge = ' stroke="#1b222c"' if one.actions[0][0] == name else ""
                parts.append(
                    f'<rect x="{across(one.time_s)}" y="{y}" width="{width:.1f}" height="{_ROW - 6}" '
                    f'fill="{_COLOURS[row % len(_COLOURS)]}" fill-opacity="{0.12 + 0.88 * share:.2f}"{edge}>'
                    f"<title>{one.time_s:.1f} s: {escape(name)} {100 * share:.0f} %</title></rect>"
                )
    for tick in np.linspace(0, duration_s, 7):
        parts.append(f'<text x="{across(float(tick))}" y="{height - 8}" text-anchor="middle">{tick:.0f} s</text>')
    return "\n".join([*parts, "</svg>", ""])
