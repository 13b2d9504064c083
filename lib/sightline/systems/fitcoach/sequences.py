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
        rows: Half-open range of rows that hold `frames`, by which what is made of them is kept; None when
            it is that of `frames` itself.
    """

    name: str
    ids: np.ndarray
    vision_mask: np.ndarray
    loss_mask: np.ndarray
    feature_key: str
    frames: np.ndarray
    rows: tuple[int, int] | None = None

    @property
    def reach(self) -> tuple[int, int]:
        """Half-open range of stored rows to read."""
        real = self.frames[self.frames != ZERO_STEP]
        return self.rows or ((int(real.min()), int(real.max()) + 1) if len(real) else (0, 1))


class _Tokens:
    """Tokens, what they read and which of them are targets, while a sequence grows."""

    def __init__(self, text: Sequence[int] = ()) -> None:
        self.ids = list(text)
        self.vision_mask = [0] * len(self.ids)
        self.targets = [False] * len(self.ids)
        self.frames: list[int] = []

    def see(self, token: int, frame: int, mask: int, *, target: bool) -> None:
        self.ids.append(token)
        self.vision_mask.append(mask)
        self.targets.append(target)
        self.frames.append(frame)

    def say(self, tokens: Sequence[int]) -> None:
        self.ids.extend(tokens)
        self.vision_mask.extend([0] * len(tokens))
        self.targets.extend([True] * len(tokens))

    def then(self, more: _Tokens, *, targets: bool) -> _Tokens:
        """Returns these tokens followed by `more`, whose targets count or not."""
        joined = _Tokens()
        joined.ids = self.ids + more.ids
        joined.vision_mask = self.vision_mask + more.vision_mask
        joined.targets = self.targets + (more.targets if targets else [False] * len(more.ids))
        joined.frames = self.frames + more.frames
        return joined

    def sequence(self, name: str, feature_key: str, max_length: int) -> TrainingSequence:
        mask = np.asarray(self.vision_mask[:max_length], np.int64)
        return TrainingSequence(
            name=name,
            ids=np.asarray(self.ids[:max_length], np.int64),
            vision_mask=mask,
            loss_mask=np.asarray(self.targets[:max_length], bool),
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

    An episode is one unit of one sequence. In sliding-window mode every window with a target is a unit, with the
    tokens of the window before as context; in the published form windows 0-4 and the rest are a unit each.

    Args:
        name: Sample id.
        episode: What should have been said.
        feature_times: float64 [T], UNIX seconds of all the video's feature steps on the annotations' clock.
        tokenizer: The checkpoint's own; `actions` are its three special tokens.
        settings: Form of the sequences.

    Raises:
        InputError: The episode's rows lie outside the features.
    """
    segments = episode.segments or [
        Segment(
            start=episode.start,
            end=episode.end,
            first_row=episode.first_row,
            stop_row=episode.stop_row,
            responses=episode.responses,
            feedback_times=episode.feedback_times,
        )
    ]
    if any(not 0 <= one.first_row <= one.stop_row <= len(feature_times) for one in segments):
        raise InputError(
            f"the episode's rows do not lie within the {len(feature_times)} feature steps",
            item=name,
            mend="make the samples again from these features",
        )
    due = [_feedbacks(segment, feature_times, tokenizer, actions) for segment in segments]
    build = _published if settings.form == "published" else _aligned
    windows = build(episode, segments, due, tokenizer, actions, settings)
    made = [
        tokens.sequence(f"{name}#{k}" if episode.segments else name, episode.feature_key, settings.max_length)
        for k, tokens in enumerate(windows)
    ]
    if settings.form == "published" and episode.segments:
        halves = (made[:PUBLISHED_WINDOWS], made[PUBLISHED_WINDOWS:])
        return [tuple(half) for half in halves if half]
    return [(one,) for one in made if len(one.frames) and one.loss_mask[1:].any()]


def _feedbacks(
    segment: Segment, feature_times: np.ndarray, tokenizer: TextTokenizer, actions: ActionTokens
) -> list[tuple[int, list[int]]]:
    """Returns (row, tokens) of every feedback that says something, in order of rows.

    A feedback belongs to the first feature step at or after its time, or to the segment's last step.
    """
    times = feature_times[segment.first_row : segment.stop_row]
    found = []
    for text, time in zip(segment.responses, segment.feedback_times, strict=True):
        if text.strip():
            step = max(0, min(int(np.searchsorted(times, time, side="left")), len(times) - 1))
            tokens = [actions.answer, *tokenizer.encode(text.strip(), bos=False), actions.end]
            found.append((segment.first_row + step, tokens))
    return sorted(found, key=lambda pair: pair[0])


def _aligned(
    episode: Episode,
    segments: Sequence[Segment],
    due: Sequence[list[tuple[int, list[int]]]],
    tokenizer: TextTokenizer,
    actions: ActionTokens,
    settings: SequenceSettings,
) -> list[_Tokens]:
    """The k-th `<vision>` reads frame k and is followed by what should be said on seeing it.

    Windows are stretches of one stream: each goes on where the one before stopped, whose tokens it has as
    context and whose frames it reads again, as `windows.py` does in its fixed form.

    While a feedback is said under `realtime`, frames pass unseen; what falls due meanwhile waits for the
    next frame that is seen, and what is due after the last one is never said, as in the streaming loop.
    """
    windows: list[_Tokens] = []
    prompt, before = _Tokens(tokenizer.encode(episode.prompt)), _Tokens()
    row, waiting = 0, list[tuple[int, list[int]]]()
    for segment, fresh in zip(segments, due, strict=True):
        row = max(row, segment.first_row)
        waiting += fresh
        own = _Tokens()
        while row < segment.stop_row:
            own.see(actions.vision, row, ATTENDS, target=bool(before.ids or own.ids))
            unseen = 0
            while waiting and waiting[0][0] <= row:
                _, tokens = waiting.pop(0)
                own.say(tokens)
                unseen += settings.spoken_over(len(tokens) - 2)
            row += 1 + unseen
        windows.append(prompt.then(before, targets=False).then(own, targets=True))
        before = own if own.ids else before
    return windows


def _published(
    episode: Episode,
    segments: Sequence[Segment],
    due: Sequence[list[tuple[int, list[int]]]],
    tokenizer: TextTokenizer,
    actions: ActionTokens,
    settings: SequenceSettings,
) -> list[_Tokens]:
    """One `<vision>` for the zero step, then one per frame: each reads one step later than at inference.

    A window's context is decoded and encoded again, which may change ids, and sees nothing; the first window
    has a blind `<vision>` there instead.
    """
    windows: list[_Tokens] = []
    prompt = tokenizer.encode(episode.prompt)
    context = [*prompt, actions.vision] if episode.segments else prompt
    for segment, fresh in zip(segments, due, strict=True):
        own, waiting = _Tokens(context), list(fresh)
        own.see(actions.vision, ZERO_STEP, settings.published_mask, target=False)
        for row in range(segment.first_row, segment.stop_row):
            own.see(actions.vision, row, settings.published_mask, target=True)
            while waiting and waiting[0][0] <= row:
                own.say(waiting.pop(0)[1])
        history = own.ids[len(context) if windows else len(prompt) : settings.max_length]
        context = tokenizer.encode(episode.prompt + tokenizer.decode(history))
        windows.append(own)
    return windows
