"""Take what was withdrawn at once out of the tree and of every snapshot (acts).

A snapshot never changes; one that has a withdrawn image gives way to a copy of it, which shares all
files but that image, the indexes that named it and the page, by one exchange of names. Where that is no
copy that shares (ZFS, CephFS), it goes as a whole, unless it is needed. Mirrors follow.
"""

import shutil
from collections.abc import Callable, Collection, Iterator

from tasks import files, frozen, tree
from tasks.layout import PAGE, Layout
from tasks.settings import Settings
from tasks.sign import Signer
from tasks.state import Ledger, load_all, save, snapshots
from tasks.words import counted


def due(layout: Layout, gone: Collection[str]) -> Iterator[str]:
    """Where withdrawn images still lie, relative to the root; reads only."""
    trees = [layout.public, *(layout.snapshots / name / "public" for name in reversed(snapshots(layout)))]
    for one in trees if gone else ():
        yield from (
            f"{one.relative_to(layout.root)}/{path}" for path in sorted(gone) if (one / path).exists()
        )


def clear(layout: Layout, gone: Collection[str]) -> None:
    """Remove these images, named by their directories, from the tree; the ledgers first."""
    for ledger in load_all(layout.state / "ledger", Ledger) if gone else ():
        stay = tuple(image for image in ledger.images if image.path not in gone)
        if stay != ledger.images:
            save(layout.ledger(ledger.product), Ledger(ledger.product, stay))
    for path in sorted(gone):
        if (layout.public / path).exists():
            files.remove(layout.public / path, layout.staging)
            files.remove_empty((layout.public / path).parent, layout.public)


def purge(
    layout: Layout,
    gone: Collection[str],
    signer: Callable[[], Signer],
    settings: Settings,
    needed: Collection[str] = (),
) -> str:
    """Remove them wherever they lie; ``needed`` snapshots stay, whatever that costs."""
    clear(layout, gone)
    frozen.forget_spare(layout)
    names = [
        name
        for name in reversed(snapshots(layout))
        if any((layout.snapshots / name / "public" / path).exists() for path in gone)
    ]
    whole = [name for name in names if frozen.is_fixed(layout, name) and name not in needed]
    for name in names:
        if name in whole:
            frozen.drop(layout, name)
        else:
            _replace(layout, name, gone, signer, settings)
    said = f"out of the tree and of {counted(len(names), 'snapshot')}"
    return said + (
        f"; {' '.join(whole)} went with it: a snapshot of this file system cannot be changed" if whole else ""
    )


def _replace(
    layout: Layout, name: str, gone: Collection[str], signer: Callable[[], Signer], settings: Settings
) -> None:
    """Let a snapshot without these images take the place of one."""
    new = frozen.copy(layout, name)
    for path in sorted(gone):
        if (new / "public" / path).exists():
            with files.disk("remove"):
                shutil.rmtree(new / "public" / path)
            files.remove_empty((new / "public" / path).parent, new / "public")
    if tree.strip(new / "public", gone, signer()):
        tree.add_key(new / "public", settings.signing)
        if (new / "public" / PAGE).exists():
            tree.put_page(new / "public", settings)
        tree.put_protocols(new / "public", tree.protocols_of(new / "public"))
    frozen.replace(layout, name)
