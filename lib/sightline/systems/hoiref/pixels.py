"""Pictures as the model sees them: any file to RGB, and RGB to the tower's input."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sightline.errors import InputError

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Per channel, of CLIP's training pictures; what the released processor subtracts and divides by."""


def load_rgb(path: str | Path) -> np.ndarray:
    """Returns a picture as uint8 RGB [height, width, 3].

    Grey, palette and transparent pictures are converted, transparency being dropped.

    Raises:
        InputError: The file is missing or damaged.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except FileNotFoundError:
        raise InputError(
            "the picture is missing", file=path, mend="extract the frame or correct the frame root"
        ) from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"the picture cannot be read ({error})", file=path, mend="extract or copy it again") from None


def tower_input(pixels: np.ndarray, side: int) -> np.ndarray:
    """Returns what the tower reads: resized to a square by PIL's antialiased bicubic, normalised.

    The aspect ratio is not kept, and nothing is cropped.

    Args:
        pixels: uint8 RGB [height, width, 3].
        side: Side of the square, 448 in the release.

    Returns:
        float32 [3, side, side].
    """
    from PIL import Image

    # Rows first, then columns, as the original's Pillow did: later versions choose the order by cost, and the
    # 8-bit rounding in between makes that visible in tall pictures.
    picture = Image.fromarray(pixels)
    widened = picture.resize((side, picture.height), Image.Resampling.BICUBIC)
    resized = widened.resize((side, side), Image.Resampling.BICUBIC)
    scaled = np.asarray(resized).astype(np.float32) / np.float32(255)
    channels = scaled.transpose(2, 0, 1)
    mean, std = (np.array(values, dtype=np.float32)[:, None, None] for values in (MEAN, STD))
    return np.ascontiguousarray((channels - mean) / std)
