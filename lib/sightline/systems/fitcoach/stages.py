"""The room's stages as the workflow calls them: files and plain settings in, files and counts out."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sightline.assets.acquire import locate
from sightline.errors import StoreError, VideoError
from sightline.features.index import FeatureIndex, WorkStores, write_shard_index
from sightline.features.items import DamagedError
from sightline.features.store import Backend
from sightline.metrics.aggregate import MetricSpec
from sightline.records.files import content_key, read_json, sha256_file, write_json
from sightline.records.rows import read_predictions, read_samples, read_scores, write_lines, write_parquet
from sightline.records.types import Sample, Score, View
from sightline.run.devices import choose_device, fix_threads
from sightline.run.progress import progress_bar
from sightline.run.shards import StopRequest, deal_out, draw_samples, ids_of_shard, make_plan, run_shard, shard_number
from sightline.systems.fitcoach.loading import extractor_settings, load_predictor, weight_files
from sightline.systems.fitcoach.media import folder_of
from sightline.systems.fitcoach.score import ScoreSettings, matched_pairs, metric_specs, score

if TYPE_CHECKING:
    from sightline.systems.fitcoach.model.cnn import StreamingEfficientNet
    from sightline.systems.fitcoach.predict import ReadFeatures
    from sightline.video.frames import FrameIndexRow

log = logging.getLogger(__name__)
_SHOWN = 10


def make_demo(*, target: str, generator: dict[str, int], workers: int) -> dict[str, Any]:
    """Draws the demo dataset, fills the demo weights and packs both like a released archive."""
    from sightline.systems.fitcoach.demo import write_demo_archive

    write_demo_archive(
        Path(target).parent,
        seed=generator["seed"],
        test_workouts=generator["test_workouts"],
        train_workouts=generator["train_workouts"],
        part_bytes=generator["part_mb"] << 20,
        workers=workers,
    )
    parts = read_json(target)["parts"]
    return {"parts": len(parts), "bytes": sum(part["size"] for part in parts)}


def extract_features(
    *,
    frames: str,
    data: str,
    weights: str,
    dataset: dict[str, Any],
    extractor: dict[str, Any],
    backend: Backend,
    failed_videos: int,
    stage_version: int,
    shard: str,
    gpus: int,
    work: str,
    target: str,
) -> dict[str, Any]:
    """Extracts, or imports, the features of one shard of a split's videos.

    Raises:
        VideoError: More videos fail than the configuration tolerates; what was finished is kept.
    """
    from sightline.video.frames import read_index

    folder = folder_of(data, dataset)
    usable = [row for row in read_index(frames) if row.status == "ok"]
    number, count = shard_number(shard)
    mine = [usable[position] for position in deal_out([len(row.used) for row in usable], count)[number - 1]]
    checkpoint = locate(Path(weights), extractor["weights"]["file"])
    device = choose_device(gpus, demo_weights=extractor["weights_kind"] == "demo")
    with WorkStores(work, shard, backend) as store:
        rows = _fill_store(store, mine, folder, extractor, checkpoint, stage_version, device, f"features {shard}")
        failed = [row for row in rows if row["status"] == "failed"]
        for row in failed:
            log.error("%s: %s", row["video_id"], row["reason"])
        if len(failed) > failed_videos:
            raise VideoError(
                f"{len(failed)} of {len(rows)} videos failed: "
                + "; ".join(f"{row['video_id']}: {row['reason']}" for row in failed[:_SHOWN]),
                file=folder,
                mend=f"mend them, or tolerate them with limits.failed_videos={len(failed)}; the others are kept",
            )
        finished = [row for row in rows if row["status"] == "ok"]
        write_shard_index(store, [row["key"] for row in finished], target)
    computed = sum(row["computed"] for row in finished)
    return {"videos": len(rows), "computed": computed, "steps": sum(row["steps"] for row in rows)}


def _fill_store(
    store: WorkStores,
    mine: list[FrameIndexRow],
    folder: Path,
    extractor: dict[str, Any],
    checkpoint: Path,
    stage_version: int,
    device: str,
    description: str,
) -> list[dict[str, Any]]:
    """Extracts or imports what the store does not hold; the CNN is loaded at the first video that needs it."""
    from sightline.systems.fitcoach.features import VideoToExtract, extract_shard, import_npy_folder

    settings = extractor_settings(extractor)
    fix_threads(settings.cpu_threads)

    @cache
    def load() -> StreamingEfficientNet:
        from sightline.systems.fitcoach.model.cnn import load_cnn

        log.info("loading the 3D CNN from %s on %s", checkpoint, device)
        return load_cnn(checkpoint, device)

    with StopRequest() as stop, progress_bar(mine, description=description, unit="video") as bar:

        def advance(_done: int, _total: int) -> None:
            bar.update()

        def should_stop() -> bool:
            return stop.received is not None

        if extractor["released_features"]:
            return import_npy_folder(
                folder,
                store,
                storage_dtype=settings.storage_dtype,
                video_ids=[row.video_id for row in mine],
                progress=advance,
                should_stop=should_stop,
            )
        videos = [
            VideoToExtract(
                video_id=row.video_id,
                path=folder / row.path,
                video_sha256=row.sha256,
                timestamps_path=_timestamps_of(folder, row.path) if row.timestamps_sha256 else None,
                timestamps_sha256=row.timestamps_sha256,
                rotate=None if row.timestamps_sha256 else False,  # only QEVD's numbers tell that a video lies
            )
            for row in mine
        ]
        return extract_shard(
            videos,
            store,
            lambda frames, state: load()(frames, state),
            settings,
            weights_sha256=sha256_file(checkpoint),
            stage_version=stage_version,
            device=device,
            progress=advance,
            should_stop=should_stop,
        )


def _timestamps_of(folder: Path, video: str) -> Path:
    return folder / Path(video).with_name(f"{Path(video).stem}_timestamps.npy")


def _features_by_video(index: FeatureIndex) -> dict[str, tuple[str, np.ndarray]]:
    found: dict[str, tuple[str, np.ndarray]] = {}
    for key in index.keys():  # noqa: SIM118 - an index is no dict
        video = str(index.info(key).meta["video_id"])
        found[video] = (key, index.read(key, ["timestamps"])["timestamps"])
    return found


def make_samples(
    *,
    data: str,
    features: str,
    dataset: dict[str, Any],
    episodes: dict[str, Any],
    sampling: dict[str, Any],
    samples_target: str,
    plan_target: str,
) -> dict[str, Any]:
    """Cuts a split into episodes and the episodes into blocks and shards."""
    from sightline.systems.fitcoach.datasets import dataset_samples

    with FeatureIndex(features) as index:
        by_video = _features_by_video(index)
    found = dataset_samples(folder_of(data, dataset), dataset["layout"], by_video, episodes)
    samples = draw_samples(found.samples, sampling["limit"], sampling["limit_seed"])
    steps = sum(sample.cost for sample in samples) or 1.0
    per_step = sampling["seconds_per_item"] * len(samples) / steps
    samples = [replace(sample, cost=round(sample.cost * per_step, 6)) for sample in samples]
    plan = make_plan(
        samples,
        sampling["shards"],
        block_size=sampling["block_size"],
        declared_seconds=sampling["declared_seconds"],
    )
    plan["dropped"] = [row.to_json() for row in found.dropped]
    for row in found.dropped:
        log.info("left out: %s %s: %s", row.video_id, row.item, row.reason)
    write_parquet(samples_target, Sample, samples)
    write_json(plan_target, plan)
    return {"samples": len(samples), "dropped": len(found.dropped), "shards": sampling["shards"]}


def _run_key(files: dict[str, Path], settings: dict[str, Any], stage_version: int) -> str:
    """Returns what decides a prediction besides its sample: weights, tokenizer, settings, stage version."""
    beside = sorted(path for path in files["checkpoint"].parent.iterdir() if path.is_file())
    config = [files["llama"], *sorted(files["llama"].parent.glob("*.safetensors"))]
    digests = {path.name: sha256_file(path) for path in [*beside, *config]}
    return content_key("fitcoach predict", digests, settings, stage_version)


def _reader(index: FeatureIndex) -> ReadFeatures:
    def read(key: str, rows: slice) -> np.ndarray:
        try:
            return index.read(key, ["features"], rows)["features"]
        except DamagedError as error:
            mend = "run again with --forcerun fitcoach_extract: only the damaged item is computed anew"
            raise StoreError(error.problem, file=error.file, item=error.item, field=error.field, mend=mend) from error

    return read


def predict_shard(
    *,
    samples: str,
    plan: str,
    features: str,
    weights: list[str],
    trained: list[str],
    settings: dict[str, Any],
    stage_version: int,
    shard: str,
    gpus: int,
    work: str,
    target: str,
) -> dict[str, int]:
    """Runs Stream-VLM on the blocks of one shard and writes its rows."""
    files = weight_files(weights, trained, settings)
    device = choose_device(gpus, demo_weights=settings["weights_kind"] == "demo")

    with FeatureIndex(features) as index:

        def load() -> Any:
            fix_threads(settings["cpu_threads"])
            return load_predictor(files, settings, device, _reader(index))

        blocks = read_json(plan)
        predictions, counts = run_shard(
            plan=blocks,
            shard=shard,
            samples=read_samples(samples, ids_of_shard(blocks, shard)),
            run_key=_run_key(files, settings, stage_version),
            work=work,
            load_predictor=load,
            description=f"Stream-VLM on {device}",
        )
    write_lines(target, (prediction.to_json() for prediction in predictions))
    return counts


def score_run(
    *,
    samples: str,
    predictions: str,
    encoders: list[str],
    scoring: dict[str, Any],
    wordnet: str,
    scores_target: str,
    absent_target: str,
    pairs_target: str,
) -> dict[str, int]:
    """Scores one run."""
    settings = score_settings(scoring, encoders)
    if Path(wordnet).is_dir():  # shared by all environments; else NLTK searches its own folders
        settings = replace(settings, wordnet_folder=Path(wordnet))
    read, made = read_samples(samples), read_predictions(predictions)
    rows, absent = score(read, made, settings)
    pairs = matched_pairs(read, made, settings)
    for name, reason in absent.items():
        log.warning("%s is absent: %s", name, reason)
    write_parquet(scores_target, Score, rows)
    write_json(absent_target, absent)
    write_json(pairs_target, pairs)
    return {"samples": len(read), "rows": len(rows), "matched_pairs": len(pairs), "absent": len(absent)}


def score_settings(scoring: dict[str, Any], encoders: list[str] | None = None) -> ScoreSettings:
    """Returns the metric settings of the card, with the BERTScore encoder if its asset is there."""
    bertscore = scoring["bertscore"]
    folder = None
    if bertscore["weights"] and encoders:
        config = locate(Path(encoders[0]), "config.json")
        folder = config.parent
    return ScoreSettings(
        tolerance_s=scoring["tolerance_s"],
        tokenizer=scoring["tokenizer"],
        bertscore_folder=folder,
        bertscore_model=bertscore["model"],
        bertscore_layers=bertscore["layers"],
    )


def metrics_of(scoring: dict[str, Any]) -> tuple[MetricSpec, ...]:
    """Returns the metrics the card asks for, as the summary aggregates them."""
    return metric_specs(score_settings(scoring))


def draw_run(
    *,
    data: str,
    dataset: dict[str, Any],
    extractor: dict[str, Any],
    scoring: dict[str, Any],
    samples: str,
    predictions: str,
    scores: str,
    target: str,
) -> dict[str, int]:
    """Draws the timeline of every episode of one run."""
    from sightline.systems.fitcoach.views import draw_views

    views = draw_views(
        read_samples(samples),
        read_predictions(predictions),
        read_scores(scores),
        folder_of(data, dataset),
        layout=dataset["layout"],
        rotate_upto_id=extractor["rotate_upto_id"],
        allow_high_bit_depth=extractor["allow_high_bit_depth"],
        half_window_s=scoring["tolerance_s"] / 2,
    )
    write_parquet(target, View, views)
    return {"views": len(views)}
