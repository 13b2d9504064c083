"""The demo page without a browser: what it takes, what it refuses, and that nothing written becomes markup."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from sightline.errors import CheckpointError, DeviceError, InputError
from sightline.systems.hoiref.asking import Asker
from sightline.systems.hoiref.chat import Drawing, Turn
from sightline.systems.hoiref.grounding import TASK_PROMPTS
from sightline.systems.hoiref.model.config import Vlm4HoiConfig
from sightline.systems.hoiref.model.vlm4hoi import random_vlm4hoi
from sightline.systems.hoiref.page import PRECISIONS, TASKS, Desk, picture_of, precision_of, retagged, transcript

ROOT = Path(__file__).parents[2]
SHORT = Drawing(temperature=0, max_new_tokens=4)
SCRIPT = "<script>alert(1)</script>"


class Letters:
    """One id per letter."""

    size = 40

    def encode(self, text, *, bos=True):
        return [1, *([3 + ord(letter) % 36 for letter in text])] if bos else [3 + ord(one) % 36 for one in text]

    def decode(self, ids):
        return "".join(chr(96 + number) for number in ids)

    def token_id(self, token):
        if token == "$$":
            raise CheckpointError("no such token")
        return ["<unk>", "<s>", "</s>"].index(token)


def asker(seed=3):
    sizes = {
        "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 300,
    }  # fmt: skip
    config = Vlm4HoiConfig.from_parts(sizes, {"image_size": 28, "width": 8, "depth": 1, "heads": 2}, {"rank": 2})
    return Asker(random_vlm4hoi(config, seed), Letters())


def edited(seed=0, mark=None):
    picture = np.random.default_rng(seed).integers(0, 255, (40, 50, 4), dtype=np.uint8)
    layer = np.zeros((40, 50, 4), dtype=np.uint8)
    if mark:
        x1, y1, x2, y2 = mark
        layer[y1:y2, x1:x2] = (255, 0, 0, 255)
    return {"background": picture, "layers": [layer], "composite": picture}


class Loads:
    """Loads models and counts them; 8 bits are refused."""

    def __init__(self, fail=()):
        self.loaded, self.fail = [], set(fail)

    def __call__(self, precision):
        self.loaded.append(precision)
        if precision in self.fail:
            raise CheckpointError("damaged")
        return asker()

    def refuse(self, precision):
        if precision == "8-bit":
            raise DeviceError("no <GPU> here", field="quantisation")


def desk(**options):
    loads = Loads(**options)
    return Desk(loads, loads.refuse, "32-bit"), loads


def last(steps):
    return list(steps)[-1]


def test_picture_and_mark_of_the_editor():
    pixels, mask = picture_of(edited())
    assert pixels.shape == (40, 50, 3)
    assert mask is None
    assert picture_of(edited(mark=(10, 4, 20, 8)))[1].nonzero()[0].tolist()[0] == 4
    grey = {"background": np.full((3, 4), 7, dtype=np.uint8), "layers": []}
    assert picture_of(grey)[0].tolist() == np.full((3, 4, 3), 7).tolist()
    for nothing in (None, {"background": None, "layers": []}):
        with pytest.raises(InputError, match="no picture"):
            picture_of(nothing)


@pytest.mark.parametrize("task", TASKS)
def test_another_task_takes_another_tag(task):
    prompt = TASK_PROMPTS[TASKS.index(task)]
    assert prompt.startswith(f"[{task}]")
    for old in TASK_PROMPTS:
        assert retagged(old, task) == prompt
    kept = retagged("[vqa] the cup", task)
    assert kept == (prompt + "the cup" if prompt.endswith("] ") else prompt)
    assert len(re.findall(r"\[", retagged("[grounding] my own words", task))) == 1


def test_a_marked_box_goes_behind_identify_alone():
    one, _ = desk()
    shown = last(one.answer(edited(mark=(10, 4, 20, 8)), TASK_PROMPTS[3], SHORT, "32-bit", None))
    assert shown.session.talk.turns[0].question == TASK_PROMPTS[3] + "{<20><10><39><19>}"
    shown = last(one.answer(edited(mark=(10, 4, 20, 8)), "[refer] cup", SHORT, "32-bit", shown.session))
    assert shown.session.talk.turns[1].question == "[refer] cup"
    with pytest.raises(InputError, match="nothing is marked"):
        last(one.answer(edited(), TASK_PROMPTS[3], SHORT, "32-bit", None))


def test_answers_stream_and_turns_follow_until_the_picture_changes():
    one, loads = desk()
    steps = list(one.answer(edited(), "[refer] cup", SHORT, "32-bit", None))
    assert len(steps) > 2
    assert all(step.picture is None and "pen" in step.transcript for step in steps[:-1])
    assert steps[-1].picture.shape == (400, 500, 3)
    assert "pen" not in steps[-1].transcript
    session = steps[-1].session
    again = last(one.answer(edited(mark=(1, 1, 9, 9)), "and now?", SHORT, "32-bit", session)).session
    assert again is session
    assert [turn.question for turn in session.talk.turns] == ["[refer] cup", "and now?"]
    other = last(one.answer(edited(seed=1), "and now?", SHORT, "32-bit", session)).session
    assert other is not session
    assert len(other.talk.turns) == 1
    assert loads.loaded == ["32-bit"]


def test_a_change_of_precision_loads_anew_and_begins_a_new_talk():
    one, loads = desk()
    session = last(one.answer(edited(), "cup", SHORT, "32-bit", None)).session
    changed = last(one.answer(edited(), "cup", SHORT, "16-bit", session)).session
    assert changed is not session
    assert changed.talk.asker is session.talk.asker  # so that no talk keeps the old model in memory
    assert loads.loaded == ["32-bit", "16-bit"]
    assert one.precision == "16-bit"


def test_a_refused_precision_keeps_the_model_and_a_failed_load_can_be_tried_again():
    one, loads = desk(fail=["16-bit"])
    assert "no &lt;GPU&gt; here" in one.refusal("8-bit")
    assert one.refusal("16-bit") == ""
    with pytest.raises(DeviceError):
        last(one.answer(edited(), "cup", SHORT, "8-bit", None))
    assert one.precision == "32-bit"
    for _ in range(2):
        with pytest.raises(CheckpointError):
            last(one.answer(edited(), "cup", SHORT, "16-bit", None))
    assert one.precision is None
    assert last(one.answer(edited(), "cup", SHORT, "32-bit", None)).session.precision == "32-bit"
    assert loads.loaded == ["32-bit", "16-bit", "16-bit", "32-bit"]


def test_questions_that_are_none():
    one, _ = desk()
    for question in ("", " \n"):
        with pytest.raises(InputError, match="no question"):
            last(one.answer(edited(), question, SHORT, "32-bit", None))


@pytest.mark.parametrize("writing", [None, SCRIPT])
@pytest.mark.parametrize("text", [SCRIPT, f"<p>{SCRIPT}</p> {{<1><2><3><4>}}", "1 2 3 4" + SCRIPT, "&lt;script&gt;"])
def test_nothing_written_is_markup(text, writing):
    shown = transcript([Turn(SCRIPT, text=text)], writing=writing)
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown
    assert not set("${}") & set(re.sub(r"&#\d+;", "", shown))


def test_precisions_are_settings_of_a_variant():
    from sightline.systems.hoiref.card import HoirefVariant

    known = HoirefVariant.model_fields
    for word, settings in PRECISIONS.items():
        assert settings.keys() <= known.keys()
        assert precision_of(settings) == word
        assert hasattr(torch, settings["dtype"])


def test_everything_the_page_needs_is_installed_and_only_pillow_is_newer_than_declared():
    pins = [Requirement(line) for line in (ROOT / "envs/page.txt").read_text().splitlines() if line[0] != "#"]
    unfit = set()
    for pin in pins:
        assert pin.specifier.contains(importlib.metadata.version(pin.name)), pin
        for line in importlib.metadata.requires(pin.name) or []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                version = importlib.metadata.version(needed.name)
                unfit |= set() if needed.specifier.contains(version) else {(pin.name, needed.name)}
    assert unfit == {("gradio", "pillow")}
