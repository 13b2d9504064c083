"""Streaming generation and its clock against the original, one by one, batched, and looking ahead."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from fitcoach_model import golden_features, golden_model
from golden import load_json
from sightline.systems.fitcoach.stream import (
    ActionTokens,
    StreamRequest,
    StreamResult,
    StreamSettings,
    extract_feedbacks,
    stream,
)

LOOPS = {"stream_published.json": "published", "stream_intended_counting.json": "realtime"}
CASES = [
    pytest.param(loop, case, id=f"fitcoach-stream-{loop}-{case['name']}")
    for file, loop in LOOPS.items()
    for case in load_json("fitcoach", "c_stream", file) or []
]
SETS = [
    pytest.param(loop, load_json("fitcoach", "c_stream", file), id=f"fitcoach-stream-{loop}")
    for file, loop in LOOPS.items()
    if load_json("fitcoach", "c_stream", file)
]
EXTRACTED = [
    pytest.param(row, id=f"fitcoach-extract-{number}")
    for number, row in enumerate(load_json("fitcoach", "c_stream", "extract_pred_feedbacks.json") or [])
]


@cache
def actions() -> ActionTokens:
    _, tokenizer = golden_model()
    return ActionTokens(*(tokenizer.token_id(token) for token in ("<vision>", "<answer>", "<answer/>")))


def settings_of(loop: str, case: dict, look_ahead: int) -> StreamSettings:
    return StreamSettings(
        loop=loop,
        max_feedback_length=case["max_feedback_length"],
        feats_frequency=case["feats_frequency"],
        token_cap=case["step_cap"] or 4000,
        look_ahead=look_ahead,
        dtype="float32",
    )


def request_of(case: dict) -> StreamRequest:
    _, tokenizer = golden_model()
    features = golden_features(case["feature_seed"], tuple(case["feature_shape"]))
    assert abs(features.sum(dtype=np.float64) - case["features_sum"]) < 1.0
    recorded = case["bias_vision_answer_end"]
    ids = tokenizer.encode(case["prompt"])
    # Looking ahead may ask for steps the original never took; what it finds there is rolled back.
    return StreamRequest(ids, features, bias=lambda k: recorded[k] if k < len(recorded) else (0.0, 0.0, 0.0))


def check(result: StreamResult, case: dict) -> None:
    if "prompt_ids" in case:
        assert result.tokens[: result.prompt_length] == case["prompt_ids"]
    assert result.raw == case["raw_argmax"]
    assert result.frames_given == case["vision_feats_given"]
    assert np.allclose(result.margins, case["margin"], atol=1e-4)
    assert result.near_ties == sum(margin < 1e-3 for margin in case["margin"])
    if case["hit_step_cap"]:
        assert result.warnings == ["token_cap"]
        return
    assert result.warnings == []
    if "output_ids" in case:
        assert result.tokens == case["output_ids"]
    if "feedbacks" in case:
        _, tokenizer = golden_model()
        texts, times = extract_feedbacks(result.tokens, tokenizer, actions(), feats_frequency=case["feats_frequency"])
        assert texts == case["feedbacks"]
        assert times == case["timestamps"]


@pytest.mark.parametrize("merge_lora", [False, True])
@pytest.mark.parametrize(("loop", "case"), CASES)
def test_one_by_one(loop, case, merge_lora):
    model, _ = golden_model(merge_lora)
    result = stream(model, [request_of(case)], settings_of(loop, case, 1), actions())[0]
    check(result, case)
    assert result.passes == len(case["raw_argmax"])


@pytest.mark.parametrize("look_ahead", [2, 16])
@pytest.mark.parametrize(("loop", "case"), CASES)
def test_looking_ahead(loop, case, look_ahead):
    model, _ = golden_model()
    result = stream(model, [request_of(case)], settings_of(loop, case, look_ahead), actions())[0]
    check(result, case)
    assert result.passes <= max(len(case["raw_argmax"]), 0)


@pytest.mark.parametrize("look_ahead", [1, 7])
@pytest.mark.parametrize(("loop", "cases"), SETS)
def test_batched(loop, cases, look_ahead):
    model, _ = golden_model()
    kinds: dict[StreamSettings, list[dict]] = {}
    for case in cases:
        kinds.setdefault(settings_of(loop, case, look_ahead), []).append(case)
    for settings, group in kinds.items():
        results = stream(model, [request_of(case) for case in group], settings, actions())
        for result, case in zip(results, group, strict=True):
            check(result, case)
    # All episodes of the file at once, in the settings of the largest kind: as each of them alone.
    settings = replace(max(kinds, key=lambda key: len(kinds[key])), token_cap=60)
    together = stream(model, [request_of(case) for case in cases], settings, actions())
    for case, result in zip(cases, together, strict=True):
        alone = stream(model, [request_of(case)], replace(settings, look_ahead=1), actions())[0]
        assert result.tokens == alone.tokens


@pytest.mark.parametrize("row", EXTRACTED)
def test_extracted_feedbacks(row):
    _, tokenizer = golden_model()
    texts, times = extract_feedbacks(row["output_ids"], tokenizer, actions(), feats_frequency=row["feats_frequency"])
    assert texts == row["feedbacks"]
    assert times == row["timestamps"]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
