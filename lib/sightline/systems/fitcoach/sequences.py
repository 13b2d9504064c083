"""Training sequences: what the coach should have seen and said, token by token.

`aligned`, the default, is the sequence inference would produce for a perfect coach: the k-th `<vision>` reads
frame k. `published` is the best-known fork's training form, kept for the record: its frames are shifted by a
zero step in front, and its mask of 1 multiplies what the model sees by zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sightline.errors import InputError
from sightline.llm.tokens import TextTokenizer
from sightline.systems.fitcoach.records import Episode, Segment
from sightline.systems.fitcoach.stream import ActionTokens

ZERO_STEP = -1
"""Frame number of the published form's first entry, a feature map of zeros."""
COUNTED, ATTENDS = 1, 2
PUBLISHED_WINDOWS = 5
"""The published form steps the optimiser after windows 0-4 of a workout and once more after the rest."""


@dataclass(frozen=True)
class SequenceSettings:
    """How sequences are made.

    Attributes:
        form: `aligned` or `published`; see the module.
        loop: As in `StreamSettings`: under `realtime` the frames that pass while speaking are not shown.
        max_length: Tokens after which a sequence is cut.
        published_mask: Mask value of the published form; 2 lets it see, and shows what the shift alone does.
        feats_frequency: Feature steps per second.
        inference_speed: Tokens spoken per second.
    """

    form: Literal["aligned", "published"] = "aligned"
    loop: Literal["published", "realtime"] = "published"
    max_length: int = 4096
    published_mask: int = COUNTED
    feats_frequency: int = 4
    inference_speed: int = 12

    def spoken_over(self, text_tokens: int) -> int:
        """Returns how many frames pass while a feedback of so many tokens is said."""
        return text_tokens * self.feats_frequency // self.inference_speed if self.loop == "realtime" else 0


@dataclass(frozen=True)
class TrainingSequence:
    """One sequence and what it reads.

    Attributes:
        name: Sample id; windows add `#k`.
        ids: Token ids, int64 [N].
        vision_mask: int64 [N]; 0 text, 1 takes a frame but adds nothing, 2 attends to its frame.
        loss_mask: bool [N]; tokens that are targets.
        feature_key: Key of the video's features.
        frames: Row of the stored features for each masked token in order, int64; `ZERO_STEP` for zeros.
    """

    name: str
    ids: np.ndarray
    vision_mask: np.ndarray
    loss_mask: np.ndarray
    feature_key: str
    frames: np.ndarray


class _Writer:
    """A sequence while it grows."""

    def __init__(self, prompt: Sequence[int]) -> None:
        self.ids = list(prompt)
        self.vision_mask = [0] * len(self.ids)
        self.loss_mask = [False] * len(self.ids)
        self.frames: list[int] = []

    def see(self, token: int, frame: int, mask: int, *, target: bool) -> None:
        self.ids.append(token)
        self.vision_mask.append(mask)
        self.loss_mask.append(target)
        self.frames.append(frame)

    def say(self, tokens: Sequence[int]) -> None:
        self.ids.extend(tokens)
        self.vision_mask.extend([0] * len(tokens))
        self.loss_mask.extend([True] * len(tokens))

    def sequence(self, name: str, feature_key: str, max_length: int) -> TrainingSequence:
        mask = np.asarray(self.vision_mask[:max_length], np.int64)
        return TrainingSequence(
            name=name,
            ids=np.asarray(self.ids[:max_length], np.int64),
            vision_mask=mask,
            loss_mask=np.asarray(self.loss_mask[:max_length], bool),
            feature_key=feature_key,
            frames=np.asarray(self.frames[: int((mask != 0).sum())], np.int64),
        )


def training_units(
    name: str,
    episode: Episode,
    feature_times: np.ndarray,
    tokenizer: TextTokenizer,
    actions: ActionTokens,
    settings: SequenceSettings,
) -> list[tuple[TrainingSequence, ...]]:
    """Returns an episode's training units; the loss of a unit is the mean over its sequences.

    An episode is one unit of one sequence. In sliding-window mode every window with a feature step is a
    unit, with the tokens of the window before in its prompt; in the published form windows 0-4 and the rest
    are one unit each.

    Args:
        name: Sample id.
        episode: What should have been said.
        feature_times: float64 [T], UNIX seconds of all the video's feature steps on the annotations' clock.
        tokenizer: The checkpoint's own.
        actions: Its three special tokens.
        settings: Form of the sequences.

    Raises:
        InputError: The episode's rows lie outside the features.
    """
    segments = episode.segments or [
        Segment(
            episode.start,
            episode.end,
            episode.first_row,
            episode.stop_row,
            episode.responses,
            episode.feedback_times,
        )
    ]
    if any(not 0 <= one.first_row <= one.stop_row <= len(feature_times) for one in segments):
        raise InputError(
            f"the episode's rows do not lie within the {len(feature_times)} feature steps",
            item=name,
            mend="make the samples again from these features",
        )
    published = settings.form == "published"
    prompt = tokenizer.encode(episode.prompt)
    history: Sequence[int] = ()
    made: list[TrainingSequence] = []
    for k, segment in enumerate(segments):
        label = f"{name}#{k}" if episode.segments else name
        context = [*prompt, *history]
        if published and episode.segments:
            context = _published_context(tokenizer, episode.prompt, prompt, history, actions)
        write = _published if published else _aligned
        sequence = write(context, segment, feature_times, tokenizer, actions, settings).sequence(
            label, episode.feature_key, settings.max_length
        )
        known = len(prompt) if published and k == 0 else len(context)
        history = [int(token) for token in sequence.ids[known:]]
        made.append(sequence)
    if published and episode.segments:
        halves = (made[:PUBLISHED_WINDOWS], made[PUBLISHED_WINDOWS:])
        return [tuple(half) for half in halves if half]
    return [(sequence,) for sequence in made if len(sequence.frames) and sequence.loss_mask[1:].any()]


def _published_context(
    tokenizer: TextTokenizer, text: str, prompt: list[int], history: Sequence[int], actions: ActionTokens
) -> list[int]:
    """The fork's window prompt: decoded and encoded again, which may change ids; window 0 has a blind `<vision>`."""
    return tokenizer.encode(text + tokenizer.decode(history)) if history else [*prompt, actions.vision]


def _feedbacks(
    segment: Segment, feature_times: np.ndarray, tokenizer: TextTokenizer, actions: ActionTokens
) -> list[tuple[int, list[int]]]:
    """Returns (step within the segment, tokens) of every feedback that says something, in order of steps.

    A feedback belongs to the first step at or after its time, or to the last step.
    """
    times = feature_times[segment.first_row : segment.stop_row]
    found = []
    for text, time in zip(segment.responses, segment.feedback_times, strict=True):
        if text.strip() and len(times):
            step = min(int(np.searchsorted(times, time, side="left")), len(times) - 1)
            found.append((step, [actions.answer, *tokenizer.encode(text.strip(), bos=False), actions.end]))
    return sorted(found, key=lambda pair: pair[0])


def _aligned(
    context: Sequence[int],
    segment: Segment,
    feature_times: np.ndarray,
    tokenizer: TextTokenizer,
    actions: ActionTokens,
    settings: SequenceSettings,
) -> _Writer:
    """The k-th `<vision>` reads frame k and is followed by what should be said on seeing it.

    While a feedback is said under `realtime`, frames pass unseen; what falls due meanwhile waits for the
    next frame that is seen, and what is due after the last one is never said, as in the streaming loop.
    """
    writer = _Writer(context)
    due = _feedbacks(segment, feature_times, tokenizer, actions)
    step, count = 0, segment.stop_row - segment.first_row
    while step < count:
        writer.see(actions.vision, segment.first_row + step, ATTENDS, target=step > 0)
        unseen = 0
        while due and due[0][0] <= step:
            _, tokens = due.pop(0)
            writer.say(tokens)
            unseen += settings.spoken_over(len(tokens) - 2)
        step += 1 + unseen
    return writer


def _published(
    context: Sequence[int],
    segment: Segment,
    feature_times: np.ndarray,
    tokenizer: TextTokenizer,
    actions: ActionTokens,
    settings: SequenceSettings,
) -> _Writer:
    """One `<vision>` for the zero step, then one per frame: each reads one step later than at inference."""
    writer = _Writer(context)
    due = _feedbacks(segment, feature_times, tokenizer, actions)
    writer.see(actions.vision, ZERO_STEP, settings.published_mask, target=False)
    for step in range(segment.stop_row - segment.first_row):
        writer.see(actions.vision, segment.first_row + step, settings.published_mask, target=True)
        while due and due[0][0] <= step:
            writer.say(due.pop(0)[1])
    return writer
