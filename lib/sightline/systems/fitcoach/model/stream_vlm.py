"""Stream-VLM: LLaMA that reads one feature map per `<vision>` token through cross-attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sightline.systems.fitcoach.model.config import StreamVlmConfig
from sightline.systems.fitcoach.model.layers import (
    CrossAttention,
    DecoderLayer,
    KeyValueCache,
    LoraLinear,
    RmsNorm,
    rotary_tables,
)
from sightline.systems.fitcoach.model.steps import Step, full_step

Frames = dict[int, tuple[Tensor, Tensor]]


class Decoder(nn.Module):
    """Embedding, decoder layers and final norm, under LLaMA's names."""

    def __init__(self, config: StreamVlmConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, layer) for layer in range(config.num_layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)


class StreamVlm(nn.Module):
    """The whole language side of FitCoach.

    Its state dict has the names of the original without `lang.base_model.model.`.
    """

    def __init__(self, config: StreamVlmConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head: nn.Module
        if config.lm_head_has_lora:
            self.lm_head = LoraLinear("lm_head", config.hidden_size, config.vocab_size, config)
        else:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self._rotary: tuple[Tensor, Tensor] | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return self.model.norm.weight.dtype

    def new_cache(self, batch: int, capacity: int) -> KeyValueCache:
        """Returns an empty cache for `batch` sequences of up to `capacity` tokens."""
        return KeyValueCache(self.config, batch, capacity, self.dtype, self.device)

    def project_frames(self, features: Tensor) -> Frames:
        """Computes keys and values of every feature map once, for all cross-attention layers.

        Args:
            features: [B, T, C, H, W] or [B, T, places, C], any floating dtype.

        Returns:
            Layer -> keys and values, each [B, T, places, attn_dim], in the model's dtype.
        """
        maps = flatten_maps(features).to(device=self.device, dtype=self.dtype)
        return {
            index: layer.xattn_layer.project(maps)
            for index, layer in enumerate(self.model.layers)
            if isinstance(layer.xattn_layer, CrossAttention)
        }

    def hidden_states(
        self, token_ids: Tensor, step: Step, frames: Frames | None, cache: KeyValueCache | None
    ) -> Tensor:
        """Returns the normed hidden states [M, hidden] of the tokens [M] of a step."""
        if self._rotary is None or self._rotary[0].device != self.device or self._rotary[0].dtype != self.dtype:
            self._rotary = rotary_tables(self.config, self.dtype, self.device)
        rotary = (self._rotary[0][step.positions][:, None], self._rotary[1][step.positions][:, None])
        hidden = self.model.embed_tokens(token_ids)
        for index, layer in enumerate(self.model.layers):
            hidden = layer(hidden, step, rotary, cache, frames.get(index) if frames else None)
        return self.model.norm(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """Returns float32 logits [..., vocabulary] of normed hidden states."""
        return self.lm_head(hidden).float()

    def forward(
        self, input_ids: Tensor, vision_mask: Tensor | None = None, features: Tensor | Frames | None = None
    ) -> Tensor:
        """Runs whole sequences at once, without a cache (training, teacher forcing).

        Args:
            input_ids: int64 [B, N], padded on the right.
            vision_mask: [B, N]; 0 text, 1 takes a frame but adds nothing, 2 attends. None for text alone.
            features: [B, T, C, H, W] without the zero step, or what `project_frames` made of them; the j-th
                masked token takes frame j.

        Returns:
            Logits, float32 [B, N, vocabulary].

        Raises:
            InputError: More `<vision>` tokens than feature maps.
        """
        if vision_mask is None or features is None:
            vision_mask, frames, count = torch.zeros_like(input_ids), None, 1
        else:
            frames = self.project_frames(features) if isinstance(features, Tensor) else features
            count = features.shape[1] if isinstance(features, Tensor) else _frame_count(features)
        step = full_step(vision_mask.to(self.device), count)
        hidden = self.hidden_states(input_ids.to(self.device).reshape(-1), step, frames, None)
        return self.logits(hidden).view(*input_ids.shape, -1)

    def merge_lora(self) -> None:
        """Adds every LoRA product to its weight; the model then computes the same with fewer products."""
        for module in self.modules():
            if isinstance(module, LoraLinear):
                module.merge()

    @property
    def has_lora(self) -> bool:
        """Says whether any LoRA branch is still separate."""
        return any(isinstance(m, LoraLinear) and m.lora_A is not None for m in self.modules())


def _frame_count(frames: Frames) -> int:
    return next((keys.shape[1] for keys, _ in frames.values()), 1)


def flatten_maps(features: Tensor) -> Tensor:
    """Returns [..., H*W, C] (rows first) of feature maps [..., C, H, W]; other shapes are left alone."""
    return features.flatten(-2).transpose(-1, -2) if features.ndim == 5 else features


def encode_features(features: Tensor) -> Tensor:
    """Returns what the original's feature processor does: [B, T+1, places, C], a zero step in front.

    Inference drops the zero step again, so that nothing else here uses it.
    """
    maps = flatten_maps(features)
    return torch.cat([torch.zeros_like(maps[:, :1]), maps], dim=1)


def random_stream_vlm(config: StreamVlmConfig, seed: int, *, std: float = 0.02) -> StreamVlm:
    """Builds a model with reproducible untrained weights, float32 on the CPU.

    LLaMA's own initialisation (normal, `std`), LoRA that starts as zero, cross-attention scaled by its
    inputs.
    """
    model = StreamVlm(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "lora_B" in name or name.endswith(".bias"):
                tensor.zero_()
            elif tensor.ndim == 1:
                tensor.fill_(1.0)
            else:
                inside = "xattn_layer" in name or "lora_A" in name
                tensor.normal_(0.0, tensor.shape[1] ** -0.5 if inside else std, generator=generator)
    return model.eval()
