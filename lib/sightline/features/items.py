"""What one stored item is: its arrays' shapes, chunks, checksums and the digest of its values.

Chunk sizes, checksums and digests are decided here, so that no backend can differ in them.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from sightline.errors import NonFiniteError, StoreError
from sightline.records.files import to_json
from sightline.records.types import is_slug

CHUNK_BYTES = 1 << 20
MEND = "run the stage that writes this store again: it checks every item and recomputes only the damaged one"


class DamagedError(StoreError):
    """Stored bytes are not those that were written; the item or the file can be set aside and made again."""


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """What is known of one array without reading it.

    Attributes:
        shape: Shape; the first axis is the row axis.
        dtype: NumPy type string, little endian, e.g. `<f4`.
        chunk_rows: Rows per chunk; the last chunk may be shorter.
        crc32: CRC-32 of each chunk's raw bytes.
    """

    shape: tuple[int, ...]
    dtype: str
    chunk_rows: int
    crc32: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Length of the first axis; 1 for an array without axes."""
        return self.shape[0] if self.shape else 1

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class FeatureInfo:
    """What is known of one key.

    Attributes:
        key: The content key (a slug).
        arrays: Array name to its description.
        meta: What the writer noted; it describes and never decides whether two items are equal.
        digest: SHA-256 over sorted names, types, shapes and raw bytes; the same in every backend.
    """

    key: str
    arrays: dict[str, ArrayInfo]
    meta: dict[str, Any]
    digest: str

    def to_json(self) -> dict[str, Any]:
        """Returns the description as a JSON object."""
        arrays = {
            name: {
                "shape": list(one.shape),
                "dtype": one.dtype,
                "chunk_rows": one.chunk_rows,
                "crc32": list(one.crc32),
            }
            for name, one in self.arrays.items()
        }
        return {"key": self.key, "arrays": arrays, "meta": self.meta, "digest": self.digest}

    @classmethod
    def from_json(cls, row: Any, *, file: str | Path | None = None) -> Self:
        """Builds the description from a JSON object.

        Raises:
            DamagedError: The object does not have the fields of a description.
        """
        try:
            arrays = {
                str(name): ArrayInfo(
                    tuple(int(size) for size in one["shape"]),
                    np.dtype(one["dtype"]).str,
                    int(one["chunk_rows"]),
                    tuple(int(crc) for crc in one["crc32"]),
                )
                for name, one in row["arrays"].items()
            }
            return cls(str(row["key"]), arrays, dict(row["meta"]), str(row["digest"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamagedError(f"description of an item is damaged ({error!r})", file=file, mend=MEND) from None


def raw_bytes(rows: np.ndarray) -> memoryview:
    """Returns the bytes of an array as they are stored."""
    return np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data


def _header(name: str, shape: tuple[int, ...], dtype: str) -> bytes:
    return to_json([name, dtype, list(shape)]).encode() + b"\n"


def digest_of(items: Iterable[tuple[str, ArrayInfo, np.ndarray]]) -> str:
    """Returns the SHA-256 over sorted names, types, shapes and raw bytes."""
    digest = hashlib.sha256()
    for name, one, array in sorted(items, key=lambda item: item[0]):
        digest.update(_header(name, one.shape, one.dtype))
        digest.update(raw_bytes(array))
    return digest.hexdigest()


def _ready(key: str, name: str, array: Any, file: str | Path | None) -> np.ndarray:
    value = np.asarray(array, order="C")
    if not is_slug(name) or len(name) > 100:
        raise StoreError(
            f"array name {name!r} is not a slug of at most 100 characters", file=file, item=key,
            mend="use letters, digits, '.', '_' and '-'",
        )  # fmt: skip
    if value.dtype.kind not in "fiub" or value.dtype.itemsize > 8:
        raise StoreError(
            f"type {value.dtype} cannot be stored", file=file, item=key, field=name,
            mend="store float16, float32, float64, integers or booleans",
        )  # fmt: skip
    return value.astype(value.dtype.newbyteorder("<"), copy=False)


def describe(
    key: str,
    arrays: Mapping[str, np.ndarray],
    meta: Mapping[str, Any] | None = None,
    *,
    file: str | Path | None = None,
) -> tuple[FeatureInfo, dict[str, np.ndarray]]:
    """Checks one item and computes its chunks, checksums and digest in one pass over the bytes.

    Returns:
        The description, and the arrays as they are stored: C order, little endian.

    Raises:
        NonFiniteError: NaN or infinity; names key and array.
        StoreError: Key, name, type or meta cannot be stored.
    """
    if not is_slug(key):
        raise StoreError("key is not a slug", file=file, item=repr(key)[:80], mend="use a content key")
    if not arrays:
        raise StoreError("nothing to store", file=file, item=key, mend="give at least one array")
    try:
        notes = json.loads(to_json(dict(meta or {})))
    except (TypeError, ValueError) as error:
        raise StoreError(f"meta is not JSON ({error})", file=file, item=key, mend="use plain values") from None
    digest, infos, ready = hashlib.sha256(), {}, {}
    for name in sorted(arrays):
        value = ready[name] = _ready(key, name, arrays[name], file)
        rows = value.reshape(1) if value.ndim == 0 else value
        row_bytes = rows[:1].nbytes if len(rows) else math.prod(rows.shape[1:]) * rows.itemsize
        chunk_rows = max(1, CHUNK_BYTES // max(1, row_bytes))
        digest.update(_header(name, value.shape, value.dtype.str))
        checksums = []
        for start in range(0, len(rows), chunk_rows):
            chunk = rows[start : start + chunk_rows]
            if value.dtype.kind == "f" and not np.isfinite(chunk).all():
                bad = start + int(np.argmax(~np.isfinite(chunk).reshape(len(chunk), -1).all(axis=1)))
                raise NonFiniteError(
                    f"NaN or infinity in row {bad}", file=file, item=key, field=name,
                    mend="look at the input of this item; nothing was stored",
                )  # fmt: skip
            raw = raw_bytes(chunk)
            checksums.append(zlib.crc32(raw))
            digest.update(raw)
        infos[name] = ArrayInfo(value.shape, value.dtype.str, chunk_rows, tuple(checksums))
    return FeatureInfo(key, infos, notes, digest.hexdigest()), ready
