"""What the workflow asks of S-GEAR's card, and the pictures and baselines that need no model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from sightline.config.load import merge
from sightline.errors import ConfigError, InputError
from sightline.registry import load_plan
from sightline.report.kinds import Bar, BarsView, CurveView, Line, Point
from sightline.report.plots import draw_bars, draw_curve
from sightline.systems.sgear.annotations import Segment
from sightline.systems.sgear.anticipate import Moment, draw_timeline
from sightline.systems.sgear.baselines import LastActions, frequencies, successors
from sightline.systems.sgear.demo_plan import DRAWN, Sizes, plan_videos
from sightline.systems.sgear.plan import SgearPlan

CONFIG = Path(__file__).parents[2] / "config"
DATASET = "sgear_demo_val"


def plan_of(variants: list[str], **over: object) -> SgearPlan:
    config = yaml.safe_load((CONFIG / "config.yaml").read_text())
    chosen = {"runs": [{"system": "sgear", "datasets": [DATASET], "variants": variants}], **over}
    room = load_plan(merge(config, chosen), CONFIG).room("sgear")
    assert isinstance(room, SgearPlan)
    return room


def test_runs_that_others_read_stand_before_them() -> None:
    names = [run["variant"] for run in plan_of(["demo_fusion"]).shared_runs]
    assert set(names) == {"demo_fusion", "demo_rgb", "demo_flow", "demo_obj", "demo_rgb_plain"}
    assert names[-1] == "demo_fusion"


def test_no_run_shares_a_job_where_the_card_says_so() -> None:
    room = plan_of(["demo_rgb"], systems={"sgear": {"one_job": []}})
    assert room.shared_files == []


def test_a_feature_row_waits_for_the_chain_of_trainings() -> None:
    room = plan_of(["demo_rgb"])
    records = [Path(path).parent.name for path in room.training.records("tsn_rgb")]
    assert records == ["ek100_tsn_rgb", "ek100_vit", "ek100_vit_recognition"]
    assert room.training.base_checkpoint(SimpleNamespace(training="ek100_tsn_rgb")) == [
        "results/checkpoints/sgear/ek100_vit/checkpoint.pth"
    ]
    assert room.training.base_checkpoint(SimpleNamespace(training="ek100_tsn_rgb_alone")) == []


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"training": {"demo_rgb": {"init": "nothing"}}}, "nothing is unknown"),
        ({"training": {"demo_rgb": {"prototypes": "none"}}}, "none is unknown"),
        ({"variants": {"demo_fusion": {"fusion": {"members": {"demo_chance": 1.0}}}}}, "no variant with a model"),
        ({"variants": {"demo_rgb": {"horizons": [9.0]}}}, "not in scoring.horizons"),
        ({"variants": {"demo_rgb": {"baseline": {"kind": "chance", "dataset": "x"}}}}, "exactly one of"),
    ],
)
def test_a_card_that_does_not_fit_together_is_refused(over: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        plan_of(["demo_rgb"], systems={"sgear": over})


def segment(video: str, start: float, action: int) -> Segment:
    return Segment(f"{video}-{start}", f"{video}-{start}", video, "P01", start, start + 1, action, 0, 0)


def test_successors_follow_the_annotations_of_each_video() -> None:
    rows = [segment("a", 0, 0), segment("a", 2, 1), segment("a", 4, 0), segment("b", 0, 2), segment("b", 9, -1)]
    last = LastActions(rows)
    assert last.pairs() == [(0, 1), (1, 0)]
    assert [last.before("a", time) for time in (0.0, 0.1, 2.0, 99.0)] == [-1, 0, 0, 0]
    assert last.before("b", 99.0) == 2
    shares = frequencies(rows, 4)
    assert shares.tolist() == [0.5, 0.25, 0.25, 0.0]
    table = successors(last, shares)
    assert np.allclose(table.sum(axis=1), 1)
    assert table[0].argmax() == 1
    assert table[2].argmax() == 0, "an action without a successor falls back to the most frequent"


def test_a_baseline_needs_labels() -> None:
    with pytest.raises(InputError, match="no labelled action"):
        frequencies([segment("a", 0, -1)], 3)


def test_the_next_action_is_a_function_of_the_last_two_but_for_the_drawn_ones() -> None:
    videos = plan_videos(3, Sizes(verbs=3, nouns=3, train_videos=30, validation_videos=1, test_videos=1, actions=40))
    seen: dict[tuple[int, ...], dict[tuple[int, int], int]] = {}
    for video in videos:
        for before, last, following in zip(video.actions, video.actions[1:], video.actions[2:], strict=False):
            counts = seen.setdefault((before.verb, before.noun, last.verb, last.noun), {})
            counts[following.verb, following.noun] = counts.get((following.verb, following.noun), 0) + 1
    often = [counts for counts in seen.values() if sum(counts.values()) >= 10]
    share = sum(max(counts.values()) for counts in often) / sum(sum(counts.values()) for counts in often)
    assert 1 - 1.5 * DRAWN < share < 1
    assert plan_videos(3, Sizes()) == plan_videos(3, Sizes())


def test_bars_share_one_axis_with_zero_on_it() -> None:
    figure = draw_bars(BarsView("t", "s", "%", [Bar("a", 40.0, 30.0, 50.0, 9), Bar("b", -10.0, -20.0, 5.0)]))
    first, second = figure.bars
    assert first.x == figure.zero
    assert second.x + second.width == pytest.approx(figure.zero)
    assert first.width == pytest.approx(4 * second.width, abs=0.2)
    assert first.whisker is not None
    assert first.whisker[0] < first.x + first.width < first.whisker[1]


def test_a_curve_goes_left_to_right_and_up_with_its_values() -> None:
    line = Line("r", [Point(0.5, 10.0, 8.0, 12.0), Point(1.0, 30.0), Point(4.0, 20.0)])
    figure = draw_curve(CurveView("t", "s", "x", "y", [line]))
    (placed,) = figure.lines
    xs, ys = zip(*placed.dots, strict=True)
    assert list(xs) == sorted(xs)
    assert ys[1] < ys[2] < ys[0]
    assert [label for _, label in figure.x_ticks] == ["0.5", "1", "4"]
    assert len(placed.whiskers) == 1


def test_a_timeline_escapes_what_it_shows() -> None:
    moments = [Moment(1.0, [("<b>cut</b>", 0.75), ("stir", 0.25)]), Moment(2.0, [], "no_features")]
    drawn = draw_timeline(moments, 3.0, "a & b")
    assert "<b>" not in drawn
    assert "&lt;b&gt;cut" in drawn
    assert "a &amp; b" in drawn
