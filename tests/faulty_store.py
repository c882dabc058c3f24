"""An S3 store that fails on demand: a proxy before a real one."""

from __future__ import annotations

import http.client
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Literal
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class Request:
    """A request that reached the store."""

    method: str
    key: str
    """Key of the object, decoded; empty for the bucket itself (a listing)."""
    range: str | None
    """The header `Range`."""


@dataclass
class Fault:
    """What a :class:`FaultyStore` does to the requests that match, `times` times."""

    pattern: re.Pattern[str]
    kind: Literal["drop"] | int
    times: int
    method: str


@dataclass
class FaultyStore:
    """The `s3` store behind a proxy that counts requests and, on demand, fails.

    boto3 here and in child processes goes through it: ``AWS_ENDPOINT_URL_S3`` names it.
    """

    uri: str
    """The URI of a fresh, empty bucket."""
    endpoint: str
    """The proxy's URL."""
    requests: list[Request] = field(default_factory=list)
    """Every request that came, the failed ones too, in order. ``requests.clear()`` starts to count anew."""
    faults: list[Fault] = field(default_factory=list)

    def fail(self, key: str, kind: Literal["drop"] | int, times: int = 1, method: str = "GET") -> None:
        """Let the next requests for matching keys fail.

        Args:
            key: regular expression, searched for in the object's key; ``"$"`` matches every key.
            kind: ``drop`` lets the store do as it is told, and closes the connection in the middle of the answer's body
                (before the answer, unless it is a file or listing); a number is the HTTP status to answer with
                (403, 500, 503 ...), and the store hears nothing.
            times: how many requests fail; -1: all.
            method: GET, PUT, HEAD, POST or DELETE.
        """
        self.faults.append(Fault(re.compile(key), kind, times, method))

    def count(self, key: str = "", method: str = "GET") -> int:
        """Return how many requests with this method came for keys that match a regular expression."""
        return sum(r.method == method and re.search(key, r.key) is not None for r in self.requests)

    def note(self, request: Request) -> Literal["drop"] | int | None:
        """Count a request; return how it shall fail, or None."""
        self.requests.append(request)
        for fault in self.faults:
            if fault.times and fault.method == request.method and fault.pattern.search(request.key):
                fault.times -= 1
                return fault.kind
        return None


ERROR_CODES = {403: "AccessDenied", 404: "NoSuchKey", 500: "InternalError", 501: "NotImplemented", 503: "SlowDown"}


def proxy_handler(store: FaultyStore, backend: str) -> type[BaseHTTPRequestHandler]:
    """Return a request handler that asks `backend` (host:port), unless the store shall fail."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            body = self.read_body()
            _, _, key = unquote(urlsplit(self.path).path).removeprefix("/").partition("/")
            with lock:
                fault = store.note(Request(self.command, key, self.headers.get("Range")))
            if isinstance(fault, int):
                code = ERROR_CODES.get(fault, "Error")
                text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>as asked for</Message></Error>"
                self.answer(fault, [("Content-Type", "application/xml")], text.encode())
                return
            connection = http.client.HTTPConnection(backend, timeout=60)
            headers = {k: v for k, v in self.headers.items() if k.lower() not in {"transfer-encoding", "expect"}}
            connection.request(self.command, self.path, body=body, headers={**headers, "Content-Length": len(body)})
            answer = connection.getresponse()
            self.answer(answer.status, answer.getheaders(), answer.read(), cut=fault == "drop")
            connection.close()

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_one  # noqa: N815

        def read_body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def answer(self, status: int, headers: list[tuple[str, str]], body: bytes, cut: bool = False) -> None:
            self.close_connection = cut
            if cut and (self.command != "GET" or status >= 300 or not body):
                return
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in {"transfer-encoding", "connection", "content-length"}:
                    self.send_header(name, value)
            length = dict(headers).get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[: len(body) // 2] if cut else body)

        def log_message(self, *_: object) -> None:
            """The tests look at `requests`."""

    return Handler
