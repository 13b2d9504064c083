"""The trainings of one room as its rules use them. `wildcards` has `training`; for runs, `variant`."""

from __future__ import annotations

from typing import Any

from sightline.config.load import Workflow
from sightline.config.training import TrainingCard, chain_of

_NOT_TRAINING = {"title", "dataset", "base", "minutes", "mem_mb", "gpu_memory_gb"}


class Trainings:
    """What a training reads and needs, and which checkpoint a trained variant reads."""

    def __init__(self, flow: Workflow, system: str) -> None:
        self.flow = flow
        self.system = system

    @property
    def _all(self) -> dict[str, Any]:
        return self.flow.systems[self.system].training if self.system in self.flow.systems else {}

    def _card(self, wildcards: Any) -> TrainingCard:
        return self._all[wildcards.training]

    def _base(self, wildcards: Any) -> Any:
        return self.flow.systems[self.system].variants[self._card(wildcards).base]

    @property
    def names(self) -> str:
        """Pattern of the room's trainings."""
        return "|".join(self._all) or "(?!)"

    def checkpoint(self, training: str) -> str:
        """Returns where a training's weights are."""
        return f"results/checkpoints/{self.system}/{training}/state_dict.pth.tar"

    # --- of a training -------------------------------------------------------------------------------
    def dataset(self, wildcards: Any) -> str:
        """Returns the dataset trained on."""
        return self._card(wildcards).dataset

    def dataset_asset(self, wildcards: Any) -> str:
        """Returns the asset that holds it."""
        return self.flow.datasets[self.dataset(wildcards)].asset

    def dataset_params(self, wildcards: Any) -> dict[str, Any]:
        """Returns what the stage needs to find the split inside its asset."""
        card = self.flow.datasets[self.dataset(wildcards)]
        return {"layout": card.layout, "folder": card.folder, "split": card.split}

    def extractor(self, wildcards: Any) -> str:
        """Returns the extractor whose features are trained on."""
        return str(self._base(wildcards).extractor)

    def weights_assets(self, wildcards: Any) -> list[str]:
        """Returns the assets that hold the weights it starts from."""
        return list(dict.fromkeys(file.asset for file in self._base(wildcards).assets.values()))

    def base_checkpoint(self, wildcards: Any) -> list[str]:
        """Returns the checkpoint it starts from, if that was trained here too."""
        first = self._card(wildcards).starts_from(self.flow.systems[self.system].variants)
        return [self.checkpoint(first)] if first else []

    def settings(self, wildcards: Any) -> dict[str, Any]:
        """Returns the training's settings, and under `base` those of the variant it starts from."""
        card, base = self._card(wildcards), self._base(wildcards)
        return {
            **card.model_dump(mode="json", exclude=_NOT_TRAINING),
            "base": base.model_dump(mode="json", include=set(base.TRAINING_SETTINGS)),
        }

    def threads(self, wildcards: Any) -> int:
        """Returns the cores the job takes."""
        return self._card(wildcards).cpu_threads * self._card(wildcards).processes

    def mem_mb(self, wildcards: Any) -> int:
        """Returns the host memory of the job."""
        return self._card(wildcards).mem_mb

    def minutes(self, wildcards: Any) -> int:
        """Returns the longest run time."""
        return self._card(wildcards).minutes

    def gpus(self, wildcards: Any) -> int:
        """Returns how many GPUs the job asks for: one per process."""
        return self._card(wildcards).processes if self._card(wildcards).gpu_memory_gb > 0 else 0

    # --- of a variant --------------------------------------------------------------------------------
    def of_variant(self, wildcards: Any) -> list[str]:
        """Returns the checkpoint a trained variant reads in place of an asset's; none for the others."""
        variant = self.flow.systems[self.system].variants[wildcards.variant]
        return [self.checkpoint(variant.trained_by)] if variant.trained_by else []

    def records(self, variant: str) -> list[str]:
        """Returns the records of the trainings a variant's weights come from, the last one first."""
        card = self.flow.systems[self.system]
        folder = f"results/checkpoints/{self.system}"
        return [f"{folder}/{name}/training.json" for name in chain_of(card.training, card.variants, variant)]

    def needs(self, variant: str) -> list[tuple[str, str]]:
        """Returns (asset, what for) of all that must be there to train a variant's weights."""
        card = self.flow.systems[self.system]
        found: list[tuple[str, str]] = []
        for name in chain_of(card.training, card.variants, variant):
            training = card.training[name]
            base = card.variants[training.base]
            found.append((self.flow.datasets[training.dataset].asset, f"training {name}"))
            found += [(file.asset, f"{role} of training {name}") for role, file in base.assets.items()]
            if base.extractor:
                found.append((card.extractors[base.extractor].weights.asset, f"extractor of training {name}"))
        return found
