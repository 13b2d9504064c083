"""The causal decoder of future features: a GPT-2 from transformers between two linear layers."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import GPT2Config, GPT2Model

from sightline.systems.sgear.model.config import DecoderConfig

LN_EPS = 1e-5


class _Gpt2(GPT2Model):
    """GPT-2 that is given vectors and returns vectors; its token table is removed."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(
            GPT2Config(
                vocab_size=1,
                n_positions=config.positions,
                n_embd=config.width,
                n_layer=config.layers,
                n_head=config.heads,
                layer_norm_epsilon=LN_EPS,
                resid_pdrop=config.dropout,
                embd_pdrop=config.dropout,
                attn_pdrop=config.dropout,
                bos_token_id=0,
                eos_token_id=0,
                use_cache=False,
            )
        )
        del self.wte


class FutureDecoder(nn.Module):
    """Predicts at every frame the feature of the next one."""

    def __init__(self, width: int, config: DecoderConfig) -> None:
        super().__init__()
        self.encoder = nn.Linear(width, config.width, bias=False)
        self.gpt_model = _Gpt2(config)
        self.decoder = nn.Linear(config.width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps frames [B, T, width] to predictions of the same shape, from frames up to each one."""
        out: Tensor = self.decoder(self.gpt_model(inputs_embeds=self.encoder(x)).last_hidden_state)
        return out
