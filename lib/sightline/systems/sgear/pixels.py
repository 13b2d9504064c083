"""Pictures as the backbone sees them: S-GEAR's transforms, equal to the original's to the last bit of float32.

Bilinear without antialiasing, whatever the factor; values in [-1, 1]; crops from the corners and the middle.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.errors import InputError

_MEAN = _STD = 0.5
Crops = Literal[1, 3]


def as_clip(frames: np.ndarray) -> Tensor:
    """Returns pictures uint8 [T, H, W, 3] (RGB) as float32 [3, T, H, W] in [0, 1].

    Raises:
        InputError: The array has another shape or type.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise InputError(f"pictures are {frames.dtype} {frames.shape}, expected uint8 [T, H, W, 3]")
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(3, 0, 1, 2).float() / 255


def resized_shape(height: int, width: int, shorter: int) -> tuple[int, int]:
    """Returns height and width after the shorter side is brought to `shorter`."""
    least = min(height, width)
    return max(int(height * shorter / least), shorter), max(int(width * shorter / least), shorter)


def resize(clip: Tensor, shorter: int) -> Tensor:
    """Returns a clip [3, T, H, W] with its shorter side at `shorter`."""
    size = resized_shape(clip.shape[-2], clip.shape[-1], shorter)
    return F.interpolate(clip, size=size, mode="bilinear", align_corners=False)


def normalise(clip: Tensor) -> Tensor:
    """Returns values in [0, 1] as values in [-1, 1]."""
    return (clip - _MEAN) / _STD


def multi_crop(clip: Tensor, size: int, crops: Crops, *, flips: bool = False) -> Tensor:
    """Returns crops of a clip [3, T, H, W] as [crops, 3, T, size, size].

    Args:
        clip: At least `size` high and wide.
        size: Side of a crop.
        crops: 1 takes the middle; 3 the upper left corner, the middle and the lower right corner.
        flips: Appends mirrored copies.

    Raises:
        InputError: The clip is too small.
    """
    height, width = clip.shape[-2:]
    if height < size or width < size:
        raise InputError(f"a crop of {size} out of {height} x {width}", field="crop", mend="raise scale or lower crop")
    middle = (round((height - size) / 2.0), round((width - size) / 2.0))
    corners = [middle] if crops == 1 else [(0, 0), middle, (height - size, width - size)]
    found = torch.stack([clip[..., top : top + size, left : left + size] for top, left in corners])
    return torch.cat([found, found.flip(-1)]) if flips else found


def evaluation_input(frames: np.ndarray, *, scale: int, crop: int, crops: Crops, flips: bool = False) -> np.ndarray:
    """Returns what the model sees of one sample in evaluation.

    Args:
        frames: uint8 [T, H, W, 3], RGB.
        scale: Shorter side after resizing.
        crop: Side of a crop.
        crops: 1 or 3.
        flips: Mirrored copies too.

    Returns:
        float32 [T, 3, crop, crop], or [T, crops, 3, crop, crop] of several.
    """
    found = multi_crop(normalise(resize(as_clip(frames), scale)), crop, crops, flips=flips)
    moved = found.permute(2, 0, 1, 3, 4)
    return np.ascontiguousarray((moved[:, 0] if moved.shape[1] == 1 else moved).numpy())


def training_input(
    frames: np.ndarray,
    generator: np.random.Generator,
    *,
    scale: tuple[int, int],
    crop: int,
    flip: float = 0.5,
    through_bytes: bool = True,
) -> np.ndarray:
    """Returns what the model sees of one sample in training, all frames transformed alike.

    Args:
        frames: uint8 [T, H, W, 3], RGB.
        generator: Draws scale, flip and place, in this order.
        scale: Least and greatest shorter side, both included.
        crop: Side of the crop.
        flip: Probability of mirroring.
        through_bytes: Cuts values down to bytes after resizing, as the original's colour jitter does even at 0.

    Returns:
        float32 [T, 3, crop, crop].

    Raises:
        InputError: The crop is larger than the least scale.
    """
    if scale[0] < crop:
        raise InputError(
            f"a crop of {crop} out of a side of {scale[0]}", field="crop", mend="raise scale or lower crop"
        )
    clip = resize(as_clip(frames), int(generator.integers(scale[0], scale[1], endpoint=True)))
    if generator.random() < flip:
        clip = clip.flip(-1)
    if through_bytes:
        clip = (clip * 255).to(torch.uint8).float() / 255
    height, width = clip.shape[-2:]
    top = int(generator.integers(0, height - crop, endpoint=True))
    left = int(generator.integers(0, width - crop, endpoint=True))
    cut = normalise(clip)[..., top : top + crop, left : left + crop]
    return np.ascontiguousarray(cut.permute(1, 0, 2, 3).numpy())
