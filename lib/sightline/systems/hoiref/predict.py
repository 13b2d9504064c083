"""A block of questions in, answers out; pictures are decoded and encoded once for all their questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sightline.errors import InputError, NonFiniteError
from sightline.llm.base import Sampling
from sightline.records.types import Prediction, Sample
from sightline.systems.hoiref.asking import Asker, Seen
from sightline.systems.hoiref.records import Question

ReadPicture = Callable[[str], np.ndarray]
"""A picture's path as the dataset has it to uint8 RGB [height, width, 3]; InputError when it cannot be read."""
NON_FINITE = "non_finite"


@dataclass(frozen=True)
class PredictSettings:
    """How questions are answered.

    Attributes:
        max_new_tokens: Longest answer; 50 as published.
        batch_limit: Most questions decoded together.
    """

    max_new_tokens: int = 50
    batch_limit: int = 8


class Predictor:
    """Runs VLM4HOI over blocks of samples.

    The pictures of a block are kept until the next one, so that a picture with many questions, whose blocks
    follow each other in one shard, is encoded once.
    """

    def __init__(self, asker: Asker, settings: PredictSettings, read_picture: ReadPicture) -> None:
        self.batch_limit = settings.batch_limit
        self._asker, self._read = asker, read_picture
        self._sampling = Sampling(max_new_tokens=settings.max_new_tokens)
        self._seen: dict[str, Seen | str] = {}

    def predict(self, samples: Sequence[Sample]) -> list[Prediction]:
        """Answers one block, in its order.

        A question whose picture is missing or damaged, or that is too long, is `failed` with a reason; the others
        are answered. Running out of device memory is raised, so that the caller can lower `batch_limit`.

        Raises:
            InputError: A payload is malformed.
        """
        questions = {sample.id: Question.from_json(sample.payload, item=sample.id) for sample in samples}
        needed = {question.image for question in questions.values()}
        self._seen = {image: seen for image, seen in self._seen.items() if image in needed}
        answers: dict[str, Prediction] = {}
        waiting: list[tuple[str, Seen, int]] = []
        for name, question in questions.items():
            seen = self._look(question.image)
            length = self._length(question)
            problem = seen if isinstance(seen, str) else length if isinstance(length, str) else ""
            if isinstance(seen, Seen) and isinstance(length, int):
                waiting.append((name, seen, length))
            else:
                answers[name] = Prediction(name, "failed", problem)
        waiting.sort(key=lambda entry: -entry[2])
        for start in range(0, len(waiting), self.batch_limit):
            batch = waiting[start : start + self.batch_limit]
            said = self._asker.ask([(seen, questions[name].question) for name, seen, _ in batch], self._sampling)
            answers |= {
                name: Prediction(name, "ok", output=one.to_json())
                for (name, _, _), one in zip(batch, said, strict=True)
            }
        return [answers[sample.id] for sample in samples]

    def _look(self, image: str) -> Seen | str:
        """Returns the encoded picture, or why there is none."""
        if image not in self._seen:
            try:
                self._seen[image] = self._asker.look(self._read(image))
            except NonFiniteError:
                self._seen[image] = NON_FINITE
            except InputError as error:
                self._seen[image] = error.problem
        return self._seen[image]

    def _length(self, question: Question) -> int | str:
        """Returns the question's length in tokens, or why it cannot be asked."""
        try:
            return len(self._asker.own_ids(question.question))
        except InputError as error:
            return error.problem
