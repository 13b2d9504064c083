"""DPO losses, rewards and log-probabilities against trl 0.11.4's, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden import find, load_json
from sightline.systems.videosavi.dpo import (
    DpoSettings,
    PairLogProbs,
    dpo_losses,
    implicit_rewards,
    mean_token_nll,
    preference_loss,
    sequence_log_probs,
)

SYSTEM = "videosavi"
LOSSES = load_json(SYSTEM, "dpo", "loss_cases.json") or {"batches": [], "results": []}
SFT = load_json(SYSTEM, "dpo", "batch_sft.json") or []
MODEL = load_json(SYSTEM, "model", "dpo_model_loss.json") or {}
SIDES = ("chosen", "rejected")


def arrays(*parts):
    with np.load(find(SYSTEM, *parts), allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def close(found, wanted):
    assert torch.as_tensor(found, dtype=torch.float64).tolist() == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("number", [pytest.param(n, id=f"{SYSTEM}-{n}") for n in range(len(LOSSES["results"]))])
def test_losses(number):
    case = LOSSES["results"][number]
    batch = LOSSES["batches"][case["batch"]]
    pairs = PairLogProbs(
        *(torch.tensor(batch[f"{who}_{side}_logps"], dtype=torch.float64) for who in ("policy", "reference")
          for side in SIDES)
    )  # fmt: skip
    names = ("beta", "label_smoothing", "loss_type", "reference_free")
    settings = DpoSettings(**{name: case[name] for name in names})
    close(dpo_losses(pairs, settings), case["losses"])
    close(preference_loss(pairs, settings), case["loss"])
    rewards = implicit_rewards(pairs, case["beta"])
    close(rewards.chosen, case["chosen_rewards"])
    close(rewards.rejected, case["rejected_rewards"])
    assert rewards.accuracy == case["accuracy"]
    assert rewards.margin == pytest.approx(case["margin"], rel=1e-9, abs=1e-12)


def log_probs():
    given = arrays("dpo", "batch_logps.npz")
    return given, *sequence_log_probs(given["logits"], given["labels"])


@pytest.mark.parametrize("name", [f"{SYSTEM}-logps"] if find(SYSTEM, "dpo", "batch_logps.npz") else [])
def test_log_probabilities(name):
    given, sums, tokens = log_probs()
    close(sums, given["logps"].tolist())
    assert tokens.tolist() == given["num_tokens"].tolist()


@pytest.mark.parametrize("number", [pytest.param(n, id=f"{SYSTEM}-{n}") for n in range(len(SFT))])
def test_sft_term(number):
    case = SFT[number]
    given, sums, tokens = log_probs()
    half = len(sums) // 2
    reference = given["reference_logps"]
    pairs = PairLogProbs(sums[:half], sums[half:], reference[:half], reference[half:])
    settings = DpoSettings(beta=case["beta"], sft_alpha=case["sft_alpha"])
    close(dpo_losses(pairs, settings), case["dpo_losses"])
    close(mean_token_nll(sums[:half], tokens[:half]), case["nll"])
    close(preference_loss(pairs, settings, tokens[:half]), case["total"])


@pytest.mark.parametrize("name", [pytest.param(name, id=f"{SYSTEM}-{name}") for name in MODEL])
def test_pairs_of_the_model(name):
    case, given = MODEL[name], arrays("model", "dpo_model.npz")
    pairs = PairLogProbs(*(given[f"{who}_{side}_logps"] for who in ("policy", "reference") for side in SIDES))
    for side in SIDES:
        close(given[f"policy_{side}_token_logps"].sum(1), given[f"policy_{side}_logps"].tolist())
        assert (given[f"{side}_labels"][:, 1:] != -100).sum(1).tolist() == given[f"{side}_num_tokens"].tolist()
    settings = DpoSettings(beta=case["beta"], label_smoothing=case["label_smoothing"], sft_alpha=case["sft_alpha"])
    close(pairs.advantage(), case["delta"])
    close(dpo_losses(pairs, settings), case["dpo_per_pair"])
    close(mean_token_nll(pairs.policy_chosen, given["chosen_num_tokens"]), case["nll_token_mean"])
    close(preference_loss(pairs, settings, given["chosen_num_tokens"]), case["loss"])
