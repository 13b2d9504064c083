"""The client of a vLLM server, and what the offline engine refuses; tests/vllm asks vLLM itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sightline.config.judges import JudgeCard
from sightline.errors import BackendError, CheckpointError, DeviceError, InputError
from sightline.llm.backend_vllm import VllmBackend
from sightline.llm.backends import fingerprint, open_backend
from sightline.llm.base import Image, Message, Request, Sampling
from sightline.records.files import write_json

from tests.unit.chat_server import ChatServer

ROOT = Path(__file__).parents[2]
SERVER: dict[str, Any] = {
    "backend": "vllm", "model": "tiny", "revision": "1", "dtype": "float32", "api_key_file": None, "timeout_s": 5.0,
    "attempts": 2, "batch_size": 2, "gpus": 0,
}  # fmt: skip


def ask(name: str = "a", text: str = "one two three", **sampling: Any) -> Request:
    return Request(name, (Message.of("user", text),), Sampling(**sampling))


def test_a_url_makes_it_a_server() -> None:
    with ChatServer(lambda payload: payload["model"]) as server:
        settings = SERVER | {"url": server.url}
        backend = open_backend(settings, None, "cpu", "f")
        reply = backend.generate([ask(temperature=0.5, top_k=7)])[0]
    assert (backend.name, reply.text) == ("vllm", "tiny")
    assert server.requests[0]["top_k"] == 7
    assert fingerprint(settings) == fingerprint(settings | {"url": "http://elsewhere/v1", "dtype": "bfloat16"})
    assert fingerprint(settings) != fingerprint(settings | {"revision": "2"})


def test_a_server_without_the_model_is_refused_before_anything_is_asked() -> None:
    with ChatServer() as server:
        server.models = ["big", "bigger"]
        with pytest.raises(InputError, match="it serves big, bigger"):
            open_backend(SERVER | {"url": server.url}, None, "cpu", "f")
        assert server.requests == []
        with pytest.raises(BackendError, match="no vLLM server"):
            open_backend(SERVER | {"url": server.url.replace("/v1", "/v2") + "\x00"}, None, "cpu", "f")
    with pytest.raises(BackendError, match="no vLLM server"):
        open_backend(SERVER | {"url": server.url}, None, "cpu", "f")


@pytest.mark.parametrize(
    "body",
    [
        '{"error": {"message": "This model\'s maximum context length is 1024 tokens.", "code": 400}}',
        '{"error": {"message": "no", "code": "context_length_exceeded"}}',
    ],
)
def test_a_prompt_that_is_too_long_fails_alone(body: str) -> None:
    with ChatServer(lambda payload: "fine") as server:
        server.script = [{"status": 400, "body": body}]
        backend = open_backend(SERVER | {"url": server.url, "batch_size": 1}, None, "cpu", "f")
        long, short = backend.generate([ask("long"), ask("short")])
    assert (long.finish, short.text) == ("failed", "fine")
    assert "too long" in long.reason


def test_a_card_is_either_offline_or_a_server() -> None:
    common = {"title": "t", "backend": "vllm", "prompt": "coaching"}
    weights = {"asset": "a", "file": "."}
    assert JudgeCard(**common, weights=weights).url is None
    assert JudgeCard(**common, url="http://127.0.0.1:8000/v1", model="m").weights is None
    for wrong in ({}, {"weights": weights, "url": "u", "model": "m"}, {"url": "u"}):
        with pytest.raises(ValueError, match="needs"):
            JudgeCard(**common, **wrong)


class Tokenizer:
    """One token per word; 0 ends a turn."""

    chat_template = "{{ messages }}"
    all_special_ids = (0,)

    def get_vocab(self) -> dict[str, int]:
        return {"<|eot_id|>": 0}

    def apply_chat_template(self, turns: list[dict[str, str]], **_: Any) -> list[int]:
        return list(range(1, 1 + sum(len(turn["content"].split()) for turn in turns)))

    def decode(self, tokens: list[int], **_: Any) -> str:
        return " ".join(map(str, tokens))


class Engine:
    """Answers 7 and the end of the turn; `trouble` is raised at start or when asked."""

    trouble: dict[str, Exception] = {}  # noqa: RUF012 - set by each test

    def __init__(self, **settings: Any) -> None:
        if "start" in self.trouble:
            raise self.trouble["start"]
        self.model_config = SimpleNamespace(max_model_len=20)
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=lambda: None))

    def get_tokenizer(self) -> Tokenizer:
        return Tokenizer()

    def generate(self, prompts: list[dict[str, list[int]]], parameters: Any, use_tqdm: bool) -> list[Any]:
        if "generate" in self.trouble:
            raise self.trouble["generate"]
        steps = [
            {7: SimpleNamespace(logprob=-0.5), 8: SimpleNamespace(logprob=-0.5005)},
            {0: SimpleNamespace(logprob=0)},
        ]
        answer = SimpleNamespace(finish_reason="stop", token_ids=[7, 0], logprobs=steps)
        return [SimpleNamespace(outputs=[answer], prompt_token_ids=one["prompt_token_ids"]) for one in prompts]


class EngineDeadError(Exception):
    pass


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module `vllm` whose engine behaves as a test asks."""
    names = ("vllm", "vllm.platforms", "vllm.v1", "vllm.v1.engine", "vllm.v1.engine.exceptions")
    modules = {name: ModuleType(name) for name in names}
    modules["vllm"].__dict__.update(LLM=Engine, SamplingParams=SimpleNamespace)
    modules["vllm.platforms"].__dict__["current_platform"] = SimpleNamespace(device_type="cuda")
    errors = {"EngineDeadError": EngineDeadError, "EngineGenerateError": EngineDeadError}
    modules["vllm.v1.engine.exceptions"].__dict__.update(errors)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(Engine, "trouble", {})
    return modules["vllm"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_json(tmp_path / "config.json", {"model_type": "llama"})
    return tmp_path


def test_replies_count_tokens_and_near_ties(stand_in: ModuleType, folder: Path) -> None:
    settings = SERVER | {"url": None}
    backend = open_backend(settings, folder, "cuda", "f")
    good, long = backend.generate([ask(max_new_tokens=10), ask("long", "word " * 11, max_new_tokens=10)])
    assert (good.text, good.finish, good.prompt_tokens, good.new_tokens, good.near_ties) == ("7", "stop", 3, 1, 1)
    assert (long.finish, long.reason) == ("failed", "the prompt has 11 tokens, the model has room for 10")
    backend.close()


def test_no_device_and_no_vllm_are_said(stand_in: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sys.modules["vllm.platforms"].current_platform.device_type = ""
    with pytest.raises(DeviceError, match="this build of it needs a GPU"):
        VllmBackend(folder, fingerprint="f")
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(DeviceError, match="cannot be imported"):
        VllmBackend(folder, fingerprint="f")


@pytest.mark.parametrize(
    ("trouble", "kind", "words"),
    [
        (
            ValueError(
                "1 validation error for ModelConfig\n  Value error, Model architectures ['X'] are not supported"
            ),
            CheckpointError,
            r"architectures \['X'\] are not supported",
        ),
        (RuntimeError("Engine core initialization failed."), BackendError, "did not start"),
    ],
)
def test_a_model_that_vllm_does_not_run_is_refused(
    stand_in: ModuleType, folder: Path, trouble: Exception, kind: type[Exception], words: str
) -> None:
    Engine.trouble = {"start": trouble}
    with pytest.raises(kind, match=words) as caught:
        VllmBackend(folder, fingerprint="f")
    assert "transformers" in str(caught.value)


def test_folders_pictures_and_dead_engines_are_refused(stand_in: ModuleType, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        VllmBackend(tmp_path / "nothing", fingerprint="f")
    backend = VllmBackend(folder, fingerprint="f")
    picture = Request("seen", (Message.of("user", Image(np.zeros((2, 2, 3), np.uint8))),))
    with pytest.raises(InputError, match="reads text only"):
        backend.generate([picture])
    Engine.trouble = {"generate": EngineDeadError("out of memory")}
    with pytest.raises(BackendError, match=r"engine died \(out of memory\)"):
        backend.generate([ask()])


def test_a_spawned_process_leaves_the_main_script_alone(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        "import multiprocessing, sys\n"
        f"sys.path.insert(0, {str(ROOT / 'lib')!r})\n"
        "from sightline.llm.main_script import main_script_left_alone\n"
        "print('main', flush=True)\n"
        "with main_script_left_alone():\n"
        "    process = multiprocessing.get_context('spawn').Process(target=print, args=('child',))\n"
        "    process.start()\n"
        "process.join()\n"
        "print(__file__ == sys.argv[0], process.exitcode)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:3] == ["main", "child", "True 0"]
