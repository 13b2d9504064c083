"""The client of chat servers: what is sent, what is tried again, what fails and how."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from sightline.errors import InputError
from sightline.llm.backend_openai import OpenAiBackend
from sightline.llm.base import Frames, Image, Message, Request, Sampling, Text

from tests.unit.chat_server import ChatServer, completion


def client(server: ChatServer, **changed: Any) -> OpenAiBackend:
    given = {"fingerprint": "f", "timeout_s": 5.0, "attempts": 3, "longest_pause_s": 0.01, **changed}
    return OpenAiBackend(server.url, "tiny", **given)


def ask(name: str = "a", text: str = "hello", **sampling: Any) -> Request:
    return Request(name, (Message.of("system", "be short"), Message.of("user", text)), Sampling(**sampling))


def test_the_request_is_sent_as_it_stands_and_the_reply_comes_back() -> None:
    with ChatServer(lambda payload: payload["messages"][-1]["content"][::-1]) as server:
        replies = client(server).generate([ask(str(n), f"text {n}", max_new_tokens=9) for n in range(5)])
    assert [reply.text for reply in replies] == [f"{n} txet" for n in range(5)]
    assert [reply.id for reply in replies] == list("01234")
    assert (replies[0].prompt_tokens, replies[0].new_tokens, replies[0].finish) == (7, 3, "stop")
    sent = server.requests[0]
    assert (sent["model"], sent["max_tokens"], sent["temperature"]) == ("tiny", 9, 0.0)
    assert "seed" not in sent
    assert sent["messages"][0] == {"role": "system", "content": "be short"}


def test_draws_carry_their_seed_and_cut_answers_say_so() -> None:
    with ChatServer(lambda payload: completion("cut", "length")) as server:
        reply = client(server).generate([ask(temperature=0.6, top_p=0.9, seed=11)])[0]
    assert reply.finish == "length"
    assert (server.requests[0]["seed"], server.requests[0]["top_p"]) == (11, 0.9)


@pytest.mark.parametrize(
    "trouble",
    [
        {"status": 429, "headers": {"Retry-After": "0.01"}, "body": "slow down"},
        {"status": 500, "body": "broken"},
        {"status": 503, "body": ""},
        {"drop": True},
        {"body": "<html>a proxy says hello</html>"},
        {"body": '{"choices": []}'},
        {"body": '{"choices": [{"message": {"content": null}}]}'},
        {"body": "[1, 2]"},
    ],
    ids=["429", "500", "503", "dropped", "html", "no-choice", "null", "list"],
)
def test_what_may_pass_is_tried_again(trouble: dict[str, Any]) -> None:
    with ChatServer() as server:
        server.script = [dict(trouble), dict(trouble)]
        reply = client(server).generate([ask()])[0]
    assert reply.text == '{"score": 3}'
    assert len(server.requests) == 3


def test_what_does_not_pass_fails_alone_with_its_reason() -> None:
    def answer(payload: dict) -> Any:
        return {} if payload["messages"][-1]["content"] == "bad" else "fine"

    with ChatServer(answer) as server:
        good, bad = client(server).generate([ask("1", "good"), ask("2", "bad")])
    assert good.text == "fine"
    assert (bad.id, bad.finish, bad.text) == ("2", "failed", "")
    assert "not a chat completion" in bad.reason
    assert len(server.requests) == 4


def test_a_slow_server_times_out() -> None:
    with ChatServer() as server:
        server.script = [{"sleep": 0.6}, {"sleep": 0.6}]
        reply = client(server, timeout_s=0.15, attempts=2).generate([ask()])[0]
    assert reply.finish == "failed"
    assert "no answer within 0.15 s" in reply.reason


def test_a_server_that_is_not_there_fails() -> None:
    with ChatServer() as server:
        url = server.url
    reply = OpenAiBackend(url, "tiny", fingerprint="f", attempts=2, longest_pause_s=0.01).generate([ask()])[0]
    assert reply.finish == "failed"
    assert "connection failed" in reply.reason


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_stops_at_once(status: int) -> None:
    with ChatServer() as server:
        server.script = [{"status": status, "body": "no such model"}]
        with pytest.raises(InputError, match="no such model") as caught:
            client(server).generate([ask()])
    assert caught.value.mend
    assert len(server.requests) == 1


def test_the_key_comes_from_a_file(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("sesame\nsecond line\n")
    with ChatServer() as server:
        client(server, api_key_file=key).generate([ask()])
    assert server.headers[0]["Authorization"] == "Bearer sesame"
    with pytest.raises(InputError, match="no key"):
        OpenAiBackend("http://127.0.0.1:1/v1", "m", fingerprint="f", api_key_file=tmp_path / "absent")


def test_pictures_travel_pixel_by_pixel() -> None:
    draw = np.random.default_rng(0)
    picture, film = draw.integers(0, 256, (5, 7, 3), np.uint8), draw.integers(0, 256, (2, 4, 6, 3), np.uint8)
    message = Message.of("user", Image(picture), "then", Frames(film, (0.0, 0.5)))
    with ChatServer() as server:
        client(server).generate([Request("a", (message,))])
    content = server.requests[0]["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url", "text", "image_url", "image_url"]
    for part, pixels in zip([content[0], *content[2:]], [picture, *film], strict=True):
        head, _, data = part["image_url"]["url"].partition(",")
        assert head == "data:image/png;base64"
        decoded = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
        assert np.array_equal(decoded, pixels)


def test_a_wrong_picture_is_refused() -> None:
    with ChatServer() as server, pytest.raises(InputError, match="uint8"):
        client(server).generate([Request("a", (Message.of("user", Image(np.zeros((2, 2, 3)))),))])


def test_letters_are_scored_from_the_likeliest_tokens() -> None:
    top = [{"token": " B", "logprob": -0.1}, {"token": "A", "logprob": -2.5}, {"token": "A ", "logprob": -9.0}]
    with ChatServer(lambda payload: completion("B", logprobs={"content": [{"top_logprobs": top}]})) as server:
        found = client(server).score([ask()], ["A", "B", "C"])[0]
    assert found.log_probabilities == (-2.5, -0.1, None)
    assert found.best == 1
    assert (server.requests[0]["max_tokens"], server.requests[0]["logprobs"]) == (1, True)
    with ChatServer() as server, pytest.raises(InputError, match="log-probabilities"):
        client(server).score([ask()], ["A"])


def test_requests_with_equal_content_have_one_key() -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    one = Request("a", (Message.of("user", "x", Image(pixels)),))
    same = Request("b", (Message("user", (Text("x"), Image(pixels.copy()))),))
    other = Request("a", (Message.of("user", "x", Image(pixels + 1)),))
    assert one.key() == same.key() != other.key()
    assert one.has_images
    assert not ask().has_images
    assert ask().key() != ask(max_new_tokens=9).key()
