"""Prototypes of a dataset's actions as the workflow calls it: language, imported files, or averaged embeddings."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from sightline.assets.asset_record import locate
from sightline.errors import InputError
from sightline.records.files import read_json
from sightline.run.devices import choose_device, fix_threads
from sightline.systems.sgear.loading import input_files, model_config, stored_inputs, text_vectors
from sightline.systems.sgear.prototypes import (
    Prototypes,
    average_embeddings,
    import_legacy,
    language_prototypes,
    open_encoder,
    with_visual,
)
from sightline.systems.sgear.samples import Dataset
from sightline.systems.sgear.stages import read_split
from sightline.systems.sgear.texts import texts_of_classes

log = logging.getLogger(__name__)


def make_prototypes(
    *,
    data: str,
    files: list[str],
    language: list[str],
    trained: list[str],
    weights: list[str],
    settings: dict[str, Any],
    gpus: int,
    target: str,
) -> dict[str, Any]:
    """Writes what is known about the classes of a dataset.

    Args:
        data: Record of the asset with its annotations.
        files: Records of the assets with an encoder, or with legacy files.
        language: Prototypes whose language is taken over, for visual ones.
        trained: Checkpoint whose embeddings are averaged; nothing for language alone.
        weights: Records of the assets that its variant reads.
        settings: The card's, `dataset`, and under `base` the variant of the checkpoint.
        gpus: GPUs of the job.
        target: File to write.

    Raises:
        InputError: A class has no text, or no class has a sample.
        CheckpointError: The encoder, a legacy file or the checkpoint does not fit.
    """
    split = read_split(data, settings["dataset"])
    if trained:
        known = Prototypes.load(language[0], classes=split.table.actions)
        made = _averaged(split, known, weights, trained, settings, gpus)
    elif settings["imported"]:
        paths = _found(files, settings["imported"])
        made = import_legacy(split.table.actions, encoder=settings["encoder_name"], **paths)
    else:
        folder = _found(files, {"encoder": settings["encoder"]})["encoder"] if settings["encoder"] else None
        device = choose_device(gpus, demo_weights=True)
        made = language_prototypes(
            split.table.actions,
            texts_of_classes(split.table, split.form),
            open_encoder(folder, device=device),
            settings["encoder_name"],
        )
    made.save(target)
    return {"classes": len(made.classes), "visual": int(made.visual is not None)}


def _found(records: list[str], files: dict[str, Any]) -> dict[str, Path]:
    by_asset = {str(read_json(path)["asset"]): Path(path) for path in records}
    return {role: locate(by_asset[entry["asset"]], entry["file"]) for role, entry in files.items()}


def _averaged(
    split: Dataset, known: Prototypes, weights: list[str], trained: list[str], settings: dict[str, Any], gpus: int
) -> Prototypes:
    """Averages what a trained model makes of the first samples of each class."""
    from sightline.systems.sgear.embeddings import class_embeddings
    from sightline.systems.sgear.model.loader import load_sgear
    from sightline.systems.sgear.train_stage import training_samples

    base = settings["base"]
    paths = input_files(weights, trained, base)
    device = choose_device(gpus, demo_weights=base["weights_kind"] == "demo")
    fix_threads(base["cpu_threads"])
    classes = len(split.table.actions)
    model, report = load_sgear(
        paths["checkpoint"], model_config(base, classes, None, None), device=device, classes=classes
    )
    log.info("%s: %s", paths["checkpoint"], report.summary())
    samples = training_samples(split, base["windows"], past=False)
    with stored_inputs(paths, base) as read:
        found = class_embeddings(
            samples, read, model,
            per_class=settings["per_class"], batch=base["batch_limit"], text=text_vectors(paths, model.config, device),
        )  # fmt: skip
    if not len(found.rows):
        raise InputError("no sample gave an embedding", file=split.source, mend="take prototypes from another split")
    visual = average_embeddings(
        found.classes, found.vectors, classes,
        similarities=known.similarities, fallback=settings["fallback"], per_class=settings["per_class"],
    )  # fmt: skip
    log.info("%d exemplars; %d classes without any", int(visual.counts.sum()), len(visual.without))
    return with_visual(known, visual, split=settings["dataset"]["split"], fallback=settings["fallback"])
