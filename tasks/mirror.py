"""Make a mirror equal to the newest snapshot, by rsync (acts).

In this order: images, the LXC index, the streams, the page, and what is gone at last, so that nothing on
the mirror ever names a file that is not there. Indexes are compared by checksum: rsync's quick check
misses one of equal size written in the same second. What the mirror's own index named until lately
stays for ``grace`` after that mirror switched, however long it was away.

Nothing is ever deleted where ``site-id`` does not say that the tree there is ours.
"""

import tempfile
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from pathlib import Path

from msgspec.structs import replace

from tasks import tree
from tasks.errors import ProgramFailed, TreeError
from tasks.layout import INDEX_TREES, KEY, PAGE, SITE_ID, Layout
from tasks.overlay import TOP
from tasks.programs import run
from tasks.settings import Mirror, Span, is_remote
from tasks.state import Mirrored, latest_name, load, save

TIMEOUT = 24 * 3600.0  # seconds for one phase; a first push moves a terabyte
STALL = 300  # seconds without a byte after which rsync gives up
MISSING = "code 23"  # rsync's «partial transfer»: here, that what was asked for is not there


def is_current(mirror: Mirror, layout: Layout, grace: Span, gone: AbstractSet[str], now: datetime) -> bool:
    """Whether the mirror has the newest snapshot, and nothing there is due to go."""
    if not latest_name(layout):
        return True  # nothing to show yet
    known = load(layout.mirrored(mirror.name), Mirrored) or Mirrored()
    newest = (known.snapshot, known.url, known.failed) == (latest_name(layout), mirror.url, "")
    return (
        newest
        and gone <= {*known.gone}
        and len(_protected(known.lapsing, grace, gone, now)) == len(known.lapsing)
    )


def push(  # noqa: PLR0913 - what, where, by whose leave, and when
    mirror: Mirror,
    layout: Layout,
    grace: Span,
    gone: AbstractSet[str],
    keep: Sequence[int],
    *,
    adopt: bool,
    now: datetime,
) -> str:
    """Push the newest snapshot; a failure is noted for the last task to report, and others go on.

    ``gone`` are directories of images that get no grace; ``keep`` are descriptors that rsync inherits:
    the run's lock, for as long as rsync lives. Raises TreeError when the destination is not this site's
    mirror; ``adopt`` makes it one.
    """
    name = latest_name(layout)
    known = load(layout.mirrored(mirror.name), Mirrored) or Mirrored()
    # Absolute, for a serial contains a colon; the real directory, for latest may be flipped meanwhile.
    source = (layout.snapshots / name / "public").resolve()
    try:
        if not is_remote(mirror.url):
            Path(mirror.url).mkdir(parents=True, exist_ok=True)
        _refuse_foreign(mirror, source, known, adopt=adopt)
        for phase in phases():
            run(command(phase, source, mirror.url), timeout=TIMEOUT, keep=keep)
        known = _switched(known, name, mirror.url, tree.listed_paths(source) | tree.brought(source), now)
        save(layout.mirrored(mirror.name), known)
        lapsing = _protected(known.lapsing, grace, gone, now)
        with tempfile.NamedTemporaryFile("w", suffix=".filter") as filters:
            filters.writelines(f"protect /{path}{_whole(path)}\n" for path in sorted(lapsing))
            filters.flush()
            run(command(deletion(filters.name), source, mirror.url), timeout=TIMEOUT, keep=keep)
    except (ProgramFailed, OSError) as error:
        save(layout.mirrored(mirror.name), replace(known, failed=str(error)))
        return f"failed: {error}"
    absent = tuple(sorted(path for path in gone if not (source / path).exists()))
    save(layout.mirrored(mirror.name), replace(known, lapsing=lapsing, gone=absent))
    return f"{name} is at {mirror.url}"


def phases() -> list[list[str]]:
    """The options of each phase that adds, in order; the mark of ownership goes first."""
    trees = [f"--exclude=/{tree}" for tree in INDEX_TREES]
    return [
        [f"--include=/{SITE_ID}", "--exclude=*"],
        [*trees, f"--exclude=/{KEY}", f"--exclude=/{PAGE}"],
        ["--checksum", "--delay-updates", "--include=/meta", "--include=/meta/1.0/***", "--exclude=*"],
        ["--checksum", "--delay-updates", "--exclude=/images", f"--exclude=/{TOP}", f"--exclude=/{PAGE}"],
        ["--checksum", f"--include=/{PAGE}", "--exclude=*"],
    ]


def deletion(filters: str) -> list[str]:
    """The options of the last phase, which adds nothing and spares what the filters protect."""
    return ["--delete", "--delete-delay", "--existing", "--ignore-existing", f"--filter=merge {filters}"]


def command(phase: Sequence[str], source: Path, url: str) -> list[str]:
    """One rsync call; modes are ours, whatever the mirror's umask."""
    # fmt: off
    return [
        "rsync", "--recursive", "--links", "--times", "--perms", "--chmod=D0755,F0644",
        f"--timeout={STALL}",
        *phase,
        "--", f"{source}/", _directory(url),
    ]
    # fmt: on


def _refuse_foreign(mirror: Mirror, source: Path, known: Mirrored, *, adopt: bool) -> None:
    """Raise TreeError unless the destination is ours, or empty at its first push, or adopted."""
    own = (source / SITE_ID).read_text()
    there = _read_id(mirror.url)
    if there == own or adopt:
        return
    told = f"mirror {mirror.name}: {mirror.url}"
    if there:
        raise TreeError(
            f"{told} is another site's ({SITE_ID} {there.strip()[:40]!r});"
            f" nothing was changed there. If this site is its new owner: doit mirror --adopt={mirror.name}"
        )
    if known.snapshot and known.url == mirror.url:
        raise TreeError(
            f"{told} was ours and has lost its {SITE_ID}: is it mounted?"
            f" If it is: doit mirror --adopt={mirror.name}"
        )
    if not _is_empty(mirror.url):
        raise TreeError(
            f"{told} is not empty and has no {SITE_ID}: is the address right? What this site does not have"
            f" would be deleted there; if that is meant: doit mirror --adopt={mirror.name}"
        )


def _read_id(url: str) -> str:
    """The site-id at a destination, "" where there is none."""
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory, SITE_ID)
        try:
            run(["rsync", f"--timeout={STALL}", "--", _directory(url) + SITE_ID, target], timeout=TIMEOUT)
        except ProgramFailed as error:
            if error.code != MISSING:
                raise
            return ""
        return target.read_text(errors="replace")


def _is_empty(url: str) -> bool:
    try:
        listed = run(["rsync", f"--timeout={STALL}", "--list-only", "--", _directory(url)], timeout=TIMEOUT)
    except ProgramFailed as error:
        if error.code != MISSING:
            raise
        return True
    return all(line.endswith(b" .") for line in listed.splitlines())


def _switched(known: Mirrored, name: str, url: str, listed: AbstractSet[str], now: datetime) -> Mirrored:
    """The mirror's record after its indexes changed: what they name no more begins to lapse."""
    gone = {*known.listed, *known.lapsing} - listed if known.url == url else set[str]()
    stamp = int(now.timestamp())
    lapsing = {path: known.lapsing.get(path, stamp) for path in sorted(gone)}
    there = known.gone if known.url == url else ()
    return Mirrored(name, url, "", tuple(sorted(listed)), lapsing, there)


def _protected(lapsing: dict[str, int], grace: Span, gone: AbstractSet[str], now: datetime) -> dict[str, int]:
    until = now.timestamp() - grace.seconds
    return {path: since for path, since in lapsing.items() if since > until and path not in gone}


def _whole(path: str) -> str:
    """What makes a filter fit all that an image is; of upstreams single files are listed."""
    return "" if path.startswith(f"{TOP}/") else "/***"


def _directory(url: str) -> str:
    return url if url.endswith("/") else f"{url}/"
