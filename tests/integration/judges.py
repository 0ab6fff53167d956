"""A judge's endpoint as OpenAI's API has it, in a thread of the test."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Says = Callable[[str, str], tuple[int, str]]  # (request, key) to (status, what the reply or the error says)


@contextlib.contextmanager
def judge(says: Says) -> Iterator[str]:
    """The address of a judge that answers what `says` gives."""

    class Judge(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
            status, text = says(asked, self.headers["Authorization"])
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            good = {"id": "1", "object": "chat.completion", "created": 1, "model": "j", "choices": [choice]}
            data = json.dumps(good if status == 200 else {"error": {"message": text, "type": "x"}}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Not on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
