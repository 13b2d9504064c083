"""The stage that takes pictures out of videos, for every system that asks for some."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sightline.features.extracted_frames import extract_frames
from sightline.features.index import WorkStores, write_shard_index
from sightline.features.store import Backend
from sightline.run.progress import progress_bar
from sightline.run.shards import StopRequest
from sightline.run.stages import split_folder
from sightline.video.frames import VideoSource, read_index
from sightline.video.requests import read_requests, union


def extract_pictures(
    *,
    list_media: Callable[[Path], list[VideoSource]],
    landmark: str,
    asset: str,
    folder: str,
    frames: str,
    requests: Sequence[str],
    backend: Backend,
    stage_version: int,
    workers: int,
    work: str,
    target: str,
) -> dict[str, int]:
    """Takes every picture of the lists out of a split's videos and writes the index that `ExtractedFrames` reads.

    Raises:
        InputError: A line of a list is no request, or asks for what is not there.
        VideoError: A video asked for cannot be used.
        ResumableStop: SIGTERM or SIGUSR1 came; finished pictures are kept.
    """
    wanted = union(one for path in requests for one in read_requests(path))
    sources = list_media(split_folder(asset, folder, landmark))
    with (
        WorkStores(work, "pictures", backend) as store,
        StopRequest() as stop,
        progress_bar(list(wanted), description="extract frames", unit="video") as bar,
    ):
        keys, counts = extract_frames(
            wanted,
            read_index(frames),
            {source.video_id: source.path for source in sources},
            store,
            stage_version=stage_version,
            index=frames,
            workers=workers,
            progress=lambda _done, _total: bar.update(),
            should_stop=lambda: stop.received is not None,
        )
        write_shard_index(store, keys, target)
    return counts
