"""METEOR and ROUGE-L of sentence pairs, equal to the public libraries and faster.

METEOR: Lavie and Agarwal 2007, as `nltk.translate.meteor_score` computes it (NLTK 3.9 and 3.10 agree).
ROUGE-L: Lin 2004, as the package `rouge_score` computes it without stemming.
What repeats between pairs (tokens, stems, synonym sets, whole pairs) is computed once per scorer.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import nltk.data
from nltk.corpus import wordnet as nltk_wordnet
from nltk.corpus.reader.wordnet import WordNetCorpusReader
from nltk.data import FileSystemPathPointer
from nltk.stem.porter import PorterStemmer
from nltk.tokenize import word_tokenize
from nltk.tokenize.destructive import NLTKWordTokenizer
from nltk.tokenize.punkt import PunktSentenceTokenizer
from rapidfuzz.distance import LCSseq

from sightline.metrics import MetricUnavailable

Tokenizer = Callable[[str], Sequence[str]]

_UNTRAINED_SENTENCES = PunktSentenceTokenizer()
_WORDS = NLTKWordTokenizer()
_ALPHANUMERIC = re.compile("[a-z0-9]+")
_LAST_CODE_POINT = 0x10FFFF


def tokenize_untrained_punkt(text: str) -> list[str]:
    """Splits text into words: sentences by an untrained Punkt model, then NLTK's word tokenizer for each."""
    return [word for sentence in _UNTRAINED_SENTENCES.tokenize(text) for word in _WORDS.tokenize(sentence)]


def tokenize_punkt(text: str) -> list[str]:
    """Splits text into words with `nltk.word_tokenize`, which reads the trained model `punkt_tab`.

    Raises:
        MetricUnavailable: NLTK finds no `punkt_tab`.
    """
    try:
        return word_tokenize(text)
    except LookupError:
        raise MetricUnavailable(
            "NLTK's sentence model punkt_tab is not installed",
            mend="run `python -m nltk.downloader punkt_tab`",
        ) from None


def open_wordnet(folder: Path | None = None) -> WordNetCorpusReader:
    """Opens WordNet, from `folder` or from where NLTK searches by itself.

    Args:
        folder: `<data>/corpora/wordnet` as `assets/wordnet.py` builds it; None searches NLTK's own path.

    Raises:
        MetricUnavailable: The data is absent or incomplete.
    """
    try:
        if folder is None:
            nltk_wordnet.ensure_loaded()
            return nltk_wordnet
        data = str(Path(folder).resolve().parents[1])  # NLTK reads nothing outside its data path
        if data not in nltk.data.path:
            nltk.data.path.append(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about other languages, which nothing here asks for
            return WordNetCorpusReader(FileSystemPathPointer(str(Path(folder).resolve())), None)
    except (LookupError, OSError) as error:
        first = str(error).strip().strip("*").strip().splitlines()[0].strip()
        raise MetricUnavailable(
            f"WordNet is not installed ({first})", file=folder, mend="run `python -m sightline wordnet`"
        ) from None


class Meteor:
    """METEOR of one hypothesis against one reference.

    Equal to `nltk.translate.meteor_score.single_meteor_score` with its defaults (lower-cased; exact words,
    then Porter stems, then WordNet synonyms of the stems; alpha 0.9, beta 3, gamma 0.5), whose greedy
    matching walks from the last word to the first and takes the last free counterpart.

    Args:
        tokenizer: Text to words.
        wordnet: An open reader with `synsets(word)`; None opens NLTK's own.

    Raises:
        MetricUnavailable: WordNet or the tokenizer's data is absent; found here, not at the first pair.
    """

    def __init__(self, tokenizer: Tokenizer = tokenize_untrained_punkt, wordnet: Any = None) -> None:
        self._tokenizer = tokenizer
        self._wordnet = open_wordnet() if wordnet is None else wordnet
        self._stemmer = PorterStemmer()
        self._words: dict[str, tuple[str, ...]] = {}
        self._stems: dict[str, str] = {}
        self._synonyms: dict[str, frozenset[str]] = {}
        self._pairs: dict[tuple[tuple[str, ...], tuple[str, ...]], float] = {}
        tokenizer("Probe.")

    def score(self, reference: str, hypothesis: str) -> float:
        """Returns METEOR in [0, 1) of two texts; 0 when nothing matches or a text is empty."""
        return self._cached(self._tokens(reference), self._tokens(hypothesis))

    def score_tokens(self, reference: Sequence[str], hypothesis: Sequence[str]) -> float:
        """Returns METEOR of two texts that are tokenized already."""
        return self._cached(tuple(word.lower() for word in reference), tuple(word.lower() for word in hypothesis))

    def _tokens(self, text: str) -> tuple[str, ...]:
        words = self._words.get(text)
        if words is None:
            words = tuple(word.lower() for word in self._tokenizer(text))
            self._words[text] = words
        return words

    def _cached(self, reference: tuple[str, ...], hypothesis: tuple[str, ...]) -> float:
        pair = (reference, hypothesis)
        value = self._pairs.get(pair)
        if value is None:
            value = self._pairs[pair] = self._score(reference, hypothesis)
        return value

    def _score(
        self,
        reference: tuple[str, ...],
        hypothesis: tuple[str, ...],
        alpha: float = 0.9,
        beta: float = 3.0,
        gamma: float = 0.5,
    ) -> float:
        alignment = self._align(reference, hypothesis)
        matched = len(alignment)
        if not matched:
            return 0.0
        precision = matched / len(hypothesis)
        recall = matched / len(reference)
        mean = (precision * recall) / (alpha * precision + (1 - alpha) * recall)
        alignment.sort()
        breaks = sum(after[0] != before[0] + 1 or after[1] != before[1] + 1 for before, after in pairwise(alignment))
        fragmentation = (breaks + 1) / matched
        return (1 - gamma * fragmentation**beta) * mean

    def _align(self, reference: tuple[str, ...], hypothesis: tuple[str, ...]) -> list[tuple[int, int]]:
        """Returns (hypothesis index, reference index) of the three stages, unsorted."""
        if reference == hypothesis:
            return [(index, index) for index in range(len(reference))]
        matches: list[tuple[int, int]] = []
        left = list(enumerate(hypothesis))
        right = list(enumerate(reference))
        left, right = _match_equal(left, right, matches)
        if left and right:
            stem = self._stem
            left = [(index, stem(word)) for index, word in left]
            right = [(index, stem(word)) for index, word in right]
            left, right = _match_equal(left, right, matches)
        if left and right:
            self._match_synonyms(left, right, matches)
        return matches

    def _match_synonyms(
        self, left: list[tuple[int, str]], right: list[tuple[int, str]], matches: list[tuple[int, int]]
    ) -> None:
        """Gives each word, from the last to the first, the last free word among its synonyms."""
        free: dict[str, list[int]] = {}
        for index, word in right:
            free.setdefault(word, []).append(index)
        for index, word in reversed(left):
            synonyms = self._synonyms_of(word)
            few, many = (free, synonyms) if len(free) < len(synonyms) else (synonyms, free)
            best, found = -1, ""
            for other in few:
                if other in many and free[other][-1] > best:
                    best, found = free[other][-1], other
            if best < 0:
                continue
            matches.append((index, best))
            free[found].pop()
            if not free[found]:
                del free[found]

    def _stem(self, word: str) -> str:
        stem = self._stems.get(word)
        if stem is None:
            stem = self._stems[word] = self._stemmer.stem(word)
        return stem

    def _synonyms_of(self, word: str) -> frozenset[str]:
        synonyms = self._synonyms.get(word)
        if synonyms is None:
            names = {name for synset in self._wordnet.synsets(word) for name in synset.lemma_names()}
            synonyms = frozenset({name for name in names if "_" not in name} | {word})
            self._synonyms[word] = synonyms
        return synonyms


def _match_equal(
    left: list[tuple[int, str]], right: list[tuple[int, str]], matches: list[tuple[int, int]]
) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """Pairs equal words, from the last to the first, and returns what stays free on both sides."""
    places: dict[str, list[int]] = {}
    for place, (_, word) in enumerate(right):
        places.setdefault(word, []).append(place)
    unmatched = []
    taken = set()
    for entry in reversed(left):
        free = places.get(entry[1])
        if free:
            place = free.pop()
            taken.add(place)
            matches.append((entry[0], right[place][0]))
        else:
            unmatched.append(entry)
    unmatched.reverse()
    if not taken:
        return unmatched, right
    return unmatched, [entry for place, entry in enumerate(right) if place not in taken]


class RougeL:
    """ROUGE-L F-measure, equal to `rouge_score.RougeScorer(["rougeL"], use_stemmer=False)`.

    Words are runs of a-z and 0-9 of the lower-cased text. Each distinct word becomes one character, so that
    rapidfuzz's bit-parallel longest common subsequence runs on short strings.
    """

    def __init__(self) -> None:
        self._codes: dict[str, str] = {}
        self._encoded: dict[str, str] = {}

    def score(self, reference: str, hypothesis: str) -> float:
        """Returns the F-measure in [0, 1]; 0 when a text has no word."""
        first, second = self._encode(reference), self._encode(hypothesis)
        if not first or not second:
            return 0.0
        common = LCSseq.similarity(first, second)
        if not common:
            return 0.0
        precision = common / len(second)
        recall = common / len(first)
        return 2 * precision * recall / (precision + recall)

    def _encode(self, text: str) -> str:
        encoded = self._encoded.get(text)
        if encoded is None:
            codes = self._codes
            for word in (words := _ALPHANUMERIC.findall(text.lower())):
                if word not in codes:
                    if len(codes) == _LAST_CODE_POINT:
                        raise MetricUnavailable(f"more than {_LAST_CODE_POINT} distinct words in one run")
                    codes[word] = chr(len(codes) + 1)
            encoded = self._encoded[text] = "".join([codes[word] for word in words])
        return encoded
