"""The causal 3D EfficientNet that turns workout video into four feature maps per second.

Architecture and key names: the `sense_backbone` of Stream-VLM (QEVD, arXiv 2407.08101). Time is the batch axis;
a temporal convolution is a 1x1 convolution over three consecutive frames laid side by side along channels. What
the temporal blocks remember of earlier frames is an explicit `CnnState`, so one network serves any number of
videos, and a video cut into chunks gives what one call on all of it gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from sightline.assets.checkpoints import (
    Entries,
    KeyMap,
    KeyReport,
    Shapes,
    StripPrefix,
    load_into,
    read_state_dict,
)
from sightline.errors import NonFiniteError
from sightline.systems.fitcoach.model import FEATURE_CHANNELS, FRAMES_PER_STEP

_WINDOW = 3  # frames one temporal convolution sees


@dataclass(frozen=True, slots=True)
class BlockSpec:
    """One inverted-residual block: channels in and out, kernel, spatial stride, expansion, temporal stride.

    A temporal stride of 0 marks a block without temporal convolution.
    """

    inputs: int
    outputs: int
    kernel: int
    stride: int = 1
    expand: int = 6
    time_stride: int = 0


def _blocks() -> list[BlockSpec]:
    b = BlockSpec
    return [
        b(32, 24, 3, expand=1),
        b(24, 32, 3, stride=2), b(32, 32, 3, time_stride=1), b(32, 32, 3), b(32, 32, 3),
        b(32, 56, 5, stride=2), b(56, 56, 5, time_stride=2), b(56, 56, 5), b(56, 56, 5),
        b(56, 112, 3, stride=2), b(112, 112, 3, time_stride=1), b(112, 112, 3), b(112, 112, 3),
        b(112, 112, 3, time_stride=2), b(112, 112, 3),
        b(112, 160, 5), b(160, 160, 5, time_stride=1), b(160, 160, 5), b(160, 160, 5),
        b(160, 160, 5, time_stride=1), b(160, 160, 5),
        b(160, 272, 5, stride=2), b(272, 272, 5, time_stride=1), b(272, 272, 5), b(272, 272, 5, time_stride=1),
        b(272, 272, 5), b(272, 272, 5), b(272, 272, 5), b(272, 272, 5),
        b(272, 448, 3),
    ]  # fmt: skip


class ConvReLU(nn.Sequential):
    """Convolution with bias (batch norm is folded in) and ReLU6; keys `0.weight`, `0.bias`."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups),
            nn.ReLU6(inplace=True),
        )


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; a temporal block expands from three consecutive frames."""

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        self.spec = spec
        hidden = spec.inputs * spec.expand
        depth = _WINDOW if spec.time_stride else 1
        layers: list[nn.Module] = []
        if spec.expand != 1:
            layers.append(ConvReLU(depth * spec.inputs, hidden, 1))
        layers.append(ConvReLU(hidden, hidden, spec.kernel, spec.stride, groups=hidden))
        layers.append(nn.Conv2d(hidden, spec.outputs, 1))
        self.conv = nn.Sequential(*layers)
        self.residual = spec.stride == 1 and spec.inputs == spec.outputs

    @property
    def remembered_frames(self) -> int:
        """Input frames the block carries from one call to the next: 2 at temporal stride 1, 1 at stride 2."""
        return _WINDOW - self.spec.time_stride if self.spec.time_stride else 0

    def forward(self, frames: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Maps float [T, inputs, h, w] and the remembered frames to the output and what to remember next.

        At temporal stride 2, T is even and output k belongs to the pair of frames 2k, 2k+1.
        """
        if not self.spec.time_stride:
            output = self.conv(frames)
            return (output + frames if self.residual else output), None
        if past is None:
            past = frames.new_zeros((self.remembered_frames, *frames.shape[1:]))
        line = torch.cat([past, frames])
        count, step = len(frames) // self.spec.time_stride, self.spec.time_stride
        windows = torch.cat([line[k : k + step * count : step] for k in range(_WINDOW)], dim=1)
        output = self.conv(windows)
        if self.residual:
            output = output + frames[step - 1 :: step]
        return output, line[-self.remembered_frames :].clone()


@dataclass(frozen=True, slots=True)
class CnnState:
    """What the temporal blocks remember of one video: the last input frames of each, in block order."""

    past: tuple[Tensor, ...]


class StreamingEfficientNet(nn.Module):
    """The backbone: 32 blocks under `cnn`, four frames in, one feature map out."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.ModuleList(
            [ConvReLU(3, 32, 3, 2), *(InvertedResidual(spec) for spec in _blocks()),
             ConvReLU(_blocks()[-1].outputs, FEATURE_CHANNELS, 1)]
        )  # fmt: skip

    def forward(self, frames: Tensor, state: CnnState | None = None) -> tuple[Tensor, CnnState]:
        """Runs the next frames of one video.

        Args:
            frames: float [4k, 3, h, w], RGB in 0..1, following those of the earlier calls.
            state: What the call before returned; None at the start of a video (zeros).

        Returns:
            Features after ReLU6, float [k, 1280, ceil(h/32), ceil(w/32)] in 0..6, and the state to pass on.

        Raises:
            ValueError: The number of frames is not a positive multiple of four.
        """
        if frames.ndim != 4 or len(frames) == 0 or len(frames) % FRAMES_PER_STEP:
            raise ValueError(f"expected [4k, 3, h, w] with k >= 1, got {tuple(frames.shape)}")
        remembered = None if state is None else list(state.past)
        kept: list[Tensor] = []
        for block in self.cnn:
            if isinstance(block, InvertedResidual):
                past = remembered.pop(0) if remembered and block.remembered_frames else None
                frames, following = block(frames, past)
                if following is not None:
                    kept.append(following)
            else:
                frames = block(frames)
        return frames, CnnState(tuple(kept))


class _SpatialMean(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features.mean(dim=-1).mean(dim=-1)


class ActionClassifier(nn.Sequential):
    """Backbone, spatial mean and linear layer: the network the released weights were trained as.

    Only the backbone is used by fitcoach; the wrapper gives the genuine key names `0.cnn.*` and `2.1.*`.
    """

    def __init__(self, classes: int) -> None:
        super().__init__(
            StreamingEfficientNet(),
            _SpatialMean(),
            nn.Sequential(nn.Dropout(0.2), nn.Linear(FEATURE_CHANNELS, classes)),
        )

    @property
    def backbone(self) -> StreamingEfficientNet:
        """The streaming backbone."""
        return cast(StreamingEfficientNet, self[0])

    def logits(self, features: Tensor) -> Tensor:
        """Maps features [k, 1280, h, w] to class scores [k, classes]."""
        return self[2](self[1](features))


@dataclass(frozen=True)
class ByPosition:
    """Gives model tensors without a namesake the checkpoint entry at their place, where the shapes agree.

    The original's loader does the same; the names inside the released checkpoint are not public. An entry whose
    own name the model knows is never taken.
    """

    def apply(self, entries: Entries, shapes: Shapes, report: KeyReport) -> Entries:
        """See `sightline.assets.checkpoints.Rule.apply`."""
        names = list(entries)
        moved = dict(entries)
        for place, name in enumerate(shapes):
            if name in entries or place >= len(names) or names[place] in shapes:
                continue
            entry = entries[names[place]]
            if tuple(entry.tensor.shape) == tuple(shapes[name]):
                moved[name] = moved.pop(names[place])
        count = sum(name not in entries for name in moved)
        if count:
            report.notes.append(f"{count} tensors were matched by their place in the file, not by name")
        return moved


CNN_KEYS = KeyMap((StripPrefix("module."), ByPosition()))


def load_classifier(path: str | Path, *, allow_missing: Sequence[str] = ()) -> tuple[ActionClassifier, KeyReport]:
    """Loads backbone and classification layer and says where every tensor came from.

    Args:
        path: Checkpoint file: a bare state dict or one under `state_dict`, with or without `module.`.
        allow_missing: Regular expressions of tensors that may be absent from the file.

    Raises:
        CheckpointError: Unreadable file, a tensor without counterpart, or a wrong shape.
        NonFiniteError: A weight is NaN or infinite.
    """
    state = read_state_dict(path)
    last = list(state.values())[-1]
    bias = next((tensor for name, tensor in state.items() if name.endswith("2.1.bias")), last)
    with torch.device("meta"):
        model = ActionClassifier(bias.numel() if bias.ndim == 1 else 1)
    report = load_into(
        model, state, CNN_KEYS, allow_missing=allow_missing, allow_left_over=(".*",),
        dtype=torch.float32, file=path,
    )  # fmt: skip
    for name, tensor in model.state_dict().items():
        if not tensor.is_meta and not torch.isfinite(tensor).all():
            raise NonFiniteError("weight is NaN or infinite", file=path, item=name, mend="download the weights again")
    return model.eval().requires_grad_(False), report


def load_cnn(path: str | Path, device: str | torch.device = "cpu") -> StreamingEfficientNet:
    """Loads the backbone from a checkpoint of the released form (`efficientnet4Lite_1.8.3.checkpoint`).

    Every tensor of the backbone must be in the file; the classification layer need not be. The network goes to
    `device` in float32 and channels-last memory order. Errors as in `load_classifier`.
    """
    model, _ = load_classifier(path, allow_missing=(r"2\.1\..*",))
    backbone = model.backbone.to(device)
    for convolution in backbone.modules():
        if isinstance(convolution, nn.Conv2d):
            convolution.weight.data = convolution.weight.data.to(memory_format=torch.channels_last)
    return backbone
