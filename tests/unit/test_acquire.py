"""Assets: fetched or local, nested or not, killed and taken up again; the record is written last."""

import gzip
import hashlib
import io
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile

import pytest
from sightline.assets import acquire as acquiring
from sightline.assets.acquire import AssetSpec, Part, acquire, locate
from sightline.assets.fetch import Network
from sightline.errors import AssetError

from tests.unit.file_server import FileServer

QUICK = Network(backoff_s=0.001, attempts=3, timeout_s=5)
OFF = Network(allowed=False)
CONTENT = {
    "ckpts/state_dict.pth.tar": random.Random(1).randbytes(700_000),
    "ckpts/tokenizer.model": random.Random(2).randbytes(3000),
    "ckpts/notes/readme.txt": b"weights",
}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def tar_bytes(content=CONTENT):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def zip_bytes(content=CONTENT):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return stream.getvalue()


def cut(data, count):
    step = -(-len(data) // count)
    return [data[at : at + step] for at in range(0, len(data), step)]


def spec(*parts, kind="tar", requires=("state_dict.pth.tar",), **more):
    return AssetSpec(id="weights", title="the weights", parts=tuple(parts), kind=kind, requires=requires, **more)


def serve_parts(server, data, count, name="weights.tar.gz"):
    parts = []
    for number, piece in enumerate(cut(data, count)):
        part = f"{name}.a{chr(97 + number)}"
        server.serve(part, piece)
        parts.append(Part(server.url(part)))
    return parts


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def plant(folder, content=CONTENT):
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def server():
    with FileServer() as running:
        yield running


def test_parts_of_a_plain_tar_named_gz_are_joined_listed_and_removed(server, tmp_path, caplog):
    parts = serve_parts(server, tar_bytes(), 6)
    with caplog.at_level(logging.WARNING):
        record = acquire(spec(*parts, licence="L", version="1.0"), tmp_path / "a", network=QUICK)
    assert tree(tmp_path / "a" / "content") == CONTENT
    assert json.loads((tmp_path / "a" / "asset.json").read_text()) == record
    assert [(one["path"], one["size"], one["sha256"]) for one in record["files"]] == [
        (name, len(data), sha256(data)) for name, data in sorted(CONTENT.items())
    ]
    assert (record["source"], record["root"], record["licence"], record["version"]) == (
        "download",
        "content",
        "L",
        "1.0",
    )
    for row, piece in zip(record["parts"], cut(tar_bytes(), 6), strict=True):
        assert (row["size"], row["sha256"], row["sha256_from"]) == (len(piece), sha256(piece), "first use")
    assert "the card gives no sha256 for weights.tar.gz.aa" in caplog.text
    assert not (tmp_path / "a" / "parts").exists()
    assert not list((tmp_path / "a").glob("*journal*"))
    requests = sum(len(one.requests) for one in server.files.values())
    before = (tmp_path / "a" / "asset.json").read_bytes()
    acquire(spec(*parts, licence="L", version="1.0"), tmp_path / "a", network=OFF)
    (tmp_path / "a" / "asset.json").unlink()  # as a forced rerun does
    acquire(spec(*parts, licence="L", version="1.0"), tmp_path / "a", network=OFF)
    assert (tmp_path / "a" / "asset.json").read_bytes() == before
    assert sum(len(one.requests) for one in server.files.values()) == requests


@pytest.mark.parametrize("pack", [zip_bytes, lambda: gzip.compress(tar_bytes())])
def test_other_archives(server, tmp_path, pack):
    parts = serve_parts(server, pack(), 3)
    kind = "zip" if pack is zip_bytes else "tar"
    acquire(spec(*parts, kind=kind), tmp_path / "a", network=QUICK, keep_parts=True)
    assert tree(tmp_path / "a" / "content") == CONTENT
    assert len(list((tmp_path / "a" / "parts").glob("*.gz.a?"))) == 3


def test_plain_files(server, tmp_path):
    server.serve("x/one.bin", b"1")
    server.serve("two", b"22")
    (tmp_path / "three.txt").write_bytes(b"333")
    asset = spec(
        Part(server.url("x/one.bin?dl=1"), size=1, sha256=sha256(b"1")), Part(server.url("two"), name="two.json"),
        Part((tmp_path / "three.txt").as_uri()), kind="files", requires=("one.bin", "two.json", "*.txt"),
    )  # fmt: skip
    record = acquire(asset, tmp_path / "a", network=QUICK)
    assert [part["sha256_from"] for part in record["parts"]] == ["card", "first use", "first use"]
    assert locate(tmp_path / "a" / "asset.json", "two.json").read_bytes() == b"22"
    assert locate(tmp_path / "a" / "asset.json", "*.txt").read_bytes() == b"333"


def test_card_decides_when_to_fetch_again(server, tmp_path):
    one = server.serve("f.bin", b"old")
    asset = spec(Part(server.url("f.bin")), kind="files", requires=("f.bin",))
    acquire(asset, tmp_path / "a", network=QUICK)
    one.data = b"new"
    pinned = spec(Part(server.url("f.bin"), size=3, sha256=sha256(b"old")), kind="files", requires=("f.bin",))
    acquire(pinned, tmp_path / "a", network=OFF)  # the digest that was recorded is now in the card
    for changed in (
        spec(Part(server.url("f.bin")), kind="files", requires=("f.bin",), version="2"),
        spec(Part(server.url("f.bin"), sha256=sha256(b"newer")), kind="files", requires=("f.bin",), version="2"),
    ):
        acquire(changed, tmp_path / "a", network=QUICK)
        assert locate(tmp_path / "a" / "asset.json", "f.bin").read_bytes() == one.data
        one.data = b"newer"


def test_changed_content_is_acquired_again(server, tmp_path, caplog):
    asset = spec(*serve_parts(server, tar_bytes(), 2))
    acquire(asset, tmp_path / "a", network=QUICK)
    (tmp_path / "a" / "content" / "ckpts" / "tokenizer.model").write_bytes(b"cut")
    acquire(asset, tmp_path / "a", network=QUICK)
    assert tree(tmp_path / "a" / "content") == CONTENT
    assert "ckpts/tokenizer.model" in caplog.text


@pytest.mark.parametrize("levels", ["", "weights/", "outer/weights/"])
def test_local_folder_is_used_in_place_whatever_its_nesting(tmp_path, levels):
    plant(tmp_path / "mine" / levels, {"state_dict.pth.tar": b"w" * 100, "tokenizer.model": b"t"})
    record = acquire(spec(kind="folder"), tmp_path / "a", local=tmp_path / "mine", network=OFF)
    assert (record["source"], record["root"]) == ("local", str(tmp_path / "mine"))
    assert not (tmp_path / "a" / "content").exists()
    found = locate(tmp_path / "a" / "asset.json", "state_dict.pth.tar")
    assert found == tmp_path / "mine" / levels / "state_dict.pth.tar"
    assert locate(tmp_path / "a" / "asset.json", ".") == tmp_path / "mine"


@pytest.mark.parametrize("given", ["", "QEVD-Benchmark", "outer"])
def test_a_pattern_may_name_the_folder_the_user_gave_or_one_inside(tmp_path, given):
    root = tmp_path / "data"
    inside = root / ("outer/QEVD-Benchmark" if given == "outer" else "QEVD-Benchmark")
    plant(inside, {"feedbacks.json": b"[]", "videos/1.mp4": b"v"})
    plant(inside.with_name("QEVD"), {"feedbacks.json": b"[1]"})
    local = root / given if given != "outer" else root
    asset = spec(kind="zip", requires=("QEVD-Benchmark/feedbacks.json",))
    acquire(asset, tmp_path / "a", local=local, network=OFF)
    assert locate(tmp_path / "a" / "asset.json", "QEVD-Benchmark/feedbacks.json") == inside / "feedbacks.json"
    assert locate(tmp_path / "a" / "asset.json", "QEVD-Benchmark/videos") == inside / "videos"


def test_too_deep_missing_and_ambiguous_are_errors(tmp_path):
    plant(tmp_path / "deep", {"a/b/c/state_dict.pth.tar": b"w"})
    with pytest.raises(AssetError, match=r"state_dict\.pth\.tar; there are 1 files: a/b/c/.*local_assets\.weights"):
        acquire(spec(kind="folder"), tmp_path / "x", local=tmp_path / "deep")
    assert not (tmp_path / "x" / "asset.json").exists()
    with pytest.raises(AssetError, match=r"nowhere, item weights: not found -> correct local_assets\.weights"):
        acquire(spec(kind="folder"), tmp_path / "x", local=tmp_path / "nowhere")
    with pytest.raises(AssetError, match=r"asset\.json: file not found -> acquire the asset first"):
        locate(tmp_path / "x" / "asset.json", "f")
    plant(tmp_path / "two", {"state_dict.pth.tar": b"w", "ckpts/state_dict.pth.tar": b"v"})
    acquire(spec(kind="folder"), tmp_path / "y", local=tmp_path / "two")
    with pytest.raises(AssetError, match=r"2 files fit: ckpts/state_dict\.pth\.tar, state_dict\.pth\.tar"):
        locate(tmp_path / "y" / "asset.json", "state_dict.pth.tar")
    assert locate(tmp_path / "y" / "asset.json", "ckpts/state_dict.pth.tar").read_bytes() == b"v"
    with pytest.raises(AssetError, match=r"item gone\.bin: not in the asset"):
        locate(tmp_path / "y" / "asset.json", "gone.bin")


def test_asset_without_address_says_how_to_get_it(tmp_path):
    asset = spec(kind="zip", terms="Sign the form at example.org.")
    with pytest.raises(
        AssetError, match=r"no address.* -> Sign the form at example\.org; then set local_assets\.weights"
    ):
        acquire(asset, tmp_path / "a")


def test_refused_download_says_the_terms(server, tmp_path):
    server.serve("w.tar", b"").script = [{"status": 403}]
    asset = spec(Part(server.url("w.tar")), terms="Accept the licence.")
    with pytest.raises(AssetError, match=r"answers 403.* -> Accept the licence; then set local_assets\.weights"):
        acquire(asset, tmp_path / "a", network=QUICK)


def test_download_without_a_required_file_is_no_asset(server, tmp_path):
    asset = spec(*serve_parts(server, tar_bytes({"other.txt": b"1"}), 1))
    for _ in range(2):
        with pytest.raises(AssetError, match=r"required files are not there .*state_dict\.pth\.tar; .*other\.txt"):
            acquire(asset, tmp_path / "a", network=QUICK)
        assert not (tmp_path / "a" / "asset.json").exists()


@pytest.mark.parametrize("given", ["folder", "first part", "one archive", "file uris"])
def test_local_archives_are_unpacked_from_where_they_are(tmp_path, given):
    names = [f"weights.tar.gz.a{letter}" for letter in "abc"]
    pieces = dict(zip(names, cut(tar_bytes(), 3), strict=True))
    mine = plant(tmp_path / "mine", pieces)
    parts = [Part(f"https://example.org/{name}", sha256=sha256(pieces[name])) for name in names]
    local = {"folder": mine, "first part": mine / names[0]}.get(given)
    if given == "one archive":
        local = mine / "whole.tar"
        local.write_bytes(tar_bytes())
    elif given == "file uris":
        parts = [Part((mine / name).as_uri()) for name in names]
    before = tree(mine)
    record = acquire(spec(*parts), tmp_path / "a", local=local, network=OFF)
    assert tree(tmp_path / "a" / "content") == CONTENT
    assert tree(mine) == before
    assert record["source"] == ("download" if given == "file uris" else "local")
    assert {one["path"] for one in record["files"]} == set(CONTENT)
    (mine / names[1]).write_bytes(b"changed")
    if given in ("folder", "first part"):
        with pytest.raises(AssetError, match=r"weights\.tar\.gz\.ab: sha256 is"):
            acquire(spec(*parts, version="2"), tmp_path / "b", local=local, network=OFF)


def test_large_local_files_without_a_digest_say_so_and_weights_always_have_one(tmp_path):
    plant(tmp_path / "mine", {"big.mp4": b"v" * 5000, "big.safetensors": b"w" * 5000, "small.txt": b"s"})
    asset = spec(kind="folder", requires=("big.mp4",))
    record = acquire(asset, tmp_path / "a", local=tmp_path / "mine", hash_limit_bytes=1000)
    rows = {one["path"]: one for one in record["files"]}
    assert rows["big.mp4"]["sha256"] is None
    assert "above 1000 bytes" in rows["big.mp4"]["reason"]
    assert rows["big.safetensors"]["sha256"] == sha256(b"w" * 5000)
    assert rows["small.txt"]["sha256"] == sha256(b"s")
    everything = acquire(asset, tmp_path / "b", local=tmp_path / "mine")
    assert all(one["sha256"] for one in everything["files"])


def test_links_in_a_local_folder_are_followed_once(tmp_path):
    plant(tmp_path / "blobs", {"x": b"weights"})
    plant(tmp_path / "mine", {"config.json": b"{}"})
    (tmp_path / "mine" / "model.bin").symlink_to(tmp_path / "blobs" / "x")
    (tmp_path / "mine" / "round").symlink_to(tmp_path / "mine")
    (tmp_path / "mine" / "broken").symlink_to(tmp_path / "nothing")
    record = acquire(spec(kind="folder", requires=("model.bin",)), tmp_path / "a", local=tmp_path / "mine")
    assert [one["path"] for one in record["files"]] == ["config.json", "model.bin"]


def test_offline_uses_what_is_there_and_says_what_is_not(server, tmp_path):
    asset = spec(*serve_parts(server, tar_bytes(), 2))
    with pytest.raises(AssetError, match="switched off"):
        acquire(asset, tmp_path / "a", network=OFF)
    assert all(one.requests == [] for one in server.files.values())
    plant(
        tmp_path / "a" / "parts",
        {f"weights.tar.gz.a{x}": piece for x, piece in zip("ab", cut(tar_bytes(), 2), strict=True)},
    )
    acquire(asset, tmp_path / "a", network=OFF)
    assert tree(tmp_path / "a" / "content") == CONTENT


def test_too_little_room_is_told_before_anything_is_fetched(server, tmp_path, monkeypatch):
    one = server.serve("w.tar", tar_bytes())
    monkeypatch.setattr(acquiring.shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(AssetError, match=r"needs about \d+ bytes, 1000 are free -> free disk space"):
        acquire(spec(Part(server.url("w.tar"), size=len(tar_bytes()))), tmp_path / "a", network=QUICK)
    assert one.requests == []


CHILD = """
import sys
from sightline.assets.acquire import AssetSpec, Part, acquire
folder, *urls = sys.argv[1:]
acquire(AssetSpec("weights", "t", tuple(Part(url) for url in urls), "tar", ("state_dict.pth.tar",)), folder)
"""


def test_killed_anywhere_a_restart_fetches_at_most_one_chunk_again(server, tmp_path):
    content = {"ckpts/state_dict.pth.tar": random.Random(5).randbytes(44 << 20), "ckpts/vocab.json": b"{}"}
    data = tar_bytes(content)
    parts = serve_parts(server, data, 4)  # 11 MiB each
    folder = tmp_path / "a"
    waiting = threading.Event()
    served = list(server.files.values())
    sent_by_kills = 0
    for number, after in ((1, 9 << 20), (2, 4 << 20), (3, 1 << 20)):
        served[number].script = [{"pause": waiting, "pause_after": after}]
        before = sum(one.sent for one in served)
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(folder), *(part.url for part in parts)])
        partial = folder / "parts" / f"weights.tar.gz.a{'abcd'[number]}.partial"
        deadline = time.monotonic() + 60
        while not (partial.exists() and partial.stat().st_size >= after):
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert not (folder / "asset.json").exists()
        assert not (folder / "content").exists()
        waiting.set()
        time.sleep(0.2)
        waiting.clear()
        sent_by_kills += sum(one.sent for one in served) - before
    acquire(spec(*parts), folder, network=QUICK)
    assert tree(folder / "content") == content
    total = sum(one.sent for one in served)
    assert total <= len(data) + 3 * (8 << 20)
    assert [len(one.requests) for one in served] == [1, 2, 2, 2]
    assert int(served[1].requests[1]["range"].strip("bytes=-")) >= 4 << 20
    assert sent_by_kills <= total


def test_killed_between_unpacking_and_record_needs_no_part_again(server, tmp_path, monkeypatch):
    asset = spec(*serve_parts(server, tar_bytes(), 3))

    def killed(*_arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(acquiring, "forget_journal", killed)
        patch.setattr(acquiring, "write_json", killed_after(acquiring.write_json, ".acquired.json"))
        with pytest.raises(KeyboardInterrupt):
            acquire(asset, tmp_path / "a", network=QUICK)
    assert not (tmp_path / "a" / "asset.json").exists()
    record = acquire(asset, tmp_path / "a", network=OFF)
    assert {one["path"] for one in record["files"]} == set(CONTENT)
    assert all(part["sha256"] for part in record["parts"])
    assert os.path.exists(tmp_path / "a" / "asset.json")


def killed_after(write, name):
    def write_or_die(target, value):
        if os.path.basename(target) == name:
            raise KeyboardInterrupt
        write(target, value)

    return write_or_die
