"""Reads and merges the configuration, and reports every mistake at once in a user's words.

Sources, later wins: the cards in config/, config.yaml, --configfile, --config.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from sightline.config.judges import JudgeCard, PromptCard
from sightline.config.models import (
    AssetCard,
    AssetFile,
    DataFile,
    DatasetCard,
    MainConfig,
    PaperCard,
    SystemCard,
)
from sightline.config.training import check_trainings
from sightline.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)
MANUAL = "config/README.md"


@dataclass(frozen=True)
class Workflow:
    """The whole configuration, checked.

    Attributes:
        main: What to run.
        systems: Cards by system, of the systems that are selected.
        datasets: All dataset cards.
        assets: All asset cards.
        paper: Published numbers by system.
        judges: All judges.
        prompts: All prompts.
    """

    main: MainConfig
    systems: dict[str, SystemCard]
    datasets: dict[str, DatasetCard]
    assets: dict[str, AssetCard]
    paper: dict[str, PaperCard]
    judges: dict[str, JudgeCard] = field(default_factory=dict)
    prompts: dict[str, PromptCard] = field(default_factory=dict)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lays `over` on `base`: maps deeply, lists and values replaced."""
    merged = dict(base)
    for key, value in over.items():
        both_maps = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both_maps else value
    return merged


def read_config(files: Sequence[Path]) -> dict[str, Any]:
    """Returns config.yaml and what is laid over it, merged as Snakemake merges them; later files win.

    Raises:
        ConfigError: A file cannot be read or is no map.
    """
    problems: list[str] = []
    merged: dict[str, Any] = {}
    for path in files:
        merged = merge(merged, _read_yaml(Path(path), problems))
    if problems:
        raise ConfigError(problems)
    return merged


def _read_yaml(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        problems.append(f"{path}: not valid YAML ({' '.join(str(error).split())})")
        return {}
    except OSError as error:
        problems.append(f"{path}: cannot be read ({error.strerror})")
        return {}
    if not isinstance(value, dict):
        problems.append(f"{path}: expected a map of keys at the top")
        return {}
    return value


def nearest(name: str, known: list[str]) -> str:
    """Returns ` Did you mean X?` or the list of what is known."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f" Did you mean {close[0]}?"
    return f" Known: {', '.join(sorted(known))}." if known else ""


def _fields_at(model: Any, location: tuple[Any, ...]) -> list[str]:
    """Returns the keys that are valid at a location inside a model."""
    current: Any = model
    for step in location:
        if isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields.get(str(step))
            current = field.annotation if field else None
        else:
            arguments = get_args(current)
            current = arguments[-1] if arguments else None
        options = [kind for kind in get_args(current) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if options and type(None) in get_args(current):
            current = options[0]
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []


def validate(model: type[Model], value: Mapping[str, Any], source: str, problems: list[str]) -> Model | None:
    """Builds `model` from `value`; on failure adds one readable line per mistake and returns None."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        for finding in error.errors():
            location = tuple(finding["loc"])
            key = ".".join(str(step) for step in location)
            if finding["type"] == "extra_forbidden":
                hint = nearest(str(location[-1]), _fields_at(model, location[:-1]))
                problems.append(f"{source}, key {key}: unknown.{hint} See {MANUAL}")
            elif finding["type"] == "missing":
                problems.append(f"{source}, key {key}: missing. Add it; see {MANUAL}")
            else:
                shown = repr(finding.get("input"))[:60]
                problems.append(f"{source}, key {key}: {finding['msg'].lower()} (found {shown}). See {MANUAL}")
        return None


def _load_data(root: Path, main: MainConfig, problems: list[str]) -> tuple[dict, dict]:
    assets: dict[str, AssetCard] = {}
    datasets: dict[str, DatasetCard] = {}
    raw: dict[str, tuple[Path, dict[str, Any]]] = {}
    for path in sorted((root / "datasets").glob("*.yaml")):
        raw[path.stem] = (path, _read_yaml(path, problems))
    known = {
        part: {name: stem for stem, (_, content) in raw.items() for name in content.get(part) or {}}
        for part in ("assets", "datasets")
    }
    for part, overrides in (("assets", main.assets), ("datasets", main.datasets)):
        for name, over in overrides.items():
            stem = known[part].get(name, "config")
            path, content = raw.setdefault(stem, (Path("config"), {}))
            raw[stem] = (path, merge(content, {part: {name: over}}))
    for path, content in raw.values():
        card = validate(DataFile, content, str(path), problems)
        if card:
            assets.update(card.assets)
            datasets.update(card.datasets)
    return assets, datasets


def _load_each(
    folder: Path, model: type[Model], over: Mapping[str, Mapping[str, Any]], problems: list[str]
) -> dict[str, Model]:
    """Reads a folder of cards, one per file; a name that only `over` has is a card of its own."""
    raw = {path.stem: _read_yaml(path, problems) for path in sorted(folder.glob("*.yaml"))}
    cards = {}
    for name in dict.fromkeys([*raw, *over]):
        source = str(folder / f"{name}.yaml") if name in raw else f"config, key {folder.name}.{name}"
        card = validate(model, merge(raw.get(name, {}), over.get(name, {})), source, problems)
        if card:
            cards[name] = card
    return cards


def _check_judges(flow: Workflow, problems: list[str]) -> None:
    for name, judge in flow.judges.items():
        where = f"judge {name}"
        if judge.prompt not in flow.prompts:
            problems.append(
                f"{where}, key prompt: {judge.prompt} is unknown.{nearest(judge.prompt, list(flow.prompts))}"
            )
        if judge.weights and judge.weights.asset not in flow.assets:
            problems.append(f"{where}, key weights.asset: {judge.weights.asset} is not in config/datasets")
    for name, prompt in flow.prompts.items():
        if prompt.source and prompt.source.asset not in flow.assets:
            problems.append(f"prompt {name}, key source.asset: {prompt.source.asset} is not in config/datasets")
    for number, run in enumerate(flow.main.runs):
        for name in run.judges:
            if name not in flow.judges:
                problems.append(
                    f"config, key runs.{number}.judges: {name} is unknown.{nearest(name, list(flow.judges))}"
                )


def _check_references(flow: Workflow, problems: list[str]) -> None:
    asset_names = list(flow.assets)

    def need_asset(name: str, where: str) -> None:
        if name not in flow.assets:
            problems.append(f"{where}: asset {name} is not in config/datasets.{nearest(name, asset_names)}")

    for name, dataset in flow.datasets.items():
        need_asset(dataset.asset, f"dataset {name}, key asset")
    for name in flow.main.local_assets:
        need_asset(name, f"config, key local_assets.{name}")
    for system, card in flow.systems.items():
        source = f"config/systems/{system}.yaml"
        for name, extractor in card.extractors.items():
            need_asset(extractor.weights.asset, f"{source}, key extractors.{name}.weights.asset")
            if extractor.policy not in card.policies:
                problems.append(
                    f"{source}, key extractors.{name}.policy: {extractor.policy} is not in policies."
                    + nearest(extractor.policy, list(card.policies))
                )
        for name, variant in card.variants.items():
            for role, file in variant.assets.items():
                need_asset(file.asset, f"{source}, key variants.{name}.assets.{role}.asset")
            if variant.to_beat is not None and variant.to_beat not in card.variants:
                problems.append(
                    f"{source}, key variants.{name}.to_beat: {variant.to_beat} is unknown."
                    + nearest(variant.to_beat, list(card.variants))
                )
            if variant.extractor is not None and variant.extractor not in card.extractors:
                problems.append(
                    f"{source}, key variants.{name}.extractor: {variant.extractor} is not in extractors."
                    + nearest(variant.extractor, list(card.extractors))
                )
        check_trainings(system, card, flow.datasets, nearest, problems)


def _check_runs(flow: Workflow, problems: list[str]) -> None:
    for number, run in enumerate(flow.main.runs):
        card = flow.systems.get(run.system)
        if card is None:
            continue
        for name in run.datasets:
            where = f"config, key runs.{number}.datasets"
            if name not in flow.datasets:
                problems.append(f"{where}: {name} is unknown.{nearest(name, list(flow.datasets))}")
            elif flow.datasets[name].layout not in card.LAYOUTS:
                problems.append(
                    f"{where}: {name} has layout {flow.datasets[name].layout}, "
                    f"{run.system} reads {', '.join(card.LAYOUTS)}"
                )
        for name in run.variants:
            if name not in card.variants:
                problems.append(
                    f"config, key runs.{number}.variants: {name} is unknown.{nearest(name, list(card.variants))}"
                )


def load_workflow(config: Mapping[str, Any], root: Path, card_models: Mapping[str, type[SystemCard]]) -> Workflow:
    """Checks the configuration as Snakemake merged it, together with the cards under `root`.

    Args:
        config: The merged content of config.yaml, --configfile and --config.
        root: The folder `config/`.
        card_models: The card class of each known system.

    Raises:
        ConfigError: Anything is wrong; the message lists every mistake with file, key and nearest valid key.
    """
    problems: list[str] = []
    main = validate(MainConfig, config, "config", problems)
    if main is None:
        raise ConfigError(problems)
    assets, datasets = _load_data(root, main, problems)
    systems: dict[str, SystemCard] = {}
    paper: dict[str, PaperCard] = {}
    for name in dict.fromkeys([*(run.system for run in main.runs), *main.systems]):
        if name not in card_models:
            problems.append(f"config, system {name}: unknown.{nearest(name, list(card_models))}")
            continue
        path = root / "systems" / f"{name}.yaml"
        content = merge(_read_yaml(path, problems), main.systems.get(name, {}))
        card = validate(card_models[name], content, str(path), problems)
        if card:
            systems[name] = card
        paper_path = root / "paper" / f"{name}.yaml"
        if paper_path.exists():
            published = validate(PaperCard, _read_yaml(paper_path, problems), str(paper_path), problems)
            if published:
                paper[name] = published
    judges = _load_each(root / "judges", JudgeCard, main.judges, problems)
    prompts = _load_each(root / "prompts", PromptCard, {}, problems)
    flow = Workflow(main, systems, datasets, assets, paper, judges, prompts)
    _check_references(flow, problems)
    _check_runs(flow, problems)
    _check_judges(flow, problems)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return flow


def asset_files(flow: Workflow, system: str, variant: str) -> dict[str, AssetFile]:
    """Returns every asset file a variant reads, by role; the extractor's weights have the role `extractor`."""
    card = flow.systems[system]
    chosen = card.variants[variant]
    files = dict(chosen.assets)
    if chosen.extractor:
        files["extractor"] = card.extractors[chosen.extractor].weights
    return files
