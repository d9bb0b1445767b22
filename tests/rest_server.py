"""A REST side that follows a script: a real HTTP server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

Answer = tuple[int, dict[str, str], Any]


class Server:
    """Answers each request by ``reply(path, query, number of the request)``; remembers what was asked."""

    def __init__(self, reply: Callable[[str, dict[str, str], int], Answer]) -> None:
        self.reply = reply
        self.asked: list[tuple[str, dict[str, str], str | None]] = []
        self.url = ""

    @contextmanager
    def running(self) -> Iterator[Server]:
        outer, counting = self, Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                with counting:
                    outer.asked.append((parts.path, query, self.headers["Authorization"]))
                    number = len(outer.asked)
                status, headers, body = outer.reply(parts.path, query, number)
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            self.url = f"http://127.0.0.1:{server.server_port}"
            thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()
