"""One thin command per verb."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sightline.errors import SightlineError


def _wordnet(arguments: argparse.Namespace) -> None:
    from sightline.assets.wordnet import build_wordnet

    source = {"source": arguments.source} if arguments.source else {}
    print(f"WordNet for METEOR: {build_wordnet(target=arguments.target, **source)}")


def _show(arguments: argparse.Namespace) -> None:
    from sightline.report.summary import as_text

    print(as_text(arguments.metrics))


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
    manual = verbs.add_parser("manual", help="write the tables of config/README.md and config/schema.json")
    manual.add_argument("--folder", type=Path, default=Path("config"), help="configuration folder (default: config)")
    manual.set_defaults(run=_manual)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one verb; a problem the user can mend is printed as one line and ends with its exit code."""
    parsed = _parser().parse_args(arguments)
    try:
        parsed.run(parsed)
    except SightlineError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
