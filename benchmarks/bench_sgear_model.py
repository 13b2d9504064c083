"""S-GEAR's model: cosines as one matrix product against broadcasting, and a training step against the released form."""

from __future__ import annotations

from typing import Any

import torch
from sightline.systems.sgear.losses import LossWeights, Targets, element_losses, sample_losses
from sightline.systems.sgear.model.config import DecoderConfig, SgearConfig
from sightline.systems.sgear.model.cosine import cosine
from sightline.systems.sgear.model.sgear import Sgear
from torch import Tensor

from benchmarks.timing import interleave

CLASSES, FRAMES, WIDTH, DIM, BATCH = 3806, 15, 768, 1024, 4
TOLERANCE = 1e-6
STEP_TOLERANCE = 1e-4


def _broadcast(x: Tensor, table: Tensor) -> Tensor:
    """Cosines as `torch.nn.CosineSimilarity` computes them: a [..., N, d] temporary."""
    return torch.nn.functional.cosine_similarity(x[..., None, :], table, dim=-1)


def bench_cosine(rounds: int) -> dict[str, Any]:
    """One clip of EPIC-Kitchens-100 against all its prototypes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, FRAMES, WIDTH, generator=generator)
    table = torch.randn(CLASSES, WIDTH, generator=generator)
    worst = float((cosine(x, table) - _broadcast(x, table)).abs().max())
    arms = interleave({"broadcast": lambda: _broadcast(x, table), "product": lambda: cosine(x, table)}, rounds)
    label = "broadcast / product"
    return {
        "name": "sgear_cosine",
        "arms": arms,
        "ratios": {label: arms["broadcast"]["median_s"] / arms["product"]["median_s"]},
        "max_difference": worst,
        "equal": worst < TOLERANCE,
        "target": {label: 15.0},
        "guard": {label: 8.0},
        "note": f"{FRAMES} frames against {CLASSES} prototypes of {WIDTH}; cosines differ by {worst:.1e}",
    }


class _Step:
    """One step of a feature run: forward, losses, gradient."""

    def __init__(self, *, released: bool) -> None:
        torch.manual_seed(0)
        decoder = DecoderConfig(width=256, layers=2, heads=4, dropout=0.0)
        self.model = Sgear(
            SgearConfig(CLASSES, FRAMES, DIM, WIDTH, freeze_prototypes=True, decoder=decoder, dropout=0.0)
        )
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            self.model.vis_prototypes.copy_(torch.randn(CLASSES, WIDTH, generator=generator))
        self.video = torch.randn(BATCH, FRAMES, DIM, generator=generator)
        self.targets = Targets(
            torch.randint(0, CLASSES, (BATCH,), generator=generator),
            torch.randint(0, CLASSES, (BATCH, FRAMES), generator=generator),
        )
        text = torch.randn(CLASSES, 384, generator=generator)
        self.language = cosine(text, text)
        self.released = released

    def __call__(self) -> Tensor:
        """Returns the gradient; as released, everything is computed for every frame and cosines are broadcast."""
        import sightline.systems.sgear.model.sgear as module

        self.model.zero_grad()
        weights = LossWeights()
        module.cosine = _broadcast if self.released else cosine
        try:
            outputs = self.model(self.video, with_past=self.released)
        finally:
            module.cosine = cosine
        names = None if self.released else set(weights.positive)
        elements = element_losses(outputs, self.targets, self.language, self.model.vis_prototypes, names=names)
        sample_losses(elements, weights).mean().backward()
        return torch.cat([one.grad.flatten() for one in self.model.parameters() if one.grad is not None])


def bench_step(rounds: int) -> dict[str, Any]:
    """A training step on stored features: what the losses read, against all that the released code computes."""
    ours, theirs = _Step(released=False), _Step(released=True)
    mine, other = ours(), theirs()
    worst = float((mine - other).abs().max() / other.abs().max())
    arms = interleave({"all outputs, broadcast": theirs, "what losses read": ours}, rounds)
    label = "all outputs, broadcast / what losses read"
    return {
        "name": "sgear_train_step",
        "arms": arms,
        "ratios": {label: arms["all outputs, broadcast"]["median_s"] / arms["what losses read"]["median_s"]},
        "max_difference": worst,
        "equal": worst < STEP_TOLERANCE,
        "target": {},
        "guard": {label: 10.0},
        "note": f"batch {BATCH}, {FRAMES} frames, {CLASSES} classes, width {WIDTH}, decoder 256 x 2 layers; "
        f"gradients differ by {worst:.1e} of the largest",
    }


def run(rounds: int) -> list[dict[str, Any]]:
    """Runs both benchmarks on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [bench(rounds) for bench in (bench_cosine, bench_step)]
    finally:
        torch.set_num_threads(before)
