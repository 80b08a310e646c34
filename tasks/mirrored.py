"""How the mirrors stand: what each was given last, and what has to stay there (acts: on records).

A client may hold an index of a moment ago, so what a mirror's own index named until lately stays there
for ``grace`` after that mirror switched, however long it was away.
"""

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime

from msgspec.structs import replace

from tasks import files
from tasks.layout import Layout
from tasks.settings import Mirror, Span
from tasks.state import Mirrored, latest_name, load, save
from tasks.words import counted


@dataclass(frozen=True)
class Terms:
    """What holds for all mirrors of a run."""

    layout: Layout
    grace: Span
    gone: AbstractSet[str]  # directories of images that get no grace
    keep: tuple[int, ...]  # descriptors that rsync inherits: the run's lock, for as long as rsync lives
    clock: Callable[[], datetime]
    way: Callable[[], bool] = lambda: False  # whether to make way for another run


def record(layout: Layout, mirror: Mirror) -> Mirrored:
    """What is known of a mirror, nothing when it has another address now."""
    known = load(layout.mirrored(mirror.name), Mirrored) or Mirrored()
    return known if known.url in ("", mirror.url) else Mirrored(failed=known.failed, since=known.since)


def fail(mirror: Mirror, terms: Terms, why: str, *, whole: bool = False) -> None:
    """Keep why a mirror is not as it should be, for the last task to report; a ``whole`` one has it all."""
    known = record(terms.layout, mirror)
    since = 0 if whole else known.since or int(terms.clock().timestamp())
    save(terms.layout.mirrored(mirror.name), replace(known, url=mirror.url, failed=why, since=since))


def clear(mirror: Mirror, terms: Terms) -> None:
    """Forget why a mirror failed, for it does no more."""
    save(terms.layout.mirrored(mirror.name), replace(record(terms.layout, mirror), failed="", since=0))


def shape(mirror: Mirror) -> str:
    """A mark of what a mirror gets of a snapshot, and how; "" for all of it, in place."""
    given = (mirror.match, mirror.keep, mirror.flip)
    return "" if given == (("*",), 0, False) else files.digest(repr(given).encode())


def is_current(mirror: Mirror, terms: Terms, others: Iterable[Mirror] = ()) -> bool:
    """Whether the mirror has the newest snapshot, and nothing there is due to go.

    ``others`` are the other mirrors behind the same name.
    """
    if not (newest := latest_name(terms.layout)):
        return True  # nothing to show yet
    known = record(terms.layout, mirror)
    return (
        (known.snapshot, known.shape, known.failed) == (newest, shape(mirror), "")
        and terms.gone <= {*known.gone}
        and len(protected(known, terms, others)) == len(known.lapsing)
    )


def protected(known: Mirrored, terms: Terms, others: Iterable[Mirror] = ()) -> dict[str, int]:
    """What stays on a mirror although its index does not name it: clients may hold an index that does.

    Also the index of another mirror behind the same name.
    """
    held = set[str]()
    for other in others:
        there = record(terms.layout, other)
        if not is_away(there, terms):
            held.update(there.listed, _lapsing(there, terms))
    own = _lapsing(known, terms)
    return {
        path: since
        for path, since in known.lapsing.items()
        if (path in own or path in held) and path not in terms.gone
    }


def is_away(known: Mirrored, terms: Terms) -> bool:
    """Whether a mirror has failed for longer than ``grace``: then it holds its group up no more."""
    return bool(known.since) and known.since < terms.clock().timestamp() - terms.grace.seconds


def _lapsing(known: Mirrored, terms: Terms) -> set[str]:
    until = terms.clock().timestamp() - terms.grace.seconds
    return {path for path, since in known.lapsing.items() if since > until}


def behind(mirror: Mirror, terms: Terms, others: Iterable[Mirror] = ()) -> str:
    """What a mirror that is not current has."""
    known, newest = record(terms.layout, mirror), latest_name(terms.layout)
    told = f"behind: mirror {mirror.name}"
    failed = f"; it failed: {known.failed}" if known.failed else ""
    leak = sorted(terms.gone - {*known.gone})
    leaked = f"; what is withdrawn may be there still: {', '.join(leak)}" if leak else ""
    if not known.snapshot:
        return f"{told} has nothing yet{failed}{leaked}"
    if failed or known.snapshot != newest:
        return f"{told} has {known.snapshot}{failed}{leaked}"
    if known.shape != shape(mirror):
        return f"{told}: its match, keep or flip is another than that of its {known.snapshot}{leaked}"
    due = len(known.lapsing) - len(protected(known, terms, others))
    return f"{told} still has {counted(due, 'lapsed image')}{leaked}"
