"""Training as the workflow calls it: files and plain settings in, a checkpoint under the released names out."""

from __future__ import annotations

import logging
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sightline.assets.asset_record import locate
from sightline.errors import InputError
from sightline.records.files import content_key, sha256_file, write_json
from sightline.records.types import Sample
from sightline.run.devices import choose_device, fix_threads
from sightline.run.shards import sample_key
from sightline.systems.sgear.annotations import anticipate
from sightline.systems.sgear.classes import ClassTable
from sightline.systems.sgear.labels import PastLabels
from sightline.systems.sgear.loading import (
    input_files,
    model_config,
    stored_inputs,
    text_vectors,
    window_settings,
)
from sightline.systems.sgear.losses import LossWeights
from sightline.systems.sgear.model.loader import load_partial, load_sgear, load_vit, save_sgear
from sightline.systems.sgear.model.sgear import Sgear
from sightline.systems.sgear.prototypes import Prototypes
from sightline.systems.sgear.records import SgearPayload
from sightline.systems.sgear.samples import Dataset, build_samples, read_dataset
from sightline.systems.sgear.train import TrainSettings, train
from sightline.training.launch import run_processes
from sightline.training.loop import Durable, LoopSettings

log = logging.getLogger(__name__)
_DIGESTED = ("backbone", "checkpoint", "prototypes")


def train_checkpoint(
    *,
    name: str,
    data: str,
    weights: list[str],
    base: list[str],
    prototypes: str,
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

    `data` and `weights` are records of assets (annotations; features, videos, backbone), `base` the checkpoint it
    starts from or nothing, `prototypes` a file of the classes' prototypes; `work` holds the resumable state, and
    `settings` are the training's own and, under `base`, its variant's.

    Raises:
        InputError: The split has no labelled sample, or a model on raw frames was given no videos.
        CheckpointError: What it starts from does not fit the model.
        ResumableStop: A signal came; the next attempt goes on from there.
    """
    device = choose_device(gpus, demo_weights=settings["base"]["weights_kind"] == "demo")
    files = {**input_files(weights, [], settings["base"]), "prototypes": Path(prototypes)}
    facts = {"name": name, "settings": settings, "dataset": dataset, "stage_version": stage_version}
    return run_processes(
        settings["processes"],
        _train_in_process,
        {
            "folder": locate(data, dataset["folder"]),
            "files": files,
            "init": Path(base[0]) if base else None,
            "facts": {**facts, "started_from": _sources(files, [data, *weights], base)},
            "device": device,
            "work": Path(work),
            "tensorboard": Path(tensorboard),
            "checkpoint": Path(checkpoint),
            "record": Path(record),
        },
    )


def _sources(files: dict[str, Path], records: list[str], base: list[str]) -> dict[str, str]:
    """Returns digests of what a training starts from; of features and videos those of their assets' records."""
    weights = {role: sha256_file(path) for role, path in files.items() if role in _DIGESTED}
    assets = {f"record of {Path(path).parent.name}": sha256_file(path) for path in records}
    return {**weights, **assets, **{f"init {number}": sha256_file(path) for number, path in enumerate(base)}}


def training_samples(dataset: Dataset, windows: dict[str, Any], *, past: bool, weight: float = 1.0) -> list[Sample]:
    """Returns the labelled actions of a split in file order, with labels of the past where a loss reads them.

    Raises:
        InputError: There is none.
    """
    kept = anticipate(
        dataset.segments, tau_a=windows["tau_a"], tau_o=windows["tau_o"], drop_style=windows["drop_style"]
    ).kept
    found = build_samples(
        dataset,
        tau_a=windows["tau_a"],
        tau_o=windows["tau_o"],
        drop_style=windows["drop_style"],
        seconds_per_item=weight,
        past=PastLabels(kept, overlap=windows.get("past_overlap", "published")) if past else None,
        windows=window_settings({"windows": windows}) if past else None,
    )
    labelled = [one for one in found.samples if SgearPayload.from_json(one.payload).action >= 0]
    log.info(
        "%d rows, %d of them dropped for their context, %d without a class",
        len(dataset.segments),
        len(found.dropped),
        len(found.samples) - len(labelled),
    )
    if not labelled:
        raise InputError(
            "the training split has no labelled sample",
            file=dataset.source,
            mend="train on a split with classes, or on windows that its videos have room for",
        )
    return labelled


def make_model(
    settings: dict[str, Any], table: ClassTable, prototypes: Prototypes, files: dict[str, Path], init: Path | None
) -> Sgear:
    """Returns the model that a training starts from.

    Weights are drawn with the training's seed; then come prototypes, the base variant's `checkpoint` or `backbone`,
    and those tensors of `init` that `init_blocks` names.

    Raises:
        InputError: The prototypes are of other classes, or have no vectors.
        CheckpointError: A file does not fit.
    """
    base, blocks = settings["base"], settings["init_blocks"]
    verbs, nouns = len(table.verbs) or None, len(table.nouns) or None
    config = model_config(base, len(table.actions), verbs, nouns)
    if "checkpoint" in files:
        model, _ = load_sgear(files["checkpoint"], config, classes=config.classes)
        return model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings["seed"])
        model = Sgear(config)
    if verbs and nouns:
        model.set_action_maps(torch.from_numpy(_pairs(table)))
    vectors = prototypes.visual if prototypes.visual is not None else prototypes.embeddings
    if vectors is None:
        raise InputError(
            "the prototypes have neither visual nor language vectors",
            file=files["prototypes"],
            mend="make prototypes with an encoder, or import visual ones",
        )
    if prototypes.visual is None:
        log.info("no visual prototypes yet: starting from language, as for the run that makes them")
    model.set_prototypes(torch.from_numpy(vectors))
    if "backbone" in files:
        load_vit(model, files["backbone"])
    if init is not None:
        load_partial(model, init, blocks)
    return model


def _pairs(table: ClassTable) -> Any:
    import numpy as np

    return np.stack([table.verb_of_action, table.noun_of_action], axis=1)


def _named(kind: Any, settings: dict[str, Any]) -> dict[str, Any]:
    names = {entry.name for entry in fields(kind)} & settings.keys()
    return {name: settings[name] for name in names}


def train_settings(settings: dict[str, Any]) -> TrainSettings:
    """Returns the typed settings of a card's training."""
    plain = {name: value for name, value in _named(TrainSettings, settings).items() if name not in ("loop", "losses")}
    if settings["base"]["model"]["vit"]:
        plain["cache_mb"] = 0  # pictures are drawn anew in every epoch
    return TrainSettings(
        **plain,
        loop=LoopSettings(**_named(LoopSettings, settings)),
        losses=LossWeights(**settings["losses"]),
    )


def _train_in_process(
    *,
    folder: Path,
    files: dict[str, Path],
    init: Path | None,
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
    split = read_dataset(folder, facts["dataset"]["layout"], facts["dataset"]["split"])
    typed = train_settings(settings)
    samples = training_samples(split, settings["base"]["windows"], past=typed.losses.need_past)
    known = Prototypes.load(files["prototypes"], classes=split.table.actions)
    model = make_model(settings, split.table, known, files, init)
    key = content_key("sgear train", facts, [sample_key(sample) for sample in samples])
    with stored_inputs(files, settings["base"], train=True, cache_mb=settings.get("cache_mb", 0)) as read:
        result = train(
            samples,
            read,
            model,
            typed,
            language=_tensor(known.similarities),
            text=text_vectors(files, model.config, "cpu"),
            device=device,
            durable=Durable(work / key[:16], tensorboard),
        )
    if result.is_main:
        save_sgear(model, checkpoint)
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
    return {"samples": len(samples), "steps": result.steps, "computed": result.steps - result.resumed_at}


def _tensor(array: Any) -> Tensor | None:
    return None if array is None else torch.from_numpy(array)
