"""What the demo page does, without the page: pictures and marks from its editor, answers as safe HTML, precisions."""

from __future__ import annotations

import html
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sightline.errors import DeviceError, InputError
from sightline.systems.hoiref.asking import Asker
from sightline.systems.hoiref.chat import Drawing, Talk, Turn, picture_digest
from sightline.systems.hoiref.grounding import (
    COLOURS,
    TASK_PROMPTS,
    Grounding,
    coloured_html,
    draw,
    ground,
    question_with_mark,
)

TASKS = tuple(prompt[1 : prompt.index("]")] for prompt in TASK_PROMPTS)
"""grounding, refer, detection, identify, vqa."""
PRECISIONS: dict[str, dict[str, str]] = {
    "32-bit": {"dtype": "float32", "quantisation": "none"},
    "16-bit": {"dtype": "bfloat16", "quantisation": "none"},
    "8-bit": {"dtype": "float16", "quantisation": "8bit"},
}
"""Settings of a variant behind the page's words."""
_TAG = re.compile(r"^\s*\[[a-z]+\]\s*")
_TEMPLATE_SIGNS = str.maketrans({"$": "&#36;", "{": "&#123;", "}": "&#125;"})


def precision_of(settings: dict[str, Any]) -> str:
    """Returns the page's word for a variant's precision; 4 bits have none and count as 8."""
    if settings["quantisation"] != "none":
        return "8-bit"
    return "32-bit" if settings["dtype"] == "float32" else "16-bit"


def retagged(text: str, task: str) -> str:
    """Returns a question under another task's tag.

    What the person wrote behind the old tag stays where the new one needs words: `[grounding]` and `[identify]`
    bring their own.
    """
    chosen = TASK_PROMPTS[TASKS.index(task)]
    if not chosen.endswith("] "):
        return chosen
    for prompt in TASK_PROMPTS:
        if text.strip() == prompt.strip():
            return chosen
    return chosen + _TAG.sub("", text)


def picture_of(edited: dict[str, Any] | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns what the page's editor holds.

    Args:
        edited: `background` and `layers` as uint8 RGB or RGBA, the brush in the layers' alpha; None without a picture.

    Returns:
        The picture, uint8 RGB [height, width, 3], and the marks, uint8 [height, width], or None without any.

    Raises:
        InputError: There is no picture.
    """
    background = None if edited is None else edited.get("background")
    if edited is None or background is None:
        raise InputError("there is no picture", field="picture", mend="upload one")
    marks = [layer[:, :, 3] for layer in edited.get("layers") or () if layer is not None and layer.shape[-1] == 4]
    mask = np.maximum.reduce(marks) if marks else None
    pixels = np.asarray(background)
    pixels = np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels[:, :, :3]
    return np.ascontiguousarray(pixels), mask if mask is not None and mask.any() else None


def transcript(turns: Sequence[Turn], *, writing: str | None = None) -> str:
    """Returns a conversation as HTML in which nothing of the model or the person is markup.

    Args:
        turns: What was said.
        writing: The last answer so far while it is being written; its phrases get their colours at the end.
    """
    parts = []
    for number, turn in enumerate(turns):
        open_ = writing is not None and number == len(turns) - 1
        said = f'{html.escape(writing or "")}<i class="pen"></i>' if open_ else answer_html(turn.text)
        parts.append(f'<p class="asked">{html.escape(turn.question)}</p><div class="said">{said}</div>')
    return f'<div class="talk">{"".join(parts)}</div>'.translate(_TEMPLATE_SIGNS)


def answer_html(text: str) -> str:
    """Returns an answer with phrases coloured like their boxes, and what was written below it."""
    found = ground(text)
    written = f'<p class="written">{html.escape(found.text)}</p>'
    if found.mode == "all":
        return f'<p class="phrases">{coloured_html(found)}</p>{written}'
    if found.mode == "single":
        red, green, blue = COLOURS[0]
        shown = f'<span style="color:rgb({red}, {green}, {blue})">{html.escape(found.text)}</span>'
        return f'<p class="phrases">{shown}</p>'
    return f'<p class="phrases">{html.escape(found.text) or "<i>no words</i>"}</p>'


def error_html(error: Exception) -> str:
    """Returns an error as a line of the page."""
    return f'<p class="trouble" role="alert">{html.escape(str(error))}</p>'.translate(_TEMPLATE_SIGNS)


def _boxes(found: Grounding) -> int:
    return sum(map(len, found.entities.values()))


@dataclass
class Session:
    """What the page keeps for one visitor.

    Attributes:
        talk: The conversation.
        precision: In which it is held.
    """

    talk: Talk
    precision: str


@dataclass(frozen=True)
class Shown:
    """What the page shows after a step.

    Attributes:
        transcript: HTML.
        picture: With boxes drawn in, uint8 RGB; None before there is an answer, the bare one without boxes.
        status: HTML.
        session: To hand in with the next question.
    """

    transcript: str
    picture: np.ndarray | None
    status: str
    session: Session | None


class Desk:
    """Answers the page's visitors one after another with one model in memory.

    Args:
        load: Loads the model in a precision of `PRECISIONS`.
        refuse: Stops with a `DeviceError` when a precision cannot run here; asked before the old model goes.
        precision: To begin with; loaded at once.
    """

    def __init__(self, load: Callable[[str], Asker], refuse: Callable[[str], None], precision: str) -> None:
        self._load, self._refuse = load, refuse
        self._lock = threading.Lock()
        refuse(precision)
        self._asker = load(precision)
        self._loaded: str | None = precision

    @property
    def precision(self) -> str | None:
        """What is in memory; None after a failed change."""
        return self._loaded

    def refusal(self, precision: str) -> str:
        """Returns why a precision cannot run here as HTML, or nothing."""
        try:
            self._refuse(precision)
        except DeviceError as error:
            return error_html(error)
        return ""

    def _in_precision(self, precision: str) -> Asker:
        """Conversations hold the asker, so that its model is replaced inside it: two never fill the memory."""
        if precision != self._loaded:
            self._refuse(precision)
            self._loaded = None
            self._asker.__dict__.pop("model", None)  # absent after a load that failed
            self._asker.model = self._load(precision).model
            self._loaded = precision
        return self._asker

    def answer(
        self, edited: dict[str, Any] | None, question: str, drawing: Drawing, precision: str, session: Session | None
    ) -> Iterator[Shown]:
        """Answers a question, one `Shown` per token; another picture or precision begins a new conversation.

        Args:
            edited: See `picture_of`; a mark is used where `[identify]` has no box.
            question: With its tag.
            drawing: How the answer is drawn; later turns count the seed on.
            precision: One of `PRECISIONS`.
            session: The conversation so far.

        Raises:
            InputError: There is no picture or no question, or the question does not fit.
            DeviceError: The precision cannot run here.
        """
        pixels, mask = picture_of(edited)
        if not question.strip():
            raise InputError("there is no question", field="question", mend="write one")
        asked = question_with_mark(question, mask)
        if asked == question and question.strip() == TASK_PROMPTS[3].strip():
            raise InputError("nothing is marked", field="picture", mend="brush over what is meant, or write its box")
        with self._lock:
            asker = self._in_precision(precision)
            same = session is not None and (session.precision, session.talk.digest) == (
                precision, picture_digest(pixels),
            )  # fmt: skip
            if session is None or not same:
                session = Session(Talk(asker, pixels), precision)
            yield from self._stream(session, asked, drawing)

    @staticmethod
    def _stream(session: Session, asked: str, drawing: Drawing) -> Iterator[Shown]:
        talk, begun = session.talk, time.perf_counter()
        for text in talk.ask(asked, drawing):
            yield Shown(transcript(talk.turns, writing=text), None, '<p class="status">writing …</p>', session)
        found, seconds = ground(talk.turns[-1].text), time.perf_counter() - begun
        count = _boxes(found)
        boxes = {0: "no box in it", 1: "1 box"}.get(count, f"{count} boxes")
        cut = "" if talk.turns[-1].ended else ", cut off at the longest answer"
        forgotten = f"; the first {talk.forgotten} turns are forgotten" if talk.forgotten else ""
        status = f'<p class="status">question {len(talk.turns)}: {seconds:.1f} s, {boxes}{cut}{forgotten}</p>'
        drawn = draw(talk.pixels, found if count else Grounding("single", found.text))  # the bare one in the same size
        yield Shown(transcript(talk.turns), drawn, status, session)
