"""A backend without a model: the same question always gets the same answer, in microseconds.

Its default answer plays a gullible judge. It sees the chat as a model does, as one flat text with control
marks, so a mark smuggled into the data opens a turn; and it does what it is told wherever it takes text for an
instruction. Data that stays inside its delimiters it compares by shared words. Its scores mean nothing; it is
there to try whole runs, and prompts against hostile data.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence

from sightline.llm.base import Choices, Finish, Reply, Request, refuse_images

_TURN = re.compile(r"<\|start_header_id\|>(\w+)<\|end_header_id\|>|<\|im_start\|>(\w+)|\n\n(Human|Assistant|System):")
_END = re.compile(r"<\|eot_id\|>|<\|im_end\|>|</s>")
_DATA = re.compile(r"<(\w+)>(.*?)</\1>", re.DOTALL)
_ORDER = re.compile(
    r"\b(?:give|score|rate|output|answer)\b[^.\n]{0,40}?\b([1-5])\b(?!\s*(?:to|-|–)\s*\d)", re.IGNORECASE
)
_OBJECT = re.compile(r"\{[^{}]*score[^{}]*?([1-5])[^{}]*\}", re.IGNORECASE)
_WORD = re.compile(r"[a-z']+")
_LARGEST = 5


def flat_chat(request: Request) -> str:
    """Returns the chat as one text with control marks, as chat templates write it: data are not escaped."""
    turns = (f"<|start_header_id|>{one.role}<|end_header_id|>\n\n{one.text}<|eot_id|>" for one in request.messages)
    return "".join(turns)


def gullible_answer(request: Request) -> str:
    """Returns a judge's JSON: what an instruction in the data demands if it got out, else from shared words."""
    flat = flat_chat(request)
    own_turns = len(request.messages)
    turns = [turn for turn in _TURN.split(_END.sub("\n", flat)) if turn and turn.strip()]
    texts = [turn for turn in turns if turn not in ("system", "user", "assistant", "Human", "Assistant", "System")]
    smuggled = " ".join(texts[own_turns:])
    asked = texts[own_turns - 1] if len(texts) >= own_turns else ""
    data = list(_DATA.finditer(asked))
    escaped = _DATA.sub(" ", asked[data[0].end() :]) if data else ""
    ordered = _ORDER.findall(escaped + smuggled) or _OBJECT.findall(escaped + smuggled)
    if ordered:
        return f'{{"score": {ordered[-1]}}}'
    if len(data) < 2:
        return f'{{"score": {1 + _digest(flat) % _LARGEST}}}'
    wanted, said = (set(_WORD.findall(block[2].lower())) for block in data[-2:])
    shared = len(wanted & said) / len(wanted) if wanted else 0.0
    return f'{{"score": {1 + round((_LARGEST - 1) * shared)}}}'


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:4])


class MockBackend:
    """Answers with a pure function of the request.

    Args:
        fingerprint: What decides the answers besides the request.
        answer: Request to text; plays the gullible judge by default.
    """

    name = "mock"
    takes_images = True

    def __init__(self, *, fingerprint: str = "mock", answer: Callable[[Request], str] = gullible_answer) -> None:
        self.fingerprint = fingerprint
        self.calls = 0
        self._answer = answer

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """See `Backend.generate`; tokens are counted as words."""
        self.calls += len(requests)
        replies = []
        for request in requests:
            words = self._answer(request).split(" ")
            kept = words[: request.sampling.max_new_tokens]
            finish: Finish = "stop" if len(kept) == len(words) else "length"
            replies.append(Reply(request.id, " ".join(kept), finish, len(flat_chat(request).split()), len(kept)))
        return replies

    def score(self, requests: Sequence[Request], continuations: Sequence[str]) -> list[Choices]:
        """See `Backend.score`; values are drawn from the content alone."""
        refuse_images(self.name, requests)
        return [
            Choices(request.id, tuple(-1.0 - _digest(request.key() + text) / 2**32 for text in continuations))
            for request in requests
        ]

    def close(self) -> None:
        """Nothing to free."""
