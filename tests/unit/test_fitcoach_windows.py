"""Sliding windows: what a window knows of the one before, and that no frame is lost or read twice."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from sightline.errors import InputError
from sightline.records.types import Sample
from sightline.systems.fitcoach.model.config import StreamVlmConfig
from sightline.systems.fitcoach.model.stream_vlm import StreamVlm, random_stream_vlm
from sightline.systems.fitcoach.predict import Predictor
from sightline.systems.fitcoach.stream import ActionTokens, Bias, StreamRequest, StreamSettings, stream
from sightline.systems.fitcoach.windows import WindowedRequest, stream_windows

CONFIG = StreamVlmConfig.from_parts(
    {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 512,
    },
    {"adapter_insert_layers": "[0, 2]", "num_of_xattn_heads": 2, "vision_dim": 12, "attn_dim": 16},
    None,
)
ACTIONS = ActionTokens(vision=60, answer=61, end=62)
WORDS = {"<vision>": 60, "<answer>": 61, "<answer/>": 62}
PLAIN = StreamSettings(dtype="float32", look_ahead=4, token_cap=200)
SYSTEM = "Coach."


class Letters:
    """A tokenizer of one letter per id that knows the action tokens."""

    size = 64

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """Returns one id per letter or action token."""
        ids = [1] * bos
        while text:
            word = next((word for word in WORDS if text.startswith(word)), text[0])
            ids.append(WORDS[word] if word in WORDS else ord(word) % 60)
            text = text[len(word) :]
        return ids

    def decode(self, ids) -> str:
        """Returns one letter per id; decoding and encoding again gives other ids, as it may."""
        names = {number: word for word, number in WORDS.items()}
        return "".join(names.get(number, chr(64 + number)) for number in ids)

    def token_id(self, token: str) -> int:
        """Returns the id of an action token."""
        return WORDS[token]


def model() -> StreamVlm:
    return random_stream_vlm(CONFIG, 1, std=0.5)


def maps_of(seed: int, steps: int) -> np.ndarray:
    return np.clip(2 * np.random.default_rng(seed).standard_normal((steps, 12, 3, 2)), 0, 6).astype(np.float32)


def bias_of(seed: int, start: int = 0) -> Bias:
    table = np.random.default_rng(seed).normal((1, 1, 3), 6.0, (900, 3)).tolist()
    return lambda k: table[start + k]


def request_of(seed: int, edges: list[int], biases: list[Bias] | None = None) -> WindowedRequest:
    maps = maps_of(seed, edges[-1])
    windows = list(pairwise(edges))
    return WindowedRequest(SYSTEM, windows, lambda rows: maps[rows], seed, biases)


def run(requests: list[WindowedRequest], settings: StreamSettings = PLAIN):
    return stream_windows(model(), requests, settings, ACTIONS, Letters())


@pytest.mark.parametrize("loop", ["published", "realtime"])
@pytest.mark.parametrize("seed", range(3))
def test_two_windows_are_one_stream_over_both(seed, loop):
    settings = replace(PLAIN, loop=loop, max_feedback_length=7)
    whole = stream(
        model(),
        [StreamRequest(Letters().encode(SYSTEM + "<vision>"), maps_of(seed, 40), bias=bias_of(seed))],
        settings,
        ACTIONS,
    )[0]
    first = run([request_of(seed, [0, 19], [bias_of(seed)])], settings)[0]
    decided = len(first.tokens) - first.prompt_length
    both = run([request_of(seed, [0, 19, 40], [bias_of(seed), bias_of(seed, decided)])], settings)[0]
    assert both.tokens == whole.tokens
    assert whole.tokens.count(ACTIONS.answer) > 2, "a test in which nobody speaks shows nothing"
    if loop == "published":
        assert both.tokens.count(ACTIONS.vision) == 40


def test_every_step_is_read_once_and_the_past_is_seen():
    edges = [0, 9, 18, 18, 30]
    silent = [lambda k: (50.0, 0.0, 0.0)] * 4
    fixed = run([request_of(5, edges, silent)])[0]
    assert fixed.tokens.count(ACTIONS.vision) == 30
    published = run([request_of(5, edges, silent)], replace(PLAIN, window_context="published"))[0]
    assert published.tokens.count(ACTIONS.vision) == 9 + 8 + 0 + 11
    blind = replace(request_of(5, edges), read=lambda rows: maps_of(5, 30)[rows] * (rows.start >= 9))
    seen = replace(request_of(5, edges), biases=[silent[0], *[lambda k: (0.0, 0.0, 0.0)] * 3])
    blind = replace(blind, biases=seen.biases)
    assert run([seen])[0].margins[9:12] != pytest.approx(run([blind])[0].margins[9:12], abs=1e-3)


def test_overlapping_windows_are_not_read_twice():
    request = replace(request_of(3, [0, 24], None), windows=[(0, 9), (8, 17), (16, 24)])
    silent = replace(request, biases=[lambda k: (50.0, 0.0, 0.0)] * 3)
    assert run([silent])[0].tokens.count(ACTIONS.vision) == 24


@pytest.mark.parametrize("context", ["fixed", "published"])
@pytest.mark.parametrize("loop", ["published", "realtime"])
def test_workouts_do_not_touch_each_other(context, loop):
    settings = replace(PLAIN, loop=loop, max_feedback_length=6, window_context=context)
    edges = [[0, 9, 18, 30], [0, 5], [0, 12, 13, 13, 26, 40], [0, 1, 2], [0, 0, 7]]
    requests = [
        request_of(seed, places, [bias_of(10 * seed + k) for k in range(len(places) - 1)])
        for seed, places in enumerate(edges)
    ]
    together = run(requests, settings)
    alone = [run([request], replace(settings, look_ahead=1))[0] for request in requests]
    assert [result.tokens for result in together] == [result.tokens for result in alone]
    assert [result.near_ties for result in together] == [result.near_ties for result in alone]


def test_a_window_cut_by_the_limit_keeps_the_clock():
    def never_closing(k: int) -> tuple[float, float, float]:
        return (-50.0, 50.0, -50.0) if k == 3 else (50.0, -50.0, -50.0) if k < 3 else (-50.0, -50.0, -50.0)

    def silent(k: int) -> tuple[float, float, float]:
        return (50.0, 0.0, 0.0)

    result = run([request_of(2, [0, 10, 20], [never_closing, silent])], replace(PLAIN, token_cap=30))[0]
    assert result.warnings == ["token_cap"]
    assert result.tokens[result.prompt_length - 1 :] == [ACTIONS.vision] * 20


def test_speaking_past_the_end_of_a_window_skips_frames_of_the_next():
    talk = {0: (0.0, 90.0, 0.0), 13: (0.0, 0.0, 90.0)}

    def long_answer(k: int) -> tuple[float, float, float]:
        return talk.get(k, (-50.0, -50.0, -50.0) if k < 13 else (50.0, -50.0, -50.0))

    def silent(k: int) -> tuple[float, float, float]:
        return (50.0, 0.0, 0.0)

    settings = replace(PLAIN, loop="realtime")
    result = run([request_of(2, [0, 3, 4, 12], [long_answer, silent, silent])], settings)[0]
    assert result.tokens.count(ACTIONS.vision) == 12 - 12 // 3, "12 words pass over 4 of the 12 frames"


def test_what_cannot_be_read_fails_alone():
    good, bad = request_of(1, [0, 6, 12]), request_of(2, [0, 6, 12])
    maps = maps_of(2, 12)
    bad = replace(bad, read=lambda rows: "non_finite" if rows.start else maps[rows])
    found = run([bad, good])
    assert (found[0].failure, found[1].failure) == ("non_finite", "")
    assert found[1].tokens == run([good])[0].tokens
    with pytest.raises(InputError, match="window_context"):
        replace(PLAIN, window_context="none")


def test_the_predictor_runs_workouts_and_episodes_of_one_block():
    maps = maps_of(7, 40)

    def sample_of(name: str, mode: str, edges: list[int]) -> Sample:
        pairs = list(pairwise(edges))
        windows = [{"start": a / 4, "end": b / 4, "first_row": a, "stop_row": b} for a, b in pairs]
        payload = {
            "video": "a.mp4", "video_id": "a", "mode": mode, "exercises": ["squats"], "prompt": SYSTEM,
            "start": 0.0, "end": 10.0, "responses": [], "response_times": [], "feedback_times": [],
            "feature_key": "a", "first_row": 0, "stop_row": edges[-1],
            "segments": windows if mode == "full_workout_sliding_window" else [],
        }  # fmt: skip
        return Sample(id=name, group="a", cluster="a", media=["a"], cost=1.0, payload=payload)

    block = [
        sample_of("w1", "full_workout_sliding_window", [0, 10, 20, 40]),
        sample_of("e", "single_exercise", [0, 12]),
        sample_of("w2", "full_workout_sliding_window", [0, 10, 17]),
    ]
    runs = []
    for limit in (8, 1):
        predictor = Predictor(model(), Letters(), replace(PLAIN, batch_limit=limit), lambda _key, rows: maps[rows])
        runs.append(predictor.predict(block))
    assert [row.id for row in runs[0]] == ["w1", "e", "w2"]
    assert [row.output["tokens"] for row in runs[0]] == [row.output["tokens"] for row in runs[1]]
