"""What unpacking any archive needs: safe names, caps on bytes and files, hashed writes, and the journal."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Self

from sightline.errors import AssetError, InputError
from sightline.records.files import read_json, write_json

MAX_BYTES = 1 << 40
MAX_FILES = 5_000_000
MAX_RATIO = 200  # unpacked over packed bytes, beyond a GiB
FETCH_AGAIN = "fetch the archive again"
DO_NOT_USE = "do not use this archive; if you trust it, unpack it yourself and name the folder under local_assets"
_FREE_BYTES = 1 << 30
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class UnpackedFile:
    """One file of the content: path below the root with '/', size in bytes, SHA-256."""

    path: str
    size: int
    sha256: str


def safe_name(name: str, archive: str) -> str:
    """Returns a member's name below the root with '/', without '.' parts; empty for the root itself.

    Raises:
        AssetError: The name is absolute, leaves the folder, or cannot be a file name.
    """
    path = PurePosixPath(name)
    windows = "\\" in name or (len(name) > 1 and name[1] == ":")
    if path.is_absolute() or ".." in path.parts or "\0" in name or windows:
        raise AssetError("a name leads out of the folder", file=archive, item=repr(name)[:120], mend=DO_NOT_USE)
    return "/".join(path.parts)


class Limits:
    """Counts bytes and files of one archive against the caps.

    Args:
        archive: Name for messages.
        max_bytes: Most bytes to unpack.
        max_files: Most files to unpack.
    """

    def __init__(self, archive: str, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES) -> None:
        self.archive, self.max_bytes, self.max_files = archive, max_bytes, max_files
        self.bytes = self.files = 0

    def packed(self, size: int) -> None:
        """Lowers the cap for a compressed archive of `size` bytes."""
        self.max_bytes = min(self.max_bytes, _FREE_BYTES + MAX_RATIO * size)

    def count_file(self, member: str) -> None:
        """Counts one file; AssetError beyond the cap."""
        self.files += 1
        if self.files > self.max_files:
            raise AssetError(f"more than {self.max_files} files", file=self.archive, item=member, mend=DO_NOT_USE)

    def count_bytes(self, count: int, member: str) -> None:
        """Counts bytes about to be written; AssetError beyond the cap."""
        self.bytes += count
        if self.bytes > self.max_bytes:
            problem = f"unpacks to more than {self.max_bytes} bytes"
            raise AssetError(problem, file=self.archive, item=member, mend=DO_NOT_USE)


class Journal:
    """What of an archive is durably unpacked: finished files, the one under way, and the position.

    Attributes:
        folder: Where files are unpacked before the folder gets its name.
        offset: Position in the archive's bytes from which to go on.
        sizes: Sizes of the parts that lie before the position, in order, and possibly of more.
        current: Path, size and written bytes of the file under way.
        finished: The folder has its name and `files` is the full list.
    """

    def __init__(self, target: Path, names: list[str]) -> None:
        self.path = target.with_name(f"{target.name}.journal.json")
        self.folder = target.with_name(f"{target.name}.unpacking")
        self.names = names
        self.offset = 0
        self.sizes: list[int] = []
        self.files: dict[str, UnpackedFile] = {}
        self.current: dict[str, Any] | None = None
        self.finished = False

    @classmethod
    def load(cls, target: Path, names: list[str]) -> Self:
        """Takes up the journal of a killed run if it fits these parts and its folder, else begins a new one."""
        journal = cls(target, names)
        try:
            row = read_json(journal.path)
            files = {one["path"]: UnpackedFile(**one) for one in row["files"]}
            offset, sizes, current = int(row["offset"]), list(row["sizes"]), row["current"]
            finished = bool(row["finished"])
            fits = row["names"] == names and (target if finished else journal.folder).is_dir()
        except (InputError, KeyError, TypeError, ValueError):
            return journal
        if fits:
            journal.offset, journal.sizes, journal.files = offset, sizes, files
            journal.current, journal.finished = current, finished
        return journal

    def start(self) -> None:
        """Begins with an empty folder."""
        self.path.unlink(missing_ok=True)
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)

    def save(self) -> None:
        """Writes the journal, whole."""
        row = {
            "names": self.names,
            "offset": self.offset,
            "sizes": self.sizes,
            "files": [asdict(one) for one in self.listing()],
            "current": self.current,
            "finished": self.finished,
        }
        write_json(self.path, row)

    def listing(self) -> list[UnpackedFile]:
        """Returns the finished files, sorted by path."""
        return [self.files[path] for path in sorted(self.files)]


class MemberWriter:
    """Writes one member, counting and hashing; goes on where an earlier run stopped.

    Args:
        journal: The journal of the archive.
        limits: Caps to count against.
        path: Safe name of the member.
        written: Bytes an earlier run made durable.
    """

    def __init__(self, journal: Journal, limits: Limits, path: str, written: int = 0) -> None:
        self.journal, self.limits, self.path = journal, limits, path
        self.written = 0
        self._digest = hashlib.sha256()
        limits.count_file(path)
        target = journal.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        self._stream = open(target, "r+b" if written else "wb", buffering=0)  # noqa: SIM115 - see close
        while self.written < written:
            self._note(self._stream.read(min(_READ_BYTES, written - self.written)))
        self._stream.truncate(written)

    def copy(self, read: Callable[[int], bytes], size: int, after: Callable[[int], None]) -> None:
        """Copies until the member has `size` bytes; calls `after` with the bytes written, after each chunk.

        Raises:
            EOFError: The source ends early.
        """
        while self.written < size:
            chunk = read(min(_READ_BYTES, size - self.written))
            self._note(chunk)
            view = memoryview(chunk)
            while view:
                view = view[self._stream.write(view) :]
            after(self.written)

    def close(self) -> None:
        """Closes the file and lists it as finished."""
        self._stream.close()
        self.journal.files[self.path] = UnpackedFile(self.path, self.written, self._digest.hexdigest())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.close()
        else:
            self._stream.close()

    def _note(self, chunk: bytes) -> None:
        if not chunk:
            raise EOFError(f"ends inside {self.path}")
        self.limits.count_bytes(len(chunk), self.path)
        self._digest.update(chunk)
        self.written += len(chunk)


def make_folder(journal: Journal, path: str) -> None:
    """Makes a folder of the archive."""
    os.makedirs(journal.folder / path, exist_ok=True)
