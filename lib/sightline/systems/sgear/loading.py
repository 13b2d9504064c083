"""From a card's settings and files to models: what the workflow's jobs and the command line have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.assets.asset_record import locate
from sightline.errors import InputError
from sightline.records.files import read_json

if TYPE_CHECKING:
    from torch import Tensor

    from sightline.features.store import FeatureStore
    from sightline.systems.sgear.model.config import SgearConfig
    from sightline.systems.sgear.pictures import PixelSettings
    from sightline.systems.sgear.predict import ReadInputs, SgearPredictor
    from sightline.systems.sgear.windows import WindowSettings

_FROM_FILE = 1  # classes are what the checkpoint has


def input_files(weights: Sequence[str], trained: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Path]:
    """Returns what a variant's `assets` name, by role; a checkpoint trained here takes the place of an asset's.

    Args:
        weights: Records of the acquired assets.
        trained: The checkpoint trained here, or nothing.
        settings: `assets`: role to asset and file inside it.
    """
    records = {str(read_json(path)["asset"]): Path(path) for path in weights}
    files = {role: locate(records[entry["asset"]], entry["file"]) for role, entry in settings["assets"].items()}
    return {**files, "checkpoint": Path(trained[0])} if trained else files


def feature_paths(files: Mapping[str, Path]) -> list[Path]:
    """Returns the feature files of a variant in the order in which their channels are joined."""
    return [path.parent if path.name == "data.mdb" else path for path in folders_of(files, "features")]


def folders_of(files: Mapping[str, Path], kind: str) -> list[Path]:
    """Returns what the roles `kind`, `kind_2`, ... name, in this order."""
    roles = [role for role in files if role == kind or role.startswith(f"{kind}_")]
    return [files[role] for role in sorted(roles, key=lambda role: (len(role), role))]


@contextmanager
def stored_inputs(
    files: Mapping[str, Path], settings: Mapping[str, Any], *, train: bool = False, cache_mb: int = 0
) -> Iterator[ReadInputs]:
    """Opens what a variant's model is shown for as long as the context lasts: stored features, or videos.

    Args:
        files: By role: `features`, `features_2`, ... or `videos`, `videos_2`, ...
        settings: `model`, `windows`, and `pixels` for a model on raw frames.
        train: Draw scales and crops, on raw frames.
        cache_mb: Memory for pictures, on raw frames.

    Raises:
        StoreError: A feature file is missing, damaged, or of another width than the model's `input_dim`.
        InputError: A model on raw frames was given no videos.
    """
    windows = window_settings(settings)
    if settings["model"]["vit"]:
        from sightline.systems.sgear.pictures import VideoFolder, picture_inputs

        roots = folders_of(files, "videos")
        if not roots:
            raise InputError("a model on raw frames needs videos", field="assets", mend="name them as `videos`")
        videos = VideoFolder(roots, cache_mb)
        yield picture_inputs(videos, videos, windows, pixel_settings(settings), train=train)
        return
    from sightline.systems.sgear.feature_lmdb import FeatureReader
    from sightline.systems.sgear.predict import feature_inputs

    with FeatureReader(feature_paths(files), dim=settings["model"]["input_dim"]) as reader:
        yield feature_inputs(reader, windows)


def pixel_settings(settings: Mapping[str, Any]) -> PixelSettings:
    """Returns how pictures reach the backbone, from a variant's `pixels`."""
    from sightline.systems.sgear.pictures import PixelSettings

    plain = dict(settings["pixels"])
    return PixelSettings(**{**plain, "scale_train": tuple(plain["scale_train"])})


def window_settings(settings: Mapping[str, Any]) -> WindowSettings:
    """Returns how frames are chosen, from a variant's `windows`."""
    from sightline.systems.sgear.windows import WindowSettings

    names = {entry.name for entry in fields(WindowSettings)}
    return WindowSettings(**{name: value for name, value in settings["windows"].items() if name in names})


def model_config(settings: Mapping[str, Any], classes: int, verbs: int | None, nouns: int | None) -> SgearConfig:
    """Returns a variant's model, from its `model` and its windows' number of frames."""
    from sightline.systems.sgear.model.config import SgearConfig

    sizes = {"classes": classes, "verbs": verbs, "nouns": nouns, "frames": settings["windows"]["num_frames"]}
    return SgearConfig.from_settings({**settings["model"], **sizes})


def load_predictor(
    files: Mapping[str, Path],
    settings: Mapping[str, Any],
    device: str,
    read: ReadInputs,
    *,
    classes: int | None = None,
    store: FeatureStore | None = None,
    run_key: str = "",
) -> SgearPredictor:
    """Loads a checkpoint by its genuine keys; the log says which keys were used, missing or left over.

    Args:
        files: `checkpoint`, and `prototypes` where the model's attention takes language vectors.
        settings: `model` (see `SgearConfig`), `windows` (`num_frames`), `batch_limit` and `horizons`.
        device: `cpu` or `cuda`.
        read: What the model is shown.
        classes: Number of actions of the dataset, which the checkpoint's must equal.
        store: Where logits go.
        run_key: What decides a prediction besides its sample.

    Raises:
        CheckpointError: The checkpoint does not fit.
    """
    from sightline.systems.sgear.model.loader import load_sgear
    from sightline.systems.sgear.predict import PredictSettings, SgearPredictor

    config = model_config(settings, _least(settings), None, None)
    model, _ = load_sgear(files["checkpoint"], config, device=device, classes=classes)
    return SgearPredictor(
        model,
        read,
        PredictSettings(settings["batch_limit"], tuple(settings.get("horizons") or ())),
        store=store,
        run_key=run_key,
        text=text_vectors(files, model.config, device),
    )


def _least(settings: Mapping[str, Any]) -> int:
    """A number of classes that every config takes, until the checkpoint tells the true one."""
    return max(_FROM_FILE, int(settings["windows"]["num_frames"]))


def text_vectors(files: Mapping[str, Path], config: SgearConfig, device: str) -> Tensor | None:
    """Returns language vectors [N, d] where the model's attention takes them, else None.

    Raises:
        InputError: There are none.
    """
    import torch

    from sightline.systems.sgear.model.sgear import fit_width
    from sightline.systems.sgear.prototypes import Prototypes

    if config.vit is None or not config.prototype_attention or config.prototype_values != "text":
        return None
    found = Prototypes.load(files["prototypes"]).embeddings if "prototypes" in files else None
    if found is None:
        raise InputError(
            "prototype_values is text, but there are no language vectors",
            field="prototype_values",
            mend="make language prototypes first, or set it to visual",
        )
    return fit_width(torch.from_numpy(found), config.width).to(device)
