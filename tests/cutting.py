"""A web server of files for tests that breaks off, stalls or lies where it is told to, and logs what it was asked."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Cutting:
    """What it does; paths are as in URLs, without the first slash."""

    public: Path
    url: str = ""
    cut: dict[str, list[int]] = field(
        default_factory=dict
    )  # path -> bytes after which each answer breaks off
    stall: dict[str, int] = field(default_factory=dict)  # path -> bytes after which nothing more comes
    instead: dict[str, bytes] = field(default_factory=dict)  # path -> other bytes
    ranges: bool = True
    asked: list[tuple[str, int]] = field(
        default_factory=list
    )  # path, and the byte from which it was asked for
    most: int = 0  # answers at once
    busy: int = 0
    end: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serve(public: Path) -> Iterator[Cutting]:
    """Serve a directory over plain HTTP on a port of its own."""
    told, lock = Cutting(public), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with lock:
                told.busy += 1
                told.most = max(told.most, told.busy)
            try:
                self._answer(self.path.lstrip("/"))
            finally:
                with lock:
                    told.busy -= 1

        def _answer(self, path: str) -> None:
            found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start = int(found[1]) if found and told.ranges else 0
            told.asked.append((path, int(found[1]) if found else 0))
            file = told.public / path
            if path not in told.instead and not file.is_file():
                self.send_error(404)
                return
            data = told.instead.get(path) or file.read_bytes()
            if start >= len(data) > 0 and found:
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(data) - start))
            self.send_header("Last-Modified", formatdate(1, usegmt=True))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            cuts = told.cut.get(path)
            if cuts:
                data = data[: cuts.pop(0)]
                self.close_connection = True
            if path in told.stall:
                self.wfile.write(data[start : told.stall[path]])
                self.wfile.flush()
                told.end.wait()
                self.close_connection = True
                return
            self.wfile.write(data[start:])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    told.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield told
    finally:
        told.end.set()
        server.shutdown()
        server.server_close()
        thread.join()
