"""A folder packed as a release is published: one plain tar in numbered parts, and a list of them."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path
from typing import Any

from sightline.errors import InputError
from sightline.records.files import write_bytes, write_json

PARTS_FILE = "parts.json"


def pack_parts(root: str | Path, folder: str | Path, name: str, part_bytes: int) -> list[dict[str, Any]]:
    """Packs all files below `root` into a plain tar, cut into parts; `parts.json` is written last.

    Equal contents give equal bytes: owners, times and permissions of this machine are left out.

    Args:
        root: What is packed; paths in the tar are relative to it.
        folder: Gets `<name>.aa`, `.ab`, ... and `parts.json`; older parts there are replaced.
        name: File name of the whole archive.
        part_bytes: Size of every part but the last.

    Returns:
        Name, size in bytes and sha256 of each part, in order, as in `parts.json`.

    Raises:
        InputError: `part_bytes` is not positive or asks for too many parts.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    writer = _PartWriter(target, name, part_bytes)
    (target / PARTS_FILE).unlink(missing_ok=True)
    for stale in target.glob(f"{name}.*"):
        stale.unlink()
    with tarfile.open(fileobj=writer, mode="w|", format=tarfile.USTAR_FORMAT) as archive:  # type: ignore[call-overload]
        for path in sorted(Path(root).rglob("*")):
            archive.add(path, path.relative_to(root).as_posix(), recursive=False, filter=_plain)
    parts = writer.finish()
    write_json(target / PARTS_FILE, {"archive": name, "parts": parts})
    return parts


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Takes owner, time and permissions of this machine out of a header."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.isdir() else 0o644
    return member


class _PartWriter:
    """Cuts what is written to it into numbered files of equal size."""

    def __init__(self, folder: Path, name: str, part_bytes: int) -> None:
        if part_bytes < 1:
            raise InputError(f"a part of {part_bytes} bytes", field="part_bytes", mend="ask for at least 1 byte")
        self._folder, self._name, self._size = folder, name, part_bytes
        self._waiting = bytearray()
        self._parts: list[dict[str, Any]] = []

    def write(self, data: bytes) -> int:
        self._waiting += data
        while len(self._waiting) >= self._size:
            self._flush(self._size)
        return len(data)

    def finish(self) -> list[dict[str, Any]]:
        """Writes what is left and returns name, size and sha256 of all parts."""
        if self._waiting:
            self._flush(len(self._waiting))
        return self._parts

    def _flush(self, count: int) -> None:
        first, second = divmod(len(self._parts), 26)
        if first >= 26:
            raise InputError("more than 676 parts", field="part_bytes", mend="ask for larger parts")
        name = f"{self._name}.{chr(ord('a') + first)}{chr(ord('a') + second)}"
        part = bytes(self._waiting[:count])
        write_bytes(self._folder / name, part)
        self._parts.append({"name": name, "size": count, "sha256": hashlib.sha256(part).hexdigest()})
        del self._waiting[:count]
