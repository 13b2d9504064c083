"""The judge: what all prompts begin with computed once, and the rest of the prompts as one batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sightline.llm.base import Sampling
from sightline.llm.prefix import PrefixDecoder
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.timing import interleave

PREFIX, OWN, NEW, ITEMS = 140, 140, 12, 8
VOCABULARY = 2000


def _model() -> LlamaForCausalLM:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=512,
            num_hidden_layers=6,
            num_attention_heads=8,
            intermediate_size=1408,
            initializer_range=0.1,
        )
        return LlamaForCausalLM(config).eval()


def _prompts() -> list[list[int]]:
    rng = np.random.default_rng(1)
    shared = rng.integers(3, VOCABULARY, PREFIX).tolist()
    # Own parts of slightly different lengths, as feedbacks are; the first is exactly OWN long.
    return [shared + rng.integers(3, VOCABULARY, OWN - 3 * number).tolist() for number in range(ITEMS)]


def bench_prefix(rounds: int) -> dict[str, Any]:
    """Eight pairs one by one from the first token, with the shared beginning, and with it as one batch."""
    model, prompts = _model(), _prompts()
    sampling = [Sampling(max_new_tokens=NEW)] * ITEMS

    def answer(batch_size: int, share: bool) -> list[list[int]]:
        decoder = PrefixDecoder(model, (), batch_size=batch_size, share=share)  # knows no prefix yet
        return [one.tokens for one in decoder.decode(prompts, sampling)]

    ways = {"one by one": (1, False), "prefix": (1, True), f"prefix, batch of {ITEMS}": (ITEMS, True)}
    said = {name: answer(*way) for name, way in ways.items()}
    arms = interleave({name: lambda way=way: answer(*way) for name, way in ways.items()}, rounds)
    alone = arms["one by one"]["median_s"]
    batched = f"one by one / prefix, batch of {ITEMS}"
    return {
        "name": "judge_prefix",
        "arms": arms,
        "ratios": {
            "one by one / prefix": alone / arms["prefix"]["median_s"],
            batched: alone / arms[f"prefix, batch of {ITEMS}"]["median_s"],
        },
        "max_difference": 0.0,
        "equal": all(tokens == said["one by one"] for tokens in said.values()),
        "guard": {batched: 1.5},
        "target": {batched: 2.0},
        "note": f"512 wide, 6 layers, one thread; {PREFIX} shared and up to {OWN} own tokens, {NEW} new ones, "
        f"{ITEMS} pairs; same tokens",
    }


def run(rounds: int) -> list[dict[str, Any]]:
    """Runs the benchmark on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [bench_prefix(rounds)]
    finally:
        torch.set_num_threads(before)
