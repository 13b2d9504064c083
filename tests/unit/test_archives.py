"""Archives: nothing outside the folder, nothing half, and no more disk than the content and one part."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import stat
import tarfile
import zipfile

import pytest
from sightline.assets import archives
from sightline.assets.archive_parts import ArchivePart, ConcatReader
from sightline.assets.archives import forget_journal, unpack
from sightline.errors import AssetError

CONTENT = {
    "top/a.txt": b"alpha",
    "top/empty.bin": b"",
    "top/deep/b.bin": bytes(range(256)) * 300,
    "top/exactly_one_block.bin": b"x" * 512,
    "top/" + "long" * 40 + "/ünicode.txt": "ü".encode() * 700,
}


def tar_bytes(content=CONTENT, mode="w", members=(), form=tarfile.PAX_FORMAT):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode, format=form) as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in members:
            archive.addfile(info)
    return stream.getvalue()


def zip_bytes(content=CONTENT, members=()):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("top/", b"")
        for name, data in content.items():
            archive.writestr(name, data)
        for info, data in members:
            archive.writestr(info, data)
    return stream.getvalue()


def split(folder, data, count, name="archive.tar.gz"):
    folder.mkdir(parents=True, exist_ok=True)
    step = -(-len(data) // count)
    paths = []
    for number in range(count):
        paths.append(folder / (f"{name}.a{chr(97 + number)}" if count > 1 else name))
        paths[-1].write_bytes(data[number * step : (number + 1) * step])
    return paths


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refuse(tmp_path, data, words, **limits):
    (path,) = split(tmp_path / "in", data, 1, "evil.tar")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(AssetError, match=words):
        unpack([ArchivePart.of(path)], tmp_path / "out" / "content", **limits)
    assert not (tmp_path / "out" / "content").exists()
    outside = [
        path for path in tmp_path.rglob("*")
        if path.is_file() and path not in before and "content.unpacking" not in path.parts
    ]  # fmt: skip
    assert outside == []
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("parts", [1, 2, 7])
@pytest.mark.parametrize(
    "pack",
    [
        pytest.param(tar_bytes, id="plain-tar-named-gz"),
        pytest.param(lambda: tar_bytes(form=tarfile.GNU_FORMAT), id="gnu"),
        pytest.param(lambda: gzip.compress(tar_bytes()), id="gz"),
        pytest.param(lambda: bz2.compress(tar_bytes()), id="bz2"),
        pytest.param(lambda: lzma.compress(tar_bytes()), id="xz"),
        pytest.param(zip_bytes, id="zip"),
    ],
)
def test_all_forms_unpack_to_the_same_files(tmp_path, pack, parts):
    paths = split(tmp_path, pack(), parts)
    found = unpack([ArchivePart.of(path) for path in paths], tmp_path / "content")
    assert tree(tmp_path / "content") == CONTENT
    assert [(one.path, one.size, one.sha256) for one in found] == [
        (name, len(data), hashlib.sha256(data).hexdigest()) for name, data in sorted(CONTENT.items())
    ]
    assert all(path.exists() for path in paths)
    assert not (tmp_path / "content.unpacking").exists()


@pytest.mark.parametrize("name", ["../out.txt", "/tmp/out.txt", "a/../../out.txt", "..\\out.txt", "C:out.txt"])
@pytest.mark.parametrize("pack", [tar_bytes, zip_bytes])
def test_names_that_leave_the_folder_are_refused(tmp_path, name, pack):
    refuse(tmp_path, pack({"good.txt": b"1", name: b"evil"}), "leads out of the folder.*do not use this archive")


@pytest.mark.parametrize(
    ("kind", "link", "words"),
    [
        (tarfile.SYMTYPE, "/etc/passwd", "a member is a link"),
        (tarfile.SYMTYPE, "good.txt", "a member is a link"),
        (tarfile.LNKTYPE, "good.txt", "a member is a link"),
        (tarfile.CHRTYPE, "", "a member is neither a file nor a folder"),
        (tarfile.BLKTYPE, "", "a member is neither a file nor a folder"),
        (tarfile.FIFOTYPE, "", "a member is neither a file nor a folder"),
    ],
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind, link, words):
    member = tarfile.TarInfo("inner")
    member.type, member.linkname = kind, link
    refuse(tmp_path, tar_bytes({"good.txt": b"1"}, members=[member]), rf"item inner: {words}")


def test_links_in_a_zip_are_refused(tmp_path):
    member = zipfile.ZipInfo("inner")
    member.create_system, member.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    refuse(tmp_path, zip_bytes(members=[(member, b"/etc/passwd")]), r"item inner: a member is a link")


def test_a_link_followed_by_a_file_through_it_writes_nothing_outside(tmp_path):
    link = tarfile.TarInfo("door")
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
    through = tarfile.TarInfo("door/evil.txt")
    refuse(tmp_path, tar_bytes({}, members=[link, through]), "a link")


@pytest.mark.parametrize("pack", [tar_bytes, lambda content: gzip.compress(tar_bytes(content)), zip_bytes])
def test_more_bytes_or_files_than_allowed_are_refused(tmp_path, pack):
    data = pack({f"f{number}": bytes(100_000) for number in range(5)})
    refuse(tmp_path / "a", data, "unpacks to more than 300000 bytes", max_bytes=300_000)
    refuse(tmp_path / "b", data, "more than 3 files", max_files=3)


def test_a_bomb_is_held_to_the_ratio(tmp_path, monkeypatch):
    monkeypatch.setattr("sightline.assets.unpacking._FREE_BYTES", 1 << 20)
    bomb = gzip.compress(tar_bytes({"zeros": bytes(20 << 20)}))
    refuse(tmp_path / "gz", bomb, r"item zeros: unpacks to more than \d+ bytes")
    refuse(tmp_path / "zip", zip_bytes({"zeros": bytes(20 << 20)}), r"item zeros: unpacks to more than \d+ bytes")


@pytest.mark.parametrize("where", ["data", "header", "at_header", "no_end"])
def test_a_plain_tar_that_breaks_off_is_found(tmp_path, where):
    data = tar_bytes({"a": b"1" * 1000, "b": b"2" * 1000}, form=tarfile.USTAR_FORMAT)
    cut = {"data": 1536 + 600, "header": 1536 + 100, "at_header": 1536, "no_end": 3072}[where]
    refuse(tmp_path, data[:cut], "archive is damaged.*fetch the archive again")


def test_damage_inside_is_found(tmp_path):
    data = bytearray(tar_bytes({"a": b"1" * 1000, "b": b"2" * 1000}, form=tarfile.USTAR_FORMAT))
    data[1536 + 20] ^= 1  # second header
    refuse(tmp_path / "tar", bytes(data), "a header is wrong")
    packed = bytearray(gzip.compress(tar_bytes({"a": os.urandom(5000)})))
    packed[3000] ^= 1
    refuse(tmp_path / "gz", bytes(packed), "archive is damaged")
    refuse(tmp_path / "cut", gzip.compress(tar_bytes())[:-10], "archive is damaged")
    zipped = bytearray(zip_bytes({"a": os.urandom(5000)}))
    zipped[3000] ^= 1
    refuse(tmp_path / "zip", bytes(zipped), "archive is damaged")
    refuse(tmp_path / "page", b"<!doctype html><html>" + b" " * 1000, "archive is damaged")
    refuse(tmp_path / "nothing", b"", "archive is damaged")


def test_a_file_where_a_folder_must_be_is_an_error(tmp_path):
    refuse(tmp_path, tar_bytes({"a": b"1", "a/b": b"2"}), "cannot be unpacked")


def lazy_parts(folder, data, count, watch):
    """Parts that come into being when they are asked for, as downloads do."""
    step = -(-len(data) // count)
    parts = []
    for number in range(count):
        path = folder / f"part{number}"

        def bring(path=path, number=number):
            if not path.exists():
                watch("bring", number)
                path.write_bytes(data[number * step : (number + 1) * step])
                watch("brought", number)
            return path

        parts.append(ArchivePart(path.name, bring, None, lambda path=path: path.unlink(missing_ok=True)))
    return parts


def test_peak_disk_of_a_multi_part_tar_is_the_content_and_one_part(tmp_path):
    big = {"top/state.bin": os.urandom(3_000_000), "top/other.bin": os.urandom(1_000_000), "top/a.txt": b"1"}
    data, count = tar_bytes(big), 8
    (tmp_path / "parts").mkdir()
    peak = []

    def watch(_what, _number):
        peak.append(sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()))

    unpack(lazy_parts(tmp_path / "parts", data, count, watch), tmp_path / "content")
    assert tree(tmp_path / "content") == big
    assert list((tmp_path / "parts").iterdir()) == []
    assert len(peak) == 2 * count
    assert max(peak) <= len(data) + len(data) // count + 20_000  # content, one part, the journal


def test_killed_in_any_part_goes_on_without_the_parts_it_consumed(tmp_path):
    big = {f"top/{name}.bin": os.urandom(size) for name, size in [("s", 900_000), ("t", 1000), ("u", 400_000)]}
    data, count = tar_bytes(big), 6
    brought = []

    class Killed(BaseException):
        pass

    for last in range(1, count):
        folder = tmp_path / str(last)
        (folder / "parts").mkdir(parents=True)
        brought.clear()

        def watch(what, number, last=last):
            if what == "bring":
                if number == last and brought.count(number) == 0:
                    brought.append(number)
                    raise Killed
                brought.append(number)

        parts = lazy_parts(folder / "parts", data, count, watch)
        with pytest.raises(Killed):
            unpack(parts, folder / "content")
        under_way = json.loads((folder / "content.journal.json").read_text())["current"]
        with (folder / "content.unpacking" / under_way["path"]).open("ab") as stream:
            stream.write(b"not durable")
        found = unpack(lazy_parts(folder / "parts", data, count, watch), folder / "content")
        assert sorted(brought) == sorted([*range(count), last])  # no part was brought twice, but for the refused one
        assert tree(folder / "content") == big
        assert {one.path: one.sha256 for one in found} == {
            name: hashlib.sha256(value).hexdigest() for name, value in big.items()
        }


def test_the_list_survives_until_it_is_noted(tmp_path):
    (path,) = split(tmp_path, tar_bytes(), 1)
    first = unpack([ArchivePart.of(path, delete=True)], tmp_path / "content")
    assert not path.exists()

    def never():
        raise AssertionError("nothing is left to open")

    again = unpack([ArchivePart(path.name, never)], tmp_path / "content")
    assert again == first
    forget_journal(tmp_path / "content")
    with pytest.raises(AssertionError):
        unpack([ArchivePart(path.name, never)], tmp_path / "content")


def test_an_archive_of_other_parts_starts_anew(tmp_path):
    (path,) = split(tmp_path, tar_bytes({"old.txt": b"1"}), 1, "old.tar")
    unpack([ArchivePart.of(path)], tmp_path / "content")
    (path,) = split(tmp_path, tar_bytes({"new.txt": b"2"}), 1, "new.tar")
    unpack([ArchivePart.of(path)], tmp_path / "content")
    assert tree(tmp_path / "content") == {"new.txt": b"2"}


def test_concatenated_parts_read_and_seek_like_one_file(tmp_path):
    data = os.urandom(10_000)
    paths = split(tmp_path, data, 7)
    with ConcatReader([ArchivePart.of(path) for path in paths]) as reader:
        assert reader.read(5000) == data[:5000]
        assert reader.tell() == 5000
        assert reader.seek(-3000, os.SEEK_END) == 7000
        assert reader.read() == data[7000:]
        assert reader.seek(1) == 1
        assert len(reader.read_once(9999)) == len(data) // 7
    with ConcatReader([ArchivePart.of(path) for path in paths], start=9000) as reader:
        assert reader.read() == data[9000:]


def test_full_disk_says_so(tmp_path, monkeypatch):
    (path,) = split(tmp_path, tar_bytes(), 1)

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archives.MemberWriter, "copy", full)
    with pytest.raises(AssetError, match=r"No space left on device -> free disk space"):
        unpack([ArchivePart.of(path)], tmp_path / "content")
    assert not (tmp_path / "content").exists()
