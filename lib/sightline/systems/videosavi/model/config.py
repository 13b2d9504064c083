"""The released `config.json` (type `internvl_chat`) as a configuration of transformers' own InternVL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from transformers import InternVLConfig, InternVLVisionConfig, LlamaConfig, PreTrainedConfig, Qwen2Config

from sightline.errors import CheckpointError

_LANGUAGE = {"InternLM2ForCausalLM": "internlm2", "Qwen2ForCausalLM": "qwen2"}
_MEND = "take an InternVL2.5 checkpoint of 1B to 8B, or one trained from it"


@dataclass(frozen=True, slots=True)
class LanguageSizes:
    """What the language model's packed weights are cut by.

    Attributes:
        kind: `internlm2` (packed projections, names of its own) or `qwen2` (transformers' names).
        heads: Query heads.
        kv_heads: Heads of keys and values.
        head_dim: Size of a head.
    """

    kind: Literal["internlm2", "qwen2"]
    heads: int
    kv_heads: int
    head_dim: int


def _part(config: Mapping[str, Any], name: str, file: str | None) -> Mapping[str, Any]:
    part = config.get(name)
    if not isinstance(part, Mapping):
        raise CheckpointError("the configuration lacks a part", file=file, field=name, mend=_MEND)
    return part


def _number(part: Mapping[str, Any], name: str, file: str | None) -> int:
    value = part.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"expected a whole number, found {value!r}", file=file, field=name, mend=_MEND)
    return value


def language_sizes(config: Mapping[str, Any], *, file: str | None = None) -> LanguageSizes:
    """Returns which language model a released configuration names, and its heads.

    Raises:
        CheckpointError: It is neither InternLM2 nor Qwen2, or a number is missing.
    """
    part = _part(config, "llm_config", file)
    names = part.get("architectures") or [""]
    if names[0] not in _LANGUAGE:
        raise CheckpointError(
            f"the language model {names[0]!r} is unknown", file=file, field="llm_config.architectures", mend=_MEND
        )
    hidden, heads = _number(part, "hidden_size", file), _number(part, "num_attention_heads", file)
    kind = _LANGUAGE[names[0]]
    kv_heads = _number(part, "num_key_value_heads", file)
    return LanguageSizes("internlm2" if kind == "internlm2" else "qwen2", heads, kv_heads, hidden // heads)


def _rope(part: Mapping[str, Any]) -> dict[str, Any]:
    scaling = part.get("rope_scaling") or {}
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    found: dict[str, Any] = {"rope_type": kind, "rope_theta": float(part.get("rope_theta", 10000.0))}
    return found | ({"factor": float(scaling["factor"])} if "factor" in scaling else {})


def _text_config(config: Mapping[str, Any], file: str | None) -> PreTrainedConfig:
    part = _part(config, "llm_config", file)
    sizes = language_sizes(config, file=file)
    shared: dict[str, Any] = {
        name: _number(part, name, file)
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "max_position_embeddings")
    } | {
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "hidden_act": part.get("hidden_act", "silu"),
        "rms_norm_eps": float(part.get("rms_norm_eps", 1e-6)),
        "rope_parameters": _rope(part),
        "tie_word_embeddings": False,
        "bos_token_id": part.get("bos_token_id"),
        "eos_token_id": part.get("eos_token_id"),
        "pad_token_id": part.get("pad_token_id"),
    }
    if sizes.kind == "qwen2":
        return Qwen2Config(**shared)
    return LlamaConfig(**shared, attention_bias=bool(part.get("bias", False)), mlp_bias=False)


def _vision_config(config: Mapping[str, Any], file: str | None) -> InternVLVisionConfig:
    part = _part(config, "vision_config", file)
    if part.get("qk_normalization") or part.get("norm_type", "layer_norm") != "layer_norm":
        raise CheckpointError(
            "the vision tower normalises queries and keys, or uses RMS norms", file=file, field="vision_config",
            mend=_MEND,
        )  # fmt: skip
    side, patch = _number(part, "image_size", file), _number(part, "patch_size", file)
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    numbers: dict[str, Any] = {name: _number(part, name, file) for name in names}
    return InternVLVisionConfig(
        **numbers,
        image_size=[side, side],
        patch_size=[patch, patch],
        hidden_act=part.get("hidden_act", "gelu"),
        layer_norm_eps=float(part.get("layer_norm_eps", 1e-6)),
        attention_bias=bool(part.get("qkv_bias", True)),
        use_qk_norm=False,
        norm_type="layer_norm",
        use_absolute_position_embeddings=True,
        use_mean_pooling=True,  # here: no norm behind the last block
        layer_scale_init_value=1.0,  # overwritten by ls1 and ls2
    )


def native_config(config: Mapping[str, Any], image_token_id: int, *, file: str | None = None) -> InternVLConfig:
    """Returns the configuration of `InternVLForConditionalGeneration` for a released checkpoint.

    `tie_word_embeddings` is set to False at both levels. Its default is True in transformers 5, where loading would
    replace the output head by the input embedding without a word.

    Args:
        config: Content of the checkpoint's `config.json`.
        image_token_id: Of `<IMG_CONTEXT>` in the checkpoint's vocabulary.
        file: Named in errors.

    Raises:
        CheckpointError: The checkpoint is of another architecture.
    """
    if config.get("ps_version", "v2") != "v2":
        raise CheckpointError(
            f"pixel shuffle {config['ps_version']!r} transposes pictures", file=file, field="ps_version", mend=_MEND
        )
    ratio = float(config.get("downsample_ratio", 0.5))
    vision, part = _vision_config(config, file), _part(config, "vision_config", file)
    grid = int(part["image_size"]) // int(part["patch_size"])
    return InternVLConfig(
        vision_config=vision,
        text_config=_text_config(config, file),
        image_token_id=image_token_id,
        image_seq_length=int((grid * ratio) ** 2),
        downsample_ratio=ratio,
        vision_feature_layer=int(config.get("select_layer", -1)),
        projector_hidden_act="gelu",
        tie_word_embeddings=False,
    )
