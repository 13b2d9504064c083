"""One file from an address to a path: resumed, retried with patience, and checked by size and SHA-256.

What has arrived lies in `<target>.partial`; `<target>.partial.json` says how much of it is durable. A killed
download goes on from there; the target itself appears only when it is complete and right.
"""

from __future__ import annotations

import logging
import os
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type
from tqdm import tqdm

from sightline.assets.partial import Partial
from sightline.errors import AssetError
from sightline.records.files import copy_chunks, fsync_directory, sha256_file, whole_file
from sightline.records.lease import lease

log = logging.getLogger(__name__)

_PROGRESS_BYTES = 1 << 20  # an attempt that brings less counts as fruitless
_RESTARTS = 3
_RETRIED_STATUSES = {408, 425, 429, 500, 502, 503, 504}
_PAGE_TYPES = ("text/html", "application/xhtml")
_PAGE_STARTS = (b"<!doctype html", b"<html", b"<head")
_GET_BY_HAND = "fetch it by hand in a browser and name the file in the configuration under local_assets"


@dataclass(frozen=True, slots=True)
class Network:
    """How the network may be used.

    Attributes:
        allowed: False refuses every address that is not a local path.
        attempts: Fruitless attempts in a row before giving up.
        backoff_s: First pause between attempts, in seconds; it doubles.
        longest_wait_s: Longest pause; a server that asks for more ends the attempt with a message.
        timeout_s: Seconds without a byte before a connection counts as lost.
        ca_file: Certificates to trust instead of the system's. Certificates are always verified.
    """

    allowed: bool = True
    attempts: int = 6
    backoff_s: float = 1.0
    longest_wait_s: float = 120.0
    timeout_s: float = 60.0
    ca_file: Path | None = None

    def require(self, url: str) -> None:
        """Raises AssetError when the network may not be used."""
        if not self.allowed:
            raise AssetError(
                "needed from the network, which is switched off",
                file=url,
                mend="allow the network for this run, or fetch it elsewhere and name the file under local_assets",
            )

    def client(self) -> httpx.Client:
        """Returns an HTTP client that follows redirects and verifies certificates."""
        trust: ssl.SSLContext | bool = True
        if self.ca_file is not None:
            trust = ssl.create_default_context(cafile=str(self.ca_file))
        return httpx.Client(
            follow_redirects=True,
            verify=trust,
            timeout=httpx.Timeout(self.timeout_s, connect=min(20.0, self.timeout_s)),
            headers={"Accept-Encoding": "identity", "User-Agent": "sightline"},
        )


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that is there and right.

    Attributes:
        path: The file.
        size: Bytes.
        sha256: Hexadecimal digest, always computed.
        transferred: Bytes that came over the network in this call.
    """

    path: Path
    size: int
    sha256: str
    transferred: int


class _Retry(Exception):
    """An attempt failed in a way that may pass."""

    def __init__(self, reason: str, after_s: float | None = None) -> None:
        super().__init__(reason)
        self.after_s = after_s


@dataclass(frozen=True, slots=True)
class _Wanted:
    url: str
    size: int | None
    sha256: str | None
    page: bool
    mend: str | None

    def error(self, problem: str, mend: str | None = None) -> AssetError:
        return AssetError(problem, file=self.url, mend=self.mend or mend or _GET_BY_HAND)


def local_path(source: str) -> Path | None:
    """Returns the path of a `file://` address or plain path, None for an HTTP(S) address.

    Raises:
        AssetError: The scheme is neither.
    """
    parts = urlsplit(source)
    if parts.scheme in ("http", "https"):
        return None
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    if "://" in source:
        raise AssetError(f"addresses of type {parts.scheme} are not supported", file=source, mend="use https or a path")
    return Path(source).expanduser()


def fetch(
    source: str,
    target: str | Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    network: Network | None = None,
    mend: str | None = None,
) -> Fetched:
    """Brings one file to `target`; a local source is linked (or copied), an address downloaded.

    A target that is already there and right is left alone. A local file that may be read in place needs no
    `fetch`: see `local_path`.

    Args:
        source: `https://`, `http://` or `file://` address, or a path.
        target: Where the file goes.
        size: Expected bytes, if known.
        sha256: Expected digest, if known.
        network: How the network may be used.
        mend: What the user is told to do when the server does not give the file.

    Raises:
        AssetError: Network off, server refuses or sends something else, size or digest differ.
    """
    target = Path(target)
    network = network or Network()
    wanted = _Wanted(source, size, sha256, target.suffix.lower() in (".html", ".htm"), mend)
    target.parent.mkdir(parents=True, exist_ok=True)
    with lease(target.with_name(f".{target.name}.lease")):
        present = _already_there(target, wanted)
        if present is not None:
            return present
        path = local_path(source)
        if path is not None:
            return _take_local(path, target, wanted)
        network.require(source)
        return _download(target, wanted, network)


def check_file(path: Path, *, size: int | None, sha256: str | None) -> str:
    """Returns the SHA-256 of a file after comparing it and the size with what is expected.

    Raises:
        AssetError: The file is missing or differs; says what was expected and what was found.
    """
    if not path.is_file():
        raise AssetError("file not found", file=path, mend="correct the path")
    found = path.stat().st_size
    if size is not None and found != size:
        raise AssetError(f"has {found} bytes, expected {size}", file=path, mend="fetch the file again")
    digest = sha256_file(path)
    if sha256 is not None and digest != sha256.lower():
        raise AssetError(f"sha256 is {digest}, expected {sha256.lower()}", file=path, mend="fetch the file again")
    return digest


def _already_there(target: Path, wanted: _Wanted) -> Fetched | None:
    if not target.is_file():
        return None
    try:
        digest = check_file(target, size=wanted.size, sha256=wanted.sha256)
    except AssetError as error:
        log.warning("%s; it is replaced", error.problem)
        target.unlink()
        return None
    return Fetched(target, target.stat().st_size, digest, 0)


def _take_local(path: Path, target: Path, wanted: _Wanted) -> Fetched:
    digest = check_file(path, size=wanted.size, sha256=wanted.sha256)
    try:
        os.link(path.resolve(), target)
        fsync_directory(target.parent)
    except OSError:
        with whole_file(target) as temporary, open(path, "rb") as stream, open(temporary, "wb") as sink:
            copy_chunks(stream, sink)
    return Fetched(target, target.stat().st_size, digest, 0)


class _Patience:
    """Counts fruitless attempts and decides how long to wait before the next."""

    def __init__(self, network: Network, wanted: _Wanted, partial: Partial) -> None:
        self.network, self.wanted, self.partial = network, wanted, partial
        self.fruitless = 0
        self._received = 0

    def stop(self, _state: RetryCallState) -> bool:
        """Says whether to give up, after each failed attempt."""
        progressed = self.partial.received - self._received >= _PROGRESS_BYTES
        self._received = self.partial.received
        self.fruitless = 0 if progressed else self.fruitless + 1
        return self.fruitless >= self.network.attempts

    def wait(self, state: RetryCallState) -> float:
        """Returns the pause in seconds: what the server asks for, or doubling from the first."""
        reason = state.outcome.exception() if state.outcome else None
        asked = getattr(reason, "after_s", None)
        if asked is not None and asked > self.network.longest_wait_s:
            raise self.wanted.error(f"the server asks to wait {asked:.0f} s", "run the same command again later")
        doubled = self.network.backoff_s * 2**self.fruitless
        return min(self.network.longest_wait_s, doubled) if asked is None else asked

    def tell(self, state: RetryCallState) -> None:
        """Logs why there is another attempt."""
        reason = state.outcome.exception() if state.outcome else None
        pause = state.next_action.sleep if state.next_action else 0
        log.warning("%s: %s; goes on from byte %d in %.1f s", self.wanted.url, reason, self.partial.offset, pause)


def _download(target: Path, wanted: _Wanted, network: Network) -> Fetched:
    with Partial(target, wanted.url) as partial, network.client() as client:
        if partial.offset and partial.validator is None and wanted.sha256 is None:
            partial.restart()  # nothing would tell whether the rest belongs to the same file
        patience = _Patience(network, wanted, partial)
        retrying = Retrying(
            retry=retry_if_exception_type(_Retry),
            stop=patience.stop,
            wait=patience.wait,
            before_sleep=patience.tell,
            sleep=time.sleep,
            reraise=True,
        )
        with tqdm(desc=target.name, unit="B", unit_scale=True, disable=None, initial=partial.offset) as bar:
            try:
                retrying(_attempt, client, partial, wanted, bar)
            except _Retry as error:
                raise wanted.error(
                    f"{error}; gave up after {patience.fruitless} attempts in a row without progress, "
                    f"{partial.offset} bytes are kept",
                    "look at the network and run the same command again",
                ) from None
        size, digest = partial.finish(target)
        return Fetched(target, size, digest, partial.received)


def _attempt(client: httpx.Client, partial: Partial, wanted: _Wanted, bar: tqdm) -> None:
    resumed = partial.offset > 0
    headers = {}
    if resumed:
        headers["Range"] = f"bytes={partial.offset}-"
        if partial.validator is not None:
            headers["If-Range"] = partial.validator
    try:
        with client.stream("GET", wanted.url, headers=headers) as response:
            if _accept(response, partial, wanted):
                bar.total = partial.total
                for chunk in _body(response, partial, wanted):
                    partial.append(chunk)
                    bar.update(len(chunk))
    except httpx.TransportError as error:
        raise _of_transport(error, wanted) from None
    except httpx.TooManyRedirects:
        raise wanted.error("too many redirects") from None
    finally:
        partial.commit()
    _check_complete(partial, wanted, resumed)


def _accept(response: httpx.Response, partial: Partial, wanted: _Wanted) -> bool:
    """Decides what a response is; returns whether its body is to be read."""
    hops = [hop.url.scheme for hop in (*response.history, response)]
    if "https" in hops and "http" in hops[hops.index("https") :]:
        raise wanted.error("redirected from https to an unprotected address")
    status = response.status_code
    if status == 416 and partial.offset:
        size = response.headers.get("Content-Range", "").rpartition("/")[2]
        if size == str(partial.offset) and partial.total in (None, partial.offset):
            return False
        _restart(partial, wanted, f"the file has {size or 'fewer'} bytes now")
    if status in _RETRIED_STATUSES:
        raise _Retry(f"server answers {status}", _retry_after(response))
    if status not in (200, 206):
        why = " (not found)" if status in (404, 410) else " (not permitted)" if status in (401, 403) else ""
        raise wanted.error(f"server answers {status}{why}")
    if not wanted.page and response.headers.get("Content-Type", "").lower().startswith(_PAGE_TYPES):
        raise _page(wanted)
    if status == 206:
        _check_range(response, partial, wanted)
        return True
    if partial.offset:
        log.warning("%s: the server sends the file from its beginning; it changed or cannot be resumed", wanted.url)
        _count_restart(partial, wanted)
    length = response.headers.get("Content-Length")
    total = int(length) if length and length.isdigit() else wanted.size
    if wanted.size is not None and total != wanted.size:
        raise wanted.error(f"the server offers {total} bytes, expected {wanted.size}")
    partial.describe(total, response.headers.get("ETag"), response.headers.get("Last-Modified"))
    return True


def _check_range(response: httpx.Response, partial: Partial, wanted: _Wanted) -> None:
    span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    if span.partition("-")[0] != str(partial.offset):
        _restart(partial, wanted, f"the server sends bytes {span or '?'} instead of {partial.offset}-")
    etag = response.headers.get("ETag")
    if etag and partial.etag and etag != partial.etag:
        _restart(partial, wanted, "the file changed on the server")
    if total.isdigit() and int(total) != (partial.total or wanted.size or int(total)):
        _restart(partial, wanted, f"the file has {total} bytes now")


def _count_restart(partial: Partial, wanted: _Wanted) -> None:
    partial.restart()
    if partial.restarts > _RESTARTS:
        raise wanted.error(f"had to start over {partial.restarts} times", "run the same command again later")


def _restart(partial: Partial, wanted: _Wanted, reason: str) -> None:
    _count_restart(partial, wanted)
    raise _Retry(f"{reason}; starting over", 0.0)


def _body(response: httpx.Response, partial: Partial, wanted: _Wanted) -> Iterator[bytes]:
    for chunk in response.iter_raw():
        if partial.offset == 0 and not wanted.page and chunk[:64].lstrip().lower().startswith(_PAGE_STARTS):
            raise _page(wanted)
        if partial.total is not None and partial.offset + len(chunk) > partial.total:
            announced = partial.total
            partial.restart()
            raise wanted.error(f"the server sends more than the {announced} bytes it announced")
        yield chunk


def _check_complete(partial: Partial, wanted: _Wanted, resumed: bool) -> None:
    expected = wanted.size if wanted.size is not None else partial.total
    if expected is not None and partial.offset < expected:
        raise _Retry(f"connection ended at byte {partial.offset} of {expected}")
    digest = partial.digest()
    if wanted.sha256 is None or digest == wanted.sha256.lower():
        return
    if resumed:
        _restart(partial, wanted, "the digest differs after resuming")
    partial.restart()
    raise wanted.error(
        f"sha256 is {digest}, expected {wanted.sha256.lower()}", "check the card's digest and the source"
    )


def _page(wanted: _Wanted) -> AssetError:
    return wanted.error("a web page came instead of the file; most likely it asks to log in or to accept terms")


def _of_transport(error: httpx.TransportError, wanted: _Wanted) -> Exception:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return wanted.error(
                f"certificate is not trusted ({cause.verify_message})",
                "name your site's certificates; they are never left unverified",
            )
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.UnsupportedProtocol):
        return wanted.error(f"cannot be fetched ({error})")
    return _Retry(f"{type(error).__name__}: {error}".rstrip(": "))


def _retry_after(response: httpx.Response) -> float | None:
    text = response.headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(text)
    with suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return None
