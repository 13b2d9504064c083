"""Fine-tuning Stream-VLM: samples and features in, trained weights in the model and a loss curve out."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from sightline.errors import ConfigError, InputError, NonFiniteError
from sightline.llm.tokens import TextTokenizer
from sightline.records.types import Sample
from sightline.systems.fitcoach.model.loader import SPECIAL_TOKENS
from sightline.systems.fitcoach.model.stream_vlm import Frames, StreamVlm
from sightline.systems.fitcoach.predict import ReadFeatures
from sightline.systems.fitcoach.records import Episode
from sightline.systems.fitcoach.sequences import ZERO_STEP, SequenceSettings, TrainingSequence, training_units
from sightline.systems.fitcoach.stream import ActionTokens
from sightline.systems.fitcoach.variations import VariationSettings, can_vary, vary
from sightline.training.loop import Durable, LoopSettings, TrainResult, Work, train_loop

log = logging.getLogger(__name__)

ReadTimes = Callable[[str], np.ndarray]
"""Feature key to the times of all its steps, float64 [T], UNIX seconds on the annotations' clock."""
Unit = tuple[TrainingSequence, ...]


@dataclass(frozen=True)
class TrainSettings:
    """What is trained, on which sequences, and how.

    Attributes:
        loop: Steps, rates, precision, seed.
        sequences: Form of the sequences.
        trainable: Patterns of parameter names (`*` matches anything): `*.lora_*` for LoRA, `*.xattn_layer.*`
            for the cross-attention, `*` for everything.
        vision_weight: Weight of `<vision>` targets, of which there are far more than of words.
        variations: Copies of every episode at another pace and begun at another time.
        cache_mb: Memory for what frozen layers make of the feature maps, so that it is computed once and not in
            every epoch. Above 0, keys and values of all cross-attention layers must be frozen.
    """

    loop: LoopSettings = field(default_factory=LoopSettings)
    sequences: SequenceSettings = field(default_factory=SequenceSettings)
    trainable: tuple[str, ...] = ("*.lora_*",)
    vision_weight: float = 1.0
    variations: VariationSettings = field(default_factory=VariationSettings)
    cache_mb: int = 0


@dataclass(frozen=True)
class Batch:
    """Sequences of some units, padded on the right; attention is causal, so that padding reaches nothing.

    Attributes:
        ids: int64 [S, N].
        vision_mask: int64 [S, N].
        weights: Weight of each token as a target, float32 [S, N].
        features: Feature maps [S, T, C, H, W] in the order of a sequence's masked tokens; or keys and values of
            each cross-attention layer, [S, T, places, attn_dim].
        owner: Unit of each sequence, int64 [S].
    """

    ids: Tensor
    vision_mask: Tensor
    weights: Tensor
    features: Tensor | Frames
    owner: Tensor


def train(
    samples: Sequence[Sample],
    read_features: ReadFeatures,
    read_times: ReadTimes,
    model: StreamVlm,
    tokenizer: TextTokenizer,
    settings: TrainSettings,
    *,
    device: str = "cpu",
    durable: Durable | None = None,
    watch: Callable[[int, nn.Module], None] | None = None,
) -> TrainResult:
    """Trains a model in place; see `train_loop` for resuming and several processes.

    Args:
        samples: Episodes with what should have been said.
        read_features: Feature key and rows to feature maps.
        read_times: Feature key to the times of its steps.
        model: Loaded with LoRA unmerged, its tokenizer beside it.
        settings: What to train and how; the rest as in `train_loop`.

    Raises:
        InputError: No sample gives a sequence, or one is longer than the model's positions.
        ConfigError: A pattern of `trainable` names no parameter.
        NonFiniteError: A feature, loss or gradient is NaN or infinite.
        ResumableStop: SIGTERM or SIGUSR1 came.
    """
    actions = ActionTokens(*(tokenizer.token_id(token) for token in SPECIAL_TOKENS))
    units = make_units(samples, read_times, tokenizer, actions, settings.sequences)
    if settings.variations.copies:
        units = varied_units(units, actions, settings.variations)
    check_vocabulary(units, model)
    trained = select_trainable(model, settings.trainable)
    values = sum(parameter.numel() for parameter in model.parameters())
    log.info("training %d of %d parameters on %d units", trained, values, len(units))

    maps = ProjectedMaps(model, read_features, settings.cache_mb) if settings.cache_mb else None

    def collate(positions: list[int]) -> dict[str, Any]:
        chosen = [units[position] for position in positions]
        batch = collate_units(chosen, maps or read_features, actions, settings.vision_weight, model.config.vision_dim)
        return vars(batch)

    work = Work(
        names=[unit[0].name for unit in units],
        collate=collate,
        losses=lambda wrapped, batch: unit_losses(wrapped, Batch(**batch)),
    )
    return train_loop(
        model, work, settings.loop, device=device, durable=durable, watch=watch, description=f"train on {device}"
    )


def make_units(
    samples: Sequence[Sample],
    read_times: ReadTimes,
    tokenizer: TextTokenizer,
    actions: ActionTokens,
    settings: SequenceSettings,
) -> list[Unit]:
    """Returns the training units of all samples, in their order.

    Raises:
        InputError: There is no sample, or none with a feature step.
    """
    if not samples:
        raise InputError(
            "the training split has no samples", mend="choose another dataset or mode, or look at what was left out"
        )
    units: list[Unit] = []
    for sample in samples:
        episode = Episode.from_json(sample.payload, item=sample.id)
        found = training_units(sample.id, episode, read_times(episode.feature_key), tokenizer, actions, settings)
        if not found:
            log.warning("%s: left out, no feature step lies in it", sample.id)
        units += found
    if not units:
        raise InputError(
            f"none of the {len(samples)} training samples holds a feature step",
            mend="check that features and annotations are on the same clock",
        )
    return units


def varied_units(units: Sequence[Unit], actions: ActionTokens, settings: VariationSettings) -> list[Unit]:
    """Returns the variations of every unit in its place.

    Raises:
        ConfigError: The sequences are windows or of the published form.
    """
    if not all(len(unit) == 1 and can_vary(unit[0]) for unit in units):
        raise ConfigError(["training: copies needs the form `aligned` and a mode without windows"])
    return [(sequence,) for sequence in vary([unit[0] for unit in units], actions, settings)]


def check_vocabulary(units: Sequence[Unit], model: StreamVlm) -> None:
    """Refuses tokens and positions the model does not have.

    Raises:
        InputError: A token lies beyond the embedding, or a sequence beyond the positions.
    """
    for sequence in (sequence for unit in units for sequence in unit):
        if int(sequence.ids.max()) >= model.config.vocab_size:
            raise InputError(
                f"token {int(sequence.ids.max())} is beyond the model's {model.config.vocab_size} rows",
                item=sequence.name,
                mend="train with the tokenizer that lies beside the checkpoint",
            )
        if len(sequence.ids) > model.config.max_positions:
            raise InputError(
                f"{len(sequence.ids)} tokens, but the model has {model.config.max_positions} positions",
                item=sequence.name,
                field="max_length",
                mend=f"set it to {model.config.max_positions}",
            )


def select_trainable(model: nn.Module, patterns: Sequence[str]) -> int:
    """Lets exactly the parameters train whose names match a pattern, and returns how many values they hold.

    Raises:
        ConfigError: A pattern matches no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    idle = [pattern for pattern in patterns if not fnmatch.filter(names, pattern)]
    if idle:
        raise ConfigError([f"training: {pattern!r} in `trainable` names no parameter" for pattern in idle])
    total = 0
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))
        total += parameter.numel() if parameter.requires_grad else 0
    return total


class ProjectedMaps:
    """What frozen layers make of a sequence's feature maps, kept in memory up to a limit.

    Always computed for one sequence alone, so that the bits are the same kept or computed again.

    Raises:
        ConfigError: One of those layers is to be trained.
    """

    def __init__(self, model: StreamVlm, read_features: ReadFeatures, megabytes: int) -> None:
        moving = [
            name
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and (".feat_attn_keys_fc." in name or ".vision_projector." in name)
        ]
        if moving:
            raise ConfigError([f"training: cache_mb needs frozen keys and values, but {moving[0]} is trainable"])
        self.model, self.read_features = model, read_features
        self.room = megabytes << 20
        self._kept: dict[str, Frames] = {}

    @torch.no_grad()
    def of(self, sequence: TrainingSequence) -> Frames:
        """Returns layer -> keys and values, each [T, places, attn_dim]."""
        if ZERO_STEP in sequence.frames:
            return self._made(sequence.name, sequence)
        first, stop = sequence.reach
        whole = self._made(
            f"{sequence.feature_key} {first} {stop}", replace(sequence, frames=np.arange(first, stop, dtype=np.int64))
        )
        rows = torch.from_numpy(sequence.frames - first)
        return {layer: (keys[rows], values[rows]) for layer, (keys, values) in whole.items()}

    def _made(self, name: str, sequence: TrainingSequence) -> Frames:
        if name in self._kept:
            return self._kept[name]
        maps = torch.from_numpy(_feature_maps(sequence, self.read_features, self.model.config.vision_dim))
        made = {layer: (keys[0], values[0]) for layer, (keys, values) in self.model.project_frames(maps[None]).items()}
        size = sum(one.numel() * one.element_size() for pair in made.values() for one in pair)
        if size <= self.room:
            self.room -= size
            self._kept[name] = made
        return made

    def batch(self, sequences: Sequence[TrainingSequence]) -> Frames:
        """Returns layer -> keys and values of several sequences, padded, [S, T, places, attn_dim]."""
        each = [self.of(sequence) for sequence in sequences]
        return {
            layer: (
                pad_sequence([one[layer][0] for one in each], batch_first=True),
                pad_sequence([one[layer][1] for one in each], batch_first=True),
            )
            for layer in each[0]
        }


def collate_units(
    units: Sequence[Unit],
    source: ReadFeatures | ProjectedMaps,
    actions: ActionTokens,
    vision_weight: float = 1.0,
    channels: int | None = None,
) -> Batch:
    """Reads the features of some units and pads their sequences to one batch.

    Raises:
        InputError: Stored features have another shape than the samples or the model say.
        NonFiniteError: A feature is NaN or infinite.
    """
    sequences = [sequence for unit in units for sequence in unit]
    shape = (len(sequences), max(len(sequence.ids) for sequence in sequences))
    ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    weights = np.zeros(shape, np.float32)
    for row, sequence in enumerate(sequences):
        length = len(sequence.ids)
        ids[row, :length], mask[row, :length] = sequence.ids, sequence.vision_mask
        weights[row, :length] = sequence.loss_mask * np.where(sequence.ids == actions.vision, vision_weight, 1.0)
    features: Tensor | Frames
    if isinstance(source, ProjectedMaps):
        features = source.batch(sequences)
    else:
        features = _padded_maps(sequences, source, channels)
    return Batch(
        ids=torch.from_numpy(ids),
        vision_mask=torch.from_numpy(mask),
        weights=torch.from_numpy(weights),
        features=features,
        owner=torch.tensor([number for number, unit in enumerate(units) for _ in unit]),
    )


def _padded_maps(sequences: Sequence[TrainingSequence], read_features: ReadFeatures, channels: int | None) -> Tensor:
    maps = [_feature_maps(sequence, read_features, channels) for sequence in sequences]
    for sequence, one in zip(sequences, maps, strict=True):
        if one.shape[1:] != maps[0].shape[1:]:
            raise InputError(
                f"feature maps of {list(one.shape[1:])} and {list(maps[0].shape[1:])} in one batch",
                item=sequence.name,
                mend="extract all features with one extractor",
            )
    return pad_sequence([torch.from_numpy(one) for one in maps], batch_first=True)


def _feature_maps(sequence: TrainingSequence, read_features: ReadFeatures, channels: int | None) -> np.ndarray:
    """Returns the maps of a sequence's masked tokens, float32 [T, C, H, W]; zeros where it reads the zero step."""
    first, stop = sequence.reach
    stored = read_features(sequence.feature_key, slice(first, stop))
    if stored.ndim != 4 or len(stored) != stop - first or (channels is not None and stored.shape[1] != channels):
        raise InputError(
            f"features have shape {list(stored.shape)}, expected [{stop - first}, {channels or 'C'}, H, W]",
            item=sequence.name,
            mend="extract the features again with the extractor that belongs to the model",
        )
    maps = np.zeros((len(sequence.frames), *stored.shape[1:]), np.float32)
    seen = sequence.frames != ZERO_STEP
    maps[seen] = stored[sequence.frames[seen] - first]
    if not np.isfinite(maps).all():
        raise NonFiniteError("a feature is NaN or infinite", item=sequence.name, mend="extract the features again")
    return maps


def unit_losses(model: nn.Module, batch: Batch) -> Tensor:
    """Returns one loss per unit, float32 [U]: the mean over its sequences of their weighted cross entropy.

    A sequence's cross entropy is the mean over its targets, each token being predicted from those before it.
    """
    logits = model(batch.ids[:, :-1], batch.vision_mask[:, :-1], batch.features)
    targets, weights = batch.ids[:, 1:], batch.weights[:, 1:]
    each = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none").view_as(weights)
    per_sequence = (each * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    count = torch.bincount(batch.owner)
    zeros = torch.zeros(len(count), dtype=per_sequence.dtype, device=per_sequence.device)
    return zeros.index_add(0, batch.owner, per_sequence / count[batch.owner])
