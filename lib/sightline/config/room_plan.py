"""The plan as one room's rules use it. A room that needs more declares a subclass in its card (`SystemCard.PLAN`)."""

from __future__ import annotations

from typing import Any, Protocol

from sightline.config.models import SystemCard
from sightline.config.training_plan import Trainings

_SIZING = {
    "seconds_per_video_second",
    "seconds_per_item",
    "shard_minutes",
    "block_size",
    "mem_mb",
    "gpu_memory_gb",
}


class RunWildcards(Protocol):
    """What Snakemake hands over to a room's rules."""

    dataset: str
    variant: str


def _asset_names(value: Any) -> list[str]:
    if isinstance(value, dict):
        if value.keys() == {"asset", "file"}:
            return [value["asset"]]
        return [name for entry in value.values() for name in _asset_names(entry)]
    return []


def extractor_settings_of(card: SystemCard, name: str) -> dict[str, Any]:
    extractor = card.extractors[name]
    policy = card.policies[extractor.policy].model_dump(mode="json", exclude={"kind"})
    return {**extractor.model_dump(mode="json", exclude=_SIZING | {"policy"}), **policy}


class RoomPlan:
    """The plan as one room's rules use it: `system` is known, wildcards are dataset, variant, shard."""

    def __init__(self, plan: Any, system: str) -> None:
        self.plan = plan
        self.system = system
        self.training = Trainings(plan.flow, system)

    @property
    def datasets(self) -> str:
        """Pattern of the datasets the room can read."""
        return self.plan.constraint(self.plan.datasets_of(self.system))

    @property
    def extractors(self) -> str:
        """Pattern of the room's extractors."""
        return self.plan.constraint(self.plan.extractors_of(self.system))

    @property
    def variants(self) -> str:
        """Pattern of the room's variants."""
        return self.plan.constraint(self.plan.variants_of(self.system))

    @property
    def selected(self) -> dict[str, list[str]]:
        """The room's selected runs as parallel lists, to be expanded with zip."""
        runs = self.plan.runs_of(self.system)
        return {"dataset": [run.dataset for run in runs], "variant": [run.variant for run in runs]}

    @property
    def selected_features(self) -> dict[str, list[str]]:
        """The features of the selected runs as parallel lists, to be expanded with zip."""
        card = self.plan.flow.systems.get(self.system)
        pairs = dict.fromkeys(
            (run.dataset, card.variants[run.variant].extractor)
            for run in self.plan.runs_of(self.system)
            if card and card.variants[run.variant].extractor
        )
        return {"dataset": [pair[0] for pair in pairs], "extractor": [str(pair[1]) for pair in pairs]}

    def extractor(self, wildcards: RunWildcards) -> str:
        """Returns the extractor of a variant."""
        return self.plan.variant_extractor(wildcards, self.system)

    def extractor_settings(self, wildcards: RunWildcards) -> dict[str, Any]:
        """Returns the settings of a variant's extractor, with those of its frame policy."""
        return extractor_settings_of(self.plan.flow.systems[self.system], self.extractor(wildcards))

    def settings(self, wildcards: RunWildcards) -> dict[str, Any]:
        """Returns a variant's settings, without titles and what only sizes jobs."""
        variant = self.plan.flow.systems[self.system].variants[wildcards.variant]
        unused = {"title", "paper_row", "to_beat", *_SIZING, *variant.SAMPLE_SETTINGS}
        if variant.trained_by is None:
            unused.add("trained_by")
        return dict(variant.model_dump(mode="json", exclude=unused))

    def episode_params(self, wildcards: RunWildcards) -> dict[str, Any]:
        """Returns the settings of a variant, and of a dataset without annotations, that decide the samples."""
        variant = self.plan.flow.systems[self.system].variants[wildcards.variant]
        settings = dict(variant.model_dump(mode="json", include=set(variant.SAMPLE_SETTINGS)))
        shown = self.plan.dataset(wildcards.dataset).model_dump(
            mode="json", include={"exercise", "exercises", "prompt"}, exclude_defaults=True
        )
        return {**settings, "shown": shown} if shown else settings

    def scoring_assets(self, wildcards: RunWildcards) -> list[str]:
        """Returns the assets that metrics read and that can be had; a metric without its asset is absent."""
        return [name for name in _asset_names(self.scoring(wildcards)) if self.plan.can_be_had(name)]

    def sampling(self, wildcards: RunWildcards) -> dict[str, Any]:
        """Returns how samples are cut and dealt out."""
        variant = self.plan.flow.systems[self.system].variants[wildcards.variant]
        return {
            "block_size": variant.block_size,
            "seconds_per_item": variant.seconds_per_item,
            "declared_seconds": self.plan.declared_seconds(wildcards, self.system),
            "shards": len(self.shards(wildcards)),
            "limit": self.plan.flow.main.limits.samples,
            "limit_seed": self.plan.flow.main.limits.seed,
        }

    def shards(self, wildcards: RunWildcards) -> list[str]:
        """Returns the shards of one run."""
        return self.plan.predict_shards(wildcards, self.system)

    def weights_assets(self, wildcards: RunWildcards) -> list[str]:
        """Returns the assets that hold a variant's weights, extractor not counted."""
        variant = self.plan.flow.systems[self.system].variants[wildcards.variant]
        return list(dict.fromkeys(file.asset for file in variant.assets.values()))

    def scoring(self, wildcards: RunWildcards) -> dict[str, Any]:
        """Returns the metrics of the card and their settings."""
        scoring = self.plan.flow.systems[self.system].scoring
        return dict(scoring.model_dump(mode="json"))

    def mem_mb(self, wildcards: RunWildcards) -> int:
        """Returns the host memory of a predict shard."""
        return int(self.plan.flow.systems[self.system].variants[wildcards.variant].mem_mb)

    def gpus(self, wildcards: RunWildcards) -> int:
        """Returns how many GPUs a predict shard asks for."""
        return int(self.plan.flow.systems[self.system].variants[wildcards.variant].gpu_memory_gb > 0)
