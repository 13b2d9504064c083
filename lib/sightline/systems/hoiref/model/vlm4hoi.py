"""VLM4HOI: pictures through EVA and a projection into the embeddings of LLaMA-2-chat with LoRA.

The state dict has the names of the released checkpoint (peft 0.2 style, `lm_head.0`), except that transformers
computes the rotary frequencies instead of storing them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from sightline.systems.hoiref.model import MERGED_PATCHES
from sightline.systems.hoiref.model.config import Vlm4HoiConfig
from sightline.systems.hoiref.model.eva_vit import EvaVit

IMAGE_TOKEN = -1
"""Stands in a row of token ids where an embedding of the picture goes."""
LLAMA = "llama_model.base_model.model."
_TRAINED = ("lora_A.weight", "lora_B.weight")


class LoraBranch(nn.Module):
    """What LoRA adds to a linear layer: a mixin in front of its class. The branch is never merged."""

    lora_A: nn.Linear
    lora_B: nn.Linear

    def add_lora(self, inputs: int, outputs: int, config: Vlm4HoiConfig) -> None:
        """Builds the branch, in float32."""
        self.lora_A = nn.Linear(inputs, config.lora_rank, bias=False, dtype=torch.float32)
        self.lora_B = nn.Linear(config.lora_rank, outputs, bias=False, dtype=torch.float32)
        self.lora_dropout = nn.Dropout(config.lora_dropout)
        self.lora_scaling = config.lora_scaling

    def forward(self, x: Tensor) -> Tensor:
        """Maps [..., inputs] to [..., outputs]."""
        base = super().forward(x)
        branch = self.lora_B(self.lora_A(self.lora_dropout(x.to(self.lora_A.weight.dtype))))
        return base + (branch * self.lora_scaling).to(base.dtype)


class LoraLinear(LoraBranch, nn.Linear):
    """Linear without bias, with LoRA under peft 0.2's names (`lora_A.weight`)."""

    def __init__(self, inputs: int, outputs: int, config: Vlm4HoiConfig) -> None:
        nn.Linear.__init__(self, inputs, outputs, bias=False)
        self.add_lora(inputs, outputs, config)


class _Float(nn.Module):
    """Logits leave the head in float32."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float()


class _Holder(nn.Module):
    """Gives a module one more name in front."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


class Vlm4Hoi(nn.Module):
    """The whole model; only the projection and LoRA are ever trained."""

    def __init__(self, config: Vlm4HoiConfig) -> None:
        super().__init__()
        self.config = config
        vision = config.vision
        self.visual_encoder = EvaVit(vision)
        self.ln_vision = nn.LayerNorm(vision.width, eps=1e-5)
        llama = LlamaForCausalLM(LlamaConfig(**config.llama, tie_word_embeddings=False))
        llama.config._attn_implementation = "sdpa"
        hidden = llama.config.hidden_size
        self.llama_proj = nn.Linear(MERGED_PATCHES * vision.width, hidden)
        llama.lm_head = cast(nn.Linear, nn.Sequential(llama.lm_head, _Float()))
        for layer in llama.model.layers:
            for name in config.lora_targets:
                plain = getattr(layer.self_attn, name)
                setattr(layer.self_attn, name, LoraLinear(plain.in_features, plain.out_features, config))
        self.llama_model = _Holder(base_model=_Holder(model=llama))
        self.compute_dtype = torch.float32

    @property
    def llama(self) -> LlamaForCausalLM:
        """The language model."""
        return cast(LlamaForCausalLM, self.llama_model.get_submodule("base_model.model"))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.llama_proj.weight.device

    def autocast(self) -> AbstractContextManager[Any]:
        """Returns the context to compute in: half precision on a GPU, as trained; nothing in float32."""
        if self.compute_dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.compute_dtype)

    def renew_rotary(self) -> None:
        """Computes the rotary frequencies again, which are in no file."""
        self.llama.model.rotary_emb = LlamaRotaryEmbedding(self.llama.config).to(self.device)

    def train(self, mode: bool = True) -> Vlm4Hoi:
        """Sets training mode; the tower and its norm always stay in evaluation mode."""
        super().train(mode)
        self.visual_encoder.eval()
        self.ln_vision.eval()
        return self

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Returns what the frozen part makes of pictures.

        Args:
            images: float32 [B, 3, side, side], from `tower_input`.

        Returns:
            Four neighbouring patches of a row per token, class token dropped, float32 [B, tokens, 4 * width].
        """
        with self.autocast():
            seen = self.visual_encoder(images.to(self.device))
        seen = F.layer_norm(
            seen.float(), self.ln_vision.normalized_shape, self.ln_vision.weight, self.ln_vision.bias,
            self.ln_vision.eps,
        )  # fmt: skip
        return seen[:, 1:].reshape(len(images), self.config.vision.tokens, -1)

    def embeddings(self, ids: Tensor, visual: Tensor) -> Tensor:
        """Returns LLaMA's inputs.

        Args:
            ids: int64 [B, N]; `IMAGE_TOKEN` where the picture goes, once per token of it, in order.
            visual: What `encode` returned, [B, tokens, 4 * width].

        Returns:
            [B, N, hidden] in the dtype of the embedding.
        """
        table = self.llama.model.embed_tokens
        embedded = table(ids.clamp(min=0).to(self.device))
        slots = (ids == IMAGE_TOKEN).to(self.device)
        projected = self.llama_proj(visual.to(self.device)).to(embedded.dtype)
        return embedded.masked_scatter(slots[..., None], projected)

    def forward(self, ids: Tensor, mask: Tensor, visual: Tensor) -> Tensor:
        """Runs whole rows at once (training, teacher forcing).

        Args:
            ids: int64 [B, N], padded on the right.
            mask: 1 for tokens, 0 for padding, [B, N].
            visual: What `encode` returned, [B, tokens, 4 * width].

        Returns:
            Logits, float32 [B, N, vocabulary].
        """
        embedded = self.embeddings(ids, visual)
        return self.llama(inputs_embeds=embedded, attention_mask=mask.to(self.device), use_cache=False).logits

    def trainable_names(self) -> list[str]:
        """Returns the tensors the original trains: LoRA and the projection."""
        return [
            name for name in self.state_dict() if name.endswith(_TRAINED) or name.startswith("llama_proj.")
        ]  # fmt: skip

    def freeze(self) -> None:
        """Lets exactly the tensors of `trainable_names` train."""
        chosen = set(self.trainable_names())
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in chosen)


def rotary_frequencies(config: Vlm4HoiConfig) -> Tensor:
    """Returns the `inv_freq` the original stores in every layer, float32 [head_dim / 2]."""
    return LlamaRotaryEmbedding(LlamaConfig(**config.llama)).inv_freq.clone()


def random_vlm4hoi(config: Vlm4HoiConfig, seed: int) -> Vlm4Hoi:
    """Builds a model with reproducible untrained weights, float32 on the CPU, LoRA starting as zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Vlm4Hoi(config)
        for name, parameter in model.named_parameters():
            if name.endswith("lora_B.weight"):
                nn.init.zeros_(parameter)
            elif name.endswith(("pos_embed", "cls_token")):
                nn.init.trunc_normal_(parameter, std=0.02)
    return model.eval()
