"""The steps of a run of many clips, one per process so that its memory is its own: `python -m benchmarks.scale_steps`.

Rows are generated; stages, formats and checks are the real ones. Each step prints one line of JSON: seconds of wall and
CPU, the largest resident set and the bytes of what it wrote or read.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sightline.features.index import FeatureIndex, join_indexes
from sightline.records.files import content_key, read_json, write_json
from sightline.records.rows import Journal, read_samples, write_lines, write_parquet
from sightline.records.types import Prediction, Sample
from sightline.run.merge import merge_predictions
from sightline.run.shards import ids_of_shard, make_plan, prediction_key, shard_names

CLIPS_PER_VIDEO = 4
SHARDS = 500
RUN_KEY = "0" * 32
TEXT = "keep your back straight and your knees behind your toes " * 9


def samples_of(clips: int) -> Iterator[Sample]:
    """Yields generated samples: four clips per video, costs between 3 and 7 seconds."""
    for number in range(clips):
        video = number // CLIPS_PER_VIDEO
        payload = {"start_s": 30 * (number % CLIPS_PER_VIDEO), "end_s": 30 * (number % CLIPS_PER_VIDEO) + 30}
        cost = 3 + (number * 7919 % 4001) / 1000
        yield Sample(f"clip{number:08d}", f"video{video:07d}", f"video{video:07d}", [content_key(video)], cost, payload)


def step_samples(folder: Path, clips: int) -> int:
    """Draws the sample list, plans it and writes `samples.parquet` and `plan.json`."""
    samples = list(samples_of(clips))
    plan = make_plan(samples, SHARDS, declared_seconds=5.0 * clips)
    write_parquet(folder / "samples.parquet", Sample, samples)
    write_json(folder / "plan.json", plan)
    return sum((folder / name).stat().st_size for name in ("samples.parquet", "plan.json"))


def step_shard(folder: Path, clips: int) -> int:
    """What each shard's job does before its model: reads the plan, its samples, and journals of the whole run."""
    plan = read_json(folder / "plan.json")
    mine = read_samples(folder / "samples.parquet", ids_of_shard(plan, f"1-of-{SHARDS}"))
    wanted = {content_key(RUN_KEY, [prediction_key(RUN_KEY, sample)]) for sample in mine}
    with Journal(folder / "work", "late", wanted) as journal:
        assert not any(key in journal for key in wanted)
    return sum(path.stat().st_size for path in (folder / "work").iterdir())


def step_rows(folder: Path, clips: int) -> int:
    """Writes what all shards wrote: the declared files, and journals (one is written, the others are as large)."""
    plan = read_json(folder / "plan.json")
    by_id = {sample.id: sample for sample in samples_of(clips)}
    written = 0
    (folder / "shards").mkdir(exist_ok=True)
    for shard in shard_names(SHARDS):
        made = [[_answered(by_id[name]) for name in block] for block in plan["shards"][shard]]
        rows = sorted((row for block in made for row in block), key=lambda row: row.id)
        write_lines(folder / "shards" / f"{shard}.jsonl", (row.to_json() for row in rows))
        written += (folder / "shards" / f"{shard}.jsonl").stat().st_size
        if shard == f"2-of-{SHARDS}":
            with Journal(folder / "work", shard) as journal:
                for block in made:
                    journal.append(content_key([row.id for row in block]), block)
    for shard in shard_names(SHARDS)[2:]:
        shutil.copyfile(folder / "work" / f"2-of-{SHARDS}.jsonl", folder / "work" / f"{shard}.jsonl")
    return written


def _answered(sample: Sample) -> Prediction:
    return Prediction(sample.id, "ok", output={"text": f"{sample.id} {TEXT}"}, key=prediction_key(RUN_KEY, sample))


def step_merge(folder: Path, clips: int) -> int:
    """Merges the shards."""
    shards = sorted((folder / "shards").iterdir())
    counts = merge_predictions(folder / "samples.parquet", shards, folder / "predictions.parquet")
    assert counts == {"samples": clips, "ok": clips, "failed": 0}, counts
    return (folder / "predictions.parquet").stat().st_size


def step_index(folder: Path, clips: int) -> int:
    """Joins the indexes of 500 shards of features, one item per video, and opens the result."""
    videos = clips // CLIPS_PER_VIDEO
    shards = []
    array = {"shape": [480, 1280], "dtype": "<f2", "chunk_rows": 409, "crc32": [1, 2]}
    for number in range(SHARDS):
        items = {
            content_key(video): {"arrays": {"features": array}, "meta": {}, "digest": "0" * 64, "store": 0}
            for video in range(number, videos, SHARDS)
        }
        store = folder / "features" / f"{number}.lmdb"
        store.parent.mkdir(exist_ok=True)
        store.touch()
        shards.append(folder / "features" / f"{number}.json")
        stores = [{"path": store.name, "backend": "lmdb"}]
        write_json(shards[-1], {"format": "sightline-feature-index", "version": 1, "stores": stores, "items": items})
    join_indexes(shards, folder / "features" / "index.json")
    with FeatureIndex(folder / "features" / "index.json") as index:
        assert len(index) == videos
    return (folder / "features" / "index.json").stat().st_size


STEPS: dict[str, Callable[[Path, int], int]] = {
    "samples": step_samples, "rows": step_rows, "shard": step_shard, "merge": step_merge, "index": step_index,
}  # fmt: skip


def main() -> None:
    """Runs one step."""
    name, folder, clips = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    wall, cpu = time.perf_counter(), time.process_time()
    size = STEPS[name](folder, clips)
    found: dict[str, Any] = {
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "bytes": size,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
