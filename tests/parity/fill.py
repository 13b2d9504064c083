"""One rule that fills a state dict with reproducible values from tensor names, as the golden runs did."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping

import numpy as np


def generator(name: str) -> np.random.Generator:
    """Returns the generator that belongs to a tensor name."""
    return np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))


def fill_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns float32 values for one tensor.

    Two and more dimensions: normal, scaled by 1/sqrt(product of all but the first). One-dimensional
    `*.weight`: 1 + 0.1 normal. Every other one-dimensional tensor: 0.1 normal.
    """
    values = generator(name).standard_normal(shape)
    if len(shape) >= 2:
        return values.astype(np.float32) * np.float32(1 / np.sqrt(np.prod(shape[1:])))
    if name.endswith(".weight"):
        return (1 + 0.1 * values).astype(np.float32)
    return (0.1 * values).astype(np.float32)


def fill_state_dict(
    shapes: Mapping[str, tuple[int, ...]],
    exceptions: Callable[[str, tuple[int, ...]], np.ndarray | None] | None = None,
) -> dict[str, np.ndarray]:
    """Fills every named shape; `exceptions` may answer for a tensor first (a system's own rule)."""
    filled = {}
    for name, shape in shapes.items():
        special = exceptions(name, tuple(shape)) if exceptions else None
        filled[name] = fill_tensor(name, tuple(shape)) if special is None else special
    return filled
