"""What is asked of a language model and what it answers, the same for every backend.

A request is a chat whose messages are made of typed parts: text, images, frames of a video. Backends answer
with text, or with the log-probabilities of given continuations (the letters of a multiple choice).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np

from sightline.errors import InputError
from sightline.records.files import content_key

Role = Literal["system", "user", "assistant"]
Finish = Literal["stop", "length", "failed"]
NEAR_TIE = 1e-3
"""Two best float32 logits closer than this may change places with the batch, the device or the backend."""

END_OF_TURN = ("<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>")
"""Tokens that end an answer in the chat templates of common models, besides the declared end of sequence."""


@dataclass(frozen=True)
class Text:
    """A piece of text."""

    text: str


@dataclass(frozen=True, eq=False)
class Image:
    """A picture, uint8 RGB [height, width, 3]."""

    pixels: np.ndarray


@dataclass(frozen=True, eq=False)
class Frames:
    """Frames of one video in order, uint8 RGB [frames, height, width, 3], and their times in seconds."""

    pixels: np.ndarray
    times_s: tuple[float, ...]


Part = Text | Image | Frames


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: Role
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, role: Role, *parts: str | Part) -> Message:
        """Builds a message; plain strings become text parts."""
        return cls(role, tuple(Text(part) if isinstance(part, str) else part for part in parts))

    @property
    def text(self) -> str:
        """The text parts, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn.

    Attributes:
        max_new_tokens: Longest answer.
        temperature: 0 is greedy.
        top_k: Only so many likeliest tokens are drawn from; 0 is all.
        top_p: Smallest set of tokens with this probability; read only when drawing.
        seed: Seed of the draw; a request's draws do not depend on what else is in its batch.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Request:
    """One question.

    Attributes:
        id: Name that the reply carries back; it does not change the answer.
        messages: The chat so far; the model writes the next turn.
        sampling: How the answer is drawn.
    """

    id: str
    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)

    @property
    def has_images(self) -> bool:
        """True when any part is a picture or frames."""
        return any(not isinstance(part, Text) for message in self.messages for part in message.parts)

    def key(self) -> str:
        """Returns a content key of everything but the id; pixels count by their digest."""
        turns = [[message.role, [_part_key(part) for part in message.parts]] for message in self.messages]
        sampling = self.sampling
        drawn = [sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed]
        return content_key(turns, sampling.max_new_tokens, drawn if sampling.temperature > 0 else [])


@dataclass(frozen=True)
class Reply:
    """One answer.

    Attributes:
        id: The request's id.
        text: What the model wrote; empty when it failed.
        finish: `stop` (it ended by itself), `length` (it was cut off) or `failed` (there is no answer).
        prompt_tokens, new_tokens: Counts; 0 where the backend does not say.
        near_ties: Greedy choices between logits closer than `NEAR_TIE`; 0 where the backend does not say.
        reason: Why it failed.
    """

    id: str
    text: str
    finish: Finish
    prompt_tokens: int = 0
    new_tokens: int = 0
    near_ties: int = 0
    reason: str = ""

    @classmethod
    def failed(cls, name: str, reason: str) -> Reply:
        """Returns the reply of a request that got no answer."""
        return cls(name, "", "failed", reason=reason)


@dataclass(frozen=True)
class Choices:
    """Log-probabilities of given continuations of one request.

    Attributes:
        id: The request's id.
        log_probabilities: Natural logarithm per continuation, summed over its tokens; None where the backend
            only tells its likeliest tokens and this one is not among them.
    """

    id: str
    log_probabilities: tuple[float | None, ...]

    @property
    def best(self) -> int | None:
        """Position of the likeliest continuation, the first on a tie; None when none is known."""
        known = [index for index, value in enumerate(self.log_probabilities) if value is not None]
        return max(known, key=lambda index: (self.log_probabilities[index], -index)) if known else None


class Backend(Protocol):
    """Whatever answers requests."""

    name: str
    """Kind of backend, e.g. `transformers`."""
    fingerprint: str
    """What decides its answers besides the request: model files, precision, revision. Part of cache keys."""
    takes_images: bool

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Returns one reply per request, in order; a request that cannot be answered has `finish` `failed`."""

    def score(self, requests: Sequence[Request], continuations: Sequence[str]) -> list[Choices]:
        """Returns the log-probability of each continuation after each request."""

    def close(self) -> None:
        """Frees what the backend holds."""


def refuse_images(backend: str, requests: Sequence[Request]) -> None:
    """Stops when a request shows pictures to a backend that cannot see.

    Raises:
        InputError: Names the first such request.
    """
    for request in requests:
        if request.has_images:
            raise InputError(
                f"the backend {backend} reads text only", item=request.id, mend="choose a model that takes images"
            )


def with_sampling(request: Request, **changes: Any) -> Request:
    """Returns the request with other sampling settings."""
    return replace(request, sampling=replace(request.sampling, **changes))


def _part_key(part: Part) -> Any:
    if isinstance(part, Text):
        return part.text
    digest = hashlib.sha256(np.ascontiguousarray(part.pixels).tobytes()).hexdigest()
    times = list(part.times_s) if isinstance(part, Frames) else None
    return {"shape": list(part.pixels.shape), "sha256": digest, "times_s": times}
