"""A conversation about one picture, written token by token; later turns see earlier ones and compute only themselves.

Prompts are those of the released test time with the person's own tag; later turns stand as in training. The
released demo keeps `</s>` alone of its own answers, so that its model never sees what it said; here it does.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from sightline.errors import InputError, NonFiniteError
from sightline.systems.hoiref.asking import Asker
from sightline.systems.hoiref.dialogue import answer_text
from sightline.systems.hoiref.questions import TRAIN_TEMPLATE

UNFINISHED = "\ufffd"
"""What a decoder writes for a character whose bytes are not all there yet."""


@dataclass(frozen=True)
class Drawing:
    """How an answer of the demo is drawn; the defaults are the released demo's.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_p: Smallest set of tokens with this probability.
        top_k: Only so many likeliest tokens, 0 for all; the released demo leaves it at its library's 50.
        repetition_penalty: Divides the logits of tokens already in this answer; 1 changes nothing.
        max_new_tokens: Longest answer.
        seed: Seed of the draw.
    """

    temperature: float = 0.6
    top_p: float = 0.9
    top_k: int = 50
    repetition_penalty: float = 1.05
    max_new_tokens: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for name, good in (
            ("temperature", 0 <= self.temperature <= 10),
            ("top_p", 0 < self.top_p <= 1),
            ("top_k", self.top_k >= 0),
            ("repetition_penalty", 0 < self.repetition_penalty <= 10),
            ("max_new_tokens", self.max_new_tokens >= 1),
        ):
            if not good:
                raise InputError(f"{getattr(self, name)} is out of range", field=name, mend="use the default")

    def chooser(self) -> Chooser:
        """Returns what draws the tokens of one answer."""
        return Chooser(self)


class Chooser:
    """Draws the tokens of one answer, always the same ones for the same seed and logits.

    Args:
        drawing: How.
    """

    def __init__(self, drawing: Drawing) -> None:
        self._generator = torch.Generator().manual_seed(drawing.seed)
        self._greedy = drawing.temperature == 0
        self._process: Any = LogitsProcessorList()
        if drawing.repetition_penalty != 1:
            self._process.append(RepetitionPenaltyLogitsProcessor(drawing.repetition_penalty))
        if not self._greedy:
            self._process.append(TemperatureLogitsWarper(float(drawing.temperature)))
            if drawing.top_k:
                self._process.append(TopKLogitsWarper(drawing.top_k))
            self._process.append(TopPLogitsWarper(drawing.top_p))

    def choose(self, logits: Tensor, said: Sequence[int]) -> int:
        """Returns the next token.

        Args:
            logits: float32 [vocabulary] on the CPU.
            said: Tokens of this answer so far.

        Raises:
            NonFiniteError: A logit is NaN or infinite.
        """
        if not bool(torch.isfinite(logits).all()):
            raise NonFiniteError("the model gives NaN or infinity", mend="check the weights, or use 32 bits")
        scores = self._process(torch.tensor([list(said)], dtype=torch.long), logits[None].clone())[0]
        if self._greedy:
            return int(scores.argmax())
        return int(torch.multinomial(scores.softmax(-1), 1, generator=self._generator))


@dataclass
class Turn:
    """A question and its answer.

    Attributes:
        question: As asked, tag and marked box included.
        tokens: Of the answer, without the one that ended it.
        text: The answer.
        ended: True when it ended by itself.
    """

    question: str
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    ended: bool = False


def picture_digest(pixels: np.ndarray) -> str:
    """Returns what tells pictures apart: SHA-256 of shape and bytes."""
    return hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()


class Talk:
    """A conversation about one picture.

    Args:
        asker: The model.
        pixels: uint8 RGB [height, width, 3]; encoded here, once.

    Attributes:
        pixels: The picture.
        digest: See `picture_digest`.
        turns: What was said so far.
        forgotten: How many of the first turns the model no longer sees, for want of room.
    """

    def __init__(self, asker: Asker, pixels: np.ndarray) -> None:
        self.asker = asker
        self.pixels = pixels
        self.digest = picture_digest(pixels)
        self.turns: list[Turn] = []
        self.forgotten = 0
        self._picture = asker.look(pixels).prefix
        self._cache: Any = None
        self._held: list[int] = []  # ids behind the picture whose keys and values are in the cache

    def ask(self, question: str, drawing: Drawing | None = None) -> Iterator[str]:
        """Asks, and yields the answer so far after every token; what was said stays when the caller stops early.

        Args:
            question: With the tag the person wants, or none.
            drawing: How the answer is drawn; the released demo's way when None.

        Raises:
            InputError: The question is empty, too long, or asks for a second picture.
        """
        drawing = drawing or Drawing()
        if not question.strip():
            raise InputError("there is no question", field="question", mend="write one")
        prompt = self._prompt(question, drawing.max_new_tokens)
        limit = min(drawing.max_new_tokens, self._room() - len(prompt))
        turn, chooser = Turn(question), drawing.chooser()
        self.asker.calls.questions += 1
        self.asker.calls.question_tokens += len(prompt) - self._keep(prompt)
        self.turns.append(turn)
        fed = prompt[len(self._held) :]
        while len(turn.tokens) < limit:
            token = chooser.choose(self._step(fed), turn.tokens)
            if token == self.asker.marks.eos:
                turn.ended = True
                break
            turn.tokens.append(token)
            turn.text = answer_text(self.asker.tokenizer, self.asker.marks, turn.tokens)
            yield turn.text.rstrip(UNFINISHED)
            fed = [token]
        yield turn.text

    def _room(self) -> int:
        return self.asker.model.llama.config.max_position_embeddings - len(self._picture.tokens)

    def _prompt(self, question: str, longest_answer: int) -> list[int]:
        """Returns the ids behind the picture; first turns are forgotten until half the room, or the answer, is free."""
        own = self.asker.own_ids(question)
        kept = self._room() - min(longest_answer, self._room() // 2)
        while True:
            ids = self._told(self.turns[self.forgotten :], question, own)
            if len(ids) <= kept or self.forgotten == len(self.turns):
                return ids
            self.forgotten += 1

    def _told(self, turns: Sequence[Turn], question: str, own: list[int]) -> list[int]:
        if not turns:
            return own
        ids: list[int] = self.asker.own_ids(turns[0].question)
        for turn, following in zip(turns, [*(turn.question for turn in turns[1:]), question], strict=True):
            later = self.asker.tokenizer.encode(TRAIN_TEMPLATE.format(following), bos=True)
            ids += [*turn.tokens, self.asker.marks.eos, *later]
        return ids

    @torch.inference_mode()
    def _keep(self, prompt: Sequence[int]) -> int:
        """Cuts the cache back to what the prompt begins with and returns how many of its ids that are."""
        most = min(len(self._held), len(prompt) - 1)
        same = next((place for place in range(most) if self._held[place] != prompt[place]), most)
        if self._cache is None or not same:
            self._cache, same = copy.deepcopy(self._picture.cache), 0
        elif len(self._held) > same:
            self._cache.crop(same - len(self._held))
        self._held = self._held[:same]
        return same

    @torch.inference_mode()
    def _step(self, ids: Sequence[int]) -> Tensor:
        """Runs ids behind what the cache holds and returns the logits of the last, float32 [vocabulary], on the CPU."""
        model = self.asker.model
        with model.autocast():
            output = model.llama(
                input_ids=torch.tensor([list(ids)], device=model.device),
                past_key_values=self._cache, use_cache=True, logits_to_keep=1,
            )  # fmt: skip
        self._cache = output.past_key_values
        self._held += ids
        return output.logits[0, -1].float().cpu()
