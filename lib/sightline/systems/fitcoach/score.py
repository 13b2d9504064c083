"""Samples and predictions become score rows: when the coach spoke, and what it said when it was heard.

Temporal precision, recall and F count over all episodes. The text metrics read only the pairs matched in
time from the reference side, as the released evaluator does, so silence is free for them: read them beside
the recall. The judge reads the same pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sightline.errors import InputError
from sightline.llm.judged import JudgedSample
from sightline.metrics import (
    METEOR_PUNKT,
    METEOR_UNTRAINED_PUNKT,
    ROUGE_L,
    MetricUnavailable,
    bertscore_name,
)
from sightline.metrics.aggregate import MetricSpec
from sightline.metrics.temporal import TemporalMatch, match_feedbacks
from sightline.records.types import Prediction, Sample, Score
from sightline.systems.fitcoach.records import Coaching, Episode
from sightline.systems.fitcoach.shuffled import Watched, shuffled_rows, shuffled_specs

PRECISION, RECALL, F_SCORE = "temporal_precision", "temporal_recall", "temporal_f"
LLM_ACCURACY = "llm_acc"
NO_TRUTH = "no ground truth"

Pair = tuple[str, str]
PairScorer = Callable[[Sequence[Pair]], list[float]]


@dataclass(frozen=True)
class ScoreSettings:
    """Settings of the room's metrics.

    Attributes:
        tolerance_s: Matching window in seconds; a match is closer than half of it.
        tokenizer: Sentence splitter before METEOR: NLTK's untrained one, or its model `punkt_tab`.
        wordnet_folder: `<data>/corpora/wordnet`; None lets NLTK search.
        bertscore_folder: Encoder in Hugging Face layout; None leaves BERTScore out.
        bertscore_model: Name of the encoder in the metric's name.
        bertscore_layers: Number of encoder layers.
        device: Torch device of BERTScore.
    """

    tolerance_s: float = 3.0
    tokenizer: Literal["untrained_punkt", "punkt_tab"] = "untrained_punkt"
    wordnet_folder: Path | None = None
    bertscore_folder: Path | None = None
    bertscore_model: str = "roberta_large"
    bertscore_layers: int = 17
    device: str = "cpu"

    @property
    def meteor(self) -> str:
        """Name of the METEOR metric, which says the sentence splitter."""
        return METEOR_PUNKT if self.tokenizer == "punkt_tab" else METEOR_UNTRAINED_PUNKT

    @property
    def bertscore(self) -> str:
        """Name of the BERTScore metric, which says the encoder and its layer."""
        return bertscore_name(self.bertscore_model, self.bertscore_layers)


def metric_specs(settings: ScoreSettings | None = None) -> tuple[MetricSpec, ...]:
    """Returns the room's metrics under these settings, in the order of the report."""
    settings = settings or ScoreSettings()
    half = f"{settings.tolerance_s / 2:g} s"
    matching = f"nearest-only ordered matching, closer than {half}"
    splitter = "punkt_tab" if settings.tokenizer == "punkt_tab" else "untrained Punkt"
    return (
        MetricSpec(PRECISION, f"matched predictions over predictions; {matching}", "ratio_of_sums"),
        MetricSpec(RECALL, f"matched references over references; {matching}", "ratio_of_sums"),
        MetricSpec(
            F_SCORE, f"F of micro-averaged precision and recall; {matching}", "f_of_ratios", (PRECISION, RECALL)
        ),
        MetricSpec(
            settings.meteor,
            f"NLTK's METEOR (alpha 0.9, beta 3, gamma 0.5; WordNet 3.0; words by {splitter} and "
            "NLTKWordTokenizer), mean over matched pairs",
            "ratio_of_sums",
            out_of=RECALL,
        ),
        MetricSpec(
            ROUGE_L, "F-measure of rouge_score without stemming, mean over matched pairs", "ratio_of_sums",
            out_of=RECALL,
        ),
        MetricSpec(
            settings.bertscore,
            f"bert_score F1 of {settings.bertscore_model}, layer {settings.bertscore_layers}, no idf, "
            "no rescaling, mean over matched pairs",
            "ratio_of_sums",
            out_of=RECALL,
        ),
        MetricSpec(
            LLM_ACCURACY, "judge's score from 1 to 5, mean over matched pairs it scored", "ratio_of_sums",
            out_of=RECALL,
        ),
        *shuffled_specs((PRECISION, RECALL, F_SCORE), matching),
    )  # fmt: skip


METRICS: tuple[MetricSpec, ...] = metric_specs()


@dataclass(frozen=True)
class _Scored:
    """A sample with what the model said, matched; `match` is None when the prediction failed."""

    sample: Sample
    episode: Episode
    coaching: Coaching | None
    match: TemporalMatch | None
    reason: str

    @property
    def pairs(self) -> list[Pair]:
        if self.match is None or self.coaching is None:
            return []
        return [(self.episode.responses[g], self.coaching.feedbacks[p]) for g, p in self.match.recall_pairs]

    @property
    def group(self) -> str:
        one = len(self.episode.exercises) == 1
        return self.episode.exercises[0] if one else self.episode.mode


def score(
    samples: Sequence[Sample], predictions: Sequence[Prediction], settings: ScoreSettings | None = None
) -> tuple[list[Score], dict[str, str]]:
    """Scores every sample.

    Args:
        samples: All samples of the run.
        predictions: One per sample, in any order.
        settings: Metric settings; the defaults when None.

    Returns:
        Score rows, by sample in the given order and then by metric; and for each metric that cannot be
        computed here the reason. `temporal_f` has no rows of its own: it reads those of precision and
        recall. Text metrics have the sum over matched pairs as value and their number as denominator.

    Raises:
        InputError: A sample without prediction, one too many, or a malformed payload or output.
        NonFiniteError: A predicted time is NaN or infinite.
    """
    settings = settings or ScoreSettings()
    scored = _matched(samples, predictions, settings)
    if scored and not any(entry.episode.annotated for entry in scored):
        return [], {spec.name: NO_TRUTH for spec in metric_specs(settings)}
    pairs = list(dict.fromkeys(pair for entry in scored for pair in entry.pairs))
    text_scores: dict[str, dict[Pair, float]] = {}
    absent = {LLM_ACCURACY: "no judge is configured"}
    for name, scorer in _text_metrics(settings).items():
        try:
            text_scores[name] = dict(zip(pairs, scorer(pairs), strict=True))
        except MetricUnavailable as unavailable:
            absent[name] = str(unavailable)
    rows: list[Score] = []
    for entry in scored:
        rows += _temporal_rows(entry)
        rows += [_text_row(entry, name, values) for name, values in text_scores.items()]
    watched = [Watched(one.sample.id, one.group, one.episode, one.coaching, one.reason) for one in scored]
    rows += shuffled_rows(watched, (PRECISION, RECALL), settings.tolerance_s / 2, _rouge_l)
    place = {sample.id: number for number, sample in enumerate(samples)}
    return sorted(rows, key=lambda row: place[row.id]), absent


def matched_pairs(
    samples: Sequence[Sample], predictions: Sequence[Prediction], settings: ScoreSettings | None = None
) -> list[dict[str, str]]:
    """Returns the pairs the text metrics and the judge read, `{"GT": ..., "Pred": ...}`, in sample order.

    This is the list the released evaluator saves and its judge script reads.
    """
    scored = _matched(samples, predictions, settings or ScoreSettings())
    return [{"GT": reference, "Pred": said} for entry in scored for reference, said in entry.pairs]


def judged_samples(
    samples: Sequence[Sample], predictions: Sequence[Prediction], scoring: Mapping[str, Any]
) -> list[JudgedSample]:
    """Returns what a judge is to grade, sample by sample: the pairs of `matched_pairs`.

    Args:
        samples, predictions: All of the run.
        scoring: The card's metric settings; the matching window is read.
    """
    matched = _matched(samples, predictions, ScoreSettings(tolerance_s=scoring["tolerance_s"]))
    return [
        JudgedSample(
            entry.sample.id,
            entry.group,
            tuple({"reference": reference, "candidate": said} for reference, said in entry.pairs),
            entry.reason,
        )
        for entry in matched
    ]


def _matched(samples: Sequence[Sample], predictions: Sequence[Prediction], settings: ScoreSettings) -> list[_Scored]:
    by_id = {prediction.id: prediction for prediction in predictions}
    if len(by_id) != len(predictions):
        raise InputError("a sample has more than one prediction", mend="merge the predictions again")
    extra = sorted(set(by_id) - {sample.id for sample in samples})
    if extra:
        raise InputError("a prediction belongs to no sample", item=extra[0], mend="predict again")
    return [_match_one(sample, by_id, settings) for sample in samples]


def _match_one(sample: Sample, by_id: dict[str, Prediction], settings: ScoreSettings) -> _Scored:
    prediction = by_id.get(sample.id)
    if prediction is None:
        raise InputError("the sample has no prediction", item=sample.id, mend="predict again")
    episode = Episode.from_json(sample.payload, item=sample.id)
    if prediction.status != "ok":
        return _Scored(sample, episode, None, None, prediction.reason or "the prediction failed")
    coaching = Coaching.from_json(prediction.output, item=sample.id)
    if len(coaching.feedbacks) != len(coaching.times):
        raise InputError(
            f"{len(coaching.feedbacks)} feedbacks but {len(coaching.times)} times",
            item=sample.id, field="output.times", mend="give one time per feedback",
        )  # fmt: skip
    match = match_feedbacks(
        episode.response_times,
        episode.responses,
        coaching.times,
        coaching.feedbacks,
        settings.tolerance_s / 2,
    )
    return _Scored(sample, episode, coaching, match, "")


def _text_metrics(settings: ScoreSettings) -> dict[str, PairScorer]:
    """Returns a scorer per text metric; each loads its libraries only when called."""

    def meteor(pairs: Sequence[Pair]) -> list[float]:
        from sightline.metrics import text

        tokenizer = text.tokenize_punkt if settings.tokenizer == "punkt_tab" else text.tokenize_untrained_punkt
        scorer = text.Meteor(tokenizer, text.open_wordnet(settings.wordnet_folder))
        return [scorer.score(*pair) for pair in pairs]

    def bertscore(pairs: Sequence[Pair]) -> list[float]:
        if settings.bertscore_folder is None:
            raise MetricUnavailable(
                f"the weights of {settings.bertscore_model} are not here",
                mend="set local_assets to the folder that holds the encoder, or scoring.bertscore.weights to an asset",
            )
        from sightline.metrics.bertscore import bertscore_f1, check_model

        check_model(settings.bertscore_folder)
        return bertscore_f1(
            [reference for reference, _ in pairs],
            [said for _, said in pairs],
            settings.bertscore_folder,
            settings.bertscore_layers,
            device=settings.device,
        )

    return {settings.meteor: meteor, ROUGE_L: _rouge_l, settings.bertscore: bertscore}


def _rouge_l(pairs: Sequence[Pair]) -> list[float]:
    from sightline.metrics import text

    scorer = text.RougeL()
    return [scorer.score(*pair) for pair in pairs]


def _row(entry: _Scored, metric: str, value: float, denominator: float, nothing: str) -> Score:
    sample = entry.sample
    if entry.match is None:
        return Score(sample.id, metric, entry.group, None, 0.0, "error", entry.reason)
    if not denominator:
        return Score(sample.id, metric, entry.group, None, 0.0, "unscored", nothing)
    return Score(sample.id, metric, entry.group, float(value), float(denominator), "scored")


def _temporal_rows(entry: _Scored) -> list[Score]:
    match = entry.match or TemporalMatch((), (), 0, 0)
    return [
        _row(entry, PRECISION, len(match.precision_pairs), match.predictions, "no predicted feedback"),
        _row(entry, RECALL, len(match.recall_pairs), match.references, "no reference feedback"),
    ]


def _text_row(entry: _Scored, metric: str, values: dict[Pair, float]) -> Score:
    found = [values[pair] for pair in entry.pairs]
    return _row(entry, metric, sum(found), len(found), "no matched pair")
