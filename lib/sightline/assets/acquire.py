"""One asset, from its card to `asset.json`: downloaded, unpacked and listed, or found where the user has it.

`asset.json` is written last, so it means "complete". A hidden copy beside it lets a run that finds it deleted
(a forced rerun) check the content and write it again instead of fetching.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sightline.assets.archive_parts import ArchivePart
from sightline.assets.archives import forget_journal, unpack
from sightline.assets.asset_record import (
    NESTING,
    RECORD_VERSION,
    AssetSpec,
    Part,
    locate,
    matches,
    part_row,
    read_record,
    root_of,
)
from sightline.assets.fetch import Network, check_file, fetch, local_path
from sightline.errors import AssetError, InputError
from sightline.records.files import read_json, write_json
from sightline.records.lease import lease

__all__ = ["AssetSpec", "Part", "acquire", "locate"]

log = logging.getLogger(__name__)

RECORD = "asset.json"
CONTENT = "content"
_COPY = ".acquired.json"
_SHOWN = 12
_WEIGHTS = (".pt", ".pth", ".tar", ".bin", ".safetensors", ".checkpoint", ".ckpt", ".model", ".h5", ".onnx")


def acquire(
    asset: AssetSpec,
    target_dir: str | Path,
    *,
    local: Path | None = None,
    network: Network | None = None,
    keep_parts: bool = False,
    hash_limit_bytes: int | None = None,
) -> dict[str, Any]:
    """Makes an asset available and returns what `<target_dir>/asset.json` then says.

    A complete asset whose files still have their sizes is left alone.

    Args:
        asset: The asset.
        target_dir: Folder of the record and of downloaded content (`content/`).
        local: File or folder the user already has. A folder, or a file that is no archive, is used in place;
            an archive, or a folder with all its parts, is unpacked from there.
        network: How the network may be used.
        keep_parts: Keeps downloaded archive parts after they were unpacked.
        hash_limit_bytes: Local files larger than this that are no weights are listed with `sha256` null and
            the reason; None hashes everything.

    Returns:
        `asset`, `title`, `version`, `kind`, `source` (download or local), `root`, `licence`, `licence_url`,
        `terms`, `parts` (name, url, size, sha256, and whether the card or the first use gave the digest) and
        `files` (path below the root, size, sha256).

    Raises:
        AssetError: It cannot be had or is not what the card says; names the file and the mend.
    """
    target_dir = Path(target_dir)
    target_dir.mkdir(parents=True, exist_ok=True)
    local = None if local is None else Path(local).expanduser().resolve()
    with lease(target_dir / ".lease"):
        record = _complete(asset, target_dir, local)
        if record is None:
            record = _make(asset, target_dir, local, network or Network(), keep_parts, hash_limit_bytes)
            missing = [pattern for pattern in asset.requires if not matches(record, target_dir, pattern)]
            if missing:
                raise _missing(asset, missing, root_of(record, target_dir), record)
            write_json(target_dir / _COPY, record)
            forget_journal(target_dir / CONTENT)
        write_json(target_dir / RECORD, record)
    return record


def _missing(asset: AssetSpec, patterns: list[str], root: Path, record: dict[str, Any]) -> AssetError:
    some = ", ".join(one["path"] for one in record["files"][:_SHOWN])
    mend = f"give the folder that holds it as local_assets.{asset.id}"
    if record["source"] == "download":
        mend = f"the card or its source is wrong; or {mend}"
    return AssetError(
        f"required files are not there (looked {NESTING} levels below): {', '.join(patterns)}; "
        f"there are {len(record['files'])} files: {some}",
        file=root,
        item=asset.id,
        mend=mend,
    )


def _complete(asset: AssetSpec, target_dir: Path, local: Path | None) -> dict[str, Any] | None:
    """Returns the record of an earlier run if it is of this asset and its files are there with their sizes."""
    for name in (RECORD, _COPY):
        try:
            record = read_record(target_dir / name)
            if not _same_card(record, asset, local):
                continue
            root = root_of(record, target_dir)
            wrong = [one["path"] for one in record["files"] if not _has_size(root / one["path"], one["size"])]
        except (AssetError, KeyError, TypeError):
            continue
        if not wrong:
            return record
        log.warning("%s: %d files are missing or changed, e.g. %s; acquired again", asset.id, len(wrong), wrong[0])
    return None


def _same_card(record: dict[str, Any], asset: AssetSpec, local: Path | None) -> bool:
    if (record["asset"], record["version"], record["kind"]) != (asset.id, asset.version, asset.kind):
        return False
    if record["given"] != (None if local is None else str(local)):
        return False
    if local is None:
        known = [(part["name"], part["size"], part["sha256"]) for part in record["parts"]]
        if len(known) != len(asset.parts):
            return False
        for (name, size, sha256), part in zip(known, asset.parts, strict=True):
            if name != part.file_name or part.size not in (None, size) or part.sha256 not in (None, sha256):
                return False
    return True


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _make(
    asset: AssetSpec,
    target_dir: Path,
    local: Path | None,
    network: Network,
    keep_parts: bool,
    hash_limit_bytes: int | None,
) -> dict[str, Any]:
    for name in (RECORD, _COPY):
        (target_dir / name).unlink(missing_ok=True)
    record = {
        "format": RECORD_VERSION,
        "asset": asset.id,
        "title": asset.title,
        "version": asset.version,
        "kind": asset.kind,
        "licence": asset.licence,
        "licence_url": asset.licence_url,
        "terms": asset.terms,
        "given": None if local is None else str(local),
        "source": "download" if local is None else "local",
        "root": CONTENT,
    }
    if local is None:
        if not asset.parts:
            raise _by_hand(asset)
        bringer = _Bringer(asset, target_dir, network, keep_parts)
        return {**record, "files": bringer.bring(), "parts": bringer.noted()}
    if not local.exists():
        raise AssetError("not found", file=local, item=asset.id, mend=f"correct local_assets.{asset.id}")
    archive = _local_archive(asset, local)
    if archive:
        return {**record, **_unpack_local(asset, archive, target_dir)}
    root = local if local.is_dir() else local.parent
    paths = _walk(local) if local.is_dir() else [local]
    files = [_listed(path, root, hash_limit_bytes) for path in paths]
    return {**record, "root": str(root), "files": files, "parts": []}


def _by_hand(asset: AssetSpec) -> AssetError:
    how = asset.terms or f"get {asset.title}"
    return AssetError(
        "has no address to fetch it from", file=asset.id, mend=f"{how.rstrip('.')}; then set local_assets.{asset.id}"
    )


def _local_archive(asset: AssetSpec, local: Path) -> list[Path]:
    if asset.kind not in ("tar", "zip"):
        return []
    names = [part.file_name for part in asset.parts]
    folder = local if local.is_dir() else local.parent
    if names and all((folder / name).is_file() for name in names) and (local.is_dir() or local.name in names):
        return [folder / name for name in names]
    return [local] if local.is_file() else []


def _unpack_local(asset: AssetSpec, paths: Sequence[Path], target_dir: Path) -> dict[str, Any]:
    cards = asset.parts if len(asset.parts) == len(paths) else (Part(""),) * len(paths)
    parts = []
    for path, card in zip(paths, cards, strict=True):
        digest = check_file(path, size=card.size, sha256=card.sha256)
        parts.append(part_row(path.name, path.as_uri(), path.stat().st_size, digest, card))
    _require_room(target_dir, sum(part["size"] for part in parts))
    files = unpack([ArchivePart.of(path) for path in paths], target_dir / CONTENT)
    return {"files": [{"path": one.path, "size": one.size, "sha256": one.sha256} for one in files], "parts": parts}


def _require_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise AssetError(
            f"needs about {needed} bytes, {free} are free", file=folder, mend="free disk space, then run again"
        )


class _Bringer:
    """Fetches the parts of an asset and unpacks them; notes digests, since unpacked parts are deleted."""

    def __init__(self, asset: AssetSpec, target_dir: Path, network: Network, keep_parts: bool) -> None:
        self.asset, self.target_dir, self.network, self.keep_parts = asset, target_dir, network, keep_parts
        self.folder = target_dir / "parts"
        self._note = target_dir / ".parts.json"
        self._known = self._take_up()

    def _take_up(self) -> dict[str, dict[str, Any]]:
        """Returns what was noted of the parts; what belongs to another version of the card is removed."""
        try:
            noted = read_json(self._note)
        except InputError:
            return {}
        known = noted["parts"]
        digests = {part.file_name: part.sha256 for part in self.asset.parts}
        changed = [name for name in known if digests.get(name) not in (None, known[name]["sha256"])]
        if noted["version"] == self.asset.version and not changed:
            return known
        content = self.target_dir / CONTENT
        for folder in (self.folder, content, content.with_name(f"{CONTENT}.unpacking")):
            shutil.rmtree(folder, ignore_errors=True)
        forget_journal(content)
        return {}

    def bring(self) -> list[dict[str, Any]]:
        """Fetches and unpacks; returns the list of files."""
        _require_room(self.target_dir, sum(part.size or 0 for part in self.asset.parts) - self._here())
        if self.asset.kind not in ("tar", "zip"):
            return [self._whole(part) for part in self.asset.parts]
        parts = [
            ArchivePart(part.file_name, self._opener(part), part.size, self._remover(part)) for part in self.asset.parts
        ]
        files = unpack(parts, self.target_dir / CONTENT)
        if not self.keep_parts:
            shutil.rmtree(self.folder, ignore_errors=True)
        return [{"path": one.path, "size": one.size, "sha256": one.sha256} for one in files]

    def noted(self) -> list[dict[str, Any]]:
        """Returns name, address, size and digest of each part."""
        rows = []
        for part in self.asset.parts:
            known = self._known[part.file_name]
            rows.append(part_row(part.file_name, part.url, known["size"], known["sha256"], part))
        fresh = [row["name"] for row in rows if row["sha256_from"] == "first use"]
        if fresh:
            log.warning("%s: the card gives no sha256 for %s; what came is recorded", self.asset.id, ", ".join(fresh))
        return rows

    def _here(self) -> int:
        folders: Iterable[Path] = (self.folder, self.target_dir / f"{CONTENT}.unpacking", self.target_dir / CONTENT)
        return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())

    def _get(self, part: Part, target: Path) -> Path:
        terms = f"{self.asset.terms.rstrip('.')}; then set local_assets.{self.asset.id}" if self.asset.terms else None
        got = fetch(part.url, target, size=part.size, sha256=part.sha256, network=self.network, mend=terms)
        self._remember(part, got.size, got.sha256)
        return got.path

    def _remember(self, part: Part, size: int, sha256: str) -> None:
        before = self._known.get(part.file_name)
        now = {"size": size, "sha256": sha256}
        if before is not None and before != now:
            log.warning("%s: %s differs from what was recorded before", self.asset.id, part.file_name)
        self._known[part.file_name] = now
        write_json(self._note, {"version": self.asset.version, "parts": self._known})

    def _opener(self, part: Part) -> Callable[[], Path]:
        def bring() -> Path:
            path = local_path(part.url)
            if path is None:
                return self._get(part, self.folder / part.file_name)
            digest = check_file(path, size=part.size, sha256=part.sha256)  # read in place
            self._remember(part, path.stat().st_size, digest)
            return path

        return bring

    def _remover(self, part: Part) -> Callable[[], None] | None:
        if self.keep_parts or local_path(part.url) is not None:
            return None
        return lambda: (self.folder / part.file_name).unlink(missing_ok=True)

    def _whole(self, part: Part) -> dict[str, Any]:
        path = self._get(part, self.target_dir / CONTENT / part.file_name)
        return {"path": part.file_name, **self._known[part.file_name], "size": path.stat().st_size}


def _walk(root: Path) -> Iterator[Path]:
    """Yields the files below a folder in sorted order, through links, each folder once."""
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        yield from (Path(folder, name) for name in sorted(names) if Path(folder, name).is_file())


def _listed(path: Path, root: Path, hash_limit_bytes: int | None) -> dict[str, Any]:
    size = path.stat().st_size
    row: dict[str, Any] = {"path": path.relative_to(root).as_posix(), "size": size}
    weights = path.name.lower().endswith(_WEIGHTS)
    if hash_limit_bytes is not None and size > hash_limit_bytes and not weights:
        return {
            **row,
            "sha256": None,
            "reason": f"local file above {hash_limit_bytes} bytes, only its size is compared",
        }
    return {**row, "sha256": check_file(path, size=None, sha256=None)}
