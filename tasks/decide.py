"""Write the operator's word down, in ``decisions.toml`` (acts).

The file is made for people too: comments and order stay, new words come last, and a word that is
taken back is marked ``released`` instead of removed. It is replaced whole, so a kill leaves the old
word or the new one. It has a lock of its own, for an operator must be heard while a publication runs.
"""

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

import msgspec

from tasks import files
from tasks.decisions import Block, BuildName, Decisions, Hold, Pin, Retire, Withdraw, Word
from tasks.errors import SettingsError
from tasks.image import SOURCE, Image, Product
from tasks.layout import Layout
from tasks.plan import Wish
from tasks.state import Ledger, decisions, latest_name, load, load_all, snapshots
from tasks.tree import listed_images, listed_paths

SHOWN = 10  # names offered before the rest is left out


class By(msgspec.Struct, frozen=True, kw_only=True):
    """Who speaks, when (UTC, ISO 8601) and why."""

    who: str
    when: str
    why: str = ""


def hold(layout: Layout, product: Product, serial: str, by: By) -> str:
    """Keep a product at a serial, its newest listed one unless another is named."""
    listed = sorted(path for path in listed_paths(layout.latest) if path.startswith(f"{product.path}/"))
    if not listed:
        raise SettingsError([_unknown(layout, product, "is not published")])
    there = [image.serial for image in _placed(layout, product)]
    serial = serial or listed[-1].rpartition("/")[2]
    if serial not in there:
        raise SettingsError([f"{product.name} has no image {serial}; there are {_some(there)}"])
    with _book(layout) as book:
        book.release("hold", by, lambda one: one["product"] == product.name)
        book.add("hold", Hold(product=product, serial=serial, **_of(by)))
    return f"{product.name} is kept at {serial}; doit unhold {product.name} lets it go"


def block(layout: Layout, build: BuildName, by: By) -> str:
    """Never publish a build; what was made of it is delisted by the next publication."""
    images = [
        f"{image.product.name}/{image.serial}"
        for ledger in load_all(layout.state / "ledger", Ledger)
        for image in ledger.images
        if build.covers(image.source.job, image.source.configuration, image.source.number)
    ]
    with _book(layout) as book:
        book.add("block", Block(build=build, **_of(by)))
    what = f"the next publish takes {_some(images)} out" if images else "nothing was made of it so far"
    return f"{build.text} is blocked; {what}"


def retire(layout: Layout, product: Product, by: By) -> str:
    """End a product: nothing of it is fetched any more, and the next publication delists it."""
    if not _placed(layout, product) and not layout.wish(product).exists():
        raise SettingsError([_unknown(layout, product, "is not known")])
    with _book(layout) as book:
        book.add("retire", Retire(product=product, **_of(by)))
    return f"{product.name} is retired; the next publish delists it"


def withdraw(layout: Layout, product: Product, serial: str, by: By, *, now: bool) -> str:
    """Take an image back, and its build with it."""
    there = {image.serial: image for image in _placed(layout, product)}
    if serial not in there:
        known = f"there are {_some(there)}" if there else _unknown(layout, product, "is not known")
        raise SettingsError([f"there is no image {product.name}/{serial}; {known}"])
    source = there[serial].source
    build = BuildName(source.job, source.configuration, source.number)
    with _book(layout) as book:
        book.add("withdraw", Withdraw(product=product, serial=serial, build=build, at_once=now, **_of(by)))
    how = "" if now else "; the next publish delists it, and its files go after site.grace"
    return f"{product.name}/{serial} is withdrawn{how}"


def unhold(layout: Layout, what: str, by: By) -> str:
    """Take back every word on a product, an image or a build; raises SettingsError when there is none."""
    with _book(layout) as book:
        count = book.release("hold", by, lambda one: one["product"] == what)
        count += book.release("retire", by, lambda one: one["product"] == what)
        count += book.release("withdraw", by, lambda one: f"{one['product']}/{one['serial']}" == what)
        count += book.release("block", by, lambda one: one["build"] == what)
        if not count:
            known = ", ".join(book.known.names()) or "nothing"
            raise SettingsError([f"{what}: nothing was decided of it; decided is on {known}"])
    return f"{what} is let go; the next publish brings what is new"


def pin(layout: Layout, name: str, by: By) -> str:
    """List again what an earlier snapshot listed."""
    if name not in snapshots(layout):
        raise SettingsError([f"there is no snapshot {name}; there are {_some(snapshots(layout)[::-1])}"])
    then = {image.path for image in listed_images(layout.snapshots / name / "public")}
    latest = layout.snapshots / latest_name(layout) / "public"
    undone = [image.source for image in listed_images(latest) if image.path not in then]
    builds = sorted({BuildName(one.job, one.configuration, one.number).text for one in undone})
    with _book(layout) as book:
        book.release("pin", by, lambda _: True)
        book.add("pin", Pin(snapshot=name, undone=tuple(builds), **_of(by)))
    lost = f"; it takes back {_some(builds)}" if builds else ""
    return f"pinned at {name}{lost}"


def release(layout: Layout, by: By) -> str:
    """Let go of a pin; raises SettingsError when there is none."""
    with _book(layout) as book:
        if not book.release("pin", by, lambda _: True):
            raise SettingsError(["nothing is pinned"])
    return "the pin is released; the next publish lists what is newest"


class _Book:
    """The file, open for writing."""

    def __init__(self, known: Decisions, text: str) -> None:
        import tomlkit  # noqa: PLC0415 - 10 ms that a run which decides nothing does not need

        self.known, self._toml = known, tomlkit
        self._document = tomlkit.parse(text)

    def add(self, kind: str, word: Word) -> None:
        """Put a word last."""
        table = self._toml.table()
        if kind in self._document:
            table.trivia.indent = "\n"  # a blank line between words
        for field, value in msgspec.structs.asdict(word).items():
            if value not in ("", (), False):
                table.add(field, _plain(value))
        if kind not in self._document:
            if self._document:
                self._document.add(self._toml.nl())
            self._document.append(kind, self._toml.aot())
        self._document[kind].append(table)

    def release(self, kind: str, by: By, meant: Callable[[dict[str, str]], bool]) -> int:
        """Mark standing words as taken back; says how many."""
        words = [one for one in self._document.get(kind, ()) if not one.get("released") and meant(one)]
        for word in words:
            word["released"] = f"{by.when} by {by.who}: {by.why or 'no reason given'}"
        return len(words)

    @property
    def text(self) -> str:
        """What is to be written."""
        return self._toml.dumps(self._document)


@contextmanager
def _book(layout: Layout) -> Iterator[_Book]:
    """Read, let be changed, and replace the file, one speaker at a time."""
    path = layout.decisions
    with files.disk("open the lock of"):
        handle = os.open(layout.state / "decisions.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        book = _Book(decisions(layout), (files.read(path) or b"").decode())
        yield book
        files.write_changed(path, book.text.encode())
    finally:
        os.close(handle)


def _of(by: By) -> dict[str, str]:
    return msgspec.structs.asdict(by)


def _plain(value: object) -> object:
    if isinstance(value, Product):
        return value.name
    if isinstance(value, BuildName):
        return value.text
    return list(value) if isinstance(value, tuple) else value


def _placed(layout: Layout, product: Product) -> list[Image]:
    """The images of a product that lie in the tree or in a snapshot, oldest first."""
    trees = [layout.public, *(layout.snapshots / name / "public" for name in snapshots(layout))]
    paths = {path.parent.name: path for tree in trees for path in tree.glob(f"{product.path}/*/{SOURCE}")}
    return [image for serial in sorted(paths) if (image := load(paths[serial], Image))]


def _unknown(layout: Layout, product: Product, what: str) -> str:
    names = {wish.product.name for wish in load_all(layout.state / "wishes", Wish)}
    near = get_close_matches(product.name, names, n=3, cutoff=0.5)
    return f"{product.name} {what}" + (f"; near are {', '.join(near)}" if near else "; doit status shows all")


def _some(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(every[:SHOWN]) + (f" and {len(every) - SHOWN} more" if len(every) > SHOWN else "")
