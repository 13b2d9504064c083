"""Numbers from plain values: no samples, no models of a room, no files."""

from __future__ import annotations

from sightline.errors import SightlineError


class MetricUnavailable(SightlineError):
    """A metric cannot be computed here because data or a model is missing; the run goes on without it."""


METEOR_UNTRAINED_PUNKT = "meteor_nltk_untrained_punkt"
METEOR_PUNKT = "meteor_nltk"
ROUGE_L = "rouge_l_rouge_score"


def bertscore_name(model: str, layers: int) -> str:
    """Returns the name of a BERTScore, e.g. `bertscore_roberta-large_l17`."""
    return f"bertscore_{model}_l{layers}"
