"""Which build a product should be at, and why not a newer one (pure).

A wish is what poll leaves for one product: the build to publish. It only ever moves to a build that
finished well and passed the gate; nothing that Jenkins forgets (a null last build, a deleted one,
a lower number) takes it back, because absence there means rotation far more often than removal.
"""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

import msgspec

from jenkins.api import Build, TestRun, axes, job_name
from tasks.image import Product
from tasks.settings import Axes, Gate


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """The build that a product should be at, with what Jenkins says of its artifacts."""

    product: Product
    job: str
    configuration: str
    number: int
    timestamp: int
    artifacts: tuple[str, ...]
    md5: tuple[str, ...]

    @property
    def build(self) -> str:
        """The build, for people."""
        where = f"{self.job}/{self.configuration}" if self.configuration else self.job
        return f"{where} #{self.number}"


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """What Jenkins has for one product: its good builds, newest first."""

    product: Product
    job: str
    configuration: str
    builds: tuple[Build, ...]


class Verdicts(msgspec.Struct, frozen=True):
    """The gate's word: builds that passed, by (job, configuration or "", number), and its scope."""

    passed: frozenset[tuple[str, str, int]]
    scope: str

    def allow(self, offer: Offer, number: int) -> bool:
        """Whether this build may be published.

        Scope «product»: this very build, or its parent, passed. Scope «os»: a pass of any build of
        the job covers every build up to that number, as images.linuxcontainers.org has it.
        """
        if self.scope == "os":
            return any(job == offer.job and number <= tested for job, _, tested in self.passed)
        own = {(offer.job, offer.configuration, number), (offer.job, "", number)}
        return not own.isdisjoint(self.passed)


def verdicts(runs: Iterable[TestRun], gate: Gate) -> Verdicts:
    """Read the test job's runs: each names the tested build by its URL, parent or configuration."""
    passed = set()
    for run in runs:
        url = run.parameter(gate.build)
        if run.building or run.result != "SUCCESS" or not url:
            continue
        *names, number = job_name(url) or ("",)
        if not number.isdecimal() or not names:
            continue
        configuration = names.pop() if "=" in names[-1] else ""
        passed.add(("/".join(names), configuration, int(number)))
    return Verdicts(frozenset(passed), gate.scope)


def os_of(job: str, patterns: Iterable[str]) -> str | None:
    """The os that a job's name stands for: what ``*`` matches in the first fitting pattern."""
    name = job.rsplit("/", 1)[-1]
    for pattern in patterns:
        before, _, after = pattern.partition("*")
        if fnmatchcase(name, pattern) and len(name) > len(before) + len(after):
            return name[len(before) : len(name) - len(after) or None]
    return None


def product_of(os: str, configuration: str, names: Axes) -> Product:
    """The product of a matrix configuration; axes of other names are ignored; raises ValueError."""
    values = axes(configuration)
    if names.arch not in values:
        raise ValueError(f"{configuration!r} has no axis {names.arch!r}")
    return Product(
        os,
        values.get(names.release, "current"),
        values[names.arch],
        values.get(names.variant, "default"),
    )


def products_in(os: str, template: str, artifacts: Iterable[str]) -> dict[Product, tuple[str, ...]]:
    """Sort one build's artifacts by product, as ``jenkins.path`` lays them out.

    Paths that do not fit the template belong to no product; raises ValueError for names that fit
    but cannot be a product.
    """
    pattern = re.escape(template)
    for field in ("release", "arch", "variant", "os"):
        pattern = pattern.replace(rf"\{{{field}\}}", rf"(?P<{field}>[^/]+)", 1)
    fits = re.compile(pattern.replace(r"\{file\}", "[^/]+"))
    found: dict[Product, list[str]] = {}
    for artifact in artifacts:
        if match := fits.fullmatch(artifact):
            named = match.groupdict()
            product = Product(
                named.get("os", os),
                named.get("release", "current"),
                named.get("arch", "amd64"),
                named.get("variant", "default"),
            )
            found.setdefault(product, []).append(artifact)
    return {product: tuple(paths) for product, paths in found.items()}


class Choice(msgspec.Struct, frozen=True):
    """The build to wish for (None: leave the wish as it is), and why a newer one is held."""

    build: Build | None
    held: str = ""


def choose(offer: Offer, wish: Wish | None, gate: Verdicts | None) -> Choice:
    """The newest build that passed, if it moves the product on."""
    allowed = [build for build in offer.builds if gate is None or gate.allow(offer, build.number)]
    newest = offer.builds[0] if offer.builds else None
    best = allowed[0] if allowed else None
    held = ""
    if newest and newest is not best:
        held = f"build #{newest.number} has not passed the test job"
    if best is None or (wish and not _moves(wish, offer, best)):
        return Choice(None, held)
    return Choice(best, held)


def _moves(wish: Wish, offer: Offer, build: Build) -> bool:
    """Whether a build is further on than the wish.

    A lower number counts when it started later: the job was deleted and made again. A lower number
    that is older only means that the wished build was rotated away.
    """
    if (wish.job, wish.configuration) == (
        offer.job,
        offer.configuration,
    ) and build.number > wish.number:
        return True
    return build.number != wish.number and build.timestamp > wish.timestamp


def merge(offers: Iterable[Offer]) -> tuple[list[Offer], list[str]]:
    """One offer per product; where two configurations make one product, the newest build wins.

    Returns the offers in order of product, and a line for each product that was contested.
    """
    best: dict[Product, Offer] = {}
    notes: dict[Product, str] = {}
    for offer in offers:
        rival = best.get(offer.product)
        if rival is None:
            best[offer.product] = offer
            continue
        winner = max(rival, offer, key=_freshness)
        best[offer.product] = winner
        notes[offer.product] = (
            f"made by more than one configuration; taken from {winner.job}/{winner.configuration}"
        )
    return [best[p] for p in sorted(best)], [f"{p.name}: {notes[p]}" for p in sorted(notes)]


def _freshness(offer: Offer) -> tuple[int, str]:
    return (offer.builds[0].timestamp if offer.builds else -1, offer.configuration)
