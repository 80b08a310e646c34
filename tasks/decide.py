"""Write the operator's word down, in ``decisions.toml`` (acts).

The file is made for people too: comments and order stay, new words come last, and a word that is
taken back is marked ``released`` instead of removed. It is replaced whole, so a kill leaves the old
word or the new one. It has a lock of its own, for an operator must be heard while a publication runs.
"""

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches

import msgspec

from tasks import config, files
from tasks.decisions import Block, BuildName, Decisions, Hold, Keep, Pin, Retire, Withdraw, Word
from tasks.errors import SettingsError, TreeError
from tasks.image import SOURCE, Image, Product
from tasks.layout import Layout
from tasks.plan import Wish
from tasks.state import PRIVATE, Ledger, decisions, load, load_all, snapshots
from tasks.tree import listed_images, listed_paths

SHOWN = 10  # names offered before the rest is left out


class By(msgspec.Struct, frozen=True, kw_only=True):
    """Who speaks, when (UTC, ISO 8601) and why."""

    who: str
    when: str
    why: str = ""


def hold(layout: Layout, products: Sequence[Product], serial: str, by: By) -> str:
    """Keep products at a serial, each at its newest listed one unless another is named."""
    words, shown = [], listed_paths(layout.latest)
    for product in products:
        listed = sorted(path for path in shown if path.startswith(f"{product.path}/"))
        if not listed:
            raise SettingsError([_unknown(layout, product, "is not published")])
        there = sorted(path.parent.name for path in layout.public.glob(f"{product.path}/*/{SOURCE}"))
        at = serial or listed[-1].rpartition("/")[2]
        if at not in there:
            raise SettingsError([f"{product.name} has no image {at}; there are {_some(there)}"])
        words.append(Hold(product=product, serial=at, **_of(by)))
    with _book(layout) as book:
        for word in words:
            book.release("hold", by, lambda one: one["product"], word.product.name)
            book.add("hold", word)
    return "\n".join(
        f"{word.product.name} is kept at {word.serial}; doit unhold {word.product.name} lets it go"
        for word in words
    )


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
    jobs = {wish.job for wish in load_all(layout.state / "wishes", Wish)}
    hint = "" if build.job in jobs else f"; no job {build.job} is known: is it written as reports write it?"
    return f"{build.text} is blocked; {what}{hint}"


def retire(layout: Layout, products: Sequence[Product], by: By) -> str:
    """End products: nothing of them is fetched any more, and the next publication delists them."""
    for product in products:
        if not any(layout.public.glob(f"{product.path}/*")) and not layout.wish(product).exists():
            raise SettingsError([_unknown(layout, product, "is not known")])
    with _book(layout) as book:
        for product in products:
            book.add("retire", Retire(product=product, **_of(by)))
    return "\n".join(f"{product.name} is retired; the next publish delists it" for product in products)


def withdraw(layout: Layout, images: Sequence[tuple[Product, str]], by: By, *, now: bool) -> str:
    """Take images back, and for their products the builds they came from."""
    words = []
    for product, serial in images:
        there = _serials(layout, product)
        if serial not in there:
            known = f"there are {_some(there)}" if there else _unknown(layout, product, "is not known")
            raise SettingsError([f"there is no image {product.name}/{serial}; {known}"])
        build = _build(layout, product, serial)
        words.append(Withdraw(product=product, serial=serial, build=build, at_once=now, **_of(by)))
    with _book(layout) as book:
        for word in words:
            book.add("withdraw", word)
    how = "" if now else "; the next publish delists it, and its files go after site.grace"
    return "\n".join(f"{word.product.name}/{word.serial} is withdrawn{how}" for word in words)


def unhold(layout: Layout, names: Sequence[str], by: By) -> str:
    """Take back every word on products, images or builds; raises SettingsError for one without any."""
    with _book(layout) as book:
        for what in names:
            if what not in book.known.names():
                known = ", ".join(book.known.names()) or "nothing"
                raise SettingsError([f"{what}: nothing was decided of it; decided is on {known}"])
        said = []
        for what in names:
            gone = {
                "kept": book.release("hold", by, lambda one: one["product"], what),
                "retired": book.release("retire", by, lambda one: one["product"], what),
                "withdrawn": book.release(
                    "withdraw", by, lambda one: f"{one['product']}/{one['serial']}", what
                ),
                "blocked": book.release("block", by, lambda one: BuildName.parse(one["build"]).text, what),
            }
            was = " and ".join(how for how, count in gone.items() if count)
            said.append(f"{what} is let go: no longer {was}; the next publish brings what is newest")
    return "\n".join(said)


def pin(layout: Layout, name: str, by: By) -> str:
    """List again what an earlier snapshot listed; what a pin before it took back is not forgotten."""
    if name not in snapshots(layout):
        raise SettingsError([f"there is no snapshot {name}; there are {_some(snapshots(layout)[::-1])}"])
    then = {_undone(image) for image in listed_images(layout.snapshots / name / "public")}
    undone = {_undone(image) for image in listed_images(layout.latest)}
    with _book(layout) as book:
        before, word = book.known.pinned(), book.known
        undone |= {*before.undone} if before else set()
        left = sorted(one for one in undone - then if not word.is_refused(one))
        book.release("pin", by, lambda _: "", "")
        book.add("pin", Pin(snapshot=name, undone=tuple(left), **_of(by)))
    builds = dict.fromkeys(one.partition(" ")[2] for one in left)
    return f"pinned at {name}" + (f"; it takes back {_some(builds)}" if builds else "")


def release(layout: Layout, by: By) -> str:
    """Let go of a pin; raises SettingsError when there is none."""
    with _book(layout) as book:
        if not book.release("pin", by, lambda _: "", ""):
            raise SettingsError(["nothing is pinned"])
    return "the pin is released; the next publish lists what is newest"


def keep(layout: Layout, snapshot: str, name: str, by: By) -> str:
    """Keep a snapshot, whatever its age; raises SettingsError for one that is none."""
    if snapshot not in snapshots(layout):
        raise SettingsError([f"there is no snapshot {snapshot}; there are {_some(snapshots(layout)[::-1])}"])
    try:
        word = Keep(snapshot=snapshot, name=name, **_of(by))
    except ValueError as error:
        raise SettingsError([str(error)]) from None
    with _book(layout) as book:
        other = next((one.snapshot for one in book.known.kept().values() if name and one.name == name), "")
        if other not in {"", snapshot}:
            raise SettingsError([f"{name} is {other} already; doit unpin {name} lets it go"])
        book.release("keep", by, lambda one: one["snapshot"], snapshot)
        book.add("keep", word)
    called = f", as {name}" if name else ""
    return f"{snapshot} stays{called}, at at/{name or snapshot}/; doit unpin {name or snapshot} lets it go"


def unkeep(layout: Layout, names: Sequence[str], by: By) -> str:
    """Let snapshots go, each by its own name or the one that was given; raises SettingsError for others."""
    with _book(layout) as book:
        kept = book.known.kept().values()
        for what in names:
            found = [one.snapshot for one in kept if what in {one.snapshot, one.name}]
            if not found:
                there = _some([one.name or one.snapshot for one in kept]) if kept else "nothing"
                raise SettingsError([f"{what}: is not pinned; pinned is {there}"])
            book.release("keep", by, lambda one: one["snapshot"], found[0])
    return "\n".join(f"{what} goes when its time has come, as others do" for what in names)


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
            if value not in ("", (), False, None):
                table.add(field, _plain(value))
        if kind not in self._document:
            if self._document:
                self._document.add(self._toml.nl())
            self._document.append(kind, self._toml.aot())
        self._document[kind].append(table)

    def release(self, kind: str, by: By, of: Callable[[dict[str, str]], str], what: str) -> int:
        """Mark the standing words of something as taken back; says how many."""
        words = [one for one in self._document.get(kind, ()) if not one.get("released") and of(one) == what]
        for word in words:
            word["released"] = f"{by.when} by {by.who}: {by.why or 'no reason given'}"
        return len(words)

    @property
    def text(self) -> str:
        """What is to be written."""
        return self._toml.dumps(self._document)


@contextmanager
def _book(layout: Layout) -> Iterator[_Book]:
    """Read, let be changed, and replace the file, one speaker at a time; raises SettingsError."""
    path = layout.decisions
    with files.disk("open the lock of"):
        handle = os.open(layout.state / "decisions.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        book = _Book(decisions(layout), (files.read(path) or b"").decode())
        yield book
        try:
            config.record(Decisions, book.text, path)
        except SettingsError as error:  # an inline list of a hand: valid, and not to be added to
            raise SettingsError(
                [f"{path}: write its words as [[tables]]; nothing was changed ({error})"]
            ) from None
        files.write_changed(path.resolve(), book.text.encode())  # where a link leads, should it be one
        files.write_changed(layout.decisions_copy, book.text.encode(), PRIVATE)
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


def _serials(layout: Layout, product: Product) -> list[str]:
    """Every serial of a product that lies in the tree or in a snapshot, oldest first."""
    trees = [layout.public, *(layout.snapshots / name / "public" for name in snapshots(layout))]
    return sorted({path.name for tree in trees for path in tree.glob(f"{product.path}/*")})


def _build(layout: Layout, product: Product, serial: str) -> BuildName | None:
    """The build that an image stands for: as the ledger has it, else as the image itself tells."""
    ledger = load(layout.ledger(product), Ledger) or Ledger(product)
    trees = [layout.public, *(layout.snapshots / name / "public" for name in snapshots(layout))]
    images = [image for image in ledger.images if image.serial == serial]
    for tree in trees:
        with suppress(TreeError):  # damaged: that is no reason to keep it
            if image := load(tree / product.path / serial / SOURCE, Image):
                images.append(image)
    return _named(images[0]) if images else None


def _named(image: Image) -> BuildName:
    return BuildName(image.source.job, image.source.configuration, image.source.number)


def _undone(image: Image) -> str:
    return f"{image.product.name} {_named(image).text}"


def _unknown(layout: Layout, product: Product, what: str) -> str:
    names = {wish.product.name for wish in load_all(layout.state / "wishes", Wish)} - {product.name}
    near = get_close_matches(product.name, names, n=3, cutoff=0.5)
    return f"{product.name} {what}" + (f"; near are {', '.join(near)}" if near else "; doit status shows all")


def _some(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(every[:SHOWN]) + (f" and {len(every) - SHOWN} more" if len(every) > SHOWN else "")
