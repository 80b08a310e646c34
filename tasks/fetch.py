"""Bring the artifacts of a build into staging, ahead of the task that publishes them (acts).

Every artifact is streamed once, and in that one pass its size, md5, sha256 and the combined
fingerprints with each metadata file come out: memory does not depend on its size. A few threads work
through the wishes in order; what looks into a build, or computes, does so on the same thread.
"""

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePosixPath

from jenkins.api import job_path, quoted
from jenkins.client import Client
from jenkins.errors import JenkinsError, NotFound
from tasks.errors import ImageRejected, UpstreamError
from tasks.hashed import Staged, Staging
from tasks.image import (
    DEFINITION,
    INCUS,
    LOG,
    LXD,
    SERIAL,
    STORED,
    UNIFIED,
    UNIFIED_LXD,
    UNIFIED_VM,
    parse_serial,
    publishable,
)
from tasks.plan import Wish
from tasks.settings import Artifacts, Jenkins
from tasks.threads import ahead

SERIAL_LIMIT = 64  # bytes of the artifact that names the image
PLAIN = Artifacts()  # without any pattern


class Fetcher:
    """Downloads ahead of the tasks that wait for them.

    ``finish`` does on the same thread what takes long: it raises ImageRejected for what a build holds,
    and returns it with what was made of it.
    """

    def __init__(
        self,
        client: Client,
        staging: Path,
        finish: Callable[[Wish, Staged], Staged],
        settings: Jenkins,
    ) -> None:
        self._client, self._staging, self._finish = client, staging, finish
        self._settings = settings
        self._futures: dict[Wish, Future[Staged]] = {}

    def start(self, wishes: Iterable[Wish]) -> None:
        """Begin to fetch these, in this order."""
        wishes = list(wishes)
        futures = ahead(self._fetch, wishes, self._settings.downloads)
        self._futures |= dict(zip(wishes, futures, strict=True))

    def take(self, wish: Wish) -> Staged:
        """Wait for one; raises ImageRejected or UpstreamError."""
        if wish not in self._futures:
            self.start([wish])
        return self._futures.pop(wish).result()

    def has(self, wish: Wish) -> bool:
        """Whether ``take`` would not wait for a transfer under way."""
        return wish not in self._futures or self._futures[wish].done()

    def arrived(self, timeout: float | None) -> list[Wish]:
        """Wait until any is there, or for so many seconds; those that nobody took yet, in order."""
        wait(self._futures.values(), timeout, return_when=FIRST_COMPLETED)
        return [wish for wish, future in self._futures.items() if future.done()]

    def awaited(self) -> int:
        """How many are not there yet."""
        return sum(not future.done() for future in self._futures.values())

    def _fetch(self, wish: Wish) -> Staged:
        directory, settings = self._staging / wish.product.key, self._settings
        staged = fetch(self._client, wish, directory, log=settings.log, unified=settings.artifacts)
        return self._finish(wish, staged)


def fetch(client: Client, wish: Wish, directory: Path, *, log: bool, unified: Artifacts = PLAIN) -> Staged:
    """Fetch one build whole; raises ImageRejected for what it holds, UpstreamError for the way."""
    paths = sort_artifacts(wish.artifacts, unified)
    build = "/".join(
        [
            job_path(wish.job),
            *([quoted(wish.configuration)] if wish.configuration else []),
            str(wish.number),
        ]
    )
    recorded = _Recorded(wish.md5)
    try:
        text = _serial(client, f"{build}/artifact/{_url(paths[SERIAL])}", recorded)
        serial = "" if recorded.doubted else _parsed(text)
        load = _Load(client, Staging(directory), recorded)
        for name in (name for name in STORED if name in paths):
            load.artifact(name, f"{build}/artifact/{_url(paths[name])}")
        if log:
            load.staging.add(LOG, partial(client.download, f"{build}/consoleText"))
    except NotFound as error:
        raise UpstreamError(f"{wish.build} lost a file while it was fetched: {error}") from error
    except JenkinsError as error:
        raise UpstreamError(str(error)) from error
    return load.staging.staged(serial or _parsed(text))


def sort_artifacts(paths: Iterable[str], unified: Artifacts = PLAIN) -> dict[str, str]:
    """The artifacts that matter, by the name to store; raises ImageRejected when they make no image.

    Where lxd.tar.xz is there and incus.tar.xz is not, it stands in for it under that name. A unified
    image has a name of its own in each build: ``unified`` has the patterns.
    """
    found: dict[str, str] = {}
    for path in paths:
        name = _stored(path, unified)
        if not name:
            continue
        if name in found:
            same = name == PurePosixPath(path).name == PurePosixPath(found[name]).name
            what = f"are called {name}" if same else f"would be {name}"
            raise ImageRejected(f"two artifacts {what}: {found[name]!r} and {path!r}")
        if path.startswith("/") or ".." in path.split("/"):
            raise ImageRejected(f"the artifact path {path[:100]!r} is not a plain relative one")
        found[name] = path
    if SERIAL not in found:
        raise ImageRejected("there is no artifact called serial")
    if not publishable(found):
        have = ", ".join(sorted(found.keys() - {SERIAL})) or "none of them"
        raise ImageRejected(
            "the artifacts make no image: needed are rootfs.squashfs or disk.qcow2 with incus.tar.xz,"
            " or rootfs.tar.xz with meta.tar.xz, or a unified image that jenkins.artifacts names;"
            f" there are {have}"
        )
    if LXD in found and INCUS not in found:
        found[INCUS] = found.pop(LXD)
    return found


def _stored(path: str, unified: Artifacts) -> str:
    """The name under which an artifact is stored, "" for none; raises ImageRejected when there are two."""
    name = PurePosixPath(path).name
    if name in (*STORED, SERIAL):
        return name  # whatever else it might fit
    patterns = {
        UNIFIED: unified.unified,
        UNIFIED_LXD: unified.unified_lxd,
        UNIFIED_VM: unified.unified_vm,
    }
    fits = [stored for stored, pattern in patterns.items() if pattern and fnmatchcase(name, pattern)]
    if len(fits) > 1:
        raise ImageRejected(
            f"the artifact {path[:100]!r} fits two patterns of jenkins.artifacts: {' and '.join(fits)}"
        )
    return fits[0] if fits else ""


class _Recorded:
    """The md5s that Jenkins recorded of a build, as far as they speak of its artifacts.

    They are one list without the files' names (see jenkins.api.Fingerprint), and it may be of other
    files: a step can fingerprint what it copied and leave out what is archived. The serial tells. It
    is fetched first, and is new with each build: is its md5 on the list, then artifacts were
    fingerprinted, and each must be on it. Is it not, and fetched again neither, then the list says
    nothing of artifacts, and none can be called wrong; unless one of them is on it after all, for then
    it is the serial that is not what was archived. Only the definition of an image proves nothing:
    a job may archive it as it was copied.
    """

    def __init__(self, md5: Iterable[str]) -> None:
        self._md5 = frozenset(md5)
        self.doubted = ""  # the md5 of a serial that is not on the list

    def has(self, name: str, md5: str) -> bool:
        """Whether an artifact may be what was archived; raises UpstreamError when the serial cannot."""
        known = md5 in self._md5
        if known and self.doubted and name != DEFINITION:
            raise UpstreamError(_foreign(SERIAL, self.doubted))
        return known or not self._md5 or bool(self.doubted)


class _Load:
    """The files of one build as they come in."""

    def __init__(self, client: Client, staging: Staging, recorded: _Recorded) -> None:
        self._client, self.staging, self._recorded = client, staging, recorded

    def artifact(self, name: str, url: str) -> None:
        """Fetch one artifact and hold it against Jenkins' md5; raises UpstreamError when it differs.

        Of two equal files for the two daemons the second is dropped.
        """
        for _ in range(2):
            self.staging.add(name, partial(self._client.download, url))
            if self._recorded.has(name, self.staging.md5[name]):
                break
        else:
            raise UpstreamError(_foreign(name, self.staging.md5[name]))
        self.staging.settle(name)


def _serial(client: Client, url: str, recorded: _Recorded) -> bytes:
    for _ in range(2):
        sink = _Text()
        client.download(url, sink)
        md5 = hashlib.md5(sink.text, usedforsecurity=False).hexdigest()
        if recorded.has(SERIAL, md5):
            break
    else:
        recorded.doubted = md5
    return sink.text


def _parsed(text: bytes) -> str:
    try:
        return parse_serial(text.decode("ascii", "replace"))
    except ValueError as error:
        raise ImageRejected(str(error)) from error


def _foreign(name: str, md5: str) -> str:
    return f"{name}: its md5 {md5} is none that Jenkins recorded for this build"


class _Text:
    """A small text, kept in memory."""

    def __init__(self) -> None:
        self.size, self.text = 0, b""

    def write(self, chunk: bytes) -> None:
        self.text += chunk
        self.size += len(chunk)
        if self.size > SERIAL_LIMIT:
            raise ImageRejected(f"the artifact serial is longer than {SERIAL_LIMIT} bytes")

    def reset(self) -> None:
        self.size, self.text = 0, b""


def _url(path: str) -> str:
    return "/".join(quoted(segment) for segment in path.split("/"))
