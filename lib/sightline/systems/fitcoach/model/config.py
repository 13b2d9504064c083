"""What a Stream-VLM is built from: the LLaMA folder's config.json and two sections of the system's card."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sightline.errors import CheckpointError, InputError
from sightline.records.files import read_json

VOCABULARY_MULTIPLE = 64


@dataclass(frozen=True)
class StreamVlmConfig:
    """Sizes of a Stream-VLM: LLaMA, cross-attention to feature maps, LoRA.

    Attributes:
        vocab_size: Rows of the embedding and of lm_head.
        base_vocab_size: The same in the LLaMA folder, before the extra tokens.
        hidden_size: Width of the decoder.
        num_layers: Decoder layers.
        num_heads: Query heads.
        num_kv_heads: Key and value heads (equal to `num_heads` in LLaMA-2-7B).
        head_dim: Width of a head.
        intermediate_size: Width of the MLP.
        rms_norm_eps: Epsilon of the RMS norms.
        rope_theta: Base of the rotary angles.
        max_positions: Longest sequence.
        xattn_layers: Decoder layers (0-based) followed by cross-attention.
        xattn_heads: Heads of the cross-attention.
        vision_dim: Channels of a feature map.
        attn_dim: Width of the cross-attention (all heads).
        lora_rank: Rank of LoRA; 0 for none.
        lora_alpha: LoRA is scaled by `lora_alpha / lora_rank`.
        lora_dropout: Dropout before LoRA's first matrix, in training only.
        lora_targets: Linear layers with LoRA.
    """

    vocab_size: int
    base_vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    rms_norm_eps: float
    rope_theta: float
    max_positions: int
    xattn_layers: tuple[int, ...]
    xattn_heads: int = 1
    vision_dim: int = 1280
    attn_dim: int = 4096
    lora_rank: int = 0
    lora_alpha: float = 0.0
    lora_dropout: float = 0.0
    lora_targets: tuple[str, ...] = ()

    @property
    def lora_scaling(self) -> float:
        """Factor of the LoRA product."""
        return self.lora_alpha / self.lora_rank if self.lora_rank else 0.0

    @property
    def lm_head_has_lora(self) -> bool:
        """Says whether lm_head keeps its LoRA.

        The original inserts LoRA first and resizes the vocabulary afterwards, which replaces lm_head by a
        plain layer; its LoRA survives only where the LLaMA folder already has the final vocabulary.
        """
        return "lm_head" in self.lora_targets and self.base_vocab_size == self.vocab_size

    def has_lora(self, name: str) -> bool:
        """Says whether a decoder layer's linear of this name carries LoRA."""
        return self.lora_rank > 0 and name in self.lora_targets

    def resized(self, tokenizer_size: int) -> StreamVlmConfig:
        """Returns the config with the vocabulary of a tokenizer, rounded up to a multiple of 64."""
        return replace(self, vocab_size=-(-tokenizer_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE)

    @classmethod
    def from_parts(
        cls,
        llama: Mapping[str, Any],
        xattn: Mapping[str, Any],
        peft: Mapping[str, Any] | None,
        *,
        file: str | Path | None = None,
    ) -> StreamVlmConfig:
        """Builds the config from a LLaMA `config.json` and the original's `xattn_config` and `peft_config`.

        `xattn` may also give `vision_dim` and `attn_dim`, which the original fixes to 1280 and 4096.

        Raises:
            InputError: A field is missing, or asks for what the original does not have.
        """
        peft = peft or {}
        try:
            rope = llama.get("rope_parameters") or {}
            _refuse_unsupported(llama, xattn, rope, file)
            heads = int(llama["num_attention_heads"])
            return cls(
                vocab_size=int(llama["vocab_size"]),
                base_vocab_size=int(llama["vocab_size"]),
                hidden_size=int(llama["hidden_size"]),
                num_layers=int(llama["num_hidden_layers"]),
                num_heads=heads,
                num_kv_heads=int(llama.get("num_key_value_heads") or heads),
                head_dim=int(llama.get("head_dim") or llama["hidden_size"] // heads),
                intermediate_size=int(llama["intermediate_size"]),
                rms_norm_eps=float(llama.get("rms_norm_eps", 1e-5)),
                rope_theta=float(llama.get("rope_theta") or rope.get("rope_theta") or 10000.0),
                max_positions=int(llama.get("max_position_embeddings", 4096)),
                xattn_layers=_layers(xattn["adapter_insert_layers"]),
                xattn_heads=int(xattn.get("num_of_xattn_heads", 1)),
                vision_dim=int(xattn.get("vision_dim", 1280)),
                attn_dim=int(xattn.get("attn_dim", 4096)),
                lora_rank=int(peft.get("r", 0)),
                lora_alpha=float(peft.get("lora_alpha", 0.0)),
                lora_dropout=float(peft.get("lora_dropout", 0.0)),
                lora_targets=tuple(peft.get("target_modules", ())),
            )
        except KeyError as error:
            raise InputError("required field is missing", file=file, field=str(error.args[0])) from None

    @classmethod
    def from_folder(
        cls, llama_dir: str | Path, xattn: Mapping[str, Any], peft: Mapping[str, Any] | None
    ) -> StreamVlmConfig:
        """Reads `config.json` of a LLaMA folder in the Hugging Face format and builds the config.

        Raises:
            CheckpointError: The folder is in Meta's own format.
            InputError: No readable `config.json`.
        """
        folder = Path(llama_dir)
        if (folder / "params.json").exists() and not (folder / "config.json").exists():
            raise CheckpointError(
                "the folder is in Meta's own format", file=folder, mend="take the '-hf' repository of the model"
            )
        file = folder / "config.json"
        return cls.from_parts(read_json(file, mend="give the LLaMA folder"), xattn, peft, file=file)


def _layers(value: Any) -> tuple[int, ...]:
    """Returns the layers; the original's config writes the list as a string."""
    if isinstance(value, str):
        value = ast.literal_eval(value)
    return tuple(sorted(int(layer) for layer in value))


def _refuse_unsupported(
    llama: Mapping[str, Any], xattn: Mapping[str, Any], rope: Mapping[str, Any], file: str | Path | None
) -> None:
    for field, found, expected in (
        ("rope_scaling", llama.get("rope_scaling"), None),
        ("rope_parameters", rope.get("rope_type", "default"), "default"),
        ("attention_bias", bool(llama.get("attention_bias", False)), False),
        ("mlp_bias", bool(llama.get("mlp_bias", False)), False),
        ("hidden_act", llama.get("hidden_act", "silu"), "silu"),
        ("xattn_type", xattn.get("xattn_type", "dotprod"), "dotprod"),
        ("xattn_block_size", int(xattn.get("xattn_block_size", 1)), 1),
    ):
        if found != expected:
            raise InputError(f"{found!r} is not supported", file=file, field=field, mend=f"Stream-VLM has {expected!r}")
