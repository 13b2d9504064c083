"""The room's stages as the workflow calls them: files and plain settings in, files and counts out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from sightline.metrics.aggregate import MetricSpec
from sightline.records.files import content_key, read_json, write_json
from sightline.records.rows import read_samples, write_lines, write_parquet
from sightline.records.types import Sample
from sightline.run.devices import choose_device, fix_threads
from sightline.run.shards import Predictor, draw_samples, ids_of_shard, make_plan, run_shard
from sightline.systems.hoiref.loading import (
    annotations_folder,
    frame_roots,
    hoiqa_quirks,
    load_asker,
    load_other,
    other_fingerprint,
    picture_reader,
    weight_digests,
    weight_files,
)

log = logging.getLogger(__name__)


def make_demo(*, target: str, generator: dict[str, int], threads: int) -> dict[str, Any]:
    """Draws the demo dataset, makes its small weights and packs both like a release."""
    from sightline.systems.hoiref.demo import Sizes, write_demo_archive

    fix_threads(threads)
    parts = write_demo_archive(
        Path(target).parent,
        seed=generator["seed"],
        sizes=Sizes(**{name: generator[name] for name in Sizes.__dataclass_fields__}),
        tower_steps=generator["tower_steps"],
        part_bytes=generator["part_mb"] << 20,
    )
    return {"parts": len(parts), "bytes": sum(part["size"] for part in parts)}


def make_samples(
    *,
    data: str,
    dataset: dict[str, Any],
    settings: dict[str, Any],
    sampling: dict[str, Any],
    samples_target: str,
    plan_target: str,
) -> dict[str, int]:
    """Turns the records of the test split into questions, blocks and shards; `settings` has `quirks`."""
    from sightline.systems.hoiref.samples import build_samples, read_test_split

    found = build_samples(
        read_test_split(annotations_folder(data, dataset)),
        seconds_per_question=sampling["seconds_per_item"],
        quirks=hoiqa_quirks(settings),
    )
    samples = draw_samples(found.samples, sampling["limit"], sampling["limit_seed"])
    plan = make_plan(
        samples, sampling["shards"], block_size=sampling["block_size"], declared_seconds=sampling["declared_seconds"]
    )
    plan["dropped"] = [row.to_json() for row in found.dropped]
    for row in found.dropped:
        log.info("%s %s: %s", row.part, row.item, row.reason)
    write_parquet(samples_target, Sample, samples)
    write_json(plan_target, plan)
    pictures = len({sample.group for sample in samples})
    return {"samples": len(samples), "pictures": pictures, "dropped": len(found.dropped)}


def predict_shard(
    *,
    data: str,
    frames: list[str],
    samples: str,
    plan: str,
    weights: list[str],
    trained: list[str],
    dataset: dict[str, Any],
    roots: dict[str, dict[str, str]],
    settings: dict[str, Any],
    stage_version: int,
    shard: str,
    gpus: int,
    work: str,
    target: str,
) -> dict[str, int]:
    """Answers the questions of one shard, picture by picture, and writes its rows."""
    files = weight_files(weights, trained, settings)
    read = picture_reader(frame_roots(data, dataset, frames, roots))
    pictures = [read_json(path)["files"] for path in dict.fromkeys([data, *frames])]
    other = settings["other"]
    print_of_it = other_fingerprint(files, settings) if other else weight_digests(files)
    here = other is None or other["backend"] in ("transformers", "vllm")
    device = choose_device(gpus, demo_weights=settings["weights_kind"] == "demo") if here else "cpu"

    def load() -> Predictor:
        fix_threads(settings["cpu_threads"])
        if other:
            return load_other(files, settings, device, read)  # type: ignore[return-value]
        from sightline.systems.hoiref.predict import Predictor as Own
        from sightline.systems.hoiref.predict import PredictSettings

        limits = PredictSettings(settings["max_new_tokens"], settings["batch_limit"])
        return Own(load_asker(files, settings, device), limits, read)  # type: ignore[return-value]

    blocks = read_json(plan)
    predictions, counts = run_shard(
        plan=blocks,
        shard=shard,
        samples=read_samples(samples, ids_of_shard(blocks, shard)),
        run_key=content_key("hoiref predict", print_of_it, settings, pictures, roots, stage_version),
        work=work,
        load_predictor=load,
        description=f"{other['backend'] if other else 'VLM4HOI'} on {device}",
    )
    write_lines(target, (prediction.to_json() for prediction in predictions))
    return counts


def metrics_of(scoring: dict[str, Any]) -> tuple[MetricSpec, ...]:
    """Returns the metrics the card asks for, as the summary aggregates them."""
    from sightline.systems.hoiref.score_stage import metrics_of as found

    return found(scoring)
