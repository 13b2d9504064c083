"""Every intermediate, output, loss and gradient of S-GEAR's golden cases."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import pytest
import torch
from sgear_model import KEYS, Case, case_names, load_case
from sightline.systems.sgear.losses import element_losses, sample_losses

FORWARD, GRADIENT = 1e-5, 1e-4
WIDE, INTERMEDIATE_WIDE = 512, 64
NOT_STRIDED = ("out/", "loss/", "topsim", "toeplitz", "sim_matrix")
INPUTS = {"target", "target_subclips", "past_wts", "sim_matrix", "verb_noun_of_action"}
OUTPUTS = {
    "out/past_mean_representation": "past_mean",
    "out/future_z": "future_z",
    "out/similarities": "similarities",
    "out/similarities_past": "similarities_past",
    "out/future": "future_agg",
    "out/future_agg": "future_agg",
    "out/past": "past",
    "out/past_logits/action": "past_logits",
    "out/logits/action": "logits",
}
CASES = [pytest.param(name, id=f"sgear-{name}") for name in case_names()]


def watch(model: torch.nn.Module) -> dict[str, list[torch.Tensor]]:
    """Records what modules are given and give, call by call (one per crop)."""
    seen: dict[str, list[torch.Tensor]] = {}

    def keep(module: torch.nn.Module | None, *names: tuple[str, object]) -> None:
        if module is None:
            return

        def hook(_: object, given: tuple, made: object) -> None:
            for name, pick in names:
                seen.setdefault(name, []).append(pick(given, made).detach())

        module.register_forward_hook(hook)

    keep(getattr(model, "mapper_to_inter", None), ("mapper_to_inter", lambda given, made: made))
    keep(getattr(model, "backbone", None), ("backbone", lambda given, made: made))
    for number, block in enumerate(getattr(model, "TCA", [])):
        keep(block, (f"TCA{number}", lambda given, made: made))
    keep(
        getattr(model, "select", None),
        ("topsim_cos", lambda given, made: made[0]),
        ("topsim_indices", lambda given, made: made[1]),
    )
    keep(
        getattr(model, "ProtAttn", None),
        ("ProtAttn_in_tokens", lambda given, made: given[0]),
        ("ProtAttn_in_features", lambda given, made: given[1]),
        ("ProtAttn", lambda given, made: made),
    )
    predictor = model.future_predictor
    keep(predictor, ("future_predictor_in", lambda given, made: given[0]))
    keep(predictor.encoder, ("fp_encoder", lambda given, made: made))
    keep(predictor.gpt_model, ("fp_gpt", lambda given, made: made.last_hidden_state))
    keep(predictor.decoder, ("fp_decoder", lambda given, made: made))
    return seen


@cache
def run(name: str) -> tuple[Case, torch.nn.Module, dict, object, dict, torch.Tensor]:
    case = load_case(name)
    model = case.model()
    seen = watch(model)
    outputs = model(case.video(), chosen=case.chosen())
    losses = element_losses(outputs, case.targets(), case.language(), model.vis_prototypes, unlabelled="original")
    total = sample_losses(losses, case.weights()).mean()
    total.backward()
    return case, model, seen, outputs, losses, total


def stored_form(key: str, values: np.ndarray, facts: dict) -> np.ndarray:
    """Thins an array out as the golden files do."""
    wide, inner = facts.get("channel_stride", 1), facts.get("intermediate_stride", 1)
    if wide > 1 and values.shape[-1] >= WIDE:
        return values[..., ::wide]
    if inner > 1 and values.shape[-1] >= INTERMEDIATE_WIDE and not key.startswith(NOT_STRIDED):
        return values[..., ::inner]
    return values


def close(made: torch.Tensor, want: np.ndarray, key: str, facts: dict) -> None:
    values = stored_form(key, made.detach().numpy(), facts)
    assert values.shape == want.shape, key
    np.testing.assert_allclose(values, want, rtol=FORWARD, atol=FORWARD * np.abs(want).max(), err_msg=key)


@pytest.mark.parametrize("name", [pytest.param(name, id=f"sgear-keys-{name}") for name in KEYS])
def test_state_dict_keys_and_shapes(name):
    state = load_case(name).model().state_dict()
    found = sorted([key, list(one.shape), str(one.dtype).removeprefix("torch.")] for key, one in state.items())
    assert found == sorted(KEYS[name])


@pytest.mark.parametrize("name", CASES)
def test_intermediates(name):
    case, model, seen, *_ = run(name)
    compared = 0
    for key, want in case.arrays.items():
        match = re.fullmatch(r"(.+)_(\d+)", key)
        if key == "toeplitz":
            close(model.ProtAttn.toeplitz(), want, key, case.facts)
        elif key.startswith(("out/", "loss/", "topsim_indices")) or key in INPUTS:
            continue
        else:
            assert match, key
            assert match[1] in seen, f"no such intermediate: {key}"
            close(seen[match[1]][int(match[2])], want, key, case.facts)
        compared += 1
    assert compared >= 4


@pytest.mark.parametrize("name", CASES)
def test_the_same_prototypes_are_chosen(name):
    """The original's order is its backend's own; the set is not."""
    case, _, seen, *_ = run(name)
    for crop, injected in enumerate(case.chosen() or []):
        ours = seen["topsim_indices"][crop]
        assert ours.shape == injected.shape
        assert torch.equal(ours.sort(dim=-1).values, injected.sort(dim=-1).values)
        cosines = seen["topsim_cos"][crop].gather(-1, ours)
        assert bool((cosines[..., :-1] >= cosines[..., 1:]).all())


@pytest.mark.parametrize("name", CASES)
def test_outputs(name):
    case, _, _, outputs, *_ = run(name)
    keys = [key for key in case.arrays if key.startswith("out/")]
    assert keys
    for key in keys:
        close(getattr(outputs, OUTPUTS[key]), case.arrays[key], key, case.facts)


@pytest.mark.parametrize("name", CASES)
def test_losses_and_total(name):
    case, _, _, outputs, losses, total = run(name)
    keys = [key for key in case.arrays if key.startswith("loss/")]
    assert {key.removeprefix("loss/") for key in keys} == set(losses)
    for key in keys:
        want = case.arrays[key]
        made = losses[key.removeprefix("loss/")]
        close(made.flatten() if want.ndim == 1 else made, want, key, case.facts)
    for key, want in case.facts["loss_mean"].items():
        assert losses[key].mean().item() == pytest.approx(want, rel=FORWARD)
    assert total.item() == pytest.approx(case.facts["total"], rel=FORWARD)
    hits = outputs.logits.topk(5).indices == case.targets().action[:, None]
    for key, want in case.facts["acc"].items():
        top = int(re.match(r"acc(\d)", key)[1])
        assert float(hits[:, :top].any(dim=1).float().mean()) * 100 == pytest.approx(want)


@pytest.mark.parametrize("name", CASES)
def test_gradients(name):
    case, model, *_ = run(name)
    grads = {key: one.grad for key, one in model.named_parameters()}
    assert sorted(key for key, grad in grads.items() if grad is None) == sorted(case.facts["params_without_grad"])
    norms = {key: float(grad.norm()) for key, grad in grads.items() if grad is not None}
    assert set(norms) == set(case.facts["grad_norms"])
    noise = 1e-9 * max(norms.values())
    for key, want in case.facts["grad_norms"].items():
        assert norms[key] == pytest.approx(want, rel=GRADIENT, abs=noise), key
    for key, want in case.facts["grad_scalars"].items():
        assert float(grads[key]) == pytest.approx(want, rel=GRADIENT), key
    parameters = dict(model.named_parameters())
    for key, want in case.facts["scalars"].items():
        assert parameters[key].item() == pytest.approx(want, rel=FORWARD)
