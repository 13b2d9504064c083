"""A value projection to start from, found from the feature maps alone: their principal components.

A network without trained layers gives features whose changes are small beside their mean; a random projection of
them is learnt from very slowly. Here the projector of every cross-attention layer returns the principal
components of the maps' means over places, each scaled to one size. No label is looked at. The weights stay those
of the released architecture: with `gelu(x) - gelu(-x) = x` its two layers make a linear map exactly.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.errors import ConfigError
from sightline.systems.fitcoach.model.layers import CrossAttention
from sightline.systems.fitcoach.model.stream_vlm import StreamVlm

_LEAST_SHARE = 1e-6  # of the largest variance: smaller ones are rounding


@torch.no_grad()
def fit_projectors(model: StreamVlm, maps: Iterable[np.ndarray], rank: int, scale: float) -> None:
    """Sets the value projections of all cross-attention layers.

    Args:
        model: In place; keys, queries and outputs stay as they are.
        maps: Feature maps of the training split, floating [T, C, H, W] each.
        rank: Components kept; the values beyond them are zero.
        scale: Standard deviation of each component's mean over places.

    Raises:
        ConfigError: More components than the projector can hold.
    """
    width = model.config.vision_dim
    if not 0 < rank <= min(model.config.attn_dim, width // 2):
        raise ConfigError(
            [f"training: projector_rank must lie between 1 and {min(model.config.attn_dim, width // 2)}, not {rank}"]
        )
    mean, components = _components(maps, rank, scale)
    for layer in model.model.layers:
        if isinstance(layer.xattn_layer, CrossAttention):
            projector = layer.xattn_layer.get_submodule("attn_layers.0.vision_projector")
            _set(projector.get_parameter("0.weight"), torch.ones(width))
            _set(projector.get_parameter("0.bias"), -mean)
            first = torch.zeros(width, width)
            first[:rank], first[rank : 2 * rank] = components, -components
            _set(projector.get_parameter("1.weight"), first)
            last = torch.zeros(model.config.attn_dim, width)
            place = torch.arange(rank)
            last[place, place], last[place, rank + place] = 1.0, -1.0
            _set(projector.get_parameter("3.weight"), last)


def _set(parameter: Tensor, value: Tensor) -> None:
    parameter.copy_(value.to(parameter))


def _components(maps: Iterable[np.ndarray], rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """Returns the mean of normalised maps [C], and the projections onto the components [rank, C]."""
    pooled = []
    for one in maps:
        flat = torch.from_numpy(np.array(one, dtype=np.float32)).flatten(2).transpose(1, 2)
        pooled.append(F.layer_norm(flat, flat.shape[-1:], eps=1e-5).mean(dim=1))
    steps = torch.cat(pooled).double()
    mean = steps.mean(dim=0)
    centred = steps - mean
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
    variances, directions = variances.flip(0)[:rank], directions.flip(1)[:, :rank]
    # An eigenvector's sign is free: fixed here, so that equal maps give equal weights.
    signs = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True)).sign()
    size = variances.clamp_min(_LEAST_SHARE * float(variances[0])).sqrt()
    return mean.float(), (directions * signs / size * scale).T.float()
