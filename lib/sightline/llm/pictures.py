"""Chats and their pictures as OpenAI-style content."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from sightline.errors import InputError
from sightline.llm.base import Image, Message, Text


def data_url(pixels: np.ndarray) -> str:
    """Returns a picture, uint8 RGB [height, width, 3], as a PNG inside a `data:` address; no pixel changes.

    Raises:
        InputError: The array is no such picture.
    """
    import cv2

    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise InputError(
            f"a picture must be uint8 [height, width, 3], not {pixels.dtype} {list(pixels.shape)}",
            mend="decode it as RGB",
        )
    done, encoded = cv2.imencode(".png", np.ascontiguousarray(pixels[:, :, ::-1]))
    if not done:
        raise InputError("the picture cannot be encoded as PNG", mend="check its size")
    return f"data:image/png;base64,{base64.b64encode(encoded.tobytes()).decode('ascii')}"


def openai_turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Returns a chat as the OpenAI interface spells it; text-only turns are plain strings."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        if all(isinstance(part, Text) for part in message.parts):
            turns.append({"role": message.role, "content": message.text})
            continue
        content: list[dict[str, Any]] = []
        for part in message.parts:
            if isinstance(part, Text):
                content.append({"type": "text", "text": part.text})
                continue
            pictures = [part.pixels] if isinstance(part, Image) else list(part.pixels)
            content += [{"type": "image_url", "image_url": {"url": data_url(one)}} for one in pictures]
        turns.append({"role": message.role, "content": content})
    return turns
