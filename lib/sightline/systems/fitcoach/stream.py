"""Streaming generation: watch a frame, stay silent or speak, watch the next; many episodes as one batch.

Each episode is a small state machine (`StreamRow`) on the host; the model sees packed tokens of all of them.
While an episode is silent, the loop feeds frames ahead of the decisions and keeps the prefix that the
decisions confirm, which gives the tokens of the one-by-one loop with fewer passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from sightline.errors import InputError
from sightline.systems.fitcoach.model.layers import KeyValueCache
from sightline.systems.fitcoach.model.steps import cached_step
from sightline.systems.fitcoach.model.stream_vlm import Frames, StreamVlm

NEAR_TIE_MARGIN = 1e-3
"""Two best logits closer than this may swap between batch shapes in float32."""

Bias = Callable[[int], Sequence[float]]


@dataclass(frozen=True)
class StreamSettings:
    """How the streaming loop runs.

    Attributes:
        loop: `published` reproduces the released code, which never counts spoken tokens; `realtime` counts
            them, skips the frames that pass while speaking and ends feedbacks that grow too long.
        max_feedback_length: Text tokens after which `realtime` ends a feedback.
        feats_frequency: Feature steps per second.
        inference_speed: Tokens spoken per second.
        token_cap: Most tokens generated in an episode or window; `published` may otherwise never end.
        look_ahead: Decisions taken in one pass while silent; 1 is the one-by-one loop.
        batch_limit: Most episodes in one batch.
        dtype: Dtype of the model.
        do_sample: Draw tokens instead of taking the best.
        temperature: Of the draw.
        seed: Of the draw, mixed with the episode's id.
        window_context: What a sliding window knows of the one before: `fixed` or `published`; see `windows`.
    """

    loop: Literal["published", "realtime"] = "published"
    max_feedback_length: int = 128
    feats_frequency: int = 4
    inference_speed: int = 12
    token_cap: int = 2048
    look_ahead: int = 16
    batch_limit: int = 32
    dtype: str = "bfloat16"
    do_sample: bool = False
    temperature: float = 1.0
    seed: int = 0
    window_context: Literal["fixed", "published"] = "fixed"

    def __post_init__(self) -> None:
        """Refuses values no loop can run with.

        Raises:
            InputError: A value is out of range.
        """
        problems = {
            "loop": self.loop not in ("published", "realtime"),
            "window_context": self.window_context not in ("fixed", "published"),
            "temperature": self.do_sample and not self.temperature > 0,
            **{
                name: getattr(self, name) < 1
                for name in ("feats_frequency", "inference_speed", "token_cap", "look_ahead", "batch_limit")
            },
        }
        for name, is_wrong in problems.items():
            if is_wrong:
                raise InputError(f"{getattr(self, name)!r} is out of range", field=name)


@dataclass(frozen=True)
class ActionTokens:
    """Ids that steer the loop."""

    vision: int
    answer: int
    end: int


@dataclass(frozen=True)
class StreamRequest:
    """One episode.

    Attributes:
        prompt_ids: Ids of the prompt; the last one is `<vision>` unless `prompt_frames` is given.
        features: Feature maps, floating [T, C, H, W].
        seed: Of the episode's draws.
        bias: For tests: values added at step k to the logits of `<vision>`, `<answer>` and `<answer/>`.
        prompt_frames: Frame that each prompt token reads, any value for text; None: every `<vision>` reads frame 0.
        known: Feature entries in reach after the prompt, the zero step included; frame `known` - 2 is the newest.
    """

    prompt_ids: Sequence[int]
    features: np.ndarray
    seed: int = 0
    bias: Bias | None = None
    prompt_frames: Sequence[int] | None = None
    known: int = 2


@dataclass
class StreamResult:
    """What one episode came to.

    Attributes:
        tokens: Prompt and generated ids.
        prompt_length: Ids of the prompt.
        warnings: `token_cap` or `position_limit` when generation was cut.
        near_ties: Decisions whose margin was below `NEAR_TIE_MARGIN`.
        failure: `non_finite` when a logit was NaN or infinite; else empty.
        passes: Model passes the episode took part in.
        raw: Best token of each decision, before the loop's rules.
        margins: Logit of the best minus that of the second.
        frames_given: Frames that were visible at each decision.
        seen: Per token of `tokens`, the newest frame when it was decided; a `<vision>` token reads it.
        known: Feature entries in reach at the end, the zero step included.
    """

    tokens: list[int]
    prompt_length: int
    warnings: list[str] = field(default_factory=list)
    near_ties: int = 0
    failure: str = ""
    passes: int = 0
    raw: list[int] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    frames_given: list[int] = field(default_factory=list)
    seen: list[int] = field(default_factory=list)
    known: int = 2


class StreamRow:
    """State machine of one episode; section by section the loop of the original's `generate`."""

    def __init__(
        self, request: StreamRequest, settings: StreamSettings, actions: ActionTokens, max_positions: int
    ) -> None:
        self.request, self.settings, self.actions = request, settings, actions
        self.total = len(request.features)
        self.result = StreamResult(list(request.prompt_ids), len(request.prompt_ids))
        self.cap = min(settings.token_cap, max(max_positions - len(request.prompt_ids), 0))
        self.cap_name = "token_cap" if self.cap == settings.token_cap else "position_limit"
        self.result.seen = list(request.prompt_frames or [0] * len(request.prompt_ids))
        self.known = request.known  # feature entries in reach, the zero step included; frame known-2 is the newest
        self.blind = 0  # frames that passed while speaking
        self.speaking = False
        self.spoken = 0
        self.fed = 0  # tokens in the cache
        self.ahead = 0  # frames fed beyond the last decided token in the pass under way
        self.alone = False  # the next decision is to be taken without looking ahead

    @property
    def generated(self) -> int:
        """Tokens decided so far."""
        return len(self.result.tokens) - self.result.prompt_length

    @property
    def done(self) -> bool:
        """Says whether the episode is over."""
        return self.known >= self.total + 1 or self.generated >= self.cap or bool(self.result.failure)

    def feed(self) -> tuple[list[int], list[int]]:
        """Returns the ids of the next pass and their frames (-1 for text)."""
        vision = self.actions.vision
        ids = self.result.tokens[self.fed :]
        seen = self.result.seen[self.fed :]
        frames = [frame if token == vision else -1 for token, frame in zip(ids, seen, strict=True)]
        self.ahead = 0
        if not (self.speaking or self.alone or self.settings.do_sample):
            room = min(self.total - self.known, self.cap - self.generated - 1, self.settings.look_ahead - 1)
            self.ahead = max(room, 0)
        self.result.passes += 1
        ahead = range(self.known - 1, self.known - 1 + self.ahead)
        return ids + [vision] * self.ahead, frames + list(ahead)

    def accept(self, raw: np.ndarray, margins: np.ndarray, finite: np.ndarray) -> None:
        """Takes the decisions of a pass, as far as they confirm what was fed ahead."""
        unfed = len(self.result.tokens) - self.fed
        base, was_ahead = self.fed, self.ahead > 0
        for index in range(self.ahead + 1):
            if not finite[index]:
                self.result.failure = "non_finite"
                return
            is_close = margins[index] < NEAR_TIE_MARGIN
            if is_close and was_ahead:
                self.fed = base + (unfed - 1 + index if index else 0)
                self.alone = True
                return
            self.result.near_ties += bool(is_close and not self.settings.do_sample)
            self._decide(int(raw[index]), float(margins[index]))
            self.fed = base + unfed + index
            self.alone = False
            if self.done or self.result.tokens[-1] != self.actions.vision:
                return

    def _decide(self, raw: int, margin: float) -> None:
        actions, result = self.actions, self.result
        result.raw.append(raw)
        result.margins.append(margin)
        result.frames_given.append(self.known - 1 - self.blind)
        token = raw
        if self.speaking:
            if raw in (actions.vision, actions.answer) or self.spoken > self.settings.max_feedback_length:
                token = actions.end
        elif raw not in (actions.vision, actions.answer):
            token = actions.vision
        result.tokens.append(token)
        if self.speaking and token != actions.end:
            self.spoken += self.settings.loop == "realtime"
        elif token == actions.vision:
            self.known += 1
        elif token == actions.answer:
            self.speaking, self.spoken = True, 0
        else:
            skipped = math.floor(self.spoken / self.settings.inference_speed * self.settings.feats_frequency)
            self.speaking, self.spoken = False, 0
            self.known += skipped
            self.blind += skipped
        result.seen.append(self.known - 2)

    def finish(self) -> StreamResult:
        """Returns the result, with a warning if generation was cut."""
        self.result.known = self.known
        if self.known < self.total + 1 and not self.result.failure:
            self.result.warnings.append(self.cap_name)
        return self.result


def stream(
    model: StreamVlm, requests: Sequence[StreamRequest], settings: StreamSettings, actions: ActionTokens
) -> list[StreamResult]:
    """Runs episodes through the streaming loop, as one batch, and returns their results in order.

    Args:
        model: Loaded Stream-VLM.
        requests: Episodes; their feature maps have one shape [C, H, W].
        settings: The loop; `batch_limit` is the caller's business.
        actions: Ids of the three tokens.

    Raises:
        InputError: Feature maps of different shapes, or a prompt that does not end with `<vision>`.
    """
    plain = [request for request in requests if request.prompt_frames is None]
    if any(not len(request.prompt_ids) or request.prompt_ids[-1] != actions.vision for request in plain):
        raise InputError("a prompt must end with <vision>", field="prompt_ids")
    if len({request.features.shape[1:] for request in requests}) > 1:
        raise InputError("feature maps of one batch differ in shape", field="features")
    rows = [StreamRow(request, settings, actions, model.config.max_positions) for request in requests]
    # Long episodes first: finished ones then gather at the end and drop out of the batch.
    _run(model, sorted(rows, key=lambda row: -row.total))
    return [row.finish() for row in rows]


@torch.inference_mode()
def _run(model: StreamVlm, rows: list[StreamRow]) -> None:
    active = [row for row in rows if not row.done]
    if not active:
        return
    frames = model.project_frames(_padded_features(active))
    longest = max(row.result.prompt_length + row.total for row in active)
    cache = model.new_cache(len(active), longest + active[0].settings.look_ahead)
    while active:
        advance(model, active, frames, cache)
        while active and active[-1].done:
            active.pop()


def advance(model: StreamVlm, rows: list[StreamRow], frames: Frames, cache: KeyValueCache) -> None:
    """Runs one pass over all rows that are not done and takes its decisions.

    Args:
        model: Loaded Stream-VLM.
        rows: Episodes, in the order of the cache's rows.
        frames: Their feature maps, as `project_frames` returns them, at least as many as are known.
        cache: Holds what each row has fed so far.
    """
    starts = [row.fed for row in rows]
    feeds = [([], []) if row.done else row.feed() for row in rows]
    counts = [len(ids) for ids, _ in feeds]
    cache.reserve(max(start + count for start, count in zip(starts, counts, strict=True)))
    step = cached_step(starts, counts, [frame for _, seen in feeds for frame in seen], model.device)
    ids = torch.tensor([token for fed, _ in feeds for token in fed], dtype=torch.int64)
    hidden = model.hidden_states(ids.to(model.device), step, frames, cache)
    _decide_all(model, rows, counts, hidden)


def _padded_features(rows: list[StreamRow]) -> Tensor:
    """Returns the feature maps of all rows, [B, T, C, H, W], zeros behind the shorter ones."""
    shape = rows[0].request.features.shape[1:]
    padded = np.zeros((len(rows), max(row.total for row in rows), *shape), np.float32)
    for target, row in zip(padded, rows, strict=True):
        target[: row.total] = row.request.features
    return torch.from_numpy(padded)


def _decide_all(model: StreamVlm, rows: list[StreamRow], counts: list[int], hidden: Tensor) -> None:
    """Computes the logits of all open decisions at once, brings three numbers of each to the host."""
    waiting = [(row, end) for row, count, end in zip(rows, counts, np.cumsum(counts), strict=True) if count]
    places = np.concatenate([np.arange(end - row.ahead - 1, end) for row, end in waiting])
    logits = model.logits(hidden[torch.from_numpy(places).to(hidden.device)])
    if any(row.request.bias is not None for row, _ in waiting):
        actions = rows[0].actions
        bias = torch.tensor([value for row, _ in waiting for value in _biases(row)], dtype=logits.dtype)
        columns = torch.tensor([actions.vision, actions.answer, actions.end], device=logits.device)
        logits = logits.index_add(1, columns, bias.to(logits.device))
    best = logits.topk(2, dim=-1).values.double()
    chosen = _draw(logits, [row for row, _ in waiting]) if rows[0].settings.do_sample else logits.argmax(dim=-1)
    table = torch.stack([chosen.double(), best[:, 0] - best[:, 1], logits.isfinite().all(dim=-1).double()])
    raw, margins, finite = table.cpu().numpy()
    at = 0
    for row, _ in waiting:
        here = slice(at, at + row.ahead + 1)
        at = here.stop
        row.accept(raw[here], margins[here], finite[here])


def _biases(row: StreamRow) -> list[Sequence[float]]:
    bias = row.request.bias
    return [bias(row.generated + k) if bias else (0.0, 0.0, 0.0) for k in range(row.ahead + 1)]


def _draw(logits: Tensor, rows: list[StreamRow]) -> Tensor:
    """Draws one token per row; the draw depends on the episode's seed and step alone."""
    draws = [np.random.Generator(np.random.Philox(key=row.request.seed, counter=row.generated)) for row in rows]
    uniform = torch.tensor([[draw.random()] for draw in draws], dtype=torch.float64, device=logits.device)
    edges = (logits / rows[0].settings.temperature).softmax(dim=-1).double().cumsum(dim=-1)
    return (edges <= uniform * edges[:, -1:]).sum(dim=-1).clamp(max=logits.shape[-1] - 1)


class Decoder(Protocol):
    """What `extract_feedbacks` needs of a tokenizer."""

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids."""


def extract_feedbacks(
    token_ids: Sequence[int],
    tokenizer: Decoder,
    actions: ActionTokens,
    *,
    feats_frequency: int = 4,
    inference_speed: int = 12,
) -> tuple[list[str], list[float]]:
    """Returns the feedbacks of a token sequence and their times in seconds (`_extract_pred_feedbacks`).

    The clock adds the time of speaking although the published loop does not skip frames; the first feedback
    is two steps early; an empty feedback swallows the time before it. An unfinished last one is dropped.
    """
    ids = [int(token) for token in token_ids]
    ids = ids[ids.index(actions.vision) :] if actions.vision in ids else []
    begins = [place for place, token in enumerate(ids) if token == actions.answer]
    ends = [place for place, token in enumerate(ids) if token == actions.end]
    feedbacks: list[str] = []
    times: list[float] = []
    clock, speaking_time, previous = 0.0, 0.0, 1
    for begin, end in zip(begins, ends, strict=False):
        text = tokenizer.decode(ids[begin + 1 : end])
        if text:
            clock += (begin - previous - 1) / feats_frequency + speaking_time
            feedbacks.append(text)
            times.append(clock)
        speaking_time = (end - begin) / inference_speed if text else 0.0
        previous = end
    return feedbacks, times
