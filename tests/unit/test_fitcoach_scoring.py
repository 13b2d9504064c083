import pytest
from sightline.errors import InputError
from sightline.metrics.aggregate import Column, point_estimate
from sightline.metrics.text import Meteor, RougeL
from sightline.records.types import Prediction, Sample
from sightline.systems.fitcoach.records import Coaching, Episode
from sightline.systems.fitcoach.score import METRICS, ScoreSettings, matched_pairs, metric_specs, score

SETTINGS = ScoreSettings()


def sample(identifier, responses, times, exercises=("squats",)):
    episode = Episode(
        video=f"{identifier}.mp4", video_id=identifier, mode="single_exercise", exercises=list(exercises),
        prompt="Coach.", start=100.0, end=130.0, responses=responses, response_times=times,
        feedback_times=[100.0 + time for time in times], feature_key="key", first_row=0, stop_row=120,
    )  # fmt: skip
    return Sample(identifier, identifier, identifier, ["key"], 1.0, episode.to_json())


def said(identifier, feedbacks, times):
    return Prediction(identifier, "ok", output=Coaching(feedbacks, times).to_json())


SAMPLES = [
    sample("a", ["Go lower.", "Great job!"], [5.0, 10.0]),
    sample("b", ["Slow down."], [5.0], exercises=("lunges", "squats")),
    sample("c", [], []),
    sample("d", ["Faster!"], [2.0]),
]
PREDICTIONS = [
    Prediction("d", "failed", reason="out of memory"),
    said("c", ["Noise"], [1.0]),
    said("b", [], []),
    said("a", ["Go much lower.", "Great job!", "Nice."], [4.0, 11.6, 20.0]),
]


def rows_of(rows, metric):
    return {row.id: row for row in rows if row.metric == metric}


def test_rows_and_their_reasons():
    rows, absent = score(SAMPLES, PREDICTIONS)
    precision, recall = rows_of(rows, "temporal_precision"), rows_of(rows, "temporal_recall")
    assert (precision["a"].value, precision["a"].denominator) == (1.0, 3.0)
    assert (recall["a"].value, recall["a"].denominator) == (1.0, 2.0)
    assert (precision["b"].status, precision["b"].reason) == ("unscored", "no predicted feedback")
    assert (recall["b"].value, recall["b"].denominator) == (0.0, 1.0)
    assert (precision["c"].value, precision["c"].denominator) == (0.0, 1.0)
    assert (recall["c"].status, recall["c"].reason) == ("unscored", "no reference feedback")
    meteor, rouge = rows_of(rows, SETTINGS.meteor), rows_of(rows, "rouge_l_rouge_score")
    assert meteor["a"].value == Meteor().score("Go lower.", "Go much lower.")
    assert rouge["a"].value == RougeL().score("Go lower.", "Go much lower.")
    assert (meteor["b"].value, meteor["b"].status, meteor["b"].reason) == (None, "unscored", "no matched pair")
    for metric in ("temporal_precision", "temporal_recall", SETTINGS.meteor, "rouge_l_rouge_score"):
        failed = rows_of(rows, metric)["d"]
        assert (failed.status, failed.reason, failed.value) == ("error", "out of memory", None)
    assert {row.group for row in rows if row.id == "a"} == {"squats"}
    assert {row.group for row in rows if row.id == "b"} == {"single_exercise"}
    assert [row.id for row in rows] == sorted(row.id for row in rows)
    assert set(absent) == {SETTINGS.bertscore, "llm_acc"}
    assert "scoring.bertscore.weights" in absent[SETTINGS.bertscore]
    for row in rows:
        row.check()


def test_temporal_f_comes_from_the_rows():
    rows, _ = score(SAMPLES, PREDICTIONS)
    (spec,) = [spec for spec in METRICS if spec.name == "temporal_f"]
    columns = []
    for name in spec.inputs:
        part = rows_of(rows, name)
        columns.append(Column.of([part[s.id].value for s in SAMPLES], [part[s.id].denominator for s in SAMPLES]))
    precision, recall = 1 / 4, 1 / 3
    expected = 2 * precision * recall / (precision + recall)
    assert point_estimate(spec, columns) == pytest.approx(expected, abs=1e-9)


def test_every_spec_has_rows_or_a_reason():
    rows, absent = score(SAMPLES, PREDICTIONS)
    have = {row.metric for row in rows} | set(absent)
    for spec in METRICS:
        assert set(spec.inputs) <= have
        assert spec.implementation


def test_order_of_predictions_does_not_matter():
    assert score(SAMPLES, PREDICTIONS) == score(SAMPLES, PREDICTIONS[::-1])


def test_matched_pairs_are_what_the_judge_reads():
    assert matched_pairs(SAMPLES, PREDICTIONS) == [{"GT": "Go lower.", "Pred": "Go much lower."}]


def test_tolerance_is_a_setting():
    wide = ScoreSettings(tolerance_s=4.0)
    assert len(matched_pairs(SAMPLES, PREDICTIONS, wide)) == 2


def test_missing_data_makes_metrics_absent_not_the_run_fail(tmp_path):
    settings = ScoreSettings(
        wordnet_folder=tmp_path / "corpora" / "wordnet", bertscore_folder=tmp_path / "model",
        bertscore_model="tiny", bertscore_layers=2,
    )  # fmt: skip
    rows, absent = score(SAMPLES, PREDICTIONS, settings)
    assert "python -m sightline wordnet" in absent["meteor_nltk_untrained_punkt"]
    assert "config.json is missing" in absent["bertscore_tiny_l2"]
    assert rows_of(rows, "rouge_l_rouge_score")["a"].status == "scored"
    assert "bertscore_tiny_l2" in [spec.name for spec in metric_specs(settings)]


def test_metric_names_say_the_implementation():
    assert metric_specs(ScoreSettings(tokenizer="punkt_tab"))[3].name == "meteor_nltk"
    assert metric_specs()[3].name == "meteor_nltk_untrained_punkt"


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        (PREDICTIONS[:-1], "item a.*no prediction"),
        ([*PREDICTIONS, PREDICTIONS[0]], "more than one prediction"),
        ([*PREDICTIONS, said("e", [], [])], "item e.*no sample"),
        ([*PREDICTIONS[:-1], said("a", ["x"], [])], "item a.*1 feedbacks but 0 times"),
        ([*PREDICTIONS[:-1], Prediction("a", "ok", output={"feedbacks": []})], "item a.*times"),
        (
            [*PREDICTIONS[:-1], Prediction("a", "ok", output={"feedbacks": [1], "times": [1.0]})],
            r"item a, field feedbacks\.0",
        ),
    ],
)
def test_malformed_input_is_one_clear_error(predictions, message):
    with pytest.raises(InputError, match=message):
        score(SAMPLES, predictions)
