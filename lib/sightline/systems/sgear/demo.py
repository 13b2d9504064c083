"""The embedded demo of S-GEAR: a dataset in the layout of EPIC-Kitchens-100, packed like a release."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from sightline.assets.packing import pack_parts
from sightline.systems.sgear.demo_features import write_features
from sightline.systems.sgear.demo_plan import Sizes, plan_videos, write_annotations
from sightline.systems.sgear.demo_video import write_video

ARCHIVE_NAME = "sgear_demo.tar"
ANNOTATIONS, FEATURES, VIDEOS = "annotations", "features", "videos"


def write_demo_dataset(root: str | Path, *, seed: int, sizes: Sizes, drawn_videos: int = 3) -> None:
    """Writes annotations, features and a few videos; equal arguments, equal dataset.

    Inside are `annotations/` (EPIC's and RULSTM's files), `features/<modality>/data.mdb` and
    `videos/<participant>/<video>.MP4`.

    Args:
        root: Folder that gets them.
        seed: Decides everything that is drawn.
        sizes: How much.
        drawn_videos: Validation videos that exist as mp4; of the others there are features alone.

    Raises:
        InputError: The sizes make no dataset.
    """
    videos = plan_videos(seed, sizes)
    write_annotations(Path(root) / ANNOTATIONS, videos, sizes)
    write_features(Path(root) / FEATURES, videos, sizes, seed)
    for video in [video for video in videos if video.split == "validation"][:drawn_videos]:
        write_video(Path(root) / VIDEOS, video)


def write_demo_archive(
    folder: str | Path, *, seed: int, sizes: Sizes, part_bytes: int, drawn_videos: int = 3
) -> list[dict[str, Any]]:
    """Writes the dataset as one plain tar in parts; returns the entries of `parts.json`, which is written last.

    Raises:
        InputError: `part_bytes` is not positive, asks for too many parts, or the sizes make no dataset.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=target) as scratch:
        write_demo_dataset(scratch, seed=seed, sizes=sizes, drawn_videos=drawn_videos)
        return pack_parts(scratch, target, ARCHIVE_NAME, part_bytes)
