"""The parts of an archive, read one after the other as one stream."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class ArchivePart:
    """One part of an archive.

    Attributes:
        name: Shown in messages and kept in the journal.
        open: Makes the part available and returns its path; called when its bytes are needed.
        size: Bytes, if known before it is opened.
        release: Called when the part is no longer needed, e.g. to delete it; None keeps it.
    """

    name: str
    open: Callable[[], Path]
    size: int | None = None
    release: Callable[[], None] | None = None

    @classmethod
    def of(cls, path: Path, *, delete: bool = False) -> ArchivePart:
        """Returns the part a local file is; `delete` removes it once it was consumed."""
        return cls(
            path.name, lambda: path, path.stat().st_size, (lambda: path.unlink(missing_ok=True)) if delete else None
        )


class ConcatReader(io.RawIOBase):
    """The bytes of several parts, one after the other, from byte `start` on.

    A part is opened when its first byte is asked for, not earlier; parts that lie before `start` are never
    opened. `readinto` stops at the end of a part, `read` does not. Seeking needs the sizes of all parts.
    """

    def __init__(self, parts: Sequence[ArchivePart], start: int = 0) -> None:
        super().__init__()
        self.parts = list(parts)
        self.position = start
        self._stream: io.FileIO | None = None

    def readable(self) -> bool:
        """Says that reading is possible."""
        return True

    def seekable(self) -> bool:
        """Says whether all sizes are known."""
        return all(part.size is not None for part in self.parts)

    def measure(self) -> int:
        """Makes all parts available and returns the size of the whole."""
        for part in self.parts:
            if part.size is None:
                part.size = part.open().stat().st_size
        return sum(part.size or 0 for part in self.parts)

    def read(self, size: int = -1) -> bytes:
        """Returns exactly `size` bytes, fewer only at the end; all that is left if negative."""
        if size < 0:
            return self.readall()
        pieces = []
        while size > 0 and (piece := super().read(size)):
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def tell(self) -> int:
        """Returns the position in the whole stream."""
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to a position of the whole stream."""
        total = sum(part.size or 0 for part in self.parts)
        self.position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: total}[whence]
        self._leave()
        return self.position

    def read_once(self, size: int) -> bytes:
        """Returns at least one and at most `size` bytes, all of one part; none at the end."""
        return super().read(size) or b""

    def rewind(self, head: bytes) -> None:
        """Goes back by what was just read, which the first part must still hold."""
        self.position -= len(head)
        self._leave()

    def readinto(self, buffer: Any) -> int:
        """Reads into `buffer`; returns the number of bytes, 0 at the end."""
        view = memoryview(buffer)
        while self._enter():
            assert self._stream is not None
            count = self._stream.readinto(view)
            if count:
                self.position += count
                return count
            self._leave()
        return 0

    def close(self) -> None:
        """Closes the part that is open."""
        self._leave()
        super().close()

    def ends(self) -> list[int]:
        """Returns where each part of known size ends, up to the first of unknown size."""
        found, total = [], 0
        for part in self.parts:
            if part.size is None:
                break
            total += part.size
            found.append(total)
        return found

    def _leave(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _enter(self) -> bool:
        if self._stream is not None:
            return True
        origin = 0
        for part in self.parts:
            if part.size is None or origin + part.size > self.position:
                path = part.open()
                part.size = path.stat().st_size
                if origin + part.size > self.position:
                    self._stream = io.FileIO(path, "rb")
                    self._stream.seek(self.position - origin)
                    return True
            origin += part.size
        return False
