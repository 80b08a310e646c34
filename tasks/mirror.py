"""Make a mirror equal to the newest snapshot, by rsync (acts).

In this order: images, the LXC index, the streams, and what is gone at last, so that no index on the
mirror ever names a file that is not there. Indexes are compared by checksum: rsync's quick check
misses one of equal size written in the same second.
"""

from collections.abc import Sequence
from pathlib import Path

from tasks.errors import ProgramFailed
from tasks.layout import INDEX_TREES, Layout
from tasks.programs import run
from tasks.settings import Mirror, is_remote
from tasks.state import Mirrored, latest_name, load, save

TIMEOUT = 24 * 3600.0  # seconds for one phase; a first push moves a terabyte
STALL = 300  # seconds without a byte after which rsync gives up


def is_current(mirror: Mirror, layout: Layout) -> bool:
    """Whether the mirror was last given the newest snapshot."""
    if not latest_name(layout):
        return True  # nothing to show yet
    known = load(layout.mirrored(mirror.name), Mirrored)
    return known == Mirrored(snapshot=latest_name(layout), url=mirror.url)


def push(mirror: Mirror, layout: Layout, keep: Sequence[int]) -> str:
    """Push the newest snapshot; a failure is noted for the last task to report, and others go on.

    ``keep`` are descriptors that rsync inherits: the run's lock, for as long as rsync lives.
    """
    name = latest_name(layout)
    # Absolute, for a serial contains a colon; the real directory, for latest may be flipped meanwhile.
    source = layout.snapshots.resolve() / name / "public"
    try:
        if not is_remote(mirror.url):
            Path(mirror.url).mkdir(parents=True, exist_ok=True)
        for phase in phases():
            run(command(phase, source, mirror.url), timeout=TIMEOUT, keep=keep)
    except (ProgramFailed, OSError) as error:
        known = load(layout.mirrored(mirror.name), Mirrored) or Mirrored()
        save(
            layout.mirrored(mirror.name),
            Mirrored(snapshot=known.snapshot, url=known.url, failed=str(error)),
        )
        return f"failed: {error}"
    save(layout.mirrored(mirror.name), Mirrored(snapshot=name, url=mirror.url))
    return f"{name} is at {mirror.url}"


def phases() -> list[list[str]]:
    """The options of each phase, in order."""
    trees = [f"--exclude=/{tree}" for tree in INDEX_TREES]
    return [
        [*trees, "--exclude=/index.html"],
        [
            "--checksum",
            "--delay-updates",
            "--include=/meta",
            "--include=/meta/1.0/***",
            "--exclude=*",
        ],
        ["--checksum", "--delay-updates", "--exclude=/images"],
        ["--delete", "--delete-delay", "--existing", "--ignore-existing"],
    ]


def command(phase: Sequence[str], source: Path, url: str) -> list[str]:
    """One rsync call; modes are ours, whatever the mirror's umask."""
    # fmt: off
    return [
        "rsync", "--recursive", "--links", "--times", "--perms", "--chmod=D0755,F0644",
        f"--timeout={STALL}",
        *phase,
        "--", f"{source}/", url if url.endswith("/") else f"{url}/",
    ]
    # fmt: on
