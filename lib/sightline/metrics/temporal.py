"""Did the coach speak at the right moment? Ordered nearest-only matching of timed texts.

Definition: the temporal F-score of Stream-VLM (arXiv 2407.08101) as its released evaluator computes it. Its
"3 s window" is a tolerance of 3 s over both sides, so a match is closer than 1.5 s. A time looks only at its
nearest neighbour on the other side: there is no second choice, and matches never go back in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sightline.errors import NonFiniteError

HALF_WINDOW_S = 1.5


@dataclass(frozen=True, slots=True)
class TemporalMatch:
    """Matches of one episode, seen from both sides.

    Attributes:
        recall_pairs: (reference index, prediction index), found from the reference side; the text metrics
            and the judge read these pairs.
        precision_pairs: (prediction index, reference index), found from the prediction side. Their number
            may differ from that of `recall_pairs`.
        references: Number of reference feedbacks.
        predictions: Number of predicted feedbacks.
    """

    recall_pairs: tuple[tuple[int, int], ...]
    precision_pairs: tuple[tuple[int, int], ...]
    references: int
    predictions: int


def match_in_order(
    times: Sequence[float],
    other_times: Sequence[float],
    other_texts: Sequence[str],
    half_window_s: float = HALF_WINDOW_S,
) -> tuple[tuple[int, int], ...]:
    """Matches each time, in list order, to its nearest time of the other side.

    A match stands when the two are closer than `half_window_s` (strictly), the other index comes after the
    last accepted one, and the other text is not empty. Equally near times: the first of them.

    Args:
        times: Seconds, any order.
        other_times: Seconds on the same clock.
        other_texts: One text per other time.
        half_window_s: Half of the matching window in seconds.

    Returns:
        Pairs (index in `times`, index in `other_times`), both strictly increasing.

    Raises:
        ValueError: Texts and times of the other side differ in number.
        NonFiniteError: A time is NaN or infinite.
    """
    if len(other_times) != len(other_texts):
        raise ValueError(f"{len(other_times)} times but {len(other_texts)} texts")
    candidates = np.asarray(other_times, dtype=np.float64)
    queries = np.asarray(times, dtype=np.float64)
    if not (np.isfinite(candidates).all() and np.isfinite(queries).all()):
        raise NonFiniteError("a feedback time is not finite", mend="remove the feedback or correct its time")
    pairs: list[tuple[int, int]] = []
    if not len(candidates):
        return ()
    last = -1
    for index, time in enumerate(queries):
        nearest = int(np.argmin((candidates - time) ** 2))
        close = abs(time - candidates[nearest]) < half_window_s
        if close and nearest > last and other_texts[nearest] != "":
            pairs.append((index, nearest))
            last = nearest
    return tuple(pairs)


def match_feedbacks(
    reference_times: Sequence[float],
    reference_texts: Sequence[str],
    predicted_times: Sequence[float],
    predicted_texts: Sequence[str],
    half_window_s: float = HALF_WINDOW_S,
) -> TemporalMatch:
    """Matches what was said against what should have been said, from both sides.

    Args:
        reference_times: Seconds of the reference feedbacks, on the predictions' clock.
        reference_texts: One text per reference time.
        predicted_times: Seconds of the predicted feedbacks; may be slightly negative.
        predicted_texts: One text per predicted time.
        half_window_s: Half of the matching window in seconds.

    Raises:
        ValueError: Texts and times differ in number.
        NonFiniteError: A time is NaN or infinite.
    """
    return TemporalMatch(
        recall_pairs=match_in_order(reference_times, predicted_times, predicted_texts, half_window_s),
        precision_pairs=match_in_order(predicted_times, reference_times, reference_texts, half_window_s),
        references=len(reference_times),
        predictions=len(predicted_times),
    )
