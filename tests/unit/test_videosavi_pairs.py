"""The pair filter, its reasons, and the files others read."""

from __future__ import annotations

import dataclasses
import random

import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from sightline.errors import ConfigError, InputError, StoreError
from sightline.records.types import PreferencePair
from sightline.systems.videosavi.pairs import (
    BROKEN_TEXT,
    IDENTICAL,
    LENGTHS_DIFFER,
    NEAR_DUPLICATE,
    NO_ERROR,
    QUOTES_CRITIQUE,
    REASONS,
    REPEATS,
    TOO_SHORT,
    WORSE,
    Candidate,
    CardFacts,
    FilterSettings,
    drop_reason,
    filter_pairs,
    read_pairs,
    similarity,
    write_dataset,
    write_pairs,
)

GOOD = PreferencePair(
    "v1-0", "What moves first in the video?", "The red cup moves before the ball.", "The ball moves first of all.",
    ["v1.mp4"], "The order is wrong.", {"iteration": 1, "kind": "temporal"},
)  # fmt: skip


def candidate(vote=None, **changes):
    return Candidate(dataclasses.replace(GOOD, **changes), vote)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (candidate(), None),
        (candidate(vote=0.9), None),
        (candidate(chosen="bad \ufffd bytes in here"), BROKEN_TEXT),
        (candidate(chosen="the ball  moves FIRST of all"), IDENTICAL),
        (candidate(chosen="It moves."), TOO_SHORT),
        (candidate(critique="There are NO\nerrors in it."), NO_ERROR),
        (candidate(chosen="As the critique says, the cup moves."), QUOTES_CRITIQUE),
        (candidate(chosen="a cup is seen " * 4), REPEATS),
        (candidate(chosen="one two three four " + " ".join(f"w{n}" for n in range(30))), LENGTHS_DIFFER),
        (candidate(vote=0.2), WORSE),
    ],
)
def test_each_reason(case, reason):
    assert drop_reason(case) == reason


def test_near_duplicates_count_within_one_video_alone():
    again = {"prompt": "What moves first in this video?"}
    same = [candidate(), candidate(id="v1-1", **again), candidate(id="v2-0", media=["v2.mp4"], **again)]
    found = filter_pairs(same, FilterSettings(max_similarity=0.6))
    assert [pair.id for pair in found.kept] == ["v1-0", "v2-0"]
    assert found.dropped == {"v1-1": NEAR_DUPLICATE}


def test_a_dropped_pair_blocks_no_other():
    found = filter_pairs([candidate(vote=0.0), candidate(id="v1-1")])
    assert [pair.id for pair in found.kept] == ["v1-1"]


def test_the_order_of_candidates_does_not_matter_and_all_are_counted():
    made = [candidate(id=f"v1-{number}", prompt=f"{'what ' * (number % 3 + 1)}w{number % 5}") for number in range(20)]
    made += [candidate(id="v9-0", vote=0.1, media=["v9.mp4"])]
    wanted = filter_pairs(made)
    random.Random(1).shuffle(made)
    found = filter_pairs(made)
    assert found == wanted
    funnel = found.funnel()
    assert funnel["made"] == 21 == funnel["kept"] + sum(funnel[reason] for reason in REASONS)
    assert funnel[WORSE] == 1
    assert funnel[NEAR_DUPLICATE] > 0


def test_one_id_twice_is_refused():
    with pytest.raises(InputError, match="one id"):
        filter_pairs([candidate(), candidate()])


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=40), st.text(max_size=40))
def test_similarity_is_symmetric_and_1_for_itself(first, second):
    assert similarity(first, second) == similarity(second, first)
    assert 0 <= similarity(first, second) <= 1
    assert similarity(first, first) == 1


def test_wrong_settings_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        FilterSettings(min_words=-1, max_length_ratio=0.5, max_similarity=2)
    assert len(caught.value.problems) == 3


def test_files_round_trip_in_the_preference_format(tmp_path):
    pairs = [dataclasses.replace(GOOD, id=f"v1-{number}") for number in range(3)]
    write_pairs(tmp_path / "a.parquet", pairs[::-1])
    write_pairs(tmp_path / "b.parquet", pairs)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert read_pairs(tmp_path / "a.parquet") == pairs
    columns = pq.read_table(tmp_path / "a.parquet").schema
    assert {"prompt", "chosen", "rejected", "video", "critique", "provenance"} <= set(columns.names)
    assert str(columns.field("chosen").type) == "string"


def test_damaged_and_foreign_files(tmp_path):
    with pytest.raises(StoreError, match="not found"):
        read_pairs(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(StoreError, match="not a readable"):
        read_pairs(tmp_path / "text.parquet")
    write_pairs(tmp_path / "a.parquet", [GOOD])
    pq.write_table(pq.read_table(tmp_path / "a.parquet").drop_columns(["critique"]), tmp_path / "b.parquet")
    with pytest.raises(StoreError, match="columns"):
        read_pairs(tmp_path / "b.parquet")


def test_a_folder_says_where_its_pairs_come_from(tmp_path):
    filtered = filter_pairs([candidate(), candidate(id="v1-1", vote=0.1)])
    facts = CardFacts("Pairs", "Made by a small model.", "cc0-1.0", {"model": "tiny", "iteration": "1"}, demo=True)
    write_dataset(tmp_path, filtered, facts, FilterSettings())
    card = (tmp_path / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["configs"][0]["data_files"] == [{"split": "train", "path": "pairs.parquet"}]
    assert (tmp_path / head["configs"][0]["data_files"][0]["path"]).is_file()
    assert f"| {WORSE} | 1 |" in card
    assert "| kept | 1 |" in card
    assert "demonstration" in card
