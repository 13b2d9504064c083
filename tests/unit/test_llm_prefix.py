"""Decoding with a shared beginning: the same tokens as one by one, whatever the batch."""

from __future__ import annotations

import pytest
import torch
from sightline.llm.base import Sampling
from sightline.llm.prefix import (
    PrefixDecoder,
    common_prefix,
    compute_prefix,
    continuation_scores,
    decode_batch,
)
from transformers import LlamaConfig, LlamaForCausalLM

STOP = [7]


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = LlamaConfig(
            vocab_size=97, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            intermediate_size=96, initializer_range=0.3,
        )  # fmt: skip
        return LlamaForCausalLM(config).eval()


def prompts(count: int, shared: int = 20) -> list[list[int]]:
    draw = torch.Generator().manual_seed(count)
    head = torch.randint(8, 97, (shared,), generator=draw).tolist()
    return [head + torch.randint(8, 97, (1 + 3 * n,), generator=draw).tolist() for n in range(count)]


def reference(model: LlamaForCausalLM, prompt: list[int], new: int) -> list[int]:
    """Greedy decoding of the library itself."""
    output = model.generate(
        torch.tensor([prompt]), do_sample=False, max_new_tokens=new, eos_token_id=STOP, pad_token_id=0
    )
    tokens = output[0, len(prompt) :].tolist()
    return tokens[: tokens.index(STOP[0])] if STOP[0] in tokens else tokens


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_greedy_equals_the_library_one_by_one(model: LlamaForCausalLM, share: bool, batch_size: int) -> None:
    asked = prompts(8)
    decoder = PrefixDecoder(model, STOP, batch_size=batch_size, share=share)
    found = decoder.decode(asked, [Sampling(max_new_tokens=12)] * 8)
    assert [one.tokens for one in found] == [reference(model, prompt, 12) for prompt in asked]
    assert [one.ended for one in found] == [len(one.tokens) < 12 for one in found]


def test_rows_may_want_different_lengths_and_end_early(model: LlamaForCausalLM) -> None:
    asked = prompts(6)
    lengths = [1, 9, 2, 3, 1, 4]
    first = reference(model, asked[1], 9)
    decoder = PrefixDecoder(model, [first[3]], batch_size=6)
    found = decoder.decode(asked, [Sampling(max_new_tokens=length) for length in lengths])
    for prompt, length, one in zip(asked, lengths, found, strict=True):
        alone = decode_batch(model, [prompt], [Sampling(max_new_tokens=length)], frozenset([first[3]]))[0]
        assert one == alone
    assert found[1].ended
    assert found[1].tokens == first[: first.index(first[3])]


def test_the_prefix_is_computed_once_and_kept(model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    import sightline.llm.prefix as module

    calls: list[int] = []
    monkeypatch.setattr(
        module, "compute_prefix", lambda one, tokens: calls.append(len(tokens)) or compute_prefix(one, tokens)
    )
    decoder = PrefixDecoder(model, STOP, batch_size=2)
    asked = prompts(6)
    decoder.decode(asked[:3], [Sampling(max_new_tokens=2)] * 3)
    decoder.decode(asked[3:], [Sampling(max_new_tokens=2)] * 3)
    decoder.decode(asked[:1], [Sampling(max_new_tokens=2)])
    assert calls == [20]


def test_draws_depend_on_the_seed_alone(model: LlamaForCausalLM) -> None:
    asked = prompts(5)
    drawn = [Sampling(max_new_tokens=8, temperature=1.0, top_p=0.9, seed=n) for n in range(5)]
    together = PrefixDecoder(model, STOP, batch_size=5).decode(asked, drawn)
    alone = [PrefixDecoder(model, STOP).decode([p], [s])[0] for p, s in zip(asked, drawn, strict=True)]
    assert together == alone
    other = [Sampling(max_new_tokens=8, temperature=1.0, top_p=0.9, seed=n + 99) for n in range(5)]
    assert PrefixDecoder(model, STOP, batch_size=5).decode(asked, other) != together


def test_draws_follow_the_probabilities_they_should(model: LlamaForCausalLM) -> None:
    prompt = prompts(2)[1]
    table = model(torch.tensor([prompt])).logits[0, -1].detach().div(2.0)
    wanted = table.topk(5).values.softmax(-1)
    drawn = [Sampling(max_new_tokens=1, temperature=2.0, top_k=5, seed=n) for n in range(400)]
    found = PrefixDecoder(model, (), batch_size=400).decode([prompt] * 400, drawn)
    tokens = [one.tokens[0] for one in found]
    shares = [tokens.count(int(token)) / 400 for token in table.topk(5).indices]
    assert set(tokens) <= set(table.topk(5).indices.tolist())
    assert max(abs(share - float(value)) for share, value in zip(shares, wanted, strict=True)) < 0.1


@pytest.mark.parametrize("narrow", [{"top_p": 1e-6}, {"top_k": 1}])
def test_the_narrowest_draw_is_greedy(model: LlamaForCausalLM, narrow: dict) -> None:
    asked = prompts(3)
    drawn = [Sampling(max_new_tokens=6, temperature=1.0, seed=n, **narrow) for n in range(3)]
    found = PrefixDecoder(model, STOP).decode(asked, drawn)
    assert [one.tokens for one in found] == [reference(model, prompt, 6) for prompt in asked]


@pytest.mark.parametrize(
    ("asked", "shared"),
    [([], 0), ([[1, 2]], 1), ([[1, 2, 3], [1, 2, 4]], 2), ([[1], [1, 2]], 0), ([[1, 2], [1, 2]], 1), ([[5], [6]], 0)],
)
def test_common_prefix_leaves_each_a_token(asked: list[list[int]], shared: int) -> None:
    assert common_prefix(asked) == shared


def test_out_of_memory_halves_the_batch(model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    import sightline.llm.prefix as module

    sizes: list[int] = []

    def fails(*arguments: object) -> list:
        sizes.append(len(arguments[1]))  # type: ignore[arg-type]
        if len(arguments[1]) > 2:  # type: ignore[arg-type]
            raise torch.OutOfMemoryError("no room")
        return decode_batch(*arguments)  # type: ignore[arg-type]

    asked = prompts(8)
    wanted = PrefixDecoder(model, STOP, batch_size=1).decode(asked, [Sampling(max_new_tokens=3)] * 8)
    monkeypatch.setattr(module, "decode_batch", fails)
    decoder = PrefixDecoder(model, STOP, batch_size=8)
    assert decoder.decode(asked, [Sampling(max_new_tokens=3)] * 8) == wanted
    assert sizes == [8, 4, 2, 2, 2, 2]


def test_continuations_have_the_probability_of_their_tokens(model: LlamaForCausalLM) -> None:
    prompt = prompts(3)[2]
    tails = [[11], [12, 13], [14, 15, 16], [11, 11]]
    found = continuation_scores(model, prompt, tails)
    for tail, value in zip(tails, found, strict=True):
        table = model(torch.tensor([prompt + tail])).logits[0].detach().log_softmax(-1)
        wanted = sum(float(table[len(prompt) - 1 + place, token]) for place, token in enumerate(tail))
        assert value == pytest.approx(wanted, abs=1e-4)


def test_near_ties_are_counted(model: LlamaForCausalLM) -> None:
    flat = LlamaForCausalLM(model.config).eval()
    torch.nn.init.zeros_(flat.lm_head.weight)
    found = decode_batch(flat, [[9, 9]], [Sampling(max_new_tokens=3)], frozenset())
    assert (found[0].tokens, found[0].near_ties) == ([0, 0, 0], 3)
    assert decode_batch(model, [[9, 9]], [Sampling(max_new_tokens=3)], frozenset())[0].near_ties == 0
