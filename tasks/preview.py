"""What ``publish`` would do, and why (acts: reads the state and what a poll found; changes nothing)."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import msgspec

from tasks import files, overlay, tree
from tasks.decisions import Decisions
from tasks.image import Product
from tasks.layout import Layout
from tasks.ledgers import exposed
from tasks.plan import UNTESTED, Wish
from tasks.settings import Upstream
from tasks.state import Failure, Followed, Ledger, Offers, load, load_all
from tasks.words import counted

UP_TO_DATE = "up to date"


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """What is to become of one product, or of one job that could not be asked."""

    product: str
    state: str  # new, up to date, held, retired, failed, untested or never built
    serial: str = ""  # of its newest image
    build: str = ""  # that is wished for
    why: str = ""


class Preview(NamedTuple):
    """What a poll found, and what is there."""

    layout: Layout
    offers: Offers
    wishes: Mapping[Product, Wish]
    word: Decisions
    rejection: Callable[[Wish], str]  # why a build was rejected before, "" when it was not

    def products(self) -> list[Planned]:
        """Every product that is known, in order of its name."""
        ledgers = {product.name: ledger for product, ledger in known(self.layout).items()}
        wished = {product.name: wish for product, wish in self.wishes.items()}
        offers = self.offers
        found = []
        for name in sorted({*wished, *ledgers, *offers.held, *offers.waiting, *offers.troubled}):
            wish, ledger = wished.get(name), ledgers.get(name)
            state, why = self._verdict(name, wish, ledger)
            serial = ledger.images[-1].serial if ledger and ledger.images else ""
            build = wish.build if wish else ""
            found.append(Planned(product=name, state=state, serial=serial, build=build, why=why))
        return found

    def _verdict(self, name: str, wish: Wish | None, ledger: Ledger | None) -> tuple[str, str]:
        """The state of a product and the reason."""
        if why := self.offers.troubled.get(name, ""):
            return "failed", why
        if wish and (why := self.word.ending(wish.product)):
            return "retired", why
        if wish and (why := self.word.stop(wish.product, wish.job, wish.configuration, wish.number)):
            return "held", why
        if why := self.offers.held.get(name, ""):
            return ("untested" if why.endswith(UNTESTED) else "held"), why
        if wish is None:
            return ("never built" if name in self.offers.waiting else UP_TO_DATE), ""
        return (UP_TO_DATE, "") if ledger and ledger.of_build(wish) else self._coming(wish)

    def _coming(self, wish: Wish) -> tuple[str, str]:
        if why := self.rejection(wish):
            return "failed", f"{wish.build} was rejected: {why}"
        failure = load(self.layout.failure(wish.product), Failure)
        again = f", which failed before: {failure.reason}" if failure and failure.build == wish.build else ""
        return "new", f"{wish.build}{again}"


def known(layout: Layout) -> dict[Product, Ledger]:
    """The ledgers; where the state is lost, or not for us to read, what is exposed."""
    ledgers = {ledger.product: ledger for ledger in load_all(layout.state / "ledger", Ledger)}
    if not ledgers:
        for image in tree.listed_images(layout.latest):
            before = ledgers.get(image.product) or Ledger(image.product)
            ledgers[image.product] = before.with_image(image)
    return ledgers


def delisted(layout: Layout, word: Decisions) -> Iterator[str]:
    """What a decision takes out of the lists by the next publication; a hold does not, under a pin."""
    images, pinned = tuple(exposed(layout)), word.pinned()
    stay = {image.path for image in word.listed(images)}
    gone = (one for one in images if (word.refuses(one) if pinned else one.path not in stay))
    yield from (f"delisted: {image.path}" for image in gone)


def table(rows: Sequence[Planned], globs: Iterable[str]) -> list[str]:
    """Plans for people: what is up to date is only counted, unless a glob asks for it."""
    wanted = list(globs)
    shown = [
        row
        for row in rows
        if (any(fnmatchcase(row.product, glob) for glob in wanted) if wanted else row.state != UP_TO_DATE)
    ]
    wide = max((len(row.product) for row in shown), default=0)
    lines = [f"{row.state:<11} {row.product:<{wide}}  {row.why or row.serial}".rstrip() for row in shown]
    counts = {
        state: sum(row.state == state for row in rows) for state in dict.fromkeys(r.state for r in rows)
    }
    said = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
    return [*lines, f"{counted(len(rows), 'product')}: {said}" if rows else "no product is known yet"]


def upstreams(layout: Layout, followed: Iterable[Upstream], shown: Iterable[str]) -> Iterator[str]:
    """What publish does of upstreams without asking them; what is new there it alone finds out."""
    for one in followed if not layout.blind else ():
        known, ring = load(layout.followed(one.name), Followed), files.read(one.keyring) or b""
        if known is None:
            yield f"new: upstream {one.name}, never asked yet"
        elif known.rules != overlay.rules(one, ring):
            yield f"again: upstream {one.name}, for what the configuration says of it changed"
    for name in sorted({*tree.overlays(layout.latest)} - {*shown}):
        yield f"gone: all that is listed of upstream {name}, which no [[upstream]] names"
