"""WordNet 3.0 as NLTK wants it, from the files Debian ships.

Debian's `wordnet-base` and `wordnet-sense-index` hold the database; NLTK also wants `lexnames`, which no
package ships. The names below are those of the manual page lexnames(5WN). NLTK refuses data reached through
a symbolic link out of its own folder, so the files are copied.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from sightline.errors import AssetError
from sightline.records.files import fsync_directory

DEBIAN_SOURCE = Path("/usr/share/wordnet")
INSTALL = "run `apt-get install wordnet-base wordnet-sense-index`, then `python -m sightline wordnet`"

_PARTS = ("noun", "verb", "adj", "adv")
_REQUIRED = (
    *(f"data.{part}" for part in _PARTS),
    *(f"index.{part}" for part in _PARTS),
    *(f"{part}.exc" for part in _PARTS),
    "index.sense",
)
_OPTIONAL = ("cntlist.rev", "cntlist", "frames.vrb", "sentidx.vrb", "sents.vrb")
_CLASSES = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}
_LEXICOGRAPHER_FILES = (
    "adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body "
    "noun.cognition noun.communication noun.event noun.feeling noun.food noun.group noun.location "
    "noun.motive noun.object noun.person noun.phenomenon noun.plant noun.possession noun.process "
    "noun.quantity noun.relation noun.shape noun.state noun.substance noun.time verb.body verb.change "
    "verb.cognition verb.communication verb.competition verb.consumption verb.contact verb.creation "
    "verb.emotion verb.motion verb.perception verb.possession verb.social verb.stative verb.weather adj.ppl"
)


def lexnames() -> str:
    """Returns the 45 lines of `lexnames`: number, lexicographer file, syntactic category."""
    return "".join(
        f"{number:02d}\t{name}\t{_CLASSES[name.split('.')[0]]}\n"
        for number, name in enumerate(_LEXICOGRAPHER_FILES.split())
    )


def default_target() -> Path:
    """Returns the folder of this environment that NLTK searches without being told."""
    return Path(sys.prefix) / "share" / "nltk_data" / "corpora" / "wordnet"


def is_complete(target: Path, source: Path | None = None) -> bool:
    """Says whether `target` holds every file NLTK reads, with the sizes of `source` where it is given."""
    if not all((target / name).is_file() for name in (*_REQUIRED, "lexnames")):
        return False
    if (target / "lexnames").read_text(encoding="ascii") != lexnames():
        return False
    return source is None or all((target / name).stat().st_size == (source / name).stat().st_size for name in _REQUIRED)


def build_wordnet(source: Path = DEBIAN_SOURCE, target: Path | None = None) -> Path:
    """Copies the WordNet database into NLTK's layout; a complete target is left as it is.

    The folder appears whole or not at all: it is filled under a temporary name and renamed.

    Args:
        source: Folder with `data.noun`, `index.sense` and the other files of WordNet 3.0.
        target: Folder to make, by default `default_target()`.

    Returns:
        The target folder.

    Raises:
        AssetError: The source lacks a file; names the file and the packages that hold it.
    """
    target = default_target() if target is None else Path(target)
    source = Path(source)
    missing = [name for name in _REQUIRED if not (source / name).is_file()]
    if missing:
        if is_complete(target):
            return target
        raise AssetError(
            f"WordNet lacks {', '.join(missing[:4])}{' and more' if len(missing) > 4 else ''}",
            file=source, mend=INSTALL,
        )  # fmt: skip
    if is_complete(target, source):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".wordnet.", dir=target.parent) as scratch:
        _install(source, Path(scratch), target)
    fsync_directory(target.parent)
    return target


def _install(source: Path, scratch: Path, target: Path) -> None:
    """Fills a new folder in `scratch` and swaps it in for `target`."""
    fresh = scratch / "fresh"
    fresh.mkdir()
    for name in (*_REQUIRED, *_OPTIONAL):
        if (source / name).is_file():
            shutil.copyfile(source / name, fresh / name)
    (fresh / "lexnames").write_text(lexnames(), encoding="ascii")
    with suppress(FileNotFoundError):
        target.rename(scratch / "old")
    try:
        fresh.rename(target)
    except OSError:
        if not is_complete(target, source):  # another process put its own there in the meantime
            raise
