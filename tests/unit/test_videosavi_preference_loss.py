"""Gradients, precision and refusals of the preference loss."""

from __future__ import annotations

import pytest
import torch
from sightline.errors import ConfigError, InputError
from sightline.systems.videosavi.dpo import (
    UNSCORED,
    DpoSettings,
    PairLogProbs,
    dpo_losses,
    preference_loss,
    sequence_log_probs,
    token_log_probs,
)


def batch(dtype=torch.float64):
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(3, 7, 11, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.randint(0, 11, (3, 7), generator=generator)
    labels[:, :3] = UNSCORED
    labels[1, 5:] = UNSCORED
    return logits.requires_grad_(), labels


def test_log_probabilities_and_their_gradient_are_those_of_a_whole_softmax():
    logits, labels = batch()
    found, tokens = sequence_log_probs(logits, labels)
    whole = logits[:, :-1].log_softmax(-1).gather(2, labels[:, 1:].clamp_min(0).unsqueeze(2)).squeeze(2)
    wanted = (whole * (labels[:, 1:] != UNSCORED)).sum(1)
    assert torch.allclose(found, wanted, rtol=1e-12)
    assert tokens.tolist() == [4, 2, 4]
    first = torch.autograd.grad(found.sum(), logits)[0]
    assert torch.allclose(first, torch.autograd.grad(wanted.sum(), logits)[0], atol=1e-12)


def test_half_precision_is_raised_and_a_row_without_tokens_is_zero():
    logits, labels = batch(torch.bfloat16)
    labels[2] = UNSCORED
    sums, tokens = sequence_log_probs(logits, labels)
    assert sums.dtype == torch.float32
    assert (float(sums[2].detach()), int(tokens[2])) == (0.0, 0)


@pytest.mark.parametrize("loss_type", ["sigmoid", "robust"])
def test_smoothing_matters_and_extremes_stay_finite(loss_type):
    sides = [torch.tensor(values, dtype=torch.float32) for values in ([0.0, -1e6], [-1e6, 0.0], [0.0, 0.0], [0.0, 0.0])]
    pairs = PairLogProbs(*sides)
    plain, smooth = (dpo_losses(pairs, DpoSettings(loss_type=loss_type, label_smoothing=x)) for x in (0.0, 0.2))
    assert torch.isfinite(torch.stack([plain, smooth])).all()
    assert not torch.equal(plain, smooth)


def test_without_an_sft_term_lengths_are_not_asked_for():
    zeros = torch.zeros(2)
    pairs = PairLogProbs(zeros, zeros, zeros, zeros)
    assert float(preference_loss(pairs, DpoSettings())) == pytest.approx(0.6931472)
    for tokens in (None, torch.zeros(2, dtype=torch.int64)):
        with pytest.raises(InputError):
            preference_loss(pairs, DpoSettings(sft_alpha=1.0), tokens)


def test_shapes_that_do_not_fit():
    with pytest.raises(InputError, match="do not belong together"):
        token_log_probs(torch.zeros(2, 3, 5), torch.zeros(2, 4, dtype=torch.int64))


def test_every_wrong_setting_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        DpoSettings(beta=0, label_smoothing=0.5, loss_type="kto", sft_alpha=-1)  # type: ignore[arg-type]
    assert len(caught.value.problems) == 4
