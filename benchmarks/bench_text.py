"""ROUGE-L and METEOR: the published evaluation's shape, the public libraries, and ours, in CPU seconds per pair.

Corpora are made from fixed seeds. Every round runs every arm once, in turn; scorers of ours start cold in
every round. Before anything is timed, all arms are compared on the same pairs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import cycle, islice
from typing import Any

from nltk.corpus import wordnet
from nltk.stem.porter import PorterStemmer
from nltk.translate.meteor_score import single_meteor_score
from rapidfuzz.distance import LCSseq
from rouge_score import tokenizers
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.scoring import BootstrapAggregator
from sightline.metrics.text import Meteor, RougeL, tokenize_untrained_punkt

from benchmarks.timing import interleave

Pair = tuple[str, str]
Arm = Callable[[Sequence[Any]], list[float]]

EXERCISES = (
    "squats", "lunges", "high knees", "push ups", "jumping jacks", "butt kickers", "plank taps",
    "deltoid stretches", "mountain climbers", "burpees",
)  # fmt: skip
TEMPLATES = (
    "That's {n} {exercise}, great job!",
    "Keep going, {m} more {exercise} to go.",
    "Try to go a little lower on those {exercise}.",
    "Nice work on the {exercise}, you are moving at a good pace.",
    "Slow down and control the movement during your {exercise}.",
    "Make sure your back stays straight in the {exercise}.",
    "You have done {n} {exercise} and you have {m} left.",
    "Good depth on those {exercise}, keep it up!",
    "Lift your knees higher for the {exercise}.",
    "Only {m} more seconds of {exercise}, you can do it!",
    "First up are {exercise}!",
    "Moving on to {exercise}!",
    "I counted {n} good {exercise} out of {m}.",
)
DISTINCT_SENTENCES = 0.3  # of all sentences; the rest are repeats
REPEATED_PAIRS = 0.16


def templated_pairs(count: int, seed: int = 0) -> list[Pair]:
    """Returns pairs of short coaching sentences: 13 templates, 10 exercises, two integers.

    About 70 % of the sentences and 16 % of the pairs are repeats, as in coaching.
    """
    rng = random.Random(seed)
    pool: dict[str, None] = {}
    while len(pool) < DISTINCT_SENTENCES * 2 * count:
        template = rng.choice(TEMPLATES)
        pool[template.format(n=rng.randint(1, 20), m=rng.randint(1, 20), exercise=rng.choice(EXERCISES))] = None
    rest = rng.sample(list(pool), len(pool))  # used up first, so that the share of repeats is as stated
    pairs: list[Pair] = []
    while len(pairs) < count:
        if pairs and rng.random() < REPEATED_PAIRS:
            pairs.append(rng.choice(pairs))
        else:
            first, second = (rest.pop() if rest and rng.random() < 0.5 else rng.choice(list(pool)) for _ in "ab")
            pairs.append((first, second))
    return pairs


def long_pairs(count: int, seed: int = 1) -> list[Pair]:
    """Returns pairs of 25 joined coaching sentences."""
    sentences = cycle(templated_pairs(25 * count, seed))
    joined = [list(islice(sentences, 25)) for _ in range(count)]
    return [(" ".join(a for a, _ in part), " ".join(b for _, b in part)) for part in joined]


def distinct_pairs(count: int, seed: int = 2) -> list[Pair]:
    """Returns pairs of 8 to 20 words drawn with Zipf weights from 3 000 single-word WordNet lemmas.

    The hypothesis keeps each word with probability 0.5 and draws another one otherwise.
    """
    rng = random.Random(seed)
    lemmas = sorted({name for name in wordnet.all_lemma_names() if name.isalpha() and name.islower()})
    words = rng.sample(lemmas, 3000)
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    pairs = []
    for _ in range(count):
        reference = rng.choices(words, weights, k=rng.randint(8, 20))
        other = rng.choices(words, weights, k=len(reference))
        hypothesis = [a if rng.random() < 0.5 else b for a, b in zip(reference, other, strict=True)]
        pairs.append((" ".join(reference), " ".join(hypothesis)))
    return pairs


def rouge_published_shape(pairs: Sequence[Pair]) -> list[float]:
    """Four ROUGE types and a bootstrap of 1 000 resamples for every single pair."""
    values = []
    for reference, hypothesis in pairs:
        scorer = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=False)
        aggregator = BootstrapAggregator()
        aggregator.add_scores(scorer.score(reference, hypothesis))
        values.append(float(aggregator.aggregate()["rougeL"].mid.fmeasure))
    return values


def rouge_library(pairs: Sequence[Pair]) -> list[float]:
    """The package rouge_score, ROUGE-L alone."""
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    return [scorer.score(reference, hypothesis)["rougeL"].fmeasure for reference, hypothesis in pairs]


def rouge_rapidfuzz(pairs: Sequence[Pair]) -> list[float]:
    """rouge_score's tokens with rapidfuzz's subsequence, nothing remembered."""
    tokenizer = tokenizers.DefaultTokenizer(False)
    values = []
    for reference, hypothesis in pairs:
        first, second = tokenizer.tokenize(reference), tokenizer.tokenize(hypothesis)
        common = LCSseq.similarity(first, second)
        precision, recall = (common / len(second), common / len(first)) if common else (0.0, 0.0)
        values.append(2 * precision * recall / (precision + recall) if common else 0.0)
    return values


def rouge_ours(pairs: Sequence[Pair]) -> list[float]:
    """`sightline.metrics.text.RougeL`, started cold."""
    scorer = RougeL()
    return [scorer.score(reference, hypothesis) for reference, hypothesis in pairs]


class _RememberingStemmer(PorterStemmer):
    """Porter's stemmer that stems each word once."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = cache(super().stem)  # type: ignore[method-assign]


class _RememberingWordNet:
    """WordNet that looks each word up once."""

    def __init__(self) -> None:
        self.synsets = cache(wordnet.synsets)


def tokenized(pairs: Sequence[Pair]) -> list[tuple[list[str], list[str]]]:
    """Splits every text into words, nothing remembered."""
    return [(tokenize_untrained_punkt(first), tokenize_untrained_punkt(second)) for first, second in pairs]


def meteor_library(pairs: Sequence[Any]) -> list[float]:
    """NLTK, pair by pair, from tokens on."""
    return [single_meteor_score(reference, hypothesis) for reference, hypothesis in pairs]


def meteor_library_remembering(pairs: Sequence[Any]) -> list[float]:
    """NLTK's matcher with remembered stems and synonym sets."""
    stemmer, known = _RememberingStemmer(), _RememberingWordNet()
    return [
        single_meteor_score(reference, hypothesis, stemmer=stemmer, wordnet=known) for reference, hypothesis in pairs
    ]


def meteor_ours(pairs: Sequence[Any]) -> list[float]:
    """`sightline.metrics.text.Meteor`, started cold, from tokens on."""
    scorer = Meteor(wordnet=wordnet)
    return [scorer.score_tokens(reference, hypothesis) for reference, hypothesis in pairs]


def meteor_library_from_text(pairs: Sequence[Pair]) -> list[float]:
    """NLTK with splitting into words."""
    return meteor_library(tokenized(pairs))


def meteor_ours_from_text(pairs: Sequence[Pair]) -> list[float]:
    """Ours with splitting into words, each distinct text once."""
    scorer = Meteor(wordnet=wordnet)
    return [scorer.score(reference, hypothesis) for reference, hypothesis in pairs]


def compare(
    name: str,
    arms: dict[str, tuple[Arm, Sequence[Any]]],
    rounds: int,
    ratios: dict[str, tuple[str, str]],
    *,
    tolerance: float,
    guard: dict[str, float],
    target: dict[str, float],
    note: str,
) -> dict[str, Any]:
    """Checks that all arms agree, then times them in turn; seconds are CPU seconds per pair."""
    values = {label: arm(pairs) for label, (arm, pairs) in arms.items()}
    whole = max(values.values(), key=len)
    difference = max(abs(a - b) for found in values.values() for a, b in zip(found, whole, strict=False))
    taken = interleave({label: partial(arm, pairs) for label, (arm, pairs) in arms.items()}, rounds)
    per_pair = {
        label: {key: seconds / len(arms[label][1]) for key, seconds in found.items()} for label, found in taken.items()
    }
    median = {label: found["median_s"] for label, found in per_pair.items()}
    return {
        "name": name,
        "arms": per_pair,
        "ratios": {label: median[slow] / median[fast] for label, (slow, fast) in ratios.items()},
        "max_difference": difference,
        "equal": difference <= tolerance,
        "guard": guard,
        "target": target,
        "note": note,
    }  # fmt: skip


def _duplicates(pairs: Sequence[Pair]) -> str:
    sentences = [text for pair in pairs for text in pair]
    return (
        f"{len(pairs)} pairs, {1 - len(set(pairs)) / len(pairs):.0%} duplicate pairs, "
        f"{1 - len(set(sentences)) / len(sentences):.0%} duplicate sentences; CPU seconds per pair"
    )


def _rouge(rounds: int) -> list[dict[str, Any]]:
    short, long = templated_pairs(300), long_pairs(12)
    words = len(tokenizers.DefaultTokenizer(False).tokenize(long[0][0]))
    ratio = "ours over rouge_score"
    return [
        compare(
            "rouge_short",
            {
                "published shape": (rouge_published_shape, short[:30]),
                "rouge_score": (rouge_library, short),
                "ours": (rouge_ours, short),
            },
            rounds,
            {ratio: ("rouge_score", "ours"), "ours over published shape": ("published shape", "ours")},
            tolerance=0.0,
            guard={ratio: 4.0, "ours over published shape": 2000.0},
            target={ratio: 8.0, "ours over published shape": 5000.0},
            note=f"{_duplicates(short)}; the published shape on the first 30",
        ),
        compare(
            "rouge_long",
            {"rouge_score": (rouge_library, long), "rapidfuzz": (rouge_rapidfuzz, long), "ours": (rouge_ours, long)},
            rounds,
            {ratio: ("rouge_score", "ours"), "ours over rapidfuzz": ("rapidfuzz", "ours")},
            tolerance=0.0,
            guard={ratio: 20.0},
            target={ratio: 40.0},
            note=f"{_duplicates(long)}; {words} words a text",
        ),
    ]  # fmt: skip


def _meteor(name: str, pairs: list[Pair], rounds: int, guard: float, target: float) -> dict[str, Any]:
    tokens = tokenized(pairs)
    ratio = "ours over nltk"
    return compare(
        name,
        {
            "nltk": (meteor_library, tokens),
            "nltk + memo": (meteor_library_remembering, tokens),
            "ours": (meteor_ours, tokens),
            "nltk, from text": (meteor_library_from_text, pairs),
            "ours, from text": (meteor_ours_from_text, pairs),
        },
        rounds,
        {
            ratio: ("nltk", "ours"),
            "ours over nltk + memo": ("nltk + memo", "ours"),
            "ours over nltk, from text": ("nltk, from text", "ours, from text"),
        },
        tolerance=1e-12,
        guard={ratio: guard},
        target={ratio: target},
        note=f"{_duplicates(pairs)}; from tokens on unless said otherwise; WordNet warm, memories cold",
    )


def run(rounds: int = 5) -> list[dict[str, Any]]:
    """Runs the text benchmarks and returns one result per benchmark."""
    return [
        *_rouge(rounds),
        _meteor("meteor_templated", templated_pairs(1000), rounds, guard=8.0, target=12.0),
        _meteor("meteor_distinct", distinct_pairs(400), rounds, guard=2.0, target=3.5),
    ]
