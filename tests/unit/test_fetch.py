"""Downloads against a real server on loopback that drops, lies, refuses and changes its mind."""

import hashlib
import http.server
import json
import logging
import os
import random
import signal
import ssl
import subprocess
import sys
import threading
import time
import zlib

import pytest
from sightline.assets import fetch as fetching
from sightline.assets.fetch import Network, fetch
from sightline.errors import AssetError

from tests.unit.file_server import FileServer

QUICK = Network(backoff_s=0.001, attempts=3, timeout_s=5)
DATA = random.Random(1).randbytes(3_300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def server():
    with FileServer() as running:
        yield running


def get(server, tmp_path, name="f.bin", **options):
    options = {"network": QUICK, **options}
    return fetch(server.url(name), tmp_path / "in" / name, **options)


def leftovers(tmp_path):
    return sorted(path.name for path in (tmp_path / "in").iterdir() if not path.name.endswith(".lease"))


def test_plain_download_is_checked_and_the_second_run_transfers_nothing(server, tmp_path):
    one = server.serve("f.bin", DATA)
    got = get(server, tmp_path, size=len(DATA), sha256=SHA256)
    assert (got.size, got.sha256, got.transferred) == (len(DATA), SHA256, len(DATA))
    assert got.path.read_bytes() == DATA
    assert leftovers(tmp_path) == ["f.bin"]
    again = get(server, tmp_path, size=len(DATA), sha256=SHA256)
    assert (again.sha256, again.transferred) == (SHA256, 0)
    assert len(one.requests) == 1


@pytest.mark.parametrize("etag", [True, False])
def test_dropped_connections_resume_where_they_broke(server, tmp_path, etag, caplog):
    one = server.serve("f.bin", DATA, etag=etag, last_modified="Wed, 01 Jan 2025 00:00:00 GMT")
    one.script = [{"drop_after": 1_000_000}, {"drop_after": 1_200_000}, {"drop_after": 0}]
    with caplog.at_level(logging.WARNING):
        got = get(server, tmp_path, sha256=SHA256)
    assert got.path.read_bytes() == DATA
    assert one.sent == len(DATA)
    assert [request.get("range") for request in one.requests] == [
        None, "bytes=1000000-", "bytes=2200000-", "bytes=2200000-",
    ]  # fmt: skip
    assert all("if-range" in request for request in one.requests[1:])
    assert "goes on from byte 2200000" in caplog.text


def test_gives_up_after_bounded_attempts_and_keeps_what_came(server, tmp_path):
    one = server.serve("f.bin", DATA)
    one.script = [{"drop_after": 2_000_000}] + [{"drop_after": 10}] * 3
    with pytest.raises(AssetError, match="gave up after 3 attempts in a row without progress, 2000030 bytes are kept"):
        get(server, tmp_path, sha256=SHA256)
    assert len(one.requests) == 4
    assert leftovers(tmp_path) == ["f.bin.partial", "f.bin.partial.json"]
    assert get(server, tmp_path, sha256=SHA256).transferred == len(DATA) - 2_000_030
    assert one.sent == len(DATA)


def test_server_that_is_not_there(server, tmp_path):
    with pytest.raises(AssetError, match=r"ConnectError.*gave up after 3 attempts.*run the same command again"):
        fetch("http://127.0.0.1:1/f.bin", tmp_path / "f.bin", network=QUICK)
    assert not (tmp_path / "f.bin").exists()


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_busy_server_is_asked_again(server, tmp_path, status):
    one = server.serve("f.bin", DATA)
    one.script = [{"status": status}, {"status": status}]
    assert get(server, tmp_path).sha256 == SHA256
    assert len(one.requests) == 3


def test_retry_after_is_obeyed_and_too_long_a_wait_is_told(server, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(fetching.time, "sleep", pauses.append)
    one = server.serve("f.bin", DATA)
    one.script = [{"status": 429, "headers": {"Retry-After": "7"}}, {"status": 503}]
    get(server, tmp_path, network=Network(backoff_s=0.5, longest_wait_s=10))
    assert pauses == [7.0, 1.0]
    one = server.serve("g.bin", DATA)
    one.script = [{"status": 429, "headers": {"Retry-After": "Wed, 01 Jan 2070 00:00:00 GMT"}}]
    with pytest.raises(AssetError, match=r"asks to wait \d+ s -> run the same command again later"):
        get(server, tmp_path, "g.bin", network=Network(longest_wait_s=10))


@pytest.mark.parametrize(("status", "words"), [(401, "not permitted"), (403, "not permitted"), (404, "not found")])
def test_refusals_are_not_retried_and_say_the_terms(server, tmp_path, status, words):
    one = server.serve("f.bin", DATA)
    one.script = [{"status": status}] * 9
    with pytest.raises(AssetError, match=rf"f\.bin: server answers {status} \({words}\) -> sign the form"):
        get(server, tmp_path, mend="sign the form")
    assert len(one.requests) == 1


@pytest.mark.parametrize("headers", [{"Content-Type": "text/html; charset=utf-8"}, {}])
def test_login_page_is_not_taken_for_the_file(server, tmp_path, headers):
    page = b"\n<!DOCTYPE html><html><title>Sign in</title></html>"
    one = server.serve("f.bin", DATA)
    one.script = [{"body": page, "headers": headers}]
    with pytest.raises(AssetError, match=r"a web page came instead of the file.*log in.*local_assets"):
        get(server, tmp_path)
    assert not (tmp_path / "in" / "f.bin").exists()
    one.script = [{"drop_after": 1_500_000}, {"body": page, "headers": headers}]
    if headers:  # also in the middle: what came before is kept
        with pytest.raises(AssetError, match="a web page came"):
            get(server, tmp_path, sha256=SHA256)
        assert get(server, tmp_path, sha256=SHA256).transferred == len(DATA) - 1_500_000
    server.serve("page.html", page)
    assert get(server, tmp_path, "page.html").path.read_bytes() == page


def test_wrong_announced_size_is_refused_at_once(server, tmp_path):
    one = server.serve("f.bin", DATA)
    with pytest.raises(AssetError, match=f"the server offers {len(DATA)} bytes, expected 5"):
        get(server, tmp_path, size=5)
    assert len(one.requests) == 1
    assert not (tmp_path / "in" / "f.bin").exists()


@pytest.mark.parametrize("ranges", [True, False])
def test_server_that_announces_more_than_it_has(server, tmp_path, ranges):
    one = server.serve("f.bin", DATA, ranges=ranges)
    one.script = [{"length": len(DATA) + 100}]
    assert get(server, tmp_path).sha256 == SHA256
    one = server.serve("g.bin", DATA, ranges=ranges)
    one.script = [{"length": len(DATA) + 100}] * 50
    with pytest.raises(AssetError, match="had to start over 4 times"):
        get(server, tmp_path, "g.bin")
    assert len(one.requests) < 10
    assert not (tmp_path / "in" / "g.bin").exists()


def test_server_that_announces_less_than_it_has_is_found_by_digest(server, tmp_path):
    one = server.serve("f.bin", DATA)
    one.script = [{"length": 1000}]
    with pytest.raises(AssetError, match=f"sha256 is .*, expected {SHA256}"):
        get(server, tmp_path, sha256=SHA256)


def test_truncation_without_any_length_is_found_by_the_size_of_the_card(server, tmp_path):
    one = server.serve("f.bin", DATA, announce=False)
    one.script = [{"drop_after": 1_234_567}]
    assert get(server, tmp_path, size=len(DATA)).sha256 == SHA256
    assert one.requests[1]["range"] == "bytes=1234567-"


def test_more_bytes_than_expected_are_refused(server, tmp_path):
    server.serve("f.bin", DATA, announce=False)
    with pytest.raises(AssetError, match="sends more than the 1000 bytes"):
        get(server, tmp_path, size=1000)


def test_wrong_digest_is_an_error_and_nothing_is_kept(server, tmp_path):
    server.serve("f.bin", DATA)
    with pytest.raises(AssetError, match=f"sha256 is {SHA256}, expected {'0' * 64}"):
        get(server, tmp_path, sha256="0" * 64)
    assert not (tmp_path / "in" / "f.bin").exists()
    assert (tmp_path / "in" / "f.bin.partial").stat().st_size == 0


@pytest.mark.parametrize("ranges", [True, False])
def test_file_that_changes_between_attempts_is_fetched_from_its_beginning(server, tmp_path, ranges):
    other = DATA[::-1]
    one = server.serve("f.bin", DATA, ranges=ranges)
    one.script = [{"drop_after": 2_000_000}, {"new_data": other}]
    got = get(server, tmp_path)
    assert got.path.read_bytes() == other


def test_changed_file_on_a_server_that_ignores_if_range_is_noticed(server, tmp_path):
    one = server.serve("f.bin", DATA, etag='W/"1"')  # weak: must not be sent as a condition
    one.script = [{"drop_after": 2_000_000}] + [{"status": 503}] * 3
    with pytest.raises(AssetError, match="gave up"):
        get(server, tmp_path, sha256="0" * 64)
    one.data, one.etag, one.script = DATA[::-1], 'W/"2"', []
    assert get(server, tmp_path, sha256=hashlib.sha256(DATA[::-1]).hexdigest()).path.read_bytes() == DATA[::-1]


def test_without_validator_or_digest_nothing_is_resumed_across_runs(server, tmp_path):
    one = server.serve("f.bin", DATA, etag=False)
    one.script = [{"drop_after": 2_000_000}] + [{"status": 503}] * 3
    with pytest.raises(AssetError, match="gave up"):
        get(server, tmp_path)
    one.data = DATA[::-1]
    assert get(server, tmp_path).path.read_bytes() == DATA[::-1]


def test_damaged_partial_file_is_not_built_upon(server, tmp_path):
    one = server.serve("f.bin", DATA)
    one.script = [{"drop_after": 2_000_000}] + [{"status": 503}] * 3
    with pytest.raises(AssetError, match="gave up"):
        get(server, tmp_path)
    partial = tmp_path / "in" / "f.bin.partial"
    data = bytearray(partial.read_bytes())
    data[1000] ^= 1
    partial.write_bytes(data)
    got = get(server, tmp_path)  # no digest is known: the note's CRC tells
    assert got.path.read_bytes() == DATA
    assert got.transferred == len(DATA)


def test_complete_partial_file_needs_no_byte_more(server, tmp_path):
    one = server.serve("f.bin", DATA)
    get(server, tmp_path)
    target = tmp_path / "in" / "f.bin"
    os.rename(target, f"{target}.partial")
    note = {
        "url": server.url("f.bin"), "durable": len(DATA), "crc32": zlib.crc32(DATA), "total": len(DATA),
        "etag": None, "last_modified": None,
    }  # fmt: skip
    (tmp_path / "in" / "f.bin.partial.json").write_text(json.dumps(note))
    assert get(server, tmp_path, sha256=SHA256).transferred == 0
    assert one.sent == len(DATA)


def test_redirects_are_followed_but_not_out_of_https(server, tmp_path, monkeypatch):
    one = server.serve("f.bin", DATA)
    server.serve("real.bin", DATA)
    one.script = [{"redirect": server.url("real.bin")}]
    assert get(server, tmp_path).sha256 == SHA256

    class Hop:
        def __init__(self, scheme):
            self.url = type("Url", (), {"scheme": scheme})

    response = Hop("http")
    response.history = [Hop("https")]
    wanted = fetching._Wanted("https://x/f", None, None, False, None)
    with pytest.raises(AssetError, match="unprotected address"):
        fetching._accept(response, None, wanted)


def test_certificates_are_verified(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "f.bin").write_bytes(DATA)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_arguments):
            pass

    def handler(*arguments):
        return Quiet(*arguments, directory=str(tmp_path / "www"))

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_arguments):  # the client hangs up, as it should
            pass

    with Server(("127.0.0.1", 0), handler) as running:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        running.socket = context.wrap_socket(running.socket, server_side=True)
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        url = f"https://127.0.0.1:{running.server_address[1]}/f.bin"
        with pytest.raises(AssetError, match=r"certificate is not trusted .*never left unverified"):
            fetch(url, tmp_path / "f.bin", network=QUICK)
        trusted = Network(ca_file=certificate, attempts=1)
        assert fetch(url, tmp_path / "f.bin", network=trusted).sha256 == SHA256
        running.shutdown()


def test_network_that_is_switched_off_is_not_asked(server, tmp_path):
    one = server.serve("f.bin", DATA)
    with pytest.raises(AssetError, match=r"needed from the network, which is switched off -> allow the network"):
        get(server, tmp_path, network=Network(allowed=False))
    assert one.requests == []


@pytest.mark.parametrize("form", ["path", "uri"])
def test_local_files_are_linked_or_copied(tmp_path, form, monkeypatch):
    source = tmp_path / "a file.bin"
    source.write_bytes(DATA)
    address = source.as_uri() if form == "uri" else str(source)
    off = Network(allowed=False)
    got = fetch(address, tmp_path / "in" / "f.bin", sha256=SHA256, network=off)
    assert got.path.stat().st_ino == source.stat().st_ino
    monkeypatch.setattr(os, "link", lambda *_arguments: (_ for _ in ()).throw(OSError(18, "other disk")))
    got = fetch(address, tmp_path / "in" / "g.bin", network=off)
    assert got.path.stat().st_ino != source.stat().st_ino
    assert (got.path.read_bytes(), got.sha256, got.transferred) == (DATA, SHA256, 0)
    with pytest.raises(AssetError, match=f"has {len(DATA)} bytes, expected 7"):
        fetch(address, tmp_path / "in" / "h.bin", size=7, network=off)
    with pytest.raises(AssetError, match="file not found"):
        fetch(address + "x", tmp_path / "in" / "h.bin", network=off)
    with pytest.raises(AssetError, match="addresses of type ftp are not supported"):
        fetch("ftp://host/x", tmp_path / "in" / "h.bin")


def test_killed_download_fetches_at_most_one_chunk_again(server, tmp_path):
    data = random.Random(2).randbytes(40 << 20)
    one = server.serve("f.bin", data)
    release = threading.Event()
    one.script = [{"pause": release, "pause_after": 30 << 20}]
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from sightline.assets.fetch import fetch\n"
        "fetch(sys.argv[1], Path(sys.argv[2]))\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, server.url("f.bin"), str(tmp_path / "in" / "f.bin")])
    partial = tmp_path / "in" / "f.bin.partial"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not (partial.exists() and partial.stat().st_size >= 30 << 20):
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    release.set()
    time.sleep(0.1)
    first = one.sent
    assert (30 << 20) <= first < len(data)
    got = get(server, tmp_path, "f.bin", sha256=hashlib.sha256(data).hexdigest())
    assert got.size == len(data)
    assert (30 << 20) + one.sent - first <= len(data) + (8 << 20)
    assert one.requests[1]["range"] != "bytes=0-"


def test_two_jobs_that_want_the_same_file_fetch_it_once(server, tmp_path):
    one = server.serve("f.bin", DATA)
    results = []
    threads = [threading.Thread(target=lambda: results.append(get(server, tmp_path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result.transferred for result in results) == [0, 0, len(DATA)]
    assert len(one.requests) == 1
