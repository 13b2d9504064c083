"""Tensors from files: safetensors, shards with an index, torch files; nothing in a file is ever run."""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sightline.errors import CheckpointError
from sightline.records.files import read_json

_WRAPPERS = ("state_dict", "model_state", "model", "model_state_dict")
_FOLDER_FILES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "adapter_model.safetensors",
    "adapter_model.bin",
)
_SHOWN = 8
# Functions that ordinary training code leaves in pickles of arrays and plain objects; their result is inert.
_HARMLESS_FUNCTIONS = {
    "_codecs.encode",
    "copyreg._reconstructor",
    "copy_reg._reconstructor",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
}
_HARMLESS_BUILTINS = {"set", "frozenset", "list", "dict", "tuple", "object", "slice", "range", "complex"}
_LEGACY_PICKLES = 4  # magic number, protocol, system, object: the order torch wrote before its zip format


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Returns every tensor of a checkpoint, on the CPU, memory-mapped where the format allows it.

    Args:
        path: A `.safetensors` file, an `*.index.json` of shards, a torch file (bare, or with its tensors
            under `state_dict`, `model_state`, `model` or `model_state_dict`), or a folder in the Hugging
            Face layout.

    Raises:
        CheckpointError: Nothing there, damaged, without tensors, or only readable by running its code.
    """
    path = Path(path)
    if path.is_dir():
        path = _main_file(path)
    if not path.exists():
        raise CheckpointError(
            "file not found", file=path, mend="download the weights or correct the path in the config"
        )
    if path.name.endswith(".index.json"):
        return _read_sharded(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _tensors_of(_read_torch(path), path)


def _main_file(folder: Path) -> Path:
    for name in _FOLDER_FILES:
        if (folder / name).exists():
            return folder / name
    raise CheckpointError(
        "the folder holds no weights in the Hugging Face layout",
        file=folder,
        mend=f"put one of {', '.join(_FOLDER_FILES[:4])} there (the '-hf' conversion of the model)",
    )


def _read_sharded(index: Path) -> dict[str, Tensor]:
    table = read_json(index)
    weight_map = table.get("weight_map") if isinstance(table, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError("no weight_map in the index", file=index, mend="download the index again")
    state: dict[str, Tensor] = {}
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name:
            raise CheckpointError(f"shard {name!r} is not a plain file name", file=index, field="weight_map")
        state.update(read_state_dict(index.parent / name))
    absent = sorted(set(weight_map) - set(state))
    if absent:
        raise CheckpointError(
            f"tensors of the index are in none of its files: {', '.join(absent[:_SHOWN])}",
            file=index,
            mend="download the shards again",
        )
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as stream:
            return {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"damaged safetensors file ({error})", file=path, mend="download it again") from None


def _read_torch(path: Path) -> Any:
    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise CheckpointError(
                    "a TorchScript program, not weights", file=path, mend="save its state dict instead"
                )
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError:
        return read_inert(path)
    except (RuntimeError, EOFError, ValueError, OSError, KeyError) as error:
        raise CheckpointError(
            f"damaged torch file ({str(error).splitlines()[0][:160]})", file=path, mend="download it again"
        ) from None


def _tensors_of(content: Any, path: Path) -> dict[str, Tensor]:
    def tensors(candidate: Any) -> dict[str, Tensor]:
        if not isinstance(candidate, Mapping):
            return {}
        return {str(name): value for name, value in candidate.items() if isinstance(value, Tensor)}

    found = tensors(content)
    for wrapper in _WRAPPERS if not found and isinstance(content, Mapping) else ():
        found = tensors(content.get(wrapper))
        if found:
            break
    if not found:
        held = ", ".join(map(str, list(content)[:_SHOWN])) if isinstance(content, Mapping) else type(content)
        raise CheckpointError(
            f"no tensors found at the top or under {', '.join(_WRAPPERS)} (found: {held})",
            file=path,
            mend="give a file that holds a state dict",
        )
    return {name: value.detach() for name, value in found.items()}


class Inert:
    """Stands for an object of a class that was not loaded; it keeps nothing and does nothing."""

    foreign_name = ""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        """Makes an empty object, whatever the pickle wanted to pass."""
        if not cls.may_be_called():
            raise pickle.UnpicklingError(f"the file asks to call {cls.foreign_name}, which was refused")
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Ignores every argument."""

    def __setstate__(self, state: Any) -> None:
        """Ignores the state."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Ignores the item."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refuses to be called."""
        raise pickle.UnpicklingError(f"the file asks to call a {self.foreign_name}, which was refused")

    def __hash__(self) -> int:
        return id(self)

    @classmethod
    def may_be_called(cls) -> bool:
        """Says whether the name is that of a class; calls of functions are refused."""
        module, _, name = cls.foreign_name.rpartition(".")
        if module in ("builtins", "__builtin__"):
            return name in _HARMLESS_BUILTINS
        return cls.foreign_name in _HARMLESS_FUNCTIONS or name.lstrip("_")[:1].isupper()


def _stub(name: str) -> type[Inert]:
    return type(name.rpartition(".")[2], (Inert,), {"foreign_name": name})


def _legacy_globals(path: Path) -> set[str]:
    """Returns the names a torch file of the format before zip refers to."""
    names: set[str] = set()
    with open(path, "rb") as stream:
        for _ in range(_LEGACY_PICKLES):
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "GLOBAL":
                    names.add(str(argument).replace(" ", "."))
    return {name for name in names if not name.startswith("torch.") and name != "collections.OrderedDict"}


def read_inert(path: Path) -> Any:
    """Returns what a torch file holds, every unknown class replaced by an inert object.

    The restricted unpickler of torch does the reading; it is merely told an empty class for each name it
    does not know. Nothing outside torch is imported and no foreign function is called.

    Raises:
        CheckpointError: The file asks for a call, or is not a torch file.
    """
    try:
        if zipfile.is_zipfile(path):
            names = set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        else:
            names = _legacy_globals(path)
        with torch.serialization.safe_globals([(_stub(name), name) for name in sorted(names)]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, TypeError, AttributeError) as error:
        reason = str(error).replace("\n", " ")
        for name_part in ("the file asks to call", "Trying to load unsupported GLOBAL"):
            if name_part in reason:
                reason = reason[reason.index(name_part) :]
        raise CheckpointError(
            f"not readable without running code from the file ({reason[:200]})",
            file=path,
            mend="get the weights from a source you trust, as safetensors or as a plain state dict",
        ) from None
