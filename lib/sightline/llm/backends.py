"""Opening a backend by its name; each is imported only when it is asked for.

A room with a model of its own registers an opener, and requests reach it like any other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sightline.errors import CheckpointError, ConfigError, InputError
from sightline.llm.base import Backend
from sightline.records.files import content_key, read_json, sha256_file, write_json

log = logging.getLogger(__name__)
Opener = Callable[[Mapping[str, Any], Path | None, str, str], Backend]
"""(settings, model folder, device, fingerprint) to an open backend."""

_MODEL_FILES = ("*.safetensors", "*.bin", "*.json", "*.jinja", "tokenizer.model")
_DECIDES: dict[str, tuple[str, ...]] = {
    "mock": (),
    "replay": (),
    "openai": ("model", "revision"),
    "transformers": ("dtype",),
    "vllm": ("dtype",),
}


def _open_mock(settings: Mapping[str, Any], folder: Path | None, device: str, fingerprint: str) -> Backend:
    from sightline.llm.backend_mock import MockBackend

    return MockBackend(fingerprint=fingerprint)


def _open_replay(settings: Mapping[str, Any], folder: Path | None, device: str, fingerprint: str) -> Backend:
    from sightline.llm.backend_replay import ReplayBackend

    return ReplayBackend(settings["replies"], fingerprint=fingerprint)


def _client(kind: Any, settings: Mapping[str, Any], fingerprint: str) -> Any:
    return kind(
        settings["url"],
        settings["model"],
        fingerprint=fingerprint,
        api_key_file=settings["api_key_file"],
        timeout_s=settings["timeout_s"],
        attempts=settings["attempts"],
        concurrency=settings["batch_size"],
    )


def _open_openai(settings: Mapping[str, Any], folder: Path | None, device: str, fingerprint: str) -> Backend:
    from sightline.llm.backend_openai import OpenAiBackend

    return _client(OpenAiBackend, settings, fingerprint)


def _open_transformers(settings: Mapping[str, Any], folder: Path | None, device: str, fingerprint: str) -> Backend:
    from sightline.llm.backend_transformers import TransformersBackend

    return TransformersBackend(
        _needed(folder),
        fingerprint=fingerprint,
        device=device,
        dtype=settings["dtype"],
        batch_size=settings["batch_size"],
    )


def _open_vllm(settings: Mapping[str, Any], folder: Path | None, device: str, fingerprint: str) -> Backend:
    if settings.get("url"):
        from sightline.llm.backend_vllm_server import VllmServer

        server = _client(VllmServer, settings, fingerprint)
        server.check_model()
        return server
    from sightline.llm.backend_vllm import VllmBackend

    return VllmBackend(
        _needed(folder), fingerprint=fingerprint, dtype=settings["dtype"], tensor_parallel=max(1, settings["gpus"])
    )


_OPENERS: dict[str, Opener] = {
    "mock": _open_mock,
    "replay": _open_replay,
    "openai": _open_openai,
    "transformers": _open_transformers,
    "vllm": _open_vllm,
}


def _needed(folder: Path | None) -> Path:
    if folder is None:
        raise ConfigError(["the backend needs a model folder; set `weights` of the judge"])
    return folder


def register_backend(name: str, opener: Opener, decides: tuple[str, ...] = ()) -> None:
    """Adds a backend, e.g. a room's own model.

    Args:
        name: Name to ask for it by.
        opener: Opens it.
        decides: Settings that decide its answers.

    Raises:
        ValueError: The name is taken by another opener.
    """
    if _OPENERS.get(name, opener) is not opener:
        raise ValueError(f"there is already a backend {name}")
    _OPENERS[name], _DECIDES[name] = opener, decides


def fingerprint(
    settings: Mapping[str, Any], folder: Path | None = None, digest: Callable[[Path], str] = sha256_file
) -> str:
    """Returns what decides a backend's answers besides the request; reads files but loads no model.

    Where a server stands does not count, so it may move; `revision` says that it answers differently now.

    Args:
        settings: `backend` and its settings.
        folder: Model folder, if it has one; every file of weights, tokenizer and settings counts by its digest.
        digest: Gives the digest of a file; see `RememberedDigests` for large ones.

    Raises:
        CheckpointError: The folder holds none.
        InputError: The file of recorded replies is missing.
    """
    name = settings["backend"]
    served = name == "vllm" and settings.get("url")  # what runs there is known by name and revision alone
    chosen = {key: settings.get(key) for key in _DECIDES["openai" if served else name]}
    if name == "replay":
        if not Path(settings["replies"]).is_file():
            raise InputError("file not found", file=settings["replies"], mend="correct `replies` of the judge")
        chosen["replies"] = sha256_file(settings["replies"])
    if folder is not None:
        files = sorted({path for pattern in _MODEL_FILES for path in folder.glob(pattern)})
        if not files:
            raise CheckpointError("no model files here", file=folder, mend="give a folder in the Hugging Face layout")
        chosen["files"] = {path.name: digest(path) for path in files}
    return content_key("backend", name, chosen)


class RememberedDigests:
    """SHA-256 of files, remembered by path, size and time of change, so that 100 GB are read once.

    Args:
        memory: JSON file to remember in; a damaged one is written anew.
    """

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        try:
            self._known: dict[str, str] = read_json(memory) if memory.exists() else {}
        except InputError as error:
            log.warning("%s; the files are read again", error)
            self._known = {}

    def __call__(self, path: Path) -> str:
        """Returns the digest of a file as it is now."""
        state = path.stat()
        key = f"{path.resolve()} {state.st_size} {state.st_mtime_ns}"
        if key not in self._known:
            self._known[key] = sha256_file(path)
            write_json(self._memory, self._known)
        return self._known[key]


def open_backend(settings: Mapping[str, Any], folder: Path | None, device: str, print_of_it: str) -> Backend:
    """Opens a backend.

    Args:
        settings: `backend` and its settings.
        folder: Model folder, if it has one.
        device: `cpu` or `cuda`.
        print_of_it: Its fingerprint.

    Raises:
        ConfigError: No backend has this name.
    """
    if settings["backend"] not in _OPENERS:
        raise ConfigError([f"backend {settings['backend']} is unknown. Known: {', '.join(sorted(_OPENERS))}"])
    return _OPENERS[settings["backend"]](settings, folder, device, print_of_it)
