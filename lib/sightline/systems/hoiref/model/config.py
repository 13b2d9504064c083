"""Sizes of a VLM4HOI: the LLaMA folder's config.json and the system's card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sightline.errors import InputError
from sightline.records.files import read_json
from sightline.systems.hoiref.model import MERGED_PATCHES, PATCH

_LLAMA_FIELDS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "rope_theta", "rope_parameters", "head_dim",
)  # fmt: skip
_LLAMA_REQUIRED = _LLAMA_FIELDS[:5]


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of the tower; the defaults are EVA-ViT-g as HOI-Ref runs it.

    Attributes:
        image_size: Side of the square picture, a multiple of the patch.
        width: Width of a token.
        depth: Blocks; the released file has one more, which is not used.
        heads: Attention heads.
        mlp_ratio: Hidden width of the MLP over `width`, cut off to a whole number.
    """

    image_size: int = 448
    width: int = 1408
    depth: int = 39
    heads: int = 16
    mlp_ratio: float = 4.3637

    @property
    def grid(self) -> int:
        """Patches per side."""
        return self.image_size // PATCH

    @property
    def tokens(self) -> int:
        """Tokens of the language model per picture."""
        return self.grid**2 // MERGED_PATCHES


@dataclass(frozen=True)
class Vlm4HoiConfig:
    """Sizes of a VLM4HOI.

    Attributes:
        llama: What of LLaMA's config.json decides its network.
        vision: The tower.
        lora_rank: Rank of LoRA on `lora_targets`.
        lora_alpha: LoRA is scaled by `lora_alpha / lora_rank`.
        lora_dropout: Dropout before LoRA's first matrix, in training only.
        lora_targets: Linear layers of the attention with LoRA.
    """

    llama: dict[str, Any]
    vision: VisionConfig = field(default_factory=VisionConfig)
    lora_rank: int = 64
    lora_alpha: float = 16.0
    lora_dropout: float = 0.05
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")

    @property
    def lora_scaling(self) -> float:
        """Factor of the LoRA product."""
        return self.lora_alpha / self.lora_rank

    @classmethod
    def from_parts(
        cls,
        llama: Mapping[str, Any],
        vision: Mapping[str, Any] | None = None,
        lora: Mapping[str, Any] | None = None,
        *,
        file: str | Path | None = None,
    ) -> Vlm4HoiConfig:
        """Builds the config from LLaMA's config.json and the card's sections `vision` and `lora`.

        Args:
            llama: config.json.
            vision: Fields of `VisionConfig`.
            lora: `rank`, `alpha`, `dropout`, `targets`.
            file: Named in errors.

        Raises:
            InputError: A field is missing, or the sizes cannot be built.
        """
        lacking = [name for name in _LLAMA_REQUIRED if name not in llama]
        if lacking:
            raise InputError("required field is missing", file=file, field=lacking[0], mend="give LLaMA's config.json")
        chosen = {name: llama[name] for name in _LLAMA_FIELDS if llama.get(name) is not None}
        tower = VisionConfig(**(vision or {}))
        if tower.image_size % PATCH or tower.grid**2 % MERGED_PATCHES:
            raise InputError(
                f"a picture of {tower.image_size} px does not cut into whole tokens",
                field="vision.image_size",
                mend=f"use a multiple of {2 * PATCH}",
            )
        if tower.width % tower.heads:
            raise InputError("the width is no multiple of the heads", field="vision.width", mend="correct the card")
        names = {"rank": "lora_rank", "alpha": "lora_alpha", "dropout": "lora_dropout", "targets": "lora_targets"}
        given: dict[str, Any] = {
            names[name]: tuple(value) if name == "targets" else value for name, value in (lora or {}).items()
        }
        return cls(llama=chosen, vision=tower, **given)

    @classmethod
    def from_folder(
        cls, folder: str | Path, vision: Mapping[str, Any] | None = None, lora: Mapping[str, Any] | None = None
    ) -> Vlm4HoiConfig:
        """Reads `config.json` of a LLaMA folder; see `from_parts`."""
        path = Path(folder) / "config.json"
        return cls.from_parts(read_json(path, mend="give LLaMA's folder"), vision, lora, file=path)
