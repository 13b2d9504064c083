"""One video, now: Stream-VLM coaches a file on the benchmark's own code path; JSON, subtitles and captions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import cv2
import numpy as np

from sightline.assets.acquire import locate
from sightline.config.plan import RoomPlan
from sightline.errors import AssetError, InputError
from sightline.records.files import sha256_file, write_json, write_text
from sightline.run.devices import choose_device, fix_threads
from sightline.systems.fitcoach.loading import extractor_settings, load_language_model, weight_files
from sightline.systems.fitcoach.model.cnn import load_cnn
from sightline.systems.fitcoach.pictures import ExtractorSettings
from sightline.systems.fitcoach.prompts import single_exercise_prompt
from sightline.systems.fitcoach.session import Coach, Session, open_video
from sightline.video.captions import CaptionPainter, plain_line, shown_at, to_webvtt
from sightline.video.decode import iter_frames
from sightline.video.render import write_mp4

Loop = Literal["published", "realtime"]


def load_coach(
    plan: RoomPlan,
    variant: str,
    *,
    results: str | Path = "results",
    loop: Loop | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> Coach:
    """Loads a variant's models from where the workflow puts them.

    Args:
        plan: The configuration as the room sees it.
        variant: Name of the variant in the card.
        results: The workflow's folder of results.
        loop: Instead of the variant's own.
        device: `auto` takes a GPU if there is one.

    Raises:
        InputError: The card has no such variant, or it reads no features.
        AssetError: Weights are not there; says how to get them.
        CheckpointError: Weights do not fit.
        DeviceError: `cuda` was asked for and is not usable.
    """
    wildcards = _wildcards(plan, variant)
    settings, extractor = plan.settings(wildcards), plan.extractor_settings(wildcards)
    extractor_asset = plan.plan.card(plan.system).extractors[plan.extractor(wildcards)].weights.asset
    is_demo = settings["weights_kind"] == "demo"
    records = [
        str(_needed(Path(results, "assets", asset, "asset.json"), is_demo))
        for asset in dict.fromkeys([*plan.weights_assets(wildcards), extractor_asset])
    ]
    trained = [
        str(_needed(Path(results, *Path(path).parts[1:]), is_demo)) for path in plan.training.of_variant(wildcards)
    ]
    chosen = "cpu" if device == "cpu" else choose_device(1, demo_weights=device == "auto")
    fix_threads(settings["cpu_threads"])
    model, tokenizer, stream = load_language_model(weight_files(records, trained, settings), settings, chosen)
    cnn = load_cnn(locate(Path(results, "assets", extractor_asset, "asset.json"), extractor["weights"]["file"]), chosen)
    if loop is not None:
        stream = replace(stream, loop=loop)
    return Coach(model, tokenizer, stream, cnn, extractor_settings(extractor), chosen)


def _wildcards(plan: RoomPlan, variant: str) -> Any:
    variants = plan.plan.card(plan.system).variants
    if variant not in variants or variants[variant].extractor is None:
        raise InputError(
            f"the card has no variant {variant} that watches videos", field="weights-variant",
            mend=f"use one of {', '.join(variants)}",
        )  # fmt: skip
    return SimpleNamespace(variant=variant)


def _needed(path: Path, is_demo: bool) -> Path:
    if not path.is_file():
        mend = "run `make demo` first" if is_demo else f"run `snakemake {path.as_posix()}` with your --configfile first"
        raise AssetError("the weights are not here", file=path, mend=mend)
    return path


def write_captioned(session: Session, target: str | Path, extractor: ExtractorSettings) -> int:
    """Writes the video upright with its feedbacks drawn in, H.264 without sound, and returns its frames.

    Every frame of the video is one frame of the result; the rate is the video's mean rate.

    Raises:
        InputError: The target is the video itself.
        VideoError: As `iter_frames`.
    """
    video, target = session.video, Path(target)
    if target.exists() and target.samefile(video.path):
        raise InputError("this is the video itself", file=target, mend="write the copy to another file")
    fps = (len(video.times_s) - 1) / video.seconds if video.seconds > 0 else 25.0
    return write_mp4(target, _captioned(session, extractor), Fraction(fps).limit_denominator(1001))


def _captioned(session: Session, extractor: ExtractorSettings) -> Iterator[np.ndarray]:
    video, captions = session.video, session.captions()
    painter: CaptionPainter | None = None
    for index, stored in iter_frames(
        video.path,
        apply_rotation=extractor.apply_display_rotation,
        allow_high_bit_depth=extractor.allow_high_bit_depth,
    ):
        upright = cv2.rotate(stored, cv2.ROTATE_90_CLOCKWISE) if video.turned else stored
        height, width = upright.shape[:2]
        picture = cv2.copyMakeBorder(upright, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        painter = painter or CaptionPainter(*picture.shape[:2])
        painter.draw(picture, shown_at(captions, float(video.times_s[index] - video.times_s[0])))
        yield picture


def session_json(session: Session, coach: Coach) -> dict[str, Any]:
    """Returns a session as a JSON object."""
    return {
        "video": str(session.video.path),
        "video_sha256": sha256_file(session.video.path),
        "seconds": session.video.seconds,
        "prompt": session.prompt,
        "loop": coach.stream.loop,
        "device": coach.device,
        "feature_steps": len(session.step_times_s),
        "feedbacks": [asdict(one) for one in session.said],
        "tokens": session.tokens,
        "warnings": session.warnings,
        "near_ties": session.near_ties,
        "latency_ms": session.latency_ms(),
    }


def _clock(seconds: float) -> str:
    return f"{int(seconds // 60)}:{seconds % 60:04.1f}"


def coach_video(
    plan: RoomPlan,
    video: str | Path,
    *,
    exercise: str,
    variant: str,
    results: str | Path = "results",
    loop: Loop | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    json_target: Path | None = None,
    vtt_target: Path | None = None,
    mp4_target: Path | None = None,
) -> Iterator[str]:
    """Coaches one video and yields the lines to print, feedbacks as they are said.

    Args:
        plan, variant, results, loop, device: As of `load_coach`.
        video: The file.
        exercise: What the user does in it; goes into the prompt of `single_exercise`.
        json_target, vtt_target, mp4_target: Files to write: everything, subtitles, the video with captions.

    Raises:
        InputError: A target cannot be written or is the video, or the exercise has no name; before anything runs.
        SightlineError: As `open_video`, `load_coach` and `Coach.watch`.
    """
    targets = [Path(one) for one in (json_target, vtt_target, mp4_target) if one is not None]
    _check_targets(targets, Path(video))
    if not exercise.strip():
        raise InputError("the exercise has no name", field="exercise", mend="say what the user does, e.g. squats")
    extractor = extractor_settings(plan.extractor_settings(_wildcards(plan, variant)))
    opened = open_video(video, extractor)
    session = Session(opened, single_exercise_prompt(exercise))
    coach = load_coach(plan, variant, results=results, loop=loop, device=device)
    yield (
        f"{exercise} in {opened.path.name}: {opened.seconds:.1f} s, {opened.steps} feature steps; "
        f"{variant} on {coach.device}, loop {coach.stream.loop}"
    )
    for said in coach.watch(session):
        yield f"[{_clock(said.video_s)}] {plain_line(said.text)}"
    yield from _summary(session, coach)
    if json_target is not None:
        write_json(json_target, session_json(session, coach))
    if vtt_target is not None:
        write_text(vtt_target, to_webvtt(session.captions()))
    if mp4_target is not None:
        write_captioned(session, mp4_target, coach.extractor)
    yield from (f"written: {target}" for target in targets)


def _check_targets(targets: list[Path], video: Path) -> None:
    for place, target in enumerate(targets):
        if target in targets[:place]:
            raise InputError("two outputs have one name", file=target, mend="give each its own file")
        if target.exists() and video.exists() and target.samefile(video):
            raise InputError("this is the video itself", file=target, mend="write to another file")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot be written ({error.strerror})", file=target, mend="choose another place"
            ) from None
        if target.is_dir() or not os.access(target.parent, os.W_OK):
            raise InputError("cannot be written", file=target, mend="choose another file")


def _summary(session: Session, coach: Coach) -> Iterator[str]:
    count = len(session.said)
    spoken = "nothing was said" if not count else f"{count} feedback{'s' * (count > 1)}"
    yield f"{spoken}{''.join(f'; warning: {warning}' for warning in session.warnings)}"
    latency = session.latency_ms()
    shown = {name: f"{part['median']:.0f} ms, p95 {part['p95']:.0f} ms" for name, part in latency.items()}
    if shown:
        yield (
            f"latency per feature step (one every {1000 / coach.stream.feats_frequency:.0f} ms): median {shown['step']}"
            f" (frames and 3D CNN {shown['cnn']}; language model {shown['language_model']})"
        )
