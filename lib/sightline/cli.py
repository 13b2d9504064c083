"""One thin command per verb."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sightline.errors import InputError, SightlineError


def _wordnet(arguments: argparse.Namespace) -> None:
    from sightline.assets.wordnet import build_wordnet

    source = {"source": arguments.source} if arguments.source else {}
    print(f"WordNet for METEOR: {build_wordnet(target=arguments.target, **source)}")


def _show(arguments: argparse.Namespace) -> None:
    from sightline.report.summary import as_text

    print(as_text(arguments.metrics))


def _coach(arguments: argparse.Namespace) -> None:
    from sightline.config.load import read_config
    from sightline.registry import load_plan, room

    folder = arguments.config
    plan = load_plan(read_config([folder / "config.yaml", *arguments.configfile]), folder)
    for line in room("fitcoach", "coach").coach_video(
        plan.room("fitcoach"),
        arguments.video,
        exercise=arguments.exercise,
        variant=arguments.weights_variant,
        results=arguments.results,
        loop=arguments.loop,
        device=arguments.device,
        json_target=arguments.json,
        vtt_target=arguments.vtt,
        mp4_target=arguments.mp4,
    ):
        print(line, flush=True)


def _profiles(arguments: argparse.Namespace) -> None:
    from sightline.run.profiles import install_profiles

    print("\n".join(install_profiles(arguments.source, arguments.target)))


def _anticipate(arguments: argparse.Namespace) -> None:
    from sightline.config.load import read_config
    from sightline.registry import load_plan, room

    folder = arguments.config
    config = read_config([folder / "config.yaml", *arguments.configfile])
    config.setdefault("systems", {}).setdefault("sgear", {})
    for line in room("sgear", "anticipate").anticipate_video(
        load_plan(config, folder).room("sgear"),
        arguments.video,
        variant=arguments.variant,
        results=arguments.results,
        every_s=arguments.every,
        dataset=arguments.dataset,
        backbone=arguments.backbone,
        device=arguments.device,
        json_target=arguments.json,
        plot_target=arguments.plot,
    ):
        print(line, flush=True)


def _refer(arguments: argparse.Namespace) -> None:
    from sightline.config.load import read_config
    from sightline.registry import load_plan, room

    folder = arguments.config
    config = read_config([folder / "config.yaml", *arguments.configfile])
    config.setdefault("systems", {}).setdefault("hoiref", {})
    plan = load_plan(config, folder).room("hoiref")
    if arguments.serve:
        _serve(plan, arguments)
        return
    if arguments.image is None:
        raise InputError("there is no picture", field="image", mend="name a file, or use --serve")
    for line in room("hoiref", "refer").refer_image(
        plan,
        arguments.image,
        arguments.question,
        variant=arguments.variant,
        results=arguments.results,
        task=arguments.task,
        box=arguments.box,
        device=arguments.device,
        json_target=arguments.json,
        picture_target=arguments.picture,
    ):
        print(line, flush=True)


def _serve(plan: Any, arguments: argparse.Namespace) -> None:
    from sightline.registry import room

    page = room("hoiref", "serve")
    desk = page.make_desk(
        plan,
        arguments.variant,
        results=arguments.results,
        device=arguments.device,
        precision=arguments.precision,
    )
    page.serve(desk, host=arguments.host, port=arguments.port)


def _manual(arguments: argparse.Namespace) -> None:
    from sightline.config.manual import write_manual
    from sightline.registry import card_models

    for path in write_manual(arguments.folder, card_models()):
        print(f"written: {path}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sightline", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    wordnet = verbs.add_parser("wordnet", help="build the WordNet folder that METEOR reads")
    wordnet.add_argument("--source", type=Path, help="folder of WordNet 3.0's files (Debian: /usr/share/wordnet)")
    wordnet.add_argument("--target", type=Path, help="corpora/wordnet folder to write (default: this environment)")
    wordnet.set_defaults(run=_wordnet)
    show = verbs.add_parser("show", help="print a metrics file as a table")
    show.add_argument("metrics", type=Path, help="results/<system>_metrics.json")
    show.set_defaults(run=_show)
    profiles = verbs.add_parser("profiles", help="put the profiles where `snakemake --profile NAME` finds them")
    profiles.add_argument("--source", type=Path, default=Path("profiles"), help="folder of profiles (profiles)")
    profiles.add_argument("--target", type=Path, help="Snakemake's configuration folder (default: the user's)")
    profiles.set_defaults(run=_profiles)
    manual = verbs.add_parser("manual", help="write the tables of config/README.md and config/schema.json")
    manual.add_argument("--folder", type=Path, default=Path("config"), help="configuration folder (default: config)")
    manual.set_defaults(run=_manual)
    _add_coach(verbs.add_parser("coach", help="coach one video, now: feedbacks are printed as they are said"))
    _add_anticipate(verbs.add_parser("anticipate", help="say what comes next at every moment of one video"))
    _add_refer(verbs.add_parser("refer", help="say where a hand or an object is in one picture, or what it is"))
    return parser


def _add_refer(refer: argparse.ArgumentParser) -> None:
    refer.add_argument("image", type=Path, nargs="?", help="picture file; none with --serve")
    refer.add_argument("question", nargs="?", default="", help='e.g. "Where is the left hand"')
    refer.add_argument("--task", choices=("grounding", "refer", "detection", "identify", "vqa"), help="tag in front")
    refer.add_argument("--box", type=float, nargs=4, metavar=("X1", "Y1", "X2", "Y2"), help="box in pixels behind it")
    refer.add_argument("--variant", default="demo", help="model of config/systems/hoiref.yaml (demo)")
    refer.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if any")
    refer.add_argument("--json", type=Path, metavar="OUT", help="write question, answer and boxes as JSON")
    refer.add_argument("--picture", type=Path, metavar="OUT", help="write the picture with its boxes as PNG")
    refer.add_argument("--config", type=Path, default=Path("config"), help="configuration folder (config)")
    refer.add_argument("--configfile", type=Path, action="append", default=[], help="laid over config.yaml; repeatable")
    refer.add_argument("--results", type=Path, default=Path("results"), help="the workflow's results (results)")
    refer.add_argument("--serve", action="store_true", help="open a page to ask on instead; Ctrl-C ends it")
    refer.add_argument("--host", default="127.0.0.1", help="address of the page (127.0.0.1: this machine alone)")
    refer.add_argument("--port", type=int, default=7860, help="port of the page; 0 takes a free one (7860)")
    refer.add_argument("--precision", choices=("32-bit", "16-bit", "8-bit"), help="of the page (the variant's)")
    refer.set_defaults(run=_refer)


def _add_anticipate(anticipate: argparse.ArgumentParser) -> None:
    anticipate.add_argument("video", type=Path, help="video file; its name without ending is looked up among features")
    anticipate.add_argument("--variant", default="demo_rgb", help="model of config/systems/sgear.yaml (demo_rgb)")
    anticipate.add_argument("--every", type=float, default=1.0, help="seconds between moments (1)")
    anticipate.add_argument("--dataset", help="dataset whose classes they are (default: the one trained on)")
    anticipate.add_argument("--backbone", type=Path, help="folder of a transformers backbone that makes the features")
    anticipate.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if any")
    anticipate.add_argument("--json", type=Path, metavar="OUT", help="write everything as JSON")
    anticipate.add_argument("--plot", type=Path, metavar="OUT", help="write a timeline as SVG")
    anticipate.add_argument("--config", type=Path, default=Path("config"), help="configuration folder (config)")
    anticipate.add_argument(
        "--configfile", type=Path, action="append", default=[], help="laid over config.yaml; repeatable"
    )
    anticipate.add_argument("--results", type=Path, default=Path("results"), help="the workflow's results (results)")
    anticipate.set_defaults(run=_anticipate)


def _add_coach(coach: argparse.ArgumentParser) -> None:
    coach.add_argument("video", type=Path, help="video file; `<name>_timestamps.npy` beside it is used, as in QEVD")
    coach.add_argument("--exercise", required=True, help="what the user does in it, e.g. squats")
    coach.add_argument("--weights-variant", default="demo", help="variant of config/systems/fitcoach.yaml (demo)")
    coach.add_argument("--loop", choices=("published", "realtime"), help="streaming loop (default: the variant's)")
    coach.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if there is one"
    )
    coach.add_argument("--json", type=Path, metavar="OUT", help="write everything as JSON")
    coach.add_argument("--vtt", type=Path, metavar="OUT", help="write WebVTT subtitles")
    coach.add_argument("--mp4", type=Path, metavar="OUT", help="write the video with the feedbacks drawn in, no sound")
    coach.add_argument("--config", type=Path, default=Path("config"), help="configuration folder (config)")
    coach.add_argument("--configfile", type=Path, action="append", default=[], help="laid over config.yaml; repeatable")
    coach.add_argument("--results", type=Path, default=Path("results"), help="the workflow's results (results)")
    coach.set_defaults(run=_coach)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one verb; a problem the user can mend is printed as one line and ends with its exit code."""
    parsed = _parser().parse_args(arguments)
    try:
        parsed.run(parsed)
    except SightlineError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
