"""Direct preference optimisation (arXiv 2305.18290) with what later `trl` lost: smoothing in the sigmoid, an SFT term.

Pure functions of tensors, in the precision of what they are given; equal to `trl` 0.11.4's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.errors import ConfigError, InputError

UNSCORED = -100  # label of prompt, picture and padding tokens
LossType = Literal["sigmoid", "robust", "hinge", "ipo"]


@dataclass(frozen=True, slots=True)
class DpoSettings:
    """The loss of one training.

    Attributes:
        beta: How much a difference of log-probabilities counts; above 0.
        label_smoothing: Share of pairs taken to be the wrong way round, from 0 to below 0.5.
        loss_type: `sigmoid` (DPO; with smoothing cDPO), `robust` (arXiv 2403.00409), `hinge` (SLiC) or `ipo`
            (arXiv 2310.12036, on the numbers given: divide by the length first for the mean per token).
        sft_alpha: Weight of the chosen answers' negative log-likelihood (RPO, arXiv 2404.19733).
        reference_free: Leave the reference out of the loss; rewards still subtract it.
    """

    beta: float = 0.1
    label_smoothing: float = 0.0
    loss_type: LossType = "sigmoid"
    sft_alpha: float = 0.0
    reference_free: bool = False

    def __post_init__(self) -> None:
        problems = []
        if not self.beta > 0:
            problems.append(f"beta {self.beta} must be above 0")
        if not 0 <= self.label_smoothing < 0.5:
            problems.append(f"label_smoothing {self.label_smoothing} must be at least 0 and below 0.5")
        if self.loss_type not in get_args(LossType):
            problems.append(f"loss_type {self.loss_type!r} is none of {', '.join(get_args(LossType))}")
        if self.sft_alpha < 0:
            problems.append(f"sft_alpha {self.sft_alpha} must not be negative")
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True, slots=True)
class PairLogProbs:
    """Log-probabilities of a batch of pairs under two models, each [pairs].

    Attributes:
        policy_chosen: Of the chosen answers under the model in training.
        policy_rejected: Of the rejected answers under the model in training.
        reference_chosen: Of the chosen answers under the frozen model.
        reference_rejected: Of the rejected answers under the frozen model.
    """

    policy_chosen: Tensor
    policy_rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor

    def advantage(self, *, reference_free: bool = False) -> Tensor:
        """Returns how much more the policy prefers the chosen answer than the reference does, [pairs]."""
        policy = self.policy_chosen - self.policy_rejected
        return policy if reference_free else policy - (self.reference_chosen - self.reference_rejected)


def token_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the log-probability of every scored token, 0 elsewhere.

    Only scored positions are normalised, so a long prompt of picture tokens costs no softmax over the vocabulary.

    Args:
        logits: [batch, T, vocabulary]; half precision is raised to float32.
        labels: int64 [batch, T]; `UNSCORED` where nothing is scored. The first is never scored.

    Returns:
        [batch, T - 1], position t for the token at t + 1.

    Raises:
        InputError: The shapes do not belong together.
    """
    if logits.shape[:2] != labels.shape or logits.shape[1] < 1:
        raise InputError(f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} do not belong together")
    targets = labels[:, 1:]
    scored = targets != UNSCORED
    rows = logits[:, :-1][scored]
    rows = rows if rows.dtype in (torch.float32, torch.float64) else rows.float()
    picked = rows.gather(1, targets[scored].unsqueeze(1)).squeeze(1) - rows.logsumexp(dim=1)
    return rows.new_zeros(targets.shape).masked_scatter(scored, picked)


def sequence_log_probs(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the sum over scored tokens and their number, each [batch]; arguments as `token_log_probs`."""
    return token_log_probs(logits, labels).sum(dim=1), (labels[:, 1:] != UNSCORED).sum(dim=1)


def dpo_losses(pairs: PairLogProbs, settings: DpoSettings) -> Tensor:
    """Returns the loss of every pair, [pairs], without the SFT term; finite for any finite log-probabilities."""
    advantage = pairs.advantage(reference_free=settings.reference_free)
    scaled, flipped = settings.beta * advantage, settings.label_smoothing
    if settings.loss_type == "hinge":
        return F.relu(1 - scaled)
    if settings.loss_type == "ipo":
        return (advantage - 1 / (2 * settings.beta)) ** 2
    right, wrong = F.logsigmoid(scaled), F.logsigmoid(-scaled)
    if settings.loss_type == "robust":
        return (-(1 - flipped) * right + flipped * wrong) / (1 - 2 * flipped)
    return -(1 - flipped) * right - flipped * wrong


def mean_token_nll(log_probs: Tensor, tokens: Tensor) -> Tensor:
    """Returns the negative log-likelihood per token over all scored tokens of a batch (a scalar).

    Args:
        log_probs: [batch], sums of the chosen answers.
        tokens: [batch], their numbers of scored tokens.

    Raises:
        InputError: No token is scored.
    """
    count = tokens.sum()
    if not count:
        raise InputError("no token of the chosen answers is scored", field="labels")
    return -log_probs.sum() / count


def preference_loss(pairs: PairLogProbs, settings: DpoSettings, chosen_tokens: Tensor | None = None) -> Tensor:
    """Returns the batch's loss (a scalar): mean over pairs plus `sft_alpha` times the chosen answers' NLL per token.

    Args:
        pairs: Log-probabilities.
        settings: The loss.
        chosen_tokens: [pairs], numbers of scored tokens of the chosen answers; needed where `sft_alpha` is not 0.

    Raises:
        InputError: They are needed and not given, or are all 0.
    """
    loss = dpo_losses(pairs, settings).mean()
    if not settings.sft_alpha:
        return loss
    if chosen_tokens is None:
        raise InputError("the SFT term needs the numbers of chosen tokens", field="sft_alpha")
    return loss + settings.sft_alpha * mean_token_nll(pairs.policy_chosen, chosen_tokens)


@dataclass(frozen=True, slots=True)
class Rewards:
    """Implicit rewards of a batch: beta times how far the policy moved from the reference.

    Attributes:
        chosen: [pairs].
        rejected: [pairs].
    """

    chosen: Tensor
    rejected: Tensor

    @property
    def accuracy(self) -> float:
        """Share of pairs whose chosen answer has the higher reward; a tie is wrong."""
        return float((self.chosen > self.rejected).double().mean())

    @property
    def margin(self) -> float:
        """Mean difference of the two."""
        return float((self.chosen - self.rejected).mean())


def implicit_rewards(pairs: PairLogProbs, beta: float) -> Rewards:
    """Returns the rewards, without gradient."""
    return Rewards(
        beta * (pairs.policy_chosen - pairs.reference_chosen).detach(),
        beta * (pairs.policy_rejected - pairs.reference_rejected).detach(),
    )
