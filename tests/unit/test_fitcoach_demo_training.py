"""What lets the demo's small model learn from few workouts: varied copies, and projections fitted to the features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sightline.errors import ConfigError
from sightline.llm.tiny_tokenizer import train_tiny_tokenizer
from sightline.llm.tokens import TextTokenizer, load_tokenizer
from sightline.records.types import Sample
from sightline.systems.fitcoach.model.config import StreamVlmConfig
from sightline.systems.fitcoach.model.loader import SPECIAL_TOKENS
from sightline.systems.fitcoach.model.stream_vlm import StreamVlm, random_stream_vlm
from sightline.systems.fitcoach.projector import fit_projectors
from sightline.systems.fitcoach.records import Episode
from sightline.systems.fitcoach.sequences import SequenceSettings, TrainingSequence, training_units
from sightline.systems.fitcoach.stream import ActionTokens
from sightline.systems.fitcoach.train import TrainSettings, collate_units, make_units, train, unit_losses, varied_units
from sightline.systems.fitcoach.variations import VariationSettings, vary
from sightline.training.loop import LoopSettings

CHANNELS, STEPS = 16, 16
TEXT = "now it shows"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tiny_tokenizer(["Say", TEXT], 290, SPECIAL_TOKENS, folder)
    return load_tokenizer(folder, SPECIAL_TOKENS)


@pytest.fixture(scope="module")
def actions(tokenizer: TextTokenizer) -> ActionTokens:
    return ActionTokens(*(tokenizer.token_id(token) for token in SPECIAL_TOKENS))


def seen_at(key: str) -> int:
    """Returns the step from which a video shows something."""
    return 4 + int(key[1:]) * 3 % 8


def read(key: str, rows: slice) -> np.ndarray:
    """Maps as of an untrained network: a large pattern of places and channels, and on it small changes."""
    still = np.random.default_rng(7).random((CHANNELS, 2, 2)) * 4
    maps = still + np.random.default_rng([1, int(key[1:]), ord(key[0])]).normal(0, 0.01, (STEPS, CHANNELS, 2, 2))
    shown = np.random.default_rng(8 + (key[0] == "l")).normal(0, 0.6, (CHANNELS, 1, 1))
    maps[seen_at(key) :] += shown
    return maps.astype(np.float32)[rows]


def times(_: str) -> np.ndarray:
    return np.arange(1.0, STEPS + 1) / 4


def sample(key: str) -> Sample:
    moment = float(times(key)[seen_at(key)])
    episode = Episode(
        video="a.mp4",
        video_id=key,
        mode="single_exercise",
        exercises=["hops"],
        prompt="Say",
        start=0.0,
        end=4.5,
        responses=[TEXT],
        response_times=[moment],
        feedback_times=[moment],
        feature_key=key,
        first_row=0,
        stop_row=STEPS,
    )
    return Sample(id=key, group=key, cluster=key, media=[key], cost=1.0, payload=episode.to_json())


def sequence_of(key: str, tokenizer: TextTokenizer, actions: ActionTokens, **settings: str) -> TrainingSequence:
    episode = Episode.from_json(sample(key).payload, item=key)
    return training_units(key, episode, times(key), tokenizer, actions, SequenceSettings(**settings))[0][0]  # type: ignore[arg-type]


def spoken(sequence: TrainingSequence, actions: ActionTokens) -> tuple[list[int], int]:
    """Returns the tokens of the only feedback, and the feature row on which it is said."""
    start = sequence.ids.tolist().index(actions.answer)
    seen = int((sequence.vision_mask[:start] != 0).sum())
    stop = sequence.ids.tolist().index(actions.end)
    return sequence.ids[start : stop + 1].tolist(), int(sequence.frames[seen - 1])


# --------------------------------------------------------------------------------------------- variations
def test_copies_say_the_same_on_the_same_feature_map(tokenizer: TextTokenizer, actions: ActionTokens) -> None:
    recorded = sequence_of("l3", tokenizer, actions)
    copies = vary([recorded], actions, VariationSettings(copies=40))
    assert len({(len(one.frames), int(one.frames[0]), tuple(one.frames)) for one in copies}) > 30
    words, row = spoken(recorded, actions)
    for one in copies:
        said, at = spoken(one, actions)
        assert said == words
        assert row <= at <= row + 1  # a fast copy may leave the very map out; the next one shown has it
        assert int((one.vision_mask != 0).sum()) == len(one.frames)
        assert (np.diff(one.frames) >= 0).all()
        assert one.reach == recorded.reach == (0, STEPS)
        assert one.loss_mask.sum() == len(one.frames) - 1 + len(words)
        assert one.ids[: len(tokenizer.encode("Say"))].tolist() == tokenizer.encode("Say")


def test_copies_depend_on_the_seed_alone(tokenizer: TextTokenizer, actions: ActionTokens) -> None:
    recorded = [sequence_of(key, tokenizer, actions) for key in ("l3", "r5")]

    def frames(**settings: float) -> list[list[int]]:
        return [one.frames.tolist() for one in vary(recorded, actions, VariationSettings(copies=3, **settings))]  # type: ignore[arg-type]

    assert frames() == frames()
    assert frames() != frames(seed=1)
    (same,) = vary(recorded[:1], actions, VariationSettings(copies=1, tempo=0, cut_steps=0, held_steps=0))
    assert same.ids.tolist() == recorded[0].ids.tolist()
    assert same.loss_mask.tolist() == recorded[0].loss_mask.tolist()
    assert same.frames.tolist() == recorded[0].frames.tolist()


def test_the_published_form_has_no_copies(tokenizer: TextTokenizer, actions: ActionTokens) -> None:
    units = make_units([sample("l3")], times, tokenizer, actions, SequenceSettings(form="published"))
    with pytest.raises(ConfigError, match="copies"):
        varied_units(units, actions, VariationSettings(copies=2))


# ---------------------------------------------------------------------------------------------- projector
def model_of(tokenizer: TextTokenizer) -> StreamVlm:
    llama = {
        "vocab_size": tokenizer.size - len(SPECIAL_TOKENS),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 256,
    }
    attention = {"adapter_insert_layers": [0, 1], "num_of_xattn_heads": 1, "vision_dim": CHANNELS, "attn_dim": 12}
    return random_stream_vlm(StreamVlmConfig.from_parts(llama, attention, {}).resized(tokenizer.size), 0, std=0.1)


def test_fitted_projections_return_scaled_principal_components(tokenizer: TextTokenizer) -> None:
    model = model_of(tokenizer)
    before = {name: value.clone() for name, value in model.state_dict().items() if "vision_projector" not in name}
    maps = [np.random.default_rng(k).gamma(2.0, size=(9, CHANNELS, 2, 3)).astype(np.float32) for k in range(5)]
    fit_projectors(model, maps, 4, 3.0)
    frames = model.project_frames(torch.from_numpy(np.concatenate(maps))[None])
    for _, values in frames.values():
        pooled = values[0].mean(dim=1)
        assert pooled[:, 4:].abs().max() == 0
        assert torch.allclose(pooled.mean(dim=0), torch.zeros(12), atol=1e-4)
        assert torch.allclose(torch.cov(pooled[:, :4].T, correction=0), 9 * torch.eye(4), atol=1e-2)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    with pytest.raises(ConfigError, match="between 1 and 8"):
        fit_projectors(model, maps, 9, 1.0)


def test_the_small_model_learns_when_something_shows(tokenizer: TextTokenizer, actions: ActionTokens) -> None:
    seen = [f"{side}{number}" for number in range(8) for side in "lr"]
    model = model_of(tokenizer)
    fit_projectors(model, [read(key, slice(0, STEPS)) for key in seen], 3, 3.0)
    settings = TrainSettings(
        loop=LoopSettings(epochs=1, batch_size=8, learning_rate=0.01, warmup_steps=5, schedule="cosine"),
        trainable=("model.embed*", "model.layers.*_proj.weight", "*.hidden_attn_fc.*", "*.out_fc.*", "lm_head.weight"),
        vision_weight=0.3,
        variations=VariationSettings(copies=120, cut_steps=2, held_steps=2),
        cache_mb=8,
    )
    curve = train([sample(key) for key in seen], read, times, model, tokenizer, settings).curve
    assert len(curve) == 240
    new = [f"{side}{number}" for number in range(20, 26) for side in "lr"]
    units = make_units([sample(key) for key in new], times, tokenizer, actions, SequenceSettings())

    def elsewhere(key: str, rows: slice) -> np.ndarray:
        return read(new[(new.index(key) + 2) % len(new)], rows)

    with torch.inference_mode():
        own, other = (
            float(unit_losses(model, collate_units(units, source, actions, 0.5, CHANNELS)).mean())
            for source in (read, elsewhere)
        )
    assert own < 0.5 * other, "new videos tell when to speak; other videos do not"
