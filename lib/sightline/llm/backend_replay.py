"""Answers from a file: what another backend once said, found again by the content of the request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sightline.errors import InputError
from sightline.llm.base import Choices, Finish, Reply, Request
from sightline.records.rows import read_lines, write_lines


def write_replies(target: str | Path, requests: Sequence[Request], replies: Sequence[Reply]) -> None:
    """Writes a file that `ReplayBackend` reads: one JSON line per request, failed ones left out."""
    rows = [
        {
            "key": request.key(),
            "text": reply.text,
            "finish": reply.finish,
            "prompt_tokens": reply.prompt_tokens,
            "new_tokens": reply.new_tokens,
        }
        for request, reply in zip(requests, replies, strict=True)
        if reply.finish != "failed"
    ]
    write_lines(target, sorted(rows, key=lambda row: str(row["key"])))


class ReplayBackend:
    """Reads JSON lines `{"key": ..., "text": ...}`; a request that is not there fails.

    Raises:
        InputError: The file is missing, damaged, or a line lacks key or text.
    """

    name = "replay"
    takes_images = True

    def __init__(self, path: str | Path, *, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self._replies: dict[str, dict] = {}
        for number, row in read_lines(path):
            if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in ("key", "text")):
                raise InputError("a reply needs `key` and `text`", file=path, item=f"line {number}", mend="correct it")
            self._replies[row["key"]] = row

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """See `Backend.generate`."""
        return [self._find(request) for request in requests]

    def _find(self, request: Request) -> Reply:
        row = self._replies.get(request.key())
        if row is None:
            return Reply.failed(request.id, f"no recorded reply has the key {request.key()}")
        finish: Finish = "length" if row.get("finish") == "length" else "stop"
        return Reply(request.id, row["text"], finish, row.get("prompt_tokens", 0), row.get("new_tokens", 0))

    def score(self, requests: Sequence[Request], continuations: Sequence[str]) -> list[Choices]:
        """Log-probabilities are not recorded.

        Raises:
            InputError: Always.
        """
        raise InputError("recorded replies hold no log-probabilities", mend="use another backend")

    def close(self) -> None:
        """Nothing to free."""
