"""Safe unpacking of tar and zip archives, also in parts, into a folder that appears whole or not at all.

A plain tar (whatever its name says) is unpacked with a journal: at the end of each part what was unpacked is
made durable and the part may be deleted, and a killed run goes on in the middle of a file. Peak disk is then
the content and one part. Compressed archives start anew after a kill, and keep their parts until the end.

Refused: names that leave the folder, absolute names, links, devices, encrypted members, and more bytes or
files than the caps allow. Links are refused altogether: none of the released files needs one.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, cast

from sightline.assets.archive_parts import ArchivePart, ConcatReader
from sightline.assets.unpacking import (
    DO_NOT_USE,
    FETCH_AGAIN,
    MAX_BYTES,
    MAX_FILES,
    Journal,
    Limits,
    MemberWriter,
    UnpackedFile,
    make_folder,
    safe_name,
)
from sightline.errors import AssetError
from sightline.records.files import fsync_directory

_BLOCK = tarfile.BLOCKSIZE
_BUFFER_BYTES = 1 << 20
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError)


def unpack(
    parts: Sequence[ArchivePart], target: str | Path, *, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES
) -> list[UnpackedFile]:
    """Unpacks an archive into the folder `target` and returns its files, sorted by path.

    The folder gets its name when all is there; an older one is replaced. `<target>.journal.json` holds the
    list until `forget_journal`, so a caller that was killed before it noted the result gets it again.

    Args:
        parts: The archive, in order.
        target: Folder to make.
        max_bytes: Most bytes to unpack; compressed archives are also held to a ratio.
        max_files: Most files to unpack.

    Raises:
        AssetError: The archive is damaged, unsafe, too large, or the disk is full; names archive and member.
    """
    target, archive = Path(target), parts[0].name
    journal = Journal.load(target, [part.name for part in parts])
    if not journal.finished:
        with ConcatReader(parts, journal.offset) as reader:
            for part, size in zip(reader.parts, journal.sizes, strict=False):
                part.size = size
            try:
                _unpack_stream(reader, journal, Limits(archive, max_bytes, max_files))
                if target.exists():
                    shutil.rmtree(target)
                os.sync()  # one call: making thousands of files durable one by one takes minutes
                os.replace(journal.folder, target)
                fsync_directory(target.parent)
            except _DAMAGED as error:
                raise AssetError(f"archive is damaged: {error}", file=archive, mend=FETCH_AGAIN) from None
            except OSError as error:
                raise _disk_error(error, archive) from None
        journal.finished = True
        journal.save()
    for part in parts:
        if part.release is not None:
            part.release()
    return journal.listing()


def forget_journal(target: str | Path) -> None:
    """Removes the journal of a folder whose list was noted elsewhere."""
    Journal(Path(target), []).path.unlink(missing_ok=True)


def _disk_error(error: OSError, archive: str) -> AssetError:
    if isinstance(error, gzip.BadGzipFile) or (error.errno is None and error.strerror is None):
        return AssetError(f"archive is damaged: {error}", file=archive, mend=FETCH_AGAIN)
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    mend = "free disk space and run again" if full else "look at the path and its permissions, then run again"
    return AssetError(f"cannot be unpacked: {error}", file=archive, mend=mend)


def _unpack_stream(reader: ConcatReader, journal: Journal, limits: Limits) -> None:
    if journal.offset:
        _Untar(reader, journal, limits, _Checkpoints(reader, journal)).run()
        return
    journal.start()
    head = reader.read(_BLOCK)
    openers: dict[bytes, Callable[[Any], Any]] = {
        b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
        b"BZh": bz2.BZ2File,
        b"\xfd7zXZ\0": lzma.LZMAFile,
    }
    opener = next((openers[magic] for magic in openers if head.startswith(magic)), None)
    if head.startswith(b"PK"):
        limits.packed(reader.measure())
        reader.seek(0)
        _unzip(reader, journal, limits)
    elif opener is not None:
        limits.packed(reader.measure())
        reader.seek(0)
        with io.BufferedReader(reader, _BUFFER_BYTES) as packed, opener(packed) as stream:
            _Untar(cast("IO[bytes]", stream), journal, limits).run()
            while stream.read(_BUFFER_BYTES):  # the checksum of the compressed stream comes last
                pass
    else:
        reader.rewind(head)
        _Untar(reader, journal, limits, _Checkpoints(reader, journal)).run()


class _Checkpoints:
    """Makes what was unpacked durable at the end of each part, then lets go of the part."""

    def __init__(self, reader: ConcatReader, journal: Journal) -> None:
        self.reader, self.journal = reader, journal
        self.released = 0

    def reached(self, position: int, current: dict[str, Any] | None) -> None:
        """Says that all before `position` is unpacked, with `current` under way."""
        ends = self.reader.ends()
        passed = sum(end <= position for end in ends)
        if passed <= self.released or len(self.reader.parts) == 1:
            return
        os.sync()
        self.journal.offset, self.journal.current = position, current
        self.journal.sizes = [part.size or 0 for part in self.reader.parts[: len(ends)]]
        self.journal.save()
        for part in self.reader.parts[self.released : passed]:
            if part.release is not None:
                part.release()
        self.released = passed


class _StrictTarInfo(tarfile.TarInfo):
    """Says so when an archive breaks off or a header is damaged, where tarfile would end in silence."""

    @classmethod
    def fromtarfile(cls, tarfile: Any) -> Any:
        try:
            return super().fromtarfile(tarfile)
        except _HeaderError as error:
            if isinstance(error, _EndOfArchive):
                raise
            raise EOFError(f"breaks off, or a header is wrong ({error})") from None


_HeaderError: Any = tarfile.HeaderError
_EndOfArchive: Any = tarfile.EOFHeaderError  # type: ignore[attr-defined]


class _Untar:
    """Unpacks a tar from a stream that is only read forward.

    Args:
        stream: The tar's bytes; for a plain tar the parts themselves.
        journal: Takes the files.
        limits: Caps.
        checkpoints: Told of progress; None for a compressed stream, whose state cannot be noted.
    """

    def __init__(
        self,
        stream: ConcatReader | IO[bytes],
        journal: Journal,
        limits: Limits,
        checkpoints: _Checkpoints | None = None,
    ) -> None:
        self.stream, self.journal, self.limits, self.checkpoints = stream, journal, limits, checkpoints
        for one in journal.files.values():
            limits.count_file(one.path)
            limits.count_bytes(one.size, one.path)

    def run(self) -> None:
        """Unpacks all members."""
        if self.journal.current is not None:
            current = self.journal.current
            self._file(current["path"], current["size"], current["written"])
            self.journal.current = None
        tar = tarfile.TarFile(fileobj=cast("IO[bytes]", self.stream), tarinfo=_StrictTarInfo)
        member: tarfile.TarInfo | None = tar.firstmember  # type: ignore[attr-defined]
        while member is not None:
            self._member(member)
            try:
                member = _StrictTarInfo.fromtarfile(tar)
            except _EndOfArchive:
                member = None

    def _member(self, member: tarfile.TarInfo) -> None:
        archive = self.limits.archive
        path = safe_name(member.name, archive)
        if not (member.isreg() or member.isdir()) or member.issparse():
            what = "a link" if member.issym() or member.islnk() else "neither a file nor a folder"
            raise AssetError(f"a member is {what}", file=archive, item=member.name[:120], mend=DO_NOT_USE)
        try:
            tarfile.data_filter(member, str(self.journal.folder))
        except tarfile.FilterError as error:
            raise AssetError(f"unsafe: {error}", file=archive, item=member.name[:120], mend=DO_NOT_USE) from None
        if member.isdir():
            make_folder(self.journal, path)
        else:
            self._file(path, member.size)

    def _file(self, path: str, size: int, written: int = 0) -> None:
        def after(count: int) -> None:
            if self.checkpoints is not None and count < size:
                self.checkpoints.reached(self.stream.tell(), {"path": path, "size": size, "written": count})

        # A plain read stops at the end of a part: the part is let go before the next one is needed.
        read = self.stream.read_once if isinstance(self.stream, ConcatReader) else self.stream.read
        with MemberWriter(self.journal, self.limits, path, written) as writer:
            writer.copy(read, size, after)
        padding = -size % _BLOCK
        if len(self.stream.read(padding)) < padding:
            raise EOFError(f"ends after {path}")
        if self.checkpoints is not None:
            self.checkpoints.reached(self.stream.tell(), None)


def _unzip(reader: ConcatReader, journal: Journal, limits: Limits) -> None:
    with io.BufferedReader(reader, _BUFFER_BYTES) as file, zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            path = safe_name(member.filename, limits.archive)
            kind = stat.S_IFMT(member.external_attr >> 16)
            problem = None
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                problem = "is a link" if kind == stat.S_IFLNK else "is neither a file nor a folder"
            elif member.flag_bits & 1:
                problem = "is encrypted"
            if problem is not None:
                raise AssetError(f"a member {problem}", file=limits.archive, item=path[:120], mend=DO_NOT_USE)
            if member.is_dir():
                make_folder(journal, path)
                continue
            try:
                with archive.open(member) as stream, MemberWriter(journal, limits, path) as writer:
                    writer.copy(stream.read, member.file_size, lambda _count: None)
                    stream.read(1)  # the CRC is compared at the end
            except NotImplementedError as error:
                raise AssetError(str(error), file=limits.archive, item=path[:120], mend=DO_NOT_USE) from None
