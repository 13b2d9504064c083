"""Which tokens one pass feeds, where they stand, and which feature map each of them reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sightline.errors import InputError


@dataclass(frozen=True)
class Step:
    """Layout of the M tokens that one pass feeds for B rows, N being the most any row feeds.

    Attributes:
        rows: Row of each token, int64 [M].
        columns: Place of each token among its row's tokens of this pass, int64 [M].
        positions: Position of each token in its row's sequence, int64 [M].
        mask: Keys each query may read, bool [B, 1, N, S]; None for a plain causal pass without padding.
        length: S, the keys in reach.
        width: N.
        height: B.
        vision: Tokens that read a feature map, int64 [m] into the M tokens; None when there are none.
        vision_rows: Row of each of them in the frame table, int64 [m].
        vision_frames: Frame of each of them, int64 [m].
        vision_gate: 1 where the result is added, 0 where it is not, [m]; None when all are added.
    """

    rows: Tensor
    columns: Tensor
    positions: Tensor
    mask: Tensor | None
    length: int
    width: int
    height: int
    vision: Tensor | None = None
    vision_rows: Tensor | None = None
    vision_frames: Tensor | None = None
    vision_gate: Tensor | None = None

    def spread(self, packed: Tensor) -> Tensor:
        """Lays packed values [M, ...] out as [B, N, ...]; unused places are zero."""
        if packed.shape[0] == self.height * self.width:
            return packed.view(self.height, self.width, *packed.shape[1:])
        laid = packed.new_zeros(self.height, self.width, *packed.shape[1:])
        return laid.index_put((self.rows, self.columns), packed)

    def pack(self, laid: Tensor) -> Tensor:
        """The way back from [B, N, ...] to [M, ...]."""
        if self.rows.shape[0] == self.height * self.width:
            return laid.reshape(self.height * self.width, *laid.shape[2:])
        return laid[self.rows, self.columns]


def cached_step(starts: Sequence[int], counts: Sequence[int], frames: Sequence[int], device: torch.device) -> Step:
    """Lays out a pass that continues the sequences of a cache; one copy to the device.

    Args:
        starts: Tokens each row has in the cache.
        counts: Tokens each row feeds now (0 for a row that waits).
        frames: Frame of every fed token in row order, -1 for text; as long as the sum of `counts`.
        device: Where the model runs.
    """
    start, count = np.asarray(starts, np.int64), np.asarray(counts, np.int64)
    height, width, total = len(start), int(count.max()), int(count.sum())
    rows = np.repeat(np.arange(height), count)
    columns = np.arange(total) - np.repeat(np.cumsum(count) - count, count)
    frame = np.asarray(frames, np.int64)
    vision = np.flatnonzero(frame >= 0)
    parts = (rows, columns, columns + start[rows], start, vision, rows[vision], frame[vision])
    packed = torch.from_numpy(np.concatenate(parts)).to(device, non_blocking=True)
    split = packed.split([len(part) for part in parts])
    length = int((start + count).max())
    last_key = split[3][:, None] + torch.arange(width, device=device)
    mask = torch.arange(length, device=device) <= last_key[:, None, :, None]
    has_vision = len(vision) > 0
    return Step(
        rows=split[0],
        columns=split[1],
        positions=split[2],
        mask=mask,
        length=length,
        width=width,
        height=height,
        vision=split[4] if has_vision else None,
        vision_rows=split[5] if has_vision else None,
        vision_frames=split[6] if has_vision else None,
    )


def full_step(vision_mask: Tensor, num_frames: int) -> Step:
    """Lays out one causal pass over whole sequences, padded on the right.

    Args:
        vision_mask: [B, N]; 0 text, 1 takes a frame but adds nothing, 2 attends to its frame.
        num_frames: Feature maps per row; the j-th masked token of a row takes frame j. With a single
            feature map every masked token takes it.

    Raises:
        InputError: A row has more masked tokens than feature maps.
    """
    height, width = vision_mask.shape
    device = vision_mask.device
    rows, columns = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    flat = vision_mask.reshape(-1)
    vision = flat.nonzero().squeeze(1)
    frames = (vision_mask != 0).long().cumsum(dim=1).reshape(-1)[vision] - 1
    if num_frames == 1:
        frames = torch.zeros_like(frames)
    elif len(vision) and int(frames.max()) >= num_frames:
        raise InputError(
            f"{int(frames.max()) + 1} <vision> tokens but only {num_frames} feature maps",
            mend="give one feature map per <vision> token",
        )
    has_vision = len(vision) > 0
    return Step(
        rows=rows.reshape(-1),
        columns=columns.reshape(-1),
        positions=columns.reshape(-1),
        mask=None,
        length=width,
        width=width,
        height=height,
        vision=vision if has_vision else None,
        vision_rows=rows.reshape(-1)[vision] if has_vision else None,
        vision_frames=frames if has_vision else None,
        vision_gate=(flat[vision] >= 2) if has_vision else None,
    )
