"""Training VLM4HOI: it learns, resumes to the same bits, mixes as told and survives damaged pictures."""

from __future__ import annotations

import signal
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from sightline.errors import ConfigError, InputError, ResumableStop
from sightline.systems.hoiref.annotations import TrainRecord
from sightline.systems.hoiref.model.config import Vlm4HoiConfig
from sightline.systems.hoiref.model.vlm4hoi import random_vlm4hoi
from sightline.systems.hoiref.schedule import Schedule, Stage, draw_items
from sightline.systems.hoiref.train import RELEASED_LOOP, TrainSettings, item_losses, mean_loss, train
from sightline.training.loop import Durable

SIZES = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip


class Letters:
    """One id per letter; `</s>` and `<s>` as one token each."""

    size = 40

    def encode(self, text, *, bos=True):
        ids = [1] if bos else []
        while text:
            special = next((token for token in ("</s>", "<s>") if text.startswith(token)), "")
            ids.append({"</s>": 2, "<s>": 1}.get(special, 3 + ord(text[0]) % 30))
            text = text[len(special) or 1 :]
        return ids

    def decode(self, ids):
        return ""

    def token_id(self, token):
        return {"<unk>": 0, "<s>": 1, "</s>": 2, "$$": 39}[token]


def model():
    config = Vlm4HoiConfig.from_parts(SIZES, {"image_size": 28, "width": 8, "depth": 1, "heads": 2}, {"rank": 2})
    return random_vlm4hoi(config, seed=1)


def records(part, count, bad=()):
    return [
        TrainRecord(part, n, "bad.jpg" if n in bad else f"{n % 2}.jpg", ["<image>\nWhere?", "{<1><2><3><4>}"])
        for n in range(count)
    ]


def picture(name):
    if name == "bad.jpg":
        raise InputError("the picture cannot be read", file=name)
    return np.full((8, 8, 3), ord(name[0]), np.uint8)


def settings(**changes):
    schedule = Schedule(0.05, 0.001, 0.01, 2, epochs=1, steps_per_epoch=12)
    both = Stage({"epic": 1, "ego4d": 1})
    loop = replace(RELEASED_LOOP, batch_size=2, save_every=3)
    return TrainSettings(**{"loop": loop, "schedule": schedule, "stages": (both,), "trainable": ("*",)} | changes)


DATA = {"epic": records("epic", 6), "ego4d": records("ego4d", 5)}


def test_it_learns_and_leaves_the_tower_alone():
    trained = model()
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    result = train(DATA, picture, trained, Letters(), settings(cache_mb=1))
    assert result.curve[-1]["loss"] < 0.6 * result.curve[0]["loss"]
    changed = {name for name, value in trained.state_dict().items() if not torch.equal(value, before[name])}
    assert not any(name.startswith(("visual_encoder", "ln_vision")) for name in changed)
    assert "llama_proj.weight" in changed
    assert not trained.visual_encoder.training


def test_only_lora_and_projection_by_default():
    trained = model()
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    train(DATA, picture, trained, Letters(), settings(trainable=TrainSettings().trainable))
    changed = {name for name, value in trained.state_dict().items() if not torch.equal(value, before[name])}
    assert changed <= set(trained.trainable_names())


def test_a_stopped_training_ends_with_the_same_bits(tmp_path):
    whole = model()
    train(DATA, picture, whole, Letters(), settings())
    durable = Durable(tmp_path)

    def stop(step, _):
        if step == 4:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(ResumableStop):
        train(DATA, picture, model(), Letters(), settings(), durable=durable, watch=stop)
    again = model()
    result = train(DATA, picture, again, Letters(), settings(), durable=durable)
    assert result.resumed_at == 5
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_damaged_picture_teaches_nothing(caplog):
    data = {"epic": records("epic", 6, bad=(2,)), "ego4d": DATA["ego4d"]}
    result = train(data, picture, model(), Letters(), settings())
    assert result.steps == 12
    assert caplog.text.count("teaches nothing") == 1


def test_too_many_damaged_pictures_end_it():
    with pytest.raises(InputError, match="damaged_share"):
        train({"epic": records("epic", 40, bad=range(40))}, picture, model(), Letters(),
              settings(stages=(Stage({"epic": 1}),)))  # fmt: skip


def test_nothing_to_train_on():
    with pytest.raises(InputError, match="no conversations"):
        train({"epic": []}, picture, model(), Letters(), settings())


def test_impossible_settings():
    with pytest.raises(ConfigError, match="names no parameter"):
        train(DATA, picture, model(), Letters(), settings(trainable=("visual_encoder.*",)))
    released = Schedule(1e-5, 8e-5, 1e-6, 1000, epochs=2, steps_per_epoch=36, rule="published")
    with pytest.raises(ConfigError, match="rise to the end"):
        train(DATA, picture, model(), Letters(), settings(schedule=released))


def test_a_sane_schedule_rises_once_and_falls():
    schedule = Schedule(1e-4, 1e-6, 0.0, 10, epochs=2, steps_per_epoch=20)
    rates = [schedule.rate(step) for step in range(schedule.steps)]
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] < 2e-6


def test_draws_follow_the_stages():
    sizes = {"epic": 10, "ego4d": 7}
    drawn = draw_items(sizes, (Stage({"epic": 1}, 1), Stage({"epic": 1, "ego4d": 3}, 3)), 400, seed=5)
    assert drawn == draw_items(sizes, (Stage({"epic": 1}, 1), Stage({"epic": 1, "ego4d": 3}, 3)), 400, seed=5)
    assert {part for part, _ in drawn[:100]} == {"epic"}
    later = Counter(part for part, _ in drawn[100:])
    assert 2 < later["ego4d"] / later["epic"] < 4.5
    first = [index for part, index in drawn if part == "epic"][:10]
    assert sorted(first) == list(range(10))
    for stages in ((), (Stage({"epic": -1, "ego4d": 1}),), (Stage({"other": 1}),)):
        with pytest.raises(ConfigError):
            draw_items(sizes, stages, 4, seed=0)


def test_losses_agree_for_one_conversation():
    logits, labels = torch.randn(1, 5, 7), torch.tensor([[-100, -100, 3, 4, 2]])
    assert torch.allclose(item_losses(logits, labels)[0], mean_loss(logits, labels))
    assert float(item_losses(logits, torch.full((1, 5), -100))) == 0.0
