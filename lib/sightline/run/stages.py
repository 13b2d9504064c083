"""The stages that all systems share, as one call each: files and plain settings in, files and counts out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sightline.assets.acquire import AssetSpec, Part, acquire, locate
from sightline.assets.fetch import Network
from sightline.errors import VideoError
from sightline.records.files import read_json
from sightline.run.progress import progress_bar
from sightline.video.frames import FramePolicy, VideoSource, index_dataset

log = logging.getLogger(__name__)
_SHOWN = 10


def asset_spec(asset: str, card: dict[str, Any], generated_parts: str | None = None) -> AssetSpec:
    """Returns the asset a card describes; the parts of a generated one come from the list a rule wrote."""
    parts = card["parts"]
    if generated_parts is not None:
        folder = Path(generated_parts).resolve().parent
        parts = [
            {"url": (folder / part["name"]).as_uri(), **part}
            for part in read_json(generated_parts, mend="delete it and run again")["parts"]
        ]
    return AssetSpec(
        id=asset,
        title=card["title"],
        kind=card["kind"],
        parts=tuple(Part(**part) for part in parts),
        requires=tuple(card["requires"]),
        licence=card["licence"],
        licence_url=card["licence_url"] or "",
        terms=card["terms"] or "",
        version=card["version"],
    )


def acquire_asset(
    *,
    asset: str,
    card: dict[str, Any],
    local: str | None,
    generated_parts: str | None,
    offline: bool,
    record: str | Path,
) -> dict[str, Any]:
    """Fetches or checks one asset and writes its record last.

    Raises:
        AssetError: It cannot be had or is not what the card says; names the file and the mend.
    """
    spec = asset_spec(asset, card, generated_parts)
    found = acquire(
        spec,
        Path(record).parent,
        local=None if local is None else Path(local).expanduser(),
        network=Network(allowed=not offline),
    )
    return {"files": len(found["files"]), "bytes": sum(file["size"] for file in found["files"])}


def split_folder(asset: str | Path, folder: str, landmark: str) -> Path:
    """Returns the folder of a split inside an acquired asset; extra levels of folders are tolerated.

    `landmark` is a file that the folder holds; without one the folder itself is looked for.
    """
    if not landmark:
        return locate(Path(asset), folder)
    return locate(Path(asset), f"{folder}/{landmark}").parent


def index_frames(
    *,
    list_media: Callable[[Path], list[VideoSource]],
    landmark: str,
    asset: str,
    folder: str,
    policy: dict[str, Any],
    failed_videos: int,
    workers: int,
    target: str,
) -> dict[str, int]:
    """Decodes every video of a split and writes its frame index.

    Raises:
        VideoError: More videos are unusable than the configuration tolerates; every one is named.
    """
    sources = list_media(split_folder(asset, folder, landmark))
    with progress_bar(sources, description="decode", unit="video") as bar:
        bar.reset(total=len(sources))
        rows = index_dataset(
            sources,
            target,
            FramePolicy(fps=policy["fps"], allow_high_bit_depth=policy["allow_high_bit_depth"]),
            workers=workers,
            progress=lambda _done, _total: bar.update(),
        )
    failed = [row for row in rows if row.status == "failed"]
    for row in failed:
        log.error("%s: %s", row.path, row.reason)
    if len(failed) > failed_videos:
        listed = "; ".join(f"{row.path}: {row.reason}" for row in failed[:_SHOWN])
        raise VideoError(
            f"{len(failed)} of {len(rows)} videos cannot be used: {listed}",
            file=str(split_folder(asset, folder, landmark)),
            mend=f"mend them, or tolerate them with limits.failed_videos={len(failed)}",
        )
    return {"videos": len(rows), "failed": len(failed), "frames_used": sum(len(row.used) for row in rows)}
