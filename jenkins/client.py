"""The transport to Jenkins: ask for JSON, stream a file (HTTP; the only user of requests here).

A Jenkins request is retried by urllib3 until its headers are there; a body that breaks is resumed
by us. Login pages, redirects to other hosts and answers that are not JSON are refused by name.
"""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import requests
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth
from requests.utils import get_environ_proxies
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from jenkins.errors import JenkinsError, Malformed, NotFound

CHUNK = 1 << 20
TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two packets
SLOWEST = 1024  # bytes per second over PATIENCE, below that a transfer is given up
PATIENCE = 60.0
ATTEMPTS = 5  # connections for one file; progress starts the count again
JSON_LIMIT = 64 << 20  # bytes of one answer; 2,000 configurations with ten builds each make 5 MiB

_RETRY = Retry(
    total=5,
    backoff_factor=0.3,
    backoff_jitter=0.3,
    backoff_max=20,
    status_forcelist={429, 500, 502, 503, 504},
    allowed_methods={"GET"},
    raise_on_status=False,
    retry_after_max=60,  # seconds; the run holds the lock meanwhile
)


class Sink(Protocol):
    """What takes the bytes of a download."""

    @property
    def size(self) -> int:
        """How many bytes it has."""

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""

    def reset(self) -> None:
        """Forget everything: the file starts again."""


class Client:
    """One Jenkins. Safe to share between threads: each gets a session of its own."""

    def __init__(self, base: str, user: str = "", token: str = "", ca: str = "", workers: int = 4) -> None:
        self.base = base.rstrip("/")
        self._ca, self._workers = ca, workers
        self._auth = HTTPBasicAuth(user.encode(), token.encode()) if token else None
        self.patience = PATIENCE
        self._local = threading.local()

    def json(self, path: str, tree: str) -> bytes:
        """The body of ``<path>/api/json?tree=``; raises JenkinsError, NotFound or Malformed."""
        url = f"{self.base}/{path}/api/json" if path else f"{self.base}/api/json"
        body = _Body(url)
        left = ATTEMPTS
        while True:
            try:
                with self._get(url, params={"tree": tree}) as answer:
                    if not answer.headers.get("Content-Type", "").startswith("application/json"):
                        raise Malformed(f"{url}: not JSON but a page; is a login or a proxy in front of it?")
                    self._pump(answer, body)
                    return bytes(body.content).removeprefix(b"\xef\xbb\xbf")
            except (requests.RequestException, HTTPError, _Broken) as error:
                left -= 1
                body.reset()
                self._pause(url, left, error)

    def download(self, path: str, sink: Sink) -> None:
        """Stream one file into ``sink``, resuming where the connection broke.

        Raises JenkinsError when it cannot be had whole, NotFound when it is gone. The sink's bytes
        are only good after a normal return, and then their count is what the server announced. A sink
        may have bytes already, of whoever knows what they should be: that they are of the same file is
        not asked then.
        """
        url = f"{self.base}/{path}"
        left, total, furthest = ATTEMPTS, "", sink.size
        modified: str | None = None
        while True:
            try:
                with self._get(url, start=sink.size, artifact=True) as answer:
                    if answer.headers.get("Content-Type", "").startswith("text/html"):
                        raise Malformed(f"{url}: a page instead of the file; is a login in front of it?")
                    if sink.size and not _continues(answer, sink.size, modified, total):
                        sink.reset()
                        if answer.status_code != requests.codes.ok:
                            raise _Broken("the server does not resume")  # noqa: TRY301 - one way out
                    modified = answer.headers.get("Last-Modified", "")
                    if not sink.size:
                        total = answer.headers.get("Content-Length", "")
                    self._pump(answer, sink)
                    return
            except (requests.RequestException, HTTPError, _Broken) as error:
                left = ATTEMPTS if sink.size > furthest else left - 1
                furthest = max(furthest, sink.size)
                self._pause(url, left, error)

    def _pause(self, url: str, left: int, error: Exception) -> None:
        """Wait a little before the next attempt; raises JenkinsError when there is none left."""
        if not left:
            raise JenkinsError(f"{url}: {short(error)}") from error
        time.sleep(0.2 * (ATTEMPTS - left))

    def _pump(self, answer: requests.Response, sink: Sink) -> None:
        """Copy a body; raises when it is cut or too slow.

        read1 gives what is there: reading whole chunks would not notice a server that drips.
        """
        length = answer.headers.get("Content-Length", "")
        start, began, window = sink.size, time.monotonic(), sink.size
        while chunk := answer.raw.read1(CHUNK):
            sink.write(chunk)
            if (waited := time.monotonic() - began) > self.patience:
                if sink.size - window < SLOWEST * waited:
                    raise JenkinsError(f"{answer.url}: slower than {SLOWEST} bytes a second, given up")
                began, window = time.monotonic(), sink.size
        if length.isdecimal() and sink.size - start != int(length):
            raise _Broken(f"{sink.size - start} of {length} bytes came")

    @contextmanager
    def _get(
        self, url: str, *, params: dict[str, str] | None = None, start: int = 0, artifact: bool = False
    ) -> Iterator[requests.Response]:
        """One answered GET with status 200 (or 206 where a part was asked for), closed at the end."""
        try:
            answer = self._session().get(
                url,
                params=params,
                headers={"Range": f"bytes={start}-"} if start else {},
                stream=True,
                timeout=TIMEOUT,
                allow_redirects=artifact,
            )
        except (requests.RequestException, ValueError) as error:
            raise JenkinsError(f"{url}: {short(error)}") from error
        with answer:
            if answer.status_code == requests.codes.not_found:
                raise NotFound(f"{url}: not found (gone, or this user may not see it)")
            if answer.is_redirect:
                where = answer.headers["Location"][:100]
                raise JenkinsError(f"{url}: redirects to {where!r}; is a login in front of it?")
            good = (requests.codes.ok, requests.codes.partial) if start else (requests.codes.ok,)
            if answer.status_code not in good:
                if answer.history:  # a link elsewhere that has expired: Jenkins makes a fresh one
                    raise _Broken(_status(answer.status_code))
                raise JenkinsError(f"{url}: {_status(answer.status_code)}")
            if (packed := answer.headers.get("Content-Encoding", "identity")) != "identity":
                raise JenkinsError(
                    f"{url}: compressed on its way ({packed[:20]}); is a proxy in front of it?"
                )
            yield answer

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            session.trust_env = False  # else ~/.netrc would add credentials to requests without any
            session.proxies.update(get_environ_proxies(self.base))
            session.auth = self._auth
            session.verify = self._ca or True
            # Identity: a decoded body would fit neither Content-Length nor Range.
            session.headers.update({"User-Agent": "imagepress", "Accept-Encoding": "identity"})
            adapter = HTTPAdapter(max_retries=_RETRY, pool_maxsize=self._workers)
            session.mount("http://", adapter)
            session.mount("https://", adapter)
        return session


class _Broken(Exception):  # noqa: N818 - never leaves this module
    """A transfer that may succeed when tried again."""


def _continues(answer: requests.Response, start: int, modified: str | None, total: str) -> bool:
    """Whether a 206 goes on exactly where we stopped, in the same file; None for a date that nobody knows.

    Jenkins ignores If-Range and answers nonsense beyond the end, so nothing of it is believed.
    """
    span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.headers.get("Content-Range", ""))
    return (
        answer.status_code == requests.codes.partial
        and span is not None
        and int(span[1]) == start < int(span[2]) + 1 == int(span[3])
        and total in ("", span[3])
        and modified in (None, answer.headers.get("Last-Modified", ""))
    )


class _Body:
    """An answer in memory, bounded."""

    def __init__(self, url: str) -> None:
        self._url, self.content = url, bytearray()

    @property
    def size(self) -> int:
        return len(self.content)

    def write(self, chunk: bytes) -> None:
        self.content += chunk
        if len(self.content) > JSON_LIMIT:
            raise Malformed(f"{self._url}: the answer is larger than {JSON_LIMIT >> 20} MiB")

    def reset(self) -> None:
        self.content.clear()


def _status(code: int) -> str:
    hints = {401: "the user or its token is wrong", 403: "this user may not read it"}
    return f"HTTP status {code}" + (f": {hints[code]}" if code in hints else "")


def short(error: Exception) -> str:
    """The innermost reason of a failed request, on one line: requests nests four exceptions around it."""
    text, reason = str(error), error
    while (inner := reason.__cause__ or reason.__context__) and isinstance(inner, OSError | HTTPError):
        reason = inner
        text = str(inner) or text
    return text.splitlines()[0][-200:] if text else type(error).__name__
