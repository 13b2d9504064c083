"""What the rules of sgear ask of the configuration beyond the common plan; light, since every job parses it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sightline.config.room_plan import RoomPlan, RunWildcards
from sightline.config.training_plan import Trainings

RUN = "results/runs/sgear/{dataset}/{variant}"
_RUN_FILES = ("samples.parquet", "plan.json", "predictions.parquet", "scores.parquet", "absent.json", "views.parquet")


class SgearTrainings(Trainings):
    """Trainings that start from each other's checkpoints and read prototypes."""

    @property
    def _room_card(self) -> Any:
        return self.flow.systems[self.system]

    def checkpoint(self, training: str) -> str:
        """Returns where a training's weights are."""
        return f"results/checkpoints/{self.system}/{training}/checkpoint.pth"

    def prototypes(self, wildcards: Any) -> str:
        """Returns the prototypes a training reads."""
        return prototypes_file(self._room_card.training[wildcards.training].prototypes)

    def _members(self, variant: str) -> list[str]:
        card = self._room_card.variants[variant]
        return list(card.fusion.members) if card.fusion else [variant]

    def _all_before(self, variant: str) -> list[str]:
        """Returns every training behind a variant, those of its prototypes included, in the order of need."""
        card = self._room_card
        waiting = [name for member in self._members(variant) if (name := card.variants[member].trained_by)]
        found: list[str] = []
        while waiting:
            name = waiting.pop(0)
            if name in found or name not in card.training:
                continue
            found.append(name)
            behind = card.prototypes[card.training[name].prototypes].visual_from
            waiting += [one for one in (card.training[name].init, behind) if one]
        return found

    def records(self, variant: str) -> list[str]:
        """Returns the records of the trainings a variant's weights come from, the last one first."""
        return [f"results/checkpoints/{self.system}/{name}/training.json" for name in self._all_before(variant)]

    def needs(self, variant: str) -> list[tuple[str, str]]:
        """Returns (asset, what for) of all that must be there to train or fuse a variant."""
        card = self._room_card
        found: list[tuple[str, str]] = []
        for member in self._members(variant):
            found += [(file.asset, f"{role} of {member}") for role, file in card.variants[member].assets.items()]
        if baseline := card.variants[variant].baseline:
            found.append((self.flow.datasets[baseline.dataset].asset, f"training split of {variant}"))
        for name in self._all_before(variant):
            training = card.training[name]
            found.append((self.flow.datasets[training.dataset].asset, f"training {name}"))
            found += [(file.asset, f"{role} of {name}") for role, file in card.variants[training.base].assets.items()]
            prototypes = card.prototypes[training.prototypes]
            files = [*prototypes.imported.values(), *([prototypes.encoder] if prototypes.encoder else [])]
            found += [(file.asset, f"prototypes {training.prototypes}") for file in files]
        return found


def prototypes_file(name: str) -> str:
    """Returns where prototypes are."""
    return f"results/prototypes/sgear/{name}/prototypes.safetensors"


class SgearPlan(RoomPlan):
    """The plan as the rules of sgear use it."""

    training: SgearTrainings

    def __init__(self, plan: Any, system: str) -> None:
        super().__init__(plan, system)
        self.training = SgearTrainings(plan.flow, system)

    @property
    def _card(self) -> Any:
        return self.plan.flow.systems.get(self.system)

    def _variant(self, wildcards: RunWildcards) -> Any:
        return self._card.variants[wildcards.variant]

    # --- which variants a rule is for ----------------------------------------------------------------
    def _kind(self, *kinds: str) -> str:
        variants = self._card.variants if self._card else {}
        return self.plan.constraint(
            [name for name, one in variants.items() if any(getattr(one, kind) is not None for kind in kinds)]
        )

    @property
    def answering(self) -> str:
        """Pattern of the variants that answer by themselves: models and baselines."""
        return self._kind("model", "baseline")

    @property
    def fusions(self) -> str:
        """Pattern of the variants that are fusions."""
        return self._kind("fusion")

    # --- samples and predictions ---------------------------------------------------------------------
    def settings(self, wildcards: RunWildcards) -> dict[str, Any]:
        """Returns a variant's settings, its windows with them: the frames of a window are read by the model."""
        windows = self._variant(wildcards).windows.model_dump(mode="json")
        return {**super().settings(wildcards), "windows": windows}

    def sample_settings(self, wildcards: RunWildcards) -> dict[str, Any]:
        """Returns what decides the samples: windows, and what a search of fusion weights holds out."""
        variant = self._variant(wildcards)
        fusion = variant.fusion
        held_out = fusion.held_out if fusion and fusion.search else 0.0
        return {"windows": variant.windows.model_dump(mode="json"), "held_out": held_out}

    def prediction_inputs(self, wildcards: RunWildcards) -> dict[str, list[str]]:
        """Returns what a prediction reads beside its samples."""
        variant = self._variant(wildcards)
        if variant.fusion:
            return {}
        if variant.baseline:
            return {"counted": [self._asset(self.plan.dataset(variant.baseline.dataset).asset)]}
        return {
            "weights": [self._asset(name) for name in self.weights_assets(wildcards)],
            "trained": self.training.of_variant(wildcards),
        }

    def _asset(self, name: str) -> str:
        return f"results/assets/{name}/asset.json"

    def member_inputs(self, wildcards: RunWildcards) -> dict[str, list[str]]:
        """Returns the runs a fusion reads, member by member."""
        folders = [
            RUN.format(dataset=wildcards.dataset, variant=name) for name in self._variant(wildcards).fusion.members
        ]
        return {
            "member_samples": [f"{folder}/samples.parquet" for folder in folders],
            "member_predictions": [f"{folder}/predictions.parquet" for folder in folders],
            "member_logits": [
                path
                for name in self._variant(wildcards).fusion.members
                for path in self._logits(wildcards.dataset, name)
            ],
        }

    def _logits(self, dataset: str, variant: str) -> list[str]:
        folder = RUN.format(dataset=dataset, variant=variant)
        asked = _Run(dataset, variant)
        return [f"{folder}/logits/{shard}.json" for shard in self.plan.predict_shards(asked, self.system)]

    def logits(self, wildcards: RunWildcards) -> list[str]:
        """Returns the indexes of a run's stored logits."""
        return self._logits(wildcards.dataset, wildcards.variant)

    def video_assets(self, wildcards: RunWildcards) -> list[str]:
        """Returns the assets of a dataset's videos that can be had; features alone need none."""
        files = self._card.videos.get(wildcards.dataset, [])
        names = dict.fromkeys(file.asset for file in files)
        return [self._asset(name) for name in names if self.plan.can_be_had(name)]

    def videos(self, wildcards: RunWildcards) -> list[dict[str, str]]:
        """Returns the folders of a dataset's videos; the first that has a video wins."""
        return [file.model_dump(mode="json") for file in self._card.videos.get(wildcards.dataset, [])]

    def counted_dataset(self, wildcards: RunWildcards) -> dict[str, Any]:
        """Returns the training split a baseline counts; nothing for the others."""
        baseline = self._variant(wildcards).baseline
        if baseline is None:
            return {}
        card = self.plan.dataset(baseline.dataset)
        return {"layout": card.layout, "folder": card.folder, "split": card.split}

    # --- scores --------------------------------------------------------------------------------------
    def reference(self, wildcards: RunWildcards) -> str | None:
        """Returns the variant a run's gain is measured against."""
        name = self._card.scoring.gains.get(wildcards.variant)
        return str(name) if name else None

    def _reference_shards(self, wildcards: RunWildcards) -> list[str]:
        name = self.reference(wildcards)
        return self.plan.predict_shards(_Run(wildcards.dataset, name), self.system) if name else []

    def reference_inputs(self, wildcards: RunWildcards) -> dict[str, list[str]]:
        """Returns the run a gain is measured against, if there is one."""
        name = self.reference(wildcards)
        if name is None:
            return {}
        folder = RUN.format(dataset=wildcards.dataset, variant=name)
        return {
            "reference_predictions": [f"{folder}/predictions.parquet"],
            "reference_logits": self._logits(wildcards.dataset, name),
        }

    def bootstrap(self, wildcards: RunWildcards) -> dict[str, Any]:
        """Returns how intervals are made, for the pictures."""
        return dict(self._card.bootstrap.model_dump(mode="json"))

    def names(self, wildcards: RunWildcards) -> dict[str, str]:
        """Returns the titles of a run's variant and of the one it is compared with."""
        reference = self.reference(wildcards)
        titles = {"own": wildcards.variant, **({"reference": reference} if reference else {})}
        return {role: str(self._card.variants[name].title) for role, name in titles.items()}

    # --- prototypes ----------------------------------------------------------------------------------
    def _prototypes(self, wildcards: Any) -> Any:
        return self._card.prototypes[wildcards.prototypes]

    @property
    def prototype_names(self) -> str:
        """Pattern of the card's prototypes."""
        return self.plan.constraint(list(self._card.prototypes) if self._card else [])

    def prototype_inputs(self, wildcards: Any) -> dict[str, list[str]]:
        """Returns what prototypes are made from."""
        card = self._prototypes(wildcards)
        files = [*card.imported.values(), *([card.encoder] if card.encoder else [])]
        found = {
            "data": [self._asset(self.plan.dataset(card.dataset).asset)],
            "files": [self._asset(name) for name in dict.fromkeys(file.asset for file in files)],
        }
        if card.visual_from:
            training = self._card.training[card.visual_from]
            base = self._card.variants[training.base]
            found["language"] = [prototypes_file(training.prototypes)]
            found["trained"] = [self.training.checkpoint(card.visual_from)]
            found["weights"] = [
                self._asset(name) for name in dict.fromkeys(file.asset for file in base.assets.values())
            ]
        return found

    def prototype_settings(self, wildcards: Any) -> dict[str, Any]:
        """Returns how prototypes are made; `base` is the variant whose embeddings are averaged."""
        card = self._prototypes(wildcards)
        settings = dict(card.model_dump(mode="json", exclude={"title", "mem_mb", "gpu_memory_gb"}))
        dataset = self.plan.dataset(card.dataset)
        settings["dataset"] = {"layout": dataset.layout, "folder": dataset.folder, "split": dataset.split}
        if card.visual_from:
            base = self._card.variants[self._card.training[card.visual_from].base]
            settings["base"] = base.model_dump(
                mode="json", include={*base.TRAINING_SETTINGS, "cpu_threads", "batch_limit"}
            )
        return settings

    def prototype_mem_mb(self, wildcards: Any) -> int:
        """Returns the host memory of the job that makes prototypes."""
        return int(self._prototypes(wildcards).mem_mb)

    def prototype_gpus(self, wildcards: Any) -> int:
        """Returns how many GPUs that job asks for."""
        return int(self._prototypes(wildcards).gpu_memory_gb > 0)

    # --- all small runs in one job -------------------------------------------------------------------
    @property
    def _shared(self) -> list[Any]:
        """The selected runs that share a job, and those they read, these first."""
        if self._card is None:
            return []
        waiting = [run for run in self.plan.runs_of(self.system) if run.dataset in self._card.one_job]
        runs: dict[tuple[str, str], Any] = {}
        while waiting:
            run = waiting.pop(0)
            if (run.dataset, run.variant) in runs:
                continue
            runs[run.dataset, run.variant] = run
            reference = self.reference(_Run(run.dataset, run.variant))
            fusion = self._card.variants[run.variant].fusion
            read = [*(fusion.members if fusion else ()), *([reference] if reference else [])]
            waiting += [replace(run, variant=name) for name in read]
        return sorted(runs.values(), key=lambda run: self._card.variants[run.variant].fusion is not None)

    @property
    def shared_files(self) -> list[str]:
        """What the job of all small runs writes; nothing where no run shares it."""
        found = []
        for run in self._shared:
            folder = RUN.format(dataset=run.dataset, variant=run.variant)
            shards = self.plan.predict_shards(_Run(run.dataset, run.variant), self.system)
            found += [f"{folder}/{name}" for name in _RUN_FILES]
            found += [f"{folder}/shards/{shard}.jsonl" for shard in shards]
            found += [f"{folder}/logits/{shard}.json" for shard in shards]
        return found

    def shared_inputs(self, _wildcards: Any) -> dict[str, list[str]]:
        """Returns what the job of all small runs reads."""
        found: dict[str, list[str]] = {"data": [], "weights": [], "trained": []}
        for run in self._shared:
            asked = _Run(run.dataset, run.variant)
            found["data"] += [self._asset(self.plan.dataset(run.dataset).asset), *self.video_assets(asked)]
            inputs = self.prediction_inputs(asked)
            found["weights"] += [*inputs.get("weights", []), *inputs.get("counted", [])]
            found["trained"] += inputs.get("trained", [])
        return {name: list(dict.fromkeys(paths)) for name, paths in found.items()}

    @property
    def shared_runs(self) -> list[dict[str, Any]]:
        """Settings of each small run, as its own rules would hand them over."""
        found = []
        for run in self._shared:
            asked = _Run(run.dataset, run.variant)
            variant = self._variant(asked)
            found.append(
                {
                    "dataset_name": run.dataset,
                    "variant": run.variant,
                    "dataset": self.plan.dataset_params(asked),
                    "sample_settings": self.sample_settings(asked),
                    "sampling": self.sampling(asked),
                    "settings": self.settings(asked),
                    "inputs": self.prediction_inputs(asked),
                    "counted_dataset": self.counted_dataset(asked),
                    "members": list(variant.fusion.members) if variant.fusion else [],
                    "member_logits": self.member_inputs(asked)["member_logits"] if variant.fusion else [],
                    "videos": self.videos(asked),
                    "bootstrap": self.bootstrap(asked),
                    "names": self.names(asked),
                    "video_assets": self.video_assets(asked),
                    "data": self._asset(self.plan.asset_of_dataset(asked)),
                    "shards": self.shards(asked),
                    "gpus": self.gpus(asked),
                    "reference": self.reference(asked),
                    "reference_shards": self._reference_shards(asked),
                }
            )
        return found


class _Run:
    """A run, as wildcards name it."""

    def __init__(self, dataset: str, variant: str) -> None:
        self.dataset, self.variant = dataset, variant
