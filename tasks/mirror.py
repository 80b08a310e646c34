"""Make a mirror equal to the newest snapshot, by rsync (acts).

In this order: images, deltas, the LXC index, the streams, the page, and what is gone at last, so that
nothing on the mirror ever names a file that is not there. Indexes are compared by checksum: rsync's quick
check misses one of equal size written in the same second. What the mirror's own index named until lately
stays for ``grace`` after that mirror switched, however long it was away.

rsync renames one file after the other, so an index and its signature are out of step for a moment. A mirror
that is flipped has its indexes below ``.index/``, a directory for each time they changed, and shows them by
one symbolic link, which rsync replaces by one rename: images, which never change, are in one place.

Nothing is ever deleted where ``site-id`` does not say that the tree there is ours.
"""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from msgspec.structs import replace

from tasks import files, trace, tree, trees
from tasks.errors import ProgramFailed, TreeError, UpstreamError
from tasks.layout import OLD_SERIAL, PAGE, SITE_ID, TRACE, Layout
from tasks.mirrored import Terms, protected, record, shape
from tasks.overlay import TOP
from tasks.rsync import Rsync, literal
from tasks.settings import Mirror, is_remote
from tasks.state import Mirrored, latest_name, save
from tasks.words import lasting

IMAGES = ["--include=/images", f"--include=/{TOP}", "--exclude=/*"]  # what images are: all else names them
# Of a mount point's own, and of what says whose tree it is, nothing is written or deleted on the way.
INDEXES = ["--exclude=/images", f"--exclude=/{TOP}", f"--exclude=/{SITE_ID}", "--exclude=/lost+found"]
IN_IMAGE = "/images/*/*/*/*/*"  # below os, release, arch, variant and serial
SHOWN = f"--filter=show {IN_IMAGE}/**"  # to the sender: what is deleted is said elsewhere
DELTAS = "delta-*.vcdiff*"
DELETE = ["--delete", "--delete-delay", "--existing", "--ignore-existing"]  # adds nothing
PARTLY = "--partial-dir=.partial"  # what came of a file when a push was cut, for the next to go on with
INDEX, NOW = ".index", "now"
PATIENCE = 60.0  # seconds for what a mirror is asked over HTTP


@dataclass(frozen=True)
class Source:
    """What a mirror is to get: a snapshot, or a part of one with indexes of its own."""

    snapshot: str
    images: Path  # the directory above images/
    indexes: Path  # the one above streams/
    listed: frozenset[str]  # what these indexes name: directories of images, and files of upstreams
    filters: str = ""  # rsync's, a line each, of what is left out
    notes: tuple[str, ...] = ()  # to be said of it

    @property
    def tree(self) -> str:
        """What the indexes are called below ``.index/``: other indexes, another name."""
        seen = sorted((path, mark[1]) for path, mark in trees.marks(self.indexes).items() if _is_index(path))
        return f"{self.snapshot}-{sha256(repr(seen).encode()).hexdigest()[:8]}"


def whole(layout: Layout) -> Source:
    """The newest snapshot."""
    name = latest_name(layout)
    # The real directory, for latest may be flipped meanwhile.
    source = (layout.snapshots / name / "public").resolve()
    return Source(name, source, source, frozenset(tree.listed_paths(source) | tree.brought(source)))


def carried(chosen: str = "") -> list[list[str]]:
    """The options of each phase that brings what no index names yet, in order.

    ``chosen`` is the option for a source's filters. rsync holds every name against one filter after the
    other, which may be thousands: so those for the files of an image are the first.
    """
    more = [chosen] if chosen else []
    return [
        [f"--exclude={IN_IMAGE}/{DELTAS}", SHOWN, *more, "--include=/images", "--exclude=/*"],
        ["--ignore-existing", *more, f"--include=/{TOP}", "--exclude=/*"],  # of a name that is there: later
        [
            f"--include={IN_IMAGE}/{DELTAS}",
            f"--exclude={IN_IMAGE}/**",
            *more,
            "--include=/images",
            "--exclude=/*",
        ],
    ]


def named() -> list[list[str]]:
    """The options of each phase that brings what names images, in order; the trace is the last file."""
    people = [PAGE, OLD_SERIAL, TRACE]
    later = [f"--exclude=/{one}" for one in people]
    return [
        ["--checksum", "--delay-updates", "--include=/meta", "--include=/meta/1.0/***", "--exclude=*"],
        ["--checksum", "--delay-updates", *INDEXES, *later],
        ["--checksum", *[f"--include=/{one}" for one in people], "--exclude=*"],
    ]


class Push:
    """One push to one mirror; its four parts raise ProgramFailed, TreeError, UpstreamError or OSError."""

    def __init__(self, mirror: Mirror, source: Source, terms: Terms, *, adopt: bool = False) -> None:
        self.mirror, self._source, self._terms, self._adopt = mirror, source, terms, adopt
        failing = record(terms.layout, mirror).failed  # it was tried again before, and waits for nobody now
        self._rsync = Rsync(mirror, terms.keep, 0 if failing else None)

    def carry(self) -> None:
        """Bring what no index there names yet; raises TreeError when the destination is not ours.

        Raises MadeWay when another run waits: it is what takes hours, and can go on later.
        """
        url, before = self.mirror.url, record(self._terms.layout, self.mirror)
        if not is_remote(url):
            _make(Path(url))
        if not (marked := self._is_marked()):
            self._rsync.push([f"--include=/{SITE_ID}", "--exclude=*"], self._source.indexes)
        new = not before.snapshot and (marked or self._adopt)
        if new and (there := self._listed_there() - {*before.listed}):
            self._save(replace(before, url=url, listed=tuple(sorted(there | {*before.listed}))))
        every = ["--checksum"] if self._adopt else []  # of the right size and time it may be, and wrong
        with _merged(self._source.filters) as chosen:
            for phase in carried(chosen):
                self._rsync.push([*every, PARTLY, *phase], self._source.images, way=self._terms.way)

    def switch(self) -> None:
        """Let the mirror name what it has now."""
        before, name = record(self._terms.layout, self.mirror), self._source.tree if self.mirror.flip else ""
        # First, for whatever ends us from here on: clients may have seen these indexes.
        before = replace(
            before, url=self.mirror.url, listed=tuple(sorted({*before.listed, *self._source.listed}))
        )
        self._save(before)
        self._still_ours()
        self._replaced()
        if name:
            self._flip(name, before.tree)
        else:
            for phase in named():
                self._rsync.push(phase, self._source.indexes)
        now = int(self._terms.clock().timestamp())
        seen, was = {*before.listed}, (before.snapshot, before.shape)
        gone = (seen | {*before.lapsing}) - self._source.listed
        known = replace(
            before,
            snapshot=self._source.snapshot,
            shape=shape(self.mirror),
            tree=name,
            listed=tuple(sorted(self._source.listed)),
            lapsing={path: now if path in seen else before.lapsing[path] for path in sorted(gone)},
        )
        self._save(known if was == (known.snapshot, known.shape) else replace(known, lag=None))

    def sweep(self, others: Iterable[Mirror] = ()) -> None:
        """Remove what no index there has named for ``grace``; ``others`` are behind the same name."""
        self._still_ours()
        known = record(self._terms.layout, self.mirror)
        lapsing = protected(known, self._terms, others)
        with _merged(_kept(lapsing) + self._source.filters) as chosen:
            self._rsync.push([*DELETE, SHOWN, chosen, *IMAGES], self._source.images)
        if known.tree:
            place = f"{INDEX}/{known.tree}"
            self._rsync.push([*DELETE, *INDEXES], self._source.indexes, place)
            with self._links(known.tree) as links:
                self._rsync.push([*DELETE, *INDEXES, f"--exclude=/{place}"], links)
        else:
            self._rsync.push([*DELETE, *INDEXES], self._source.indexes)
        absent = (path for path in self._terms.gone if not (self._source.images / path).exists())
        self._save(replace(known, lapsing=lapsing, gone=tuple(sorted(absent)), failed="", since=0))

    def ask(self) -> None:
        """See that the mirror shows what it has now, and how long that took; raises UpstreamError.

        On clients' way, where that is known, else by rsync.
        """
        expected = files.read(self._source.indexes / TRACE)
        wanted = trace.read(expected.decode()) if expected else None
        known = record(self._terms.layout, self.mirror)
        if wanted is None:  # of a time before there was such a file
            return
        place = f"{INDEX}/{NOW}/{TRACE}" if known.tree else TRACE
        there = self._asked() if self.mirror.probe else self._rsync.read(place)
        shown = trace.read(there or "")
        if shown != wanted:
            asked = f"{self.mirror.probe} (probe)" if self.mirror.probe else self.mirror.url
            found = f"{shown.snapshot} of {shown.published}" if shown else f"no {TRACE} of this site"
            raise UpstreamError(
                f"everything is there, but {asked} shows {found}, not {wanted.snapshot}:"
                " is it that directory that is served there, and no cache's copy?"
            )
        if known.lag is None:
            self._save(replace(known, lag=max(0, int(self._terms.clock().timestamp()) - wanted.seconds)))

    def compare(self, others: Iterable[Mirror] = ()) -> list[str]:
        """What on the mirror is not as it should be, a line each; changes nothing."""
        self._still_ours()
        known = record(self._terms.layout, self.mirror)
        lapsing = protected(known, self._terms, others)
        with _merged(_kept(lapsing) + self._source.filters) as chosen:
            found = self._rsync.compare([SHOWN, chosen, *IMAGES], self._source.images)
        if not known.tree:
            return found + self._rsync.compare(INDEXES, self._source.indexes)
        place = f"{INDEX}/{known.tree}"
        found += self._rsync.compare(INDEXES, self._source.indexes, place)
        with self._links(known.tree) as links:
            return found + self._rsync.compare([*INDEXES, f"--exclude=/{place}"], links)

    def done(self) -> str:
        """The line of a push that went well."""
        known = record(self._terms.layout, self.mirror)
        lag = "" if known.lag is None else f", seen {lasting(known.lag)} after it was published"
        return "; ".join([f"{known.snapshot} is at {self.mirror.url}{lag}", *self._source.notes])

    def _save(self, known: Mirrored) -> None:
        save(self._terms.layout.mirrored(self.mirror.name), known)

    def _flip(self, name: str, before: str) -> None:
        """Bring the indexes into a directory of their own, and let one link show them."""
        with tempfile.TemporaryDirectory() as empty:
            Path(empty, INDEX).mkdir()
            self._rsync.push([], Path(empty))
        options, place = ["--checksum", *INDEXES], f"{INDEX}/{name}"
        linked = [f"--link-dest=../{before}"] if before not in ("", name) else []
        try:
            self._rsync.push([*linked, *options], self._source.indexes, place)
        except ProgramFailed as error:
            if "--link-dest" not in error.stderr:
                raise
            self._rsync.push(options, self._source.indexes, place)  # rrsync lets nothing lead upwards
        with self._links(name) as links:
            self._rsync.push([f"--include=/{INDEX}", f"--include=/{INDEX}/{NOW}", "--exclude=*"], links)
            self._refuse_munged()
            self._rsync.push(["--force", f"--exclude=/{INDEX}"], links)

    def _refuse_munged(self) -> None:
        """Raise TreeError when links lead nowhere there, before those that clients need are made."""
        expected = files.read(self._source.indexes / TRACE)
        if expected and self._rsync.read(f"{INDEX}/{NOW}/{TRACE}") != expected.decode():
            raise TreeError(
                f"mirror {self.mirror.name}: {self.mirror.url} changes symbolic links, so it cannot be"
                " flipped: its rsync daemon needs `munge symlinks = no`"
            )

    @contextmanager
    def _links(self, name: str) -> Iterator[Path]:
        """What lies above the images of a mirror that is flipped, as a directory to bring there."""
        with tempfile.TemporaryDirectory() as made:
            top = Path(made)
            (top / INDEX).mkdir()
            (top / INDEX / NOW).symlink_to(name)
            for one in self._source.indexes.iterdir():
                if one.name != SITE_ID and _is_index(f"/{one.name}"):
                    (top / one.name).symlink_to(f"{INDEX}/{NOW}/{one.name}")
            yield top

    def _asked(self) -> str:
        """The trace as clients would get it; raises UpstreamError."""
        from tasks.web import Web  # noqa: PLC0415 - few have an address to ask

        web = Web(self.mirror.probe, str(self.mirror.ca or ""))
        web.limit = PATIENCE
        try:
            body = web.get(f"{TRACE}?{self._source.snapshot}").body  # no cache has seen this one
        except UpstreamError as error:
            raise UpstreamError(f"everything is there, but probe: {error}") from error
        if body is None:
            raise UpstreamError(f"everything is there, but probe: {self.mirror.probe} has no {TRACE}")
        return body.decode(errors="replace")

    def _still_ours(self) -> None:
        """Raise TreeError when the destination is another one by now: bringing images takes its time."""
        if self._rsync.read(SITE_ID) != (self._source.indexes / SITE_ID).read_text():
            told = f"mirror {self.mirror.name}: {self.mirror.url}"
            raise TreeError(f"{told} has lost its {SITE_ID}, or is another one: is it mounted?")

    def _listed_there(self) -> set[str]:
        """What the indexes there name, for whom nothing is known here: clients may hold them."""
        with tempfile.TemporaryDirectory() as made:
            copy = Path(made)
            for place in ("", f"{INDEX}/{NOW}/"):
                self._rsync.fetch(
                    ["--include=/streams/***", "--include=/meta/***", "--exclude=*"], copy, place
                )
            with suppress(TreeError, ValueError):  # damaged, or not of our making
                return tree.listed_paths(copy) | tree.elsewhere(copy).keys()
        return set()

    def _replaced(self) -> None:
        """Bring what an upstream replaced under its old name, which the index there names as it was."""
        if (self._source.images / TOP).is_dir():
            every = ["--checksum"] if self._adopt else []
            with _merged(self._source.filters) as chosen:
                options = [*every, "--delay-updates", chosen, f"--include=/{TOP}", "--exclude=/*"]
                self._rsync.push(options, self._source.images)

    def _is_marked(self) -> bool:
        """Whether the destination is ours; raises TreeError unless it may become so: empty, or adopted."""
        own = (self._source.indexes / SITE_ID).read_text()
        there = self._rsync.read(SITE_ID)
        if there == own or self._adopt:
            return there == own
        name, url = self.mirror.name, self.mirror.url
        told = f"mirror {name}: {url}"
        if there:
            raise TreeError(
                f"{told} is another site's ({SITE_ID} {there.strip()[:40]!r});"
                f" nothing was changed there. If this site is its new owner: doit mirror --adopt={name}"
            )
        if record(self._terms.layout, self.mirror).snapshot:
            raise TreeError(
                f"{told} was ours and has lost its {SITE_ID}: is it mounted?"
                f" If it is: doit mirror --adopt={name}"
            )
        if not self._rsync.is_empty():
            raise TreeError(
                f"{told} is not empty and has no {SITE_ID}: is the address right? What this site does not"
                f" have would be deleted there; if that is meant: doit mirror --adopt={name}"
            )
        return False


def _make(directory: Path) -> None:
    """Make a mirror's directory, but not the one above it: that may be a disk that is not mounted."""
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f"{directory} is no directory")
    if not directory.parent.is_dir():
        raise FileNotFoundError(f"{directory}: there is no directory {directory.parent}: is it mounted?")
    directory.mkdir(exist_ok=True)


def _is_index(path: str) -> bool:
    """Whether a path, from ``/`` on, is none of what the indexes name."""
    return path.split("/")[1] not in ("images", TOP)


@contextmanager
def _merged(filters: str) -> Iterator[str]:
    """The option for filters, which may be more than a command line holds."""
    with tempfile.NamedTemporaryFile("w", suffix=".filter") as file:
        file.write(filters)
        file.flush()
        yield f"--filter=merge {file.name}"


def _kept(paths: Iterable[str]) -> str:
    """The filters of what is not to go."""
    return "".join(f"protect /{literal(path, _whole(path))}\n" for path in sorted(paths))


def _whole(path: str) -> str:
    """What makes a filter fit all that an image is; of upstreams single files are listed."""
    return "" if path.startswith(f"{TOP}/") else "/***"
