"""What the demo shows of an answer: nothing of it may run, and phrases wear the colour of their boxes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sightline.systems.hoiref.grounding import COLOURS, coloured_html, draw, ground, question_with_mark

PICTURE = np.full((60, 80, 3), 200, np.uint8)


def test_nothing_in_an_answer_runs():
    answer = "<script>alert(1)</script> <p><img src=x onerror=y></p> {<1><2><30><40>} <b>"
    shown = coloured_html(ground(answer))
    assert "<script" not in shown
    assert "<img" not in shown
    assert "<b>" not in shown
    assert shown.count("<span") == 1


def test_a_phrase_has_the_colour_of_its_boxes():
    found = ground("<p>a</p> {<1><2><30><40>} <p>b</p> {<5><6><70><80>} <p>a</p> {<9><9><20><20>}")
    assert {name: len(boxes) for name, boxes in found.entities.items()} == {"a": 2, "b": 1}
    first, second = (f"rgb({red}, {green}, {blue})" for red, green, blue in COLOURS[:2])
    shown = coloured_html(found)
    assert [shown.count(one) for one in (first, second)] == [2, 1]
    drawn = draw(PICTURE, found)
    assert drawn is not None
    assert all((drawn == colour).all(axis=2).any() for colour in COLOURS[:2])


@given(st.text(alphabet="<p>/{}1 29delimab&;", max_size=60))
def test_every_answer_can_be_shown(text):
    found = ground(text)
    drawn = draw(PICTURE, found)
    assert (drawn is None) == (not found.mode)
    shown = coloured_html(found)
    assert shown.count("<") == shown.count("<span") + shown.count("</span>")


def test_a_mark_goes_behind_a_question_that_needs_one():
    mask = np.zeros((50, 50), np.uint8)
    mask[10:20, 5:10] = 1
    assert question_with_mark("[identify] what is this ", mask) == "[identify] what is this {<10><20><19><39>}"
    assert question_with_mark("[identify] {<1><2><3><4>}", mask) == "[identify] {<1><2><3><4>}"
    assert question_with_mark("[refer] cup", mask) == "[refer] cup"
