"""What a card says of an asset, what `asset.json` says of it once it is there, and finding files in it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from sightline.errors import AssetError, InputError
from sightline.records.files import read_json

RECORD_VERSION = 1
NESTING = 2  # extra levels of folders that are tolerated
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Part:
    """One file to fetch.

    Attributes:
        url: http(s) or file address, or a path.
        size: Bytes, if published.
        sha256: Digest, if published; else it is recorded at the first fetch.
        name: File name; the address's last part by default.
    """

    url: str
    size: int | None = None
    sha256: str | None = None
    name: str | None = None

    @property
    def file_name(self) -> str:
        """Name the part is saved as."""
        return self.name or unquote(urlsplit(self.url).path).rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class AssetSpec:
    """What a card says about an asset.

    Attributes:
        id: Slug.
        title: What it is, for people.
        parts: Files to fetch, in order; those of a tar or zip are joined.
        kind: `tar`, `zip`, `files`, or `folder` (only as a local path).
        requires: File patterns that must be inside, up to two extra levels of folders down.
        licence, licence_url: Licence it comes under, and where that is.
        terms: Who must sign or accept what before it may be fetched.
        version: Raising it fetches again.
    """

    id: str
    title: str
    parts: tuple[Part, ...]
    kind: str
    requires: tuple[str, ...]
    licence: str = ""
    licence_url: str = ""
    terms: str = ""
    version: str = "1"


def locate(asset_json: str | Path, pattern: str) -> Path:
    """Returns the file of an acquired asset that fits `pattern`, or the folder if no file does.

    Args:
        asset_json: The asset's record.
        pattern: Name or path with wildcards (`*` stays within one level); up to two extra levels of folders
            may lie above it. `.` is the root.

    Raises:
        AssetError: Nothing fits, or several do (lists them), or the record is missing.
    """
    asset_json = Path(asset_json)
    record = read_record(asset_json)
    root = root_of(record, asset_json.parent)
    if pattern == ".":
        return root
    found = matches(record, asset_json.parent, pattern)
    if not found:
        raise AssetError(
            "not in the asset", file=asset_json, item=pattern,
            mend=f"look into {root}; a local path must be the folder that holds it",
        )  # fmt: skip
    if len(found) > 1:
        listed = ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
        raise AssetError(
            f"{len(found)} files fit: {listed}", file=asset_json, item=pattern,
            mend="give a local path that holds only one of them, or a longer pattern",
        )  # fmt: skip
    return root / found[0]


def read_record(path: Path) -> dict[str, Any]:
    """Reads an `asset.json`; AssetError if it is missing or something else."""
    try:
        record = read_json(path, mend="acquire the asset first")
    except InputError as error:
        raise AssetError(error.problem, file=path, mend=error.mend) from None
    if not isinstance(record, dict) or record.get("format") != RECORD_VERSION:
        raise AssetError("not the record of an asset", file=path, mend="delete it and acquire the asset again")
    return record


def root_of(record: dict[str, Any], folder: Path) -> Path:
    """Returns where the content is, for a record that lies in `folder`."""
    return Path(os.path.normpath(folder / record["root"]))


def matches(record: dict[str, Any], folder: Path, pattern: str) -> list[str]:
    """Returns the listed files that fit, else the folders that do; the root's own name may be part of a fit."""
    files = [PurePosixPath(one["path"]) for one in record["files"]]
    folders = sorted({parent for path in files for parent in path.parents if parent.parts})
    wanted = PurePosixPath(pattern)
    name = PurePosixPath(root_of(record, folder).name)

    def fits(path: PurePosixPath) -> bool:
        return 0 <= len(path.parts) - len(wanted.parts) <= NESTING and path.match(pattern)

    for paths in (files, folders):
        found = [str(path) for path in paths if fits(path)] or [str(path) for path in paths if fits(name / path)]
        if found:
            return sorted(found)
    return []


def part_row(name: str, url: str, size: int, sha256: str, card: Part) -> dict[str, Any]:
    """Returns what a record says of one part."""
    by = "card" if card.sha256 else "first use"
    return {"name": name, "url": url, "size": size, "sha256": sha256, "sha256_from": by}
