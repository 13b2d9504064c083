from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sightline.errors import NonFiniteError
from sightline.metrics.temporal import match_feedbacks, match_in_order

TIMES = st.lists(st.integers(-4, 120).map(lambda quarter: quarter / 4), max_size=12).map(sorted)


def test_window_is_strictly_half_of_the_tolerance():
    assert match_in_order([10.0], [11.5], ["b"]) == ()
    assert match_in_order([10.0], [np.nextafter(11.5, 0)], ["b"]) == ((0, 0),)
    assert match_in_order([10.0], [12.0], ["b"], half_window_s=2.5) == ((0, 0),)


def test_equally_near_takes_the_first_and_gives_no_second_choice():
    assert match_in_order([1.0], [0.5, 1.5], ["a", "b"]) == ((0, 0),)
    # Both references are nearest to prediction 0; the second one is not offered prediction 1.
    assert match_in_order([1.0, 1.2], [1.1, 2.2], ["a", "b"]) == ((0, 0),)


def test_matches_never_go_back():
    assert match_in_order([5.0, 1.0], [1.0, 5.0], ["a", "b"]) == ((0, 1),)


def test_silent_counterpart_matches_nothing_but_silent_query_may():
    assert match_in_order([1.0], [1.0], [""]) == ()
    match = match_feedbacks([1.0], ["go"], [1.0], [""])
    assert match.recall_pairs == ()
    assert match.precision_pairs == ((0, 0),)


def test_empty_sides():
    assert match_in_order([], [1.0], ["a"]) == ()
    assert match_in_order([1.0], [], []) == ()


def test_refuses_what_is_not_a_time():
    with pytest.raises(NonFiniteError):
        match_in_order([float("nan")], [1.0], ["a"])
    with pytest.raises(ValueError, match="1 times but 0 texts"):
        match_in_order([1.0], [1.0], [])


@settings(max_examples=150, deadline=None)
@given(TIMES, TIMES)
def test_pairs_are_ordered_close_and_nearest(reference, predicted):
    match = match_feedbacks(reference, ["r"] * len(reference), predicted, ["p"] * len(predicted))
    for pairs, queries, others in (
        (match.recall_pairs, reference, predicted),
        (match.precision_pairs, predicted, reference),
    ):
        assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(pairs))
        for query, other in pairs:
            distance = abs(queries[query] - others[other])
            assert distance < 1.5
            assert distance == min(abs(queries[query] - time) for time in others)
    assert len(match.recall_pairs) <= min(match.references, match.predictions)


@settings(max_examples=50, deadline=None)
@given(TIMES)
def test_saying_the_same_at_the_same_distinct_times_matches_all(times):
    times = sorted(set(times))
    match = match_feedbacks(times, ["t"] * len(times), times, ["t"] * len(times))
    assert match.recall_pairs == match.precision_pairs == tuple((i, i) for i in range(len(times)))
