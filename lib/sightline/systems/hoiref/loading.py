"""From a card's settings and acquired files to models and pictures: what jobs, the command and the page share."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.assets.asset_record import locate
from sightline.records.files import read_json, sha256_file
from sightline.run.stages import split_folder
from sightline.systems.hoiref.annotations import FrameRoots

if TYPE_CHECKING:
    from sightline.llm.tokens import TextTokenizer
    from sightline.systems.hoiref.asking import Asker
    from sightline.systems.hoiref.baseline import BaselinePredictor
    from sightline.systems.hoiref.model.vlm4hoi import Vlm4Hoi
    from sightline.systems.hoiref.predict import ReadPicture
    from sightline.systems.hoiref.questions import HoiQaQuirks

log = logging.getLogger(__name__)
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "added_tokens.json")


def weight_files(weights: list[str], trained: list[str], settings: Mapping[str, Any]) -> dict[str, Path]:
    """Returns a variant's weights by role; a checkpoint trained here takes the place of an asset's."""
    records = {str(read_json(path)["asset"]): Path(path) for path in weights}
    files = {role: locate(records[entry["asset"]], entry["file"]) for role, entry in settings["assets"].items()}
    return {**files, "checkpoint": Path(trained[0])} if trained else files


def weight_digests(files: Mapping[str, Path]) -> dict[str, str]:
    """Returns the SHA-256 of every file that decides an answer of VLM4HOI, by name."""
    folder = files["llama"].parent
    beside = [folder / name for name in _TOKENIZER if (folder / name).is_file()]
    llama = [files["llama"], *sorted(folder.glob("*.safetensors")), *sorted(folder.glob("*.bin"))]
    return {path.name: sha256_file(path) for path in [files["tower"], files["checkpoint"], *llama, *beside]}


def annotations_folder(data: str, dataset: Mapping[str, Any]) -> Path:
    """Returns the folder of a dataset's annotation files inside its asset."""
    return split_folder(data, dataset["folder"], "")


def frame_roots(
    data: str, dataset: Mapping[str, Any], records: list[str], frames: Mapping[str, Mapping[str, str]]
) -> FrameRoots:
    """Returns where a dataset's pictures lie.

    Args:
        data: Record of the asset with the annotations; other paths start beside their folder.
        dataset: `folder` in the asset.
        records: Records of the assets that hold pictures.
        frames: Beginning of a path -> `asset` and `file` of the folder that takes its place.
    """
    by_asset = {str(read_json(path)["asset"]): Path(path) for path in records}
    moved = {beginning: locate(by_asset[one["asset"]], one["file"]) for beginning, one in frames.items()}
    return FrameRoots(annotations_folder(data, dataset).parent, moved)


def picture_reader(roots: FrameRoots) -> ReadPicture:
    """Returns what reads a picture by its path in the dataset."""
    from sightline.systems.hoiref.pixels import load_rgb

    return lambda image: load_rgb(roots.resolve(image))


def hoiqa_quirks(settings: Mapping[str, Any]) -> HoiQaQuirks:
    """Returns the switches of a card as the library takes them."""
    from sightline.systems.hoiref.questions import HoiQaQuirks

    return HoiQaQuirks(**settings["quirks"])


def load_model(files: Mapping[str, Path], settings: Mapping[str, Any], device: str) -> tuple[Vlm4Hoi, TextTokenizer]:
    """Loads VLM4HOI by its genuine keys; the log says which were used, missing or left over.

    Args:
        files: `llama` (config.json), `tower` and `checkpoint`.
        settings: The variant's: `vision`, `lora`, `dtype`, and `quantisation` where it is not trained.
        device: `cpu` or `cuda`.
    """
    import torch

    from sightline.llm.tokens import load_tokenizer
    from sightline.systems.hoiref.model.config import Vlm4HoiConfig
    from sightline.systems.hoiref.model.loader import load_vlm4hoi

    folder = files["llama"].parent
    config = Vlm4HoiConfig.from_folder(folder, settings["vision"], settings["lora"])
    model, _ = load_vlm4hoi(
        folder,
        files["tower"],
        files["checkpoint"],
        config,
        device,
        getattr(torch, settings["dtype"]),
        quantisation=settings.get("quantisation", "none"),
    )
    return model, load_tokenizer(folder)


def load_asker(files: Mapping[str, Path], settings: Mapping[str, Any], device: str) -> Asker:
    """Loads VLM4HOI, ready for questions; see `load_model`."""
    from sightline.systems.hoiref.asking import Asker

    return Asker(*load_model(files, settings, device))


def other_fingerprint(files: Mapping[str, Path], settings: Mapping[str, Any]) -> str:
    """Returns what decides another model's answers; reads files but loads no model."""
    from sightline.llm.backends import fingerprint

    return fingerprint({**settings["other"], "dtype": settings["dtype"]}, _folder(files))


def _folder(files: Mapping[str, Path]) -> Path | None:
    found = files.get("model")
    return found.parent if found is not None and found.is_file() else found


def load_other(
    files: Mapping[str, Path], settings: Mapping[str, Any], device: str, read_picture: ReadPicture
) -> BaselinePredictor:
    """Opens another model through its backend, with its own spelling of boxes."""
    from sightline.llm.backends import open_backend
    from sightline.systems.hoiref.baseline import BaselinePredictor, BaselineSettings, Wording

    other = settings["other"]
    backend = open_backend(
        {**other, "dtype": settings["dtype"]}, _folder(files), device, other_fingerprint(files, settings)
    )
    typed = BaselineSettings(
        other["box_format"], settings["max_new_tokens"], settings["batch_limit"], Wording(**other["wording"])
    )
    return BaselinePredictor(backend, typed, read_picture)
