"""Clients on another host, who read a server, or several behind one name, over HTTPS in a loop.

They know an index and its signature, and what an index named must be there, with its size and SHA-256, for as
long as it was promised. A connection that is refused, cut or too slow is no fault; a wrong answer is one.
"""

import hashlib
import json
import random
import ssl
import threading
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Self

import pysequoia
from hosts import Host

TIMEOUT = 5.0  # seconds without an answer
PAIRS = (
    ("streams/v1/index.json", ".gpg"),
    ("streams/v1/images.json", ".gpg"),
    ("meta/1.0/index-system", ".asc"),
    ("meta/1.0/index-user.2", ".asc"),
)
CLEAR = ("streams/v1/index.sjson", "streams/v1/images.sjson")
FEW = 4  # files that are fetched in a round
AT_ONCE = 2.0  # seconds that three requests may take to be about one moment


class AwayError(Exception):
    """Nobody answered, or not to the end."""


@dataclass
class Promise:
    """What an index said of a file, and until when it has to be there."""

    until: float
    digest: str = ""  # SHA-256, where it is told
    size: int = -1


@dataclass
class Counts:
    """What was read, and what was not."""

    rounds: int = 0
    requests: int = 0
    away: int = 0
    indexes: int = 0
    files: int = 0
    held: int = 0  # of these named by an earlier index alone
    octets: int = 0
    window: float = 0.0  # the longest that an index and its signature were out of step
    windows: int = 0


@dataclass
class Visitor:
    """Visits hosts behind one name; ``hold`` is how long what it read must hold."""

    name: str
    hosts: Sequence[Host]
    home: Host  # from which it asks
    ca: Path
    key: Path
    hold: float
    strict: bool = False  # an index and its signature are never out of step
    spare: Collection[str] = ()  # beginnings of paths that may vanish at once
    seed: int = 0
    faults: list[str] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        self._certificate = pysequoia.Cert.from_bytes(self.key.read_bytes())
        self._context = ssl.create_default_context(cafile=str(self.ca))
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._promises: dict[str, Promise] = {}
        self._since: dict[str, float] = {}  # when a pair was seen out of step
        self._dice = random.Random(f"{self.seed} {self.name}")
        self._born = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._visit, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _visit(self) -> None:
        self.home.enter()
        while not self._stop.is_set():
            try:
                self.look()
            except AwayError:
                self.counts.away += 1
                self._stop.wait(0.1)
            except Exception as error:
                self._fault("", f"the visitor itself: {error!r}")
                self._stop.wait(1)
            self.counts.rounds += 1
            self._stop.wait(0.02)

    def look(self) -> None:
        """One round: signatures, indexes, some of what they name now, and some of what they did."""
        for path, suffix in PAIRS:
            self._pair(path, suffix)
        path = self._dice.choice(CLEAR)
        text = self._get(path)
        if text is not None and not self._verified(text):
            self._fault(path, "is not well signed")
        fresh = {**self._streams(), **self._lxc()}
        for path, promise in fresh.items():
            known = self._promises.get(path)
            if known:
                promise.digest, promise.size = promise.digest or known.digest, max(promise.size, known.size)
            self._promises[path] = promise
        now = time.monotonic()
        self._promises = {path: one for path, one in self._promises.items() if one.until > now}
        for path in self._dice.sample(sorted(fresh), min(FEW, len(fresh))):
            self._fetch(path, self._promises.get(path))
        older = sorted(self._promises.keys() - fresh.keys())
        for path in self._dice.sample(older, min(FEW, len(older))):
            self.counts.held += self._fetch(path, self._promises[path])

    def _streams(self) -> dict[str, Promise]:
        began = time.monotonic()
        index = self._get("streams/v1/index.json")
        if index is None:
            return {}
        path = json.loads(index)["index"]["images"]["path"]
        text = self._get(path)
        if text is None:
            return {}
        self.counts.indexes += 1
        versions = [
            version
            for product in json.loads(text)["products"].values()
            for version in product["versions"].values()
        ]
        return {
            item["path"]: Promise(began + self.hold, item["sha256"], item["size"])
            for version in versions
            for item in version["items"].values()
        }

    def _lxc(self) -> dict[str, Promise]:
        began = time.monotonic()
        text = self._get("meta/1.0/index-system")
        if text is None:
            return {}
        self.counts.indexes += 1
        found = {}
        for line in text.decode().splitlines():
            directory = line.split(";")[5].strip("/")
            for name in ("rootfs.tar.xz", "rootfs.tar.xz.asc", "meta.tar.xz", "meta.tar.xz.asc"):
                found[f"{directory}/{name}"] = Promise(began + self.hold)
        return found

    def _fetch(self, path: str, promise: Promise | None) -> bool:
        """Fetch a file that an index named; as Incus does, over plain HTTP, or as LXC does, encrypted."""
        if promise is None or time.monotonic() > promise.until:
            return False
        body = self._get(path, plain=self._dice.random() < 0.5, until=promise.until)
        if body is None:
            return False
        self.counts.files += 1
        if promise.digest and hashlib.sha256(body).hexdigest() != promise.digest:
            self._fault(path, f"{len(body)} bytes are not the {promise.size} that the index says")
        return True

    def _pair(self, path: str, suffix: str) -> None:
        """Read an index, its signature, and the index again."""
        began = time.monotonic()
        first, signature, second = self._get(path), self._get(path + suffix), self._get(path)
        ended = time.monotonic()
        if first is None or signature is None or first != second:
            return
        if self._verified(first, signature):
            if path in self._since:
                window = ended - self._since.pop(path)
                self.counts.window = max(self.counts.window, window)
            return
        if path not in self._since:
            self.counts.windows += 1
        since = self._since.setdefault(path, began)
        self.counts.window = max(self.counts.window, ended - since)
        if self.strict and ended - began < AT_ONCE:
            self._fault(path + suffix, "is out of step with its index")

    @property
    def open(self) -> list[str]:
        """The indexes that are out of step with their signatures, as last seen."""
        return sorted(self._since)

    def _verified(self, text: bytes, signature: bytes | None = None) -> bool:
        more = {} if signature is None else {"signature": pysequoia.Sig.from_bytes(signature)}
        try:
            pysequoia.verify(bytes=text, store=lambda _: [self._certificate], **more)
        except Exception:
            return False
        return True

    def _get(self, path: str, *, plain: bool = False, until: float = float("inf")) -> bytes | None:
        """Ask one of the hosts, and the next if that is away; None and a fault for an answer that is wrong."""
        for host in self._dice.sample(list(self.hosts), len(self.hosts)):
            with suppress(OSError, HTTPException):
                status, body = self._ask(host, path, plain=plain)
                self.counts.requests += 1
                self.counts.octets += len(body)
                if status == 200:
                    return body
                if time.monotonic() < until and not path.startswith(tuple(self.spare) or ("\0",)):
                    since = until - self.hold - self._born
                    self._fault(path, f"{status} from {host.name}; an index of {since:.2f} s named it")
                return None
        raise AwayError

    def _ask(self, host: Host, path: str, *, plain: bool) -> tuple[int, bytes]:
        if plain:
            connection = HTTPConnection(host.address, timeout=TIMEOUT)
        else:
            connection = HTTPSConnection(host.address, timeout=TIMEOUT, context=self._context)
        try:
            connection.request("GET", f"/{path}", headers={"User-Agent": "visitor"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _fault(self, path: str, what: str) -> None:
        self.faults.append(f"{time.monotonic() - self._born:.2f} s {self.name}: /{path}: {what}")
