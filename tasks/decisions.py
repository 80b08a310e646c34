"""The operator's word over the pipeline's: hold, block, retire, withdraw, pin, keep (pure).

What stands in ``decisions.toml``, one table for each word, with who said it, when and why. A word
that was taken back stays, with ``released`` saying by whom; it only no longer counts.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Self, TypeVar

import msgspec

from tasks.image import Image, Product, parse_serial
from tasks.layout import SNAPSHOT


class BuildName(msgspec.Struct, frozen=True):
    """A build as reports name it: ``JOB/CONFIGURATION #N``; without configuration, all of them."""

    job: str
    configuration: str
    number: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read it, with or without the blank; raises ValueError."""
        found = re.fullmatch(r"([^#]*[^#\s]) ?#([0-9]{1,9})", text.strip())
        if not found or not text.isprintable():
            raise ValueError(f"{text!r} is no build; write it as reports do, JOB/CONFIGURATION #N or JOB #N")
        job, _, last = found[1].rpartition("/")
        named = (job, last) if "=" in last else (found[1], "")
        return cls(*named, int(found[2]))

    @property
    def text(self) -> str:
        """As reports name it."""
        where = f"{self.job}/{self.configuration}" if self.configuration else self.job
        return f"{where} #{self.number}"

    def covers(self, job: str, configuration: str, number: int) -> bool:
        """Whether a build is meant."""
        return (self.job, self.number) == (job, number) and self.configuration in ("", configuration)


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """Who said it, when (UTC, ISO 8601) and why."""

    who: str
    when: str
    why: str = ""
    released: str = ""  # when, by whom and why it was taken back

    @property
    def said(self) -> str:
        """The word's origin, for people."""
        when = self.when[:16].replace("T", " ")
        return f"by {_plain(self.who)}, {_plain(when)} UTC: {_plain(self.why) or 'no reason given'}"


Said = TypeVar("Said", bound=Word)


class Hold(Word, frozen=True, kw_only=True):
    """Nothing newer than this image of a product is listed or fetched."""

    product: Product
    serial: str

    def __post_init__(self) -> None:
        """Raises ValueError for what is no serial."""
        _refuse_other(self.serial)


class Block(Word, frozen=True, kw_only=True):
    """A build that is never published."""

    build: BuildName


class Retire(Word, frozen=True, kw_only=True):
    """A product that has ended."""

    product: Product


class Withdraw(Word, frozen=True, kw_only=True):
    """An image that is taken back; ``at_once`` from every snapshot and mirror at once."""

    product: Product
    serial: str
    build: BuildName | None = None  # None when the image no longer tells
    at_once: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for what is no serial: a directory of this name will be removed."""
        _refuse_other(self.serial)

    @property
    def path(self) -> str:
        """The image's directory, relative to ``public``."""
        return f"{self.product.path}/{self.serial}"


class Pin(Word, frozen=True, kw_only=True):
    """What an earlier snapshot listed is listed again, until all that it undid is refused."""

    snapshot: str
    undone: tuple[str, ...] = ()  # the images that it took out of the lists: PRODUCT JOB/CONFIGURATION #N

    def __post_init__(self) -> None:
        """Raises ValueError for what is no snapshot's name: a directory of this name will be read."""
        if not SNAPSHOT.fullmatch(self.snapshot):
            raise ValueError(f"{self.snapshot!r} is no snapshot; doit snapshots lists them")


class Keep(Word, frozen=True, kw_only=True):
    """A snapshot that stays, whatever its age, under a name of its own if one was given."""

    snapshot: str
    name: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError for names that cannot stand in a URL, or could be a snapshot's or a day's."""
        if not SNAPSHOT.fullmatch(self.snapshot):
            raise ValueError(f"{self.snapshot!r} is no snapshot; doit snapshots lists them")
        if self.name and not re.fullmatch(r"[a-z][a-z0-9.-]{0,99}", self.name):
            raise ValueError(f"{self.name!r}: a name begins with a-z, and has a-z, 0-9, '.' and '-' alone")


class Decisions(msgspec.Struct, frozen=True):
    """Every word that was said."""

    hold: tuple[Hold, ...] = ()
    block: tuple[Block, ...] = ()
    retire: tuple[Retire, ...] = ()
    withdraw: tuple[Withdraw, ...] = ()
    pin: tuple[Pin, ...] = ()
    keep: tuple[Keep, ...] = ()

    def refusal(self, product: Product, job: str, configuration: str, number: int) -> str:
        """Why a product is never published from a build, "" when it may be.

        A build may hold several products: a withdrawal is of one, a block of all.
        """
        for block in _standing(self.block):
            if block.build.covers(job, configuration, number):
                return f"blocked {block.said}"
        for gone in _standing(self.withdraw):
            if gone.product == product and gone.build and gone.build.covers(job, configuration, number):
                return f"withdrawn {gone.said}"
        return ""

    @property
    def refuses_builds(self) -> bool:
        """Whether any build was ever refused."""
        return bool(self.block or self.withdraw)

    def ending(self, product: Product) -> str:
        """Why a product has ended, "" when it has not."""
        return next((f"retired {one.said}" for one in _standing(self.retire) if one.product == product), "")

    def hold_of(self, product: Product) -> Hold | None:
        """The hold of a product; of several the last counts."""
        return next((one for one in reversed(list(_standing(self.hold))) if one.product == product), None)

    def keeping(self, product: Product) -> str:
        """Why a product does not move on, whatever is built, "" when it may."""
        hold = self.hold_of(product)
        return self.ending(product) or (f"kept at {hold.serial} {hold.said}" if hold else "")

    def stop(self, product: Product, job: str, configuration: str, number: int) -> str:
        """Why nothing is to be fetched for a product from a build, "" when it may be."""
        pinned = f"pinned at {pin.snapshot} {pin.said}" if (pin := self.pinned()) else ""
        return self.refusal(product, job, configuration, number) or self.keeping(product) or pinned

    def refuses(self, image: Image) -> bool:
        """Whether an image must not be listed by anybody, whatever else is decided."""
        source = image.source
        return (
            bool(self.refusal(image.product, source.job, source.configuration, source.number))
            or image.path in self.withdrawn()
            or bool(self.ending(image.product))
        )

    def listed(self, images: Iterable[Image]) -> Iterator[Image]:
        """The images that may be listed."""
        for image in images:
            hold = self.hold_of(image.product)
            if not self.refuses(image) and (hold is None or image.serial <= hold.serial):
                yield image

    def withdrawn(self, *, at_once: bool = False) -> set[str]:
        """The directories of withdrawn images, or only of those withdrawn at once."""
        return {one.path for one in _standing(self.withdraw) if one.at_once or not at_once}

    def pinned(self) -> Pin | None:
        """The pin that stands; one whose undone builds are all refused has done its work."""
        pin = next(reversed(list(_standing(self.pin))), None)
        if pin is None or (pin.undone and all(map(self.is_refused, pin.undone))):
            return None
        return pin

    def kept(self) -> dict[str, Keep]:
        """The snapshots that stay."""
        return {one.snapshot: one for one in _standing(self.keep)}

    def dated(self, snapshots: Iterable[str]) -> dict[str, str]:
        """Snapshots by what they are called as remotes: their names, the day for its last, what was said."""
        names = {name: name for name in snapshots}
        days = {name[:8]: name for name in names}
        said = {one.name: one.snapshot for one in _standing(self.keep) if one.name and one.snapshot in names}
        return names | days | said

    def is_refused(self, undone: str) -> bool:
        """Whether what an entry of ``undone`` names is refused."""
        name, _, build = undone.partition(" ")
        try:
            product, one = Product.parse(name), BuildName.parse(build)
        except ValueError:
            return False
        return bool(self.refusal(product, one.job, one.configuration, one.number))

    def names(self) -> list[str]:
        """What any standing word is about, as ``unhold`` takes it."""
        products = {one.product.name for one in _standing(self.hold)}
        products |= {one.product.name for one in _standing(self.retire)}
        images = {f"{one.product.name}/{one.serial}" for one in _standing(self.withdraw)}
        return sorted(products | images) + sorted(one.build.text for one in _standing(self.block))

    def pin_line(self) -> list[str]:
        """What is said of a pin, wherever products are listed."""
        pin = self.pinned()
        return [f"pinned: at {pin.snapshot} {pin.said}; doit rollback --release lets go"] if pin else []

    def lines(self) -> list[str]:
        """What every publication says of them: a pin, and what is held."""
        lines = self.pin_line()
        held = {one.product.name: one for one in _standing(self.hold) if not self.ending(one.product)}
        lines += [f"held: {name}: kept at {held[name].serial} {held[name].said}" for name in sorted(held)]
        return lines


NOTHING_DECIDED = Decisions()


def _refuse_other(serial: str) -> None:
    if parse_serial(serial) != serial:
        raise ValueError(f"{serial!r} has blanks around it")


def _plain(text: str) -> str:
    """One line for people, whatever stands in the file."""
    return "".join(one if one.isprintable() else " " for one in " ".join(text.split()))[:300]


def _standing(words: Iterable[Said]) -> Iterator[Said]:
    return (word for word in words if not word.released)
