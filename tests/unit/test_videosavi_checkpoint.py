"""What the loader refuses, and prompts in corners the golden ones do not reach."""

from __future__ import annotations

import copy

import pytest
import torch
from sightline.assets.checkpoints import load_into
from sightline.errors import CheckpointError, InputError
from sightline.systems.videosavi.model.config import language_sizes, native_config
from sightline.systems.videosavi.model.keys import genuine_state_dict, native_keys
from sightline.systems.videosavi.prompts import chat_prompt, cut_answer, video_message, with_pictures
from transformers import InternVLForConditionalGeneration

CONFIG = {
    "llm_config": {
        "architectures": ["InternLM2ForCausalLM"], "vocab_size": 20, "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
        "rope_theta": 1000000, "rope_scaling": {"type": "dynamic", "factor": 2.0}, "tie_word_embeddings": True,
    },
    "vision_config": {
        "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 56, "patch_size": 14,
    },
}  # fmt: skip


def changed(part, **values):
    config = copy.deepcopy(CONFIG)
    (config[part] if part else config).update(values)
    return config


def test_a_tied_configuration_is_untied_and_keeps_both_tables():
    native = native_config(CONFIG, 9)
    assert not native.tie_word_embeddings
    assert not native.text_config.tie_word_embeddings
    assert native.image_seq_length == 4
    sizes = language_sizes(CONFIG)
    source = InternVLForConditionalGeneration(native)
    genuine = {name: torch.randn_like(one) for name, one in genuine_state_dict(source.state_dict(), sizes).items()}
    with torch.device("meta"):
        model = InternVLForConditionalGeneration(native)
    load_into(model, genuine, native_keys(sizes))
    model.tie_weights()
    assert torch.equal(model.lm_head.weight, genuine["language_model.output.weight"])
    assert torch.equal(model.get_input_embeddings().weight, genuine["language_model.model.tok_embeddings.weight"])


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (changed("llm_config", architectures=["LlamaForCausalLM"]), "unknown"),
        (changed("llm_config", hidden_size="16"), "whole number"),
        (changed("vision_config", qk_normalization=True), "normalises"),
        (changed("vision_config", norm_type="rms_norm"), "RMS"),
        (changed(None, ps_version="v1"), "transposes"),
        (changed(None, vision_config=None), "lacks a part"),
    ],
)
def test_other_architectures_are_refused(config, words):
    with pytest.raises(CheckpointError, match=words):
        native_config(config, 9, file="config.json")


def test_a_missing_output_head_is_not_passed_over():
    native, sizes = native_config(CONFIG, 9), language_sizes(CONFIG)
    model = InternVLForConditionalGeneration(native)
    genuine = genuine_state_dict(model.state_dict(), sizes)
    del genuine["language_model.output.weight"]
    with pytest.raises(CheckpointError, match=r"lm_head\.weight"):
        load_into(model, genuine, native_keys(sizes))


def test_a_question_that_names_an_image_shifts_no_frame():
    message = video_message("What is <image>?", [1, 2], 1)
    assert message.startswith("Frame1: <img><IMG_CONTEXT></img>\nFrame2: <img><IMG_CONTEXT><IMG_CONTEXT></img>\n")
    assert message.endswith("What is <image>?")
    assert with_pictures("no place", [3], 2) == "no place"


def test_open_turns_and_answers():
    with pytest.raises(InputError, match="open turn"):
        chat_prompt([None, "a"])
    assert cut_answer(" A<|im_end|>\nmore") == "A"
