"""LLaMA's linear layers in 8 or 4 bits through bitsandbytes, LoRA in float32 on top."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn

from sightline.errors import DeviceError
from sightline.systems.hoiref.model.vlm4hoi import LoraBranch, LoraLinear, Vlm4Hoi

OUTLIER_THRESHOLD = 6.0
"""Columns with a larger value are computed in half precision, as the original's LLM.int8 does."""


def check_quantisation(device: str | torch.device) -> Any:
    """Returns bitsandbytes.

    Raises:
        DeviceError: It is not installed, or there is no GPU.
    """
    mend = "set quantisation: none, or install bitsandbytes on a machine with a GPU"
    try:
        library = importlib.import_module("bitsandbytes")
    except ImportError:
        raise DeviceError("bitsandbytes is not installed", field="quantisation", mend=mend) from None
    if torch.device(device).type != "cuda":
        raise DeviceError(f"8 and 4 bits run on a GPU, not on {device}", field="quantisation", mend=mend)
    return library


def quantise(model: Vlm4Hoi, how: str, device: str | torch.device) -> None:
    """Replaces LLaMA's linear layers, all but the head, and moves the model to the GPU, which packs the weights.

    Args:
        model: In half precision on the CPU.
        how: `8bit` or `4bit`.
        device: A CUDA device.

    Raises:
        DeviceError: As `check_quantisation`.
    """
    library = check_quantisation(device)
    for parent in list(model.llama.model.modules()):
        if isinstance(parent, LoraBranch):
            continue
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, _packed(child, how, library))
    model.to(device)


def _packed(plain: nn.Linear, how: str, library: Any) -> nn.Module:
    """Returns a layer of the same numbers; a layer with LoRA keeps its branch."""
    if how == "8bit":
        base, parameter = library.nn.Linear8bitLt, library.nn.Int8Params
        options: dict[str, Any] = {"has_fp16_weights": False, "threshold": OUTLIER_THRESHOLD}
        wrapped = parameter(plain.weight.data, requires_grad=False, has_fp16_weights=False)
    else:
        base, parameter = library.nn.Linear4bit, library.nn.Params4bit
        options = {"quant_type": "nf4", "compute_dtype": torch.float16}
        wrapped = parameter(plain.weight.data, requires_grad=False, quant_type="nf4")
    kind: Any = type(f"Lora{base.__name__}", (LoraBranch, base), {}) if isinstance(plain, LoraLinear) else base
    layer = kind.__new__(kind)
    base.__init__(layer, plain.in_features, plain.out_features, bias=False, **options)
    layer.weight = wrapped
    if isinstance(plain, LoraLinear):
        layer.lora_A, layer.lora_B, layer.lora_dropout = plain.lora_A, plain.lora_B, plain.lora_dropout
        layer.lora_scaling = plain.lora_scaling
    return layer
