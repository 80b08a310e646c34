"""The door to other web servers than Jenkins: one small file, asked for only if it changed, or a large one.

Large ones come as artifacts do: resumed, and given up when they are too slow (``jenkins.client``).
Proxies come from the environment. What is fetched is trusted for nothing here: signatures and hashes are
checked by whoever asked. The site's lock is held meanwhile, so what is small has only so much time.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple
from urllib.parse import quote

import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from jenkins.client import Client, Sink, short
from jenkins.errors import JenkinsError
from tasks.errors import UpstreamError
from tasks.threads import ahead

TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two packets
LARGEST = 256 << 20  # bytes of one file; Ubuntu's 300,000 lines are 15 MiB
CHUNK = 1 << 20
LIMIT = 600.0  # seconds for all that is got of one server
SLOWEST = 1024  # bytes a second over PATIENCE, below that a body is given up
PATIENCE = 60.0
QUIET = 10.0  # seconds after which people are told what is waited for
_RETRY = Retry(
    total=3,
    backoff_factor=0.3,
    status_forcelist={429, 500, 502, 503, 504},
    raise_on_status=False,
    retry_after_max=60,  # seconds
)
# What servers say of what is not there: stores like S3 do not tell it from what nobody may list.
_ABSENT = {requests.codes.not_found, requests.codes.gone, requests.codes.forbidden}


class Answer(NamedTuple):
    """What a server said: nothing new is a body of None, and so is nothing there, without a mark."""

    body: bytes | None
    mark: str = ""  # its ETag, "" for none


class Web:
    """One server; its time runs from here on."""

    def __init__(self, base: str, ca: str = "", say: Callable[[str], object] = lambda _line: None) -> None:
        self._base, self._say = base.rstrip("/"), say
        self.limit, self.patience, self.quiet = LIMIT, PATIENCE, QUIET
        self._began = time.monotonic()
        self._large = Client(base, ca=ca)
        self._session = requests.Session()
        self._session.trust_env = False  # else ~/.netrc would add credentials, and another CA go before ours
        self._session.proxies.update(get_environ_proxies(base))
        self._session.verify = ca or True
        self._session.headers["User-Agent"] = "imagepress"
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=_RETRY))

    def get(self, path: str, mark: str = "") -> Answer:
        """A file, if it is another than that of the mark; raises UpstreamError.

        On a thread, which is left to itself when the time is up: a server may be slow with each byte of
        its headers, and the way to it with its address, where nothing here would look at the clock.
        """
        url = f"{self._base}/{path}"
        (answer,) = ahead(partial(self._get, mark=mark), [url], 1)
        left = max(0.0, self._began + self.limit - time.monotonic())
        with suppress(TimeoutError):
            return answer.result(min(left, self.quiet))
        if left > self.quiet:
            self._say(f"waiting for {url}")
            with suppress(TimeoutError):
                return answer.result(left - self.quiet)
        raise self._late(url)

    def _late(self, url: str) -> UpstreamError:
        return UpstreamError(f"{url}: did not come within the {self.limit:.0f} s that one server has")

    def _get(self, url: str, mark: str) -> Answer:
        headers = {"If-None-Match": mark} if mark else {}
        try:
            with self._session.get(url, headers=headers, timeout=TIMEOUT, stream=True) as answer:
                if answer.status_code == requests.codes.not_modified and mark:
                    return Answer(None, mark)
                if answer.status_code in _ABSENT:
                    return Answer(None)
                if answer.status_code != requests.codes.ok:
                    raise UpstreamError(f"{url}: HTTP status {answer.status_code}")
                return Answer(self._body(url, answer), answer.headers.get("ETag", ""))
        except (OSError, HTTPError, ValueError) as error:  # OSError is a CA that cannot be read, too
            raise UpstreamError(f"{url}: {short(error)}") from error

    def _body(self, url: str, answer: requests.Response) -> bytes:
        """As it comes, for a chunk that is waited for would hide a server that drips."""
        body, window, began = bytearray(), 0, time.monotonic()
        while chunk := answer.raw.read1(CHUNK, decode_content=True):
            body += chunk
            if len(body) > LARGEST:
                raise UpstreamError(f"{url}: is larger than {LARGEST >> 20} MiB")
            if (now := time.monotonic()) > self._began + self.limit:
                raise self._late(url)
            if (waited := now - began) > self.patience:
                if len(body) - window < SLOWEST * waited:
                    raise UpstreamError(f"{url}: slower than {SLOWEST} bytes a second, given up")
                began, window = now, len(body)
        return bytes(body)

    def download(self, path: str, sink: Sink) -> None:
        """Stream a file to where its bytes are checked, from those on that it has; raises UpstreamError."""
        try:
            self._large.download(quote(path), sink)
        except JenkinsError as error:
            raise UpstreamError(str(error)) from error
