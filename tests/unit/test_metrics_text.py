import shutil
from functools import cache

import nltk.data
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.meteor_score import single_meteor_score
from rouge_score.rouge_scorer import RougeScorer
from sightline.assets.wordnet import default_target
from sightline.metrics import MetricUnavailable
from sightline.metrics.text import (
    Meteor,
    RougeL,
    open_wordnet,
    tokenize_punkt,
    tokenize_untrained_punkt,
)

# Words with shared stems, synonyms of each other, repeats and case: every stage has work.
WORDS = [
    *("run", "running", "runs", "jog", "jogging", "fast", "quick", "quickly", "good", "well", "great", "keep"),
    *("hold", "back", "spine", "arm", "arms", "leg", "go", "move", "movement", "motion", "squat", "lower"),
    *("low", "down", "Up", "UP", "happy", "glad", "begin", "start", "end", "stop", "car", "auto", ".", ",", "!"),
]
SENTENCES = st.lists(st.sampled_from(WORDS), max_size=16)
ROUGE = RougeScorer(["rougeL"], use_stemmer=False)


@cache
def meteor() -> Meteor:
    return Meteor()


def test_synonyms_are_really_read():
    assert meteor().score("the car", "the auto") > meteor().score("the car", "the squat") > 0
    assert meteor().score("they begin", "they start") > 0.9


@settings(max_examples=400, deadline=None)
@given(SENTENCES, SENTENCES)
def test_meteor_equals_nltk(reference, hypothesis):
    assert meteor().score_tokens(reference, hypothesis) == pytest.approx(
        single_meteor_score(reference, hypothesis), abs=1e-12
    )


def test_meteor_of_text_equals_nltk_of_its_tokens():
    reference, hypothesis = "Bend your knees! Don't stop, move faster.", "Bend the knee. Do not stop moving fast!"
    expected = single_meteor_score(tokenize_untrained_punkt(reference), tokenize_untrained_punkt(hypothesis))
    assert meteor().score(reference, hypothesis) == pytest.approx(expected, abs=1e-12)
    assert meteor().score(reference, hypothesis) == meteor().score(reference, hypothesis)


@pytest.mark.parametrize("text", ["", "...", "🏋️ 🏋️", "שלום", "x" * 20_000])
def test_odd_texts_have_scores(text):
    for scorer in (meteor(), RougeL()):
        assert scorer.score(text, "") == 0.0
        assert scorer.score("", text) == 0.0
        assert 0.0 <= scorer.score(text, text) <= 1.0


def test_huge_texts_take_no_quadratic_time():
    first = " ".join(f"w{i}" for i in range(20_000))
    second = " ".join(f"v{i}" for i in range(20_000))
    assert RougeL().score(first, second) == 0.0


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="abAB019 .,'-İßéκ\n_", max_size=60), st.text(alphabet="abAB019 .,'-İßéκ\n_", max_size=60))
def test_rouge_equals_rouge_score(reference, hypothesis):
    assert RougeL().score(reference, hypothesis) == ROUGE.score(reference, hypothesis)["rougeL"].fmeasure


@settings(max_examples=100, deadline=None)
@given(SENTENCES.map(" ".join), SENTENCES.map(" ".join))
def test_rouge_of_sentences_equals_rouge_score(reference, hypothesis):
    assert RougeL().score(reference, hypothesis) == ROUGE.score(reference, hypothesis)["rougeL"].fmeasure


def test_absent_data_names_its_command(tmp_path, monkeypatch):
    with pytest.raises(MetricUnavailable, match="python -m sightline wordnet"):
        open_wordnet(tmp_path / "corpora" / "wordnet")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with pytest.raises(MetricUnavailable, match="downloader punkt_tab"):
        tokenize_punkt("Go.")
    with pytest.raises(MetricUnavailable, match="punkt_tab"):
        Meteor(tokenize_punkt, wordnet=object())


def test_wordnet_opens_from_a_folder_of_the_users_own(tmp_path, monkeypatch):
    folder = tmp_path / "data" / "corpora" / "wordnet"
    shutil.copytree(default_target(), folder)
    monkeypatch.setattr(nltk.data, "path", list(nltk.data.path))
    reader = open_wordnet(folder)
    assert reader.get_version() == "3.0"
    assert "automobile" in {name for synset in reader.synsets("car") for name in synset.lemma_names()}
