"""The part of a download that has arrived: bytes on disk, and a note of how many of them are durable."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from sightline.records.files import fsync_directory, to_json

# With what was under way when the process died, a restart fetches at most 8 MiB again.
COMMIT_BYTES = 4 << 20
_READ_BYTES = 1 << 20


class Partial:
    """`<target>.partial` and its note `<target>.partial.json`, open for appending.

    On opening, bytes beyond the durable ones are cut off and the rest is read once, for its CRC-32 (against
    the note) and its running SHA-256. A note of another address or a wrong CRC starts from nothing.

    Attributes:
        offset: Bytes that are here.
        received: Bytes that came over the network since opening.
        restarts: How often the download began anew since opening.
        total: Size the server announced, if any.
        etag, last_modified: What identifies the server's version of the file.
    """

    def __init__(self, target: Path, url: str) -> None:
        self.path = target.with_name(f"{target.name}.partial")
        self.note = target.with_name(f"{target.name}.partial.json")
        self.url = url
        self.received = self.restarts = 0
        self.total: int | None = None
        self.etag: str | None = None
        self.last_modified: str | None = None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.offset = self._durable = self._crc = 0
        self._sha256 = hashlib.sha256()
        self._take_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @property
    def validator(self) -> str | None:
        """What to send as If-Range: a strong ETag, else the date of last change."""
        if self.etag and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified

    def describe(self, total: int | None, etag: str | None, last_modified: str | None) -> None:
        """Notes which version of the file the server sends from its beginning."""
        self.total, self.etag, self.last_modified = total, etag, last_modified

    def append(self, chunk: bytes) -> None:
        """Writes bytes at the end; every few MiB they are made durable."""
        view = memoryview(chunk)
        while view:
            view = view[os.pwrite(self._descriptor, view, self.offset + len(chunk) - len(view)) :]
        self.offset += len(chunk)
        self.received += len(chunk)
        self._crc = zlib.crc32(chunk, self._crc)
        self._sha256.update(chunk)
        if self.offset - self._durable >= COMMIT_BYTES:
            self.commit()

    def commit(self) -> None:
        """Makes all bytes durable and notes how many they are."""
        if self.offset == self._durable:
            return
        os.fdatasync(self._descriptor)
        self._durable = self.offset
        row = {
            "url": self.url,
            "durable": self.offset,
            "crc32": self._crc,
            "total": self.total,
            "etag": self.etag,
            "last_modified": self.last_modified,
        }
        # Renamed without fsync: the CRC tells a note that does not fit the bytes, whatever a crash left.
        temporary = self.note.with_name(f".{self.note.name}.part")
        temporary.write_text(to_json(row), encoding="utf-8")
        os.replace(temporary, self.note)

    def restart(self) -> None:
        """Throws away what is here."""
        self.restarts += 1
        self._discard()

    def digest(self) -> str:
        """Returns the SHA-256 of the bytes that are here."""
        return self._sha256.hexdigest()

    def finish(self, target: Path) -> tuple[int, str]:
        """Moves the bytes to their final name; returns size and SHA-256."""
        os.ftruncate(self._descriptor, self.offset)
        os.fsync(self._descriptor)
        os.replace(self.path, target)
        fsync_directory(target.parent)
        self.note.unlink(missing_ok=True)
        return self.offset, self.digest()

    def _begin(self, offset: int, crc: int, sha256: Any) -> None:
        self.offset = self._durable = offset
        self._crc, self._sha256 = crc, sha256

    def _discard(self) -> None:
        os.ftruncate(self._descriptor, 0)
        with suppress(FileNotFoundError):
            self.note.unlink()
        self.total = self.etag = self.last_modified = None
        self._begin(0, 0, hashlib.sha256())

    def _take_up(self) -> None:
        try:
            row = json.loads(self.note.read_text(encoding="utf-8"))
            durable, expected, url = int(row["durable"]), int(row["crc32"]), row["url"]
            self.total, self.etag, self.last_modified = row["total"], row["etag"], row["last_modified"]
        except (OSError, ValueError, KeyError, TypeError):
            self._discard()
            return
        crc, sha256, position = 0, hashlib.sha256(), 0
        while position < durable and (chunk := os.pread(self._descriptor, _READ_BYTES, position)):
            chunk = chunk[: durable - position]
            crc = zlib.crc32(chunk, crc)
            sha256.update(chunk)
            position += len(chunk)
        if url != self.url or position != durable or crc != expected:
            self._discard()
            return
        os.ftruncate(self._descriptor, durable)
        self._begin(durable, crc, sha256)
