"""Servers that are slow, busy or strange: the run that asks them holds the site's lock, and has to go on."""

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tasks.errors import UpstreamError
from tasks.web import Answer, Web

TEXT = b"whatever it says\n" * 1000


class Strange(BaseHTTPRequestHandler):
    """Does what the first part of the path says."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        what = self.path.split("/")[1]
        if what.isdigit():
            self.send_response(int(what))
            self.send_header("Retry-After", "3600")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        if what == "headers":
            self.flush_headers()
            self.drip(b"X: " + b"x" * 10_000)
            return
        body = gzip.compress(TEXT) if what == "packed" else TEXT
        if what == "packed":
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body) + (what == "cut")))
        self.send_header("ETag", '"mark"')
        self.end_headers()
        if what == "body":
            self.drip(body)
        else:
            self.wfile.write(body)

    def drip(self, data: bytes) -> None:
        for byte in data:
            if self.server.stopped.wait(0.02):  # type: ignore[attr-defined]
                return
            self.wfile.write(bytes([byte]))
            self.wfile.flush()


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Strange) as server:
        server.stopped = threading.Event()  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.stopped.set()  # type: ignore[attr-defined]
        server.shutdown()


def failure(web: Web, path: str) -> str:
    with pytest.raises(UpstreamError) as caught:
        web.get(path)
    return str(caught.value)


@pytest.mark.parametrize("path", ["plain/x", "packed/x"])
def test_a_file_comes_with_its_mark(url: str, path: str) -> None:
    assert Web(url).get(path) == Answer(TEXT, '"mark"')


def test_half_a_file_is_none(url: str) -> None:
    assert "IncompleteRead" in failure(Web(url), "cut/x")


@pytest.mark.parametrize("status", [403, 404, 410])
def test_what_is_not_there(url: str, status: int) -> None:
    """A store like S3 says 403 of it to whoever may not list what there is."""
    assert Web(url).get(f"{status}/x") == Answer(None)


def test_what_cannot_be_had_is_no_absence(url: str) -> None:
    assert failure(Web(url), "401/x") == f"{url}/401/x: HTTP status 401"


@pytest.mark.parametrize("what", ["headers", "body"])
def test_one_server_has_only_so_much_time(url: str, what: str) -> None:
    said: list[str] = []
    web = Web(url, say=said.append)
    web.limit, web.quiet = 1.0, 0.3
    assert failure(web, f"{what}/x").startswith(f"{url}/{what}/x: did not come within the 1 s")
    assert said == [f"waiting for {url}/{what}/x"]


def test_a_body_that_drips_is_given_up(url: str) -> None:
    web = Web(url)
    web.patience = 0.5
    assert failure(web, "body/x") == f"{url}/body/x: slower than 1024 bytes a second, given up"


def test_a_server_that_wants_to_be_asked_in_an_hour_is_asked_in_a_minute(url: str) -> None:
    """How long it sleeps is asked of urllib3, which would do it in there."""
    web = Web(url)
    assert web._session.get_adapter(url).max_retries.parse_retry_after("3600") == 60
    web.limit = 0.5
    assert "did not come within" in failure(web, "503/x")


def test_a_ca_that_is_not_there_is_said(tmp_path: Path) -> None:
    assert "invalid path" in failure(Web("https://127.0.0.1:1", str(tmp_path / "ca.pem")), "x")
