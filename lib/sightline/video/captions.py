"""Captions of a video: WebVTT, and text drawn into pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

_LINE_HEIGHT = 1.35
_SMALLEST, _PART_OF_HEIGHT = 9, 15
_SHADE = 0.45


@dataclass(frozen=True)
class Caption:
    """A text on display.

    Attributes:
        start_s: Seconds from the video's first frame.
        end_s: Seconds; later than `start_s`.
        text: What is shown.
    """

    start_s: float
    end_s: float
    text: str


def timed_captions(
    lines: Sequence[tuple[float, str]], *, hold_s: float = 3.0, per_letter_s: float = 0.06, shortest_s: float = 0.5
) -> list[Caption]:
    """Shows each text until the next begins, or until it has been read.

    Args:
        lines: Seconds, ascending and not negative, and texts. Texts of one moment are shown together.
        hold_s: Least time a text stays when nothing follows.
        per_letter_s: Reading time.
        shortest_s: A text is shown this long whatever follows.
    """
    captions = []
    for index, (start, text) in enumerate(lines):
        following = next((later for later, _ in lines[index + 1 :] if later > start), float("inf"))
        end = min(start + max(hold_s, per_letter_s * len(text)), max(following, start + shortest_s))
        captions.append(Caption(start, end, text))
    return captions


def shown_at(captions: Sequence[Caption], seconds: float) -> str:
    """Returns the texts on display at a moment, one per line."""
    return "\n".join(plain_line(one.text) for one in captions if one.start_s <= seconds < one.end_s)


def to_webvtt(captions: Sequence[Caption]) -> str:
    """Returns a WebVTT file (W3C): a cue per caption, markup escaped, line breaks made spaces."""
    cues = [
        f"{number}\n{_clock(one.start_s)} --> {_clock(one.end_s)}\n{_escaped(one.text)}\n"
        for number, one in enumerate(captions, start=1)
    ]
    return "\n".join(["WEBVTT\n", *cues])


def _clock(seconds: float) -> str:
    milliseconds = round(1000 * seconds)
    return (
        f"{milliseconds // 3_600_000:02d}:{milliseconds // 60_000 % 60:02d}:"
        f"{milliseconds // 1000 % 60:02d}.{milliseconds % 1000:03d}"
    )


def plain_line(text: str) -> str:
    """Returns a text on one line, control characters as spaces: a model may say anything."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _escaped(text: str) -> str:
    plain = plain_line(text) or "\u2026"
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class CaptionPainter:
    """Draws captions at the foot of pictures of one size."""

    def __init__(self, height: int, width: int) -> None:
        self._height, self._width = height, width
        self._font = cv2.FontFace("sans")
        self._size = max(_SMALLEST, round(min(height, 0.75 * width) / _PART_OF_HEIGHT))
        self._lines: tuple[str, list[str]] = ("", [])

    def draw(self, picture: np.ndarray, text: str) -> None:
        """Draws `text` onto uint8 [height, width, 3] BGR, in place; nothing for an empty text."""
        if not text.strip():
            return
        if self._lines[0] != text:
            self._lines = (text, self._wrapped(text))
        step = round(_LINE_HEIGHT * self._size)
        lines = self._lines[1][-max(1, (self._height - self._size) // step) :]
        top = max(0, self._height - step * len(lines) - self._size // 2)
        shade = picture[top:]
        shade[:] = (_SHADE * shade).astype(np.uint8)
        for row, line in enumerate(lines):
            left = max(0, (self._width - self._measure(line)) // 2)
            place = (left, min(self._height - 1, top + step * row + self._size))
            cv2.putText(picture, line, place, (255, 255, 255), self._font, self._size)

    def _measure(self, line: str) -> int:
        box = cv2.getTextSize((self._width, self._height), line, (0, 0), self._font, self._size)
        return int(box[0] + box[2])

    def _wrapped(self, text: str) -> list[str]:
        room = self._width - self._size
        lines: list[str] = []
        for paragraph in text.split("\n"):
            line = ""
            for word in paragraph.split():
                joined = f"{line} {word}".strip()
                if line and self._measure(joined) > room:
                    lines.append(line)
                    line = word
                else:
                    line = joined
            lines.append(line)
        return [line for line in lines if line]
