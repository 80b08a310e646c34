"""Take what was withdrawn at once out of the tree and of every snapshot (acts).

The one change that is ever made to a snapshot: its indexes first, then the files they named. The
newest snapshot, which lists it no more, comes before; mirrors follow.
"""

from collections.abc import Callable, Collection, Iterator

from tasks import files, tree
from tasks.layout import Layout
from tasks.sign import Signer
from tasks.state import Ledger, load_all, save, snapshots


def due(layout: Layout, gone: Collection[str]) -> Iterator[str]:
    """Where withdrawn images still lie, relative to the root; reads only."""
    trees = [layout.public, *(layout.snapshots / name / "public" for name in reversed(snapshots(layout)))]
    for one in trees if gone else ():
        yield from (
            f"{one.relative_to(layout.root)}/{path}" for path in sorted(gone) if (one / path).exists()
        )


def purge(layout: Layout, gone: Collection[str], signer: Callable[[], Signer]) -> str:
    """Remove these images, named by their directories, wherever they lie."""
    found = list(due(layout, gone))
    for where in found:
        directory = layout.root / where
        public = next(parent for parent in directory.parents if parent.name == "public")
        if public != layout.public:
            tree.strip(public, gone, signer())
        files.remove(directory, layout.staging)
        files.remove_empty(directory.parent, public)
    for ledger in load_all(layout.state / "ledger", Ledger) if gone else ():
        stay = tuple(image for image in ledger.images if image.path not in gone)
        if stay != ledger.images:
            save(layout.ledger(ledger.product), Ledger(ledger.product, stay))
    return f"{', '.join(found)} removed" if found else "nothing is left of what was withdrawn"
