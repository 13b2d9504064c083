"""Released names and weights in transformers' own InternVL: every tensor used, the original's numbers out."""

from __future__ import annotations

import pytest
import torch
from golden import find, load_json
from sightline.assets.checkpoints import map_keys
from sightline.systems.videosavi.dpo import DpoSettings, PairLogProbs, dpo_losses, preference_loss, token_log_probs
from sightline.systems.videosavi.model.config import LanguageSizes, language_sizes
from sightline.systems.videosavi.model.keys import genuine_state_dict, native_keys
from videosavi_model import MODELS, SYSTEM, arrays, empty_model, filled, golden_model, key_list, released_config

RUNS = [name for name in MODELS if find(SYSTEM, "model", f"model_{name}.npz")]
FULL = find(SYSTEM, "model", "state_dict_keys_internvl2_5_8b.json")
DPO = load_json(SYSTEM, "model", "dpo_model_loss.json") or {}
HEAD_DIM = 128  # of InternLM2.5, every size


def named(names):
    return [pytest.param(name, id=f"{SYSTEM}-{name}") for name in names]


def full_size_config(shapes):
    """Returns the configuration that a full key list implies."""
    vocabulary, hidden = shapes["language_model.model.tok_embeddings.weight"]
    layer = "language_model.model.layers.0."
    packed = shapes[layer + "attention.wqkv.weight"][0]
    block = "vision_model.encoder.layers."
    width, _, patch, _ = shapes["vision_model.embeddings.patch_embedding.weight"]
    grid = round((shapes["vision_model.embeddings.position_embedding"][1] - 1) ** 0.5)
    count = {stem: len({key[len(stem) :].split(".")[0] for key in shapes if key.startswith(stem)}) for stem in (
        block, "language_model.model.layers.")}  # fmt: skip
    return {
        "llm_config": {
            "architectures": ["InternLM2ForCausalLM"], "vocab_size": vocabulary, "hidden_size": hidden,
            "intermediate_size": shapes[layer + "feed_forward.w1.weight"][0],
            "num_hidden_layers": count["language_model.model.layers."], "max_position_embeddings": 32768,
            "num_attention_heads": hidden // HEAD_DIM, "num_key_value_heads": (packed - hidden) // 2 // HEAD_DIM,
        },
        "vision_config": {
            "hidden_size": width, "intermediate_size": shapes[block + "0.mlp.fc1.weight"][0],
            "num_hidden_layers": count[block], "num_attention_heads": width // 64,
            "image_size": grid * patch, "patch_size": patch,
        },
    }  # fmt: skip


@pytest.mark.parametrize("name", named(["full"] if FULL else []))
def test_every_released_tensor_has_its_place(name):
    shapes = {key: tuple(shape) for key, shape, _ in load_json(SYSTEM, "model", FULL.name)}
    config = full_size_config(shapes)
    sizes = language_sizes(config)
    with torch.device("meta"):
        model = empty_model(config, 1)
        given = {key: torch.empty(shape) for key, shape in shapes.items()}
    wanted = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    mapped, report = map_keys(given, native_keys(sizes), wanted)
    report.require()
    assert report.used_sources == set(shapes)
    assert {key: tuple(one.shape) for key, one in genuine_state_dict(mapped, sizes).items()} == shapes


@pytest.mark.parametrize("name", named(MODELS))
def test_weights_come_back_under_the_released_names(name):
    given = filled(name)
    back = genuine_state_dict(golden_model(name).state_dict(), language_sizes(released_config(name)))
    assert back.keys() == given.keys() == key_list(name).keys()
    assert all(torch.equal(back[key], given[key]) for key in given)


def test_queries_stand_before_the_key_and_value_of_their_group_videosavi():
    sizes = LanguageSizes("internlm2", heads=4, kv_heads=2, head_dim=1)
    name = "language_model.model.layers.0.attention.wqkv.weight"
    rows = torch.arange(8.0).unsqueeze(1)
    stem = "model.language_model.layers.0.self_attn."
    shapes = {f"{stem}{part}.weight": (rows_, 1) for part, rows_ in (("q_proj", 4), ("k_proj", 2), ("v_proj", 2))}
    mapped, report = map_keys({name: rows}, native_keys(sizes), shapes)
    report.require()
    assert [mapped[key].flatten().tolist() for key in shapes] == [[0, 1, 4, 5], [2, 6], [3, 7]]


def same_kind(name):
    """Returns the golden models of this one's architecture, the one for the longest sequences first."""
    kind = MODELS[name]["llm_config"]["architectures"]
    found = [one for one, entry in MODELS.items() if entry["llm_config"]["architectures"] == kind]
    return sorted(found, key=lambda one: -MODELS[one]["llm_config"]["max_position_embeddings"])


def twin_of(name):
    """Returns the golden model whose pictures and tokens one without its own shares."""
    return next(one for one in same_kind(name) if one in RUNS and "pixel_values" in arrays("model", f"model_{one}.npz"))


@pytest.mark.parametrize("name", named(RUNS))
def test_activations_and_logits(name):
    model, given = golden_model(name), arrays("model", f"model_{name}.npz")
    assert model.lm_head.weight.data_ptr() != model.get_input_embeddings().weight.data_ptr()
    twin = twin_of(name)
    shared = given if "pixel_values" in given else arrays("model", f"model_{twin}.npz")
    pixels = shared["pixel_values"].float()
    ids = (given["input_ids"] if "input_ids" in given else shared["input_ids"]).long().reshape(1, -1)
    with torch.inference_mode():
        tower = model.model.vision_tower(pixels)
        out = model(input_ids=ids, pixel_values=pixels, output_hidden_states=True)
        projected = model.model.get_image_features(pixel_values=pixels)
    found = {
        "logits": out.logits[0],
        "llm_hidden_0": out.hidden_states[0][0],
        "llm_hidden_1": out.hidden_states[1][0],
        "vit_last_hidden_state": tower.last_hidden_state,
        "projected": getattr(projected, "pooler_output", projected),
    }
    for part, value in found.items():
        if part in given:
            wanted = given[part].float()
            tolerance = 2e-4 if part == "logits" else 1e-4
            assert (value.reshape(wanted.shape) - wanted).abs().max() < tolerance, part


@pytest.mark.parametrize("name", named(name for name in RUNS if "greedy_ids" in arrays("model", f"model_{name}.npz")))
def test_greedy_answers(name):
    model, given = golden_model(name), arrays("model", f"model_{name}.npz")
    wanted, ids = given["greedy_ids"].flatten().tolist(), given["input_ids"].long().reshape(1, -1)
    stop = MODELS[name]["special"]["im_end"]
    with torch.inference_mode():
        found = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=given["pixel_values"].float(),
            do_sample=False, max_new_tokens=max(len(wanted), 1), eos_token_id=stop, pad_token_id=stop,
        )[0, ids.shape[1] :].tolist()  # fmt: skip
    assert found == wanted


def pair_log_probs(model, given, side):
    labels = given[f"{side}_labels"]
    logits = model(
        input_ids=given[f"{side}_input_ids"], attention_mask=given[f"{side}_attention_mask"],
        pixel_values=given["pixel_values"].float(),
    ).logits  # fmt: skip
    return token_log_probs(logits.double(), labels)


@pytest.mark.parametrize("name", named(DPO))
def test_dpo_through_the_model(name):
    case, given = DPO[name], arrays("model", "dpo_model.npz")
    owner = next(same_kind(one)[0] for one in MODELS if "wqkv" in str(key_list(one).keys()))
    policy, reference = golden_model(owner), golden_model(owner, "ref.")
    sums = {}
    for side in ("chosen", "rejected"):
        tokens = pair_log_probs(policy, given, side)
        assert torch.allclose(tokens, given[f"policy_{side}_token_logps"], atol=1e-4)
        sums["policy", side] = tokens.sum(1)
        with torch.no_grad():
            sums["reference", side] = pair_log_probs(reference, given, side).sum(1)
    pairs = PairLogProbs(*(sums[who, side] for who in ("policy", "reference") for side in ("chosen", "rejected")))
    settings = DpoSettings(beta=case["beta"], label_smoothing=case["label_smoothing"], sft_alpha=case["sft_alpha"])
    assert dpo_losses(pairs, settings).tolist() == pytest.approx(case["dpo_per_pair"], abs=2e-4)
    loss = preference_loss(pairs, settings, given["chosen_num_tokens"])
    assert float(loss.detach()) == pytest.approx(case["loss"], abs=2e-4)
    loss.backward()
    gradients = genuine_state_dict(
        {key: value.grad for key, value in policy.named_parameters()}, language_sizes(released_config(owner))
    )
    for key, wanted in case["grad_l2"].items():
        assert float(gradients[key].double().norm()) == pytest.approx(wanted, rel=1e-3), key
