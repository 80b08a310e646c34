"""Which files of an upstream are to lie here, and which of its versions can be listed (pure).

A version is listed when all of its files are here. A product that has none yet keeps those that were
listed before. ``keep`` is how many of the newest versions count, 0 for all: newest by their names, which
is how clients sort them.
"""

from collections.abc import Callable, Iterator, Mapping
from email.utils import mktime_tz, parsedate_tz
from typing import Any

from tasks.image import File
from tasks.overlay import Products
from tasks.schema import objects

NOTHING: Mapping[str, object] = {}


def newest(products: Mapping[str, object], keep: int) -> Products:
    """The products with no more than so many versions."""
    return _each(products, lambda _, of: _cut(_versions(of), keep))


def wanted(products: Mapping[str, object], keep: int) -> dict[str, File]:
    """The files that are to lie here, by path; those of the newest version of every product first."""
    ranked = [
        (rank, version)
        for _, product in objects({"": products}, "")
        for rank, version in enumerate(_cut(_versions(product), keep).values())
    ]
    ranked.sort(key=lambda one: one[0])
    return {path: file for _, version in ranked for path, file in _files(version)}


def listed(
    products: Mapping[str, object],
    keep: int,
    here: Mapping[str, File],
    before: Mapping[str, object] = NOTHING,
) -> Products:
    """What of these can be listed, where ``here`` are the files that lie here."""

    def whole(of: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
        found = {one: version for one, version in _versions(of).items() if _is_whole(version, here)}
        return _cut(found, keep)

    def good(key: str, of: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
        return whole(of) or whole(dict(objects({"": before}, "")).get(key, NOTHING))

    return _each(products, good)


def files(products: Mapping[str, object]) -> dict[str, File]:
    """Every file that these name, by path."""
    return wanted(products, 0)


def made(updated: str) -> int:
    """When a document says that it was made, in seconds since the epoch; 0 when it does not say.

    Ubuntu's say ``"updated": "Tue, 18 Nov 2025 06:33:45 +0000"``.
    """
    try:
        parts = parsedate_tz(updated)
        return mktime_tz((*parts[:9], parts[9] or 0)) if parts else 0
    except (ValueError, OverflowError, IndexError, TypeError):
        return 0


def _versions(product: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
    return dict(objects(product, "versions"))


def _cut(versions: Mapping[str, Mapping[str, object]], keep: int) -> dict[str, Mapping[str, object]]:
    """The newest of them, from the newest on."""
    names = sorted(versions, reverse=True)
    return {name: versions[name] for name in names[: keep or None]}


def _each(
    products: Mapping[str, object],
    choose: Callable[[str, Mapping[str, object]], Mapping[str, object]],
) -> Products:
    """Every product with the versions that are chosen of it, none without any."""
    found: dict[str, Any] = {}  # parts of what is Json already
    for key, product in objects({"": products}, ""):
        if versions := choose(key, product):
            found[key] = {**product, "versions": versions}
    return found


def _is_whole(version: Mapping[str, object], here: Mapping[str, File]) -> bool:
    return all(here.get(path) == file for path, file in _files(version))


def _files(version: Mapping[str, object]) -> Iterator[tuple[str, File]]:
    for _, item in objects(version, "items"):
        size = item.get("size")
        yield str(item.get("path")), File(size if isinstance(size, int) else -1, str(item.get("sha256")))
