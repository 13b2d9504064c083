"""The Temporal Context Aggregator: attention within a frame, over keys and values summed over the past."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sightline.systems.sgear.model.config import HEAD_DIM
from sightline.systems.sgear.model.vit import Mlp

MLP_RATIO = 4


def summed_over_past(x: Tensor, weights: Tensor) -> Tensor:
    """Returns, at each frame, the weighted sum of all frames up to it.

    The gradient, as the released code has it: past and weighted sums carry none to `x`, the frame itself carries
    one with factor 1, and `weights` get theirs.

    Args:
        x: Floating [B, T, ...].
        weights: Floating [T].
    """
    shape = (1, -1) + (1,) * (x.ndim - 2)
    still = x.detach()
    return (still * weights.view(shape)).cumsum(dim=1) + (x - still)


class TemporalAttention(nn.Module):
    """Attention of a frame's tokens over the summed keys and values.

    Two peculiarities are part of the architecture, as weights are trained through them: logits above the diagonal
    are set to 0, not minus infinity; and the result, in the order (batch, head, frame, token, channel), is read as
    (batch and frame, token, channel), which mixes frames and heads.
    """

    def __init__(self, width: int, frames: int) -> None:
        super().__init__()
        self.heads = width // HEAD_DIM
        self.frames = frames
        self.tmp_weighting = nn.Parameter(torch.ones(frames))
        self.alpha = nn.Parameter(torch.full((1,), 0.5))  # in every checkpoint, used by none
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps tokens [B * T, n, width] to the same shape."""
        rows, tokens, width = x.shape
        qkv = self.qkv(x).view(-1, self.frames, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)  # each [B, T, h, n, hd]
        k, v = summed_over_past(k, self.tmp_weighting), summed_over_past(v, self.tmp_weighting)
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        mixed = logits.tril().softmax(dim=-1) @ v
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(rows, tokens, width))
        return out


class TcaBlock(nn.Module):
    """A pre-norm transformer block around `TemporalAttention`."""

    def __init__(self, width: int, frames: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = TemporalAttention(width, frames)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, MLP_RATIO * width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps tokens [B * T, n, width] to the same shape."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out
