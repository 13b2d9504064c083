"""An HTTP server on loopback that serves bytes with Range and ETag, and misbehaves as a test asks."""

import contextlib
import hashlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """One address: its bytes, and what to do wrong. `script` holds one entry per request, then all is well.

    Entries: `{"status": 503, "headers": {...}}`, `{"drop_after": n}` (close the connection after n body bytes),
    `{"length": n}` (announce n bytes whatever is sent), `{"body": data, "headers": {...}}` (send this instead),
    `{"redirect": url}`, `{"pause": event}` (send half, then wait), `{"new_data": data}` (the file changed).
    """

    data: bytes
    etag: bool | str = True
    ranges: bool = True
    last_modified: str | None = None
    announce: bool = True
    script: list = field(default_factory=list)
    requests: list = field(default_factory=list)
    sent: int = 0


class FileServer:
    """Serves `files` (path to `Served`) while the context is open."""

    def __init__(self):
        self.files = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    outer.answer(self)

            def log_message(self, *_arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._server.shutdown()
        self._server.server_close()

    def url(self, path):
        return f"http://127.0.0.1:{self._server.server_address[1]}/{path}"

    def serve(self, path, data, **options):
        self.files[path] = Served(data, **options)
        return self.files[path]

    def answer(self, request):
        one = self.files.get(request.path.lstrip("/").partition("?")[0])
        if one is None:
            return self._plain(request, 404, b"not here", {})
        act = one.script.pop(0) if one.script else {}
        one.data = act.get("new_data", one.data)
        one.requests.append({name.lower(): value for name, value in request.headers.items()})
        if "redirect" in act:
            return self._plain(request, 302, b"", {"Location": act["redirect"]})
        if "status" in act or "body" in act:
            return self._plain(request, act.get("status", 200), act.get("body", b"busy"), act.get("headers", {}))
        return self._send(request, one, act)

    def _plain(self, request, status, body, headers):
        request.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)

    def _send(self, request, one, act):
        tag = one.etag if isinstance(one.etag, str) else f'"{hashlib.sha256(one.data).hexdigest()[:16]}"'
        start, partial = 0, False
        asked = request.headers.get("Range")
        condition = request.headers.get("If-Range")
        if asked and one.ranges and condition in (None, tag, one.last_modified):
            start, partial = int(asked.removeprefix("bytes=").rstrip("-")), True
        if partial and start >= len(one.data):
            return self._plain(request, 416, b"", {"Content-Range": f"bytes */{len(one.data)}"})
        body = one.data[start:]
        request.send_response(206 if partial else 200)
        if one.announce:
            request.send_header("Content-Length", str(act.get("length", len(body))))
        else:
            request.send_header("Connection", "close")
            request.close_connection = True
        if one.etag:
            request.send_header("ETag", tag)
        if one.last_modified:
            request.send_header("Last-Modified", one.last_modified)
        if partial:
            request.send_header("Content-Range", f"bytes {start}-{len(one.data) - 1}/{len(one.data)}")
        request.end_headers()
        stop = min(len(body), act.get("drop_after", len(body)))
        for at in range(0, stop, 64 << 10):
            if "pause" in act and at >= act["pause_after"]:
                act["pause"].wait(30)
            chunk = body[at : min(stop, at + (64 << 10))]
            request.wfile.write(chunk)
            one.sent += len(chunk)
        if stop < len(body) or "length" in act:
            request.close_connection = True
