"""Backends behind one interface: a model in the process, the mock, recorded replies, a real server."""

from __future__ import annotations

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
import torch
from sightline.errors import CheckpointError, ConfigError, DeviceError, InputError
from sightline.llm.backend_mock import MockBackend
from sightline.llm.backend_openai import OpenAiBackend
from sightline.llm.backend_replay import ReplayBackend, write_replies
from sightline.llm.backend_transformers import TransformersBackend
from sightline.llm.backend_vllm_server import VllmServer
from sightline.llm.backends import RememberedDigests, fingerprint, open_backend, register_backend
from sightline.llm.base import Frames, Image, Message, Request, Sampling

from tests.unit.tiny_chat import make_tiny_chat, make_tiny_seeing_chat

SETTINGS: dict[str, Any] = {"backend": "transformers", "dtype": "float32", "batch_size": 4, "gpus": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_chat(tmp_path_factory.mktemp("tiny") / "model")


def chats(count: int = 5, **sampling: Any) -> list[Request]:
    system = Message.of("system", "You compare what a coach said with the reference.")
    return [
        Request(str(n), (system, Message.of("user", "Lift both arms" + " and breathe" * n)), Sampling(**sampling))
        for n in range(count)
    ]


def test_batches_and_prefixes_change_no_token(folder: Path) -> None:
    asked = chats(max_new_tokens=8)
    backend = TransformersBackend(folder, fingerprint="f", batch_size=4)
    together = backend.generate(asked)
    alone = [TransformersBackend(folder, fingerprint="f", share_prefix=False).generate([one])[0] for one in asked]
    assert together == alone
    assert len({reply.text for reply in together}) > 1
    assert [reply.id for reply in together] == [request.id for request in asked]
    ids = backend.prompt_ids(asked[0])
    assert together[0].prompt_tokens == len(ids)
    with torch.inference_mode():
        wanted = backend._model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=8, pad_token_id=0)
    kept = [token for token in wanted[0, len(ids) :].tolist() if token not in backend._decoder.stop_ids]
    assert backend._tokenizer.decode(kept, skip_special_tokens=True) == together[0].text


def test_letters_are_scored(folder: Path) -> None:
    backend = TransformersBackend(folder, fingerprint="f")
    found = backend.score(chats(2), ["A", "B", "Great job"])
    assert all(value < 0 for one in found for value in one.log_probabilities if value is not None)
    assert found[0].log_probabilities != found[1].log_probabilities
    assert found[0].best in (0, 1, 2)


def test_a_prompt_that_is_too_long_fails_alone(folder: Path) -> None:
    long = Request("long", (Message.of("user", "breathe " * 2000),), Sampling(max_new_tokens=4))
    replies = TransformersBackend(folder, fingerprint="f").generate([*chats(1, max_new_tokens=4), long])
    assert replies[0].finish != "failed"
    assert replies[1].finish == "failed"
    assert "room for 1020" in replies[1].reason


def test_pictures_are_refused_by_a_text_model(folder: Path) -> None:
    request = Request("a", (Message.of("user", Image(np.zeros((2, 2, 3), np.uint8))),))
    with pytest.raises(InputError, match="text only"):
        TransformersBackend(folder, fingerprint="f").generate([request])


def test_a_seeing_model_answers_to_what_it_is_shown(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    noise, film = draw.integers(0, 256, (20, 24, 3), np.uint8), draw.integers(0, 256, (3, 20, 20, 3), np.uint8)
    sampling = Sampling(max_new_tokens=6)

    def shown(name: str, *parts: Any) -> Request:
        return Request(name, (Message.of("user", "Keep your back", *parts, "straight"),), sampling)

    asked = [
        shown("a", Image(noise)), shown("b", Image(np.zeros_like(noise))), shown("c"), shown("d", Image(noise)),
        shown("e", Frames(film, (0.0, 0.5, 1.0))),
    ]  # fmt: skip
    backend = TransformersBackend(make_tiny_seeing_chat(tmp_path / "seeing"), fingerprint="f")
    assert backend.takes_images
    replies = backend.generate(asked)
    assert [reply.id for reply in replies] == list("abcde")
    assert replies[0].text == replies[3].text != replies[1].text
    tokens = {reply.id: reply.prompt_tokens for reply in replies}
    assert tokens["a"] == tokens["b"] > tokens["c"]
    assert tokens["e"] == tokens["a"] + 2 * 4  # two pictures more, 2 x 2 patches each


def test_folders_that_are_no_chat_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model"):
        TransformersBackend(tmp_path, fingerprint="f")
    with pytest.raises(CheckpointError, match="chat template"):
        TransformersBackend(make_tiny_chat(tmp_path / "base", template=False), fingerprint="f")


def test_the_fingerprint_knows_weights_tokenizer_and_precision(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    first = fingerprint(SETTINGS, folder)
    assert fingerprint(SETTINGS, copy) == first
    assert fingerprint({**SETTINGS, "batch_size": 9}, folder) == first
    assert fingerprint({**SETTINGS, "dtype": "bfloat16"}, folder) != first
    (copy / "tokenizer_config.json").write_text("{}")
    assert fingerprint(SETTINGS, copy) != first
    with pytest.raises(CheckpointError, match="no model files"):
        fingerprint(SETTINGS, tmp_path)
    server = {"backend": "openai", "model": "m", "revision": "1", "url": "http://a/v1"}
    assert fingerprint(server) == fingerprint({**server, "url": "http://b/v1"})
    assert fingerprint(server) != fingerprint({**server, "revision": "2"})


def test_large_files_are_read_once(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    memory, weights = tmp_path / "digests.json", tmp_path / "copy" / "model.safetensors"
    first = fingerprint(SETTINGS, copy, RememberedDigests(memory))
    assert first == fingerprint(SETTINGS, copy)
    state = weights.stat()
    weights.write_bytes(bytes(state.st_size))
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert fingerprint(SETTINGS, copy, RememberedDigests(memory)) == first  # not read again
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert fingerprint(SETTINGS, copy, RememberedDigests(memory)) == fingerprint(SETTINGS, copy) != first
    memory.write_text("{torn")
    assert fingerprint(SETTINGS, copy, RememberedDigests(memory)) == fingerprint(SETTINGS, copy)


def test_the_mock_answers_the_same_for_ever() -> None:
    asked = chats(6)
    first, second = MockBackend(), MockBackend()
    assert first.generate(asked) == list(reversed(second.generate(list(reversed(asked)))))
    assert first.calls == 6
    assert first.score(asked, ["A", "B"]) == second.score(asked, ["A", "B"])
    assert (
        MockBackend(answer=lambda request: "one two three").generate(chats(1, max_new_tokens=2))[0].finish == "length"
    )


def test_recorded_replies_are_found_by_content(tmp_path: Path) -> None:
    asked = chats(4)
    replies = MockBackend().generate(asked)
    write_replies(tmp_path / "replies.jsonl", asked[:3], replies[:3])
    settings = {"backend": "replay", "replies": str(tmp_path / "replies.jsonl")}
    backend = open_backend(settings, None, "cpu", fingerprint(settings))
    renamed = [Request(f"x{one.id}", one.messages, one.sampling) for one in asked]
    found = backend.generate(renamed)
    assert [one.text for one in found[:3]] == [one.text for one in replies[:3]]
    assert found[3].finish == "failed"
    with pytest.raises(InputError):
        backend.score(asked, ["A"])
    (tmp_path / "bad.jsonl").write_text('{"key": "x"}\n')
    with pytest.raises(InputError, match="line 1"):
        ReplayBackend(tmp_path / "bad.jsonl", fingerprint="f")
    with pytest.raises(InputError, match="not found"):
        fingerprint({"backend": "replay", "replies": str(tmp_path / "none")})


def test_a_room_registers_a_model_of_its_own() -> None:
    register_backend("own_model", _open_own, ("size",))
    settings = {"backend": "own_model", "size": 3}
    assert open_backend(settings, None, "cpu", "f").generate(chats(1))[0].text == "own"
    assert fingerprint(settings) != fingerprint({**settings, "size": 4})
    with pytest.raises(ValueError, match="already"):
        register_backend("own_model", lambda *_: MockBackend())
    with pytest.raises(ConfigError, match="unknown"):
        open_backend({"backend": "nobody"}, None, "cpu", "f")


def _open_own(*_: Any) -> MockBackend:
    return MockBackend(answer=lambda request: "own")


def test_vllm_says_where_it_runs(folder: Path) -> None:
    with pytest.raises(DeviceError, match="vLLM cannot be imported"):
        open_backend({**SETTINGS, "backend": "vllm"}, folder, "cpu", "f")


@pytest.fixture(scope="module")
def served(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`transformers serve` with the tiny model on a free port of loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("transformers")
    log = tmp_path_factory.mktemp("served") / "log"
    with open(log, "w") as stream:
        process = subprocess.Popen(
            [program, "serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu",
             "--dtype", "float32"],
            stdout=stream, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        _wait_for(f"http://127.0.0.1:{port}", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(20)


def _wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(f"the server did not come up: {log.read_text()[-3000:]}")


def test_a_real_server_says_what_the_model_in_the_process_says(served: str, folder: Path) -> None:
    asked = chats(3, max_new_tokens=8)
    backend = OpenAiBackend(served, str(folder), fingerprint="f", timeout_s=60, attempts=2, concurrency=1)
    found = backend.generate(asked)
    backend.close()
    wanted = TransformersBackend(folder, fingerprint="f").generate(asked)
    assert [reply.reason for reply in found] == ["", "", ""]
    assert any(reply.text for reply in found)
    assert [reply.text.strip() for reply in found] == [reply.text.strip() for reply in wanted]
    assert [reply.prompt_tokens for reply in found] == [reply.prompt_tokens for reply in wanted]


def test_a_real_server_takes_what_a_vllm_server_is_sent(served: str, folder: Path) -> None:
    backend = VllmServer(served, str(folder), fingerprint="f", timeout_s=60, attempts=2, concurrency=3)
    asked = chats(6, max_new_tokens=5)
    found = backend.generate(asked)
    wanted = TransformersBackend(folder, fingerprint="f").generate(asked)
    assert [reply.text.strip() for reply in found] == [reply.text.strip() for reply in wanted]
    assert [reply.finish for reply in found] == [reply.finish for reply in wanted]
    drawn = backend.generate(chats(2, max_new_tokens=5, temperature=0.8, top_p=0.9, seed=3))
    assert [reply.reason for reply in drawn] == ["", ""]
    backend.close()


def test_a_real_server_refuses_another_model(served: str) -> None:
    backend = OpenAiBackend(served, "no_such_model", fingerprint="f", timeout_s=60, attempts=2)
    with pytest.raises(InputError, match="refuses"):
        backend.generate(chats(1, max_new_tokens=2))
