"""A chat server on loopback that answers as a test scripts it."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def completion(text, finish="stop", **more):
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish, **more}
    return {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}


class ChatServer:
    """Serves `/v1/chat/completions`.

    `script` holds one entry per request, then `answer` decides: `{"status": n, "headers": {...}, "body": text}`,
    `{"sleep": seconds}`, `{"drop": True}` (close without an answer). `models` are listed under `/v1/models`.
    """

    def __init__(self, answer=lambda payload: '{"score": 3}'):
        self.answer = answer
        self.script = []
        self.requests = []
        self.headers = []
        self.models = ["tiny"]
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    outer.respond(self)

            def do_GET(self):
                data = json.dumps({"object": "list", "data": [{"id": name} for name in outer.models]}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def respond(self, handler):
        payload = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            self.requests.append(payload)
            self.headers.append(dict(handler.headers))
            step = self.script.pop(0) if self.script else {}
        time.sleep(step.get("sleep", 0))
        if step.get("drop"):
            handler.close_connection = True
            handler.connection.close()
            return
        body = step.get("body")
        if body is None:
            found = self.answer(payload)
            body = json.dumps(found if isinstance(found, dict) else completion(found))
        data = body.encode()
        handler.send_response(step.get("status", 200))
        for name, value in step.get("headers", {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._server.shutdown()
        self._server.server_close()
