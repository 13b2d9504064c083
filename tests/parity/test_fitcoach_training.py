"""Training sequences and one optimiser step of every mode against the fork's own training."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
from fitcoach_model import golden_model
from golden import find, load_json
from sightline.records.types import Sample
from sightline.systems.fitcoach.model.loader import GENUINE_PREFIX, SPECIAL_TOKENS
from sightline.systems.fitcoach.model.stream_vlm import StreamVlm
from sightline.systems.fitcoach.records import Episode
from sightline.systems.fitcoach.samples import (
    SPLIT_FOLDERS,
    QevdQuirks,
    build_samples,
    genuine_feature_paths,
    load_annotations,
)
from sightline.systems.fitcoach.sequences import SequenceSettings, training_units
from sightline.systems.fitcoach.stream import ActionTokens
from sightline.systems.fitcoach.train import TrainSettings, collate_units, train
from sightline.training.loop import LoopSettings

TOLERANCE = 1e-4
FORK = QevdQuirks(
    unclosed_last_span="skip", length_mismatch="skip", full_workout_cut="published", window_dealing="published"
)
SEQUENCES = load_json("fitcoach", "f_dataset", "training_sequences_fork.json") or {}
STEPS = load_json("fitcoach", "g_train", "train_step.json") or {}


class Split:
    """A split of the golden dataset: samples of a mode, and its stored features."""

    def __init__(self, split: str, mode: str, window_s: float) -> None:
        folder = find("fitcoach", "f_dataset", "qevd", SPLIT_FOLDERS[split])
        workouts = [one for one in load_annotations(folder, FORK) if not one.problem]
        paths = {one.video_id: [folder / part for part in genuine_feature_paths(one.video)] for one in workouts}
        self.maps = {name: np.load(pair[0], allow_pickle=False) for name, pair in paths.items()}
        self.times = {name: np.load(pair[1], allow_pickle=False) for name, pair in paths.items()}
        features = {name: (name, times) for name, times in self.times.items()}
        self.samples: list[Sample] = build_samples(
            workouts, mode, features, seconds_per_step=1.0, window_s=window_s, quirks=FORK
        ).samples

    def read(self, key: str, rows: slice) -> np.ndarray:
        return self.maps[key][rows]


@cache
def split_of(split: str, mode: str, window_s: float) -> Split:
    return Split(split, mode, window_s)


def published(mask: int) -> SequenceSettings:
    return SequenceSettings(form="published", published_mask=mask)


def _keys(document: dict, what: str) -> list:
    return [pytest.param(key, id=f"fitcoach-{what}-{key}") for key in document if not key.startswith("_")]


@pytest.mark.parametrize("key", _keys(SEQUENCES, "sequences"))
def test_sequences_equal_the_forks(key):
    split, mode, *options = key.split("/")
    window_s = float(options[0].removeprefix("window=")) if options else 20.0
    data = split_of(split, mode, window_s)
    _, tokenizer = golden_model()
    actions = ActionTokens(*map(tokenizer.token_id, SPECIAL_TOKENS))
    assert len(data.samples) == len(SEQUENCES[key])
    for sample, wanted in zip(data.samples, SEQUENCES[key], strict=True):
        episode = Episode.from_json(sample.payload)
        units = training_units(sample.id, episode, data.times[episode.feature_key], tokenizer, actions, published(1))
        made = [sequence for unit in units for sequence in unit]
        assert len(made) == len(wanted)
        for sequence, want in zip(made, wanted, strict=True):
            assert sequence.ids.tolist() == want["input_ids"]
            assert "".join(map(str, sequence.vision_mask)) == want["vision_xattn_mask"]
            assert "".join(str(int(one)) for one in sequence.loss_mask) == want["loss_mask"]
            batch = collate_units([(sequence,)], data.read, actions)
            maps = batch.features[0]
            assert not maps[0].any()
            assert list(maps.shape[1:]) == want["video_shape"][1:]
            assert len(maps) == want["video_shape"][0] + 1
            assert float(maps.double().sum()) == pytest.approx(want["video_sum"], abs=1e-2)


def _case(key: str) -> tuple[str, float]:
    name = STEPS[key]["eval_mode"]
    window = key.split("/")[0].rpartition("_")[2]
    return name, float(window) if name == "full_workout_sliding_window" and window.isdigit() else 20.0


@pytest.mark.parametrize("key", _keys(STEPS, "train"))
def test_a_training_step_equals_the_forks(key):
    case = STEPS[key]
    data = split_of("test", *_case(key))
    golden, tokenizer = golden_model()
    model = copy.deepcopy(golden)
    seen: list[dict[str, float]] = []
    after: list[dict[str, tuple[float, float]]] = []

    def numbers(model: StreamVlm) -> dict[str, tuple[float, float]]:
        return {
            name: (float(one.detach().double().sum()), float(one.detach().double().norm()))
            for name, one in model.named_parameters()
            if one.requires_grad
        }

    def watch(step: int, model: StreamVlm) -> None:
        if step:
            after.append(numbers(model))
        seen.append({name: float(one.grad.norm()) for name, one in model.named_parameters() if one.grad is not None})

    result = train(
        [data.samples[case["sample"]]],
        data.read,
        data.times.__getitem__,
        model,
        tokenizer,
        TrainSettings(
            loop=LoopSettings(
                learning_rate=case["lr"],
                weight_decay=case["weight_decay"],
                max_grad_norm=case["max_grad_norm"],
                shuffle=False,
            ),
            sequences=published(case["vision_mask_value"]),
            trainable=("*.lora_*",),
        ),
        watch=watch,
    )
    after.append(numbers(model))
    assert len(result.curve) == len(case["optimizer_steps"]) == len(after)
    for row, grads, values, want in zip(result.curve, seen, after, case["optimizer_steps"], strict=True):
        assert row["loss"] == pytest.approx(want["loss"], abs=TOLERANCE)
        assert row["grad_norm"] == pytest.approx(want["total_grad_norm_before_clip"], abs=TOLERANCE)
        assert {GENUINE_PREFIX + name for name in grads} == set(want["grad_norms"])
        for name, norm in grads.items():
            assert norm == pytest.approx(want["grad_norms"][GENUINE_PREFIX + name], abs=TOLERANCE)
        for name, pair in values.items():
            assert pair == pytest.approx(want["params_after_step_sum_and_norm"][GENUINE_PREFIX + name], abs=TOLERANCE)
