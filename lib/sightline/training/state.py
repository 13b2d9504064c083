"""The durable state of a training run: one whole file that, read back, continues bit by bit.

Tensors lie flat under plain names and everything else in one JSON text, so that the file is read without
running anything in it and its bytes are a function of its content.
"""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sightline.errors import StoreError
from sightline.records.files import whole_file

VERSION = 1
_MEND = "delete it to start this training again from the beginning"


def write_torch(path: str | Path, content: Mapping[str, Any]) -> None:
    """Writes `torch.save` content as a whole file; equal content gives equal bytes.

    Through an open file: given a path, torch writes the file's name, here a temporary one, into the file.
    """
    with whole_file(path) as temporary, open(temporary, "wb") as stream:
        torch.save(dict(content), stream)


def rng_state() -> dict[str, Any]:
    """Returns the states of Python's, NumPy's and torch's global generators as JSON values."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state = {
        "python": [version, list(words), gauss],
        "numpy": [str(kind), np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
    }
    if torch.cuda.is_available():
        state["cuda"] = [one.cpu().numpy().tobytes().hex() for one in torch.cuda.get_rng_state_all()]
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Puts the global generators where `rng_state` found them."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.asarray(keys, np.uint32), position, has_gauss, cached))
    torch.set_rng_state(_bytes(state["torch"]))
    if "cuda" in state and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all([_bytes(one) for one in state["cuda"]])


def _bytes(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Returns the tensors that training changes: parameters with a gradient, and buffers that are saved."""
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    saved = model.state_dict()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in saved}
    return {**trainable, **buffers}


def write_state(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    facts: Mapping[str, Any],
) -> None:
    """Writes trained tensors, optimiser state and `facts` (JSON values) as one whole file."""
    tensors = {f"model/{name}": tensor.detach().cpu() for name, tensor in trained_tensors(model).items()}
    for index, entry in optimizer.state_dict()["state"].items():
        for name, value in entry.items():
            tensors[f"optimizer/{index}/{name}"] = torch.as_tensor(value).detach().cpu()
    write_torch(path, {**tensors, "facts": json.dumps({**facts, "version": VERSION}, sort_keys=True)})


def read_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Restores what `write_state` wrote and returns its facts.

    Raises:
        StoreError: The file is damaged or belongs to another model.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        facts = json.loads(content.pop("facts"))
    except (RuntimeError, EOFError, KeyError, ValueError, OSError, pickle.UnpicklingError) as error:
        raise StoreError(f"the training state cannot be read ({error})", file=path, mend=_MEND) from None
    mine = trained_tensors(model)
    stored = {name.removeprefix("model/"): value for name, value in content.items() if name.startswith("model/")}
    shapes = {name: tuple(value.shape) for name, value in stored.items()}
    if facts.get("version") != VERSION or shapes != {name: tuple(value.shape) for name, value in mine.items()}:
        raise StoreError("the training state belongs to another model or version", file=path, mend=_MEND)
    with torch.no_grad():
        for name, tensor in mine.items():
            tensor.copy_(stored[name])
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in content.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/", 2)
            moments.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return dict(facts)
