"""Which build a product should be at, and why not a newer one (pure).

A wish is what poll leaves for one product: the build to publish. It only ever moves to a build that
finished well and passed the gate; nothing that Jenkins forgets (a null last build, a deleted one,
a lower number) takes it back, because absence there means rotation far more often than removal.
"""

import re
from collections.abc import Iterable, Mapping

import msgspec

from jenkins.api import Build, TestRun, axes, configuration_name, job_name
from tasks.decisions import NOTHING_DECIDED, Decisions
from tasks.image import Product
from tasks.settings import Axes, Gate

UNTESTED = "has not passed the test job"


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


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The build of a job without configurations that was last asked for, and what it had."""

    job: str
    number: int
    timestamp: int
    products: tuple[Product, ...]
    configuration: str = ""


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
    when: Mapping[tuple[str, str, int], int] = msgspec.field(default_factory=dict)  # its last pass began

    def allow(self, offer: Offer, number: int) -> bool:
        """Whether this build may be published.

        Scope «product»: this very build, or its parent, passed. Scope «os»: a pass of any build of
        the job covers every build up to that number, as images.linuxcontainers.org has it. A run that
        began before the build tested one of a job that was deleted and made anew since.
        """
        if self.scope == "os":
            passed = [one for one in self.passed if one[0] == offer.job and number <= one[2]]
        else:
            passed = [(offer.job, offer.configuration, number), (offer.job, "", number)]
        built = next((build.timestamp for build in offer.builds if build.number == number), 0)
        return any(one in self.passed and self.when.get(one, built) >= built for one in passed)


def verdicts(runs: Iterable[TestRun], gate: Gate) -> Verdicts:
    """Read the test job's runs: each names the tested build by its URL, parent or configuration."""
    passed: set[tuple[str, str, int]] = set()
    when: dict[tuple[str, str, int], int] = {}
    for run in runs:
        url = run.parameter(gate.build)
        if run.building or run.result != "SUCCESS" or not url:
            continue
        *names, number = job_name(url) or ("",)
        if not re.fullmatch("[0-9]{1,9}", number) or not names:
            continue
        configuration = configuration_name(names.pop()) if "=" in names[-1] else ""
        job, named = "/".join(names), run.parameter(gate.image)
        if not names or (named and named not in (names[-1], job) and not named.startswith(f"{job}/")):
            continue  # the parameters contradict each other: whatever was tested, it is not this build
        one = job, configuration, int(number)
        passed.add(one)
        if run.timestamp is not None:
            when[one] = max(when.get(one, 0), run.timestamp)
    return Verdicts(frozenset(passed), gate.scope, when)


def os_of(job: str, patterns: Iterable[str]) -> str | None:
    """The os that a job's name stands for: what ``*`` matches in the first fitting pattern."""
    name = job.rsplit("/", 1)[-1]
    for pattern in patterns:
        before, _, after = pattern.partition("*")
        if name.startswith(before) and name.endswith(after) and len(name) > len(before) + len(after):
            return name[len(before) : len(name) - len(after)]
    return None


def product_of(os: str, configuration: str, names: Axes) -> Product:
    """The product of a matrix configuration; other axes are ignored; raises ValueError.

    All three must be there: a default for an axis whose name was mistyped would publish every
    release under one name.
    """
    values = axes(configuration)
    for axis in (names.release, names.arch, names.variant):
        if axis not in values:
            raise ValueError(f"{configuration!r} has no axis {axis!r}; see jenkins.axes")
    return Product(os, values[names.release], values[names.arch], values[names.variant])


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


def choose(
    offer: Offer, wish: Wish | Asked | None, gate: Verdicts | None, word: Decisions = NOTHING_DECIDED
) -> Choice:
    """The newest build that passed and that the operator did not refuse, if it moves the product on.

    From a build that was refused since, an older one is a step on too.
    """
    here = offer.product, offer.job, offer.configuration
    refused = {one.number: word.refusal(*here, one.number) for one in offer.builds}
    good = (one for one in offer.builds if gate is None or gate.allow(offer, one.number))
    newest = offer.builds[0] if offer.builds else None
    best = next((one for one in good if not refused[one.number]), None)
    if wish and word.refusal(offer.product, wish.job, wish.configuration, wish.number):
        wish = None
    held = ""
    if newest and newest is not best and (wish is None or moves(wish, offer, newest)):
        why = f"is {refused[newest.number]}" if refused[newest.number] else UNTESTED
        held = f"build #{newest.number} {why}"
    if best is None or (wish and not moves(wish, offer, best)):
        return Choice(None, held)
    return Choice(best, held)


def moves(wish: Wish | Asked, offer: Offer | Wish, build: Build | Wish) -> bool:
    """Whether a build is further on than the wish; another wish may stand for the offer and its build.

    A number that is not higher counts when it started later: the job was deleted and made again. A
    lower number that is older only means that the wished build was rotated away. A sibling of the
    same parent build, another configuration for the same product, is no news.
    """
    newer = build.timestamp > wish.timestamp
    if wish.job != offer.job:
        return newer
    if wish.configuration != offer.configuration:
        return newer and build.number != wish.number
    return newer or build.number > wish.number


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


def _freshness(offer: Offer) -> tuple[int, str, str]:
    return (offer.builds[0].timestamp if offer.builds else -1, offer.job, offer.configuration)
