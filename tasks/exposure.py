"""From the ledgers to the mirrors: the second half of the pipeline, a step each or all at once (glue).

Each step is a doit task. ``all`` is for what cannot wait for the pipeline's end: a batch of images
while others still download, an image that is withdrawn at once, a return to an earlier snapshot.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from doit.exceptions import TaskError, TaskFailed

from tasks import files, frozen, indexes, preview, prune, purge, snapshot, tree, trees
from tasks.errors import MadeWay, PublishError, SettingsError, TreeError
from tasks.fleet import Fleet, part_of
from tasks.layout import KEY, PAGE, PROTOCOLS
from tasks.mirrored import Terms, behind
from tasks.overlay import TOP
from tasks.rsync import Way
from tasks.runtime import Run
from tasks.settings import Lxc, Mirror, Upstream
from tasks.state import NONE, Quarantine, encode, latest_name, load, save, snapshots
from tasks.words import counted

AGAIN = {  # what a step does because the configuration changed
    "collect": "again: what is listed, for site.keep changed",
    "streams": "again: the indexes, for the rules or lists changed",
    "page": "again: the page, for [page] or its template changed",
    "protocols": "again: the files of older protocols, for [protocols] changed",
}


class Exposure:
    """The steps, for one run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._layout, self._settings = run.layout, run.settings
        self._fleet = Fleet(run.settings.mirror, partial(part_of, run.layout, run.settings, run.signer))

    @property
    def lxc(self) -> Lxc:
        """The compat levels that are shown: those of the pinned snapshot, where there is one."""
        pin = self._run.decisions.pinned()
        shown = tree.lxc_indexes(self._layout.snapshots / pin.snapshot / "public") if pin else []
        levels = {int(path.suffix[1:]) for path in shown if path.suffix[1:].isdigit()}
        return Lxc(levels=tuple(sorted(levels))) if shown else self._settings.lxc

    @property
    def lists(self) -> list[str]:
        """The lists that are shown beside images.json: those of the pinned snapshot, where there is one."""
        pin = self._run.decisions.pinned()
        shown = self._layout.snapshots / pin.snapshot / "public" if pin else None
        return tree.lists(shown) if shown else [one.name for one in self._settings.list]

    @property
    def overlays(self) -> list[str]:
        """The upstreams that are shown beside our own: those of the pinned snapshot, where there is one."""
        pin = self._run.decisions.pinned()
        shown = self._layout.snapshots / pin.snapshot / "public" if pin else None
        return tree.overlays(shown) if shown else [one.name for one in self._settings.upstream]

    def streamed(self) -> object:
        """What the streams are made of beside the catalogue."""
        settings = self._settings
        urls = [one.url for one in settings.upstream]
        return settings.rules, settings.list, self.overlays, urls, files.stamp(self._layout.overlays)

    def stream_files(self) -> list[Path]:
        """Every file of the streams."""
        return tree.stream_files(self._layout.public, self.lists, self.overlays)

    def files(self) -> list[Path]:
        """Every file that names images."""
        return self.stream_files() + tree.lxc_files(self._layout.public, self.lxc)

    def people(self) -> list[Path]:
        """The page, and the key."""
        return [self._layout.public / PAGE, self._layout.public / KEY]

    def page_mark(self) -> tuple[object, ...]:
        """What the page is told beside the indexes, and what is in it."""
        html = files.read(self._layout.public / PAGE) or b""
        return *self._page_told(), self._settings.signing.key, files.digest(html), *self.older()

    def _page_told(self) -> tuple[object, ...]:
        own = self._settings.page
        template = own.template and files.digest(files.read(own.template) or b"")
        return own.title, own.remote, template

    def _told(self) -> dict[str, str]:
        """What the configuration says of each step, as a mark."""
        of = self._settings
        told = {
            "collect": of.site.keep,
            "streams": (of.rules, of.list),
            "page": self._page_told(),
            "protocols": of.protocols,
        }
        return {name: files.digest(encode(what)) for name, what in told.items()}

    def _note(self, step: str) -> None:
        """Keep what a step was told, for ``due``."""
        known = load(self._layout.told, dict) or {}
        save(self._layout.told, known | {step: self._told()[step]})

    def older(self) -> tuple[object, str]:
        """Which older protocols are spoken, and a mark of their files."""
        top = self._layout.public / PROTOCOLS
        with files.disk("list"):
            marks = sorted(trees.marks(top).items()) if top.exists() else []
        return self._settings.protocols, files.digest(repr(marks).encode())

    def beside(self) -> object:
        """What is frozen beside what names images, and the page."""
        return self._settings.site.compat, self.older()

    def haul(self) -> str | TaskFailed:
        """Bring the files of mirrored upstreams here, and show what is whole while others still come."""
        from tasks import haul  # noqa: PLC0415 - not needed when nothing is new

        run, wait = self._run, self._settings.site.batch_time.seconds
        for name in haul.strangers(self._layout, self._settings.upstream):
            haul.leave(self._layout, name)
        said = []
        for one in self._mirrored:
            coming, since = haul.Haul(self._layout, one), time.monotonic()
            for _ in coming.arrive():
                if "publish" in run.selected and time.monotonic() - since > wait:
                    run.say("upstream", coming.settle())
                    self._show()
                    since = time.monotonic()
            said.append(coming.settle())
        return "; ".join(said)

    def _show(self) -> None:
        """Every step, ahead of those that end the run: what fails now they will meet again."""
        try:
            for name, line in self.all():
                if isinstance(line, TaskFailed) or line.startswith("failed:"):
                    self._run.say(name, line.message if isinstance(line, TaskFailed) else line)
        except PublishError as error:
            self._run.say("upstream", f"not exposed: {error}")

    @property
    def _mirrored(self) -> list[Upstream]:
        """The upstreams to bring files of now: a job's hook is about that job, and a pin stops all."""
        run = self._run
        stopped = run.options.job or run.decisions.pinned()
        return [] if stopped else [one for one in self._settings.upstream if one.is_mirrored]

    def is_hauled(self) -> bool:
        """Whether there is nothing to bring, as far as is known."""
        from tasks import haul  # noqa: PLC0415 - needs much that nobody needs without upstreams

        if not (self._settings.upstream or (self._layout.state / "held").exists()):
            return True
        strange = haul.strangers(self._layout, self._settings.upstream)
        return not strange and all(haul.is_current(self._layout, one) for one in self._mirrored)

    def prune(self) -> str:
        """Remove lapsed images and old snapshots."""
        run = self._run
        return prune.prune(self._layout, self._settings, run.decisions, run.now)

    def is_pruned(self) -> bool:
        """Whether nothing has lapsed."""
        run = self._run
        return not any(prune.due(self._layout, self._settings, run.decisions, run.now))

    def collect(self) -> str:
        """Gather what is to be listed."""
        run = self._run
        shrink = run.options.allow_shrink
        said = indexes.collect(self._layout, self._settings, run.decisions, allow_shrink=shrink)
        self._note("collect")
        return said

    def streams(self) -> str:
        """Write and sign the streams."""
        said = indexes.write_streams(self._layout, self._settings, self._run.signer)
        self._put_later()
        self._note("streams")
        return said

    def lxc_index(self) -> str:
        """Write and sign the indexes of LXC."""
        said = indexes.write_lxc(self._layout, self._settings.rules, self.lxc, self._run.signer)
        self._put_later()
        return said

    def prove(self) -> str:
        """Read the new indexes as clients do."""
        run = self._run
        return indexes.prove(self._layout, self._settings, run.signer, lambda: run.options.allow_shrink)

    def is_proven(self) -> bool:
        """Whether nothing is in quarantine: what is may be mended by hand."""
        return (load(self._layout.quarantine, Quarantine) or NONE) == NONE

    def page(self) -> str:
        """Write the page for people, the public key, and the files of older protocols."""
        said = indexes.write_page(self._layout, self._settings)
        more = tree.put_protocols(self._layout.public, self._settings.protocols)
        self._put_later(PROTOCOLS)
        self._note("page")
        self._note("protocols")
        return f"{said}; {more}" if more else said

    def _put_later(self, *tops: str) -> None:
        """Not only when it is frozen: by their times doit and ``older`` see what has changed since."""
        for top in tops or ("streams", "meta"):
            if (self._layout.public / top).exists():
                trees.later(self._layout.public / top, self._layout.latest / top)

    def has_key(self) -> bool:
        """Whether the published keys are the site's."""
        return tree.has_key(self._layout)

    def freeze(self) -> str:
        """Freeze the tree, without what was withdrawn at once, and show it."""
        settings = self._settings
        purge.clear(self._layout, self._unlisted)
        said = snapshot.snapshot(
            self._layout, self._run.now, settings.snapshot.backend, compat=settings.site.compat
        )
        self.date()
        return said

    def date(self) -> None:
        """Let the snapshots be seen by their dates."""
        frozen.show(self._layout, self._run.decisions.dated(snapshots(self._layout)))

    def is_cleared(self) -> bool:
        """Whether nothing that was withdrawn at once lies in the tree."""
        return not any((self._layout.public / path).exists() for path in self._unlisted)

    @property
    def _unlisted(self) -> set[str]:
        """What was withdrawn at once, and the new indexes do not name."""
        gone = self._run.decisions.withdrawn(at_once=True)
        return gone - tree.listed_paths(self._layout.public) if gone else gone

    def purge(self) -> str:
        """Take back what was withdrawn at once."""
        pin, layout = self._run.decisions.pinned(), self._layout
        needed = {latest_name(layout), pin.snapshot if pin else "", *self._run.decisions.kept()}
        said = purge.purge(layout, self._gone, self._run.signer, self._settings, needed)
        self.date()
        return said

    def is_purged(self) -> bool:
        """Whether nothing is left of what was withdrawn at once."""
        return not any(purge.due(self._layout, self._gone))

    def push(self, one: Mirror) -> str | TaskFailed:
        """Push to a mirror, and to all others that this run is to push to; rsync inherits the lock.

        It is the end of the run, and may last: whoever waits for the lock has it in between.
        """
        while True:
            try:
                return self._push(one, self._run.is_awaited)
            except MadeWay:
                self._run.turns.give()

    def _push(self, one: Mirror, way: Way = lambda: False) -> str | TaskFailed:
        run, adopted = self._run, self._run.adopted
        names = {other.name for other in self._settings.mirror}
        wanted = {name.removeprefix("mirror:") for name in run.selected if name.startswith("mirror:")}
        if adopted:
            wanted = {adopted}
        elif len(wanted) < len(run.selected):  # more than mirrors by their names
            wanted = names
        terms = replace(self._terms(run.lock()), way=way)
        return run.alone(self._fleet.push(one, terms, wanted, adopted))

    def is_mirrored(self, one: Mirror) -> bool:
        """Whether there is nothing to do for a mirror: who asks for it by name gets a push."""
        run = self._run
        if run.adopted and one.name != run.adopted:
            return True
        asked = one.name == run.adopted or f"mirror:{one.name}" in run.selected
        return not asked and self._fleet.is_current(one, self._terms())

    def compare(self, name: str) -> list[str]:
        """What is not as it should be on a mirror, a line each; raises SettingsError for one that is none."""
        if name not in (names := {one.name: one for one in self._settings.mirror}):
            raise SettingsError([f"--mirror={name}: the mirrors are {', '.join(names) or 'none'}"])
        asked = partial(part_of, self._layout, self._settings, None)  # makes and signs nothing
        return Fleet(self._settings.mirror, asked).compare(names[name], self._terms())

    def _terms(self, *keep: int) -> Terms:
        return Terms(self._layout, self._settings.site.grace, self._gone, keep, lambda: self._run.now)

    @property
    def _gone(self) -> set[str]:
        """What was withdrawn at once; what is still listed is for the run that takes it out of the lists."""
        gone = self._run.decisions.withdrawn(at_once=True)
        return gone - tree.listed_paths(self._layout.latest) if gone else gone

    def due(self) -> Iterator[str]:
        """What time and decisions bring without any new build; reads only."""
        run, layout = self._run, self._layout
        known, told = load(layout.told, dict) or {}, self._told()
        yield from (what for step, what in AGAIN.items() if known.get(step, told[step]) != told[step])
        yield from preview.delisted(layout, run.decisions)
        images, snapshots = prune.due(layout, self._settings, run.decisions, run.now)
        ours = [path for path in images if not path.startswith(f"{TOP}/")]
        yield from (f"expired: {path}, which no index has named for site.grace" for path in ours)
        if others := len(images) - len(ours):
            yield f"expired: {counted(others, 'file')} of upstreams, which no index has named for site.grace"
        yield from (f"expired: snapshot {name}" for name in snapshots)
        yield from (f"withdrawn: {where}" for where in purge.due(layout, self._gone))
        yield from preview.upstreams(layout, self._settings.upstream, self.overlays)
        yield from self._coming()
        for one in self._settings.mirror:
            if not self.is_mirrored(one):
                yield behind(one, self._terms(), self._fleet.others(one))

    def _coming(self) -> Iterator[str]:
        from tasks import haul  # noqa: PLC0415 - as above

        for one in self._mirrored:
            if coming := haul.missing(self._layout, one):
                size = sum(file.size for file in coming)
                yield f"fetch: upstream {one.name}: {counted(len(coming), 'file')}, {size:,} bytes"

    def all(self, *, last: bool = False) -> Iterator[tuple[str, str | TaskFailed]]:
        """Every step now, each with the line it ends with; ``last`` is for who does nothing more after it."""
        push = self.push if last else self._push
        yield "collect", self.collect()
        yield "streams", self.streams()
        yield "lxc_index", self.lxc_index()
        yield "proof", self.prove()
        yield "page", self.page()
        yield "snapshot", self.freeze()
        if not self.is_purged():
            yield "purge", self.purge()
        for one in self._settings.mirror:
            try:
                yield f"mirror:{one.name}", push(one)
            except TreeError as error:  # not ours, or not mounted: the others go on
                yield f"mirror:{one.name}", TaskFailed(str(error))


def make_room(run: Run) -> None:
    """Take the lock, and remove what has lapsed: a full disk must not keep a decision from being shown."""
    run.lock()
    if not (show := Exposure(run)).is_pruned():
        run.say("prune", show.prune())


def at_once(run: Run, done: str, undone: str) -> str | TaskFailed | TaskError:
    """Every step now, with a line for each; ``done`` and ``undone`` begin the last one."""
    trouble = list[str]()
    try:
        make_room(run)
        for name, line in Exposure(run).all(last=True):
            trouble += [name] * isinstance(line, TaskFailed)
            run.say(name, line.message if isinstance(line, TaskFailed) else line)
    except PublishError as error:
        shown = latest_name(run.layout) or "nothing"
        return TaskError(f"{error}\n  {undone}: latest shows {shown}; doit publish goes on with it")
    shown = latest_name(run.layout) or "nothing"
    failed = f"not everywhere (latest shows {shown}), see {', '.join(trouble)}; the next publish tries again"
    return TaskFailed(failed) if trouble else f"{done}; latest shows {shown}"
