"""Training as the workflow calls it: files and plain settings in, a checkpoint in the released layout out."""

from __future__ import annotations

import logging
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sightline.errors import InputError
from sightline.features.index import FeatureIndex
from sightline.records.files import content_key, sha256_file, whole_file, write_json
from sightline.records.types import Sample
from sightline.run.devices import choose_device, fix_threads
from sightline.run.shards import sample_key
from sightline.systems.fitcoach.datasets import dataset_samples
from sightline.systems.fitcoach.loading import model_config, weight_files
from sightline.systems.fitcoach.media import folder_of
from sightline.systems.fitcoach.model.loader import genuine_state_dict, load_stream_vlm
from sightline.systems.fitcoach.model.stream_vlm import StreamVlm
from sightline.systems.fitcoach.projector import fit_projectors
from sightline.systems.fitcoach.records import Episode
from sightline.systems.fitcoach.sequences import SequenceSettings
from sightline.systems.fitcoach.train import TrainSettings, train
from sightline.systems.fitcoach.variations import VariationSettings
from sightline.training.launch import run_processes
from sightline.training.loop import Durable, LoopSettings
from sightline.training.state import write_torch

log = logging.getLogger(__name__)
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
)


def train_checkpoint(
    *,
    name: str,
    data: str,
    features: str,
    weights: list[str],
    base: list[str],
    dataset: dict[str, Any],
    settings: dict[str, Any],
    stage_version: int,
    gpus: int,
    work: str,
    tensorboard: str,
    checkpoint: str,
    record: str,
) -> dict[str, Any]:
    """Trains one checkpoint, going on from what an earlier attempt left, and writes its record last.

    `work` holds the resumable state, `settings` the training's own and, under `base`, its variant's; `base` is a
    checkpoint trained here that takes the place of an asset's, or nothing.

    Raises:
        InputError: The split has no samples.
        CheckpointError: The weights do not fit the variant's model or tokenizer.
        ResumableStop: A signal came; the next attempt goes on from there.
    """
    device = choose_device(gpus, demo_weights=settings["base"]["weights_kind"] == "demo")
    files = weight_files(weights, base, settings["base"])
    beside = [*_tokenizer_files(files["checkpoint"]), *sorted(files["llama"].parent.glob("*.safetensors"))]
    digests = {role: sha256_file(path) for role, path in files.items()}
    digests |= {path.name: sha256_file(path) for path in beside}
    facts = {"name": name, "settings": settings, "dataset": dataset, "stage_version": stage_version}
    return run_processes(
        settings["processes"],
        _train_in_process,
        {
            "data": data,
            "features": features,
            "files": files,
            "facts": {**facts, "started_from": digests},
            "device": device,
            "work": Path(work),
            "tensorboard": Path(tensorboard),
            "checkpoint": Path(checkpoint),
            "record": Path(record),
        },
    )


def _tokenizer_files(checkpoint: Path) -> list[Path]:
    return [path for name in TOKENIZER_FILES if (path := checkpoint.parent / name).is_file()]


def training_samples(data: str, index: FeatureIndex, dataset: dict[str, Any], settings: dict[str, Any]) -> list[Sample]:
    """Returns the episodes of a split, sorted by id, as the base variant would evaluate them.

    Raises:
        InputError: There is none; says how much was left out and why.
    """
    by_video: dict[str, tuple[str, np.ndarray]] = {}
    for key in index.keys():  # noqa: SIM118 - an index is no dict
        by_video[str(index.info(key).meta["video_id"])] = (key, index.read(key, ["timestamps"])["timestamps"])
    found = dataset_samples(folder_of(data, dataset), dataset["layout"], by_video, settings)
    for row in found.dropped:
        log.info("left out: %s %s: %s", row.video_id, row.item, row.reason)
    if not found.samples:
        reasons = list(dict.fromkeys(row.reason for row in found.dropped))
        raise InputError(
            f"the training split {dataset['folder']} has no samples"
            + (f"; left out: {'; '.join(reasons[:3])}" if reasons else ""),
            file=data,
            mend="train on another dataset, or mend its annotations",
        )
    return sorted(found.samples, key=lambda sample: sample.id)


def load_trainable(
    files: dict[str, Path], settings: dict[str, Any], device: str, lora_dropout: float
) -> tuple[StreamVlm, Any]:
    """Loads the weights a training starts from, LoRA unmerged.

    Our model carries LoRA itself, under peft's names, and peft could only wrap it: what peft offers beyond
    that, inserting adapters and merging them, the released order (LoRA first, then the larger vocabulary)
    and the check of every merge do not leave to it.
    """
    model, tokenizer, report = load_stream_vlm(
        files["llama"].parent,
        files["checkpoint"],
        model_config(files, settings, lora_dropout),
        device,
        getattr(torch, settings["dtype"]),
        merge_lora=False,
    )
    log.info("%s: %s", files["checkpoint"], "; ".join([f"{len(report.used)} tensors read", *report.notes]))
    return model, tokenizer


def _named(kind: Any, settings: dict[str, Any]) -> dict[str, Any]:
    names = {entry.name for entry in fields(kind)} & settings.keys()
    return {name: settings[name] for name in names}


def train_settings(settings: dict[str, Any]) -> TrainSettings:
    """Returns the typed settings of a card's training; the streaming loop is the base variant's unless it says so."""
    loop = settings["loop"] or settings["base"]["loop"]
    return TrainSettings(
        loop=LoopSettings(**_named(LoopSettings, settings)),
        sequences=SequenceSettings(**{**_named(SequenceSettings, settings), "loop": loop}),
        trainable=tuple(settings["trainable"]),
        vision_weight=settings["vision_weight"],
        variations=VariationSettings(**_named(VariationSettings, settings)),
        cache_mb=settings["cache_mb"],
    )


def _maps_of(sample: Sample, index: FeatureIndex) -> np.ndarray:
    episode = Episode.from_json(sample.payload, item=sample.id)
    return index.read(episode.feature_key, ["features"], slice(episode.first_row, episode.stop_row))["features"]


def _train_in_process(
    *,
    data: str,
    features: str,
    files: dict[str, Path],
    facts: dict[str, Any],
    device: str,
    work: Path,
    tensorboard: Path,
    checkpoint: Path,
    record: Path,
) -> dict[str, Any]:
    """One process's share; the first one writes the results."""
    settings = facts["settings"]
    fix_threads(settings["cpu_threads"])
    with FeatureIndex(features) as index:
        samples = training_samples(data, index, facts["dataset"], settings["base"])
        place = device if settings["processes"] == 1 else "cpu"  # the loop gives every process a GPU of its own
        model, tokenizer = load_trainable(files, settings["base"], place, settings["lora_dropout"])
        if settings["projector_rank"]:
            maps = (_maps_of(sample, index) for sample in samples)
            fit_projectors(model, maps, settings["projector_rank"], settings["projector_scale"])
        key = content_key("fitcoach train", facts, [sample_key(sample) for sample in samples])
        result = train(
            samples,
            lambda name, rows: index.read(name, ["features"], rows)["features"],
            lambda name: index.read(name, ["timestamps"])["timestamps"],
            model,
            tokenizer,
            train_settings(settings),
            device=device,
            durable=Durable(work / key[:16], tensorboard),
        )
    counts = {"samples": len(samples), "steps": result.steps, "computed": result.steps - result.resumed_at}
    if result.is_main:
        write_torch(checkpoint, {"state_dict": genuine_state_dict(model)})
        for source in _tokenizer_files(files["checkpoint"]):
            with whole_file(checkpoint.parent / source.name) as temporary:
                shutil.copyfile(source, temporary)
        write_json(
            record,
            {
                **facts,
                "key": key,
                "samples": [sample.id for sample in samples],
                "steps": result.steps,
                "ended_by": result.ended_by,
                "curve": result.curve,
                "weights_sha256": sha256_file(checkpoint),
            },
        )
    return counts
