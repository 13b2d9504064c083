"""Is an asset there, can it be fetched, or must the user supply it? Looks at files only, never at the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from sightline.assets.asset_record import NESTING, matches, read_record, root_of
from sightline.config.models import AssetCard
from sightline.errors import AssetError

State = Literal["present", "unpack", "download", "generate", "supply"]


@dataclass(frozen=True)
class AssetState:
    """One asset as this machine has it.

    Attributes:
        asset: Its id.
        title: What it is.
        needed_for: Datasets and roles of weights that read it.
        optional: Without it only a metric is absent.
        state: `present`; `unpack` (a local archive); `download`; `generate` (the workflow makes it);
            `supply` (only the user can give it).
        detail: Where it is, or what is wrong with it.
        mend: What the user does about it; empty when nothing has to be done.
        licence: Licence, with its address.
        terms: Who must accept what before it may be fetched.
        download_gb: Still to be fetched, about.
        disk_gb: Disk still needed for it, about.
    """

    asset: str
    title: str
    needed_for: tuple[str, ...]
    optional: bool
    state: State
    detail: str
    mend: str
    licence: str
    terms: str
    download_gb: float
    disk_gb: float


def _holds(root: Path, pattern: str) -> bool:
    """Says whether a folder holds a file or folder that fits, up to two levels down or counting its own name."""
    if any(next(root.glob("*/" * depth + pattern), None) is not None for depth in range(NESTING + 1)):
        return True
    first, *rest = PurePosixPath(pattern).parts
    return bool(rest) and PurePosixPath(root.name).match(first) and next(root.glob("/".join(rest)), None) is not None


def _sized(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _acquired(asset: str, card: AssetCard, folder: Path, local: Path | None) -> str:
    """Returns why an acquired asset cannot be used as it is; empty when it can."""
    try:
        record = read_record(folder / "asset.json")
        if (record["asset"], record["version"], record["kind"]) != (asset, card.version, card.kind):
            return "the card has changed since it was acquired"
        if record["given"] != (None if local is None else str(local.resolve())):
            return "it was acquired from another place"
        root = root_of(record, folder)
        wrong = [one["path"] for one in record["files"] if not _sized(root / one["path"], one["size"])]
        if wrong:
            return f"{len(wrong)} of its files are missing or changed, e.g. {wrong[0]}"
        lacking = [pattern for pattern in card.requires if not matches(record, folder, pattern)]
        return f"it lacks {', '.join(lacking)}" if lacking else ""
    except AssetError as error:
        return error.problem
    except (KeyError, TypeError):
        return "its record is not readable"


def _local_state(asset: str, card: AssetCard, local: Path) -> tuple[State, str, str]:
    """Returns state, detail and mend of an asset for which the user named a path."""
    mend = f"correct local_assets.{asset}"
    if not local.exists():
        return "supply", f"{local} does not exist", mend
    names = [part.name or part.url.rpartition("/")[2] for part in card.parts]
    holds_parts = bool(names) and local.is_dir() and all((local / name).is_file() for name in names)
    if card.kind in ("tar", "zip") and (local.is_file() or holds_parts):
        return "unpack", f"archive at {local}", ""
    if local.is_file():
        named = [pattern for pattern in card.requires if PurePosixPath(local.name).match(pattern)]
        found: State = "present" if named else "supply"
        return found, f"{local}" if named else f"{local} is not {card.requires[0]}", "" if named else mend
    lacking = [pattern for pattern in card.requires if not _holds(local, pattern)]
    if lacking:
        return "supply", f"{local} lacks {', '.join(lacking)}", f"{mend}: name the folder that holds them"
    return "present", f"at {local}", ""


def _state(asset: str, card: AssetCard, local: Path | None, folder: Path, offline: bool) -> tuple[State, str, str]:
    problem = _acquired(asset, card, folder, local)
    if not problem:
        return "present", "acquired and complete", ""
    if local is not None:
        return _local_state(asset, card, local)
    stale = f"; {problem}" if (folder / "asset.json").exists() else ""
    if card.generated:
        return "generate", f"made here by the workflow{stale}", ""
    if card.parts and not offline:
        return "download", f"{len(card.parts)} file(s){stale}", ""
    how = card.terms or f"Get {card.title}."
    if card.parts:
        how = "Allow the network (offline: false), or fetch it elsewhere: " + ", ".join(part.url for part in card.parts)
    then = "" if f"local_assets.{asset}" in how else f"; then set local_assets.{asset}"
    size = f", about {card.disk_gb:g} GB" if card.disk_gb else ""
    return "supply", f"not here{size}{stale}", how.rstrip(".") + then


def _disk_gb(card: AssetCard, state: State) -> float:
    """Returns the disk still needed: parts of a tar are removed as they are unpacked, a zip is not."""
    if state == "download":
        extra = card.download_gb if card.kind == "zip" else card.download_gb / max(1, len(card.parts))
        return card.disk_gb + (extra if card.kind in ("tar", "zip") else 0.0)
    return card.disk_gb if state in ("unpack", "generate") else 0.0


def asset_state(
    asset: str,
    card: AssetCard,
    needed_for: Sequence[str],
    *,
    local: str | None,
    workdir: Path,
    offline: bool,
    optional: bool = False,
) -> AssetState:
    """Returns what is known of an asset without touching the network.

    Args:
        asset: Its id.
        card: Its card.
        needed_for: What reads it.
        local: The path in `local_assets`, if any.
        workdir: Working folder of the workflow, which holds `results/`.
        offline: Downloads are refused.
        optional: Without it only a metric is absent.
    """
    path = None if not local else workdir / Path(local).expanduser()
    state, detail, mend = _state(asset, card, path, workdir / "results" / "assets" / asset, offline)
    where: dict[str, Any] = {"state": state, "detail": detail, "mend": mend, "optional": optional}
    return AssetState(
        asset=asset,
        title=card.title,
        needed_for=tuple(needed_for),
        licence=card.licence + (f" ({card.licence_url})" if card.licence_url else ""),
        terms=card.terms or "",
        download_gb=card.download_gb if state == "download" else 0.0,
        disk_gb=_disk_gb(card, state),
        **where,
    )
