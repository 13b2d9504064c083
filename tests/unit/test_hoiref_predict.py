"""Answering in blocks: failures are counted, groups of any size share one encoding, batches change nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sightline.errors import CheckpointError, InputError
from sightline.records.types import Sample
from sightline.run.shards import compute_block, run_shard
from sightline.systems.hoiref.asking import Asker
from sightline.systems.hoiref.model.config import Vlm4HoiConfig
from sightline.systems.hoiref.model.vlm4hoi import random_vlm4hoi
from sightline.systems.hoiref.predict import Predictor, PredictSettings
from sightline.systems.hoiref.records import Question

SIZES = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 96,
}  # fmt: skip


class Letters:
    """One id per letter."""

    size = 40

    def encode(self, text, *, bos=True):
        return [1, *([3 + ord(letter) % 36 for letter in text])] if bos else [3 + ord(one) % 36 for one in text]

    def decode(self, ids):
        return "".join(chr(96 + number) for number in ids)

    def token_id(self, token):
        if token == "$$":
            raise CheckpointError("no such token")
        return ["<unk>", "<s>", "</s>"].index(token)


def model():
    config = Vlm4HoiConfig.from_parts(SIZES, {"image_size": 28, "width": 8, "depth": 1, "heads": 2}, {"rank": 2})
    made = random_vlm4hoi(config, seed=3)
    with torch.no_grad():  # sharp enough that no choice is a near-tie
        made.llama.lm_head[0].weight.mul_(60)
    return made


def picture(name):
    if "missing" in name:
        raise InputError("the picture is missing", file=name)
    return np.random.default_rng(len(name)).integers(0, 255, (20, 30, 3), dtype=np.uint8)


def samples(*asked):
    return [
        Sample(f"s{n}", image, "v", [image], 1.0, Question("epic", "ref", f"k{n}", image, question).to_json())
        for n, (image, question) in enumerate(asked)
    ]


ASKED = [("a.jpg", "cup"), ("bb.jpg", "a longer one"), ("a.jpg", "x"), ("missing.jpg", "cup"), ("bb.jpg", "pan")]


def answers(found):
    return {one.id: (one.status, one.reason, one.output.get("text")) for one in found}


def test_batches_give_what_one_by_one_gives():
    alone = {}
    for sample in samples(*ASKED):
        alone |= answers(Predictor(Asker(model(), Letters()), PredictSettings(6, 1), picture).predict([sample]))
    for limit in (2, 8):
        asker = Asker(model(), Letters())
        found = Predictor(asker, PredictSettings(6, limit), picture).predict(samples(*ASKED))
        assert answers(found) == alone
        assert asker.calls.pictures == 2
        assert all(one.output.get("near_ties", 0) == 0 for one in found)
    assert alone["s3"] == ("failed", "the picture is missing", None)


def test_a_question_that_is_too_long_fails_alone():
    found = answers(Predictor(Asker(model(), Letters()), PredictSettings(4), picture).predict(
        samples(("a.jpg", "y" * 200), ("a.jpg", "<ImageHere>"), ("a.jpg", "cup"))
    ))  # fmt: skip
    assert [status for status, _, _ in found.values()] == ["failed", "failed", "ok"]


def test_a_tower_that_gives_nan_fails_the_questions():
    broken = model()
    broken.visual_encoder.cls_token.data.fill_(float("nan"))
    found = Predictor(Asker(broken, Letters()), PredictSettings(4), picture).predict(samples(*ASKED[:1]))
    assert found[0].reason == "non_finite"


def test_a_group_of_several_blocks_is_encoded_once_and_shards_resume(tmp_path):
    asked = samples(*[("a.jpg", f"q{n}") for n in range(5)])
    plan = {"shards": {"1-of-1": [["s0", "s1"], ["s2", "s3"], ["s4"]]}}
    asker = Asker(model(), Letters())
    arguments = {
        "plan": plan, "shard": "1-of-1", "samples": asked, "run_key": "k" * 16, "work": tmp_path,
        "load_predictor": lambda: Predictor(asker, PredictSettings(4), picture),
    }  # fmt: skip
    first, counts = run_shard(**arguments)
    assert counts["computed"] == 3
    assert asker.calls.pictures == 1
    again, counts = run_shard(**arguments)
    assert counts["computed"] == 0
    assert again == first


def test_out_of_memory_halves_the_batch(monkeypatch):
    asker = Asker(model(), Letters())
    predictor = Predictor(asker, PredictSettings(4, 4), picture)
    whole = answers(predictor.predict(samples(*ASKED)))
    asked = asker.ask

    def little_memory(batch, sampling):
        if len(batch) > 1:
            raise torch.OutOfMemoryError("too many")
        return asked(batch, sampling)

    monkeypatch.setattr(asker, "ask", little_memory)
    assert answers(compute_block(predictor, samples(*ASKED), "key")) == whole
    assert predictor.batch_limit == 1


def test_half_precision_runs():
    """In bfloat16 words may differ with the batch; which questions fail may not."""
    half = model()
    half.llama.model.to(torch.bfloat16)
    half.compute_dtype = torch.bfloat16
    found = [
        answers(Predictor(Asker(half, Letters()), PredictSettings(3, limit), picture).predict(samples(*ASKED)))
        for limit in (1, 8)
    ]
    assert [status for status, _, _ in found[0].values()] == ["ok", "ok", "ok", "failed", "ok"]
    assert [status for status, _, _ in found[1].values()] == ["ok", "ok", "ok", "failed", "ok"]


def test_a_malformed_payload_is_an_error():
    bad = Sample("s", "g", "c", [], 1.0, {"part": "epic"})
    with pytest.raises(InputError, match="item s"):
        Predictor(Asker(model(), Letters()), PredictSettings(), picture).predict([bad])
