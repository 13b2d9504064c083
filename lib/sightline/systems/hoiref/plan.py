"""What the rules of hoiref ask of the configuration beyond the common plan; light, since every job parses it."""

from __future__ import annotations

from typing import Any

from sightline.config.room_plan import RoomPlan, RunWildcards
from sightline.config.training_plan import Trainings


def _record(asset: str) -> str:
    return f"results/assets/{asset}/asset.json"


class HoirefTrainings(Trainings):
    """Trainings that read the pictures of their dataset."""

    def checkpoint(self, training: str) -> str:
        """Returns where a training's weights are."""
        return f"results/checkpoints/{self.system}/{training}/checkpoint.pth"

    def _frames(self, dataset: str) -> dict[str, Any]:
        return self.flow.systems[self.system].frames.get(dataset, {})  # type: ignore[attr-defined]

    def frames_assets(self, wildcards: Any) -> list[str]:
        """Returns the assets that hold the pictures of the dataset trained on."""
        return list(dict.fromkeys(file.asset for file in self._frames(self.dataset(wildcards)).values()))

    def frames(self, wildcards: Any) -> dict[str, dict[str, str]]:
        """Returns where pictures of the dataset trained on lie."""
        found = self._frames(self.dataset(wildcards))
        return {beginning: file.model_dump(mode="json") for beginning, file in found.items()}

    def needs(self, variant: str) -> list[tuple[str, str]]:
        """Returns (asset, what for) of all that must be there: weights' trainings, and the pictures of datasets."""
        found = super().needs(variant)
        datasets = [
            name
            for run in self.flow.main.runs
            if run.system == self.system and variant in run.variants
            for name in run.datasets
        ]
        trainings = self.flow.systems[self.system].training
        trained_by = self.flow.systems[self.system].variants[variant].trained_by
        datasets += [trainings[trained_by].dataset] if trained_by in trainings else []
        for name in dict.fromkeys(datasets):
            found += [(file.asset, f"pictures of {name}") for file in self._frames(name).values()]
        return found


class HoirefPlan(RoomPlan):
    """The plan as the rules of hoiref use it."""

    training: HoirefTrainings

    def __init__(self, plan: Any, system: str) -> None:
        super().__init__(plan, system)
        self.training = HoirefTrainings(plan.flow, system)

    @property
    def _card(self) -> Any:
        return self.plan.flow.systems.get(self.system)

    def frames(self, wildcards: RunWildcards) -> dict[str, dict[str, str]]:
        """Returns where pictures of a dataset lie that are not beside its annotations."""
        found = self._card.frames.get(wildcards.dataset, {})
        return {beginning: file.model_dump(mode="json") for beginning, file in found.items()}

    def frames_records(self, wildcards: RunWildcards) -> list[str]:
        """Returns the records of the assets that hold a dataset's pictures."""
        found = self._card.frames.get(wildcards.dataset, {})
        return [_record(name) for name in dict.fromkeys(file.asset for file in found.values())]

    def counted(self, wildcards: RunWildcards) -> list[str]:
        """Returns the record of the training split that baselines are counted on, if it can be had."""
        name = self._card.scoring.baselines_from.get(wildcards.dataset)
        asset = self.plan.dataset(name).asset if name else None
        return [_record(asset)] if asset and self.plan.can_be_had(asset) else []

    def counted_dataset(self, wildcards: RunWildcards) -> dict[str, Any]:
        """Returns that split; nothing without one."""
        name = self._card.scoring.baselines_from.get(wildcards.dataset)
        if name is None:
            return {}
        card = self.plan.dataset(name)
        return {"layout": card.layout, "folder": card.folder, "split": card.split}

    def bootstrap(self, wildcards: RunWildcards) -> dict[str, Any]:
        """Returns how intervals are made, for the pictures."""
        return dict(self._card.bootstrap.model_dump(mode="json"))
