"""A golden Stream-VLM: weights by the fill rule, written as a genuine checkpoint, read by the real loader."""

from __future__ import annotations

import atexit
import json
import re
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from fill import fill_tensor
from golden import find, load_json
from sightline.llm.tokens import TextTokenizer
from sightline.systems.fitcoach.model.config import StreamVlmConfig
from sightline.systems.fitcoach.model.loader import GENUINE_PREFIX, load_stream_vlm
from sightline.systems.fitcoach.model.stream_vlm import StreamVlm

EMBEDDING = GENUINE_PREFIX + "model.embed_tokens.weight"
ADAPTER = "adapter.embed_tokens.weight"
LAYERS = GENUINE_PREFIX + "model.layers."


def key_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Returns tensor name -> shape of a golden key list."""
    rows = load_json("fitcoach", "b_model", name) or []
    return {row[0]: tuple(row[1]) for row in rows}


def config_of(shapes: dict[str, tuple[int, ...]], facts: dict) -> tuple[dict, dict, dict]:
    """Returns the LLaMA, cross-attention and LoRA sections; sizes from keys, the rest from `facts`."""

    def layers(pattern: str) -> list[int]:
        found = (re.match(re.escape(LAYERS) + r"(\d+)\." + pattern, name) for name in shapes)
        return sorted({int(match[1]) for match in found if match})

    def one(suffix: str) -> tuple[int, ...]:
        return next(shape for name, shape in shapes.items() if name.endswith(suffix))

    hidden = shapes[EMBEDDING][1]
    heads = int(facts.get("num_heads", 32))
    rank = one("lora_A.default.weight")[0]
    llama = {
        "vocab_size": int(facts.get("vocab_size_base", shapes[EMBEDDING][0] - 1)),
        "hidden_size": hidden,
        "num_hidden_layers": len(layers("")),
        "num_attention_heads": heads,
        "num_key_value_heads": one("k_proj.weight")[0] * heads // one("q_proj.weight")[0],
        "intermediate_size": one("mlp.up_proj.weight")[0],
        "rms_norm_eps": facts.get("rms_norm_eps", 1e-5),
        "rope_theta": facts.get("rope_theta", 10000.0),
        "max_position_embeddings": facts.get("max_position_embeddings", 4096),
    }
    xattn = {
        "adapter_insert_layers": str(layers("xattn_layer")),
        "num_of_xattn_heads": facts.get("xattn_heads", 1),
        "vision_dim": one("feat_attn_keys_fc.weight")[1],
        "attn_dim": one("feat_attn_keys_fc.weight")[0],
    }
    targets = {name.split(".lora_A")[0].rpartition(".")[2] for name in shapes if ".lora_A" in name}
    if llama["vocab_size"] != shapes[EMBEDDING][0]:
        targets.add("lm_head")  # inserted before the vocabulary grew, and lost by it
    scaling = (facts.get("lora") or {}).get("scaling", 0.5)
    peft = {"r": rank, "lora_alpha": scaling * rank, "target_modules": sorted(targets)}
    return llama, xattn, peft


def filled_checkpoint() -> dict[str, torch.Tensor]:
    """Returns the tiny model's state under genuine names, filled by the rule of the golden runs."""
    shapes = key_shapes("state_dict_keys_tiny.json")
    state = {name: torch.from_numpy(fill_tensor(name, shape)) for name, shape in shapes.items()}
    state[ADAPTER] = state[EMBEDDING]
    return state


@cache
def golden_folder() -> tuple[Path, StreamVlmConfig]:
    """Writes the checkpoint folder once and returns it with the config of the LLaMA folder beside it."""
    folder = Path(tempfile.mkdtemp(prefix="sightline-golden-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    checkpoint, llama = folder / "ckpts_streamvlm", folder / "7B-FT"
    checkpoint.mkdir()
    llama.mkdir()
    torch.save({"state_dict": filled_checkpoint()}, checkpoint / "state_dict.pth.tar")
    tokenizer = find("fitcoach", "b_model", "tiny_tokenizer.json")
    assert tokenizer is not None
    shutil.copy(tokenizer, checkpoint / "tokenizer.json")
    facts = load_json("fitcoach", "b_model", "tiny_config.json") or {}
    sections = config_of(key_shapes("state_dict_keys_tiny.json"), facts)
    (llama / "config.json").write_text(json.dumps(sections[0]))
    return folder, StreamVlmConfig.from_folder(llama, sections[1], sections[2])


@cache
def golden_model(merge_lora: bool = False) -> tuple[StreamVlm, TextTokenizer]:
    """Loads the golden model through the loader of released checkpoints."""
    folder, config = golden_folder()
    model, tokenizer, report = load_stream_vlm(
        folder / "7B-FT", folder / "ckpts_streamvlm" / "state_dict.pth.tar", config, merge_lora=merge_lora
    )
    assert report.used_sources == set(key_shapes("state_dict_keys_tiny.json"))
    return model, tokenizer


def golden_features(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the random feature maps of a case, float32, in [0, 6]."""
    rng = np.random.Generator(np.random.PCG64(seed))
    return np.clip(2 * rng.standard_normal(shape), 0, 6).astype(np.float32)
