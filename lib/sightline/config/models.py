"""The typed form of everything a user configures. Unknown keys are errors; every field says what it means.

Light on purpose: the Snakefile imports this in every job.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

SLUG = r"^[a-z0-9_]+$"
WeightsKind = Literal["demo", "released", "own"]


class Strict(BaseModel):
    """A model that forbids unknown keys and cannot be changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class RunSelection(Strict):
    """Which datasets and variants of one system to run: all combinations."""

    system: str = Field(pattern=SLUG, description="System, a file name in config/systems.")
    datasets: list[str] = Field(min_length=1, description="Datasets, from config/datasets.")
    variants: list[str] = Field(min_length=1, description="Variants, from the system's card.")
    judges: list[str] = Field(
        default_factory=list,
        description="Judges of config/judges that grade these runs; the first one gives `llm_acc`.",
    )


class Limits(Strict):
    """How much to run."""

    samples: int | None = Field(
        None,
        ge=1,
        description="Score at most this many samples per dataset, drawn with `seed`; tables then say they are partial.",
    )
    seed: int = Field(0, ge=0, description="Seed of the draw of `samples`.")
    failed_videos: int = Field(0, ge=0, description="Videos that may be unreadable before a run stops.")


class MainConfig(Strict):
    """config/config.yaml, and what --configfile and --config lay over it."""

    runs: list[RunSelection] = Field(min_length=1, description="What to run.")
    limits: Limits = Field(default_factory=Limits, description="How much to run.")
    feature_store: Literal["lmdb", "hdf5"] = Field("lmdb", description="Form of the feature stores.")
    local_assets: dict[str, str | None] = Field(
        default_factory=dict,
        description="Asset id -> file or folder that you already have; it is used in place.",
    )
    offline: bool = Field(False, description="Refuse every download.")
    systems: dict[str, dict[str, Any]] = Field(default_factory=dict, description="Values laid over the system cards.")
    datasets: dict[str, dict[str, Any]] = Field(default_factory=dict, description="Values laid over the dataset cards.")
    assets: dict[str, dict[str, Any]] = Field(default_factory=dict, description="Values laid over the asset cards.")
    judges: dict[str, dict[str, Any]] = Field(default_factory=dict, description="Values laid over the judges.")


class PartCard(Strict):
    """One file to download."""

    url: str = Field(description="http(s) address.")
    name: str | None = Field(None, description="File name to save as; the address's last part by default.")
    size: int | None = Field(None, ge=0, description="Size in bytes, if published.")
    sha256: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="SHA-256, if published; else it is recorded at the first download.",
    )


class AssetCard(Strict):
    """A dataset archive or a set of weights: where it comes from and what must be in it."""

    title: str = Field(description="What it is, for people.")
    kind: Literal["tar", "zip", "files", "folder"] = Field(
        description="How it arrives. `folder`: only as a local path."
    )
    parts: list[PartCard] = Field(
        default_factory=list, description="Files to download, in order; parts of one archive are joined."
    )
    generated: str | None = Field(None, description="List of parts that a rule of the workflow writes (the demo).")
    generator: dict[str, int] = Field(default_factory=dict, description="Settings of the rule that generates it.")
    requires: list[str] = Field(
        min_length=1, description="Files that must be inside; extra levels of folders are tolerated."
    )
    licence: str = Field(description="Licence it comes under.")
    licence_url: str | None = Field(None, description="Where the licence is.")
    terms: str | None = Field(None, description="Who must sign or accept what before it may be fetched.")
    version: str = Field("1", description="Version; raising it fetches again.")
    download_gb: float = Field(0.0, ge=0, description="Size of the download in GB, about.")
    disk_gb: float = Field(0.0, ge=0, description="Size once unpacked in GB, about.")


class DatasetCard(Strict):
    """One split of a dataset in its genuine layout."""

    title: str = Field(description="Name for people.")
    asset: str = Field(description="Asset that holds it.")
    layout: str = Field(pattern=SLUG, description="Layout, which tells rooms how to read it.")
    folder: str = Field(description="Folder of this split inside the asset.")
    split: str = Field(pattern=SLUG, description="Split, e.g. test or train.")
    videos: int = Field(ge=0, description="Number of videos, declared.")
    items: int = Field(ge=0, description="Number of samples, declared; shards are sized from it.")
    video_seconds: float = Field(ge=0, description="Seconds of video in all, declared.")
    exercise: str | list[str] | None = Field(
        None, description="Layout `videos`: the exercise all videos show; a list for whole workouts."
    )
    exercises: dict[str, str | list[str]] = Field(
        default_factory=dict, description="Layout `videos`: file name without ending -> exercise, where it differs."
    )
    prompt: str | None = Field(
        None, description="Layout `videos`: prompt instead of the mode's own; `{exercise}` is replaced."
    )
    demo: bool = Field(False, description="Generated here; its numbers compare with nothing published.")
    note: str | None = Field(None, description="Facts to report beside the numbers.")


class AssetFile(Strict):
    """A file or folder inside an asset."""

    asset: str = Field(description="Asset id.")
    file: str = Field(description="File name or pattern inside the asset; `.` for its root.")


class PolicyCard(Strict):
    """Which frames of a video are used."""

    kind: Literal["rate"] = Field(description="`rate`: frames at a fixed rate on real time.")
    fps: float = Field(gt=0, description="Frames per second of real time.")
    allow_high_bit_depth: bool = Field(False, description="Accept video of more than 8 bits, rounded to 8.")


class ExtractorCard(Strict):
    """How media become features."""

    policy: str = Field(description="Frame policy, from `policies`.")
    weights: AssetFile = Field(description="Weights of the extractor.")
    weights_kind: WeightsKind = Field(description="demo, released or own.")
    seconds_per_video_second: float = Field(
        gt=0, description="Job seconds per second of video, about; sizes the shards."
    )
    shard_minutes: float = Field(20, gt=0, description="Minutes a feature shard should take.")
    mem_mb: int = Field(4000, gt=0, description="Host memory of a shard.")
    gpu_memory_gb: float = Field(0, ge=0, description="GPU memory it needs; 0 runs on the CPU.")


class VariantCard(Strict):
    """One model under one set of settings."""

    SAMPLE_SETTINGS: ClassVar[tuple[str, ...]] = ()
    TRAINING_SETTINGS: ClassVar[tuple[str, ...]] = ()

    title: str = Field(description="Name for people.")
    weights_kind: WeightsKind = Field(
        description="demo, released or own; demo numbers are never set beside the paper's."
    )
    extractor: str | None = Field(None, description="Extractor whose features it reads.")
    assets: dict[str, AssetFile] = Field(description="Weights by role.")
    trained_by: str | None = Field(
        None, description="Training, from `training`, whose checkpoint it reads in place of an asset's."
    )
    paper_row: str | None = Field(None, description="Row of config/paper it is compared with.")
    to_beat: str | None = Field(
        None, description="Variant it should beat: where both are run on a dataset, the report shows the difference."
    )
    seconds_per_item: float = Field(gt=0, description="Job seconds per sample, about; sizes the shards.")
    shard_minutes: float = Field(20, gt=0, description="Minutes a shard should take.")
    block_size: int = Field(8, ge=1, description="Samples computed as one batch.")
    mem_mb: int = Field(4000, gt=0, description="Host memory of a shard.")
    gpu_memory_gb: float = Field(0, ge=0, description="GPU memory the model needs; 0 runs on the CPU.")
    cpu_threads: int = Field(
        1, ge=1, description="Intra-op threads on a CPU; fixed, since results depend on it in the last bit."
    )


class BootstrapCard(Strict):
    """Confidence intervals: percentile bootstrap over clusters."""

    replicates: int = Field(1000, ge=0, description="Resamples; 0 switches intervals off.")
    seed: int = Field(0, ge=0, description="Seed of the resampling.")
    confidence: float = Field(0.95, gt=0, lt=1, description="Coverage of the interval.")


class SystemCard(Strict):
    """A system's card. Rooms subclass it with their own settings."""

    LAYOUTS: ClassVar[tuple[str, ...]] = ()
    # Names of the lists of frames that a room's rules write as results/frames/<dataset>/requests/<name>.jsonl.
    FRAME_REQUESTS: ClassVar[tuple[str, ...]] = ()
    # The room's own plan, a subclass of config.room_plan.RoomPlan; None: the common one does.
    PLAN: ClassVar[type[Any] | None] = None

    system: str = Field(pattern=SLUG, description="Name of the system; equals the file name.")
    title: str = Field(description="Name for people.")
    reference: str = Field(description="Paper and code it reproduces.")
    policies: dict[str, PolicyCard] = Field(default_factory=dict, description="Frame policies.")
    extractors: dict[str, Any] = Field(default_factory=dict, description="Feature extractors.")
    variants: dict[str, Any] = Field(min_length=1, description="Variants.")
    training: dict[str, Any] = Field(default_factory=dict, description="Trainings.")
    scoring: Any = Field(description="Metrics and their settings.")
    bootstrap: BootstrapCard = Field(default_factory=BootstrapCard, description="Confidence intervals.")

    @field_validator("policies", "extractors", "variants", "training")
    @classmethod
    def _slugs(cls, value: dict[str, Any]) -> dict[str, Any]:
        import re

        for name in value:
            if not re.match(SLUG, name):
                raise ValueError(f"{name!r} is not lower-case letters, digits and '_'")
        return value


class PaperValue(Strict):
    """One published number."""

    value: float = Field(description="As printed.")
    tolerance: float = Field(ge=0, description="Difference that rounding and sampling explain.")
    note: str | None = Field(None, description="Known deviation.")


class PaperRow(Strict):
    """One row of a published table."""

    dataset: str = Field(description="Dataset id it was measured on.")
    source: str = Field(description="Document and table.")
    metrics: dict[str, PaperValue] = Field(description="Our metric name -> published value.")
    deviations: list[str] = Field(default_factory=list, description="Why our number may differ.")


class PaperCard(Strict):
    """Published numbers of one system."""

    system: str = Field(pattern=SLUG, description="Name of the system; equals the file name.")
    reference: str = Field(description="Paper.")
    rows: dict[str, PaperRow] = Field(description="Rows by name.")


class DataFile(Strict):
    """One file of config/datasets: assets and the datasets inside them."""

    assets: dict[str, AssetCard] = Field(default_factory=dict)
    datasets: dict[str, DatasetCard] = Field(default_factory=dict)
