"""One URL for each alias of a unified image, as ``image import https://…`` asks for it, as files (pure).

A daemon asks with HEAD and tells its architectures; the answer's headers are the image's URL and hash
(lxc/incus:cmd/incusd/images.go, imgPostURLInfo; canonical/lxd:lxd/images.go before 6.9). A web server makes
them of the name of the one file in a directory, or hands out the file beside it as it is.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tasks.image import canonical_arch
from tasks.policy import CLIENTS
from tasks.schema import TYPES, UNIFIED, objects

HEADERS = ("Incus-Image", "LXD-Image")


class Found(NamedTuple):
    """A unified image; the greatest is what a name stands for, with a container before any VM."""

    container: bool
    serial: str
    path: str
    sha256: str


def importurl(products: Mapping[str, object]) -> dict[str, bytes]:
    """Every file, by its path, of what a products file lists."""
    made: dict[str, bytes] = {}
    for client in CLIENTS:
        newest: dict[str, Found] = {}
        for name, found in _unified(products, client):
            newest[name] = max(found, newest.get(name, found))
        for name, one in newest.items():
            _, *words = one.path.split("/")
            made[f"{client}/{name}/{','.join(words)},{one.sha256}"] = b""
            head = [f"{of}-Hash: {one.sha256}\n{of}-URL: /{one.path}\n" for of in HEADERS]
            made[f"{client}/{name}.asis"] = f"{''.join(head)}Content-Type: text/plain\n\n".encode()
    return made


def _unified(products: Mapping[str, object], client: str) -> Iterator[tuple[str, Found]]:
    """Every unified image that a client sees, by each ``alias@architecture``."""
    for _, product in objects({"products": products}, "products"):
        arch, aliases = canonical_arch(str(product.get("arch"))), str(product.get("aliases") or "").split(",")
        for serial, version in objects(product, "versions") if arch else ():
            for _, item in objects(version, "items"):
                if item.get("ftype") == UNIFIED[client]:
                    container = item.get("combined_type", TYPES[0]) == TYPES[0]
                    found = Found(container, serial, str(item.get("path")), str(item.get("sha256")))
                    yield from ((f"{alias}@{arch}", found) for alias in aliases if alias)
