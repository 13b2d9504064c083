"""Layers of Stream-VLM: LLaMA's decoder with LoRA, a preallocated cache, and attention to one feature map.

Sequences of a batch have different lengths, so the tokens of a step are kept packed, [M, hidden]; only
attention lays them out as rows. Positions, rows and masks of a step are worked out once, in a `Step`.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.systems.fitcoach.model.config import StreamVlmConfig
from sightline.systems.fitcoach.model.steps import Step


class KeyValueCache:
    """Keys and values of all layers, preallocated, [B, heads, capacity, head_dim] per layer.

    Rolling back needs no work here: what lies at or behind a row's length is masked and overwritten.
    """

    def __init__(
        self, config: StreamVlmConfig, batch: int, capacity: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.capacity = capacity
        shape = (batch, config.num_kv_heads, capacity, config.head_dim)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_layers)]

    def reserve(self, length: int) -> None:
        """Makes room for sequences of `length` tokens; grows by half at least, so that growing is rare."""
        if length <= self.capacity:
            return
        extra = max(length, self.capacity * 3 // 2) - self.capacity
        for store in (self.keys, self.values):
            store[:] = [F.pad(old, (0, 0, 0, extra)) for old in store]
        self.capacity += extra

    def write(self, layer: int, step: Step, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Stores [M, heads, head_dim] and returns the rows and keys in reach, [B, heads, S, head_dim]."""
        for store, new in ((self.keys[layer], keys), (self.values[layer], values)):
            store[step.rows, :, step.positions] = new
        reach = (slice(None, step.height), slice(None), slice(None, step.length))
        return self.keys[layer][reach], self.values[layer][reach]


class LoraLinear(nn.Module):
    """Linear without bias, with an optional LoRA branch under peft's names (`lora_A.default.weight`)."""

    def __init__(self, name: str, inputs: int, outputs: int, config: StreamVlmConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.scaling = config.lora_scaling
        self.lora_A: nn.ModuleDict | None = None
        self.lora_B: nn.ModuleDict | None = None
        if config.has_lora(name):
            self.lora_A = nn.ModuleDict({"default": nn.Linear(inputs, config.lora_rank, bias=False)})
            self.lora_B = nn.ModuleDict({"default": nn.Linear(config.lora_rank, outputs, bias=False)})
        self.dropout = nn.Dropout(config.lora_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [..., inputs] to [..., outputs]."""
        y = F.linear(x, self.weight)
        if self.lora_A is None or self.lora_B is None:
            return y
        return y + self.lora_B["default"](self.lora_A["default"](self.dropout(x))) * self.scaling

    @torch.no_grad()
    def merge(self) -> None:
        """Adds the LoRA product to the weight, in float32, and removes the branch."""
        if self.lora_A is None or self.lora_B is None:
            return
        up, down = self.lora_B.get_parameter("default.weight"), self.lora_A.get_parameter("default.weight")
        merged = self.weight.float() + self.scaling * (up.float() @ down.float())
        self.weight = nn.Parameter(merged.to(self.weight.dtype), requires_grad=self.weight.requires_grad)
        self.lora_A = self.lora_B = None


class RmsNorm(nn.Module):
    """LLaMA's norm: statistics in float32, result in the input's dtype."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalises the last axis."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


def rotary_tables(config: StreamVlmConfig, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns cos and sin, [max_positions, head_dim]: angles in float32, rounded to `dtype` at the end."""
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=device)
    frequencies = 1.0 / (config.rope_theta ** (half / config.head_dim))
    positions = torch.arange(config.max_positions, dtype=torch.float32, device=device)
    angles = torch.outer(positions, frequencies)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Applies rotary positions to [M, heads, head_dim]; cos and sin are [M, 1, head_dim]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class SelfAttention(nn.Module):
    """Causal attention over a row's own tokens."""

    def __init__(self, config: StreamVlmConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.heads, self.kv_heads = layer, config.num_heads, config.num_kv_heads
        self.head_dim = config.head_dim
        width, kv_width = self.heads * self.head_dim, self.kv_heads * self.head_dim
        self.q_proj = LoraLinear("q_proj", config.hidden_size, width, config)
        self.k_proj = LoraLinear("k_proj", config.hidden_size, kv_width, config)
        self.v_proj = LoraLinear("v_proj", config.hidden_size, kv_width, config)
        self.o_proj = LoraLinear("o_proj", width, config.hidden_size, config)

    def forward(self, hidden: Tensor, step: Step, rotary: tuple[Tensor, Tensor], cache: KeyValueCache | None) -> Tensor:
        """Maps [M, hidden] to [M, hidden]."""
        count = hidden.shape[0]
        queries = rotate(self.q_proj(hidden).view(count, self.heads, self.head_dim), *rotary)
        keys = rotate(self.k_proj(hidden).view(count, self.kv_heads, self.head_dim), *rotary)
        values = self.v_proj(hidden).view(count, self.kv_heads, self.head_dim)
        if cache is None:
            keys, values = step.spread(keys).transpose(1, 2), step.spread(values).transpose(1, 2)
        else:
            keys, values = cache.write(self.layer, step, keys, values)
        out = F.scaled_dot_product_attention(
            step.spread(queries).transpose(1, 2),
            keys,
            values,
            attn_mask=step.mask,
            is_causal=step.mask is None,
            enable_gqa=self.heads != self.kv_heads,
        )
        return self.o_proj(step.pack(out.transpose(1, 2)).reshape(count, -1))


class Mlp(nn.Module):
    """LLaMA's gated MLP."""

    def __init__(self, config: StreamVlmConfig) -> None:
        super().__init__()
        self.gate_proj = LoraLinear("gate_proj", config.hidden_size, config.intermediate_size, config)
        self.up_proj = LoraLinear("up_proj", config.hidden_size, config.intermediate_size, config)
        self.down_proj = LoraLinear("down_proj", config.intermediate_size, config.hidden_size, config)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [M, hidden] to [M, hidden]."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class FrameAttention(nn.Module):
    """One query attends to the places of its own feature map; no gate, no norm, no text path.

    Scores are divided by sqrt(attn_dim) whatever the number of heads, as the original does.
    """

    def __init__(self, config: StreamVlmConfig) -> None:
        super().__init__()
        self.heads, self.attn_dim = config.xattn_heads, config.attn_dim
        vision, width = config.vision_dim, config.attn_dim
        self.hidden_attn_fc = nn.Linear(config.hidden_size, width, bias=False)
        self.feat_attn_keys_fc = nn.Linear(vision, width, bias=False)
        self.vision_projector = nn.Sequential(
            nn.LayerNorm(vision, eps=1e-5),
            nn.Linear(vision, vision, bias=False),
            nn.GELU(),
            nn.Linear(vision, width, bias=False),
        )
        self.out_fc = nn.Linear(width, config.hidden_size, bias=False)

    def project(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Returns keys and values [..., places, attn_dim] of feature maps [..., places, vision_dim]."""
        return self.feat_attn_keys_fc(maps), self.vision_projector(maps)

    def forward(
        self, hidden: Tensor, keys: Tensor, values: Tensor, gate: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Attends from [m, hidden] to keys and values [m, places, attn_dim]; `gate` [m] of 0 and 1.

        Returns what is to be added, [m, hidden], and the weights, [m, heads, 1, places].
        """
        count, places = keys.shape[0], keys.shape[1]
        split = (count, places, self.heads, self.attn_dim // self.heads)
        queries = self.hidden_attn_fc(hidden).view(count, self.heads, 1, -1)
        scores = queries @ keys.reshape(split).permute(0, 2, 3, 1) / self.attn_dim**0.5
        weights = scores.softmax(dim=-1)
        mixed = weights @ values.reshape(split).transpose(1, 2)
        out = self.out_fc(mixed.reshape(count, -1))
        return out if gate is None else out * gate[:, None].to(out.dtype), weights


class CrossAttention(nn.Module):
    """Holder of the frame attention under the original's names (`attn_layers.0`)."""

    def __init__(self, config: StreamVlmConfig) -> None:
        super().__init__()
        self.attn_layers = nn.ModuleList([FrameAttention(config)])

    def project(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """See `FrameAttention.project`."""
        return self._attention.project(maps)

    @property
    def _attention(self) -> FrameAttention:
        return cast(FrameAttention, self.attn_layers[0])

    def forward(self, hidden: Tensor, frames: tuple[Tensor, Tensor], step: Step) -> Tensor:
        """Adds to the tokens of `step.vision` what they read in their frames [B, T, places, attn_dim]."""
        if step.vision is None or step.vision_rows is None or step.vision_frames is None:
            return hidden
        picked = (step.vision_rows, step.vision_frames)
        keys, values = frames[0][picked], frames[1][picked]
        read, _ = self._attention(hidden[step.vision], keys, values, step.vision_gate)
        return hidden.index_add(0, step.vision, read.to(hidden.dtype))  # autocast may have narrowed it


class DecoderLayer(nn.Module):
    """LLaMA's decoder layer, followed in some layers by attention to a feature map."""

    def __init__(self, config: StreamVlmConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = SelfAttention(config, layer)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = Mlp(config)
        self.xattn_layer = CrossAttention(config) if layer in config.xattn_layers else None

    def forward(
        self,
        hidden: Tensor,
        step: Step,
        rotary: tuple[Tensor, Tensor],
        cache: KeyValueCache | None,
        frames: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """Maps [M, hidden] to [M, hidden]."""
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), step, rotary, cache)
        hidden = hidden + self.mlp(self.post_attention_layernorm(hidden))
        if self.xattn_layer is not None and frames is not None:
            hidden = self.xattn_layer(hidden, frames, step)
        return hidden
