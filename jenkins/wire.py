"""How the stand-in puts an answer on the wire: framing, keep-alive, the request log."""

import re
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from threading import Event, Thread
from typing import Any, BinaryIO, Literal, Self
from urllib.parse import unquote, unquote_plus

Framing = Literal["length", "chunked", "close"]
_BLOCK = 1 << 16
_LOGGED = frozenset({
    "accept-encoding", "authorization", "cookie", "host", "if-modified-since", "if-range",
    "jenkins-crumb", "range", "user-agent",
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole answer, ready to be sent well or badly."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: BinaryIO = field(default_factory=BytesIO)
    length: int = 0
    framing: Framing = "length"

    @classmethod
    def of(
        cls,
        body: bytes,
        headers: Mapping[str, str],
        *,
        status: int = 200,
        framing: Framing = "length",
    ) -> Self:
        """Answer with bytes."""
        return cls(status=status, headers=headers, body=BytesIO(body), length=len(body), framing=framing)

    def blocks(self, size: int = _BLOCK) -> Iterator[bytes]:
        """Read the body."""
        left = self.length
        while left > 0 and (block := self.body.read(min(size, left))):
            left -= len(block)
            yield block


def page(status: int, text: str = "", headers: Mapping[str, str] | None = None) -> Reply:
    """Answer with HTML, as Jenkins does whenever something is wrong."""
    title = f"Error {status} {HTTPStatus(status).phrase}"
    html = f"<html><head><title>{title}</title></head><body>{escape(text)}</body></html>"
    kind = {"Content-Type": "text/html;charset=utf-8"}
    return Reply.of(html.encode(), {**kind, **(headers or {})}, status=status)


@dataclass(slots=True, kw_only=True)
class Record:
    """One request, as it came and as it was answered; ``path`` and ``query`` are decoded."""

    method: str
    target: str
    headers: Mapping[str, str]
    status: int = 0
    sent: int = 0

    @property
    def path(self) -> str:
        """The path, without percent signs."""
        return unquote(self.target.partition("?")[0])

    @property
    def query(self) -> str:
        """The query, without percent signs."""
        return unquote_plus(self.target.partition("?")[2])

    @property
    def asked(self) -> str:
        """What the patterns of faults and counters are matched with."""
        return f"{self.path}?{self.query}" if self.query else self.path


class Wire(BaseHTTPRequestHandler):
    """One connection; its pieces are for faults that send only some of them."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "Listener"
    record: Record

    def version_string(self) -> str:
        """Name the server."""
        return "Jetty(12.0.25)"

    def log_message(self, *_args: object) -> None:
        """Stay silent."""

    def do_GET(self) -> None:
        """Note the request and answer it."""
        headers = {n.lower(): v for n, v in self.headers.items() if n.lower() in _LOGGED}
        self.record = Record(method=self.command, target=self.path, headers=headers)
        self.form = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
        self.server.requests.append(self.record)
        self.respond()

    do_HEAD = do_POST = do_GET  # noqa: N815 - http.server calls them so

    def respond(self) -> None:
        """Send one answer, good or bad."""
        raise NotImplementedError

    def send(self, reply: Reply) -> None:
        """Send an answer as it should be."""
        with reply.body:
            self.head(reply)
            if self.command == "HEAD" or reply.length < 0:
                return
            if reply.framing == "chunked":
                for block in reply.blocks():
                    self.put(block, "chunked")
                self.put(b"", "chunked")
            elif reply.length:
                self.record.sent += reply.length
                self.connection.sendfile(reply.body, reply.body.tell(), reply.length)

    def head(self, reply: Reply, framing: Framing | None = None, length: int | None = None) -> None:
        """Send status and headers, with another framing or length than the true one if given."""
        framing = framing or reply.framing
        length = reply.length if length is None else length
        self.record.status = reply.status
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if framing == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
        elif framing == "length" and reply.status != HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Length", str(length))
        if framing == "close" or length < 0:
            self.send_header("Connection", "close")
        self.end_headers()

    def put(self, block: bytes, framing: Framing) -> None:
        """Send a piece of the body; an empty one ends it."""
        self.record.sent += len(block)
        self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block) if framing == "chunked" else block)

    def hang_up(self) -> None:
        """Close the connection once this answer is out."""
        self.close_connection = True

    def reset(self) -> None:
        """Break the connection: the other side sees ECONNRESET, not an end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.connection.close()
        self.close_connection = True


class Listener(ThreadingHTTPServer):
    """A server on a thread of its own, which logs what it is asked."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[Wire]) -> None:
        super().__init__(address, handler)
        self.requests: list[Record] = []
        self.stopped = Event()
        self._open: set[socket.socket] = set()
        self._accepting = Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        while not self.stopped.is_set():
            self.handle_request()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}"

    def clear(self) -> None:
        """Forget the requests so far."""
        self.requests.clear()

    def count(self, pattern: str = "") -> int:
        """Count the requests whose decoded ``path?query`` has the pattern in it."""
        return sum(bool(re.search(pattern, record.asked)) for record in list(self.requests))

    def stop(self) -> None:
        """Refuse new connections and break the open ones."""
        self.stopped.set()
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # wakes the one who accepts, without polling
        self._accepting.join()
        self.server_close()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection."""
        connection, address = super().get_request()
        self._open.add(connection)
        return connection, address

    def close_request(self, request: Any) -> None:  # noqa: ANN401 - the type of socketserver
        """Forget a connection."""
        self._open.discard(request)
        super().close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - see above
        """Report bugs, but not clients that went away."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)
