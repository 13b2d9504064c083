"""Many questions about few pictures: each picture is encoded once, and what its prompts share is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from sightline.errors import InputError, NonFiniteError
from sightline.llm.base import Sampling
from sightline.llm.prefix import Decoded, Prefix, decode_batch
from sightline.llm.tokens import TextTokenizer
from sightline.systems.hoiref.dialogue import Marks, answer_text, marks_of, question_ids
from sightline.systems.hoiref.model.vlm4hoi import Vlm4Hoi
from sightline.systems.hoiref.pixels import tower_input
from sightline.systems.hoiref.records import Answer


@dataclass(frozen=True)
class Seen:
    """A picture the model has looked at.

    Attributes:
        prefix: Ids of what all prompts about it begin with, and their keys and values.
    """

    prefix: Prefix


@dataclass
class Calls:
    """How often the model was run.

    Attributes:
        pictures: Pictures through the tower.
        prefix_tokens: Tokens whose keys and values were computed for a picture's shared beginning.
        question_tokens: Tokens of the questions themselves.
        questions: Questions answered.
    """

    pictures: int = 0
    prefix_tokens: int = 0
    question_tokens: int = 0
    questions: int = 0


@dataclass
class Asker:
    """VLM4HOI with its tokenizer, ready for questions.

    Attributes:
        model: Loaded, in evaluation mode.
        tokenizer: The LLaMA folder's.
        calls: Counts since the beginning.
    """

    model: Vlm4Hoi
    tokenizer: TextTokenizer
    calls: Calls = field(default_factory=Calls)

    def __post_init__(self) -> None:
        self.marks: Marks = marks_of(self.tokenizer)
        self._tokens = self.model.config.vision.tokens
        self._shared = question_ids(self.tokenizer, "", self._tokens)[0]

    def look(self, pixels: np.ndarray) -> Seen:
        """Encodes a picture, uint8 RGB [height, width, 3]; see `look_at`."""
        return self.look_at(torch.from_numpy(tower_input(pixels, self.model.config.vision.image_size)))

    @torch.inference_mode()
    def look_at(self, image: Tensor) -> Seen:
        """Encodes a picture, always alone, so that its bits do not depend on its company.

        Args:
            image: What the tower reads, float32 [3, side, side].

        Raises:
            NonFiniteError: What the tower made of it is NaN or infinite.
        """
        visual = self.model.encode(image[None])
        if not bool(torch.isfinite(visual).all()):
            raise NonFiniteError("the tower gives NaN or infinity", mend="check the weights, or use float32")
        with self.model.autocast():
            embedded = self.model.embeddings(torch.tensor([self._shared]), visual)
            output = self.model.llama(inputs_embeds=embedded, use_cache=True, logits_to_keep=1)
        self.calls.pictures += 1
        self.calls.prefix_tokens += len(self._shared)
        return Seen(Prefix(tuple(self._shared), output.past_key_values))

    def own_ids(self, question: str) -> list[int]:
        """Returns the ids of a question behind the picture.

        Raises:
            InputError: The question holds the place of a picture, or leaves no room for an answer.
        """
        try:
            own = question_ids(self.tokenizer, question, self._tokens)[1]
        except ValueError:
            raise InputError("the question asks for a second picture", item=question[:60], mend="ask one") from None
        room = self.model.llama.config.max_position_embeddings - len(self._shared) - len(own)
        if room < 1:
            raise InputError("the question is longer than the model reads", item=question[:60], mend="shorten it")
        return own

    def ask(self, asked: Sequence[tuple[Seen, str]], sampling: Sampling) -> list[Answer]:
        """Answers questions as one batch, each about its own picture; greedy answers equal those one by one.

        Args:
            asked: Pictures and questions, without tags as the numbers were published.
            sampling: Longest answer, and how it is drawn.
        """
        rows = [self.own_ids(question) for _, question in asked]
        prefix = _joined([seen.prefix for seen, _ in asked])
        prompts = [[*self._shared, *own] for own in rows]
        with self.model.autocast():
            decoded = decode_batch(
                self.model.llama, prompts, [sampling] * len(prompts), frozenset((self.marks.eos,)), prefix
            )
        self.calls.question_tokens += sum(map(len, rows))
        self.calls.questions += len(rows)
        return [self._answer(one) for one in decoded]

    def _answer(self, decoded: Decoded) -> Answer:
        text = answer_text(self.tokenizer, self.marks, decoded.tokens)
        return Answer(text, list(decoded.tokens), decoded.near_ties, decoded.ended)


def _joined(prefixes: Sequence[Prefix]) -> Prefix:
    """Returns one prefix with a row per question; a single picture's is repeated by the decoder itself."""
    first = prefixes[0]
    if all(prefix is first for prefix in prefixes):
        return first
    cache = DynamicCache()
    for layer in range(len(first.cache.layers)):
        keys = torch.cat([prefix.cache.layers[layer].keys for prefix in prefixes])
        values = torch.cat([prefix.cache.layers[layer].values for prefix in prefixes])
        cache.update(keys, values, layer)
    return Prefix(first.tokens, cache, len(prefixes))
