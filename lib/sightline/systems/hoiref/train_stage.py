"""Training as the workflow calls it: files and plain settings in, a checkpoint of the released form out."""

from __future__ import annotations

import logging
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from sightline.errors import InputError
from sightline.records.files import content_key, sha256_file, write_json
from sightline.run.devices import choose_device, fix_threads
from sightline.systems.hoiref.annotations import TRAIN_FILES, FrameRoots, TrainRecord, read_conversations
from sightline.systems.hoiref.dialogue import RowLimits
from sightline.systems.hoiref.loading import (
    annotations_folder,
    frame_roots,
    hoiqa_quirks,
    load_model,
    picture_reader,
    weight_digests,
    weight_files,
)
from sightline.systems.hoiref.model.loader import checkpoint_state
from sightline.systems.hoiref.model.vlm4hoi import Vlm4Hoi
from sightline.systems.hoiref.schedule import Schedule, Stage
from sightline.systems.hoiref.train import TrainSettings, train
from sightline.training.launch import run_processes
from sightline.training.loop import Durable, LoopSettings
from sightline.training.state import write_torch

log = logging.getLogger(__name__)
_NOT_THE_LOOPS = {"epochs", "max_steps", "learning_rate", "warmup_steps", "schedule", "shuffle"}


def train_checkpoint(
    *,
    name: str,
    data: str,
    frames: list[str],
    weights: list[str],
    base: list[str],
    dataset: dict[str, Any],
    roots: dict[str, dict[str, str]],
    settings: dict[str, Any],
    stage_version: int,
    gpus: int,
    work: str,
    tensorboard: str,
    checkpoint: str,
    record: str,
) -> dict[str, Any]:
    """Trains one checkpoint, going on from what an earlier attempt left, and writes its record last.

    Args:
        name: Of the training.
        data: Record of the asset with the conversations.
        frames: Records of the assets with the pictures that do not lie beside them.
        weights: Records of the assets that the base variant names.
        base: Checkpoint trained here that takes the place of an asset's, or nothing.
        dataset: `layout`, `folder` in the asset, `split`.
        roots: Beginning of a picture's path -> folder in one of `frames`.
        settings: The training's own, and under `base` its variant's.
        stage_version: Of the stage.
        gpus: GPUs of the job.
        work: Folder of the resumable state.
        tensorboard: Folder of event files.
        checkpoint: Written: weights.
        record: Written: settings, sources and the loss curve.

    Raises:
        InputError: There is no training file, or too many conversations are damaged.
        CheckpointError: What it starts from does not fit the model.
        ResumableStop: A signal came; the next attempt goes on from there.
    """
    device = choose_device(gpus, demo_weights=settings["base"]["weights_kind"] == "demo")
    files = weight_files(weights, base, settings["base"])
    facts = {"name": name, "settings": settings, "dataset": dataset, "stage_version": stage_version}
    return run_processes(
        settings["processes"],
        _train_in_process,
        {
            "folder": annotations_folder(data, dataset),
            "roots": frame_roots(data, dataset, frames, roots),
            "files": files,
            "facts": {**facts, "started_from": weight_digests(files)},
            "device": device,
            "work": Path(work),
            "tensorboard": Path(tensorboard),
            "checkpoint": Path(checkpoint),
            "record": Path(record),
        },
    )


def read_training_split(folder: Path) -> dict[str, list[TrainRecord]]:
    """Returns part -> its conversations; either file may be absent.

    Raises:
        InputError: None is there, or one is malformed.
    """
    found = {
        part: read_conversations(folder / name, part) for part, name in TRAIN_FILES.items() if (folder / name).is_file()
    }
    if not found:
        raise InputError(
            "no training file of HOI-QA here", file=folder, mend=f"put {' or '.join(TRAIN_FILES.values())} there"
        )
    return found


def train_settings(settings: dict[str, Any]) -> TrainSettings:
    """Returns the typed settings of a card's training."""
    names = {entry.name for entry in fields(LoopSettings)} & settings.keys() - _NOT_THE_LOOPS
    return TrainSettings(
        loop=LoopSettings(
            epochs=None, max_steps=1, bias_decay=0.0, shuffle=False, **{name: settings[name] for name in names}
        ),
        schedule=Schedule(
            settings["learning_rate"],
            settings["min_learning_rate"],
            settings["warmup_learning_rate"],
            settings["warmup_steps"],
            settings["epochs"],
            settings["steps_per_epoch"],
            settings["rule"],
        ),
        stages=tuple(Stage(stage["ratios"], stage["share"]) for stage in settings["stages"]),
        quirks=hoiqa_quirks(settings["base"]),
        limits=RowLimits(answer=settings["max_answer_tokens"]),
        trainable=tuple(settings["trainable"]),
        cache_mb=settings["cache_mb"],
        damaged_share=settings["damaged_share"],
        compat=tuple(settings["compat"]),
    )


def trained_state(model: Vlm4Hoi) -> dict[str, Tensor]:
    """Returns what a checkpoint holds: LoRA and projection, as released, and whatever else was trained."""
    more = {name: value.detach().float().cpu() for name, value in model.named_parameters() if value.requires_grad}
    return {**more, **checkpoint_state(model)}


def _train_in_process(
    *,
    folder: Path,
    roots: FrameRoots,
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
    records = read_training_split(folder)
    digests = {name: sha256_file(folder / name) for name in TRAIN_FILES.values() if (folder / name).is_file()}
    key = content_key("hoiref train", facts, digests)
    model, tokenizer = load_model(files, {**settings["base"], "quantisation": "none"}, device)
    result = train(
        records,
        picture_reader(roots),
        model,
        tokenizer,
        train_settings(settings),
        device=device,
        processes=settings["processes"],
        durable=Durable(work / key[:16], tensorboard),
    )
    if result.is_main:
        content = {"model": trained_state(model), "optimizer": {}, "config": {}, "scaler": {}, "epoch": 0}
        write_torch(checkpoint, content)
        write_json(
            record,
            {
                **facts,
                "key": key,
                "annotations": digests,
                "samples": [f"{part}-{row.image_id}" for part, rows in records.items() for row in rows],
                "steps": result.steps,
                "ended_by": result.ended_by,
                "curve": result.curve,
                "weights_sha256": sha256_file(checkpoint),
            },
        )
    total = sum(map(len, records.values()))
    return {"samples": total, "steps": result.steps, "computed": result.steps - result.resumed_at}
