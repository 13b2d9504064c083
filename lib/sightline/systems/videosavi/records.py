"""The room's own records: a benchmark's question and a model's reply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from sightline.errors import InputError
from sightline.records.types import Record


@dataclass(frozen=True, slots=True)
class BenchmarkQuestion(Record):
    """One question about one video, as a benchmark asks it.

    Attributes:
        id: `<task>-<number>`.
        task: Key of `tasks.TASKS`.
        number: Row of the benchmark's file.
        video: Path of the video below the task's folder.
        prompt: Text behind the frame lines.
        target: What the benchmark's file holds as the answer, unchanged.
        gold: What a right answer is compared with: a letter, a word, or the answer's text; empty if unpublished.
        options: Texts of the options; empty where the question holds them.
        letters: Letters an answer may name.
        group: Class of the question inside its task (kind, dimension, length).
        question: The question alone.
        server_id: Name under which a server takes the answer; empty if there is no server.
    """

    id: str
    task: str
    number: int
    video: str
    prompt: str
    target: Any
    gold: str
    options: list[str]
    letters: str
    group: str
    question: str
    server_id: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answered: a prediction's output.

    Attributes:
        text: The answer, untouched.
        letter: Option with the highest probability after one prefill, where the scorer by letters ran.
    """

    text: str
    letter: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the reply as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any], *, item: str | None = None) -> Self:
        """Builds the reply from a JSON object.

        Raises:
            InputError: A field is unknown, or `text` or `letter` is not text.
        """
        fitting = set(row) <= {"text", "letter"} and isinstance(row.get("text"), str)
        if not fitting or not isinstance(row.get("letter"), str | None):
            raise InputError("a reply is malformed", item=item, field="output", mend="predict again")
        return cls(row["text"], row.get("letter"))
