"""The settings of the hoiref room, as its card config/systems/hoiref.yaml spells them."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from sightline.config.models import AssetFile, Strict, SystemCard, VariantCard
from sightline.config.training import TrainingCard
from sightline.errors import ConfigError
from sightline.systems.hoiref.plan import HoirefPlan
from sightline.systems.hoiref.schedule import Schedule, check_schedule

BoxFormatName = Literal["percent", "list_100", "list_1000", "pixels", "xywh_pixels", "json_pixels", "json_1000"]
"""Names of `boxes.FORMATS`."""


class Quirks(Strict):
    """Where the original's habit and a sane choice differ; the defaults reproduce its numbers. See `HoiQaQuirks`."""

    strip_tags: bool = Field(True, description="Task tags are taken off test questions, as for the published numbers.")
    question_mark: bool = Field(False, description="Referral questions of the test end in `?`, as in training.")
    box_rounding: Literal["truncate", "round"] = Field("truncate", description="How pixels become 0-100.")
    long_turns: Literal["characters", "turns"] = Field(
        "characters", description="Training: cut long conversations at a character, or leave out whole turns."
    )
    newline: Literal["remove", "space"] = Field("remove", description="Training: line ends of the first question.")
    max_characters: int = Field(256, ge=1, description="Training: longest joined questions, and answers.")


class Vision(Strict):
    """The tower; the defaults are EVA-ViT-g as HOI-Ref runs it."""

    image_size: int = Field(448, ge=28, description="Side of the square picture; a multiple of 28.")
    width: int = Field(1408, ge=8, description="Width of a token.")
    depth: int = Field(39, ge=1, description="Blocks.")
    heads: int = Field(16, ge=1, description="Attention heads.")
    mlp_ratio: float = Field(4.3637, gt=0, description="Hidden width of the MLP over `width`.")


class Lora(Strict):
    """Low-rank adapters of the checkpoint."""

    rank: int = Field(64, ge=1, description="Rank.")
    alpha: float = Field(16.0, gt=0, description="Scale is alpha / rank.")
    dropout: float = Field(0.05, ge=0, lt=1, description="Dropout before the first matrix, in training.")
    targets: list[str] = Field(default_factory=lambda: ["q_proj", "v_proj"], description="Layers that carry adapters.")


class Wording(Strict):
    """How another model is asked."""

    locate: str = Field("{question}? {hint}", description="For a box; `{hint}` says how to write it.")
    identify: str = Field(
        "What is inside the box {box}? Answer with its name only.", description="For the name of what is in a box."
    )
    name: str = Field("{question} Answer with one or two words only.", description="For a name.")


class OtherModel(Strict):
    """Another vision-language model that is asked the same questions."""

    backend: Literal["mock", "transformers", "vllm", "openai", "replay"] = Field(
        description="As for judges: a model folder (asset role `model`), a server (`url`, `model`), recorded replies."
    )
    box_format: BoxFormatName = Field("json_1000", description="How it writes boxes.")
    wording: Wording = Field(default_factory=Wording, description="The words around a question.")
    url: str | None = Field(None, description="Base address of the server, up to /v1 (openai, vllm).")
    model: str | None = Field(None, description="Model name the server knows (openai, vllm).")
    revision: str = Field("1", description="Raise it when the server's model changes.")
    api_key_file: str | None = Field(None, description="File whose first line is the key.")
    replies: str | None = Field(None, description="File of recorded answers (replay).")
    timeout_s: float = Field(120.0, gt=0, description="Longest wait for one answer of a server.")
    attempts: int = Field(4, ge=1, description="Tries per question of a server.")
    batch_size: int = Field(8, ge=1, description="Questions at once.")
    gpus: int = Field(1, ge=1, description="GPUs of one vLLM engine.")


class HoirefVariant(VariantCard):
    """VLM4HOI under one set of settings, or another model asked the same."""

    SAMPLE_SETTINGS: ClassVar[tuple[str, ...]] = ("quirks",)
    TRAINING_SETTINGS: ClassVar[tuple[str, ...]] = ("assets", "weights_kind", "vision", "lora", "dtype", "quirks")

    assets: dict[str, AssetFile] = Field(
        default_factory=dict,
        description="`llama`: config.json of LLaMA-2-chat; `tower`: eva_vit_g.pth; `checkpoint`: LoRA and projection; "
        "`model`: folder of another model.",
    )
    vision: Vision = Field(default_factory=Vision, description="The tower.")
    lora: Lora = Field(default_factory=Lora, description="LoRA of the checkpoint.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("bfloat16", description="Precision of the large weights.")
    quantisation: Literal["none", "8bit", "4bit"] = Field(
        "none", description="LLaMA's linear layers through bitsandbytes, on a GPU; published numbers are 8-bit."
    )
    max_new_tokens: int = Field(50, ge=1, description="Longest answer in tokens.")
    batch_limit: int = Field(8, ge=1, description="Most questions decoded together.")
    quirks: Quirks = Field(default_factory=Quirks, description="How questions are built.")
    other: OtherModel | None = Field(None, description="Makes this variant another model than VLM4HOI.")

    @model_validator(mode="after")
    def _weights(self) -> HoirefVariant:
        if self.other is not None:
            if self.trained_by:
                raise ValueError("another model is not trained here")
            return self
        needed = {"llama", "tower"} if self.trained_by else {"llama", "tower", "checkpoint"}
        lacking = sorted(needed - self.assets.keys())
        if lacking:
            raise ValueError(f"assets lacks {' and '.join(lacking)}; only trained_by stands for a checkpoint")
        return self


class StageCard(Strict):
    """A stretch of a training with one mixture."""

    ratios: dict[Literal["epic", "ego4d"], float] = Field(min_length=1, description="Weight of each part of the data.")
    share: float = Field(1.0, gt=0, description="Share of the steps, relative to the other stages.")


_EVENLY: Any = [{"ratios": {"epic": 50.0, "ego4d": 50.0}}]


class HoirefTraining(TrainingCard):
    """Fine-tuning of VLM4HOI: LoRA and projection, unless `trainable` names more."""

    learning_rate: float = Field(1e-5, gt=0, description="Rate after the warm-up.")
    weight_decay: float = Field(0.05, ge=0, description="Weight decay of AdamW, on matrices alone.")
    max_grad_norm: float | None = Field(None, gt=0, description="Gradients are scaled down to this norm; null: never.")
    min_learning_rate: float = Field(1e-6, ge=0, description="Rate at the end of the cosine.")
    warmup_learning_rate: float | None = Field(1e-6, ge=0, description="Rate at the beginning; null: no warm-up.")
    warmup_steps: int = Field(1000, ge=0, description="Steps of the warm-up.")
    epochs: int = Field(2, ge=1, description="Epochs, by declaration: the data has no ends.")
    steps_per_epoch: int = Field(5000, ge=1, description="Optimiser steps of an epoch.")
    rule: Literal["published", "sane"] = Field(
        "sane", description="`published` warms up anew in every epoch that begins within the warm-up."
    )
    stages: list[StageCard] = Field(
        _EVENLY,
        min_length=1,
        description="Mixtures of the parts, one after another.",
    )
    trainable: list[str] = Field(
        default_factory=lambda: ["*.lora_A.weight", "*.lora_B.weight", "llama_proj.*"],
        min_length=1,
        description="Patterns of parameter names; the tower is never trained.",
    )
    max_answer_tokens: int = Field(1024, ge=2, description="Longest answers of a conversation, in tokens.")
    cache_mb: int = Field(0, ge=0, description="Memory for what the frozen tower makes of pictures.")
    damaged_share: float = Field(0.01, ge=0, lt=1, description="Share of items that may be unusable.")
    compat: list[Literal["released_yaml"]] = Field(
        default_factory=list, description="`released_yaml` takes the impossible schedule of the released file as it is."
    )

    @model_validator(mode="after")
    def _can_train(self) -> HoirefTraining:
        try:
            check_schedule(self.as_schedule(), self.compat)
        except ConfigError as error:
            raise ValueError("; ".join(error.problems)) from None
        return self

    def as_schedule(self) -> Schedule:
        """Returns the learning rate over the steps."""
        return Schedule(
            self.learning_rate, self.min_learning_rate, self.warmup_learning_rate, self.warmup_steps,
            self.epochs, self.steps_per_epoch, self.rule,
        )  # fmt: skip


class HoirefScoring(Strict):
    """Metrics of the room."""

    iou_thresholds: list[float] = Field(
        default_factory=lambda: [0.5], min_length=1, description="A box is found when its IoU exceeds the threshold."
    )
    protocols: list[Literal["published", "corrected"]] = Field(
        ["published", "corrected"], min_length=1, description="Whose rules."
    )
    baselines_from: dict[str, str] = Field(
        default_factory=dict,
        description="Dataset -> training split whose boxes give the baselines without a picture, and whose pictures "
        "are looked for in the test.",
    )


class HoirefCard(SystemCard):
    """config/systems/hoiref.yaml."""

    LAYOUTS: ClassVar[tuple[str, ...]] = ("hoiqa",)
    PLAN: ClassVar[type[Any] | None] = HoirefPlan

    variants: dict[str, HoirefVariant] = Field(min_length=1, description="Variants.")
    training: dict[str, HoirefTraining] = Field(default_factory=dict, description="Trainings.")
    scoring: HoirefScoring = Field(default_factory=HoirefScoring, description="Metrics and their settings.")
    frames: dict[str, dict[str, AssetFile]] = Field(
        default_factory=dict,
        description="Dataset -> beginning of its pictures' paths -> folder that takes its place; other paths start "
        "beside the folder of the annotations.",
    )
