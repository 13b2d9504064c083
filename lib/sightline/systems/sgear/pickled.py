"""Tables out of pickled pandas DataFrames, without pandas and without running anything that a file names.

A pickle is a program. Here every name it may use is on a closed list, and each leads to a stand-in of ours that only
writes down what it was given; any other name ends the reading. What was written down is then put together as rows.
Files of pandas 0.20 to 3 are understood: blocks of numbers and objects, Arrow strings.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sightline.errors import InputError

_MEND = "fetch the file again, or give the csv or Parquet form of the same annotations"
_ROUND = "0.14.1"  # the layout inside BlockManager's state that pandas kept from that release on


class _Recorded:
    """What a pickle wanted to build: the name, the arguments and the state, none of it used."""

    arguments: tuple[Any, ...] = ()  # a pickle may make objects without calling their class
    state: Any = None

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Frame(_Recorded):
    """pandas.DataFrame."""


class _Manager(_Recorded):
    """pandas' BlockManager."""


class _Strings(_Recorded):
    """An array of strings."""


class _Dtype(_Recorded):
    """numpy.dtype: a code, and its byte order in the state."""

    def numpy(self) -> np.dtype[Any] | None:
        """Returns the type of numbers; None for objects."""
        code = str(self.arguments[0])
        if code.lstrip("|<>=").startswith("O"):
            return None
        order: Any = self.state[1] if isinstance(self.state, tuple) and len(self.state) > 1 else "="
        found = np.dtype(code)
        if found.kind not in "iufbUSMm" or found.hasobject:
            raise pickle.UnpicklingError(f"values of type {code}")
        return found.newbyteorder(order) if order in "<>" else found


class _Array(_Recorded):
    """numpy.ndarray: shape, type and bytes, or a list of objects."""

    def array(self) -> np.ndarray:
        """Returns the values."""
        _, shape, dtype, fortran, data = self.state
        return _values(data, dtype.numpy(), shape, "F" if fortran else "C")


def _values(data: Any, dtype: np.dtype[Any] | None, shape: Any, order: Any) -> np.ndarray:
    if dtype is None:
        found = np.empty(len(data), object)
        for place, value in enumerate(data):
            found[place] = value
    else:
        found = np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype)
    return found.reshape(tuple(int(side) for side in shape), order=order)


def _frombuffer(data: Any, dtype: _Dtype, shape: Any, order: str, *_axes: Any) -> np.ndarray:
    return _values(data, dtype.numpy(), shape, "F" if order == "F" else "C")


def _scalar(dtype: _Dtype, data: Any = b"") -> Any:
    kind = dtype.numpy()
    return data if kind is None else _values(data, kind, (), "C").item()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text encoded as {encoding}")
    return text.encode("latin1")


def _bytes(data: Any = b"") -> bytes:
    if not isinstance(data, bytes | bytearray):  # a number would ask for so many zeros
        raise pickle.UnpicklingError("bytes that are not in the file")
    return bytes(data)


class _Class(str):
    """The name of a class, where a pickle hands classes on as values."""

    def __call__(self, *arguments: Any) -> Any:
        raise pickle.UnpicklingError(f"the file asks to call {self}")


def _index(kind: Any, parts: dict[str, Any]) -> tuple[str, Any, Any]:
    return str(kind), parts, parts.get("name")


def _block(values: Any, places: Any, _ndim: Any = None) -> dict[str, Any]:
    return {"values": values, "mgr_locs": places}


def _reconstruct(*_arguments: Any) -> _Array:
    return _Array()


def _reconstructor(kind: Any, _base: Any, _state: Any) -> Any:
    return kind()


def _arrow(parts: Any) -> list[str | None]:
    """Strings of an Arrow array given as (type, length, nulls, offset, buffers, children, dictionary)."""
    kind, length, _, offset, buffers, *_ = parts
    validity, ends, data = (None if one is None else bytes(one) for one in buffers)
    if kind not in ("string", "large_string") or ends is None:
        raise pickle.UnpicklingError(f"an Arrow array of {kind}")
    places = np.frombuffer(ends, "<i8" if kind == "large_string" else "<i4")[offset : offset + length + 1]
    bits = None if validity is None else np.unpackbits(np.frombuffer(validity, np.uint8), bitorder="little")
    text = data or b""
    return [
        text[places[n] : places[n + 1]].decode() if bits is None or bits[offset + n] else None for n in range(length)
    ]


def _chunked(chunks: Any, *_type: Any) -> list[str | None]:
    return [value for chunk in chunks for value in chunk]


def _name_of(name: str) -> str:
    return str(name)


def _known() -> dict[tuple[str, str], Any]:
    internals = ("pandas.core.internals", "pandas.core.internals.managers", "pandas._libs.internals")
    indexes = (
        "pandas", "pandas.core.index", "pandas.core.indexes.base", "pandas.core.indexes.numeric",
        "pandas.core.indexes.range", "pandas.indexes.base", "pandas.indexes.numeric", "pandas.indexes.range",
    )  # fmt: skip
    known: dict[tuple[str, str], Any] = {
        ("_codecs", "encode"): _encode,
        ("pandas._libs.internals", "_unpickle_block"): _block,
        ("pandas.core.internals.blocks", "new_block"): _block,
        ("pandas", "StringDtype"): _Recorded,
        ("pandas.core.arrays.string_", "StringDtype"): _Recorded,
        ("pandas.arrays", "ArrowStringArray"): _Strings,
        ("pandas.core.arrays.string_arrow", "ArrowStringArray"): _Strings,
        ("pyarrow.lib", "_restore_array"): _arrow,
        ("pyarrow.lib", "chunked_array"): _chunked,
        ("pyarrow.lib", "type_for_alias"): _name_of,
        ("pyarrow.lib", "py_buffer"): _bytes,
    }
    for module in ("pandas", "pandas.core.frame"):
        known[module, "DataFrame"] = _Frame
    for module in internals:
        known[module, "BlockManager"] = _Manager
    for module in indexes:
        known[module, "_new_Index"] = _index
        for name in ("Index", "Int64Index", "UInt64Index", "Float64Index", "RangeIndex"):
            known[module, name] = _Class(name)
    for module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray"):
        known[module, "ndarray"] = _Class("ndarray")
        known[module, "dtype"] = _Dtype
        known[module, "_reconstruct"] = _reconstruct
        known[module, "scalar"] = _scalar
    for module in ("numpy.core.numeric", "numpy._core.numeric"):
        known[module, "_frombuffer"] = _frombuffer
    for module in ("builtins", "__builtin__"):
        known |= {(module, "slice"): slice, (module, "bytearray"): _bytes, (module, "object"): _Class("object")}
    for module in ("copyreg", "copy_reg"):
        known[module, "_reconstructor"] = _reconstructor
    return known


class _Reader(pickle.Unpickler):
    """An unpickler that knows the closed list alone."""

    _KNOWN = _known()

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        """Returns a stand-in; refuses every name that is not on the list."""
        found = self._KNOWN.get((module, name))
        if found is None:
            raise pickle.UnpicklingError(f"the file names {module}.{name}, which is not part of a table")
        return found  # type: ignore[no-any-return]

    def persistent_load(self, pid: Any) -> Any:
        """Refuses references to things outside the file."""
        raise pickle.UnpicklingError("the file refers to something outside itself")


def read_pickled_table(path: str | Path) -> list[dict[str, Any]]:
    """Returns the rows of a pickled DataFrame, the index as a column of its name (`index` without one).

    Raises:
        InputError: The file is missing, is no pickled DataFrame, or asks for anything but one.
    """
    try:
        with open(path, "rb") as stream:
            content = _Reader(stream, encoding="latin1").load()
        if not isinstance(content, _Frame):
            raise pickle.UnpicklingError("not a DataFrame")
        return _rows(content)
    except FileNotFoundError:
        raise InputError("file not found", file=path, mend="fetch the annotations or correct the path") from None
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        raise InputError(
            f"not readable as a pickled table without running it ({str(error)[:160]})", file=path, mend=_MEND
        ) from None


def _rows(frame: _Frame) -> list[dict[str, Any]]:
    state = frame.state
    manager: Any = state.get("_mgr", state.get("_data")) if isinstance(state, dict) else state
    axes, blocks = _axes_and_blocks(manager)
    names, index = _labels(axes[0]), _labels(axes[1])
    columns: dict[int, list[Any]] = {}
    for block in blocks:
        places = block["mgr_locs"]
        values = _plain(block["values"])
        places = range(*places.indices(len(names))) if isinstance(places, slice) else _plain(places)
        if isinstance(values, list):
            values = [values]
        for place, column in zip(places, values, strict=True):
            columns[int(place)] = column.tolist() if isinstance(column, np.ndarray) else list(column)
    if sorted(columns) != list(range(len(names))) or any(len(column) != len(index) for column in columns.values()):
        raise pickle.UnpicklingError("columns are missing or of different lengths")
    head = str(axes[1][2] or "index")
    ordered = [(str(name), columns[place]) for place, name in enumerate(names)]
    return [{head: label, **{name: column[n] for name, column in ordered}} for n, label in enumerate(index)]


def _axes_and_blocks(manager: _Manager) -> tuple[Any, Any]:
    if manager.arguments:  # pandas 1.3 and later: BlockManager(blocks, axes)
        blocks, axes, *_ = manager.arguments
        return axes, blocks
    state = manager.state[3][_ROUND]
    return state["axes"], state["blocks"]


def _plain(values: Any) -> Any:
    if isinstance(values, _Array):
        return values.array()
    if isinstance(values, _Strings):
        return values.state["_pa_array"] if "_pa_array" in values.state else values.state["_data"]
    return values


def _labels(axis: Any) -> list[Any]:
    kind, parts, _ = axis
    if kind == "RangeIndex":
        return list(range(parts["start"], parts["stop"], parts.get("step", 1)))
    found = _plain(parts["data"])
    return found.tolist() if isinstance(found, np.ndarray) else list(found)
