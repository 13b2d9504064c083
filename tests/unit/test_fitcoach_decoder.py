"""The decoder against transformers' LLaMA, the rotary tables, and the config's own checks."""

from __future__ import annotations

import json

import pytest
import torch
from sightline.errors import CheckpointError, InputError
from sightline.systems.fitcoach.model.config import StreamVlmConfig
from sightline.systems.fitcoach.model.layers import rotary_tables
from sightline.systems.fitcoach.model.loader import genuine_state_dict, merge_and_compare
from sightline.systems.fitcoach.model.stream_vlm import random_stream_vlm

LLAMA = {
    "vocab_size": 96,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "rms_norm_eps": 1e-6,
    "rope_theta": 5000.0,
    "max_position_embeddings": 64,
}
XATTN = {"adapter_insert_layers": "[1]", "num_of_xattn_heads": 1, "vision_dim": 8, "attn_dim": 12}
PEFT = {"r": 4, "lora_alpha": 2, "target_modules": ["q_proj", "k_proj", "v_proj", "lm_head"]}


@torch.no_grad()
def test_text_alone_is_transformers_llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    model = random_stream_vlm(StreamVlmConfig.from_parts(LLAMA, XATTN, None), 3, std=0.2)
    reference = LlamaForCausalLM(LlamaConfig(**LLAMA, attn_implementation="eager")).eval()
    base = {name: tensor for name, tensor in model.state_dict().items() if "xattn_layer" not in name}
    reference.load_state_dict(base)
    ids = torch.arange(40).reshape(2, 20) * 7 % 96
    assert (model(ids) - reference(input_ids=ids).logits).abs().max() < 1e-4


def test_bfloat16_tables_are_rounded_float32_ones():
    config = StreamVlmConfig.from_parts(LLAMA, XATTN, None)
    exact = rotary_tables(config, torch.float32, torch.device("cpu"))
    rounded = rotary_tables(config, torch.bfloat16, torch.device("cpu"))
    for fine, coarse in zip(exact, rounded, strict=True):
        assert torch.equal(fine.to(torch.bfloat16), coarse)


def test_lm_head_keeps_lora_only_if_the_vocabulary_does_not_grow():
    config = StreamVlmConfig.from_parts(LLAMA, XATTN, PEFT)
    assert not config.resized(99).lm_head_has_lora
    assert config.resized(99).vocab_size == 128
    grown = StreamVlmConfig.from_parts({**LLAMA, "vocab_size": 128}, XATTN, PEFT).resized(99)
    assert grown.lm_head_has_lora
    names = genuine_state_dict(random_stream_vlm(grown, 0))
    assert "lang.base_model.model.lm_head.lora_A.default.weight" in names


def test_merging_lora_is_reported_and_cannot_be_exported():
    model = random_stream_vlm(StreamVlmConfig.from_parts(LLAMA, XATTN, PEFT), 0)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "lora_B" in name:
                tensor.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    assert 0 < merge_and_compare(model) < 1e-4
    with pytest.raises(CheckpointError, match="merged"):
        genuine_state_dict(model)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"hidden_size": None}, "hidden_size"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling"),
        ({"attention_bias": True}, "attention_bias"),
    ],
)
def test_configs_that_do_not_fit_are_refused(tmp_path, change, field):
    llama = {**LLAMA, **change}
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in llama.items() if v is not None}))
    with pytest.raises(InputError) as caught:
        StreamVlmConfig.from_folder(tmp_path, XATTN, PEFT)
    assert caught.value.field == field
    assert "config.json" in str(caught.value)


def test_metas_own_format_is_recognised(tmp_path):
    (tmp_path / "params.json").write_text("{}")
    with pytest.raises(CheckpointError, match="-hf"):
        StreamVlmConfig.from_folder(tmp_path, XATTN, PEFT)
