"""A vision transformer (Dosovitskiy et al. 2021) under the tensor names that timm publishes weights with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.systems.sgear.model.config import HEAD_DIM, VitConfig

VIT_EPS = 1e-6
"""Epsilon of the layer norms of timm's vision transformers."""


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [..., width] to itself."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD_DIM
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return out


class _Block(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=VIT_EPS)
        self.attn = _Attention(width)
        self.norm2 = nn.LayerNorm(width, eps=VIT_EPS)
        self.mlp = Mlp(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class _PatchEmbed(nn.Module):
    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.width, config.patch, config.patch)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.proj(images).flatten(2).transpose(1, 2)
        return out


class VisionTransformer(nn.Module):
    """All tokens of an image behind the last norm; there is no classifier."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.randn(1, config.tokens, config.width) * 0.02)
        self.patch_embed = _PatchEmbed(config)
        hidden = int(config.width * config.mlp_ratio)
        self.blocks = nn.ModuleList(_Block(config.width, hidden) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=VIT_EPS)

    def forward(self, images: Tensor) -> Tensor:
        """Returns tokens [B, 1 + patches, width], the class token first.

        Args:
            images: Floating [B, 3, image, image], scaled to [-1, 1].
        """
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), self.patch_embed(images)], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x)
        return out


class Backbone(nn.Module):
    """Holds the transformer under the name `model`, as checkpoints of S-GEAR do."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.model = VisionTransformer(config)

    def forward(self, images: Tensor) -> Tensor:
        """See `VisionTransformer.forward`."""
        out: Tensor = self.model(images)
        return out
