"""Prototype attention: which prototypes resemble the frames, and their mixing into the sequence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sightline.systems.sgear.model.config import HEAD_DIM, TokenMixing
from sightline.systems.sgear.model.cosine import cosine

_HEADS_PER_WAVE = 3


class TopSimilarTokens(nn.Module):
    """Chooses prototypes by cosine, best first; among equals the lower class comes first."""

    def __init__(self, mixing: TokenMixing) -> None:
        super().__init__()
        self.mixing = mixing

    def forward(self, x: Tensor, table: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Returns cosines [..., N] and chosen classes, int64 [..., count].

        Args:
            x: Floating [B, d] (choose `count` per sample) or [B, T, d] (per frame).
            table: Prototypes [N, d].
            count: How many to choose.
        """
        similarity = cosine(x, table)
        if count == 1:
            return similarity, similarity.argmax(dim=-1, keepdim=True)
        return similarity, similarity.sort(dim=-1, descending=True, stable=True).indices[..., :count]

    def gather(self, chosen: Tensor, values: Tensor) -> Tensor:
        """Returns the tokens of chosen classes, [B, T, d].

        Args:
            chosen: int64 [B, T] or [B, T, 1].
            values: What a class brings, [N, d].
        """
        batch = len(chosen)
        tokens = values[chosen.reshape(-1)]
        if self.mixing == "per_sample":
            return tokens.view(batch, -1, values.shape[-1])
        # the released code reads the flat list frame by frame, which deals it out across the batch
        return tokens.view(-1, batch, values.shape[-1]).transpose(0, 1)


class PrototypeAttention(nn.Module):
    """Prototypes ask, frames answer, prototypes are what is mixed; a learned cyclic kernel is added.

    As in `TemporalAttention` the reading of (head, frame, channel) as (frame, width) is part of the architecture.
    """

    def __init__(self, width: int, frames: int) -> None:
        super().__init__()
        self.heads = width // HEAD_DIM
        self.tpl_weights = nn.Parameter(torch.randn(self.heads, frames) * 0.02)
        self.gate = nn.Parameter(torch.ones(1))
        self.proj = nn.Linear(width, width)

    def toeplitz(self) -> Tensor:
        """Returns the kernel of each head, [H, T, T]: cosine and sine in turns of three heads, then sine."""
        steps = torch.arange(self.tpl_weights.shape[1], device=self.tpl_weights.device)
        table = self.tpl_weights[:, (steps[:, None] - steps).abs()]
        wave = torch.arange(self.heads, device=table.device) // _HEADS_PER_WAVE
        is_cosine = ((wave == 0) | (wave == 2)).view(-1, 1, 1)
        return torch.where(is_cosine, table.cos(), table.sin())

    def forward(self, tokens: Tensor, features: Tensor) -> Tensor:
        """Returns the attended sequence [B, T, width].

        Args:
            tokens: Chosen prototypes [B, T, width].
            features: Frames [B, T, width].
        """
        batch, frames, width = tokens.shape
        x = tokens.view(batch, frames, self.heads, HEAD_DIM).transpose(1, 2)
        f = features.view(batch, frames, self.heads, HEAD_DIM).transpose(1, 2)
        attended = ((x * HEAD_DIM**-0.5) @ f.transpose(-2, -1)).softmax(dim=-1)
        share = self.gate.sigmoid()
        mixed = (share * attended + (1 - share) * self.toeplitz()) @ x  # [B, H, T, 64]
        out: Tensor = self.proj(mixed.reshape(batch, frames, width))
        return out
