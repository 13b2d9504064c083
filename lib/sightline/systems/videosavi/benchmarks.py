"""A benchmark's row becomes a question, an answer becomes a verdict: prompts and rules of `tasks.PROTOCOL`."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sightline.errors import InputError
from sightline.metrics.choice import (
    caption_verdict,
    careful_letter,
    earliest_mention,
    first_capital,
    judged_caption_verdict,
    judged_verdict,
    last_mention,
    letter_or_draw,
    letters_of,
    lone_capital,
    multi_choice_verdict,
    mvbench_letter,
    yes_or_no,
)
from sightline.systems.videosavi.records import BenchmarkQuestion
from sightline.systems.videosavi.tasks import TASKS, task_named

_DIRECTLY = "Answer with the option's letter from the given choices directly."
_NO_OPTION = "N/A"  # fills LongVideoBench's unused options
_LONGVIDEO_OPTIONS = _NEXT_OPTIONS = 5
Row = Mapping[str, Any]
Generator = Callable[[BenchmarkQuestion], random.Random]


def _field(row: Row, name: str, task: str, number: int) -> Any:
    if name not in row or row[name] is None:
        raise InputError("a field is missing", item=f"{task} row {number}", field=name, mend="fetch the rows again")
    return row[name]


def _texts(values: Any, task: str, number: int, field: str) -> list[str]:
    found = [str(value) for value in values] if isinstance(values, list | tuple) else []
    if not found:
        raise InputError(
            "expected a list of options", item=f"{task} row {number}", field=field, mend="fetch the rows again"
        )
    return found


@dataclass(frozen=True)
class _Asked:
    """What a family of tasks makes of a row."""

    video: str
    prompt: str
    target: Any
    gold: str
    options: list[str]
    group: str
    letters: str = ""
    server_id: str = ""


def _lettered(options: list[str]) -> str:
    return "\n".join(f"{letter}. {option}" for letter, option in zip(letters_of(len(options)), options, strict=True))


def _letter_of(value: Any, count: int, task: str, number: int, field: str) -> str:
    try:
        index = int(value)
    except (TypeError, ValueError):
        index = -1
    if not 0 <= index < count:
        raise InputError(
            f"the answer {value!r} is none of {count} options", item=f"{task} row {number}", field=field,
            mend="fetch the rows again",
        )  # fmt: skip
    return letters_of(count)[index]


def _ask_mvbench(row: Row, task: str, number: int) -> _Asked:
    options = _texts(_field(row, "candidates", task, number), task, number, "candidates")
    answer = _field(row, "answer", task, number)
    if str(answer) not in options:
        raise InputError("the answer is none of the candidates", item=f"{task} row {number}", field="answer")
    shown = "".join(f"({letter}) {text}\n" for letter, text in zip(letters_of(len(options)), options, strict=True))
    prompt = f"Question:{_field(row, 'question', task, number)}\nOption:\n{shown}Only give the best option.\n"
    gold = letters_of(len(options))[options.index(str(answer))]
    return _Asked(str(_field(row, "video", task, number)), prompt, answer, gold, options, task)


def _ask_perception(row: Row, task: str, number: int) -> _Asked:
    options = _texts(_field(row, "options", task, number), task, number, "options")
    marks = ["A", "B", *["C"] * len(options)]  # the original labels every option from the third on C
    shown = "".join(f"\n{mark}. {text}" for mark, text in zip(marks, options, strict=False))
    target = _field(row, "answer_id", task, number)
    return _Asked(
        f"{_field(row, 'video_name', task, number)}.mp4",
        f"{_field(row, 'question', task, number)}{shown}\n{_DIRECTLY}",
        target,
        _letter_of(target, len(options), task, number, "answer_id"),
        options,
        str(row.get("area", "")),
    )


def _ask_egoschema(row: Row, task: str, number: int) -> _Asked:
    options = _texts(_field(row, "option", task, number), task, number, "option")
    target, video = row.get("answer"), str(_field(row, "video_idx", task, number))
    known = task != "egoschema" and target not in (None, "")
    gold = _letter_of(target, len(options), task, number, "answer") if known else ""
    prompt = "\n".join([str(_field(row, "question", task, number)), *options, _DIRECTLY])
    return _Asked(f"{video}.mp4", prompt, target, gold, options, task, server_id=video)


def _ask_nextqa(row: Row, task: str, number: int) -> _Asked:
    names = [f"a{option}" for option in range(_NEXT_OPTIONS)]
    options = [str(_field(row, name, task, number)).strip() for name in names]
    target = _field(row, "answer", task, number)
    prompt = f"{str(_field(row, 'question', task, number)).strip()}\n{_lettered(options)}"
    gold = _letter_of(target, len(options), task, number, "answer")
    video = f"{_field(row, 'video', task, number)}.mp4"
    return _Asked(video, prompt, target, gold, options, str(row.get("type", "")))


def _ask_longvideo(row: Row, task: str, number: int) -> _Asked:
    given = [str(row.get(f"option{option}", _NO_OPTION)) for option in range(_LONGVIDEO_OPTIONS)]
    options = [option for option in given if option != _NO_OPTION]
    # What may be drawn ends at the first unused option, while the prompt leaves out all of them: the original's own.
    drawn = given.index(_NO_OPTION) if _NO_OPTION in given else len(given)
    target = _field(row, "correct_choice", task, number)
    return _Asked(
        str(_field(row, "video_path", task, number)),
        f"{_field(row, 'question', task, number)}\n{_lettered(options)}\n{_DIRECTLY}\n",
        target,
        _letter_of(target, _LONGVIDEO_OPTIONS, task, number, "correct_choice"),
        options,
        str(row.get("duration_group", "")),
        letters=letters_of(drawn),
    )


_TEMPCOMPASS_ENDS = {
    "tempcompass_multi_choice": "\nPlease directly give the best option:",
    "tempcompass_yes_no": "\nPlease answer yes or no:",
    "tempcompass_caption_matching": "\nPlease directly give the best option:",
    "tempcompass_captioning": "",
}


def _ask_tempcompass(row: Row, task: str, number: int) -> _Asked:
    question = str(_field(row, "question", task, number))
    captioning = task == "tempcompass_captioning"
    target = row.get("answer") if captioning else _field(row, "answer", task, number)
    gold = str(_field(row, "mc_answer", task, number)) if captioning else str(target)
    if task == "tempcompass_caption_matching":
        caption_verdict("", question, gold)  # refuses captions without a label now rather than when scoring
    video = f"{_field(row, 'video_id', task, number)}.mp4"
    return _Asked(video, question + _TEMPCOMPASS_ENDS[task], target, gold, [], str(_field(row, "dim", task, number)))


_ASK: dict[str, Callable[[Row, str, int], _Asked]] = {
    "mvbench": _ask_mvbench,
    "perceptiontest": _ask_perception,
    "egoschema": _ask_egoschema,
    "nextqa": _ask_nextqa,
    "longvideobench": _ask_longvideo,
    "tempcompass": _ask_tempcompass,
}


def question_from_row(task: str, row: Row, number: int) -> BenchmarkQuestion:
    """Returns a row of a benchmark's file as a question.

    Args:
        task: Key of `tasks.TASKS`.
        row: The row as the data set holds it.
        number: Its place in the file, from 0.

    Raises:
        ConfigError: The task is unknown.
        InputError: A field is missing or the answer is none of the options.
    """
    asked = _ASK[task_named(task).benchmark](row, task, number)
    letters = asked.letters or letters_of(len(asked.options))
    return BenchmarkQuestion(
        f"{task}-{number:05d}", task, number, asked.video, asked.prompt, asked.target, asked.gold, asked.options,
        letters, asked.group, str(row["question"]), asked.server_id,
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------- verdicts
@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of an answer.

    Attributes:
        choice: Letter or word read by the benchmark's rules; None if none could be read.
        correct: Whether it is right; None if only a judge, or a server, could say.
        drawn: Letter drawn at random in its place, where the benchmark does so.
        drawn_correct: Whether that letter is right.
        empty: The answer has no text.
        careful: Whether a careful reading is right; None where no letters are asked for.
    """

    choice: str | None
    correct: bool | None
    drawn: str | None = None
    drawn_correct: bool | None = None
    empty: bool = False
    careful: bool | None = None


_READ: dict[str, Callable[[str, list[str]], str | None]] = {
    "mvbench": lambda text, _: mvbench_letter(text),
    "perceptiontest": lambda text, _: lone_capital(text),
    "egoschema": earliest_mention,
    "nextqa": last_mention,
    "longvideobench": lambda text, _: first_capital(text),
}
DRAWS = frozenset({"egoschema", "nextqa", "longvideobench"})


def document_generator(question: BenchmarkQuestion) -> random.Random:
    """Returns a generator of this question's own: the draw depends on nothing else in the run."""
    digest = hashlib.sha256(f"{question.task}\0{question.number}".encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))


def verdict_on(
    question: BenchmarkQuestion, answer: str, generator: Generator = document_generator, judged: str | None = None
) -> Verdict:
    """Judges an answer by the benchmark's rules.

    Args:
        question: The question.
        answer: What the model wrote; spaces around it never count.
        generator: Gives the generator of the random fall-back.
        judged: A judge's reply, where there is one; only TempCompass reads it, where its rules say nothing.

    Raises:
        InputError: A TempCompass caption has no label.
    """
    text, benchmark = answer.strip(), TASKS[question.task].benchmark
    if benchmark == "tempcompass":
        return _tempcompass_verdict(question, text, judged)
    choice = _READ[benchmark](text, question.options)
    known = bool(question.gold)
    drawn = None
    if choice is None and benchmark in DRAWS and question.letters:
        drawn = letter_or_draw(None, question.letters, generator(question))
    return Verdict(
        choice,
        choice == question.gold if known else None,
        drawn,
        drawn == question.gold if known and drawn else None,
        not text,
        careful_letter(text) == question.gold if known else None,
    )


def _tempcompass_verdict(question: BenchmarkQuestion, text: str, judged: str | None) -> Verdict:
    choice, correct = None, None
    if question.task == "tempcompass_multi_choice":
        correct = multi_choice_verdict(text, question.gold)
    elif question.task == "tempcompass_yes_no":
        choice = yes_or_no(text)
        correct = None if choice is None else choice == question.gold
    elif question.task == "tempcompass_caption_matching":
        correct = caption_verdict(text, question.question, question.gold)
    if correct is None and judged is not None:
        captioning = question.task == "tempcompass_captioning"
        correct = judged_caption_verdict(judged, question.gold) if captioning else judged_verdict(judged)
    return Verdict(choice, correct, empty=not text)


def submission_index(question: BenchmarkQuestion, verdict: Verdict) -> int:
    """Returns the option's index as EgoSchema's server takes it; an answer without a letter gives its drawn one."""
    letter = verdict.choice or verdict.drawn
    return letters_of(len(question.options)).find(letter) if letter else -1
