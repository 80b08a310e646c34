"""Remove what nobody needs any more: lapsed images and old snapshots (acts).

An image goes when no index that was exposed within ``grace`` names it; the snapshot that follows
drops it from what the world sees. Time is passed in.
"""

import itertools
from collections.abc import Collection
from datetime import datetime

from tasks import files, frozen
from tasks.catalogue import Catalogue
from tasks.decisions import Decisions
from tasks.layout import Layout
from tasks.ledgers import forget
from tasks.overlay import TOP
from tasks.settings import Settings
from tasks.state import Ledger, latest_name, load, load_all, save, snapshots, taken
from tasks.words import counted


def due(layout: Layout, settings: Settings, word: Decisions, now: datetime) -> tuple[list[str], list[str]]:
    """The images and files of upstreams, by path, and the snapshots whose time has come; reads only.

    While a snapshot is pinned no image goes, nor before its end is seen in the catalogue: what it
    undid may be listed again.
    """
    pin, listing = word.pinned(), load(layout.catalogue, Catalogue) or Catalogue(())
    lapsing = load(layout.lapsing, dict[str, int]) or {} if not (pin or listing.pinned) else {}
    listed = {image.path for image in listing.images}
    before = now.timestamp() - settings.site.grace.seconds
    images = sorted(
        path for path, since in lapsing.items() if since <= before and path not in listed and not pin
    )
    keep = settings.snapshot
    old = snapshots(layout)[: -keep.keep]
    until = now.timestamp() - max(keep.keep_for.seconds, settings.site.grace.seconds)
    needed = {latest_name(layout), pin.snapshot if pin else "", *word.kept()}
    followed = dict(itertools.pairwise(snapshots(layout)))
    # Its time runs from when it was last shown: a reader may have begun just then, and takes his time.
    gone = [name for name in old if taken(followed[name]).timestamp() <= until and name not in needed]
    return images, gone


def prune(layout: Layout, settings: Settings, word: Decisions, now: datetime) -> str:
    """Remove what is due; an image's files go first.

    A ledger that names too much is brought in line by the next run; an orphan would be adopted.
    """
    images, old = due(layout, settings, word, now)
    doomed = set(images)
    for ledger in load_all(layout.state / "ledger", Ledger) if doomed else ():
        stay = tuple(image for image in ledger.images if image.path not in doomed)
        for image in ledger.images:
            if image not in stay and layout.image(image).exists():
                files.remove(layout.image(image), layout.staging)
                files.remove_empty(layout.image(image).parent, layout.public)
        if stay != ledger.images:
            save(layout.ledger(ledger.product), Ledger(ledger.product, stay))
    if old:  # what leads there goes first
        frozen.show(layout, word.dated(name for name in snapshots(layout) if name not in old))
    _drop(layout, {path for path in doomed if path.startswith(f"{TOP}/")})
    for name in old:
        frozen.drop(layout, name)
    lapsing = load(layout.lapsing, dict[str, int]) or {}
    save(layout.lapsing, {path: since for path, since in lapsing.items() if path not in doomed})
    others = sum(path.startswith(f"{TOP}/") for path in images)
    more = f", and {counted(others, 'file')} of upstreams" if others else ""
    return f"{counted(len(images) - others, 'image')} and {counted(len(old), 'snapshot')} removed{more}"


def _drop(layout: Layout, doomed: Collection[str]) -> None:
    """Remove files of upstreams, and what is known of them."""
    for path in sorted(doomed):
        files.unlink(layout.public / path)
        files.remove_empty((layout.public / path).parent, layout.public)
    forget(layout, doomed)
