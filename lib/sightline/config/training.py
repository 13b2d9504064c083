"""Trainings as a system's card declares them, and the checks between them and the variants."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from sightline.config.models import Strict


class TrainingCard(Strict):
    """How a checkpoint is made. Rooms subclass it with what is trained on."""

    title: str = Field(description="Name for people.")
    dataset: str = Field(description="Dataset trained on, from config/datasets.")
    base: str = Field(description="Variant whose weights it starts from and whose model, mode and extractor it uses.")
    epochs: int | None = Field(1, ge=1, description="Passes over the training split; null if `max_steps` says it.")
    max_steps: int | None = Field(None, ge=1, description="Optimiser steps; the schedule ends there.")
    max_seconds: float | None = Field(
        None, gt=0, description="Ends the training early; its result then depends on the machine's speed."
    )
    batch_size: int = Field(1, ge=1, description="Sequences per micro batch and process.")
    accumulation: int = Field(1, ge=1, description="Micro batches per optimiser step and process.")
    learning_rate: float = Field(1e-4, gt=0, description="Learning rate of AdamW after the warm-up.")
    weight_decay: float = Field(0.01, ge=0, description="Weight decay of AdamW.")
    warmup_steps: int = Field(0, ge=0, description="Steps over which the learning rate rises from 0.")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="Learning rate after the warm-up; `linear` and `cosine` end at 0."
    )
    max_grad_norm: float | None = Field(1.0, gt=0, description="Gradients are scaled down to this norm; null: never.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="`auto`: bfloat16 autocast on a GPU, float32 on a CPU. Trained weights stay float32."
    )
    shuffle: bool = Field(True, description="A new order in every epoch.")
    seed: int = Field(0, ge=0, description="Seed of order and dropout.")
    save_every: int = Field(
        50, ge=0, description="Steps between checkpoints to resume from; 0 saves only when stopped and at the end."
    )
    processes: int = Field(1, ge=1, description="Processes of one training: one per GPU, or on the CPU.")
    cpu_threads: int = Field(
        1, ge=1, description="Intra-op threads on a CPU; fixed, since results depend on it in the last bit."
    )
    minutes: int = Field(240, ge=1, description="Longest run time asked of a cluster, in minutes.")
    mem_mb: int = Field(4000, gt=0, description="Host memory of the job.")
    gpu_memory_gb: float = Field(0, ge=0, description="GPU memory of a process; 0 trains on the CPU.")

    def starts_from(self, variants: dict[str, Any]) -> str | None:
        """Returns the training whose checkpoint this one starts from: that of its base, unless a room says else."""
        return variants[self.base].trained_by if self.base in variants else None


def chain_of(trainings: dict[str, Any], variants: dict[str, Any], variant: str) -> list[str]:
    """Returns the trainings a variant's weights come from, the last one first; stops where it would go round."""
    chain: list[str] = []
    name = variants[variant].trained_by if variant in variants else None
    while name is not None and name in trainings and name not in chain:
        chain.append(name)
        name = trainings[name].starts_from(variants)
    return chain


def check_trainings(system: str, card: Any, datasets: dict[str, Any], nearest: Any, problems: list[str]) -> None:
    """Adds a line for every training or trained variant of a card that names what does not exist."""
    source = f"config/systems/{system}.yaml"

    def unknown(name: str, known: dict[str, Any]) -> str:
        return f"{name} is unknown.{nearest(name, list(known))}"

    for name, training in card.training.items():
        where = f"{source}, key training.{name}"
        if training.base not in card.variants:
            problems.append(f"{where}.base: {unknown(training.base, card.variants)}")
        if training.dataset not in datasets:
            problems.append(f"{where}.dataset: {unknown(training.dataset, datasets)}")
        elif datasets[training.dataset].layout not in card.LAYOUTS:
            problems.append(f"{where}.dataset: {training.dataset} has layout {datasets[training.dataset].layout}")
    for name, variant in card.variants.items():
        where = f"{source}, key variants.{name}.trained_by"
        if variant.trained_by is None:
            continue
        if variant.trained_by not in card.training:
            problems.append(f"{where}: {unknown(variant.trained_by, card.training)}")
            continue
        last = chain_of(card.training, card.variants, name)[-1]
        again = card.training[last].starts_from(card.variants)
        if again is not None and again in card.training:
            problems.append(f"{where}: the training starts from its own result ({again})")
