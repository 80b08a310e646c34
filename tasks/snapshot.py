"""Freeze the tree and show it to the world (acts).

``latest`` is a symbolic link that one rename(2) flips, so a reader that resolved it keeps a whole,
unchanging tree.
"""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from tasks import files, frozen, trace, tree, trees
from tasks.catalogue import Catalogue
from tasks.image import Image
from tasks.layout import OLD_SERIAL, SITE_ID, STREAMS, TRACE, Layout
from tasks.state import Held, Ledger, Quarantine, latest_name, load, load_all, save, snapshot_order, snapshots


def snapshot(layout: Layout, now: datetime, wanted: str = "auto", *, compat: bool = False) -> str:
    """Freeze ``site/public`` and flip ``latest``, unless it already shows just that.

    ``wanted`` is the back end: with ``auto``, what the file system has. With ``compat``, it has the names
    too for which web servers of images.linuxcontainers.org are configured.
    """
    latest = latest_name(layout)
    tree.put_old_names(layout.public, wanted=compat)
    if not compat and files.status(layout.public / OLD_SERIAL):
        files.unlink(layout.public / OLD_SERIAL)
    switched = compat != (layout.latest / OLD_SERIAL).exists()
    if not latest and not _has_any(layout):
        return "nothing to show yet"
    if latest and not switched and _same(layout.public, layout.snapshots / latest / "public"):
        mark_lapsing(layout, now)
        return f"{latest} shows it already"
    name = _new_name(layout, now)
    told = trace.Trace(_own(layout), name, f"{now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}")
    files.write(layout.public / TRACE, told.text().encode())
    if compat:
        files.write(layout.public / OLD_SERIAL, f"{name.partition('.')[0]}\n".encode())
    if latest:
        trees.later(layout.public, layout.snapshots / latest / "public", but=["images"])  # none ever changes
    backend = frozen.backend(layout, wanted)
    backend.freeze(name)
    files.point(layout.latest, f"snapshots/{name}/public")
    mark_lapsing(layout, now)
    return f"{name} ({backend.name})"


def _has_any(layout: Layout) -> bool:
    """Whether the indexes list an image, here or at an upstream."""
    public, listing = layout.public, load(layout.catalogue, Catalogue) or Catalogue(())
    return bool(listing.images) or any(tree.overlaid(public, name) for name in tree.overlays(public))


def _own(layout: Layout) -> str:
    """Put the site's identity, made once, into the tree: mirrors are deleted from only where it matches."""
    if files.read(layout.root / SITE_ID) is None:
        files.write(layout.root / SITE_ID, f"{uuid.uuid4()}\n".encode())
    own = files.read(layout.root / SITE_ID) or b""
    files.write_changed(layout.public / SITE_ID, own)
    return own.decode(errors="replace").strip()


def _same(tree: Path, shown: Path) -> bool:
    """Whether two trees share every file; an index that differs says no at once."""
    index = STREAMS / "images.json"
    if (tree / index).exists() and (shown / index).exists() and not (tree / index).samefile(shown / index):
        return False
    return trees.marks(tree) == trees.marks(shown)


def mark_lapsing(layout: Layout, now: datetime) -> None:
    """Note since when images that lie in the tree are not named any more by what is exposed.

    The clock of ``grace`` starts here and not earlier: clients may hold the index of a moment ago.
    """
    catalogue = load(layout.catalogue, Catalogue) or Catalogue(())
    listed = {image.path for image in catalogue.images}
    before = load(layout.lapsing, dict[str, int]) or {}
    stamp = int(now.timestamp())
    held = (load(layout.quarantine, Quarantine) or Quarantine()).products  # exposed as they were: named still
    delisted = (one.path for one in _placed(layout) if one.path not in listed and one.product.key not in held)
    gone = [*delisted, *_unnamed(layout)]
    save(layout.lapsing, {path: before.get(path, stamp) for path in gone})


def _placed(layout: Layout) -> Iterator[Image]:
    for ledger in load_all(layout.state / "ledger", Ledger):
        yield from ledger.images


def _unnamed(layout: Layout) -> Iterator[str]:
    """The files of upstreams that lie here and that no index names any more."""
    records = list(load_all(layout.state / "held", Held))
    named = tree.brought(layout.public) if records else set()
    for one in records:
        stay = named.union(one.waiting) if one.kept else ()
        yield from (path for path in one.files if path not in stay)


def _new_name(layout: Layout, now: datetime) -> str:
    """The minute, and a counter: also when the clock went back, the newest has the greatest name."""
    stamp = f"{now.astimezone(UTC):%Y%m%d-%H%M}"
    last = snapshot_order(snapshots(layout)[-1]) if snapshots(layout) else ("", 0)
    stamp = max(stamp, last[0])
    return f"{stamp}.{last[1] + 1 if stamp == last[0] else 0}"
