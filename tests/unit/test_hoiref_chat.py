"""Conversations: streamed answers are those of the test time, later turns see earlier ones, draws repeat."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from sightline.errors import CheckpointError, InputError, NonFiniteError
from sightline.llm.base import Sampling
from sightline.systems.hoiref.asking import Asker
from sightline.systems.hoiref.chat import Chooser, Drawing, Talk
from sightline.systems.hoiref.model.config import Vlm4HoiConfig
from sightline.systems.hoiref.model.vlm4hoi import random_vlm4hoi

PICTURE = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
LIKELIEST = Drawing(temperature=0, repetition_penalty=1, max_new_tokens=6)


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


def asker(positions=400):
    sizes = {
        "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": positions,
    }  # fmt: skip
    config = Vlm4HoiConfig.from_parts(sizes, {"image_size": 28, "width": 8, "depth": 1, "heads": 2}, {"rank": 2})
    made = random_vlm4hoi(config, seed=3)
    with torch.no_grad():  # sharp enough that no choice is a near-tie
        made.llama.lm_head[0].weight.mul_(60)
    return Asker(made, Letters())


def said(talk, question, drawing=LIKELIEST):
    return list(talk.ask(question, drawing))[-1]


def whole(one, picture, ids):
    """Returns what the model continues all these ids with, computed anew: the likeliest six."""
    seen, tokens = one.look(picture).prefix, []
    while len(tokens) < LIKELIEST.max_new_tokens:
        visual = one.model.encode(look_input(one, picture))
        embedded = one.model.embeddings(torch.tensor([[*seen.tokens, *ids, *tokens]]), visual)
        with torch.inference_mode():
            token = int(one.model.llama(inputs_embeds=embedded).logits[0, -1].argmax())
        if token == one.marks.eos:
            break
        tokens.append(token)
    return tokens


def look_input(one, picture):
    from sightline.systems.hoiref.pixels import tower_input

    return torch.from_numpy(tower_input(picture, one.model.config.vision.image_size))[None]


def test_the_likeliest_answer_is_that_of_the_test_time_and_grows_token_by_token():
    one = asker()
    (expected,) = one.ask([(one.look(PICTURE), "[refer] cup")], Sampling(max_new_tokens=6))
    parts = list(Talk(one, PICTURE).ask("[refer] cup", LIKELIEST))
    assert parts[-1] == expected.text
    assert expected.text
    assert len(parts) == len(expected.tokens) + 1
    assert all(late.startswith(early) for early, late in pairwise(parts))


def test_a_later_turn_sees_question_and_answer_and_computes_only_itself():
    one = asker()
    talk = Talk(one, PICTURE)
    said(talk, "[refer] cup")
    first, before = talk.turns[0], one.calls.question_tokens
    said(talk, "and the pan?")
    later = one.tokenizer.encode("[INST] and the pan? [/INST]", bos=True)
    ids = [*one.own_ids("[refer] cup"), *first.tokens, one.marks.eos, *later]
    assert talk.turns[1].tokens == whole(one, PICTURE, ids)
    # the question itself, the end of the first answer and its last token, which was never fed
    assert one.calls.question_tokens - before <= len(later) + 2
    assert one.calls.pictures == 2  # one by `whole`


def test_draws_repeat_with_their_seed_and_differ_without():
    one = asker()
    drawn = [
        said(Talk(one, PICTURE), "cup", Drawing(temperature=1.5, seed=seed, max_new_tokens=12)) for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_stopped_answer_stays_in_the_talk():
    talk = Talk(asker(), PICTURE)
    stream = talk.ask("cup", LIKELIEST)
    part = [next(stream), next(stream)][-1]
    stream.close()
    assert talk.turns[0].text == part
    assert not talk.turns[0].ended
    fresh = Talk(talk.asker, PICTURE)
    fresh.turns.append(talk.turns[0])
    assert said(talk, "more") == said(fresh, "more")


def test_first_turns_are_forgotten_where_the_model_has_no_more_room():
    talk = Talk(asker(150), PICTURE)
    for number in range(6):
        said(talk, f"question number {number}")
    assert len(talk.turns) == 6
    assert 0 < talk.forgotten < 6
    kept = Talk(talk.asker, PICTURE)
    kept.turns = talk.turns[talk.forgotten : -1]
    assert said(kept, talk.turns[-1].question) == talk.turns[-1].text


def test_repetition_and_the_set_of_likely_tokens():
    logits = torch.tensor([2.0, 1.9, -1.0, -2.0])
    assert Chooser(Drawing(temperature=0)).choose(logits, []) == 0
    assert Chooser(Drawing(temperature=0, repetition_penalty=1.2)).choose(logits, [0]) == 1
    draws = {Chooser(Drawing(temperature=1, top_p=0.6, seed=seed)).choose(logits, []) for seed in range(30)}
    assert draws == {0, 1}
    assert logits.tolist() == pytest.approx([2.0, 1.9, -1.0, -2.0])
    with pytest.raises(NonFiniteError, match="NaN"):
        Chooser(Drawing()).choose(torch.tensor([float("nan"), 1.0]), [])


@pytest.mark.parametrize(
    ("question", "mend"), [("  ", "write one"), ("a <ImageHere> b", "ask one"), ("long " * 100, "shorten")]
)
def test_a_question_that_cannot_be_asked(question, mend):
    talk = Talk(asker(), PICTURE)
    with pytest.raises(InputError) as error:
        said(talk, question)
    assert mend in str(error.value)
    assert not talk.turns


@pytest.mark.parametrize("field", ["temperature", "top_p", "top_k", "repetition_penalty", "max_new_tokens"])
def test_settings_out_of_range(field):
    with pytest.raises(InputError, match=field):
        Drawing(**{field: -1})
