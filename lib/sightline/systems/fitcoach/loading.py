"""From a card's settings and acquired files to models: what the workflow's jobs and the coach have in common."""

from __future__ import annotations

import logging
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.assets.acquire import locate
from sightline.records.files import read_json

if TYPE_CHECKING:
    from sightline.llm.tokens import TextTokenizer
    from sightline.systems.fitcoach.model.config import StreamVlmConfig
    from sightline.systems.fitcoach.model.stream_vlm import StreamVlm
    from sightline.systems.fitcoach.pictures import ExtractorSettings
    from sightline.systems.fitcoach.predict import Predictor, ReadFeatures
    from sightline.systems.fitcoach.stream import StreamSettings

log = logging.getLogger(__name__)
_NOT_EXTRACTION = {"weights", "weights_kind", "released_features"}


def extractor_settings(extractor: dict[str, Any]) -> ExtractorSettings:
    """Returns what of an extractor's card decides features."""
    from sightline.systems.fitcoach.pictures import ExtractorSettings

    return ExtractorSettings(**{name: value for name, value in extractor.items() if name not in _NOT_EXTRACTION})


def weight_files(weights: list[str], trained: list[str], settings: dict[str, Any]) -> dict[str, Path]:
    """Returns a variant's weights by role; a checkpoint trained here takes the place of an asset's."""
    records = {str(read_json(path)["asset"]): Path(path) for path in weights}
    files = {role: locate(records[entry["asset"]], entry["file"]) for role, entry in settings["assets"].items()}
    return {**files, "checkpoint": Path(trained[0])} if trained else files


def model_config(files: dict[str, Path], settings: dict[str, Any], lora_dropout: float = 0.0) -> StreamVlmConfig:
    """Returns the sizes of a variant's model, from its LLaMA folder and its card."""
    from sightline.systems.fitcoach.model.config import StreamVlmConfig

    attention, lora = settings["cross_attention"], settings["lora"]
    return StreamVlmConfig.from_folder(
        files["llama"].parent,
        {
            "adapter_insert_layers": attention["layers"],
            "num_of_xattn_heads": attention["heads"],
            "vision_dim": attention["vision_dim"],
            "attn_dim": attention["attention_dim"],
        },
        {
            "r": lora["r"],
            "lora_alpha": lora["alpha"],
            "lora_dropout": lora_dropout,
            "target_modules": lora["targets"],
        },
    )


def load_language_model(
    files: dict[str, Path], settings: dict[str, Any], device: str
) -> tuple[StreamVlm, TextTokenizer, StreamSettings]:
    """Loads Stream-VLM by its genuine keys; the log says which keys were used, missing or left over.

    Args:
        files: `llama` (config.json of the LLaMA folder) and `checkpoint`.
        settings: The variant's settings.
        device: `cpu` or `cuda`.
    """
    import torch

    from sightline.systems.fitcoach.model.loader import load_stream_vlm
    from sightline.systems.fitcoach.stream import StreamSettings

    model, tokenizer, report = load_stream_vlm(
        files["llama"].parent,
        files["checkpoint"],
        model_config(files, settings),
        device,
        getattr(torch, settings["dtype"]),
    )
    log.info("%s: %s", files["checkpoint"].name, report.summary())
    names = {entry.name for entry in fields(StreamSettings)} & settings.keys()
    return model, tokenizer, StreamSettings(**{name: settings[name] for name in names})


def load_predictor(
    files: dict[str, Path], settings: dict[str, Any], device: str, read_features: ReadFeatures
) -> Predictor:
    """Loads Stream-VLM (see `load_language_model`) and gives it features to read."""
    from sightline.systems.fitcoach.predict import Predictor

    return Predictor(*load_language_model(files, settings, device), read_features)
