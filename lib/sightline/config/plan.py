"""What is made from a configuration: targets, shards and the typed parameters of the rules.

Everything here is computed from declarations, never from data, so a dry-run knows every job. The methods
that take `wildcards` are handed to rules as input and parameter functions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sightline.config.judge_plan import Judging
from sightline.config.load import Workflow
from sightline.config.models import DatasetCard, SystemCard
from sightline.config.picture_plan import Pictures
from sightline.config.room_plan import RoomPlan, extractor_settings_of
from sightline.config.versions import STAGE
from sightline.errors import ConfigError

MAX_SHARDS = 500


class Wildcards(Protocol):
    """What Snakemake hands over; the attributes are the wildcards of the rule."""

    system: str
    dataset: str
    variant: str
    extractor: str
    policy: str
    asset: str
    shard: str


@dataclass(frozen=True)
class Run:
    """One system on one dataset as one variant."""

    system: str
    dataset: str
    variant: str


def shard_count(seconds: float, minutes: float) -> int:
    """Returns how many shards of about `minutes` cover `seconds` of work; at least 1, at most 500."""
    return max(1, min(MAX_SHARDS, math.ceil(seconds / (60 * minutes))))


def _names(count: int) -> list[str]:
    return [f"{number}-of-{count}" for number in range(1, count + 1)]


class Plan:
    """Targets and parameters of one configuration."""

    def __init__(self, flow: Workflow, card_models: Mapping[str, type[SystemCard]] | None = None) -> None:
        self.flow = flow
        self.card_models = card_models or {}
        self.versions = STAGE
        self.pictures = Pictures(flow)
        self.runs = list(
            dict.fromkeys(
                Run(selection.system, dataset, variant)
                for selection in flow.main.runs
                for dataset in selection.datasets
                for variant in selection.variants
            )
        )
        self.systems = list(dict.fromkeys(run.system for run in self.runs))

    # --- what there is -------------------------------------------------------------------------------
    def runs_of(self, system: str) -> list[Run]:
        """Returns the runs of one system."""
        return [run for run in self.runs if run.system == system]

    def datasets_of(self, system: str) -> list[str]:
        """Returns every dataset the system can read, selected or not: any of them may be asked for by path."""
        layouts = self.flow.systems[system].LAYOUTS if system in self.flow.systems else ()
        return [name for name, card in self.flow.datasets.items() if card.layout in layouts]

    def card(self, system: str) -> SystemCard:
        """Returns a system's card."""
        return self.flow.systems[system]

    def dataset(self, name: str) -> DatasetCard:
        """Returns a dataset's card.

        Raises:
            ConfigError: There is no such dataset.
        """
        if name not in self.flow.datasets:
            raise ConfigError([f"dataset {name} is not in config/datasets"])
        return self.flow.datasets[name]

    def extractors_of(self, system: str) -> list[str]:
        """Returns the extractors of a system's card."""
        return list(self.flow.systems[system].extractors) if system in self.flow.systems else []

    def variants_of(self, system: str) -> list[str]:
        """Returns the variants of a system's card."""
        return list(self.flow.systems[system].variants) if system in self.flow.systems else []

    @property
    def policies(self) -> list[str]:
        """Names of all frame policies."""
        return sorted({name for card in self.flow.systems.values() for name in card.policies})

    def constraint(self, names: list[str]) -> str:
        """Returns a regular expression that matches exactly these names (or nothing)."""
        return "|".join(names) if names else "(?!)"

    # --- assets --------------------------------------------------------------------------------------
    def asset_sources(self, wildcards: Wildcards) -> list[str]:
        """Returns the files an asset is made from inside the workflow: the demo's list of parts, or none."""
        card = self.flow.assets.get(wildcards.asset)
        if card is None or card.generated is None or self.flow.main.local_assets.get(wildcards.asset):
            return []
        return [card.generated]

    def asset_params(self, wildcards: Wildcards) -> dict[str, Any]:
        """Returns an asset's card and the local path the user gave, if any."""
        return {
            "card": self.flow.assets[wildcards.asset].model_dump(mode="json"),
            "local": self.flow.main.local_assets.get(wildcards.asset),
        }

    def asset_of_dataset(self, wildcards: Wildcards) -> str:
        """Returns the asset that holds a dataset."""
        return self.dataset(wildcards.dataset).asset

    def generator(self, asset: str) -> dict[str, int]:
        """Returns the settings of the rule that generates an asset."""
        return self.flow.assets[asset].generator

    def generated(self, asset: str) -> str:
        """Returns where the workflow writes the list of parts of a generated asset."""
        return str(self.flow.assets[asset].generated)

    def can_be_had(self, asset: str) -> bool:
        """Says whether an asset can be fetched, is generated, or stands at a path the user gave."""
        card = self.flow.assets[asset]
        return bool(card.parts or card.generated or self.flow.main.local_assets.get(asset))

    # --- frames and features -------------------------------------------------------------------------
    def policy_params(self, wildcards: Wildcards) -> dict[str, Any]:
        """Returns a frame policy."""
        for card in self.flow.systems.values():
            if wildcards.policy in card.policies:
                return card.policies[wildcards.policy].model_dump(mode="json")
        raise ConfigError([f"frame policy {wildcards.policy} is in no card"])

    def dataset_params(self, wildcards: Wildcards) -> dict[str, Any]:
        """Returns what a stage needs to find a dataset's split inside its asset."""
        card = self.dataset(wildcards.dataset)
        return {"layout": card.layout, "folder": card.folder, "split": card.split}

    def _extractor(self, name: str) -> Any:
        for card in self.flow.systems.values():
            if name in card.extractors:
                return card.extractors[name]
        raise ConfigError([f"extractor {name} is in no card"])

    def extractor_settings(self, wildcards: Wildcards) -> dict[str, Any]:
        """Returns the settings of the extractor named by the wildcard, with those of its frame policy."""
        for card in self.flow.systems.values():
            if wildcards.extractor in card.extractors:
                return extractor_settings_of(card, wildcards.extractor)
        raise ConfigError([f"extractor {wildcards.extractor} is in no card"])

    def extractor_asset(self, wildcards: Wildcards) -> str:
        """Returns the asset of an extractor's weights."""
        return str(self._extractor(wildcards.extractor).weights.asset)

    def extractor_policy(self, wildcards: Wildcards) -> str:
        """Returns the frame policy of an extractor."""
        return str(self._extractor(wildcards.extractor).policy)

    def extractor_mem_mb(self, wildcards: Wildcards) -> int:
        """Returns the host memory of a feature shard."""
        return int(self._extractor(wildcards.extractor).mem_mb)

    def extractor_gpus(self, wildcards: Wildcards) -> int:
        """Returns how many GPUs a feature shard asks for."""
        return int(self._extractor(wildcards.extractor).gpu_memory_gb > 0)

    def feature_shards(self, wildcards: Wildcards) -> list[str]:
        """Returns the shards of a dataset's feature extraction."""
        card = self._extractor(wildcards.extractor)
        dataset = self.dataset(wildcards.dataset)
        count = shard_count(dataset.video_seconds * card.seconds_per_video_second, card.shard_minutes)
        return _names(min(count, max(1, dataset.videos)))

    # --- predictions ---------------------------------------------------------------------------------
    def variant_extractor(self, wildcards: Wildcards, system: str | None = None) -> str:
        """Returns the extractor a variant reads."""
        return str(self._variant(wildcards, system).extractor)

    def _variant(self, wildcards: Wildcards, system: str | None = None) -> Any:
        return self.flow.systems[system or wildcards.system].variants[wildcards.variant]

    def room(self, system: str) -> RoomPlan:
        """Returns the plan as seen from one room, whose rules have no `system` wildcard."""
        model = self.card_models.get(system)
        return (model.PLAN if model and model.PLAN else RoomPlan)(self, system)

    def predict_shards(self, wildcards: Wildcards, system: str | None = None) -> list[str]:
        """Returns the shards of one run."""
        variant = self._variant(wildcards, system)
        items = self.dataset(wildcards.dataset).items
        if self.flow.main.limits.samples:
            items = min(items, self.flow.main.limits.samples)
        return _names(shard_count(items * variant.seconds_per_item, variant.shard_minutes))

    def declared_seconds(self, wildcards: Wildcards, system: str | None = None) -> float:
        """Returns the declared cost of one run in seconds of one device."""
        variant = self._variant(wildcards, system)
        return float(self.dataset(wildcards.dataset).items * variant.seconds_per_item)

    # --- report --------------------------------------------------------------------------------------
    def summary_params(self, wildcards: Wildcards) -> dict[str, Any]:
        """Returns what the summary of one system compares and how."""
        system = wildcards.system
        paper = self.flow.paper.get(system)
        card = self.flow.systems[system]
        return {
            "title": card.title,
            "runs": [
                {
                    "dataset": run.dataset,
                    "variant": run.variant,
                    "dataset_title": self.dataset(run.dataset).title,
                    "dataset_note": self.dataset(run.dataset).note,
                    "variant_title": card.variants[run.variant].title,
                    "weights_kind": card.variants[run.variant].weights_kind,
                    "demo": self.dataset(run.dataset).demo or card.variants[run.variant].weights_kind == "demo",
                    "paper_row": card.variants[run.variant].paper_row,
                    "to_beat": card.variants[run.variant].to_beat,
                    **self.judging.summary(run),
                }
                for run in self.runs_of(system)
            ],
            "paper": paper.model_dump(mode="json") if paper else None,
            "scoring": card.scoring.model_dump(mode="json"),
            "bootstrap": card.bootstrap.model_dump(mode="json"),
            "partial": self.flow.main.limits.samples,
        }

    @property
    def judging(self) -> Judging:
        """The judges of the selected runs."""
        return Judging(self.flow)

    def summary_inputs(self, wildcards: Wildcards) -> dict[str, list[str]]:
        """Returns the files one system's summary reads, run by run."""
        runs = self.runs_of(wildcards.system)
        folders = [f"results/runs/{run.system}/{run.dataset}/{run.variant}" for run in runs]
        files = ("samples.parquet", "scores.parquet", "absent.json", "plan.json")
        return {
            **{file.split(".")[0]: [f"{folder}/{file}" for folder in folders] for file in files},
            **self.judging.inputs(runs),
        }

    @property
    def selected(self) -> dict[str, list[str]]:
        """All selected runs as parallel lists, to be expanded with zip."""
        return {name: [getattr(run, name) for run in self.runs] for name in ("system", "dataset", "variant")}

    def training_records(self) -> list[str]:
        """Returns the records of every training behind a selected run."""
        found = [self.room(run.system).training.records(run.variant) for run in self.runs]
        return list(dict.fromkeys(record for records in found for record in records))

    def view_files(self) -> list[str]:
        """Returns the pictures of every selected run."""
        return [f"results/runs/{run.system}/{run.dataset}/{run.variant}/views.parquet" for run in self.runs]
