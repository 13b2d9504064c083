"""Sizes and switches of an S-GEAR model; nothing about data, light enough for a card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from sightline.errors import ConfigError

HEAD_DIM = 64
"""Width of an attention head everywhere but in the decoder (arXiv 2407.02309; ViT-B)."""

TokenMixing = Literal["original", "per_sample"]
PrototypeValues = Literal["visual", "text"]


@dataclass(frozen=True)
class VitConfig:
    """A vision transformer as timm builds it.

    Attributes:
        image: Side of the square input, pixels.
        patch: Side of a patch, pixels.
        width: Channels.
        depth: Blocks.
        mlp_ratio: Hidden channels of an MLP over `width`.
    """

    image: int = 384
    patch: int = 16
    width: int = 768
    depth: int = 12
    mlp_ratio: float = 4.0

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return (self.image // self.patch) ** 2 + 1


@dataclass(frozen=True)
class DecoderConfig:
    """The causal decoder of future features, a GPT-2 without its token table.

    Attributes:
        width: Channels.
        layers: Blocks.
        heads: Attention heads.
        positions: Rows of the position table.
        dropout: Of residuals, embeddings and attention, in training.
    """

    width: int = 2048
    layers: int = 6
    heads: int = 4
    positions: int = 1024
    dropout: float = 0.1


@dataclass(frozen=True)
class SgearConfig:
    """An S-GEAR model.

    Attributes:
        classes: Actions, N.
        frames: Frames of a window, T; learned weights have this length.
        input_dim: Channels of a frame's feature, D (1024 TSN, 352 objects, 2048 irCSN, the ViT's width).
        width: Channels of the model and of its prototypes, d.
        verbs: Columns of the stored map from actions to verbs; None stores none.
        nouns: The same for nouns.
        vit: Backbone for raw frames; None for stored features.
        tca_blocks: Temporal context aggregators behind the backbone.
        prototype_attention: Mix prototypes into the sequence (PA).
        mean_representation: Choose T prototypes by the mean of the frames; else one by each frame.
        freeze_prototypes: No gradient reaches the prototypes.
        decoder: The causal decoder.
        dropout: Before the classifier, in training.
        token_mixing: `per_sample` gives each sample its own prototypes; `original` deals the batch's prototypes
            out across samples, so that predictions depend on batch mates, as the released code does.
        prototype_values: What the chosen prototypes bring into the attention on raw frames: the visual
            prototypes (the released code's last state), or language vectors (its first, which made the paper's runs).
    """

    classes: int
    frames: int = 15
    input_dim: int = 768
    width: int = 768
    verbs: int | None = None
    nouns: int | None = None
    vit: VitConfig | None = None
    tca_blocks: int = 0
    prototype_attention: bool = True
    mean_representation: bool = True
    freeze_prototypes: bool = False
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    dropout: float = 0.2
    token_mixing: TokenMixing = "per_sample"
    prototype_values: PrototypeValues = "visual"

    def __post_init__(self) -> None:
        """Refuses sizes that no model has.

        Raises:
            ConfigError: Names every problem.
        """
        problems = []
        if self.width % HEAD_DIM:
            problems.append(f"model: width {self.width} is no multiple of {HEAD_DIM}")
        if self.decoder.width % self.decoder.heads:
            problems.append(
                f"model: decoder.width {self.decoder.width} is no multiple of its {self.decoder.heads} heads"
            )
        if self.frames > self.decoder.positions:
            problems.append(f"model: {self.frames} frames, but the decoder has {self.decoder.positions} positions")
        if self.vit is not None:
            if not self.vit.width == self.input_dim == self.width:
                problems.append(
                    f"model: on raw frames vit.width ({self.vit.width}), input_dim ({self.input_dim}) and "
                    f"width ({self.width}) must be equal"
                )
            if self.vit.image % self.vit.patch:
                problems.append(f"model: vit.image {self.vit.image} is no multiple of its patch {self.vit.patch}")
        elif self.tca_blocks:
            problems.append("model: tca_blocks need raw frames (vit)")
        if self.prototype_attention and self.mean_representation and self.frames > self.classes:
            problems.append(
                f"model: {self.frames} prototypes are chosen per sample, but there are {self.classes} classes; "
                "set mean_representation to false or take fewer frames"
            )
        if problems:
            raise ConfigError(problems)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> SgearConfig:
        """Builds a config from plain values; `vit` and `decoder` are maps (or None)."""
        names = {entry.name for entry in fields(cls)}
        plain = {name: value for name, value in settings.items() if name in names}
        if isinstance(plain.get("vit"), Mapping):
            plain["vit"] = VitConfig(**plain["vit"])
        if isinstance(plain.get("decoder"), Mapping):
            plain["decoder"] = DecoderConfig(**plain["decoder"])
        return cls(**plain)
