"""Training VLM4HOI: the loss."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the mean next-token cross entropy over all targets of a batch.

    Args:
        logits: float [B, N, vocabulary].
        labels: int64 [B, N]; -100 where nothing is learnt.
    """
    return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten().to(logits.device))
