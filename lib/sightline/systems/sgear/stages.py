"""The room's stages as the workflow calls them: files and plain settings in, files and counts out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sightline.errors import InputError
from sightline.features.index import WorkStores, write_shard_index
from sightline.features.store import Backend
from sightline.metrics.aggregate import MetricSpec
from sightline.records.files import content_key, read_json, sha256_file, write_json
from sightline.records.rows import read_predictions, read_samples, write_lines, write_parquet
from sightline.records.types import Sample
from sightline.run.devices import choose_device, fix_threads
from sightline.run.shards import Predictor, draw_samples, make_plan, run_shard
from sightline.run.stages import split_folder
from sightline.systems.sgear.classes import ClassTable
from sightline.systems.sgear.fuse import held_out
from sightline.systems.sgear.loading import input_files, load_predictor, stored_inputs
from sightline.systems.sgear.samples import Dataset, build_samples, read_classes, read_dataset
from sightline.systems.sgear.stored import StoredLogits

log = logging.getLogger(__name__)
HELD_OUT = "held out for the search of fusion weights"


def make_demo(*, target: str, generator: dict[str, int]) -> dict[str, Any]:
    """Draws the demo dataset and packs it like a release."""
    from sightline.systems.sgear.demo import write_demo_archive
    from sightline.systems.sgear.demo_plan import Sizes

    sizes = Sizes(**{name: generator[name] for name in Sizes.__dataclass_fields__})
    parts = write_demo_archive(
        Path(target).parent,
        seed=generator["seed"],
        sizes=sizes,
        part_bytes=generator["part_mb"] << 20,
        drawn_videos=generator["drawn_videos"],
    )
    return {"parts": len(parts), "bytes": sum(part["size"] for part in parts)}


def annotations_folder(data: str, dataset: Mapping[str, Any]) -> Path:
    """Returns the folder of a dataset's annotations inside its asset."""
    return split_folder(data, dataset["folder"], "")


def read_split(data: str, dataset: Mapping[str, Any]) -> Dataset:
    """Reads one split of a dataset (`layout`, `folder`, `split`) out of its asset."""
    return read_dataset(annotations_folder(data, dataset), dataset["layout"], dataset["split"])


def classes_of(data: str, dataset: Mapping[str, Any]) -> ClassTable:
    """Reads the classes of a dataset out of its asset."""
    return read_classes(annotations_folder(data, dataset), dataset["layout"])


def make_samples(
    *,
    data: str,
    dataset: dict[str, Any],
    settings: dict[str, Any],
    sampling: dict[str, Any],
    samples_target: str,
    plan_target: str,
) -> dict[str, Any]:
    """Turns a split's actions into samples, blocks and shards; `settings` has `windows` and `held_out`."""
    windows = settings["windows"]
    split = read_split(data, dataset)
    found = build_samples(
        split,
        tau_a=windows["tau_a"],
        tau_o=windows["tau_o"],
        drop_style=windows["drop_style"],
        seconds_per_item=sampling["seconds_per_item"],
    )
    kept, aside = _evaluated(found.samples, settings["held_out"])
    samples = draw_samples(kept, sampling["limit"], sampling["limit_seed"])
    plan = make_plan(
        samples, sampling["shards"], block_size=sampling["block_size"], declared_seconds=sampling["declared_seconds"]
    )
    plan["dropped"] = [row.to_json() for row in found.dropped]
    plan["dropped"] += [{"video_id": one.group, "item": one.id, "reason": HELD_OUT} for one in aside]
    write_parquet(samples_target, Sample, samples)
    write_json(plan_target, plan)
    return {"samples": len(samples), "dropped": len(plan["dropped"]), "shards": sampling["shards"]}


def _evaluated(samples: Sequence[Sample], fraction: float) -> tuple[list[Sample], list[Sample]]:
    """Parts samples into those that are scored and those that fusion weights are searched on."""
    if not fraction:
        return list(samples), []
    mask = held_out([one.cluster for one in samples], fraction)
    if mask.all() or not mask.any():
        raise InputError(
            f"{int(mask.sum())} of {len(mask)} rows would be held out", field="held_out",
            mend="choose another fusion.held_out; a dataset needs several videos for that",
        )  # fmt: skip
    return (
        [one for one, aside in zip(samples, mask, strict=True) if not aside],
        [one for one, aside in zip(samples, mask, strict=True) if aside],
    )


def _run_shard(
    *,
    plan: str,
    shard: str,
    samples: str,
    run_key: str,
    work: str,
    backend: Backend,
    load: Any,
    rows_target: str,
    logits_target: str,
    description: str,
) -> dict[str, int]:
    """Runs one shard with a store for its logits, and writes rows and the index of the store."""
    with WorkStores(f"{work}/logits", shard, backend) as store:
        predictions, counts = run_shard(
            plan=read_json(plan),
            shard=shard,
            samples=read_samples(samples),
            run_key=run_key,
            work=work,
            load_predictor=lambda: load(store),
            description=description,
        )
        keys = {one.files["logits"]["key"] for one in predictions if "logits" in one.files}
        write_shard_index(store, sorted(keys), logits_target)
    write_lines(rows_target, (one.to_json() for one in predictions))
    return counts


def predict_shard(
    *,
    data: str,
    samples: str,
    plan: str,
    weights: list[str],
    trained: list[str],
    counted: list[str],
    dataset: dict[str, Any],
    counted_dataset: dict[str, Any],
    settings: dict[str, Any],
    backend: Backend,
    stage_version: int,
    shard: str,
    gpus: int,
    work: str,
    rows_target: str,
    logits_target: str,
) -> dict[str, int]:
    """Runs S-GEAR, or a baseline, on the blocks of one shard; writes its rows and where its logits are."""
    common: dict[str, Any] = {
        "plan": plan, "shard": shard, "samples": samples, "work": work, "backend": backend,
        "rows_target": rows_target, "logits_target": logits_target,
    }  # fmt: skip
    if settings["baseline"]:
        digests = [read_json(path)["files"] for path in (counted[0], data)]
        key = content_key("sgear baseline", settings, digests, dataset, counted_dataset, stage_version)

        def baseline(store: WorkStores) -> Predictor:
            return _baseline(data, dataset, counted[0], counted_dataset, settings, store, key)

        return _run_shard(load=baseline, run_key=key, description=settings["baseline"]["kind"], **common)
    files = input_files(weights, trained, settings)
    device = choose_device(gpus, demo_weights=settings["weights_kind"] == "demo")
    sources = [read_json(path)["files"] for path in weights]
    key = content_key("sgear predict", sha256_file(files["checkpoint"]), sources, settings, stage_version)
    with ExitStack() as stack:

        def load(store: WorkStores) -> Predictor:
            fix_threads(settings["cpu_threads"])
            read = stack.enter_context(stored_inputs(files, settings))
            classes = len(classes_of(data, dataset).actions)
            return load_predictor(files, settings, device, read, classes=classes, store=store, run_key=key)  # type: ignore[arg-type]

        return _run_shard(load=load, run_key=key, description=f"S-GEAR on {device}", **common)


def _baseline(
    data: str, dataset: dict[str, Any], counted: str, counted_dataset: dict[str, Any], settings: dict[str, Any],
    store: WorkStores, key: str,
) -> Predictor:  # fmt: skip
    from sightline.systems.sgear.baselines import BaselinePredictor

    trained = read_split(counted, counted_dataset)
    asked = read_split(data, dataset)
    baseline = settings["baseline"]
    return BaselinePredictor(
        baseline["kind"],
        trained.segments,
        asked.segments,
        len(trained.table.actions),
        store=store,
        run_key=key,
        seed=baseline["seed"],
    )


def fuse_shard(
    *,
    data: str,
    samples: str,
    plan: str,
    member_samples: list[str],
    member_predictions: list[str],
    member_logits: list[str],
    dataset: dict[str, Any],
    settings: dict[str, Any],
    backend: Backend,
    stage_version: int,
    shard: str,
    work: str,
    rows_target: str,
    logits_target: str,
) -> dict[str, int]:
    """Adds up the logits of other runs on the blocks of one shard."""
    from sightline.systems.sgear.fused import FusedPredictor, fusion_weights

    fusion = settings["fusion"]
    runs = [read_predictions(path) for path in member_predictions]
    digests = [sha256_file(path) for path in member_predictions]
    key = content_key("sgear fuse", settings, digests, read_json(plan).get("dropped", []), stage_version)
    table = classes_of(data, dataset)
    with StoredLogits(member_logits) as stored:

        def load(store: WorkStores) -> Predictor:
            weights = fusion_weights(
                fusion, runs, read_samples(member_samples[0]), {one.id for one in read_samples(samples)}, stored, table
            )
            log.info("weights: %s", ", ".join(f"{name} {value:g}" for name, value in weights.items()))
            return FusedPredictor(runs, list(weights.values()), fusion["normalize"], stored, table, store, key)

        return _run_shard(
            plan=plan, shard=shard, samples=samples, run_key=key, work=work, backend=backend, load=load,
            rows_target=rows_target, logits_target=logits_target, description="fuse",
        )  # fmt: skip


def metrics_of(scoring: dict[str, Any]) -> tuple[MetricSpec, ...]:
    """Returns the metrics the card asks for, as the summary aggregates them."""
    from sightline.systems.sgear.score_stage import metrics_of as found

    return found(scoring)
