"""The same episode at another pace and begun at another time, so that few episodes are not learnt by heart.

A varied sequence holds the same feature maps: some shown twice, some left out. What is said stays with the map
on which it was said, or with the next one shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sightline.systems.fitcoach.sequences import ZERO_STEP, TrainingSequence
from sightline.systems.fitcoach.stream import ActionTokens

_KEPT_BEFORE = 13
"""Steps before the first feedback that are never cut: what it answers is in them."""
_HELD_AT = 5
"""Step that is shown again and again to begin later: the exercise has been announced, hardly anything happens yet."""


@dataclass(frozen=True)
class VariationSettings:
    """How much episodes are varied.

    Attributes:
        copies: Varied sequences per episode, in place of the one as recorded; 0 leaves it as it is.
        tempo: The pace is drawn between 1 / (1 + tempo) and 1 + tempo times the recorded one, evenly on a log scale.
        cut_steps: Most feature steps cut off at the beginning.
        held_steps: Most feature steps that an early map is held.
        seed: Of the draws.
    """

    copies: int = 0
    tempo: float = 0.25
    cut_steps: int = 12
    held_steps: int = 8
    seed: int = 0


def vary(
    sequences: Sequence[TrainingSequence], actions: ActionTokens, settings: VariationSettings
) -> list[TrainingSequence]:
    """Returns `copies` variations of every sequence, sequence by sequence; the draws depend on the settings alone.

    Args:
        sequences: Of the form `aligned`, without windows.
        actions: The three special tokens.
        settings: How much is varied.
    """
    return [
        _varied(sequence, actions, settings, np.random.default_rng([settings.seed, place, copy]))
        for place, sequence in enumerate(sequences)
        for copy in range(settings.copies)
    ]


def can_vary(sequence: TrainingSequence) -> bool:
    """Says whether a sequence is an episode in one piece: every `<vision>` but the first is a target."""
    seen = np.flatnonzero(sequence.vision_mask)
    return bool(len(seen)) and ZERO_STEP not in sequence.frames and bool(sequence.loss_mask[seen[1:]].all())


def _varied(
    sequence: TrainingSequence, actions: ActionTokens, settings: VariationSettings, generator: np.random.Generator
) -> TrainingSequence:
    prompt, said = _parts(sequence)
    spoken = [step for step, tokens in enumerate(said) if len(tokens)]
    room = max(0, (spoken[0] if spoken else len(said)) - _KEPT_BEFORE)
    shift = int(generator.integers(-min(settings.cut_steps, room), settings.held_steps + 1))
    pace = float(np.exp(generator.uniform(-1, 1) * np.log1p(settings.tempo)))
    steps = np.arange(len(said))
    if shift < 0:
        steps = steps[-shift:]
    elif shift:
        held = min(_HELD_AT, len(said) - 1)
        steps = np.insert(steps, held, np.full(shift, held))
    steps = steps[np.arange(0, len(steps) - 1e-6, pace).astype(np.int64)]
    shown: list[list[int]] = [[] for _ in steps]
    for step in spoken:
        shown[min(int(np.searchsorted(steps, step, side="left")), len(steps) - 1)] += said[step]
    ids, mask, targets = list(prompt), [0] * len(prompt), [False] * len(prompt)
    for place, tokens in enumerate(shown):
        ids += [actions.vision, *tokens]
        mask += [int(sequence.vision_mask[len(prompt)]), *([0] * len(tokens))]
        targets += [place > 0, *([True] * len(tokens))]
    return replace(
        sequence,
        ids=np.asarray(ids, np.int64),
        vision_mask=np.asarray(mask, np.int64),
        loss_mask=np.asarray(targets, bool),
        frames=sequence.frames[steps],
        rows=sequence.reach,
    )


def _parts(sequence: TrainingSequence) -> tuple[list[int], list[list[int]]]:
    """Returns the prompt, and what is said after each `<vision>`."""
    seen = np.flatnonzero(sequence.vision_mask).tolist()
    ends = [*seen[1:], len(sequence.ids)]
    ids = sequence.ids.tolist()
    return ids[: seen[0]], [ids[place + 1 : end] for place, end in zip(seen, ends, strict=True)]
