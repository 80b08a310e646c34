"""What the clients' readers ask of index.json and a products file, whichever of them reads (pure).

Their structs are in lxc/incus:shared/simplestreams (index.go, products.go) and its LXD twin: another JSON
type than these have makes a whole list unreadable, and what they do not know is not listed.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

import msgspec

from tasks.image import canonical_arch
from tasks.settings import Day
from tasks.words import counted

SizeOf = Callable[[str], int | None]  # path below public -> bytes, None when it is not there
METADATA = {"incus": "incus.tar.xz", "lxd": "lxd.tar.xz"}
UNIFIED = {"incus": "incus_combined.tar.gz", "lxd": "lxd_combined.tar.gz"}
TYPES = ("container", "virtual-machine")  # of a unified image, the first where it does not say
# ftype of a root -> (type of image, keys of its combined hash, the first one present counts)
ROOTS = {
    "root.tar.xz": ("container", ("combined_rootxz_sha256", "combined_sha256")),
    "squashfs": ("container", ("combined_squashfs_sha256",)),
    "disk-kvm.img": ("virtual-machine", ("combined_disk-kvm-img_sha256",)),
    "uefi1.img": ("virtual-machine", ("combined_uefi1-img_sha256",)),
    "disk1.img": ("virtual-machine", ("combined_disk1-img_sha256",)),
}
DELTAS = {"squashfs.vcdiff": "squashfs", "disk-kvm.img.vcdiff": "disk-kvm.img"}  # ftype -> of its root
# what no root is, and yet some client knows
FTYPES = {
    *METADATA.values(),
    *ROOTS,
    *UNIFIED.values(),
    *DELTAS,
}
TOP_TEXTS = ("content_id", "datatype", "format", "license", "updated")
VERSION_TEXTS = ("label", "pubname")
ITEM_TEXTS = (
    *dict.fromkeys(key for _, keys in ROOTS.values() for key in keys),
    "md5",
    "delta_base",
    "combined_type",
)
PRODUCT_TEXTS = (
    "aliases",
    "arch",
    "os",
    "release",
    "release_codename",
    "release_title",
    "variant",
    "version",
    "support_eol",
)
REQUIREMENTS = ("requirements", "lxd_requirements")
HEX = re.compile(r"[0-9a-f]{64}")
_DATE = re.compile(r"[0-9]{8}")
_OBJECT: Mapping[str, object] = {}


class Fault(NamedTuple):
    """What a client would stumble over, and whose fault it is.

    ``product`` is a key, "" when no single one is to blame; ``serial`` is given when one image is.
    """

    product: str
    what: str
    serial: str = ""

    def __str__(self) -> str:
        return f"{self.product}: {self.what}" if self.product else self.what


Documents = Callable[[str], Mapping[str, object] | Fault]


def listed_items(products: bytes | None) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Every item of a products file, with words that say whose it is; none where it is no such file."""
    document = parsed(products, "")
    for key, product in objects({} if isinstance(document, Fault) else document, "products"):
        for serial, version in objects(product, "versions"):
            for name, item in objects(version, "items"):
                yield f"{key} {serial} {name}", item


def products_files(document: Documents) -> Iterator[Mapping[str, object] | Fault]:
    """Every products file that a client opens from ``streams/v1/index.json`` on, and what is wrong there."""
    for entry in _entries(document("streams/v1/index.json")):
        if isinstance(entry, Fault):
            yield entry
            continue
        path, listed = entry
        products = document(path)
        if not isinstance(products, Fault):
            yield from (Fault("", f"{path}: {what}") for what in _types(products, TOP_TEXTS, "products"))
            if listed != {key for key, _ in objects(products, "products")}:
                yield Fault("", f"index.json names other products than {path} has")
        yield products


def _entries(document: Mapping[str, object] | Fault) -> Iterator[tuple[str, set[object]] | Fault]:
    """The products files that a client opens, image-downloads, and which products they should have."""
    if isinstance(document, Fault):
        yield document
        return
    yield from (Fault("", f"index.json: {what}") for what in _types(document, ("format", "updated"), "index"))
    for name, entry in objects(document, "index"):
        products, path = entry.get("products"), entry.get("path")
        if entry.get("datatype") != "image-downloads" or not isinstance(path, str):
            yield Fault("", f"index.json: no client reads the entry {name!r}")
        elif not isinstance(products, list) or not all(isinstance(one, str) for one in products):
            yield Fault("", f"index.json: the products of {name!r} are no list of strings")
        else:
            yield path, set(products)


def _product_faults(product: Mapping[str, object]) -> Iterator[str]:
    yield from _types(product, PRODUCT_TEXTS, "versions")
    for field in REQUIREMENTS:
        value = product.get(field, _OBJECT)
        if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
            yield f"{field} must map strings to strings, else the whole list is unreadable"
    end = product.get("support_eol")
    if end and isinstance(end, str) and not is_day(end):
        yield f"support_eol {end!r} is no YYYY-MM-DD: clients overlook it"
    if canonical_arch(str(product.get("arch"))) is None:
        yield f"no client knows the architecture {product.get('arch')!r}"
    aliases = product.get("aliases")
    if (
        aliases
        and isinstance(aliases, str)
        and any(one != one.strip() or not one for one in aliases.split(","))
    ):
        yield f"aliases {aliases!r} hold a blank or an empty name, which clients keep"


def shared_faults(key: str, product: Mapping[str, object], size_of: SizeOf) -> Iterator[Fault]:
    """What every client would stumble over."""
    yield from (Fault(key, what) for what in _product_faults(product))
    for serial, version in objects(product, "versions"):
        if not is_dated(serial[:8]):
            yield Fault(key, f"the version {serial!r} does not begin with a date: no client lists it", serial)
            continue
        for what in _types(version, VERSION_TEXTS, "items"):
            yield Fault(key, f"{serial}: {what}", serial)
        for name, item in objects(version, "items"):
            for what in _item_faults(item, size_of):
                yield Fault(key, f"{serial} {name}: {what}", serial)


@lru_cache(maxsize=4096)
def is_dated(start: str) -> bool:
    """Whether a version's first eight characters are a date."""
    try:
        datetime.strptime(start, "%Y%m%d")  # noqa: DTZ007 - a date only, as the clients parse it
    except ValueError:
        return False
    return bool(_DATE.match(start))  # strptime also takes 2026112 and other digits than ours


def is_day(text: str) -> bool:
    """Whether clients read it as a day."""
    try:
        return bool(Day.parse(text))
    except ValueError:
        return False


def _types(of: Mapping[str, object], texts: tuple[str, ...], objects: str = "") -> Iterator[str]:
    """Another JSON type than the clients' structs have makes the whole file unreadable."""
    for field in [field for field in texts if not isinstance(of.get(field, ""), str)]:
        yield f"{field} is no string, which makes the whole list unreadable"
    inner = of.get(objects, _OBJECT) if objects else _OBJECT
    if not isinstance(inner, dict) or not all(isinstance(one, dict) for one in inner.values()):
        yield f"{objects} is no object of objects, which makes the whole list unreadable"


def _item_faults(item: Mapping[str, object], size_of: SizeOf) -> Iterator[str]:
    path, size, digest = item.get("path"), item.get("size"), item.get("sha256")
    if not item.keys().isdisjoint(ITEM_TEXTS):
        yield from _types(item, ITEM_TEXTS)
    if not isinstance(ftype := item.get("ftype"), str):
        yield "has no ftype"
    elif ftype not in FTYPES:
        yield f"no client knows the ftype {ftype!r}"
    if item.get("combined_type", TYPES[0]) not in TYPES:
        yield f"no client knows the combined_type {item.get('combined_type')!r}"
    if not isinstance(size, int) or isinstance(size, bool):
        yield "size is no integer, which makes the whole list unreadable"
    if not isinstance(digest, str) or not HEX.fullmatch(digest):
        yield "has no sha256"
    if not isinstance(path, str) or path.startswith("/") or ".." in path.split("/"):
        yield f"path {path!r} is not a plain relative one"
    elif (there := size_of(path)) is None:
        yield f"{path} does not exist"
    elif there != size:
        yield f"{path} has {counted(there, 'byte')}, not {size}"


def parsed(data: bytes | None, path: str) -> Mapping[str, object] | Fault:
    """A document as an object, or why it is none."""
    if data is None:
        return Fault("", f"{path} does not exist")
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Fault("", f"{path} is no JSON: {error}")
    return document if isinstance(document, dict) else Fault("", f"{path} holds no object")


def objects(of: Mapping[str, object], field: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """The objects in an object; what is of another type makes the file unreadable and is seen as {}."""
    value = of.get(field)
    for name, one in value.items() if isinstance(value, dict) else ():
        yield name, one if isinstance(one, dict) else _OBJECT
