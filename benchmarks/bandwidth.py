"""What the full-size models must move and compute, and what that takes on a GPU at best.

A decoding step reads every weight once for the whole batch and each row's keys and values: no implementation is faster
than those bytes over the memory's bandwidth. Prefill, image towers and diffusion are bound by arithmetic instead.
Shapes come from the models' published configurations, peaks from the vendors' data sheets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """Peaks of one class of GPUs: memory in bytes per second, dense bf16 arithmetic in operations per second."""

    name: str
    bandwidth: float
    flops: float


GPUS = (
    Gpu("H200", 4.8e12, 989e12),
    Gpu("H100", 3.35e12, 989e12),
    Gpu("A100-80", 2.04e12, 312e12),
    Gpu("A100-40", 1.56e12, 312e12),
    Gpu("RTX 4090", 1.01e12, 165e12),
)


@dataclass(frozen=True)
class Decoder:
    """A LLaMA-shaped language model as a system runs it.

    Attributes:
        name: Model and system.
        layers, hidden, heads, kv_heads, intermediate, vocabulary: Its shape.
        extra: Parameters beside the plain model (cross-attention layers).
        weight_bytes: Bytes per weight: 2 is bf16, 1 is 8-bit.
        context: Tokens in the cache of one row, half-way through a typical answer.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    context: int
    extra: float = 0.0
    weight_bytes: float = 2.0

    @property
    def parameters(self) -> float:
        """Parameters that a step reads; the embedding table is looked up, not read."""
        kv = 2 * self.hidden * self.hidden * self.kv_heads // self.heads
        layer = 2 * self.hidden**2 + kv + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return self.layers * layer + self.hidden + self.vocabulary * self.hidden + self.extra

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values of one token, in bf16."""
        return 2 * self.layers * self.hidden * self.kv_heads // self.heads * 2

    def step_bytes(self, batch: int, context: int | None = None) -> float:
        """Returns the bytes that one step of a batch must move."""
        tokens = self.context if context is None else context
        return self.parameters * self.weight_bytes + batch * tokens * self.kv_bytes


LLAMA2_7B = {"layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 32, "intermediate": 11008, "vocabulary": 32000}
LLAMA2_13B = {"layers": 40, "hidden": 5120, "heads": 40, "kv_heads": 40, "intermediate": 13824, "vocabulary": 32000}
LLAMA3_70B = {"layers": 80, "hidden": 8192, "heads": 64, "kv_heads": 8, "intermediate": 28672, "vocabulary": 128256}
DECODERS = (
    Decoder("Stream-VLM 7B (fitcoach)", **LLAMA2_7B, context=200, extra=0.41e9),
    Decoder("VLM4HOI, LLaMA-2 7B (hoiref)", **LLAMA2_7B, context=310),
    Decoder("VLLM 13B (lego)", **LLAMA2_13B, context=450),
    Decoder("judge, LLaMA-3 70B, 8-bit", **LLAMA3_70B, context=290, weight_bytes=1.0),
)


@dataclass(frozen=True)
class Work:
    """A stage that arithmetic bounds: operations per item, and the share of the peak that is assumed."""

    name: str
    tera_operations: float
    share: float


WORK = (
    Work("3D-CNN of a 3.5 min workout (fitcoach)", 7.0, 0.1),
    Work("image tower and prefill of one question (hoiref)", 2.0 + 3.9, 0.5),
    Work("32 frames, tower and prefill (videosavi)", 20.0 + 126.0, 0.5),
    Work("one image, 100 steps x 3 branches of the UNet (lego)", 60.0, 0.4),
    Work("prefill of one pair (judge 70B)", 39.0, 0.5),
)


def decode_bounds(batches: tuple[int, ...]) -> Iterator[tuple[Decoder, int, list[float]]]:
    """Yields model, batch and the most tokens per second on each class of `GPUS`."""
    for model in DECODERS:
        for batch in batches:
            yield model, batch, [batch * gpu.bandwidth / model.step_bytes(batch) for gpu in GPUS]


def class_of(device_name: str) -> Gpu | None:
    """Returns the class of a device by the name its driver gives, or None if its peak is not known."""
    plain = device_name.upper().replace("-", " ")
    if "A100" in plain:
        return next(gpu for gpu in GPUS if gpu.name == ("A100-80" if "80" in plain else "A100-40"))
    return next((gpu for gpu in GPUS if gpu.name.split()[-1] in plain), None)
