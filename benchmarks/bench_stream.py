"""Streaming generation: cost of a step over time, many episodes as one batch, frames fed ahead of decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sightline.systems.fitcoach.model.config import StreamVlmConfig
from sightline.systems.fitcoach.model.steps import Step, cached_step
from sightline.systems.fitcoach.model.stream_vlm import StreamVlm, random_stream_vlm
from sightline.systems.fitcoach.stream import ActionTokens, StreamRequest, StreamSettings, stream
from torch import Tensor

from benchmarks.timing import interleave

ACTIONS = ActionTokens(vision=1990, answer=1991, end=1992)
ONE_BY_ONE = StreamSettings(dtype="float32", look_ahead=1, token_cap=2000)
AHEAD = 16
SILENT_STEPS, TEXT_TOKENS = 20, 10
PLACES, CHANNELS = (7, 5), 1280


def _model(hidden: int, layers: int) -> StreamVlm:
    llama = {
        "vocab_size": 2000,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 8,
        "intermediate_size": hidden * 11 // 4,
    }
    xattn = {"adapter_insert_layers": [1], "vision_dim": CHANNELS, "attn_dim": 128}
    return random_stream_vlm(StreamVlmConfig.from_parts(llama, xattn, None), 0, std=0.1)


def _coach(k: int) -> tuple[float, float, float]:
    """Twenty silent steps, then a feedback of ten tokens, again and again; about 180 steps for 120 frames."""
    place = k % (SILENT_STEPS + TEXT_TOKENS + 2)
    if place < SILENT_STEPS:
        return 50.0, 0.0, 0.0
    if place == SILENT_STEPS:
        return 0.0, 50.0, 0.0
    return (-50.0, -50.0, -50.0) if place <= SILENT_STEPS + TEXT_TOKENS else (0.0, 0.0, 50.0)


def _request(seed: int, steps: int) -> StreamRequest:
    rng = np.random.default_rng(seed)
    features = rng.random((steps, CHANNELS, *PLACES), dtype=np.float32) * 6
    return StreamRequest([1, *rng.integers(3, 1900, 47).tolist(), ACTIONS.vision], features, bias=_coach)


class _GrowingCache:
    """A cache that is copied whole at every step, as concatenation does."""

    def __init__(self, layers: int) -> None:
        self.stores: list[tuple[Tensor, Tensor] | None] = [None] * layers

    def write(self, layer: int, step: Step, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        new = keys.transpose(0, 1)[None], values.transpose(0, 1)[None]
        old = self.stores[layer]
        if old is not None:
            new = torch.cat([old[0], new[0]], dim=2), torch.cat([old[1], new[1]], dim=2)
        self.stores[layer] = new
        return new


@torch.inference_mode()
def _full_history(model: StreamVlm, request: StreamRequest) -> list[int]:
    """The loop as released: every step embeds all ids, gathers all frames so far, and grows the cache."""
    tokens, known, speaking, fed = list(request.prompt_ids), 2, False, 0
    cache: Any = _GrowingCache(model.config.num_layers)
    maps = torch.from_numpy(request.features)
    entries = torch.cat([torch.zeros_like(maps[:1]), maps])
    seen = torch.ones(len(entries), dtype=torch.bool)
    while known < len(maps) + 1:
        every_id = torch.tensor(tokens)
        model.model.embed_tokens(every_id)
        history = entries[1:known][seen[1:known]]
        ids = every_id[fed:]
        frames = [-1] * (len(ids) - 1) + [0 if tokens[-1] == ACTIONS.vision else -1]
        step = cached_step([fed], [len(ids)], frames, model.device)
        projected = model.project_frames(history[None, -1:])
        logits = model.logits(model.hidden_states(ids, step, projected, cache)[-1])
        logits[[ACTIONS.vision, ACTIONS.answer, ACTIONS.end]] += torch.tensor(
            _coach(len(tokens) - len(request.prompt_ids))
        )
        fed, token = len(tokens), int(logits.argmax())
        if speaking:
            token = ACTIONS.end if token in (ACTIONS.vision, ACTIONS.answer) else token
            speaking = token != ACTIONS.end
        else:
            token = token if token in (ACTIONS.vision, ACTIONS.answer) else ACTIONS.vision
            speaking = token == ACTIONS.answer
        known += token == ACTIONS.vision
        tokens.append(token)
    return tokens


def _tokens(model: StreamVlm, requests: Sequence[StreamRequest], settings: StreamSettings) -> list[list[int]]:
    return [result.tokens for result in stream(model, requests, settings, ACTIONS)]


def bench_step(rounds: int) -> dict[str, Any]:
    """One episode of 120 and one of 360 frames, one step at a time: full history against ours."""
    model = _model(256, 6)
    short, long = _request(1, 120), _request(2, 360)
    steps, equal = {}, True
    for name, request in (("T=120", short), ("T=360", long)):
        ours = _tokens(model, [request], ONE_BY_ONE)[0]
        steps[name] = len(ours) - len(request.prompt_ids)
        equal &= ours == _full_history(model, request)
    arms = interleave(
        {
            "full history T=120": lambda: _full_history(model, short),
            "ours T=120": lambda: _tokens(model, [short], ONE_BY_ONE),
            "full history T=360": lambda: _full_history(model, long),
            "ours T=360": lambda: _tokens(model, [long], ONE_BY_ONE),
        },
        rounds,
    )
    each = {name: arm["min_s"] / steps[name.split()[-1]] for name, arm in arms.items()}
    return {
        "name": "stream_step",
        "arms": arms,
        "ratios": {
            "full history / ours, T=120": each["full history T=120"] / each["ours T=120"],
            "full history / ours, T=360": each["full history T=360"] / each["ours T=360"],
            "step of ours at T=120 / at T=360 (1 is flat)": each["ours T=120"] / each["ours T=360"],
        },
        "max_difference": 0.0,
        "equal": equal,
        "guard": {"full history / ours, T=360": 1.2, "step of ours at T=120 / at T=360 (1 is flat)": 0.75},
        "target": {"step of ours at T=120 / at T=360 (1 is flat)": 0.95},
        "note": f"256 wide, 6 layers, maps 35 x 1280; {steps['T=120']} and {steps['T=360']} steps; ratios of "
        "minima; what is left to flat is attention to a longer sequence, see stream_host for the loop itself",
    }


class _NoModel:
    """Answers without computing: what remains is the loop itself."""

    def __init__(self, model: StreamVlm) -> None:
        self.config, self.device = model.config, model.device
        self._hidden = torch.zeros(1, 1)
        self._logits = torch.zeros(1, model.config.vocab_size)

    def new_cache(self, batch: int, capacity: int) -> Any:
        return self

    def reserve(self, length: int) -> None:
        pass

    def project_frames(self, features: Tensor) -> dict:
        return {}

    def hidden_states(self, token_ids: Tensor, step: Step, frames: dict, cache: Any) -> Tensor:
        return self._hidden.expand(len(token_ids), 1)

    def logits(self, hidden: Tensor) -> Tensor:
        return self._logits.expand(len(hidden), -1)


def bench_host(rounds: int) -> dict[str, Any]:
    """The loop without the model: what the host does per step must not grow with the episode."""
    model: Any = _NoModel(_model(16, 2))
    features = np.zeros((1, 1, 1, 1), np.float32)
    requests = {
        steps: replace(_request(1, 2), features=np.broadcast_to(features, (steps, 1, 1, 1))) for steps in (120, 360)
    }
    said = {steps: _tokens(model, [request], ONE_BY_ONE)[0] for steps, request in requests.items()}
    counts = {steps: len(said[steps]) - len(request.prompt_ids) for steps, request in requests.items()}
    arms = interleave(
        {
            f"T={steps}": lambda request=request: [_tokens(model, [request], ONE_BY_ONE) for _ in range(3)]
            for steps, request in requests.items()
        },
        rounds,
    )
    each = {steps: arms[f"T={steps}"]["min_s"] / counts[steps] / 3 for steps in requests}
    label = "host part of a step at T=120 / at T=360 (1 is flat)"
    return {
        "name": "stream_host",
        "arms": arms,
        "ratios": {label: each[120] / each[360]},
        "max_difference": 0.0,
        "equal": all(tokens.count(ACTIONS.vision) == steps for steps, tokens in said.items()),
        "guard": {label: 0.85},
        "target": {label: 0.95},
        "note": f"no model; {each[360] * 1e6:.0f} microseconds of CPU per step at T=360",
    }


def bench_batch(rounds: int) -> dict[str, Any]:
    """Eight episodes one after another against batches of four and eight."""
    model = _model(512, 6)
    requests = [_request(seed, 36 + seed) for seed in range(8)]

    def batches(size: int) -> list[list[int]]:
        parts = (requests[start : start + size] for start in range(0, 8, size))
        return [tokens for part in parts for tokens in _tokens(model, part, ONE_BY_ONE)]

    equal = batches(1) == batches(4) == batches(8)
    arms = interleave({f"B={size}": lambda size=size: batches(size) for size in (1, 4, 8)}, rounds)
    ratios = {f"B=1 / B={size}": arms["B=1"]["median_s"] / arms[f"B={size}"]["median_s"] for size in (4, 8)}
    return {
        "name": "stream_batch",
        "arms": arms,
        "ratios": ratios,
        "max_difference": 0.0,
        "equal": equal,
        "guard": {"B=1 / B=8": 1.4},
        "target": {"B=1 / B=8": 1.8},
        "note": "512 wide, 6 layers; 8 episodes of 36 to 43 frames, same tokens",
    }


def bench_look_ahead(rounds: int) -> dict[str, Any]:
    """Passes and time of an episode of 120 frames with six feedbacks, one by one and 16 frames ahead."""
    model = _model(512, 6)
    request = _request(3, 120)
    ahead = replace(ONE_BY_ONE, look_ahead=AHEAD)
    plain, jumps = (stream(model, [request], settings, ACTIONS)[0] for settings in (ONE_BY_ONE, ahead))
    arms = interleave(
        {
            "one by one": lambda: _tokens(model, [request], ONE_BY_ONE),
            f"{AHEAD} ahead": lambda: _tokens(model, [request], ahead),
        },
        rounds,
    )
    return {
        "name": "stream_look_ahead",
        "arms": arms,
        "ratios": {
            "model calls, one by one / ahead": plain.passes / jumps.passes,
            "time, one by one / ahead": arms["one by one"]["median_s"] / arms[f"{AHEAD} ahead"]["median_s"],
        },
        "max_difference": 0.0,
        "equal": plain.tokens == jumps.tokens,
        "guard": {"model calls, one by one / ahead": 2.0},
        "target": {"model calls, one by one / ahead": 2.0},
        "note": f"{plain.passes} calls against {jumps.passes}",
    }


def run(rounds: int) -> list[dict[str, Any]]:
    """Runs the four benchmarks on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [bench(rounds) for bench in (bench_step, bench_host, bench_batch, bench_look_ahead)]
    finally:
        torch.set_num_threads(before)
