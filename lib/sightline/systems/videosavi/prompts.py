"""The text a model is given: InternVL2.5's chat template, and the places of picture tokens in it."""

from __future__ import annotations

from collections.abc import Sequence

from sightline.errors import InputError
from sightline.systems.videosavi.segments import frame_lines

TEMPLATE = "internvl2_5"  # as `config.json` of a checkpoint names it
IMAGE = "<image>"
IMAGE_START, IMAGE_TOKEN, IMAGE_END = "<img>", "<IMG_CONTEXT>", "</img>"
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
# Part of the template: the models were trained behind this very line.
SYSTEM_MESSAGE = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
)


def chat_prompt(messages: Sequence[str | None], system: str = SYSTEM_MESSAGE) -> str:
    """Returns a conversation as the model reads it; an empty message loses its closing mark, as in the original.

    Args:
        messages: The user's and the model's in turn, the user's first; the last is None where the model is to answer.
        system: Line in front.

    Raises:
        InputError: There is no message, or one before the last is None.
    """
    if not messages or any(message is None for message in messages[:-1]):
        raise InputError("a conversation has an open turn that is not its last", mend="give the answers so far")
    parts = [f"{TURN_START}system\n{system}{TURN_END}\n"]
    for number, message in enumerate(messages):
        role = "assistant" if number % 2 else "user"
        parts.append(f"{TURN_START}{role}\n" + (f"{message}{TURN_END}\n" if message else ""))
    return "".join(parts)


def picture_tokens(tiles: int, tokens_per_tile: int) -> str:
    """Returns what stands for one picture of so many tiles."""
    return f"{IMAGE_START}{IMAGE_TOKEN * (tiles * tokens_per_tile)}{IMAGE_END}"


def with_pictures(text: str, tiles: Sequence[int], tokens_per_tile: int) -> str:
    """Replaces `<image>` from left to right, once per entry of `tiles`, by as many picture tokens as it has."""
    pieces = text.split(IMAGE, len(tiles))
    places = [picture_tokens(count, tokens_per_tile) for count in tiles[: len(pieces) - 1]]
    return pieces[0] + "".join(place + piece for place, piece in zip(places, pieces[1:], strict=True))


def video_message(question: str, tiles_per_frame: Sequence[int], tokens_per_tile: int) -> str:
    """Returns a user's first message: one line per frame, its tokens filled in, then the question.

    Tokens are filled in before the question is added, so a question that holds `<image>` shifts no frame; the original
    replaces over the whole text.
    """
    return with_pictures(frame_lines(len(tiles_per_frame)), tiles_per_frame, tokens_per_tile) + question


def cut_answer(text: str) -> str:
    """Returns a decoded answer up to the first end-of-turn mark, without spaces around it."""
    return text.split(TURN_END)[0].strip()
