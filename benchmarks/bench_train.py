"""One optimiser step of Stream-VLM's training: sequences one by one, as released, against padded batches."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import torch
from sightline.systems.fitcoach.model.config import StreamVlmConfig
from sightline.systems.fitcoach.model.stream_vlm import StreamVlm, random_stream_vlm
from sightline.systems.fitcoach.sequences import ATTENDS, TrainingSequence
from sightline.systems.fitcoach.stream import ActionTokens
from sightline.systems.fitcoach.train import ProjectedMaps, Unit, collate_units, select_trainable, unit_losses

from benchmarks.timing import interleave

CHANNELS, PLACES = 256, (7, 5)
ACTIONS = ActionTokens(vision=2000, answer=2001, end=2002)
ITEMS, FRAMES = 8, 24
TOLERANCE = 1e-4
WORDS = ("*.self_attn.*", "*.mlp.*", "*.hidden_attn_fc.*", "*.out_fc.*", "lm_head.*")


def _model(hidden: int) -> StreamVlm:
    llama = {
        "vocab_size": 2048,
        "hidden_size": hidden,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "intermediate_size": hidden * 8 // 3,
        "max_position_embeddings": 512,
    }
    xattn = {"adapter_insert_layers": [2, 4], "num_of_xattn_heads": 1, "vision_dim": CHANNELS, "attn_dim": hidden}
    return random_stream_vlm(StreamVlmConfig.from_parts(llama, xattn, None), 0)


def _unit(number: int) -> Unit:
    """A prompt, then frames with a feedback of ten words after every eighth; lengths differ by a frame or two."""
    rng = np.random.default_rng(number)
    ids, mask = [1, *rng.integers(3, 1900, 40)], [0] * 41
    for frame in range(FRAMES + number % 3):
        ids.append(ACTIONS.vision)
        mask.append(ATTENDS)
        if frame % 8 == 7:
            said = [ACTIONS.answer, *rng.integers(3, 1900, 10), ACTIONS.end]
            ids += said
            mask += [0] * len(said)
    seen = int(np.count_nonzero(mask))
    targets = np.arange(len(ids)) > 41
    return (TrainingSequence(f"s{number}", np.array(ids), np.array(mask), targets, f"s{number}", np.arange(seen)),)


@cache
def _stored(key: str) -> np.ndarray:
    return np.random.default_rng(int(key[1:])).random((FRAMES + 2, CHANNELS, *PLACES), dtype=np.float32) * 6


def _read(key: str, rows: slice) -> np.ndarray:
    return _stored(key)[rows]


def _gradient(model: StreamVlm, units: list[Unit], size: int, source: Any = _read) -> tuple[float, torch.Tensor]:
    """Returns mean loss and gradient of one optimiser step in micro batches of `size`."""
    model.zero_grad()
    total = 0.0
    for start in range(0, len(units), size):
        losses = unit_losses(model, collate_units(units[start : start + size], source, ACTIONS))
        (losses.sum() / len(units)).backward()
        total += float(losses.detach().sum()) / len(units)
    return total, torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])


def _difference(results: list[tuple[float, torch.Tensor]]) -> float:
    """Largest difference of any loss or gradient from the first, relative to the largest gradient."""
    loss, gradient = results[0]
    scale = float(gradient.abs().max())
    return max(
        max(abs(other - loss) / abs(loss), float((grad - gradient).abs().max()) / scale) for other, grad in results[1:]
    )


def bench_step(rounds: int) -> dict[str, Any]:
    """Everything trained: eight sequences one by one, in fours, and as one batch."""
    model = _model(256)
    units = [_unit(number) for number in range(ITEMS)]
    worst = _difference([_gradient(model, units, size) for size in (1, 4, ITEMS)])
    arms = interleave({f"B={size}": lambda size=size: _gradient(model, units, size) for size in (1, 4, ITEMS)}, rounds)
    return {
        "name": "train_step",
        "arms": arms,
        "ratios": {f"B=1 / B={size}": arms["B=1"]["median_s"] / arms[f"B={size}"]["median_s"] for size in (4, ITEMS)},
        "max_difference": worst,
        "equal": worst < TOLERANCE,
        "guard": {f"B=1 / B={ITEMS}": 0.9},
        "target": {},
        "note": f"256 wide, 6 layers, {ITEMS} sequences of about {FRAMES} frames; one thread is busy at batch 1 "
        f"already, a GPU is not; gradients differ by {worst:.1e} of the largest",
    }


def bench_kept(rounds: int) -> dict[str, Any]:
    """Frozen projections of the feature maps computed in every step against kept ones."""
    model = _model(128)
    select_trainable(model, WORDS)
    units = [_unit(number) for number in range(ITEMS)]
    kept = ProjectedMaps(copy.deepcopy(model), _read, 512)
    worst = _difference([_gradient(model, units, ITEMS), _gradient(model, units, ITEMS, kept)])
    arms = interleave(
        {
            "in every step": lambda: _gradient(model, units, ITEMS),
            "kept": lambda: _gradient(model, units, ITEMS, kept),
        },
        rounds,
    )
    label = "in every step / kept"
    return {
        "name": "train_kept_projections",
        "arms": arms,
        "ratios": {label: arms["in every step"]["median_s"] / arms["kept"]["median_s"]},
        "max_difference": worst,
        "equal": worst < TOLERANCE,
        "guard": {label: 1.15},
        "target": {},
        "note": f"128 wide, 6 layers, maps 35 x {CHANNELS}; gradients differ by {worst:.1e} of the largest",
    }


def run(rounds: int) -> list[dict[str, Any]]:
    """Runs both benchmarks on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [bench(rounds) for bench in (bench_step, bench_kept)]
    finally:
        torch.set_num_threads(before)
