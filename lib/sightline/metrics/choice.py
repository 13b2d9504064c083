"""Which option a free answer names, read as the benchmarks' own scorers (lmms-eval 0.7.2) read it.

Each reader returns a letter, or None where the answer names none. What the original draws at random then is drawn
by `letter_or_draw` from a generator that is handed in.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence

from sightline.errors import InputError

_LETTERED = re.compile(r"^([A-E])\.\s*(.+)$", re.IGNORECASE)
_LONE_LETTER = re.compile(r"\b([a-e])\b")
_LONE_CAPITAL = re.compile(r"\b([A-D])\b")
_ANY_CAPITAL = re.compile(r"[A-E]")
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIODS_REMOVED = 32  # a flag passed as a count in the VQA scorer that MVBench's was taken from
_EDGES = ",.!?;:'"  # taken off one after another, as MMMU's scorer does
_CONTENT_WORDS = 5  # answers of more words are searched for the text of an option
_LEADS = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option is",
    "The correct option is",
    "Best answer:",
    "Best option:",
)  # LongVideoBench deletes these wherever they stand, in this order
_CAREFUL = (
    re.compile(r"^\W*([A-E])\W*$"),
    re.compile(r"^\W*([A-E])(?:[.):]|\s*[-:])(?:\s|$)"),
    re.compile(r"^\(([A-E])\)"),
    re.compile(r"(?:answer|option|choice)(?: is)?:?\s*\W?([A-E])\b(?!\w)", re.IGNORECASE),
)


def letters_of(count: int) -> str:
    """Returns the first `count` capital letters."""
    return "".join(chr(ord("A") + number) for number in range(count))


def letter_or_draw(letter: str | None, letters: str, generator: random.Random) -> str:
    """Returns the letter, or one of `letters` drawn from the generator if there is none."""
    return generator.choice(list(letters)) if letter is None else letter


# ---------------------------------------------------------------------------------------------- MVBench
def _without_punctuation(text: str) -> str:
    cleaned = text
    for mark in _PUNCTUATION:
        drop = f"{mark} " in text or f" {mark}" in text or _COMMA_IN_NUMBER.search(text)
        cleaned = cleaned.replace(mark, "" if drop else " ")
    return _PERIOD.sub("", cleaned, count=_PERIODS_REMOVED)


def mvbench_letter(text: str) -> str | None:
    """Reads an answer as MVBench's scorer: a leading letter with a period, or else the first letter standing alone.

    Either case counts, so the article in "a man walks" is an A.
    """
    lettered = _LETTERED.match(text.strip())
    if lettered:
        return lettered[1].upper()
    flat = _without_punctuation(text.replace("\n", " ").replace("\t", " ").strip())
    for edge in "'\")(":
        flat = flat.strip(edge)
    lone = _LONE_LETTER.search(flat.lower())
    return lone[1].upper() if lone else None


# ------------------------------------------------------------------------------------- other benchmarks
def lone_capital(text: str) -> str | None:
    """Reads an answer as Perception Test's scorer: the first capital from A to D that stands alone."""
    found = _LONE_CAPITAL.search(text.strip())
    return found[1] if found else None


def _padded(text: str) -> str:
    for edge in _EDGES:
        text = text.strip(edge)
    return f" {text} "


def _named_by_text(text: str, options: Mapping[str, str]) -> list[str]:
    if len(text.split()) <= _CONTENT_WORDS:
        return []
    return [letter for letter, option in options.items() if option.lower() in text.lower()]


def _chosen(found: Sequence[str], position: Callable[[str], int], best: Callable[[list[int]], int]) -> str | None:
    if not found:
        return None
    positions = [position(one) for one in found]
    return found[positions.index(best(positions))]


def earliest_mention(text: str, options: Sequence[str]) -> str | None:
    """Reads an answer as EgoSchema's scorer: of all mentions, the one whose last occurrence comes earliest.

    Mentions are "(A)", "A " and "A.", also at the end of a longer word; without any, whole option texts in answers
    of more than five words.

    Args:
        text: The answer.
        options: Texts of the options as the question shows them.
    """
    padded, letters = _padded(text), letters_of(len(options))
    forms = [form.format(letter) for form in ("({})", "{} ", "{}.") for letter in letters]
    mentions = [form for form in forms if form in padded]
    if mentions:
        chosen = _chosen(mentions, padded.rfind, min)
        return chosen.strip("(). ") if chosen else None
    by_letter = dict(zip(letters, options, strict=True))
    return _chosen(
        _named_by_text(padded, by_letter), lambda letter: padded.lower().rfind(by_letter[letter].lower()), min
    )


def last_mention(text: str, options: Sequence[str]) -> str | None:
    """Reads an answer as NExT-QA's scorer: "(A)", else "A ", else "A.", else option texts; of several the last.

    Letters without brackets are compared by where they stand between spaces, so of letters with periods, which never
    do, the first option wins.

    Args:
        text: The answer.
        options: Texts of the options.
    """
    padded, letters = _padded(text), letters_of(len(options))
    for form, place in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        found = [letter for letter in letters if form.format(letter) in padded]
        if found:
            return _chosen(found, lambda letter, place=place: padded.rfind(place.format(letter)), max)  # type: ignore[misc]
    by_letter = dict(zip(letters, options, strict=True))
    return _chosen(
        _named_by_text(padded, by_letter), lambda letter: padded.lower().rfind(by_letter[letter].lower()), max
    )


def first_capital(text: str) -> str | None:
    """Reads an answer as LongVideoBench's scorer: the first capital from A to E anywhere, even inside a word."""
    rest = text.strip()
    for lead in _LEADS:
        rest = rest.replace(lead, "")
    found = _ANY_CAPITAL.search(rest)
    return found[0] if found else None


def careful_letter(text: str) -> str | None:
    """Reads an answer without the scorers' generosity: a letter alone, leading with a mark, or after "answer is".

    Not a benchmark's rule: it shows how many verdicts rest on articles and initials taken for options.
    """
    stripped = text.strip()
    for pattern in _CAREFUL:
        found = pattern.search(stripped)
        if found:
            return found[1].upper()
    return None


# ------------------------------------------------------------------------------------------ TempCompass
def multi_choice_verdict(text: str, answer: str) -> bool | None:
    """Says whether an answer to a TempCompass multiple-choice question is right; None needs a judge.

    Args:
        text: The answer.
        answer: The right option with its letter, e.g. "B. two dogs".
    """
    if text == answer:
        return True
    if text in ("A", "B", "C", "D"):
        return text == answer[:1]
    for mark in ".)":
        if text.startswith(tuple(f"{letter}{mark}" for letter in "ABCD")):
            return text.split(mark)[0] == answer[:1]
    return None


def yes_or_no(text: str) -> str | None:
    """Returns `yes` or `no` by the first letters of an answer ("nothing" is a no); None needs a judge."""
    lowered = text.lower()
    return next((word for word in ("yes", "no") if lowered.startswith(word)), None)


def _caption_parts(line: str, what: str) -> tuple[str, str]:
    label, mark, sentence = line.partition(": ")
    if not mark or not label:
        raise InputError(f"{what} {line!r} has no label", mend='expected a line like "Caption A: two dogs run"')
    return label, sentence.split(": ")[0]


def caption_verdict(text: str, question: str, answer: str) -> bool | None:
    """Says whether an answer to a TempCompass caption-matching question is right; None needs a judge.

    Args:
        text: The answer: a whole line, its sentence (also behind a letter and a bracket), or its label.
        question: One line of question, then one line per caption, "label: sentence".
        answer: The right caption's line.

    Raises:
        InputError: A caption has no label.
    """
    lines = question.split("\n")[1:]
    parts = [_caption_parts(line, "caption") for line in lines]
    labels = [label for label, _ in parts]
    bare = [label.replace("Sentence ", "").replace("Option ", "").replace("Caption ", "") for label in labels]
    behind = text.split(") ")[1] if ") " in text else None
    named = [line for line in lines if line == text]
    named += [sentence for _, sentence in parts if sentence in (text, behind)]
    named += [label for label in labels + bare if label in (text, text.replace(".", ""))]
    if not named:
        return None
    label, sentence = _caption_parts(answer, "answer")
    return named[-1] in (answer, answer.split(":")[0], sentence, [*label.split(), ""][1])


def judged_verdict(reply: str) -> bool | None:
    """Reads a judge's reply of `Correct` or `Incorrect`; None where it says neither."""
    if reply.startswith("Correct"):
        return True
    if "Incorrect" in reply:
        return False
    return True if "Correct" in reply else None


def judged_caption_verdict(reply: str, answer: str) -> bool | None:
    """Reads a judge's choice for a TempCompass caption: right if it names that option alone; None if empty.

    Args:
        reply: Lines `Reasoning:` and `Answer:`; without the latter the whole reply is the answer.
        answer: The right option with its letter.
    """
    if not reply:
        return None
    lines = [line.strip().replace("Answer:", "").strip() for line in reply.split("\n") if "Answer" in line]
    given = lines[-1] if lines else reply
    named = sum(given.count(f"{letter}.") for letter in "ABCD")
    return named == 1 and given.split(". ")[0] == answer.split(". ")[0]
