"""The streaming loop on random models: batches, look-ahead, near-ties, caps, draws, and the predictor."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from sightline.errors import InputError, StoreError
from sightline.records.types import Sample
from sightline.systems.fitcoach.model.config import StreamVlmConfig
from sightline.systems.fitcoach.model.stream_vlm import StreamVlm, random_stream_vlm
from sightline.systems.fitcoach.predict import Predictor, StreamSettings
from sightline.systems.fitcoach.stream import ActionTokens, StreamRequest, StreamResult, stream

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
PLAIN = StreamSettings(dtype="float32", look_ahead=1, token_cap=80)


class Letters:
    """A tokenizer of one letter per id."""

    size = 64

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """Returns one id per letter, and the id of `<vision>`."""
        head, _, tail = text.partition("<vision>")
        assert tail == ""
        return [1] * bos + [3 + ord(letter) % 50 for letter in head] + [ACTIONS.vision]

    def decode(self, ids) -> str:
        """Returns one letter per id."""
        return "".join(chr(64 + number) for number in ids)

    def token_id(self, token: str) -> int:
        """Returns the id of an action token."""
        return {"<vision>": 60, "<answer>": 61, "<answer/>": 62}[token]


def model_of(seed: int) -> StreamVlm:
    return random_stream_vlm(CONFIG, seed, std=0.5)


def request_of(seed: int, steps: int, *, eager: float = 6.0) -> StreamRequest:
    rng = np.random.default_rng(seed)
    features = np.clip(2 * rng.standard_normal((steps, 12, 3, 2)), 0, 6).astype(np.float32)
    prompt = [1, *rng.integers(3, 60, rng.integers(1, 9)).tolist(), ACTIONS.vision]
    biases = rng.normal((1, 1, 3), eager, (600, 3)).tolist()
    return StreamRequest(prompt, features, seed=seed, bias=lambda k: biases[k])


@cache
def one_by_one(seed: int, loop: str) -> tuple[StreamSettings, list[StreamRequest], list[StreamResult]]:
    """Returns settings, episodes and what each of them gives alone, one token at a time."""
    settings = replace(PLAIN, loop=loop, max_feedback_length=4)
    requests = [request_of(seed * 100 + k, steps) for k, steps in enumerate((9, 0, 31, 1, 2, 17, 24))]
    model = model_of(seed)
    return settings, requests, [stream(model, [request], settings, ACTIONS)[0] for request in requests]


@pytest.mark.parametrize("loop", ["published", "realtime"])
@pytest.mark.parametrize("look_ahead", [1, 2, 9])
@pytest.mark.parametrize("seed", range(4))
def test_batches_and_look_ahead_give_the_tokens_of_one_by_one(seed, look_ahead, loop):
    settings, requests, expected = one_by_one(seed, loop)
    settings = replace(settings, look_ahead=look_ahead)
    model = model_of(seed)
    found = stream(model, requests, settings, ACTIONS)
    spoken = 0
    for one, batched in zip(expected, found, strict=True):
        assert batched.tokens == one.tokens
        assert batched.raw == one.raw
        assert batched.near_ties == one.near_ties
        assert batched.warnings == one.warnings
        assert batched.frames_given == one.frames_given
        spoken += batched.tokens.count(ACTIONS.answer)
    assert spoken > 0, "a test in which nobody speaks shows nothing"


def test_looking_ahead_needs_far_fewer_passes_when_silent():
    model = model_of(1)
    silent = replace(request_of(5, 60), bias=lambda k: (50.0, 0.0, 0.0))
    result = stream(model, [silent], replace(PLAIN, look_ahead=16), ACTIONS)[0]
    assert result.tokens == [*silent.prompt_ids, *[ACTIONS.vision] * 59]
    assert result.passes == 4
    assert stream(model, [silent], PLAIN, ACTIONS)[0].passes == 59


@pytest.mark.parametrize("look_ahead", [4, 32])
def test_near_ties_are_decided_one_by_one_and_counted(look_ahead):
    model = model_of(3)
    with torch.no_grad():  # <vision> and <answer> always have the same logit
        model.lm_head.weight[ACTIONS.answer] = model.lm_head.weight[ACTIONS.vision]
    request = replace(request_of(8, 30), bias=lambda k: (20.0, 20.0, 0.0))
    one = stream(model, [request], PLAIN, ACTIONS)[0]
    ahead = stream(model, [request], replace(PLAIN, look_ahead=look_ahead), ACTIONS)[0]
    assert one.near_ties == len(one.raw) == 29
    assert set(one.raw) == {ACTIONS.vision}, "the lowest id wins a tie"
    assert (ahead.tokens, ahead.near_ties, ahead.margins) == (one.tokens, one.near_ties, one.margins)


@pytest.mark.parametrize("steps", [0, 1])
def test_an_episode_without_a_second_frame_takes_no_step(steps):
    request = request_of(4, steps)
    result = stream(model_of(0), [request], PLAIN, ACTIONS)[0]
    assert result.tokens == list(request.prompt_ids)
    assert result.passes == 0
    assert result.warnings == []


def never_closing(k: int) -> tuple[float, float, float]:
    return (-50.0, 50.0, -50.0) if k == 0 else (-50.0, -50.0, -50.0)


@pytest.mark.parametrize("look_ahead", [1, 16])
def test_a_feedback_that_never_closes_meets_the_cap(look_ahead):
    request = replace(request_of(4, 10), bias=never_closing)
    settings = replace(PLAIN, look_ahead=look_ahead, token_cap=23)
    result = stream(model_of(0), [request, request_of(5, 12)], settings, ACTIONS)[0]
    assert len(result.tokens) - result.prompt_length == 23
    assert result.warnings == ["token_cap"]
    closed = stream(model_of(0), [request], replace(settings, loop="realtime", max_feedback_length=3), ACTIONS)[0]
    assert closed.tokens[result.prompt_length :][5] == ACTIONS.end, "max + 1 texts, then the end is forced"


def test_a_sequence_ends_at_the_last_position():
    request = replace(request_of(4, 10), bias=never_closing)
    settings = replace(PLAIN, token_cap=4000)
    result = stream(model_of(0), [request], settings, ACTIONS)[0]
    assert len(result.tokens) == CONFIG.max_positions
    assert result.warnings == ["position_limit"]


def test_draws_depend_on_the_seed_alone():
    model = model_of(2)
    settings = replace(PLAIN, do_sample=True, temperature=2.0, look_ahead=8)
    requests = [replace(request_of(k, 20), seed=7 + k) for k in range(4)]
    together = stream(model, requests, settings, ACTIONS)
    alone = [stream(model, [request], settings, ACTIONS)[0] for request in requests]
    assert [result.tokens for result in together] == [result.tokens for result in alone]
    other = stream(model, [replace(requests[0], seed=99)], settings, ACTIONS)[0]
    assert other.tokens != together[0].tokens
    greedy = stream(model, requests, PLAIN, ACTIONS)
    assert [result.tokens for result in greedy] != [result.tokens for result in together]


def test_wrong_requests_and_settings_are_refused():
    request = request_of(1, 5)
    with pytest.raises(InputError, match="must end with <vision>"):
        stream(model_of(0), [replace(request, prompt_ids=[1, 5])], PLAIN, ACTIONS)
    other = replace(request, features=np.zeros((5, 12, 2, 2), np.float32))
    with pytest.raises(InputError, match="shape"):
        stream(model_of(0), [request, other], PLAIN, ACTIONS)
    with pytest.raises(InputError, match="look_ahead"):
        StreamSettings(look_ahead=0)
    with pytest.raises(InputError, match="temperature"):
        StreamSettings(do_sample=True, temperature=0.0)


# ---------------------------------------------------------------------------------------- the predictor
def sample_of(name: str, steps: int, key: str = "video") -> Sample:
    payload = {
        "video": "long_range_videos/0001.mp4",
        "video_id": "0001",
        "mode": "single_exercise",
        "exercises": ["squats"],
        "prompt": f"Coach {name}.",
        "start": 0.0,
        "end": 30.0,
        "responses": [],
        "response_times": [],
        "feedback_times": [],
        "feature_key": key,
        "first_row": 3,
        "stop_row": 3 + steps,
        "segments": [],
    }
    return Sample(id=name, group="0001", cluster="0001", media=[key], cost=1.0, payload=payload)


def read_features(key: str, rows: slice) -> np.ndarray:
    if key == "damaged":
        raise StoreError("checksum differs", file="store.lmdb", item=key)
    maps = request_of(len(key), 64).features[rows].copy()
    if key == "nan":
        maps[1, 0, 0, 0] = np.nan
    if key == "huge":
        maps[1] = np.linspace(-3e38, 3e38, maps[1].size).reshape(maps[1].shape)
    return maps[:, :5] if key == "narrow" else maps


def predictor(settings: StreamSettings = PLAIN) -> Predictor:
    return Predictor(model_of(1), Letters(), settings, read_features)


def test_predictions_are_the_same_bytes_again_and_for_any_batch_limit():
    block = [sample_of(f"e{k}", steps) for k, steps in enumerate((20, 7, 33, 1, 0, 12, 20, 5))]
    settings = replace(PLAIN, look_ahead=6)
    first = json.dumps([row.to_json() for row in predictor(settings).predict(block)])
    assert json.dumps([row.to_json() for row in predictor(settings).predict(block)]) == first
    rows = json.loads(first)
    assert [row["id"] for row in rows] == [sample.id for sample in block]
    assert {row["status"] for row in rows} == {"ok"}
    assert all(set(row["output"]) == {"feedbacks", "times", "tokens", "warnings", "near_ties"} for row in rows)
    for limit in (1, 3):
        halved = predictor(settings)
        halved.batch_limit = limit
        tokens = [row.output["tokens"] for row in halved.predict(block)]
        assert tokens == [row["output"]["tokens"] for row in rows]


def test_a_failing_sample_leaves_the_others_alone():
    good = [sample_of("a", 20), sample_of("z", 9)]
    bad = [sample_of(key, 12, key) for key in ("nan", "huge", "narrow")]
    answers = {row.id: row for row in predictor().predict([good[0], *bad, good[1]])}
    alone = {row.id: row for row in predictor().predict(good)}
    assert [answers[key].status for key in ("nan", "huge", "narrow")] == ["failed"] * 3
    assert answers["nan"].reason == answers["huge"].reason == "non_finite"
    assert "shape [12, 5, 3, 2]" in answers["narrow"].reason
    for name in ("a", "z"):
        assert answers[name].status == "ok"
        assert answers[name].output["tokens"] == alone[name].output["tokens"]


def test_a_damaged_store_stops_the_block_instead_of_failing_samples():
    with pytest.raises(StoreError, match="checksum differs"):
        predictor().predict([sample_of("a", 20), sample_of("b", 12, "damaged")])


def test_bfloat16_runs_and_stays_reproducible():
    model = model_of(1).to(torch.bfloat16)
    settings = replace(PLAIN, look_ahead=6, dtype="bfloat16")
    block = [sample_of(f"e{k}", steps) for k, steps in enumerate((20, 7, 33))]
    runs = [Predictor(model, Letters(), settings, read_features).predict(block) for _ in range(2)]
    assert runs[0] == runs[1]
    assert {row.status for row in runs[0]} == {"ok"}
