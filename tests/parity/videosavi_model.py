"""The golden InternVL2.5 models, built natively from their own configurations and filled by the shared rule."""

from __future__ import annotations

import numpy as np
import torch
from fill import fill_state_dict
from golden import find, load_json
from sightline.assets.checkpoints import load_into
from sightline.systems.videosavi.model.config import language_sizes, native_config
from sightline.systems.videosavi.model.keys import native_keys
from transformers import InternVLForConditionalGeneration

SYSTEM = "videosavi"
MODELS = {entry["name"]: entry for entry in load_json(SYSTEM, "model", "model_manifest.json") or []}


def key_list(name):
    """Returns tensor name to shape of a golden model; a model without a list has that of the same architecture."""
    found = load_json(SYSTEM, "model", f"state_dict_keys_{name}.json")
    if found is None:
        kind = MODELS[name]["llm_config"]["architectures"]
        twins = [one for one, entry in MODELS.items() if entry["llm_config"]["architectures"] == kind]
        lists = (load_json(SYSTEM, "model", f"state_dict_keys_{twin}.json") for twin in twins)
        found = next((one for one in lists if one), [])
    return {key: tuple(shape) for key, shape, _ in found}


def released_config(name):
    """Returns a golden model's parts as a released `config.json` holds them."""
    entry = MODELS[name]
    return {"llm_config": entry["llm_config"], "vision_config": entry["vision_config"], "ps_version": "v2"}


def filled(name, prefix=""):
    """Returns the golden weights under the released names; `prefix` goes before every name that is hashed."""
    values = fill_state_dict({prefix + key: shape for key, shape in key_list(name).items()})
    return {key.removeprefix(prefix): torch.from_numpy(value) for key, value in values.items()}


def empty_model(config, image_token_id):
    native = native_config(config, image_token_id)
    native._attn_implementation = "eager"
    return InternVLForConditionalGeneration(native).eval()


def golden_model(name, prefix=""):
    config = released_config(name)
    model = empty_model(config, MODELS[name]["special"]["IMG_CONTEXT"])
    report = load_into(model, filled(name, prefix), native_keys(language_sizes(config)))
    assert not report.dropped
    return model


def arrays(*parts):
    with np.load(find(SYSTEM, *parts), allow_pickle=False) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}
