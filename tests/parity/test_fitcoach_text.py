"""METEOR, ROUGE-L and the whole scoring stage against the released evaluator."""

from __future__ import annotations

from functools import cache

import pytest
from golden import load_json, load_jsonl
from sightline.metrics.aggregate import Column, point_estimate
from sightline.metrics.text import Meteor, RougeL, tokenize_untrained_punkt
from sightline.records.types import Prediction, Sample
from sightline.systems.fitcoach.records import Coaching, Episode
from sightline.systems.fitcoach.score import ScoreSettings, matched_pairs, metric_specs, score

ROWS = load_jsonl("fitcoach", "e_text", "text_metrics.jsonl")
RUNS = {
    key: run
    for key, run in (load_json("fitcoach", "f_dataset", "end_to_end_official.json") or {}).items()
    if not key.startswith("_") and not run.get("error") and run.get("per_video")
}


class NoWordNet:
    """A WordNet that knows no word."""

    def synsets(self, word: str) -> list:
        return []


@cache
def _meteor(with_wordnet: bool = True) -> Meteor:
    return Meteor() if with_wordnet else Meteor(wordnet=NoWordNet())


@pytest.mark.parametrize("index", [pytest.param(i, id=f"fitcoach-text-{i}") for i in range(len(ROWS))])
def test_pair_equals_the_released_metrics(index):
    row = ROWS[index]
    assert tokenize_untrained_punkt(row["gt"]) == row["gt_tokens"]
    assert tokenize_untrained_punkt(row["pred"]) == row["pred_tokens"]
    assert _meteor().score(row["gt"], row["pred"]) == pytest.approx(row["meteor"], abs=1e-12)
    assert _meteor().score_tokens(row["gt_tokens"], row["pred_tokens"]) == pytest.approx(row["meteor"], abs=1e-12)
    without = _meteor(with_wordnet=False).score(row["gt"], row["pred"])
    assert without == pytest.approx(row["meteor_no_wordnet"], abs=1e-12)
    assert RougeL().score(row["gt"], row["pred"]) == pytest.approx(row["rougeL"], abs=1e-15)


def _rows_of(run) -> tuple[list[Sample], list[Prediction]]:
    samples, predictions = [], []
    for index, episode in enumerate(run["per_video"]):
        payload = Episode(
            video=f"{index}.mp4", video_id=str(index), mode="single_exercise", exercises=["exercise"],
            prompt="", start=0.0, end=0.0, responses=episode["gt"], response_times=episode["gt_timestamps"],
            feedback_times=episode["gt_timestamps"], feature_key="", first_row=0, stop_row=0,
        )  # fmt: skip
        samples.append(Sample(str(index), str(index), str(index), [], 0.0, payload.to_json()))
        said = Coaching(episode["pred"], episode["pred_timestamps"])
        predictions.append(Prediction(str(index), "ok", output=said.to_json()))
    return samples, predictions


@pytest.mark.parametrize("key", [pytest.param(key, id=f"fitcoach-scores-{key}") for key in RUNS])
def test_scores_equal_the_released_evaluation(key):
    run = RUNS[key]
    samples, predictions = _rows_of(run)
    assert matched_pairs(samples, predictions) == run["saved_json"]
    settings = ScoreSettings()
    rows, absent = score(samples, predictions, settings)
    assert set(absent) == {settings.bertscore, "llm_acc"}
    found = {}
    for spec in metric_specs(settings):
        if spec.name not in absent:
            inputs = [[row for row in rows if row.metric == name] for name in spec.inputs]
            columns = [Column.of([r.value for r in part], [r.denominator for r in part]) for part in inputs]
            found[spec.name] = point_estimate(spec, columns) or 0.0
    assert found["temporal_f"] == pytest.approx(run["final_t_f_score"], abs=1e-12)
    assert found[settings.meteor] == pytest.approx(run["final_meteor"], abs=1e-12)
    assert found["rouge_l_rouge_score"] == pytest.approx(run["final_rougeL"], abs=1e-12)
