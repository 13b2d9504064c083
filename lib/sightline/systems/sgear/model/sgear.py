"""S-GEAR: prototypes that language has ordered, mixed into what was seen, and the feature of what comes next.

arXiv 2407.02309; the released code decides where the two differ.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.errors import InputError
from sightline.systems.sgear.model.config import SgearConfig
from sightline.systems.sgear.model.cosine import cosine
from sightline.systems.sgear.model.decoder import FutureDecoder
from sightline.systems.sgear.model.protattn import PrototypeAttention, TopSimilarTokens
from sightline.systems.sgear.model.tca import TcaBlock
from sightline.systems.sgear.model.vit import Backbone

_INITIAL_SHARE = 0.5
_LINEAR_STD = 0.01


@dataclass(frozen=True)
class SgearOutputs:
    """What a forward pass gives; of several crops the mean.

    Attributes:
        logits: Of the coming action [B, N].
        past_logits: Of the action at each frame [B, T, N]; None if nobody asked.
        future_z: Predicted feature of the coming action [B, d].
        future_agg: The same mixed with the prototypes it resembles [B, d]; what the classifier reads.
        similarities: Cosines of `future_z` with the prototypes [B, N].
        similarities_past: Cosines of the frames with the prototypes [B, T, N]; None if nobody asked.
        past: The first frame and the predictions of the others [B, T, d]; None if nobody asked.
        past_mean: Mean of the frames [B, d]: of features before prototypes are mixed in, of raw frames after it.
        feature_errors: Squared difference of each prediction and the frame that came [B, T - 1, d].
    """

    logits: Tensor
    past_logits: Tensor | None
    future_z: Tensor
    future_agg: Tensor
    similarities: Tensor
    similarities_past: Tensor | None
    past: Tensor | None
    past_mean: Tensor
    feature_errors: Tensor

    def float(self) -> SgearOutputs:
        """Returns the outputs in float32, for sums after a pass in less."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        whole: dict[str, Any] = {name: None if one is None else one.float() for name, one in values.items()}
        return SgearOutputs(**whole)


def mean_outputs(each: list[SgearOutputs]) -> SgearOutputs:
    """Returns the mean over crops of every output."""
    if len(each) == 1:
        return each[0]
    parts: dict[str, Any] = {entry.name: [getattr(one, entry.name) for one in each] for entry in fields(SgearOutputs)}
    means: dict[str, Any] = {
        name: None if values[0] is None else torch.stack(values).mean(dim=0) for name, values in parts.items()
    }
    return SgearOutputs(**means)


class Sgear(nn.Module):
    """The whole model. Tensor names are those of the released code's last state."""

    def __init__(self, config: SgearConfig) -> None:
        super().__init__()
        self.config = config
        width, frames = config.width, config.frames
        self.vis_prototypes = nn.Parameter(torch.zeros(config.classes, width), not config.freeze_prototypes)
        self.balancer = nn.Parameter(torch.full((1,), _INITIAL_SHARE))
        self.alpha = nn.Parameter(torch.full((1,), _INITIAL_SHARE))
        if config.vit is not None:
            self.backbone = Backbone(config.vit)
            self.TCA = nn.ModuleList(TcaBlock(width, frames) for _ in range(config.tca_blocks))
        elif config.input_dim != width:
            self.mapper_to_inter = nn.Linear(config.input_dim, width, bias=False)
        if config.prototype_attention:
            self.select = TopSimilarTokens(config.token_mixing)
            self.ProtAttn = PrototypeAttention(width, frames)
        self.future_predictor = FutureDecoder(width, config.decoder)
        self.dropout = nn.Dropout(config.dropout)
        self.classifiers = nn.ModuleDict({"action": nn.Linear(width, config.classes)})
        for name, columns in (("verb", config.verbs), ("noun", config.nouns)):
            if columns is not None:
                self.register_buffer(f"cls_map_{name}_action", torch.zeros(config.classes, columns))
        self._initialise()

    def _initialise(self) -> None:
        """Linear layers start at N(0, 0.01) without bias, as released; GPT-2 keeps transformers' own start."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=_LINEAR_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def set_action_maps(self, verb_noun: Tensor) -> None:
        """Fills the maps from actions to verbs and nouns that checkpoints carry.

        Args:
            verb_noun: int64 [N, 2], verb and noun of every action.
        """
        for column, name in enumerate(("verb", "noun")):
            table = getattr(self, f"cls_map_{name}_action", None)
            if table is not None:
                table.zero_()
                table[torch.arange(len(table)), verb_noun[:, column]] = 1.0

    def set_prototypes(self, table: Tensor) -> None:
        """Sets the prototypes, resized along the channels where the table has another width (`fit_width`).

        Raises:
            InputError: The table has another number of classes.
        """
        if table.ndim != 2 or len(table) != self.config.classes:
            raise InputError(
                f"prototypes of shape {list(table.shape)} for {self.config.classes} classes",
                mend="make the prototypes from the same action table as the model",
            )
        with torch.no_grad():
            self.vis_prototypes.copy_(fit_width(table.float(), self.config.width))

    def forward(
        self,
        video: Tensor,
        *,
        text: Tensor | None = None,
        chosen: list[Tensor] | None = None,
        with_past: bool = True,
    ) -> SgearOutputs:
        """Anticipates.

        Args:
            video: Features [B, T, D]; or frames [B, T, 3, H, W], or [B, T, crops, 3, H, W], scaled to [-1, 1].
            text: Language vectors [N, d], for `prototype_values: text`.
            chosen: For each crop the chosen prototypes, int64 [B, T] or [B, T, 1], instead of choosing them.
            with_past: Also compute what only losses and studies read.

        Raises:
            InputError: The input has another shape than the model.
        """
        self._check(video, text)
        if self.config.vit is None:
            return self._from_features(video, chosen[0] if chosen else None, with_past)
        crops = [video] if video.ndim == 5 else list(video.unbind(dim=2))
        return mean_outputs(
            [
                self._from_frames(crop, text, chosen[number] if chosen else None, with_past)
                for number, crop in enumerate(crops)
            ]
        )

    def _check(self, video: Tensor, text: Tensor | None) -> None:
        config = self.config
        if config.vit is None:
            fits = video.ndim == 3 and tuple(video.shape[1:]) == (config.frames, config.input_dim)
            wanted = f"[B, {config.frames}, {config.input_dim}]"
        else:
            side = config.vit.image
            fits = video.ndim in (5, 6) and video.shape[1] == config.frames and video.shape[-3:] == (3, side, side)
            wanted = f"[B, {config.frames}, (crops,) 3, {side}, {side}]"
        if not fits:
            raise InputError(
                f"the model's input has shape {list(video.shape)}, expected {wanted}",
                mend="use the windows and features the model was made for",
            )
        uses_text = config.vit is not None and config.prototype_attention and config.prototype_values == "text"
        if uses_text and (text is None or tuple(text.shape) != (config.classes, config.width)):
            raise InputError(
                f"prototype_values is text, which needs language vectors [{config.classes}, {config.width}]",
                field="prototype_values",
                mend="give language prototypes of that width, or set it to visual",
            )

    def _from_frames(self, frames: Tensor, text: Tensor | None, chosen: Tensor | None, with_past: bool) -> SgearOutputs:
        """One crop [B, T, 3, H, W]."""
        batch, count = frames.shape[:2]
        tokens = self.backbone(frames.flatten(0, 1))
        seen = tokens[:, 0].view(batch, count, -1)  # before TCA: what prototypes are compared with
        for block in self.TCA:
            tokens = block(tokens)
        sequence = tokens[:, 0].view(batch, count, -1)
        still = self.vis_prototypes.detach()
        if self.config.prototype_attention:
            values = text if self.config.prototype_values == "text" and text is not None else still
            sequence = self._attend(seen, sequence, still, values, chosen)
        past_similarity = cosine(seen, self.vis_prototypes) if with_past else None
        return self._decode(sequence, sequence.mean(dim=1), past_similarity, still, with_past)

    def _from_features(self, features: Tensor, chosen: Tensor | None, with_past: bool) -> SgearOutputs:
        """Stored features [B, T, D]."""
        table = self.vis_prototypes
        x = self.mapper_to_inter(features) if hasattr(self, "mapper_to_inter") else features
        if not self.config.prototype_attention:
            return self._decode(x, x.mean(dim=1), None, table, with_past)
        x = (x - table.mean()) / table.std()
        sequence = self._attend(x, x, table, table, chosen)
        past_similarity = cosine(x, table.detach()) if with_past else None
        return self._decode(sequence, x.mean(dim=1), past_similarity, table, with_past)

    def _attend(self, seen: Tensor, sequence: Tensor, table: Tensor, values: Tensor, chosen: Tensor | None) -> Tensor:
        """Mixes into the sequence what attention makes of the prototypes that resemble what was seen."""
        by_mean = self.config.mean_representation
        key, count = (seen.mean(dim=1), self.config.frames) if by_mean else (seen, 1)
        _, own = self.select(key.detach(), table.detach(), count)
        share = self.alpha.sigmoid()
        mixed: Tensor = self.ProtAttn(self.select.gather(own if chosen is None else chosen, values), sequence)
        return share * sequence + (1 - share) * mixed

    def _decode(
        self, sequence: Tensor, past_mean: Tensor, past_similarity: Tensor | None, values: Tensor, with_past: bool
    ) -> SgearOutputs:
        """From the sequence [B, T, d] to the coming action."""
        predicted = self.future_predictor(sequence)
        z, from_features = predicted[:, -1], self.config.vit is None
        similarity = cosine(z.detach() if from_features else z, self.vis_prototypes)
        future = self._mix(z, similarity, values)
        past, past_logits = None, None
        if with_past:
            past = torch.cat([sequence[:, :1], predicted[:, :-1]], dim=1)
            if from_features and not self.config.prototype_attention:
                past_similarity = to_past = cosine(past.detach(), self.vis_prototypes)
            else:
                to_past = cosine(past, self.vis_prototypes)
            past_logits = self.classifiers["action"](self.dropout(self._mix(past, to_past, values)))
        return SgearOutputs(
            logits=self.classifiers["action"](self.dropout(future)),
            past_logits=past_logits,
            future_z=z,
            future_agg=future,
            similarities=similarity,
            similarities_past=past_similarity,
            past=past,
            past_mean=past_mean,
            feature_errors=(predicted[:, :-1] - sequence[:, 1:]).square(),
        )

    def _mix(self, x: Tensor, similarity: Tensor, values: Tensor) -> Tensor:
        """Adds the mean of the prototypes, weighted by a softmax over cosines at the backbone's temperature."""
        share = self.balancer.sigmoid()
        weights = (similarity / self.config.input_dim**0.5).softmax(dim=-1)
        return share * x + (1 - share) * (weights @ values)


def fit_width(table: Tensor, width: int) -> Tensor:
    """Returns a table [N, C] as [N, width], interpolated linearly along the channels.

    It is what the released code does with prototypes of another width: enough to start from, without meaning.
    """
    if table.shape[1] == width:
        return table
    size = (len(table), width)
    return F.interpolate(table[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
