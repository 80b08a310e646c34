"""Bring the files of mirrored upstreams here (acts).

Each comes into a part file that outlives this run, is hashed while it comes, and moves into the tree when
it is the one that a signed list names. What can be listed then is written where ``indexes`` finds it, so no
index names a file that is not here. What a kill leaves out of the record is hashed and joins it.
"""

import queue
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from tasks import files, overlay, stock, streams, tree
from tasks.errors import ImageRejected, PublishError, TreeError, UpstreamError
from tasks.hashed import Part, file_of, settle
from tasks.image import File
from tasks.layout import Layout
from tasks.overlay import TOP
from tasks.settings import Upstream
from tasks.state import Held, listing, load, save
from tasks.threads import CORES, ahead, together
from tasks.web import Web
from tasks.words import counted

DOWNLOADS = 4  # files of one upstream that come at once
PATIENCE = 5.0  # seconds without any file after which whoever waits gets a word in
LIMIT = 600.0  # seconds without a byte of any file, and the rest is left to the next run: the lock is held
TRIALS = 5  # transfers that fail one after the other, and the server is left alone until the next run


def is_current(layout: Layout, of: Upstream) -> bool:
    """Whether all that the upstream was last known to offer is here and listed; asks nobody."""
    offered, held = files.read(layout.offered(of.name)), load(layout.held(of.name), Held)
    if offered is None:
        return True  # it never answered
    return (
        held is not None
        and held.done == _mark(offered, of)
        and files.status(layout.overlay(of.name)) is not None
        and _is_known(layout, of.name, held)
    )


def missing(layout: Layout, of: Upstream) -> list[File]:
    """The files that are to come, as far as is known; asks nobody and reads none."""
    wanted = stock.wanted(load(layout.offered(of.name), dict) or {}, of.keep)
    known, sizes = load(layout.held(of.name), Held) or Held(), _sizes(layout, of.name)
    return [one for path, one in wanted.items() if path not in sizes or known.files.get(path, one) != one]


def strangers(layout: Layout, upstreams: Iterable[Upstream]) -> list[str]:
    """The names whose files lie here and are not to stay."""
    mirrored = {one.name for one in upstreams if one.is_mirrored}
    with files.disk("list"):
        there = {path.name for top in (layout.public / TOP, layout.parts) for path in top.glob("*")}
    held = {path.stem: load(path, Held) or Held() for path in listing(layout.state / "held")}

    def is_lapsing(name: str) -> bool:
        record = held.get(name)
        return bool(record and record.files and not record.kept and _is_known(layout, name, record))

    return sorted(name for name in (there | held.keys()) - mirrored if not is_lapsing(name))


def leave(layout: Layout, name: str) -> None:
    """Let the files of an upstream lapse that is not mirrored any more; those in parts go at once."""
    here = _present(layout, name)
    if here:
        save(layout.held(name), Held(files=here, kept=False))
    else:
        files.unlink(layout.held(name))
    files.unlink(layout.offered(name))
    with files.disk("remove"):
        shutil.rmtree(layout.parts / name, ignore_errors=True)


class Haul:
    """The files of one upstream, in one run."""

    def __init__(self, layout: Layout, of: Upstream) -> None:
        self._layout, self._of = layout, of
        self._web = Web(of.url, str(of.ca or ""))
        self._text = files.read(layout.offered(of.name)) or b""
        self._offered = load(layout.offered(of.name), dict) or {}
        self._wanted = stock.wanted(self._offered, of.keep)
        self._here = _present(layout, of.name)
        self._failed = dict((load(layout.held(of.name), Held) or Held()).failed)
        self._stop = False
        self._count = self._size = self._troubles = 0
        self.limit, self._seen, self._grown = LIMIT, -1, time.monotonic()

    def arrive(self) -> Iterator[None]:
        """Fetch what is missing, and yield with every file, and every few seconds without one."""
        missing = {
            path: self._wanted[path]
            for path in sorted(self._wanted, key=self._failed.__contains__)  # must not hold up the others
            if self._here.get(path) != self._wanted[path]
        }
        self._sweep(missing)
        if missing:
            self.settle()  # what was lost is noted at once, and so is seen to come again
        arrived: queue.SimpleQueue[tuple[str, BaseException | None]] = queue.SimpleQueue()

        def fetch(path: str) -> None:
            try:
                self._fetch(path, missing[path])
            except BaseException as error:  # noqa: BLE001 - the main thread raises it
                arrived.put((path, error))
            else:
                arrived.put((path, None))

        ahead(fetch, missing, DOWNLOADS)
        left = len(missing)
        while left:
            try:
                path, error = arrived.get(timeout=PATIENCE)
            except queue.Empty:
                if self._is_stuck(missing):
                    return
                yield
                continue
            left -= 1
            self._note(path, missing[path], error)
            yield

    def _note(self, path: str, file: File, error: BaseException | None) -> None:
        """What became of a file; raises what is nobody's fault but ours."""
        if error is None:
            self._here[path] = file
            self._count, self._size, self._troubles = self._count + 1, self._size + file.size, 0
        elif isinstance(error, PublishError):
            self._troubles += isinstance(error, UpstreamError)
            self._stop |= self._troubles >= TRIALS
            self._failed[path] = str(error)
        elif not isinstance(error, _Stopped):
            raise error

    def _is_stuck(self, missing: Mapping[str, File]) -> bool:
        """Whether a server holds us up: bit by bit, or with headers, where no transfer looks at the clock."""
        with files.disk("look at"):
            parts = (self._layout.parts / self._of.name).glob("*")
            size = self._size + sum(seen.st_size for path in parts if (seen := files.status(path)))
        if size != self._seen:
            self._seen, self._grown = size, time.monotonic()
        if time.monotonic() - self._grown < self.limit:
            return False
        self._stop = True
        still = next(path for path, file in missing.items() if self._here.get(path) != file)
        self._failed[still] = f"{self._of.url}: nothing came for {self.limit:.0f} s"
        return True

    def settle(self) -> str:
        """Note what is here, and let the versions that are whole be listed; says what came."""
        of, layout = self._of, self._layout
        before = load(layout.overlay(of.name), dict) or {}
        listed = stock.listed(self._offered, of.keep, self._here, before)
        named = stock.files(listed)
        waiting = tuple(sorted(path for path in self._wanted if path in self._here and path not in named))
        missing = {path for path, file in self._wanted.items() if self._here.get(path) != file}
        failed = {path: why for path, why in self._failed.items() if path in missing}
        done = "" if missing else _mark(self._text, of)
        save(layout.held(of.name), Held(files=self._here, waiting=waiting, failed=failed, done=done))
        files.write_changed(layout.overlay(of.name), streams.text(listed))
        came = f"{counted(self._count, 'file')} came, {self._size:,} bytes"
        short = f"; {len(missing)} missing" if missing else ""
        return f"{of.name}: {came}; {overlay.summary(listed)}{short}"

    def _fetch(self, path: str, file: File) -> None:
        """Bring one file; raises ImageRejected for what it is, UpstreamError for the way."""
        if self._stop:
            raise _Stopped
        source = path.removeprefix(f"{TOP}/{self._of.name}/")
        part = self._part(path, file)
        try:
            if not self._is_whole(part, file, source):
                files.unlink(part)
                what = f"{file.size} bytes with the sha256 {file.sha256}"
                raise ImageRejected(f"{self._of.url}/{source}: is not what its signed list names, {what}")
            settle(part, self._layout.public / path)
        except TreeError:
            self._stop = True
            files.unlink(part)  # on a full disk everything else needs the room
            raise

    def _is_whole(self, part: Path, file: File, source: str) -> bool:
        """Whether what comes is the file; a beginning that turns out to be of another is fetched again."""
        for _ in range(2):
            with Part(part, file.size) as sink:
                kept = sink.size
                with suppress(ImageRejected):  # it goes on after the last byte
                    if kept < file.size:
                        self._web.download(source, sink)
                if (sink.size, sink.sha256.hexdigest()) == (file.size, file.sha256):
                    return True
                if not kept:
                    return False
                sink.reset()
        return False

    def _part(self, path: str, file: File) -> Path:
        return self._layout.parts / self._of.name / files.digest(f"{path} {file.sha256}".encode())

    def _sweep(self, missing: dict[str, File]) -> None:
        """Remove the beginnings of files that nobody wants any more."""
        wanted = {self._part(path, file) for path, file in missing.items()}
        with files.disk("sweep"):
            for path in (self._layout.parts / self._of.name).glob("*"):
                if path not in wanted:
                    path.unlink()


class _Stopped(Exception):  # noqa: N818 - never leaves this module
    """Nothing more is fetched in this run."""


def _mark(offered: bytes, of: Upstream) -> str:
    return f"{of.keep} {files.digest(offered)}"


def _is_known(layout: Layout, name: str, held: Held) -> bool:
    """Whether the files that lie here are those of the record, as far as their sizes tell."""
    return _sizes(layout, name) == {path: file.size for path, file in held.files.items()}


def _sizes(layout: Layout, name: str) -> dict[str, int]:
    """The files of an upstream that lie here, by their paths below ``public``."""
    return tree.sizes_of(layout.public, f"{TOP}/{name}")


def _present(layout: Layout, name: str) -> dict[str, File]:
    """The files that lie here; of whom nothing is known, or another size, are read."""
    sizes, known = _sizes(layout, name), (load(layout.held(name), Held) or Held()).files
    here = {path: known[path] for path, size in sizes.items() if path in known and known[path].size == size}
    strange = [path for path in sizes if path not in here]
    read = together(lambda path: file_of(layout.public / path), strange, CORES)
    return here | dict(zip(strange, read, strict=True))
