"""From a QEVD folder to the final scores: parser, model, loop, clock, matching and metrics in one go."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
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
from sightline.systems.fitcoach.stream import StreamRequest

RUNS = {
    key: run
    for key, run in (load_json("fitcoach", "f_dataset", "end_to_end_official.json") or {}).items()
    if not key.startswith("_") and not run.get("error") and run.get("calls")
}
KEYS = pytest.mark.parametrize("key", [pytest.param(key, id=f"fitcoach-end-to-end-{key}") for key in RUNS])
OFFICIAL = QevdQuirks(unclosed_last_span="abort", length_mismatch="skip")


@cache
def dataset(key: str) -> tuple[list[Sample], dict[str, np.ndarray]]:
    """Returns the samples of a split and the features of its videos, by key."""
    split, mode = key.split("/")[:2]
    folder = find("fitcoach", "f_dataset", "qevd", SPLIT_FOLDERS.get(split, SPLIT_FOLDERS["train"]))
    workouts = [workout for workout in load_annotations(folder, OFFICIAL) if not workout.problem]
    arrays, times = {}, {}
    for workout in workouts:
        maps, stamps = genuine_feature_paths(workout.video)
        arrays[f"key-{workout.video_id}"] = np.load(folder / maps, allow_pickle=False)
        times[workout.video_id] = (f"key-{workout.video_id}", np.load(folder / stamps, allow_pickle=False))
    return build_samples(workouts, mode, times, seconds_per_step=0.1, quirks=OFFICIAL).samples, arrays


class RecordedBias(Predictor):
    """Adds the biases that the golden run added to the logits of its n-th call."""

    calls: dict[str, dict]

    def _prepare(self, sample: Sample, episode: Episode) -> StreamRequest | str:
        request = super()._prepare(sample, episode)
        recorded = self.calls[sample.id]["bias"]
        silent = (0.0, 0.0, 0.0)
        return replace(request, bias=lambda k: recorded[k] if k < len(recorded) else silent)


def predict(key: str, look_ahead: int, batch_limit: int) -> tuple[list[Sample], list[Prediction]]:
    samples, arrays = dataset(key)
    model, tokenizer = golden_model(merge_lora=True)
    settings = StreamSettings(dtype="float32", look_ahead=look_ahead, batch_limit=batch_limit)
    predictor = RecordedBias(model, tokenizer, settings, lambda name, rows: arrays[name][rows])
    predictor.calls = {sample.id: call for sample, call in zip(samples, RUNS[key]["calls"], strict=True)}
    return samples, predictor.predict(samples)


@pytest.mark.parametrize(("look_ahead", "batch_limit"), [(1, 1), (1, 8), (6, 8)])
@KEYS
def test_tokens_feedbacks_and_times(key, look_ahead, batch_limit):
    samples, predictions = predict(key, look_ahead, batch_limit)
    run = RUNS[key]
    assert len(samples) == len(run["calls"]) == len(run["per_video"])
    rows = zip(samples, predictions, run["calls"], run["per_video"], strict=True)
    for sample, prediction, call, expected in rows:
        episode = Episode.from_json(sample.payload)
        assert episode.steps == call["n_features"]
        assert episode.responses == expected["gt"]
        assert episode.response_times == expected["gt_timestamps"]
        said = Coaching.from_json(prediction.output)
        assert said.tokens[: len(call["prompt_ids"])] == call["prompt_ids"]
        assert said.tokens == call["output_ids"]
        assert (said.feedbacks, said.times) == (expected["pred"], expected["pred_timestamps"])
        assert said.warnings == []


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
