"""The transport to Jenkins: ask for JSON, stream a file (HTTP; the only user of requests here).

A Jenkins request is retried by urllib3 until its headers are there; a body that breaks is resumed
by us. Login pages, redirects to other hosts and answers that are not JSON are refused by name.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from jenkins.errors import JenkinsError, Malformed, NotFound

CHUNK = 1 << 20
TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two packets
SLOWEST = 1024  # bytes per second over PATIENCE, below that a transfer is given up
PATIENCE = 60.0
ATTEMPTS = 5  # connections for one file; progress starts the count again
JSON_LIMIT = 512 << 20

_RETRY = Retry(
    total=5,
    backoff_factor=0.3,
    backoff_jitter=0.3,
    backoff_max=20,
    status_forcelist={429, 500, 502, 503, 504},
    allowed_methods={"GET"},
    raise_on_status=False,
)


class Sink(Protocol):
    """What takes the bytes of a download."""

    size: int

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""

    def reset(self) -> None:
        """Forget everything: the file starts again."""


class Client:
    """One Jenkins. Safe to share between threads: each gets a session of its own."""

    def __init__(self, base: str, user: str = "", token: str = "", ca: str = "", workers: int = 4) -> None:
        self.base = base.rstrip("/")
        self._auth, self._ca, self._workers = (user, token) if token else None, ca, workers
        self._local = threading.local()
        self.stopped = threading.Event()  # set: transfers end at their next chunk

    def json(self, path: str, tree: str) -> bytes:
        """The body of ``<path>/api/json?tree=``; raises JenkinsError, NotFound or Malformed."""
        url = f"{self.base}/{path}/api/json" if path else f"{self.base}/api/json"
        with self._get(url, params={"tree": tree}) as answer:
            if not answer.headers.get("Content-Type", "").startswith("application/json"):
                raise Malformed(f"{url}: not JSON but a page; is a login or a proxy in front of it?")
            try:
                return b"".join(_bounded(answer.iter_content(CHUNK), url)).removeprefix(b"\xef\xbb\xbf")
            except (requests.RequestException, HTTPError) as error:
                raise JenkinsError(f"{url}: the answer broke off ({_short(error)})") from error

    def download(self, path: str, sink: Sink) -> None:
        """Stream one file into ``sink``, resuming where the connection broke.

        Raises JenkinsError when it cannot be had whole, NotFound when it is gone. The sink's bytes
        are only good after a normal return, and then their count is what the server announced.
        """
        url = f"{self.base}/{path}"
        left, modified = ATTEMPTS, ""
        while True:
            before = sink.size
            try:
                with self._get(url, start=before, artifact=True) as answer:
                    if before and not _continues(answer, before, modified):
                        sink.reset()
                        if answer.status_code != requests.codes.ok:
                            raise _Broken("the server does not resume")  # noqa: TRY301 - one way out
                    modified = answer.headers.get("Last-Modified", "")
                    self._pump(answer, sink)
                    return
            except (requests.RequestException, HTTPError, _Broken) as error:
                left = ATTEMPTS if sink.size > before else left - 1
                if not left or self.stopped.wait(0.2 * (ATTEMPTS - left)):
                    raise JenkinsError(f"{url}: {_short(error)}") from error

    def _pump(self, answer: requests.Response, sink: Sink) -> None:
        """Copy a body; raises when it is cut, too slow, or nobody waits for it any more."""
        announced = int(answer.headers.get("Content-Length", -1))
        start, began, window = sink.size, time.monotonic(), sink.size
        for chunk in answer.iter_content(CHUNK):
            sink.write(chunk)
            if self.stopped.is_set():
                raise JenkinsError("stopped")
            if (waited := time.monotonic() - began) > PATIENCE:
                if sink.size - window < SLOWEST * waited:
                    raise JenkinsError(f"{answer.url}: slower than {SLOWEST} bytes a second, given up")
                began, window = time.monotonic(), sink.size
        if announced >= 0 and sink.size - start != announced:
            raise _Broken(f"{sink.size - start} of {announced} bytes came")

    @contextmanager
    def _get(
        self,
        url: str,
        *,
        params: dict[str, str] | None = None,
        start: int = 0,
        artifact: bool = False,
    ) -> Iterator[requests.Response]:
        """One answered GET with status 200 (or 206), whatever happens closed."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        try:
            answer = self._session().get(
                url,
                params=params,
                headers=headers,
                stream=True,
                timeout=TIMEOUT,
                allow_redirects=artifact,
            )
        except requests.RequestException as error:
            raise JenkinsError(f"{url}: {_short(error)}") from error
        with answer:
            if answer.status_code == requests.codes.not_found:
                raise NotFound(f"{url}: not found (gone, or this user may not see it)")
            if answer.is_redirect:
                host = urlsplit(answer.headers["Location"]).netloc
                raise JenkinsError(
                    f"{url}: redirects to {host or 'another page'}; is a login in front of it?"
                )
            if answer.status_code not in (requests.codes.ok, requests.codes.partial):
                raise JenkinsError(f"{url}: {_status(answer.status_code)}")
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


def _continues(answer: requests.Response, start: int, modified: str) -> bool:
    """Whether a 206 goes on exactly where we stopped, in the same file.

    Jenkins ignores If-Range and answers nonsense beyond the end, so nothing of it is believed.
    """
    return (
        answer.status_code == requests.codes.partial
        and answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        and answer.headers.get("Last-Modified", "") == modified
    )


def _bounded(chunks: Iterator[bytes], url: str) -> Iterator[bytes]:
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > JSON_LIMIT:
            raise Malformed(f"{url}: the answer is larger than {JSON_LIMIT >> 20} MiB")
        yield chunk


def _status(code: int) -> str:
    hints = {401: "the user or its token is wrong", 403: "this user may not read it"}
    return f"HTTP status {code}" + (f": {hints[code]}" if code in hints else "")


def _short(error: Exception) -> str:
    """The innermost reason, on one line: requests nests four exceptions around it."""
    text, reason = str(error), error
    while (inner := reason.__cause__ or reason.__context__) and isinstance(inner, OSError | HTTPError):
        reason = inner
        text = str(inner) or text
    return text.splitlines()[0][-200:] if text else type(error).__name__
