"""S-GEAR models filled and fed as the golden runs were: sizes and names come from the data files alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from fill import fill_state_dict, generator
from golden import find, load_json
from sightline.systems.sgear.losses import LossWeights, Targets
from sightline.systems.sgear.model.config import DecoderConfig, SgearConfig, VitConfig
from sightline.systems.sgear.model.sgear import Sgear

KEYS: dict[str, list] = load_json("sgear", "model", "state_dict_keys.json") or {}


def case_names() -> list[str]:
    folder = find("sgear", "model")
    return sorted(path.stem for path in folder.glob("*.npz")) if folder else []


@dataclass
class Case:
    """One golden case: configuration, arrays, model, input."""

    name: str
    facts: dict[str, Any]
    arrays: dict[str, np.ndarray]
    config: SgearConfig

    def model(self, **changes: Any) -> Sgear:
        model = Sgear(replace(self.config, **changes)).eval()
        shapes = {name: tuple(one.shape) for name, one in model.state_dict().items() if "cls_map" not in name}
        filled = {name: torch.from_numpy(np.asarray(one)) for name, one in fill_state_dict(shapes).items()}
        model.load_state_dict(filled, strict=False)
        model.set_action_maps(torch.from_numpy(self.arrays["verb_noun_of_action"]))
        return model

    def video(self) -> torch.Tensor:
        shape = self.facts["video_shape"]
        values = generator(f"{self.facts['name']}/video").standard_normal(shape).astype(np.float32)
        video = torch.from_numpy(values)
        return video.reshape(shape[:3]) if self.facts["features"] else video.squeeze(-3)

    def chosen(self) -> list[torch.Tensor] | None:
        found = [name for name in self.arrays if name.startswith("topsim_indices_")]
        return [torch.from_numpy(self.arrays[f"topsim_indices_{crop}"]) for crop in range(len(found))] or None

    def targets(self) -> Targets:
        past = torch.from_numpy(self.arrays["target_subclips"]).squeeze(-1)
        return Targets(torch.from_numpy(self.arrays["target"]), past)

    def language(self) -> torch.Tensor:
        return torch.from_numpy(self.arrays["sim_matrix"])

    def weights(self) -> LossWeights:
        return LossWeights(**self.facts["loss_wts"])


def _vit(facts: dict[str, Any], shapes: dict[str, list[int]]) -> VitConfig:
    """The tiny ViT of the golden runs, read off the shapes where they are listed."""
    prefix = "backbone.model."
    blocks = {name.split(".")[3] for name in shapes if name.startswith(prefix + "blocks.")}
    hidden = shapes.get(prefix + "blocks.0.mlp.fc1.weight", [4 * facts["backbone_dim"]])[0]
    return VitConfig(
        image=facts["video_shape"][-1],
        patch=shapes.get(prefix + "patch_embed.proj.weight", [16])[-1],
        width=facts["backbone_dim"],
        depth=len(blocks) or 2,
        mlp_ratio=hidden / facts["backbone_dim"],
    )


@cache
def load_case(name: str) -> Case:
    facts = load_json("sgear", "model", f"{name}.json")
    path = find("sgear", "model", f"{name}.npz")
    with np.load(path, allow_pickle=False) as stored:
        arrays = {key: stored[key] for key in stored.files}
    shapes = {key: shape for key, shape, _ in KEYS.get(name, [])}
    config = SgearConfig(
        classes=facts["classes"],
        frames=facts["T"],
        input_dim=facts["backbone_dim"],
        width=facts["inter"],
        verbs=facts["n_verb"],
        nouns=facts["n_noun"],
        vit=None if facts["features"] else _vit(facts, shapes),
        tca_blocks=facts.get("ts_blocks", 0),
        prototype_attention=facts.get("prot_attn", True),
        mean_representation=facts.get("mean_representation", True),
        freeze_prototypes=facts.get("freeze_prototypes", facts["features"]),
        decoder=DecoderConfig(width=facts["gpt"], layers=facts["n_layer"], heads=facts.get("n_head", 4)),
        token_mixing="original",
    )
    return Case(name, facts, arrays, config)
