"""The door to other web servers than Jenkins: one small file, asked for only if it changed.

Proxies come from the environment. What is fetched is trusted for nothing here: signatures are checked
by whoever asked.
"""

from typing import NamedTuple

import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from tasks.errors import UpstreamError

TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two packets
LARGEST = 256 << 20  # bytes of one file; Ubuntu's 300,000 lines are 15 MiB
CHUNK = 1 << 20
_RETRY = Retry(total=3, backoff_factor=0.3, status_forcelist={429, 500, 502, 503, 504}, raise_on_status=False)


class Answer(NamedTuple):
    """What a server said: nothing new is a body of None, and so is nothing there, without a mark."""

    body: bytes | None
    mark: str = ""  # its ETag, "" for none


class Web:
    """One server."""

    def __init__(self, base: str, ca: str = "") -> None:
        self._base = base.rstrip("/")
        self._session = requests.Session()
        self._session.trust_env = False  # else ~/.netrc would add credentials, and another CA go before ours
        self._session.proxies.update(get_environ_proxies(base))
        self._session.verify = ca or True
        self._session.headers["User-Agent"] = "imagepress"
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=_RETRY))

    def get(self, path: str, mark: str = "") -> Answer:
        """A file, if it is another than that of the mark; raises UpstreamError."""
        url = f"{self._base}/{path}"
        headers = {"If-None-Match": mark} if mark else {}
        try:
            with self._session.get(url, headers=headers, timeout=TIMEOUT, stream=True) as answer:
                if answer.status_code == requests.codes.not_modified and mark:
                    return Answer(None, mark)
                if answer.status_code == requests.codes.not_found:
                    return Answer(None)
                if answer.status_code != requests.codes.ok:
                    raise UpstreamError(f"{url}: HTTP status {answer.status_code}")
                body = bytearray()
                for chunk in answer.iter_content(CHUNK):
                    body += chunk
                    if len(body) > LARGEST:
                        raise UpstreamError(f"{url}: is larger than {LARGEST >> 20} MiB")
                return Answer(bytes(body), answer.headers.get("ETag", ""))
        except (requests.RequestException, HTTPError, ValueError) as error:
            raise UpstreamError(f"{url}: {_short(error)}") from error


def _short(error: Exception) -> str:
    """The innermost reason, in one line: requests nests four exceptions around it."""
    text, reason = str(error), error
    while (inner := reason.__cause__ or reason.__context__) and isinstance(inner, OSError | HTTPError):
        reason = inner
        text = str(inner) or text
    return text.splitlines()[0][-200:] if text else type(error).__name__
