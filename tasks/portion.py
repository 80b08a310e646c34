"""The part of what a tree lists that a mirror gets: of some products, the newest images (pure).

Which they are is read from the tree's own indexes, for it may be an older one. ``keep`` counts as
``site.keep`` does, 0 for all: whatever is the newest of its kind stays, or a product whose newest
container is newer than its newest VM would lose that; of kind LXC is what LXC's index names.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from tasks import lxcindex, overlay, streams
from tasks.catalogue import kept
from tasks.image import Kind, Product
from tasks.policy import matched, matches
from tasks.proof import types
from tasks.schema import METADATA, TYPES, objects
from tasks.streams import Json

KINDS = dict(zip(TYPES, (Kind.CONTAINER, Kind.VM), strict=True))


class Version(NamedTuple):
    """One image of a product, as the indexes have it."""

    serial: str
    kinds: frozenset[Kind]


def ours(products: Mapping[str, object], lines: Iterable[str], match: Collection[str], keep: int) -> set[str]:
    """The directories of the images that a mirror gets, relative to ``public``.

    ``products`` are those of images.json, ``lines`` those of all indexes of LXC.
    """
    found: dict[str, dict[str, frozenset[Kind]]] = {}
    for key, product in objects({"": products}, ""):
        found[key.replace(":", "/")] = {serial: _kinds(of) for serial, of in objects(product, "versions")}
    for line in lines:
        name, serial = _named(line)
        images = found.setdefault(name, {})
        images[serial] = images.get(serial, frozenset()) | {Kind.LXC}
    return {
        f"images/{name}/{serial}"
        for name, images in found.items()
        if matched(Product.parse(name), match)
        for serial in _newest(images, keep)
    }


def theirs(products: Mapping[str, object], match: Collection[str], keep: int) -> dict[str, Json]:
    """The products of an upstream, as one of the tree's files has them, that a mirror gets.

    The patterns are held against its own names, as those of ``upstream.match`` are.
    """
    made: dict[str, Any] = {}  # parts of what is Json already
    for key, product in objects({"": products}, ""):
        if overlay.matches(product, match):
            versions = dict(objects(product, "versions"))
            good = _newest({serial: _kinds(of) for serial, of in versions.items()}, keep)
            made[key] = {**product, "versions": {serial: versions[serial] for serial in good}}
    return made


def listed(products: Mapping[str, Json], paths: Collection[str]) -> dict[str, Json]:
    """The products of images.json or of a list with these images alone, and no delta without its base."""
    return streams.without(products, streams.paths(products) - {*paths})


def idle(names: Iterable[str], others: Iterable[Mapping[str, object]], match: Iterable[str]) -> list[str]:
    """The patterns that fit no product: ``names`` are those of ours, ``others`` what upstreams have."""
    mine, products = [Product.parse(name) for name in names], list(others)
    return [
        pattern
        for pattern in match
        if not any(matches(pattern, one) for one in mine)
        and not any(overlay.matches(one, [pattern]) for one in products)
    ]


def _named(line: str) -> tuple[str, str]:
    """The product that a line of LXC's index is of, and the serial of the image that it names."""
    name, _, serial = lxcindex.path(line).removeprefix("images/").rpartition("/")
    return name, serial


def _kinds(version: Mapping[str, object]) -> frozenset[Kind]:
    """What clients of simplestreams make of a version."""
    items = dict(objects(version, "items"))
    return frozenset(KINDS[one] for client in METADATA for one in types(items, client))


def _newest(images: Mapping[str, frozenset[Kind]], keep: int) -> list[str]:
    versions = [Version(serial, kinds) for serial, kinds in images.items()]
    return [one.serial for one in kept(versions, keep or len(versions))]
