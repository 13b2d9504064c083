"""Any server that speaks the OpenAI chat interface: vLLM, transformers serve, llama.cpp, a provider.

Timeouts, broken connections, 429, 5xx and bodies that make no sense are tried again with growing pauses; what still
fails is a failed reply with its reason, and so is a prompt that the model's context cannot hold. Any other refusal
(wrong key, unknown model) stops at once.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from sightline.errors import InputError
from sightline.llm.base import Choices, Reply, Request
from sightline.llm.pictures import openai_turns

log = logging.getLogger(__name__)
_SHOWN = 200
_TOP = 20  # most alternatives the interface tells
# How servers say that a prompt does not fit; the interface has a code for it that not all of them give.
_TOO_LONG = ("context_length_exceeded", "context length", "maximum model length", "context size")


class _TryAgain(Exception):
    """A failure that may pass; `pause_s` is how long the server asked to wait."""

    def __init__(self, reason: str, pause_s: float | None = None) -> None:
        super().__init__(reason)
        self.pause_s = pause_s


class _TooLong(Exception):
    """The prompt does not fit into the model's context; other requests may."""


class OpenAiBackend:
    """A client of `<url>/chat/completions`.

    Args:
        url: Base address, e.g. `http://127.0.0.1:8000/v1`.
        model: Model name the server knows.
        fingerprint: What decides the answers besides the request.
        api_key_file: File whose first line is the key; None sends none.
        timeout_s: Longest wait for one answer.
        attempts: Tries per request.
        concurrency: Requests in flight at once.
        longest_pause_s: Longest pause between tries.

    Raises:
        InputError: The key file cannot be read.
    """

    name = "openai"
    takes_images = True

    def __init__(
        self,
        url: str,
        model: str,
        *,
        fingerprint: str,
        api_key_file: str | Path | None = None,
        timeout_s: float = 120.0,
        attempts: int = 5,
        concurrency: int = 8,
        longest_pause_s: float = 30.0,
    ) -> None:
        self.fingerprint = fingerprint
        self._model, self._url = model, url.rstrip("/")
        self._attempts, self._concurrency, self._longest_pause_s = attempts, concurrency, longest_pause_s
        headers = {"Authorization": f"Bearer {_read_key(api_key_file)}"} if api_key_file else {}
        self._client = httpx.Client(headers=headers, timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, 10.0)))

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """See `Backend.generate`.

        Raises:
            InputError: The server refuses the request itself (4xx other than 408, 409, 429).
        """
        return self._each(self._answer, requests)

    def score(self, requests: Sequence[Request], continuations: Sequence[str]) -> list[Choices]:
        """See `Backend.score`; continuations must be single tokens, as the letters of a choice are.

        Raises:
            InputError: As `generate`, or the server does not tell log-probabilities.
        """
        return self._each(lambda request: self._choose(request, continuations), requests)

    def _each(self, call: Any, requests: Sequence[Request]) -> list[Any]:
        with ThreadPoolExecutor(max(1, min(self._concurrency, len(requests)))) as pool:
            return list(pool.map(call, requests))

    def _answer(self, request: Request) -> Reply:
        try:
            body = self._post(self._payload(request), _reply_parts)
        except (_TryAgain, _TooLong) as failure:
            return Reply.failed(request.id, str(failure))
        text, finish, usage = body
        return Reply(
            id=request.id,
            text=text,
            finish="length" if finish == "length" else "stop",
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            new_tokens=int(usage.get("completion_tokens") or 0),
        )

    def _choose(self, request: Request, continuations: Sequence[str]) -> Choices:
        payload = self._payload(request) | {"max_tokens": 1, "temperature": 0.0, "logprobs": True, "top_logprobs": _TOP}
        try:
            top = self._post(payload, _first_alternatives)
        except (_TryAgain, _TooLong) as failure:
            raise InputError(
                f"no log-probabilities: {failure}", file=self._url, item=request.id,
                mend="use a server that returns logprobs, or the backend transformers",
            ) from None  # fmt: skip
        known: dict[str, float] = {}
        for token, value in top:
            known.setdefault(token.strip(), value)
        return Choices(request.id, tuple(known.get(text.strip()) for text in continuations))

    def _payload(self, request: Request) -> dict[str, Any]:
        sampling = request.sampling
        drawn = {"top_p": sampling.top_p, "seed": sampling.seed} if sampling.temperature > 0 else {}
        if sampling.temperature > 0 and sampling.top_k:  # not of the interface itself, but vLLM and others know it
            drawn["top_k"] = sampling.top_k
        return {
            "model": self._model,
            "messages": openai_turns(request.messages),
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "stream": False,
            **drawn,
        }

    def _post(self, payload: dict[str, Any], read: Any) -> Any:
        def pause(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = getattr(error, "pause_s", None)
            drawn = wait_random_exponential(multiplier=0.5, max=self._longest_pause_s)(state)
            return min(asked, self._longest_pause_s) if asked is not None else drawn

        tries = Retrying(
            stop=stop_after_attempt(self._attempts), wait=pause, retry=retry_if_exception_type(_TryAgain), reraise=True
        )
        return tries(self._post_once, payload, read)

    def _post_once(self, payload: dict[str, Any], read: Any) -> Any:
        try:
            response = self._client.post(f"{self._url}/chat/completions", json=payload)
        except httpx.TimeoutException:
            raise _TryAgain(f"no answer within {self._client.timeout.read:g} s") from None
        except httpx.TransportError as error:
            raise _TryAgain(f"the connection failed ({error})") from None
        status, shown = response.status_code, " ".join(response.text.split())[:_SHOWN]
        if status in (408, 409, 429) or status >= 500:
            raise _TryAgain(f"status {status}: {shown}", _retry_after(response))
        if status in (400, 413, 422) and any(words in response.text.lower() for words in _TOO_LONG):
            raise _TooLong(f"the prompt is too long: {shown}")
        if status >= 300:
            raise InputError(
                f"the server refuses the request with status {status}: {shown}",
                file=self._url, item=f"model {self._model}", mend="correct url, model or api_key_file of the judge",
            )  # fmt: skip
        try:
            return read(response.json())
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise _TryAgain(f"the answer is not a chat completion: {shown}") from None

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()


def _read_key(path: str | Path) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").splitlines()[0].strip()
    except (OSError, IndexError, UnicodeDecodeError):
        raise InputError("no key can be read", file=path, mend="put the key on the first line") from None


def _retry_after(response: httpx.Response) -> float | None:
    text = response.headers.get("retry-after", "")
    return float(text) if text.replace(".", "", 1).isdigit() else None


def _reply_parts(body: Any) -> tuple[str, str, dict[str, Any]]:
    choice = body["choices"][0]
    text = choice["message"]["content"]
    if not isinstance(text, str):
        raise TypeError("content is no text")
    return text, choice.get("finish_reason") or "", body.get("usage") or {}


def _first_alternatives(body: Any) -> list[tuple[str, float]]:
    first = body["choices"][0]["logprobs"]["content"][0]
    return [(str(entry["token"]), float(entry["logprob"])) for entry in first["top_logprobs"]]
