"""Decoding with a shared beginning: its keys and values are computed once, what differs is batched.

Prompts that start with the same tokens (a judge's instructions, the frames of one video before several
questions) share that work. Suffixes are padded on the left and sorted by length, so a batch wastes little.
Greedy answers are the same tokens as one by one wherever the two best logits differ by more than `NEAR_TIE`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sightline.llm.base import NEAR_TIE, Sampling

SHORTEST_PREFIX = 8
"""Shared tokens below which a prefix is not worth a pass of its own."""


@dataclass(frozen=True)
class Prefix:
    """Tokens that every prompt begins with, and their keys and values.

    Attributes:
        tokens: Token ids; a negative one stands for an embedding that is no token's, as of a picture.
        cache: A transformers cache that holds them; never written to.
        rows: Prompts the cache holds, each with a beginning of its own of this length; 1 for a shared one.
    """

    tokens: tuple[int, ...]
    cache: Any
    rows: int = 1

    def fits(self, prompts: Sequence[Sequence[int]]) -> bool:
        """True when every prompt begins with these tokens and goes on."""
        count = len(self.tokens)
        return all(len(prompt) > count and tuple(prompt[:count]) == self.tokens for prompt in prompts)


@dataclass(frozen=True)
class Decoded:
    """What a model wrote.

    Attributes:
        tokens: New token ids, without the one that ended it.
        ended: True when it ended by itself.
        near_ties: Greedy choices between logits closer than `NEAR_TIE`.
    """

    tokens: list[int]
    ended: bool
    near_ties: int


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Returns how many leading tokens all prompts share, leaving each at least one of its own."""
    if not prompts:
        return 0
    ordered = sorted(list(prompt) for prompt in prompts)
    first, last = ordered[0], ordered[-1]  # of all pairs these two differ earliest
    shared = min(len(prompt) for prompt in prompts) - 1
    return next((index for index in range(shared) if first[index] != last[index]), max(0, shared))


@torch.inference_mode()
def compute_prefix(model: Any, tokens: Sequence[int]) -> Prefix:
    """Runs a causal transformers model over tokens and keeps their keys and values."""
    ids = torch.tensor([list(tokens)], device=model.device)
    output = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    return Prefix(tuple(tokens), output.past_key_values)


class _Row:
    """One prompt being answered."""

    def __init__(self, position: int, sampling: Sampling) -> None:
        self.position = position
        self.sampling = sampling
        self.tokens: list[int] = []
        self.ended = False
        self.near_ties = 0
        self.generator = torch.Generator().manual_seed(sampling.seed)

    @property
    def done(self) -> bool:
        return self.ended or len(self.tokens) >= self.sampling.max_new_tokens

    def take(self, logits: Tensor, stop_ids: frozenset[int]) -> int:
        """Chooses the next token from logits [vocabulary] on the CPU."""
        token = self._draw(logits) if self.sampling.temperature > 0 else self._best(logits)
        if token in stop_ids:
            self.ended = True
        else:
            self.tokens.append(token)
        return token

    def _best(self, logits: Tensor) -> int:
        best = logits.topk(min(2, len(logits)))
        if len(best.values) > 1 and float(best.values[0] - best.values[1]) < NEAR_TIE:
            self.near_ties += 1
        return int(logits.argmax())

    def _draw(self, logits: Tensor) -> int:
        logits, order = (logits / self.sampling.temperature).sort(descending=True, stable=True)
        ordered = logits[: self.sampling.top_k or None].softmax(-1)
        before = ordered.cumsum(-1) - ordered
        kept = ordered.masked_fill(before >= self.sampling.top_p, 0.0)  # the likeliest always stays
        return int(order[torch.multinomial(kept, 1, generator=self.generator)])


def _expanded(prefix: Prefix | None, rows: int) -> Any:
    if prefix is None:
        return None
    cache = copy.deepcopy(prefix.cache)
    if rows > prefix.rows:
        cache.batch_repeat_interleave(rows)
    return cache


def _padded(suffixes: Sequence[Sequence[int]], prefix_length: int, device: Any) -> tuple[Tensor, Tensor]:
    """Returns ids [rows, longest] padded on the left and the mask [rows, prefix + longest]."""
    longest = max(map(len, suffixes))
    ids = torch.zeros(len(suffixes), longest, dtype=torch.long)
    mask = torch.ones(len(suffixes), prefix_length + longest, dtype=torch.long)
    for row, suffix in enumerate(suffixes):
        ids[row, longest - len(suffix) :] = torch.tensor(list(suffix), dtype=torch.long)
        mask[row, prefix_length : prefix_length + longest - len(suffix)] = 0
    return ids.to(device), mask.to(device)


def _positions(mask: Tensor, count: int) -> Tensor:
    """Returns the positions of the last `count` tokens: pads do not count."""
    return (mask.cumsum(-1) - 1).clamp(min=0)[:, -count:]


@torch.inference_mode()
def decode_batch(
    model: Any,
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[Sampling],
    stop_ids: frozenset[int],
    prefix: Prefix | None = None,
) -> list[Decoded]:
    """Answers prompts as one batch; rows that have ended leave it once they are half of it.

    Args:
        model: Causal language model of transformers.
        prompts: Token ids, each beginning with those of `prefix`.
        samplings: One per prompt.
        stop_ids: Tokens that end an answer.
        prefix: Computed beginning, or None.
    """
    known = len(prefix.tokens) if prefix else 0
    rows = [_Row(position, sampling) for position, sampling in enumerate(samplings)]
    ids, mask = _padded([prompt[known:] for prompt in prompts], known, model.device)
    cache, active = _expanded(prefix, len(rows)), list(rows)
    while active:
        output = model(
            input_ids=ids, attention_mask=mask, position_ids=_positions(mask, ids.shape[1]),
            past_key_values=cache, use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        cache = output.past_key_values
        logits = output.logits[:, -1].float().cpu()
        tokens = [0 if row.done else row.take(logits[n], stop_ids) for n, row in enumerate(active)]
        kept = [number for number, row in enumerate(active) if not row.done]
        if len(kept) * 2 > len(active):
            kept = list(range(len(active)))
        elif kept:
            chosen = torch.tensor(kept, device=mask.device)
            cache.batch_select_indices(chosen)
            mask = mask[chosen]
        active = [active[number] for number in kept]
        ids = torch.tensor([[tokens[number]] for number in kept], device=model.device)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return [Decoded(row.tokens, row.ended, row.near_ties) for row in rows]


class PrefixDecoder:
    """Answers any number of prompts in batches and remembers the last shared beginning.

    Args:
        model: Causal language model of transformers, in eval mode.
        stop_ids: Tokens that end an answer.
        batch_size: Most prompts at once; halved, and kept so, when the device runs out of memory.
        share: False computes every prompt from its first token.
    """

    def __init__(self, model: Any, stop_ids: Sequence[int], *, batch_size: int = 8, share: bool = True) -> None:
        self.model = model
        self.stop_ids = frozenset(stop_ids)
        self.batch_size = batch_size
        self.share = share
        self._prefix: Prefix | None = None

    def prefix_of(self, prompts: Sequence[Sequence[int]]) -> Prefix | None:
        """Returns the computed beginning of these prompts, the remembered one if it covers most of it."""
        shared = common_prefix(prompts) if self.share and len(prompts) > 1 else 0
        if self.share and self._prefix and self._prefix.fits(prompts) and 2 * len(self._prefix.tokens) >= shared:
            return self._prefix
        if shared < SHORTEST_PREFIX:
            return None
        self._prefix = compute_prefix(self.model, prompts[0][:shared])
        return self._prefix

    def decode(self, prompts: Sequence[Sequence[int]], samplings: Sequence[Sampling]) -> list[Decoded]:
        """Answers prompts, longest first; results are in the given order."""
        if not prompts:
            return []
        prefix = self.prefix_of(prompts)
        order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
        found: dict[int, Decoded] = {}
        while order:
            batch = order[: self.batch_size]
            try:
                decoded = decode_batch(
                    self.model, [prompts[i] for i in batch], [samplings[i] for i in batch], self.stop_ids, prefix
                )
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                self.batch_size = len(batch) // 2
                torch.cuda.empty_cache()
                continue
            found.update(zip(batch, decoded, strict=True))
            order = order[len(batch) :]
        return [found[index] for index in range(len(prompts))]


@torch.inference_mode()
def continuation_scores(model: Any, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[float]:
    """Returns the log-probability of each continuation after a prompt that is computed once.

    Args:
        model: Causal language model of transformers.
        prompt: Token ids.
        continuations: Token ids of each, none empty.
    """
    ids = torch.tensor([list(prompt)], device=model.device)
    output = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    first = output.logits[0, -1].float().log_softmax(-1)
    scores = [float(first[continuation[0]]) for continuation in continuations]
    longer = [number for number, continuation in enumerate(continuations) if len(continuation) > 1]
    if not longer:
        return scores
    prefix = Prefix(tuple(prompt), output.past_key_values)
    fed = [list(continuations[number][:-1]) for number in longer]
    width = max(map(len, fed))
    padded = torch.tensor([tokens + [0] * (width - len(tokens)) for tokens in fed], device=model.device)
    logits = model(input_ids=padded, past_key_values=_expanded(prefix, len(longer)), use_cache=True).logits
    table = logits.float().log_softmax(-1)
    for row, number in enumerate(longer):
        rest = continuations[number][1:]
        scores[number] += sum(float(table[row, place, token]) for place, token in enumerate(rest))
    return scores
