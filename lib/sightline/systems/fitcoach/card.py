"""The settings of the fitcoach room, as its card config/systems/fitcoach.yaml spells them."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from sightline.config.models import AssetFile, ExtractorCard, Strict, SystemCard, VariantCard
from sightline.config.training import TrainingCard


class FitcoachExtractor(ExtractorCard):
    """The 3D EfficientNet and how frames reach it."""

    storage_dtype: Literal["float32", "float16"] = Field("float32", description="Type of stored features.")
    rotate_upto_id: int = Field(
        145, description="Videos with a number up to this are stored rotated and turned 90 degrees clockwise."
    )
    priming_copies: int = Field(12, ge=0, description="Copies of the first frame fed before it.")
    chunk_frames: int = Field(4, ge=4, multiple_of=4, description="Frames per call of the CNN, counted from frame 0.")
    cpu_threads: int = Field(
        1, ge=1, description="Intra-op threads on a CPU; fixed, since results depend on it in the last bit."
    )
    released_features: bool = Field(
        False, description="Import the split's existing efficientnet_features instead of extracting."
    )


class Quirks(Strict):
    """What to do where the original's parsing is odd; the defaults reproduce its numbers. See `QevdQuirks`."""

    clock_offset_s: float = Field(
        28800.0, description="Seconds added to video timestamps; the annotations are on that clock."
    )
    rename_arms_cross_chest: bool = Field(
        True, description="Say 'deltoid stretch' where the annotations say 'armcrosschest'."
    )
    unclosed_last_span: Literal["skip", "abort", "close"] = Field(
        "skip", description="A feedback still shown at the last frame, or spans and timestamps that differ in number."
    )
    length_mismatch: Literal["abort", "skip"] = Field(
        "abort", description="A workout with more or fewer timestamps than frames."
    )
    drop_silent_episodes: bool = Field(True, description="Leave out exercises without any feedback.")
    full_workout_cut: Literal["fixed", "published"] = Field(
        "fixed", description="`published` loses the first feature step, as the fork does."
    )
    window_dealing: Literal["fixed", "published"] = Field(
        "fixed", description="How feedbacks are dealt to sliding windows."
    )


class CrossAttention(Strict):
    """Where the language model looks at the video."""

    layers: list[int] = Field(description="Decoder layers with cross-attention, counted from 0.")
    heads: int = Field(1, ge=1, description="Heads.")
    attention_dim: int = Field(4096, ge=1, description="Width of queries and keys; scores are divided by its root.")
    vision_dim: int = Field(1280, ge=1, description="Channels of a feature map.")


class Lora(Strict):
    """Low-rank adapters of the checkpoint."""

    r: int = Field(32, ge=1, description="Rank.")
    alpha: float = Field(16, gt=0, description="Scale is alpha / r.")
    targets: list[str] = Field(
        default_factory=lambda: ["q_proj", "v_proj", "k_proj", "lm_head"],
        description="Modules that carry adapters.",
    )


class FitcoachVariant(VariantCard):
    """Stream-VLM under one set of settings."""

    SAMPLE_SETTINGS: ClassVar[tuple[str, ...]] = ("mode", "window_s", "quirks")
    TRAINING_SETTINGS: ClassVar[tuple[str, ...]] = (
        "assets", "weights_kind", "cross_attention", "lora", "dtype", "loop", *SAMPLE_SETTINGS,
    )  # fmt: skip

    mode: Literal["single_exercise", "full_workout", "full_workout_sliding_window"] = Field(
        "single_exercise", description="Evaluation mode."
    )
    window_s: float = Field(20.0, gt=0, description="Length of a sliding window in seconds.")
    loop: Literal["published", "realtime"] = Field(
        "published",
        description="`published` as released; `realtime` counts spoken tokens and skips the frames spoken over.",
    )
    window_context: Literal["fixed", "published"] = Field(
        "fixed",
        description="Sliding windows: `fixed` carries the past window's tokens and feature maps on; `published` as the "
        "fork, where past `<vision>` tokens read the new window's first frame.",
    )
    dtype: Literal["float32", "bfloat16"] = Field("bfloat16", description="Precision of the language model.")
    look_ahead: int = Field(16, ge=1, description="Frames read ahead in one pass while the model is silent.")
    batch_limit: int = Field(32, ge=1, description="Most episodes in one batch.")
    max_feedback_length: int = Field(128, ge=1, description="Text tokens of one feedback (realtime loop).")
    token_cap: int = Field(
        2048, ge=1, description="Most generated tokens of an episode; reaching it is a warning in the row."
    )
    cross_attention: CrossAttention = Field(description="Cross-attention of the checkpoint.")
    lora: Lora = Field(default_factory=Lora, description="LoRA of the checkpoint.")
    quirks: Quirks = Field(default_factory=Quirks, description="Parsing switches.")

    @model_validator(mode="after")
    def _weights(self) -> FitcoachVariant:
        needed = {"llama"} if self.trained_by else {"llama", "checkpoint"}
        lacking = sorted(needed - self.assets.keys())
        if lacking:
            raise ValueError(f"assets lacks {' and '.join(lacking)}; only trained_by stands for a checkpoint")
        return self


class FitcoachTraining(TrainingCard):
    """Fine-tuning of Stream-VLM. The published form is the fork's, which never sees the video."""

    form: Literal["aligned", "published"] = Field(
        "aligned",
        description="`aligned`: each `<vision>` reads its own frame, as in use; `published`: shifted, and blind.",
    )
    published_mask: Literal[1, 2] = Field(
        1, description="Mask of the published form; 2 lets it see, though still shifted."
    )
    loop: Literal["published", "realtime"] | None = Field(
        None, description="Streaming loop the sequences are made for; the base variant's by default."
    )
    max_length: int = Field(4096, ge=2, description="Tokens after which a sequence is cut.")
    trainable: list[str] = Field(
        default_factory=lambda: ["*.lora_*"],
        min_length=1,
        description="Patterns of parameter names: `*.lora_*`, `*.xattn_layer.*`, `lm_head.*`, or `*` for all.",
    )
    lora_dropout: float = Field(0.05, ge=0, lt=1, description="Dropout before LoRA's first matrix.")
    vision_weight: float = Field(
        1.0, ge=0, description="Weight of `<vision>` targets, of which there are far more than of words."
    )
    copies: int = Field(
        0, ge=0, description="Copies of every episode at another pace and begun at another time; 0: as recorded."
    )
    tempo: float = Field(0.25, ge=0, description="Copies run at most this share faster or slower than recorded.")
    cut_steps: int = Field(12, ge=0, description="Most feature steps that a copy begins later than recorded.")
    held_steps: int = Field(8, ge=0, description="Most feature steps that a copy waits before it goes on.")
    projector_rank: int = Field(
        0,
        ge=0,
        description="Principal components of the training split's feature maps that the value projections return "
        "at first; 0 leaves the projections as they are.",
    )
    projector_scale: float = Field(1.0, gt=0, description="Standard deviation of each of these components.")
    cache_mb: int = Field(
        0, ge=0, description="Memory that keeps what frozen layers make of feature maps; needs keys and values frozen."
    )


class BertScore(Strict):
    """Weights of BERTScore."""

    weights: AssetFile | None = Field(None, description="Folder of the encoder; without it the metric is absent.")
    model: str = Field("roberta_large", pattern=r"^[a-z0-9_]+$", description="Name that goes into the metric's name.")
    layers: int = Field(17, ge=1, description="Layer whose states are compared.")


class FitcoachScoring(Strict):
    """Metrics of the room."""

    tolerance_s: float = Field(3.0, gt=0, description="Window of a match in seconds; half of it to either side.")
    tokenizer: Literal["untrained_punkt", "punkt_tab"] = Field(
        "untrained_punkt", description="Sentence splitter before METEOR."
    )
    bertscore: BertScore = Field(default_factory=BertScore, description="BERTScore.")


class FitcoachCard(SystemCard):
    """config/systems/fitcoach.yaml."""

    LAYOUTS: ClassVar[tuple[str, ...]] = ("qevd", "videos")

    extractors: dict[str, FitcoachExtractor] = Field(description="Feature extractors.")
    variants: dict[str, FitcoachVariant] = Field(min_length=1, description="Variants.")
    training: dict[str, FitcoachTraining] = Field(default_factory=dict, description="Trainings.")
    scoring: FitcoachScoring = Field(default_factory=FitcoachScoring, description="Metrics and their settings.")
