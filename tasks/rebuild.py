"""Make the ledger again from the tree, without asking Jenkins (acts: writes state, sets images aside).

An image's source.json is its whole record, so the tree is all that is needed. Every file is hashed
again. What is damaged is moved out of the tree, so that no index names it and the next publication
fetches it anew; what is moved is never overwritten or removed.

The tree is changed first and the ledger follows: killed in between, the same command ends the work.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from msgspec.structs import replace

from tasks import files, stock, tree
from tasks.audit import Audit, audit
from tasks.catalogue import Catalogue
from tasks.errors import TreeError
from tasks.hashed import file_of
from tasks.image import Image, Product
from tasks.layout import SITE_ID, Layout
from tasks.overlay import TOP
from tasks.plan import Wish
from tasks.state import (
    Failure,
    Followed,
    Held,
    Ledger,
    Mirrored,
    Offers,
    Quarantine,
    Record,
    listing,
    load,
    save,
)
from tasks.threads import CORES, together

WRITERS = 16  # threads that wait for the disk to sync a ledger, which it does for many at once
Say = Callable[[str], object]
# What else the state directory holds, and what becomes of it when it is lost.
RECORDS: Mapping[str, tuple[type[Any], str]] = {
    "catalogue.json": (Catalogue, "made again by the next publish"),
    "offers.json": (Offers, "learned again by the next poll"),
    "quarantine.json": (Quarantine, "the next publish proves everything again"),
    "lapsing.json": (dict[str, int], "delisted images stay for another site.grace"),
    "polls.json": (dict[str, int], "it only counts polls"),
    "wishes/*.json": (Wish, "the next poll asks for that product again"),
    "failures/*.json": (Failure, "a rejected build will be fetched and refused once more"),
    "held/*.json": (Held, "the files of that upstream will be read again"),
    "offered/*.json": (dict[str, Any], "the next poll asks that upstream for everything"),
    "overlays/*.json": (dict[str, Any], "as above"),
    "upstream/*.json": (Followed, "as above"),
    "mirrors/*.json": (Mirrored, "the next publish pushes to that mirror again"),
}


class Rebuilt(NamedTuple):
    """What there is now."""

    products: int
    images: int
    size: int  # bytes read
    aside: int

    def __str__(self) -> str:
        """The last line."""
        aside = f"; {self.aside} damaged, set aside, named above" if self.aside else ""
        return f"{self.products} products, {self.images} images, {self.size:,} bytes read{aside}"


def rebuild(layout: Layout, say: Say) -> Rebuilt:
    """Bring the ledger in line with the tree, whatever the state directory holds; raises TreeError."""
    with files.disk("read"):
        if not layout.public.is_dir():
            raise TreeError(f"there is nothing to rebuild from: {layout.public} does not exist")
        paths = sorted(
            str(path.relative_to(layout.public))
            for path in layout.public.glob("images/*/*/*/*/*")
            if path.is_dir() and not path.name.startswith(files.TEMPORARY)
        )
    read = together(lambda path: audit(layout.public, path), paths, CORES)
    if refused := [one.refused for one in read if one.refused]:
        raise TreeError(f"nothing was changed, for not everything can be read: {refused[0]}")
    good: dict[Product, list[Image]] = {}
    for one in read:
        if one.damage or one.image is None:
            say(_set_aside(layout, one))
        else:
            good.setdefault(one.image.product, []).append(one.image)
    ledgers = [(layout.ledger(product), _ledger(layout, product, images)) for product, images in good.items()]
    together(lambda one: save(*one), ledgers, WRITERS)
    for path in sorted({*listing(layout.state / "ledger")} - {path for path, _ in ledgers}):
        files.unlink(path)
        say(f"{path}: removed, for the tree has no image of that product")
    aside = _others(layout, say)
    _mend(layout, say)
    count = sum(map(len, good.values()))
    return Rebuilt(len(good), count, sum(one.size for one in read), len(read) - count + aside)


def _set_aside(layout: Layout, found: Audit) -> str:
    """Move a damaged image out of the tree, by one rename; returns what to say of it."""
    with files.disk("set aside"):
        target = _free(layout.damaged / found.path.removeprefix("images/"))
        (layout.public / found.path).rename(target)
    files.remove_empty((layout.public / found.path).parent, layout.public)
    more = f", and {len(found.damage) - 1} more" if len(found.damage) > 1 else ""
    return f"{found.damage[0]}{more}; set aside in {target}"


def _others(layout: Layout, say: Say) -> int:
    """Read the files of upstreams again, and set aside what is not as it came; returns how many those are.

    What came stands in a record, else in the documents that list it.
    """
    count = 0
    for name in sorted({path.name for path in (layout.public / TOP).glob("*")}):
        place = layout.held(name)
        held = _record(place, Held) or Held()
        known = {**stock.files(tree.overlaid(layout.public, name)), **held.files}
        paths = sorted(tree.sizes_of(layout.public, f"{TOP}/{name}"))
        read = together(lambda path: file_of(layout.public / path), paths, CORES)
        here = dict(zip(paths, read, strict=True))
        for path in [path for path in paths if known.get(path, here[path]) != here[path]]:
            count += 1
            del here[path]
            with files.disk("set aside"):
                target = _free(layout.damaged / path)
                (layout.public / path).rename(target)
            say(f"{path}: is not what it was; set aside in {target}")
        save(place, replace(held, files=here, done=held.done if here == held.files else ""))
    return count


def _free(wanted: Path) -> Path:
    """A path that nothing has, in a directory that is there."""
    target, count = wanted, 0
    while target.exists():
        count += 1
        target = wanted.with_name(f"{wanted.name}.{count}")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _ledger(layout: Layout, product: Product, images: list[Image]) -> Ledger:
    """The images by serial; one that is known with the same bytes keeps its record.

    That may speak of a newer build of equal bytes, which the next publication would fetch once more.
    """
    before = _record(layout.ledger(product), Ledger) or Ledger(product)
    known = {image.serial: image for image in before.images}
    found = Ledger(product)
    for image in images:
        old = known.get(image.serial, image)
        same = (old.product, old.files, old.fingerprints) == (image.product, image.files, image.fingerprints)
        found = found.with_image(old if same else image)
    return found


def _record(path: Path, kind: type[Record]) -> Record | None:
    try:
        return load(path, kind)
    except TreeError:
        return None


def _mend(layout: Layout, say: Say) -> None:
    """Remove records that cannot be read, and bring back the site's identity."""
    for pattern, (kind, fate) in RECORDS.items():
        for path in sorted(layout.state.glob(pattern)):
            try:
                load(path, kind)
            except TreeError:
                files.unlink(path)
                say(f"{path}: could not be read and is removed; {fate}")
                if kind is Quarantine:  # the indexes may be what it left of them: let them be made again
                    files.unlink(layout.catalogue)
    public, own = files.read(layout.public / SITE_ID), layout.root / SITE_ID
    if public and files.read(own) is None:
        files.write(own, public)
        say(f"{own}: was missing and is that of the tree again; mirrors know it")
