"""Training S-GEAR: samples and what is seen of them in, trained weights in the model and a loss curve out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from sightline.errors import ConfigError, InputError, NonFiniteError
from sightline.records.types import Sample
from sightline.systems.sgear.losses import LossWeights, Targets, Unlabelled, element_losses, sample_losses
from sightline.systems.sgear.model.sgear import Sgear
from sightline.systems.sgear.predict import Inputs, ReadInputs
from sightline.systems.sgear.records import SgearPayload
from sightline.systems.sgear.schedule import WarmupCosine
from sightline.training.loop import Durable, LoopSettings, TrainResult, Work, train_loop

log = logging.getLogger(__name__)
NO_LABEL = -1


@dataclass(frozen=True)
class TrainSettings:
    """What is trained, on which losses, and how.

    Attributes:
        loop: Steps, optimiser, rates, precision, seed. Its `cosine` is `WarmupCosine`, with the epochs below.
        losses: Weight of each loss.
        warmup_epochs: Epochs over which the rate rises from 0.
        cosine_epochs: Epochs of the cosine; None for the rest.
        rate_by_processes: Multiply the learning rate by the number of processes, as published.
        sum_accumulated: Add up the means of accumulated micro batches, as published, instead of taking their mean.
        processes: Processes of the training.
        unlabelled: See `element_losses`.
        cache_mb: Memory for inputs, so that they are read once and not in every epoch; 0 when they are drawn anew.
    """

    loop: LoopSettings = field(default_factory=LoopSettings)
    losses: LossWeights = field(default_factory=LossWeights)
    warmup_epochs: float = 0.0
    cosine_epochs: float | None = None
    rate_by_processes: bool = False
    sum_accumulated: bool = False
    processes: int = 1
    unlabelled: Unlabelled = "masked"
    cache_mb: int = 0


class LossModel(nn.Module):
    """The model and its losses as one module: what several processes share and what runs in reduced precision.

    Raises:
        ConfigError: A similarity loss has weight, but there are no similarities of language.
    """

    def __init__(
        self, model: Sgear, language: Tensor | None, weights: LossWeights, unlabelled: Unlabelled, text: Tensor | None
    ) -> None:
        super().__init__()
        needed = [name for name in weights.positive if name.endswith("global_simContrast")]
        if needed and language is None:
            raise ConfigError([f"training: the loss {needed[0]} needs language prototypes with similarities"])
        self.model, self.weights, self.unlabelled = model, weights, unlabelled
        self.language: Tensor | None
        self.text: Tensor | None
        self.register_buffer("language", language if needed else None, persistent=False)
        self.register_buffer("text", text, persistent=False)

    def forward(self, video: Tensor, action: Tensor, past: Tensor) -> Tensor:
        """Returns the weighted loss of each sample, float32 [B]; see `Sgear.forward` and `Targets`."""
        outputs = self.model(video, text=self.text, with_past=self.weights.need_past).float()
        with torch.autocast(video.device.type, enabled=False):
            elements = element_losses(
                outputs,
                Targets(action, past),
                self.language,
                self.model.vis_prototypes,
                names=set(self.weights.positive),
                unlabelled=self.unlabelled,
            )
            return sample_losses(elements, self.weights)


def freeze_untouched(model: Sgear, weights: LossWeights) -> list[str]:
    """Takes the gradient off parameters that no loss reaches and returns their names; processes wait for the others.

    The temporal aggregators carry a number that nothing uses, and so does a model without prototype attention.
    """
    names = [f"TCA.{number}.attn.alpha" for number in range(model.config.tca_blocks)]
    if not model.config.prototype_attention:
        names.append("alpha")
    if not {"cls_action", "past_cls_action"} & weights.positive.keys():
        names += ["classifiers.action.weight", "classifiers.action.bias", "balancer"]
    found = dict(model.named_parameters())
    for name in names:
        found[name].requires_grad_(False)
    return names


class KeptInputs:
    """What is seen of each sample, kept in memory up to a limit."""

    def __init__(self, payloads: Sequence[SgearPayload], read: ReadInputs, megabytes: int) -> None:
        self._payloads, self._read = payloads, read
        self._room = megabytes << 20
        self._kept: dict[int, tuple[np.ndarray, bool]] = {}

    def of(self, positions: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Returns inputs float32 [B, ...] and which samples had nothing stored, bool [B]."""
        absent = [place for place in dict.fromkeys(positions) if place not in self._kept]
        fresh: dict[int, tuple[np.ndarray, bool]] = {}
        if absent:
            made: Inputs = self._read([self._payloads[place] for place in absent])
            fresh = {place: (made.values[row], bool(made.empty[row])) for row, place in enumerate(absent)}
            for place, (values, empty) in fresh.items():
                if values.nbytes <= self._room:
                    self._room -= values.nbytes
                    self._kept[place] = (values.copy(), empty)
        pairs = [self._kept.get(place) or fresh[place] for place in positions]
        return np.stack([values for values, _ in pairs]), np.array([empty for _, empty in pairs], bool)


def train(
    samples: Sequence[Sample],
    read: ReadInputs,
    model: Sgear,
    settings: TrainSettings,
    *,
    language: Tensor | None = None,
    text: Tensor | None = None,
    device: str = "cpu",
    durable: Durable | None = None,
    watch: Callable[[int, nn.Module], None] | None = None,
) -> TrainResult:
    """Trains a model in place; see `train_loop` for resuming and several processes.

    Args:
        samples: Labelled actions; for losses of the past their payloads hold `past_labels`.
        read: What the model is shown.
        model: With prototypes set.
        settings: How to train.
        language: Cosines of class texts [N, N], for the similarity losses.
        text: Language vectors [N, d], for `prototype_values: text`.
        device, durable, watch: As in `train_loop`.

    Raises:
        InputError: There is no sample, or one without the labels that a loss needs.
        ConfigError: A loss needs language and there is none, or no loss has weight.
        NonFiniteError, ResumableStop, StoreError: As in `train_loop`.
    """
    if not settings.losses.positive:
        raise ConfigError(["training: every loss has weight 0"])
    payloads = [SgearPayload.from_json(one.payload, item=one.id) for one in samples]
    labels = _labels(samples, payloads, model, settings.losses)
    freeze_untouched(model, settings.losses)
    whole = LossModel(model, language, settings.losses, settings.unlabelled, text)
    kept = KeptInputs(payloads, read, settings.cache_mb)
    names = [one.id for one in samples]
    scale = float(settings.loop.accumulation if settings.sum_accumulated else 1)

    return train_loop(
        whole,
        Work(names, lambda positions: _collate(positions, kept, labels, names, scale), _losses),
        _loop_settings(settings),
        device=device,
        durable=durable,
        watch=watch,
        factor=_factor(settings, len(samples)),
        description=f"train on {device}",
    )


def _losses(wrapped: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    made: Tensor = wrapped(batch["video"], batch["action"], batch["past"])
    return made * batch["counts"]


def _collate(
    positions: list[int], kept: KeptInputs, labels: Targets, names: Sequence[str], scale: float
) -> dict[str, Tensor]:
    """Returns a micro batch: `video`, `action` [B], `past` [B, T], and what each sample `counts` [B].

    Raises:
        NonFiniteError: An input is NaN or infinite; names its samples.
    """
    values, empty = kept.of(positions)
    if not np.isfinite(values).all():
        bad = [names[place] for place, one in zip(positions, values, strict=True) if not np.isfinite(one).all()]
        raise NonFiniteError("an input is NaN or infinite", item=", ".join(bad[:3]), mend="extract it again")
    for place in np.flatnonzero(empty):
        log.warning("%s: nothing is stored for it; it does not count", names[positions[place]])
    return {
        "video": torch.from_numpy(values),
        "action": labels.action[positions],
        "past": labels.past[positions],
        "counts": torch.from_numpy(~empty) * scale,
    }


def _loop_settings(settings: TrainSettings) -> LoopSettings:
    rate = settings.loop.learning_rate * (settings.processes if settings.rate_by_processes else 1)
    return replace(settings.loop, learning_rate=rate)


def _factor(settings: TrainSettings, count: int) -> Callable[[int], float] | None:
    """Returns the published schedule where it is asked for."""
    loop = settings.loop
    if loop.schedule != "cosine":
        return None
    per_epoch = -(-count // (loop.batch_size * settings.processes))
    epochs = float(loop.epochs or 1)
    if loop.max_steps:
        epochs = loop.max_steps / -(-per_epoch // loop.accumulation)
    cosine = settings.cosine_epochs if settings.cosine_epochs is not None else epochs - settings.warmup_epochs
    plan = WarmupCosine(per_epoch, settings.warmup_epochs, cosine)
    return lambda step: plan.at_step(step, loop.accumulation)


def _labels(samples: Sequence[Sample], payloads: Sequence[SgearPayload], model: Sgear, weights: LossWeights) -> Targets:
    frames, classes = model.config.frames, model.config.classes
    past = np.full((len(samples), frames), NO_LABEL, np.int64)
    for row, (sample, payload) in enumerate(zip(samples, payloads, strict=True)):
        if weights.need_past and len(payload.past_labels) != frames:
            raise InputError(
                f"{len(payload.past_labels)} labels of the past for {frames} frames",
                item=sample.id,
                field="past_labels",
                mend="make the samples of the training split with labels of the past",
            )
        if weights.need_past:
            past[row] = payload.past_labels
        if max(payload.action, *payload.past_labels, NO_LABEL) >= classes:
            raise InputError(
                f"class {payload.action} is beyond the model's {classes}",
                item=sample.id,
                field="action",
                mend="train with the action table of the dataset",
            )
    return Targets(torch.tensor([one.action for one in payloads]), torch.from_numpy(past))
