"""Small S-GEARs, and samples whose features show the class that comes next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sightline.records.types import Sample
from sightline.systems.sgear.model.config import DecoderConfig, SgearConfig, VitConfig
from sightline.systems.sgear.model.sgear import Sgear
from sightline.systems.sgear.predict import Inputs
from sightline.systems.sgear.records import SgearPayload

CLASSES, FRAMES, DIM, WIDTH = 9, 4, 10, 64
DECODER = DecoderConfig(width=16, layers=1, heads=2, positions=8)


def config(**changes: Any) -> SgearConfig:
    plain = {"classes": CLASSES, "frames": FRAMES, "input_dim": DIM, "width": WIDTH, "verbs": 3, "nouns": 3}
    return SgearConfig(**{**plain, "decoder": DECODER, **changes})


def vit_config(**changes: Any) -> SgearConfig:
    vit = VitConfig(image=8, patch=4, width=WIDTH, depth=1, mlp_ratio=1.0)
    return config(input_dim=WIDTH, vit=vit, tca_blocks=1, **changes)


def random_model(form: SgearConfig, seed: int = 0) -> Sgear:
    torch.manual_seed(seed)
    model = Sgear(form).eval()
    with torch.no_grad():
        for one in model.parameters():
            one.normal_(std=0.3)
    return model


def sample(number: int, action: int | None = None, *, past: bool = True) -> Sample:
    label = number % CLASSES if action is None else action
    payload = SgearPayload(
        uid=str(number),
        narration_id=f"P01_1_{number}",
        video_id="P01_1",
        participant_id="P01",
        start=2.0 * number,
        end=2.0 * number + 4,
        action_start=2.0 * number + 5,
        action_end=2.0 * number + 6,
        action=label,
        verb=label // 3,
        noun=label % 3,
        row=number,
        past_labels=[label, -1, 0, label][:FRAMES] if past else [],
    )
    return Sample(f"P01_1_{number}", "P01_1", "P01_1", [], 1.0, payload.to_json())


class Features:
    """Features by row: the class stands in the first channels, noise in all."""

    def __init__(self, *, empty: set[int] = frozenset(), broken: set[int] = frozenset()) -> None:
        self.empty, self.broken, self.asked = empty, broken, 0

    def __call__(self, payloads: Sequence[SgearPayload]) -> Inputs:
        self.asked += len(payloads)
        values = np.stack([self.one(payload) for payload in payloads])
        missing = np.zeros((len(payloads), FRAMES), bool)
        empty = np.array([payload.row in self.empty for payload in payloads])
        missing[empty] = True
        return Inputs(values, missing, empty)

    def one(self, payload: SgearPayload) -> np.ndarray:
        values = np.random.default_rng(payload.row).standard_normal((FRAMES, DIM)).astype(np.float32)
        values[:, max(payload.action, 0)] += 3.0
        if payload.row in self.broken:
            values[0, 0] = np.nan
        return values + np.float32(payload.end * 1e-3)
