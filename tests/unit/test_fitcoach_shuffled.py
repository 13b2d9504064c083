"""Predictions scored against the wrong episodes, and the measure of timing and wording at once."""

from __future__ import annotations

import numpy as np
import pytest
from sightline.metrics.aggregate import Column, point_estimate
from sightline.records.types import Score
from sightline.systems.fitcoach.records import Coaching, Episode
from sightline.systems.fitcoach.shuffled import Watched, shuffled_rows, shuffled_specs

TEMPORAL = ("p", "r", "f")


def watched(name: str, prompt: str, expected: list[tuple[float, str]], said: list[tuple[float, str]] | None) -> Watched:
    episode = Episode(
        video=f"./long_range_videos/{name}.mp4", video_id=name, mode="single_exercise", exercises=[prompt],
        prompt=prompt, start=0.0, end=20.0, responses=[text for _, text in expected],
        response_times=[time for time, _ in expected], feedback_times=[time for time, _ in expected],
        feature_key="key", first_row=0, stop_row=80,
    )  # fmt: skip
    coaching = None if said is None else Coaching([text for _, text in said], [time for time, _ in said])
    return Watched(name, prompt, episode, coaching, "" if coaching else "out of luck")


def same(pairs: list[tuple[str, str]]) -> list[float]:
    return [float(left == right) for left, right in pairs]


def rows_of(runs: list[Watched]) -> dict[tuple[str, str], Score]:
    return {(row.id, row.metric): row for row in shuffled_rows(runs, TEMPORAL[:2], 1.5, same)}


def value(runs: list[Watched], metric: str) -> float | None:
    rows = rows_of(runs)
    (spec,) = [spec for spec in shuffled_specs(TEMPORAL, "") if spec.name == metric]
    columns = []
    for name in spec.inputs:
        found = [rows[one.name, name] for one in runs]
        columns.append(Column.of([row.value for row in found], [row.denominator for row in found]))
    return point_estimate(spec, columns)


def test_only_episodes_of_the_same_prompt_are_exchanged() -> None:
    runs = [
        watched("a", "squats", [(3, "low")], [(3, "low")]),
        watched("b", "squats", [(9, "chest")], [(9, "chest")]),
        watched("c", "jacks", [(3, "arms")], [(3, "arms")]),
        watched("d", "jacks", [(3, "pace")], [(3, "pace")]),
    ]
    rows = rows_of(runs)
    assert [rows[name, "r_shuffled"].value for name in "abcd"] == [0, 0, 1, 1]
    assert value(runs, "timed_rouge_l") == pytest.approx(1)
    assert value(runs, "timed_rouge_l_shuffled") == pytest.approx(0)
    assert value(runs, "f_shuffled") == pytest.approx(0.5)


def test_a_lone_prompt_is_exchanged_with_all_others() -> None:
    runs = [watched(name, name, [(3, "x")], [(3, "x")] if name == "a" else []) for name in "abc"]
    assert [rows_of(runs)[name, "r_shuffled"].value for name in "abc"] == [0, 0.5, 0.5]


def test_a_model_that_does_not_look_gains_nothing() -> None:
    blind = [(4.0, "keep going"), (9.0, "well done")]
    references = [[(4.2, "keep going")], [(8.0, "lower")], [(9.0, "well done"), (12.0, "faster")]]
    runs = [watched(str(number), "squats", expected, blind) for number, expected in enumerate(references)]
    assert value(runs, "timed_rouge_l_gain") == pytest.approx(0)
    assert value(runs, "timed_rouge_l") == pytest.approx(value(runs, "timed_rouge_l_shuffled"))


def test_rows_of_the_baseline_are_the_mean_over_all_shuffles() -> None:
    generator = np.random.default_rng(0)

    def some(count: int) -> list[tuple[float, str]]:
        return sorted((float(time), str(generator.choice(["x", "y"]))) for time in generator.uniform(0, 20, count))

    runs = [watched(str(number), "squats", some(3), some(2)) for number in range(4)]
    rows = rows_of(runs)
    for i, one in enumerate(runs):
        crossed = [
            rows_of([Watched("z", "", one.episode, other.said)])["z", "timed_rouge_l_recall"].value
            for j, other in enumerate(runs)
            if j != i
        ]
        assert rows[one.name, "timed_rouge_l_recall_shuffled"].value == pytest.approx(np.mean(crossed))


def test_silence_failures_and_loneliness_are_told_apart() -> None:
    silent = [watched(name, "squats", [(3, "x")], []) for name in "ab"]
    assert value(silent, "timed_rouge_l") == 0 == value(silent, "timed_rouge_l_shuffled")
    failed = rows_of([watched("a", "squats", [(3, "x")], None), watched("b", "squats", [(3, "x")], [(3, "x")])])
    assert {row.status for (name, _), row in failed.items() if name == "a"} == {"error"}
    assert failed["b", "r_shuffled"].status == "unscored"
    assert value([watched("a", "squats", [(3, "x")], [(3, "x")])], "f_shuffled") is None
