"""Any vision-language model on HOI-QA: the same questions through a common backend, with its own spelling of boxes.

The model is asked in the words of the dataset; what changes is how a box is written, which its card declares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sightline.errors import InputError
from sightline.llm.base import Backend, Image, Message, Reply, Request, Sampling
from sightline.records.types import Prediction, Sample
from sightline.systems.hoiref.boxes import box_format
from sightline.systems.hoiref.judging import asks_for_box
from sightline.systems.hoiref.predict import ReadPicture
from sightline.systems.hoiref.records import IDEN, Answer, Question


@dataclass(frozen=True)
class Wording:
    """How another model is asked.

    Attributes:
        locate: With places for `question` and `hint` (how to write a box).
        identify: With a place for `box`.
        name: With a place for `question`.
    """

    locate: str = "{question}? {hint}"
    identify: str = "What is inside the box {box}? Answer with its name only."
    name: str = "{question} Answer with one or two words only."


@dataclass(frozen=True)
class BaselineSettings:
    """How another model answers.

    Attributes:
        box_format: One of `boxes.FORMATS`.
        max_new_tokens: Longest answer.
        batch_limit: Most questions handed to the backend at once.
        wording: The words around a question.
    """

    box_format: str = "json_1000"
    max_new_tokens: int = 96
    batch_limit: int = 8
    wording: Wording = Wording()


class BaselinePredictor:
    """Asks a backend the questions of a block, each with its picture; pictures are read once per block."""

    def __init__(self, backend: Backend, settings: BaselineSettings, read_picture: ReadPicture) -> None:
        if not backend.takes_images:
            raise InputError(
                f"the backend {backend.name} reads text only", field="backend", mend="choose a model that takes images"
            )
        self.batch_limit = settings.batch_limit
        self._backend, self._settings, self._read = backend, settings, read_picture
        self._format = box_format(settings.box_format)

    def predict(self, samples: Sequence[Sample]) -> list[Prediction]:
        """Answers one block, in its order; a question without a picture or an answer is `failed` with a reason.

        Raises:
            InputError: A payload is malformed.
        """
        questions = {sample.id: Question.from_json(sample.payload, item=sample.id) for sample in samples}
        pictures: dict[str, np.ndarray | str] = {}
        for image in dict.fromkeys(question.image for question in questions.values()):
            try:
                pictures[image] = self._read(image)
            except InputError as error:
                pictures[image] = error.problem
        found: dict[str, Prediction] = {}
        requests: list[Request] = []
        for name, question in questions.items():
            picture = pictures[question.image]
            if isinstance(picture, str):
                found[name] = Prediction(name, "failed", picture)
            else:
                requests.append(self.request(name, question, picture))
        for start in range(0, len(requests), self.batch_limit):
            for reply in self._backend.generate(requests[start : start + self.batch_limit]):
                question = questions[reply.id]
                picture = pictures[question.image]
                assert not isinstance(picture, str)
                found[reply.id] = self._prediction(reply, question, picture)
        return [found[sample.id] for sample in samples]

    def request(self, name: str, question: Question, picture: np.ndarray) -> Request:
        """Returns what the backend is asked.

        Args:
            name: The sample's id.
            question: The question.
            picture: uint8 RGB [height, width, 3].
        """
        words, shown = self._settings.wording, (picture.shape[1], picture.shape[0])
        if question.task == IDEN:
            box = _rescaled(question.boxes, question.size, shown)[0]
            text = words.identify.format(box=self._format.write(box, shown))
        elif asks_for_box(question):
            text = words.locate.format(question=question.question.rstrip("?"), hint=self._format.hint)
        else:
            text = words.name.format(question=question.question)
        message = Message.of("user", Image(picture), text)
        return Request(name, (message,), Sampling(max_new_tokens=self._settings.max_new_tokens))

    def _prediction(self, reply: Reply, question: Question, picture: np.ndarray) -> Prediction:
        if reply.finish == "failed":
            return Prediction(reply.id, "failed", reply.reason or "the backend gave no answer")
        boxes = None
        if asks_for_box(question):
            shown = (picture.shape[1], picture.shape[0])
            boxes = _rescaled(self._format.read(reply.text, shown), shown, question.size)
        said = Answer(reply.text.strip(), near_ties=reply.near_ties, ended=reply.finish == "stop", boxes=boxes)
        return Prediction(reply.id, "ok", output=said.to_json())


def _rescaled(
    boxes: Sequence[Sequence[float]], old: tuple[float, float], new: tuple[float, float]
) -> list[list[float]]:
    """Moves boxes between two sizes of a picture."""
    across, down = new[0] / old[0], new[1] / old[1]
    return [[x1 * across, y1 * down, x2 * across, y2 * down] for x1, y1, x2, y2 in boxes]
