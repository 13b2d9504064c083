"""Stream-VLM against the original's hidden states, attention and logits, and its genuine key list."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from fitcoach_model import (
    ADAPTER,
    EMBEDDING,
    config_of,
    filled_checkpoint,
    golden_features,
    golden_folder,
    golden_model,
    key_shapes,
)
from golden import find, load_json
from sightline.assets.checkpoints import load_into
from sightline.errors import CheckpointError
from sightline.systems.fitcoach.model.config import StreamVlmConfig
from sightline.systems.fitcoach.model.layers import FrameAttention
from sightline.systems.fitcoach.model.loader import (
    KEY_MAP,
    genuine_state_dict,
    load_stream_vlm,
    save_stream_vlm,
)
from sightline.systems.fitcoach.model.steps import cached_step
from sightline.systems.fitcoach.model.stream_vlm import StreamVlm, encode_features

TOLERANCE = 1e-4
CASES = load_json("fitcoach", "b_model", "model_cases.json") or []
CASE = pytest.mark.parametrize("case", [pytest.param(case, id=f"fitcoach-model-case{case['case']}") for case in CASES])
GROUP = find("fitcoach", "b_model")
FULL_SIZE = pytest.mark.parametrize(
    "keys",
    [
        pytest.param(path.name, id=f"fitcoach-{path.stem}")
        for path in (sorted(GROUP.glob("state_dict_keys_streamvlm*.json")) if GROUP else [])
    ],
)


@cache
def arrays() -> dict[str, np.ndarray]:
    with np.load(find("fitcoach", "b_model", "model.npz"), allow_pickle=False) as stored:
        return dict(stored)


def expected(case: dict, name: str) -> np.ndarray:
    return arrays()[f"c{case['case']}_{name}"]


def inputs(case: dict) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    model, _ = golden_model()
    shape = (len(case["vpos"]), model.config.vision_dim, case.get("H", 7), case.get("W", 5))
    features = golden_features(case["seed"] + 7, shape)
    assert abs(features.sum(dtype=np.float64) - case["features_sum"]) < 1.0
    ids, mask = expected(case, "input_ids"), expected(case, "vision_xattn_mask")
    return torch.from_numpy(ids)[None], torch.from_numpy(mask)[None], torch.from_numpy(features)[None]


def close(found: torch.Tensor, wanted: np.ndarray) -> None:
    assert tuple(found.shape) == wanted.shape
    assert np.abs(found.detach().numpy() - wanted).max() < TOLERANCE


@CASE
@torch.no_grad()
def test_hidden_states_attention_and_logits(case):
    model, _ = golden_model()
    ids, mask, features = inputs(case)
    seen: dict[str, torch.Tensor] = {}
    handles = []
    for index, layer in enumerate(model.model.layers):
        handles.append(
            layer.register_forward_hook(lambda _, __, out, index=index: seen.update({f"layer{index}_hidden": out}))
        )
        for module in layer.modules():
            if isinstance(module, FrameAttention):
                handles.append(
                    module.register_forward_hook(
                        lambda _, __, out, index=index: seen.update(
                            {f"layer{index}_xattn_values": out[0], f"layer{index}_xattn_attention": out[1]}
                        )
                    )
                )
    try:
        logits = model(ids, mask, features)
    finally:
        for handle in handles:
            handle.remove()
    seen["logits"] = logits[0]
    prefix = f"c{case['case']}_"
    names = [name.removeprefix(prefix) for name in arrays() if name.startswith(prefix)]
    compared = [name for name in names if name == "logits" or name.startswith("layer")]
    assert len(compared) > model.config.num_layers
    for name in compared:
        close(seen[name], expected(case, name))


@CASE
def test_feature_processor(case):
    _, _, features = inputs(case)
    encoded = encode_features(features)
    assert list(encoded.shape) == expected(case, "encoded_shape").tolist()
    wanted = expected(case, "encoded_sample")
    flat = encoded.reshape(-1).numpy()
    picked = (np.arange(len(wanted)) * (len(flat) - 1)) // (len(wanted) - 1)
    assert np.abs(flat[picked] - wanted).max() < 1e-6


@CASE
@torch.no_grad()
def test_token_by_token_with_the_cache(case):
    model, _ = golden_model()
    ids, mask, features = inputs(case)
    if (mask == 1).any():
        mask = mask.clamp(max=1) * 2  # the cache path knows tokens that attend and tokens that do not
    full = model(ids, mask, features)[0]
    frames, cache_ = model.project_frames(features), model.new_cache(1, ids.shape[1])
    seen = 0
    for position in range(ids.shape[1]):
        is_vision = bool(mask[0, position])
        step = cached_step([position], [1], [seen if is_vision else -1], model.device)
        seen += is_vision
        logits = model.logits(model.hidden_states(ids[0, position : position + 1], step, frames, cache_))
        assert (logits[0] - full[position]).abs().max() < TOLERANCE
        if not (expected(case, "vision_xattn_mask") == 1).any():
            assert np.abs(logits[0].numpy() - expected(case, "logits")[position]).max() < TOLERANCE


@CASE
@torch.no_grad()
def test_merged_lora_changes_nothing(case):
    ids, mask, features = inputs(case)
    merged, _ = golden_model(merge_lora=True)
    assert not merged.has_lora
    close(merged(ids, mask, features)[0], expected(case, "logits"))


@FULL_SIZE
def test_full_size_keys_fit_one_to_one(keys):
    shapes = key_shapes(keys)
    llama, xattn, peft = config_of(shapes, {})
    config = StreamVlmConfig.from_parts(llama, xattn, peft).resized(shapes[EMBEDDING][0])
    with torch.device("meta"):
        model = StreamVlm(config)
        state = {name: torch.empty(shape) for name, shape in shapes.items()}
    report = load_into(model, state, KEY_MAP)
    assert report.used_sources == set(shapes)
    assert report.missing == report.left_over == []
    assert len(report.used) == len(shapes) - 1  # the adapter's copy of the embedding
    assert {name: tuple(t.shape) for name, t in genuine_state_dict(model).items()} == shapes


@pytest.mark.parametrize("name", [pytest.param("export", id="fitcoach-export")] if CASES else [])
def test_export_gives_the_genuine_file_back(name, tmp_path):
    model, _ = golden_model()
    save_stream_vlm(model, tmp_path / "state_dict.pth.tar")
    exported = torch.load(tmp_path / "state_dict.pth.tar", weights_only=True)["state_dict"]
    original = filled_checkpoint()
    assert set(exported) == set(original)
    assert all(torch.equal(exported[key], original[key]) for key in original)
    assert exported[ADAPTER].data_ptr() == exported[EMBEDDING].data_ptr()


@pytest.mark.parametrize("name", [pytest.param("refuse", id="fitcoach-refuse")] if CASES else [])
def test_what_does_not_fit_is_refused_and_notices_are_given(name, tmp_path):
    folder, config = golden_folder()
    (tmp_path / "tokenizer.json").write_bytes((folder / "ckpts_streamvlm" / "tokenizer.json").read_bytes())
    path = tmp_path / "state_dict.pth.tar"
    state = filled_checkpoint()
    lora = "lang.base_model.model.lm_head.lora_A.default.weight"
    torch.save({**state, lora: torch.zeros(2, 2)}, path)
    _, _, report = load_stream_vlm(None, path, config)
    assert report.left_over == [lora]
    assert any("lm_head" in note for note in report.notes)
    assert any("largest change of a logit" in note for note in report.notes)
    for absent in ("xattn_layer", "lora_B", "norm.weight"):
        torch.save({key: value for key, value in state.items() if absent not in key}, path)
        with pytest.raises(CheckpointError, match=absent):
            load_stream_vlm(None, path, config)
    torch.save({**state, "lang.extra": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match=r"left over .*lang\.extra"):
        load_stream_vlm(None, path, config)


@pytest.mark.parametrize("name", [pytest.param("llama", id="fitcoach-llama")] if CASES else [])
def test_base_tensors_may_come_from_the_llama_folder(name, tmp_path):
    folder, config = golden_folder()
    (tmp_path / "tokenizer.json").write_bytes((folder / "ckpts_streamvlm" / "tokenizer.json").read_bytes())
    state = filled_checkpoint()
    prefix = "lang.base_model.model."
    base = {k for k in state if "mlp" in k or "o_proj" in k}
    llama = tmp_path / "llama"
    llama.mkdir()
    torch.save({k.removeprefix(prefix): state[k] for k in base}, llama / "pytorch_model.bin")
    path = tmp_path / "state_dict.pth.tar"
    torch.save({f"module.{k}": v for k, v in state.items() if k not in base}, path)
    model, _, report = load_stream_vlm(llama, path, config, merge_lora=False)
    assert any(f"{len(base)} tensors come from the LLaMA folder" in note for note in report.notes)
    assert all(torch.equal(genuine_state_dict(model)[k], state[k]) for k in state)
