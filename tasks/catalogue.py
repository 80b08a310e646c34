"""Which of the images that lie in the tree are listed (pure)."""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

import msgspec
from msgspec.structs import replace

from tasks.image import DELTAS, UNIFIED_VM, Image, Kind


class Catalogue(msgspec.Struct, frozen=True):
    """Every image to be listed, by product and serial: the one input of all indexes."""

    images: tuple[Image, ...]
    refused: tuple[str, ...] = ()  # images that the operator took out, by directory
    pinned: str = ""  # the snapshot whose indexes are to be shown again


class Usable(Protocol):
    """What has a serial and can be used as something."""

    @property
    def serial(self) -> str: ...  # noqa: D102 - its name is the whole truth
    @property
    def kinds(self) -> frozenset[Kind]: ...  # noqa: D102 - as above


Kept = TypeVar("Kept", bound=Usable)


def kept(images: Iterable[Kept], keep: int) -> Iterator[Kept]:
    """The newest ``keep`` images of one product, and whatever is the newest of its kind.

    A product whose VM builds fail for a month must not lose its last VM to three container builds.
    """
    missing = set(Kind)
    for position, image in enumerate(sorted(images, key=lambda one: one.serial, reverse=True)):
        if position < keep or not missing.isdisjoint(image.kinds):
            yield image
        missing -= image.kinds


def bases(images: Iterable[Image], serial: str, keep: int, count: int) -> list[Image]:
    """The newest images of a product that stay listed beside a new one: what its deltas begin from."""
    good = (one for one in images if one.serial < serial and any(map(one.has, DELTAS)))
    older = sorted(good, key=lambda one: one.serial)
    return older[-min(count, keep - 1) :][::-1] if min(count, keep - 1) else []


def spared(images: Iterable[Image]) -> tuple[Image, ...]:
    """The images as they may be listed: no unified VM beside containers of its product.

    Incus reads ``combined_type`` since May 2026 (lxc/incus:shared/simplestreams/products.go). Before, it
    took every unified image for a container, and the newest of a product is what an alias stands for.
    """
    images = tuple(images)
    vms = {image.product for image in images if UNIFIED_VM in image.files}
    mixed = {image.product for image in images if image.product in vms and image.has_container}
    return tuple(_without_vm(image) if image.product in mixed else image for image in images)


def _without_vm(image: Image) -> Image:
    return replace(image, files={name: file for name, file in image.files.items() if name != UNIFIED_VM})


def _listable(images: Iterable[Image], keep: int) -> Iterator[Image]:
    """What is kept of a product: what nobody would be shown takes no place of what somebody is.

    The newest of it stays all the same, or its build would be fetched again.
    """
    images = tuple(images)
    hidden = {image.path for image, left in zip(images, spared(images), strict=True) if not left.kinds}
    yield from kept((image for image in images if image.path not in hidden), keep)
    yield from kept((image for image in images if image.path in hidden), 1)


def catalogue(products: Iterable[Iterable[Image]], keep: int, refused: Iterable[str] = ()) -> Catalogue:
    """The catalogue of all products."""
    images = [image for product in products for image in _listable(product, keep)]
    listed = sorted(images, key=lambda one: (one.product.name, one.serial))
    return Catalogue(tuple(listed), tuple(sorted(refused)))


def duplicates(images: Iterable[Image]) -> dict[str, str]:
    """Images that repeat a fingerprint: path -> the path that had it first.

    Incus and LXD refuse to copy an image whose fingerprint is listed twice, so only that of the
    oldest build may be listed: a newcomer takes nothing away.
    """
    owner: dict[str, str] = {}
    found = {}
    for image in sorted(images, key=lambda one: (one.source.timestamp, one.path)):
        path = image.path
        if twin := next((owner[mark] for mark in image.marks if mark in owner), None):
            found[path] = twin
            continue
        owner |= dict.fromkeys(image.marks, path)
    return found
