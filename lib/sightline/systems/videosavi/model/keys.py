"""From the names of a released checkpoint to those of transformers' own InternVL, and back, every tensor accounted for.

InternLM2 packs queries, keys and values by group: for each head of keys and values its queries, then one key, one
value. The vision tower packs them in thirds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from sightline.assets.checkpoints import Drop, KeyMap, Rename, Rule, Split
from sightline.systems.videosavi.model.config import LanguageSizes

_TOWER, _TEXT = "model.vision_tower.", "model.language_model."
_BLOCK = _TOWER + r"encoder.layer."
_PARTS = ("q_proj", "k_proj", "v_proj")

# Pattern and replacement, then the way back; names that no rule touches differ by their prefix alone.
_VISION: tuple[tuple[str, str], ...] = (
    ("vision_model.embeddings.class_embedding", _TOWER + "embeddings.cls_token"),
    ("vision_model.embeddings.position_embedding", _TOWER + "embeddings.position_embeddings"),
    ("vision_model.embeddings.patch_embedding.", _TOWER + "embeddings.patch_embeddings.projection."),
    ("mlp1.0.", "model.multi_modal_projector.layer_norm."),
    ("mlp1.1.", "model.multi_modal_projector.linear_1."),
    ("mlp1.3.", "model.multi_modal_projector.linear_2."),
)
_IN_BLOCK: tuple[tuple[str, str], ...] = (
    ("attn.proj.", "attention.projection_layer."),
    ("norm1.", "layernorm_before."),
    ("norm2.", "layernorm_after."),
    ("ls1", "lambda_1"),
    ("ls2", "lambda_2"),
    ("mlp.", "mlp."),
)
_INTERNLM2_ENDS: tuple[tuple[str, str], ...] = (
    ("language_model.model.tok_embeddings.", _TEXT + "embed_tokens."),
    ("language_model.model.norm.", _TEXT + "norm."),
    ("language_model.output.", "lm_head."),
)
_INTERNLM2_LAYER: tuple[tuple[str, str], ...] = (
    ("attention.wo.", "self_attn.o_proj."),
    ("feed_forward.w1.", "mlp.gate_proj."),
    ("feed_forward.w3.", "mlp.up_proj."),
    ("feed_forward.w2.", "mlp.down_proj."),
    ("attention_norm.", "input_layernorm."),
    ("ffn_norm.", "post_attention_layernorm."),
)
_QWEN2: tuple[tuple[str, str], ...] = (
    ("language_model.lm_head.", "lm_head."),
    ("language_model.model.", _TEXT),
)


def _starts(pairs: tuple[tuple[str, str], ...]) -> list[Rule]:
    return [Rename("^" + re.escape(old), new) for old, new in pairs]


def _inside(pairs: tuple[tuple[str, str], ...], old_stem: str, new_stem: str) -> list[Rule]:
    return [Rename(f"^{re.escape(old_stem)}(\\d+)\\.{re.escape(old)}", f"{new_stem}\\1.{new}") for old, new in pairs]


def native_keys(sizes: LanguageSizes) -> KeyMap:
    """Returns the rules from a released checkpoint's names to the native model's."""
    rules: list[Rule] = [
        Drop(r".*rotary_emb\.inv_freq", "computed from the configuration"),
        *_starts(_VISION),
        Split(
            r"vision_model\.encoder\.layers\.(\d+)\.attn\.qkv\.(weight|bias)",
            tuple(f"{_BLOCK}\\1.attention.{part}.\\2" for part in _PARTS),
        ),
        *_inside(_IN_BLOCK, "vision_model.encoder.layers.", _BLOCK),
    ]
    if sizes.kind == "qwen2":
        return KeyMap((*rules, *_starts(_QWEN2)))
    queries = sizes.heads // sizes.kv_heads * sizes.head_dim
    packed = Split(
        r"language_model\.model\.layers\.(\d+)\.attention\.wqkv\.(weight|bias)",
        tuple(f"{_TEXT}layers.\\1.self_attn.{part}.\\2" for part in _PARTS),
        sizes=(queries, sizes.head_dim, sizes.head_dim),
        groups=sizes.kv_heads,
    )
    layers = _inside(_INTERNLM2_LAYER, "language_model.model.layers.", f"{_TEXT}layers.")
    return KeyMap((*rules, packed, *_starts(_INTERNLM2_ENDS), *layers))


def genuine_state_dict(state: Mapping[str, Tensor], sizes: LanguageSizes) -> dict[str, Tensor]:
    """Returns a native model's state under the released names, packed as released: the way back of `native_keys`.

    Args:
        state: Every tensor of the native model.
        sizes: As `native_keys` was given.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        packed = re.fullmatch(r"(.+)\.(q_proj|k_proj|v_proj)\.(weight|bias)", name)
        stem, kind = (packed[1], packed[3]) if packed else ("", "")
        if packed and (name.startswith(_TOWER) or sizes.kind == "internlm2"):
            if packed[2] != "q_proj":
                continue
            parts = [state[f"{stem}.{part}.{kind}"] for part in _PARTS]
            number = re.search(r"\.(\d+)\.", name)
            assert number is not None  # projections stand in layers
            if name.startswith(_TOWER):
                found[f"vision_model.encoder.layers.{number[1]}.attn.qkv.{kind}"] = torch.cat(parts)
            else:
                groups = [part.reshape(sizes.kv_heads, -1, *part.shape[1:]) for part in parts]
                joined = torch.cat(groups, dim=1).reshape(-1, *parts[0].shape[1:])
                found[f"language_model.model.layers.{number[1]}.attention.wqkv.{kind}"] = joined
        else:
            found[_genuine_name(name, sizes)] = tensor
    return found


def _genuine_name(name: str, sizes: LanguageSizes) -> str:
    starts = [*_VISION, *(_QWEN2 if sizes.kind == "qwen2" else _INTERNLM2_ENDS)]
    for old, new in starts:
        if name.startswith(new):
            return old + name[len(new) :]
    stems = (
        (_IN_BLOCK, "vision_model.encoder.layers.", _BLOCK),
        (_INTERNLM2_LAYER, "language_model.model.layers.", f"{_TEXT}layers."),
    )
    for pairs, old_stem, new_stem in stems:
        for old, new in pairs:
            match = re.fullmatch(f"{re.escape(new_stem)}(\\d+)\\.{re.escape(new)}(.*)", name)
            if match:
                return f"{old_stem}{match[1]}.{old}{match[2]}"
    return name
