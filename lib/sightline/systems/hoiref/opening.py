"""A variant's files from where the workflow puts them, for what runs beside the workflow: one picture, and the page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from sightline.config.plan import RoomPlan
from sightline.errors import AssetError, ConfigError, InputError
from sightline.run.devices import choose_device
from sightline.systems.hoiref.asking import Asker
from sightline.systems.hoiref.loading import load_asker, weight_files

Device = Literal["auto", "cpu", "cuda"]


def variant_files(
    plan: RoomPlan, variant: str, results: str | Path = "results"
) -> tuple[dict[str, Any], dict[str, Path]]:
    """Returns a variant's settings and its weights by role.

    Args:
        plan: The configuration as the room sees it.
        variant: Name of the variant in the card.
        results: The workflow's folder of results.

    Raises:
        InputError: The card has no such variant, or it is another model.
        AssetError: Weights are not there; says how to get them.
    """
    variants = plan.plan.card(plan.system).variants
    if variant not in variants or variants[variant].other is not None:
        own = ", ".join(name for name, card in variants.items() if card.other is None)
        raise InputError(f"the card has no variant {variant} of VLM4HOI", field="variant", mend=f"use one of {own}")
    wildcards: Any = SimpleNamespace(variant=variant)
    try:
        settings = plan.settings(wildcards)
        paths = [f"results/assets/{asset}/asset.json" for asset in dict.fromkeys(plan.weights_assets(wildcards))]
        trained = plan.training.of_variant(wildcards)
    except KeyError as error:
        raise ConfigError([f"variant {variant}: {error}"]) from None
    found = [_needed(Path(results, *Path(path).parts[1:]), settings) for path in [*paths, *trained]]
    return settings, weight_files(found[: len(paths)], found[len(paths) :], settings)


def _needed(path: Path, settings: Mapping[str, Any]) -> str:
    if not path.is_file():
        demo = settings["weights_kind"] == "demo"
        mend = "run `snakemake` with hoiref in its runs first" if demo else f"run `snakemake {path.as_posix()}` first"
        raise AssetError("the weights are not here", file=path, mend=mend)
    return str(path)


def open_asker(
    plan: RoomPlan, variant: str, *, results: str | Path = "results", device: Device = "auto", **changes: Any
) -> Asker:
    """Loads a variant, ready for questions; see `variant_files` and `load_asker` for what can be wrong.

    Args:
        plan: The configuration as the room sees it.
        variant: Name of the variant in the card.
        results: The workflow's folder of results.
        device: `auto` takes a GPU if there is one.
        changes: Settings in the place of the variant's, e.g. `dtype` or `quantisation`.
    """
    settings, files = variant_files(plan, variant, results)
    return load_asker(files, {**settings, **changes}, chosen_device(device))


def chosen_device(device: Device) -> str:
    """Returns `cpu` or `cuda`.

    Raises:
        DeviceError: `cuda` was asked for and is not usable.
    """
    return "cpu" if device == "cpu" else choose_device(1, demo_weights=device == "auto")
