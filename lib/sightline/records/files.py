"""Whole files or none: temporary name, fsync, rename; and the digests that say what a file holds."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sightline.errors import InputError

_CHUNK_BYTES = 1 << 20


def fsync_directory(folder: Path) -> None:
    """Makes a rename inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def whole_file(target: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `target` and moves it into place when the block ends well.

    The target is either absent, the old file, or the complete new one, whatever kills the process.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name[:80]}.", suffix=".part", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
        fsync_directory(target.parent)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise


def write_bytes(target: str | Path, data: bytes) -> None:
    """Writes `data` to `target` as a whole."""
    with whole_file(target) as temporary:
        temporary.write_bytes(data)


def write_text(target: str | Path, text: str) -> None:
    """Writes UTF-8 `text` to `target` as a whole."""
    write_bytes(target, text.encode("utf-8"))


_COMPACT = json.JSONEncoder(ensure_ascii=False, sort_keys=True, allow_nan=False, separators=(",", ":"))
_INDENTED = json.JSONEncoder(ensure_ascii=False, sort_keys=True, allow_nan=False, indent=2)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not valid JSON")


_STRICT = json.JSONDecoder(parse_constant=_refuse_constant)


def to_json(value: Any) -> str:
    """Returns strict JSON (no NaN) on one line with sorted keys, so that equal values give equal bytes."""
    return _COMPACT.encode(value)


def from_json(text: str) -> Any:
    """Parses strict JSON; NaN and Infinity raise ValueError, as every syntax error does."""
    return _STRICT.decode(text)


def write_json(target: str | Path, value: Any) -> None:
    """Writes `value` as indented strict JSON with sorted keys."""
    write_text(target, _INDENTED.encode(value) + "\n")


def read_json(path: str | Path, *, mend: str | None = None) -> Any:
    """Reads one JSON document; NaN literals, byte-order marks and syntax errors are refused clearly.

    Raises:
        InputError: The file is missing, is not UTF-8 JSON or holds a NaN or Infinity literal.
    """
    try:
        return from_json(Path(path).read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise InputError("file not found", file=path, mend=mend or "create it or correct the path") from None
    except IsADirectoryError:
        raise InputError("a folder stands where a JSON file is expected", file=path, mend=mend) from None
    except (UnicodeDecodeError, ValueError) as error:
        raise InputError(f"not valid JSON ({error})", file=path, mend=mend or "fetch or write the file again") from None


def sha256_file(path: str | Path) -> str:
    """Returns the SHA-256 of a file as hexadecimal text."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_key(*parts: Any) -> str:
    """Returns a 32-digit hexadecimal key of JSON-serialisable parts; equal content, equal key."""
    return key_of_text(to_json(list(parts)))


def key_of_text(text: str) -> str:
    """Returns the content key of parts that are canonical JSON text already."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]


def copy_chunks(source: Any, sink: Any, digest: Any = None) -> int:
    """Copies a binary stream in 1 MiB chunks, feeding `digest`; returns the number of bytes."""
    total = 0
    while chunk := source.read(_CHUNK_BYTES):
        sink.write(chunk)
        if digest is not None:
            digest.update(chunk)
        total += len(chunk)
    return total
