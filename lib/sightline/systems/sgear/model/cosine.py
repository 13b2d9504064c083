"""Cosine similarities to a table as one matrix product."""

from __future__ import annotations

from torch import Tensor

EPS = 1e-8


def cosine(x: Tensor, table: Tensor) -> Tensor:
    """Returns the cosine of every vector with every row, [..., N].

    The same values as broadcasting `torch.nn.CosineSimilarity` (norms below 1e-8 count as 1e-8) up to rounding,
    without a [..., N, d] temporary.

    Args:
        x: Floating [..., d].
        table: Floating [N, d].
    """
    x = x / x.norm(dim=-1, keepdim=True).clamp_min(EPS)
    return x @ (table / table.norm(dim=-1, keepdim=True).clamp_min(EPS)).T
