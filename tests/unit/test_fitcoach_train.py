"""Training Stream-VLM: sequences that are what inference would do, losses that see the video, clear errors."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sightline.errors import CheckpointError, ConfigError, InputError, NonFiniteError
from sightline.llm.tiny_tokenizer import train_tiny_tokenizer
from sightline.records.files import write_json
from sightline.records.types import Sample
from sightline.systems.fitcoach import train_stage
from sightline.systems.fitcoach.model.config import StreamVlmConfig
from sightline.systems.fitcoach.model.loader import SPECIAL_TOKENS, genuine_state_dict
from sightline.systems.fitcoach.model.stream_vlm import StreamVlm, random_stream_vlm
from sightline.systems.fitcoach.predict import Predictor
from sightline.systems.fitcoach.records import Coaching, Episode, Segment
from sightline.systems.fitcoach.samples import Dropped, SampleSet
from sightline.systems.fitcoach.sequences import SequenceSettings, TrainingSequence, training_units
from sightline.systems.fitcoach.stream import ActionTokens, StreamRequest, StreamRow, StreamSettings
from sightline.systems.fitcoach.train import (
    TrainSettings,
    collate_units,
    make_units,
    select_trainable,
    train,
    unit_losses,
)
from sightline.systems.fitcoach.train_stage import load_trainable
from sightline.training.loop import LoopSettings
from sightline.training.state import write_torch

CHANNELS = 8
LLAMA = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
}
ATTENTION = {"adapter_insert_layers": [0, 1], "num_of_xattn_heads": 1, "vision_dim": CHANNELS, "attn_dim": 16}
LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
CONFIG = StreamVlmConfig.from_parts(LLAMA, ATTENTION, LORA)
ACTIONS = ActionTokens(vision=60, answer=61, end=62)
WORDS = dict(zip(SPECIAL_TOKENS, (60, 61, 62), strict=True))
LEFT, RIGHT = "go left now", "right"
EVERYTHING = ("*",)


class Letters:
    """A tokenizer of one letter per id that knows the action tokens."""

    size = 64

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """Returns one id per letter or action token."""
        ids = [1] * bos
        while text:
            word = next((word for word in WORDS if text.startswith(word)), text[0])
            ids.append(WORDS[word] if word in WORDS else 3 + (ord(word) - 32) % 57)
            text = text[len(word) :]
        return ids

    def decode(self, ids) -> str:
        """Returns one letter per id."""
        names = {number: word for word, number in WORDS.items()}
        return "".join(names.get(number, chr(32 + (number - 3) + (57 if number < 36 else 0))) for number in ids)

    def token_id(self, token: str) -> int:
        """Returns the id of an action token."""
        return WORDS[token]


def model_of(seed: int = 0) -> StreamVlm:
    return random_stream_vlm(CONFIG, seed, std=0.1)


def episode_of(key: str = "video", steps: int = 8, said: tuple[tuple[float, str], ...] = ((4.2, "hop"),)) -> Episode:
    """An episode whose feature steps lie at 1, 2, 3 ... seconds."""
    return Episode(
        video="a.mp4",
        video_id=key,
        mode="single_exercise",
        exercises=["hops"],
        prompt="Say",
        start=0.5,
        end=steps + 0.5,
        responses=[text for _, text in said],
        response_times=[time - 0.5 for time, _ in said],
        feedback_times=[time for time, _ in said],
        feature_key=key,
        first_row=0,
        stop_row=steps,
    )


def windowed(edges: tuple[int, ...], said: tuple[tuple[float, str], ...]) -> Episode:
    """The same in windows of feature rows; what is said at time t lies in the window of the first step at or after."""

    segments = []
    for first, stop in pairwise(edges):
        dealt = [one for one in said if first < one[0] <= stop]
        texts, times = [text for _, text in dealt], [time for time, _ in dealt]
        segments.append(Segment(first + 0.5, stop + 0.5, first, stop, texts, times))
    return replace(episode_of(steps=edges[-1], said=said), mode="full_workout_sliding_window", segments=segments)


def sample_of(episode: Episode, name: str = "one") -> Sample:
    return Sample(id=name, group=name, cluster=name, media=[episode.feature_key], cost=1.0, payload=episode.to_json())


def times_of(_: str) -> np.ndarray:
    return np.arange(1.0, 41.0)


def read_features(key: str, rows: slice) -> np.ndarray:
    everything = np.random.default_rng(len(key)).random((40, CHANNELS, 2, 2)).astype(np.float32) * 6
    return everything[rows]


def units_of(episode: Episode, **settings) -> list[tuple[TrainingSequence, ...]]:
    return training_units("one", episode, times_of(""), Letters(), ACTIONS, SequenceSettings(**settings))


SAID = ((2.5, LEFT), (5.0, "up"), (5.2, RIGHT), (7.0, "so"))


# ---------------------------------------------------------------------------------------------- sequences
@pytest.mark.parametrize("loop", ["published", "realtime"])
def test_a_sequence_is_what_the_streaming_loop_does_when_it_says_the_same(loop):
    """The loop, told to take exactly these tokens, takes them all and shows each `<vision>` the same frame."""
    ((sequence,),) = units_of(episode_of(steps=14, said=SAID), loop=loop)
    first = int(np.flatnonzero(sequence.vision_mask)[0]) + 1
    request = StreamRequest(sequence.ids[:first].tolist(), np.zeros((14, 1, 1, 1), np.float32))
    row = StreamRow(request, StreamSettings(loop=loop, look_ahead=1), ACTIONS, 256)
    for token in sequence.ids[first:]:
        assert not row.done
        row.feed()
        row.accept(np.array([token]), np.array([1.0]), np.array([True]))
    assert row.result.tokens == sequence.ids.tolist()
    seen = np.asarray(row.result.seen)[sequence.ids == ACTIONS.vision]
    assert seen.tolist() == sequence.frames.tolist()
    assert row.done
    assert sequence.vision_mask.max() == sequence.vision_mask[first - 1] == 2
    assert sequence.loss_mask.tolist() == [place >= first for place in range(len(sequence.ids))]


def test_a_feedback_follows_the_first_frame_at_or_after_its_time():
    ((sequence,),) = units_of(episode_of(steps=6, said=((2.5, "a"), (5.0, " b "), (5.5, "  "), (99.0, "c"))))
    text = Letters().decode(sequence.ids)
    assert text.split("<answer>")[0].count("<vision>") == 3  # steps at 1, 2 and 3 s
    words = [part.split("<answer/>")[0] for part in text.split("<answer>")[1:]]
    assert [word.lower() for word in words] == ["a", "b", "c"]
    assert text.endswith("<vision><answer>" + words[-1] + "<answer/>")
    assert sequence.frames.tolist() == [0, 1, 2, 3, 4, 5]


def test_frames_spoken_over_are_not_shown_and_what_is_due_meanwhile_waits():
    ((sequence,),) = units_of(episode_of(steps=9, said=((2.0, "x" * 7), (3.0, "y"), (9.0, "z" * 9))), loop="realtime")
    assert sequence.frames.tolist() == [0, 1, 4, 5, 6, 7, 8]  # seven tokens take the time of two frames
    ((late,),) = units_of(episode_of(steps=4, said=((3.0, "x" * 9), (4.0, "y"))), loop="realtime")
    assert late.frames.tolist() == [0, 1, 2]
    assert ACTIONS.answer not in late.ids[-1:]
    assert int((late.ids == ACTIONS.answer).sum()) == 1


@pytest.mark.parametrize("loop", ["published", "realtime"])
def test_windows_are_stretches_of_one_stream(loop):
    episode = windowed((0, 5, 5, 9, 14), SAID)
    units = units_of(episode, loop=loop)
    ((whole,),) = units_of(replace(episode, segments=[]), loop=loop)
    prompt = Letters().encode("Say")
    own = [sequence.ids[sequence.loss_mask].tolist() for (sequence,) in units]
    assert [*prompt, ACTIONS.vision, *(token for part in own for token in part)] == whole.ids.tolist()
    for (before,), (after,) in pairwise(units):
        context = before.ids[before.loss_mask].tolist()
        assert after.ids[: len(prompt)].tolist() == prompt
        assert after.ids[~after.loss_mask][-len(context) :].tolist() == context
        shared = set(before.frames) & set(after.frames)
        assert shared  # the past is seen again, each `<vision>` with its own frame
    assert [sequence.name for (sequence,) in units] == ["one#0", "one#2", "one#3"]


def test_a_video_shorter_than_a_window_is_one_window():
    episode = windowed((0, 3), ((2.0, "a"),))
    ((window,),) = units_of(episode)
    ((whole,),) = units_of(replace(episode, segments=[]))
    assert window.ids.tolist() == whole.ids.tolist()


def test_cut_sequences_keep_tokens_and_frames_together():
    ((sequence,),) = units_of(episode_of(steps=14, said=SAID), max_length=12)
    assert len(sequence.ids) == 12
    assert len(sequence.frames) == int((sequence.vision_mask != 0).sum())


def test_an_episode_without_a_step_gives_nothing():
    assert units_of(replace(episode_of(), stop_row=0)) == []


def test_rows_beyond_the_features_are_refused():
    with pytest.raises(InputError, match="40 feature steps"):
        units_of(episode_of(steps=41))


# ------------------------------------------------------------------------------------------------- losses
def losses(model: StreamVlm, units, read=read_features, **options) -> torch.Tensor:
    return unit_losses(model, collate_units(units, read, ACTIONS, **options))


def three_units() -> list[tuple[TrainingSequence, ...]]:
    episodes = [episode_of("a", 5), episode_of("bb", 12, SAID), episode_of("ccc", 9, ((3.0, RIGHT),))]
    return [unit for episode in episodes for unit in units_of(episode)]


def test_padding_changes_neither_losses_nor_gradients():
    batched, alone = model_of(), model_of()
    units = three_units()
    together = losses(batched, units)
    together.sum().backward()
    each = torch.cat([losses(alone, [unit]) for unit in units])
    each.sum().backward()
    torch.testing.assert_close(together, each, atol=1e-5, rtol=1e-5)
    for (name, one), (_, other) in zip(batched.named_parameters(), alone.named_parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_the_loss_depends_on_the_video_but_not_in_the_published_form():
    model = model_of()

    def black(key: str, rows: slice) -> np.ndarray:
        return np.zeros_like(read_features(key, rows))

    def moved(**settings) -> float:
        units = units_of(episode_of(steps=12, said=SAID), **settings)
        with torch.no_grad():
            return float((losses(model, units) - losses(model, units, black)).abs().max())

    assert moved() > 1e-3
    assert moved(form="published", published_mask=2) > 1e-3
    assert moved(form="published") == 0.0


def test_a_unit_of_several_sequences_is_their_mean():
    model = model_of()
    first, second, _ = three_units()
    with torch.no_grad():
        joined = losses(model, [(*first, *second), second])
        assert joined.tolist() == pytest.approx(
            [float(losses(model, [first, second]).mean()), float(losses(model, [second])[0])], abs=1e-5
        )


def test_vision_targets_can_weigh_less():
    units = three_units()
    batch = collate_units(units, read_features, ACTIONS, vision_weight=0.25)
    targets = collate_units(units, read_features, ACTIONS).weights
    is_vision = batch.ids == ACTIONS.vision
    assert torch.equal(batch.weights, targets * torch.where(is_vision, 0.25, 1.0))


# ----------------------------------------------------------------------------------------------- training
def settings_of(trainable=EVERYTHING, cache_mb: int = 0, **loop) -> TrainSettings:
    return TrainSettings(loop=LoopSettings(**loop), trainable=trainable, cache_mb=cache_mb)


def trained(settings: TrainSettings, model: StreamVlm | None = None, samples=None, read=read_features):
    model = model or model_of()
    samples = samples or [sample_of(episode_of("a", 5), "a"), sample_of(episode_of("bb", 12, SAID), "b")]
    return model, train(samples, read, times_of, model, Letters(), settings)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (("*.lora_*",), {"lora_A", "lora_B"}),
        (("*.xattn_layer.*", "lm_head.*"), {"xattn_layer", "lm_head"}),
    ],
)
def test_only_what_is_named_is_trained(patterns, expected):
    model = model_of()
    before = copy.deepcopy(model.state_dict())
    trained(settings_of(patterns, max_steps=2, learning_rate=0.01), model)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(any(part in name for part in expected) for name in moved)
    assert {part for part in expected if any(part in name for name in moved)} == expected


def test_a_pattern_that_names_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"adapter"):
        select_trainable(model_of(), ["*.adapter.*", "*"])


def test_kept_projections_change_nothing_but_rounding():
    words = ("*.self_attn.*", "*.mlp.*", "*out_fc*", "lm_head*")
    results = [
        trained(settings_of(words, cache_mb, epochs=3, batch_size=2, learning_rate=0.01))[1].curve
        for cache_mb in (0, 1, 64)
    ]
    for other in results[1:]:
        for row, same in zip(results[0], other, strict=True):
            assert row == pytest.approx(same, abs=1e-4)
    with pytest.raises(ConfigError, match="feat_attn_keys_fc"):
        trained(settings_of(EVERYTHING, cache_mb=1))


def test_bfloat16_trains_every_layer():
    model = model_of().to(torch.bfloat16)
    _, result = trained(settings_of(("*.lora_*", "*embed*", "*.out_fc.*"), precision="bfloat16", epochs=2), model)
    assert all(np.isfinite(row["loss"]) for row in result.curve)
    kinds = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert {kind for name, kind in kinds.items() if "lora_" in name} == {torch.float32}
    assert kinds["lm_head.weight"] == torch.bfloat16


def test_what_was_seen_reaches_the_words():
    """Trained on which channels light up and when, the coach says what new videos show, at the right time."""

    def bright(key: str, rows: slice) -> np.ndarray:
        rng = np.random.default_rng(int(key[1:]))
        maps = rng.random((40, CHANNELS, 1, 2)).astype(np.float32)
        maps[3:, slice(0, 4) if key[0] == "l" else slice(4, 8)] += 3.0
        return maps[rows]

    def sample(key: str) -> Sample:
        return sample_of(episode_of(key, 7, ((4.0, LEFT if key[0] == "l" else RIGHT),)), key)

    seen = [f"{side}{number}" for number in range(6) for side in "lr"]
    model, result = trained(
        settings_of(epochs=25, batch_size=4, learning_rate=0.01, schedule="cosine"),
        samples=[sample(key) for key in seen],
        read=bright,
    )
    assert result.curve[-1]["loss"] < 0.1
    new = [f"{side}{number}" for number in range(50, 54) for side in "lr"]
    predictor = Predictor(model, Letters(), StreamSettings(dtype="float32"), bright)
    for key, answer in zip(new, predictor.predict([sample(key) for key in new]), strict=True):
        said = Coaching.from_json(answer.output)
        assert said.feedbacks == [Letters().decode(Letters().encode(LEFT if key[0] == "l" else RIGHT, bos=False))]
        assert said.times == [0.5]  # after the fourth `<vision>`: (4 - 2) / 4 s, the released clock


# ------------------------------------------------------------------------------------------------- errors
def test_an_empty_split_is_said():
    with pytest.raises(InputError, match="no samples"):
        make_units([], times_of, Letters(), ACTIONS, SequenceSettings())
    nothing = sample_of(replace(episode_of(), stop_row=0))
    with pytest.raises(InputError, match="none of the 1 training samples"):
        make_units([nothing], times_of, Letters(), ACTIONS, SequenceSettings())


def test_a_split_of_which_everything_is_left_out_says_why(monkeypatch):
    left_out = SampleSet([], [Dropped("0001", "", "no exercise: fewer than two transitions")])
    monkeypatch.setattr(train_stage, "dataset_samples", lambda *_: left_out)
    monkeypatch.setattr(train_stage, "folder_of", lambda *_: None)
    empty = SimpleNamespace(keys=list)
    with pytest.raises(InputError, match=r"QEVD-FIT-COACH has no samples; left out: no exercise"):
        train_stage.training_samples("asset.json", empty, {"folder": "QEVD-FIT-COACH", "layout": "qevd"}, {})


def test_tokens_and_positions_the_model_lacks_are_refused():
    small = StreamVlm(replace(CONFIG, vocab_size=32))
    with pytest.raises(InputError, match="beyond the model's 32 rows"):
        trained(settings_of(), small)
    short = StreamVlm(replace(CONFIG, max_positions=10))
    with pytest.raises(InputError, match="10 positions"):
        trained(settings_of(), short)


def test_unusable_features_name_their_sample():
    def broken(key: str, rows: slice) -> np.ndarray:
        return np.full((rows.stop - rows.start, CHANNELS, 2, 2), np.nan, np.float32)

    def narrow(key: str, rows: slice) -> np.ndarray:
        return np.zeros((rows.stop - rows.start, 3, 2, 2), np.float32)

    one = [sample_of(episode_of(), "workout7")]
    with pytest.raises(NonFiniteError, match="workout7"):
        trained(settings_of(), samples=one, read=broken)
    with pytest.raises(InputError, match=r"workout7.*\[8, 8, H, W\]"):
        trained(settings_of(), samples=one, read=narrow)


def test_a_checkpoint_of_another_vocabulary_is_refused(tmp_path):
    checkpoint, llama = tmp_path / "weights" / "state_dict.pth.tar", tmp_path / "llama" / "config.json"
    size = train_tiny_tokenizer(["jump high"], 280, SPECIAL_TOKENS, checkpoint.parent)
    base = {**LLAMA, "vocab_size": size - len(SPECIAL_TOKENS)}
    write_json(llama, base)
    settings = {
        "cross_attention": {"layers": [0, 1], "heads": 1, "vision_dim": CHANNELS, "attention_dim": 16},
        "lora": {"r": 4, "alpha": 8, "targets": ["q_proj", "v_proj"]},
        "dtype": "float32",
    }
    for vocabulary, fits in ((size, True), (size + 64, False)):
        model = random_stream_vlm(StreamVlmConfig.from_parts(base, ATTENTION, LORA).resized(vocabulary), 0)
        write_torch(checkpoint, {"state_dict": genuine_state_dict(model)})
        files = {"checkpoint": checkpoint, "llama": llama}
        if fits:
            loaded, _ = load_trainable(files, settings, "cpu", 0.0)
            assert loaded.has_lora
        else:
            with pytest.raises(CheckpointError, match=r"embed_tokens"):
                load_trainable(files, settings, "cpu", 0.0)
