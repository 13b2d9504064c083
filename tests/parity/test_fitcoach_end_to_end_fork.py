"""The fork's three evaluation modes from a QEVD folder to the final scores, under its own rules."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import sightline.systems.fitcoach.predict as predict_module
import sightline.systems.fitcoach.windows as windows_module
from fitcoach_model import golden_model
from golden import find, load_json
from sightline.metrics.aggregate import Column, point_estimate
from sightline.records.types import Prediction, Sample
from sightline.systems.fitcoach.predict import Predictor, StreamSettings
from sightline.systems.fitcoach.records import Coaching, Episode
from sightline.systems.fitcoach.samples import (
    SPLIT_FOLDERS,
    QevdQuirks,
    build_samples,
    genuine_feature_paths,
    load_annotations,
)
from sightline.systems.fitcoach.score import ScoreSettings, matched_pairs, metric_specs, score
from sightline.systems.fitcoach.stream import Bias, StreamRequest, stream
from sightline.systems.fitcoach.windows import WindowedRequest

RUNS = {
    key: run
    for key, run in (load_json("fitcoach", "f_dataset", "end_to_end_fork.json") or {}).items()
    if not key.startswith("_") and not run.get("error") and run.get("calls")
}
KEYS = pytest.mark.parametrize("key", [pytest.param(key, id=f"fitcoach-fork-end-to-end-{key}") for key in RUNS])
FORK = QevdQuirks(
    unclosed_last_span="skip", length_mismatch="skip", full_workout_cut="published", window_dealing="published"
)


@cache
def dataset(key: str) -> tuple[list[Sample], dict[str, np.ndarray]]:
    """Returns the samples of a split and the features of its videos, by key."""
    split, mode, *options = key.split("/")
    windows = [float(option.removeprefix("window=")) for option in options if option.startswith("window=")]
    folder = find("fitcoach", "f_dataset", "qevd", SPLIT_FOLDERS.get(split, SPLIT_FOLDERS["train"]))
    workouts = [workout for workout in load_annotations(folder, FORK) if not workout.problem]
    arrays, times = {}, {}
    for workout in workouts:
        maps, stamps = genuine_feature_paths(workout.video)
        arrays[f"key-{workout.video_id}"] = np.load(folder / maps, allow_pickle=False)
        times[workout.video_id] = (f"key-{workout.video_id}", np.load(folder / stamps, allow_pickle=False))
    window_s = windows[0] if windows else 20.0
    built = build_samples(workouts, mode, times, seconds_per_step=0.1, window_s=window_s, quirks=FORK)
    return built.samples, arrays


def recorded_bias(call: dict) -> Bias:
    return lambda k: call["bias"][k] if k < len(call["bias"]) else (0.0, 0.0, 0.0)


class RecordedBias(Predictor):
    """Adds the biases that the golden run added to the logits, call by call."""

    calls: dict[str, list[dict]]

    def _prepare(self, sample: Sample, episode: Episode) -> StreamRequest | str:
        request = super()._prepare(sample, episode)
        return replace(request, bias=recorded_bias(self.calls[sample.id][0]))

    def _prepare_windows(self, sample: Sample, episode: Episode) -> WindowedRequest:
        request = super()._prepare_windows(sample, episode)
        return replace(request, biases=[recorded_bias(call) for call in self.calls[sample.id]])


def calls_of(key: str, samples: list[Sample]) -> dict[str, list[dict]]:
    """Returns the golden generate calls of each sample: one, or one per window."""
    calls = iter(RUNS[key]["calls"])
    found = {}
    for sample in samples:
        windows = len(Episode.from_json(sample.payload).segments) or 1
        found[sample.id] = [next(calls) for _ in range(windows)]
    assert next(calls, None) is None
    return found


def predict(key: str, look_ahead: int, batch_limit: int) -> tuple[list[Sample], list[Prediction]]:
    samples, arrays = dataset(key)
    model, tokenizer = golden_model(merge_lora=True)
    settings = StreamSettings(
        dtype="float32", look_ahead=look_ahead, batch_limit=batch_limit, window_context="published"
    )
    predictor = RecordedBias(model, tokenizer, settings, lambda name, rows: arrays[name][rows])
    predictor.calls = calls_of(key, samples)
    return samples, predictor.predict(samples)


@pytest.mark.parametrize(("look_ahead", "batch_limit"), [(1, 1), (1, 8), (6, 8)])
@KEYS
def test_tokens_feedbacks_and_times(key, look_ahead, batch_limit):
    samples, predictions = predict(key, look_ahead, batch_limit)
    calls = calls_of(key, samples)
    for sample, prediction, expected in zip(samples, predictions, RUNS[key]["per_video"], strict=True):
        episode = Episode.from_json(sample.payload)
        asked = calls[sample.id]
        sizes = [segment.stop_row - segment.first_row for segment in episode.segments] or [episode.steps]
        assert sizes == [call["n_features"] for call in asked]
        assert (episode.responses, episode.response_times) == (expected["gt"], expected["gt_timestamps"])
        said = Coaching.from_json(prediction.output)
        whole = list(asked[0]["output_ids"])
        for call in asked[1:]:
            whole += call["output_ids"][len(call["prompt_ids"]) :]
        assert said.tokens == whole
        assert (said.feedbacks, said.times) == (expected["pred"], expected["pred_timestamps"])
        assert said.warnings == []


@KEYS
def test_prompts(key, monkeypatch):
    asked: list[list[int]] = []

    def remember(model, requests, settings, actions):
        asked.extend(list(request.prompt_ids) for request in requests)
        return stream(model, requests, settings, actions)

    monkeypatch.setattr(predict_module, "stream", remember)
    monkeypatch.setattr(windows_module, "stream", remember)
    predict(key, 1, 1)
    assert sorted(asked) == sorted(call["prompt_ids"] for call in RUNS[key]["calls"])


@KEYS
def test_final_scores(key):
    samples, predictions = predict(key, 8, 8)
    run = RUNS[key]
    assert matched_pairs(samples, predictions) == run["saved_json"]
    settings = ScoreSettings()
    rows, absent = score(samples, predictions, settings)
    found = {}
    for spec in metric_specs(settings):
        if spec.name not in absent:
            parts = [[row for row in rows if row.metric == name] for name in spec.inputs]
            columns = [Column.of([r.value for r in part], [r.denominator for r in part]) for part in parts]
            found[spec.name] = point_estimate(spec, columns) or 0.0
    assert found["temporal_f"] == pytest.approx(run["final_t_f_score"], abs=1e-12)
    assert found[settings.meteor] == pytest.approx(run["final_meteor"], abs=1e-12)
    assert found["rouge_l_rouge_score"] == pytest.approx(run["final_rougeL"], abs=1e-12)
