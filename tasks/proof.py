"""The clients' own rules, replayed on the new indexes (pure: bytes and sizes in, faults out).

What Incus and LXD do with index.json and the products file is in lxc/incus:shared/simplestreams
(index.go, products.go, simplestreams.go, sort.go) and its LXD twin; what LXC does with its index in
lxc/lxc:templates/lxc-download.in. Where a client would silently drop or later refuse an image, that
is a fault here.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import PurePosixPath
from typing import NamedTuple

from tasks.image import META, ROOT_TAR, canonical_arch
from tasks.layout import STREAMS
from tasks.settings import Day
from tasks.words import counted

Incumbents = Mapping[str, Collection[str]]  # product -> its aliases in what is exposed
NOBODY: Incumbents = {}
Readers = Mapping[str, Collection[str]]  # list -> the clients that read it
NOT_ANY: Readers = {}
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
_HEX = re.compile(r"[0-9a-f]{64}")
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


class Listed(NamedTuple):
    """One image as a client lists it."""

    product: str
    serial: str
    types: tuple[str, ...]  # that clients give it, whichever they are: to some a unified VM is a container
    arch: str
    fingerprint: str


def prove_streams(
    read: Callable[[str], bytes | None], size_of: SizeOf, client: str, incumbents: Incumbents = NOBODY
) -> Iterator[Fault]:
    """Walk the streams from ``streams/v1/index.json`` on as one client does.

    ``incumbents`` are the aliases that products have in what is exposed now: of two products that
    claim one alias, the newcomer is to blame.
    """
    names: dict[tuple[str, str, str], str] = {}
    owners: dict[str, Listed] = {}
    for entry in _entries(read("streams/v1/index.json")):
        if isinstance(entry, Fault):
            yield entry
            continue
        path, listed = entry
        products = _document(read(path), path)
        if isinstance(products, Fault):
            yield products
            continue
        yield from (Fault("", f"{path}: {what}") for what in _types(products, TOP_TEXTS, "products"))
        if listed != {key for key, _ in _objects(products, "products")}:
            yield Fault("", f"index.json names other products than {path} has")
        for key, product in _objects(products, "products"):
            claimed = set()
            yield from (Fault(key, what) for what in _product_faults(product))
            for found in _version_faults_and_images(key, product, size_of, client):
                if isinstance(found, Fault):
                    yield found
                    continue
                if twin := owners.get(found.fingerprint):
                    what = f"{found.serial} repeats the fingerprint of {twin.product} {twin.serial}"
                    yield Fault(key, what, found.serial)
                owners[found.fingerprint] = found
                for type_ in [one for one in found.types if one not in claimed]:
                    claimed.add(type_)
                    yield from _clashes(found, type_, product, names, incumbents)


def prove_tree(
    read: Callable[[str], bytes | None],
    size_of: SizeOf,
    lxc: Iterable[str],
    incumbents: Incumbents = NOBODY,
    lists: Readers = NOT_ANY,
) -> Iterator[Fault]:
    """Everything that any client would stumble over in a tree; ``lxc`` are the paths of its LXC indexes.

    ``lists`` has the clients that read each list beside images.json; what is wrong with that too is
    said once.
    """
    seen = set()
    for client in METADATA:
        for fault in prove_streams(read, size_of, client, incumbents):
            seen.add(fault)
            yield fault
    everything = _images(_document(read(f"{STREAMS}/images.json"), "")) if lists else set()
    for name, clients in lists.items():
        served = as_served(read, name)
        for client in clients:
            for fault in prove_streams(served, size_of, client, incumbents):
                if fault not in seen:
                    yield fault._replace(what=f"{fault.what} (in the list {name})")
        for key, serial in sorted(_images(_document(served(f"{STREAMS}/images.json"), "")) - everything):
            yield Fault("", f"the list {name} names {key} {serial}, and images.json does not")
    for path in lxc:
        yield from prove_lxc(read(path) or b"", PurePosixPath(path).name, size_of)


def as_served(read: Callable[[str], bytes | None], name: str) -> Callable[[str], bytes | None]:
    """What the web server hands to those whose list this is: its files at the URLs of the streams."""

    def reading(path: str) -> bytes | None:
        directory, _, file = path.rpartition("/")
        return read(f"{STREAMS}/{name}/{file}" if directory == str(STREAMS) else path)

    return reading


def _images(document: Mapping[str, object] | Fault) -> set[tuple[str, str]]:
    """The product and serial of every image that a products file names."""
    products = _objects({} if isinstance(document, Fault) else document, "products")
    return {(key, serial) for key, product in products for serial, _ in _objects(product, "versions")}


def prove_lxc(index: bytes, name: str, size_of: SizeOf) -> Iterator[Fault]:
    """Read one LXC index as the template does: exact fields, first match, both files there."""
    seen = set()
    text = index.decode("ascii", "replace")
    if text and not text.endswith("\n"):
        yield Fault("", f"{name} does not end with a line feed")
    for line in text.splitlines():
        fields = line.split(";")
        if len(fields) != 6 or not all(fields):  # noqa: PLR2004 - the format
            yield Fault("", f"{name}: the line {line[:100]!r} has not six fields")
            continue
        key = ":".join(fields[:4])
        if key in seen:
            yield Fault(key, f"{name} lists it twice; templates take the first")
        seen.add(key)
        url = fields[5]
        if not (url.startswith("/") and url.endswith("/")):
            yield Fault(key, f"{name}: the path {url!r} must begin and end with a slash")
        yield from (
            Fault(key, f"{name} names {url}, where {file} is missing", fields[4])
            for file in (ROOT_TAR, META)
            if size_of(url.strip("/") + f"/{file}") is None
        )


def listed_items(products: bytes | None) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Every item of a products file, with words that say whose it is; none where it is no such file."""
    document = _document(products, "")
    for key, product in _objects({} if isinstance(document, Fault) else document, "products"):
        for serial, version in _objects(product, "versions"):
            for name, item in _objects(version, "items"):
                yield f"{key} {serial} {name}", item


def _entries(index: bytes | None) -> Iterator[tuple[str, set[object]] | Fault]:
    """The products files that a client opens, image-downloads, and which products they should have."""
    document = _document(index, "streams/v1/index.json")
    if isinstance(document, Fault):
        yield document
        return
    yield from (Fault("", f"index.json: {what}") for what in _types(document, ("format", "updated"), "index"))
    for name, entry in _objects(document, "index"):
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
    if end and isinstance(end, str) and not _is_day(end):
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


def _version_faults_and_images(
    key: str, product: Mapping[str, object], size_of: SizeOf, client: str
) -> Iterator[Fault | Listed]:
    arch = canonical_arch(str(product.get("arch"))) or ""
    for serial, version in _objects(product, "versions"):
        if not _is_dated(serial):
            yield Fault(key, f"the version {serial!r} does not begin with a date: no client lists it", serial)
            continue
        yield from (
            Fault(key, f"{serial}: {what}", serial) for what in _types(version, VERSION_TEXTS, "items")
        )
        items = dict(_objects(version, "items"))
        for name, item in items.items():
            yield from (
                Fault(key, f"{serial} {name}: {what}", serial) for what in _item_faults(item, size_of)
            )
        metadata = next((item for item in items.values() if item.get("ftype") == METADATA[client]), None)
        for name, item in items.items() if metadata else ():
            if why := _delta_fault(item, product, client):
                yield Fault(key, f"{serial} {name}: {why}", serial)
        for name, types, mark, lacks in _marks(items, metadata, client):
            if isinstance(mark, str) and _HEX.fullmatch(mark):
                yield Listed(key, serial, types, arch, mark)
            else:
                yield Fault(key, f"{serial} {name}: {lacks}: {client} does not list it", serial)


def _marks(
    items: Mapping[str, Mapping[str, object]], metadata: Mapping[str, object] | None, client: str
) -> Iterator[tuple[str, tuple[str, ...], object, str]]:
    """Every image that a client makes of a version: item, types, fingerprint, what to say if it is none.

    A unified image needs no metadata item. Incus took each for a container until May 2026, as LXD does.
    """
    for name, item in items.items():
        ftype = str(item.get("ftype"))
        if ftype == UNIFIED[client]:
            types = dict.fromkeys((TYPES[0], str(item.get("combined_type", TYPES[0]))))
            yield name, tuple(types), item.get("sha256"), "it has no sha256"
        elif metadata and ftype in ROOTS:
            type_, keys = ROOTS[ftype]
            mark = next((metadata[one] for one in keys if one in metadata), None)
            yield name, (type_,), mark, f"{METADATA[client]} has no {keys[0]}"


def _delta_fault(item: Mapping[str, object], product: Mapping[str, object], client: str) -> str:
    """Why a client could not use a delta, "" for one that it can, and for what is none.

    It looks for the delta's base among the versions of the product. Incus takes it for the base of a
    container, whatever the delta is of.
    """
    if (root := DELTAS.get(str(item.get("ftype")))) is None:
        return ""
    base = item.get("delta_base")
    version = dict(_objects(product, "versions")).get(base) if isinstance(base, str) else None
    if version is None:
        return f"its base {base!r} is not listed"
    found = {str(one.get("ftype")) for _, one in _objects(version, "items")}
    if not {root, METADATA[client]} <= found:
        return f"its base {base} has no {root} for {client}"
    return "Incus would apply it to a container" if client == "incus" and root != "squashfs" else ""


def _is_dated(serial: str) -> bool:
    try:
        datetime.strptime(serial[:8], "%Y%m%d")  # noqa: DTZ007 - a date only, as the clients parse it
    except ValueError:
        return False
    return bool(_DATE.match(serial))  # strptime also takes 2026112 and other digits than ours


def _is_day(text: str) -> bool:
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
    if not isinstance(digest, str) or not _HEX.fullmatch(digest):
        yield "has no sha256"
    if not isinstance(path, str) or path.startswith("/") or ".." in PurePosixPath(path).parts:
        yield f"path {path!r} is not a plain relative one"
    elif (there := size_of(path)) is None:
        yield f"{path} does not exist"
    elif there != size:
        yield f"{path} has {counted(there, 'byte')}, not {size}"


def _clashes(
    image: Listed,
    type_: str,
    product: Mapping[str, object],
    names: dict[tuple[str, str, str], str],
    incumbents: Incumbents,
) -> Iterator[Fault]:
    """Two products must not claim one alias for one type and architecture: one would be shadowed."""
    for alias in filter(None, str(product.get("aliases") or "").split(",")):
        for name in (alias, f"{alias}/{product.get('arch')}"):  # clients add the second themselves
            owner = names.setdefault((type_, image.arch, name), image.product)
            if owner != image.product:
                mine, theirs = (alias in incumbents.get(one, ()) for one in (image.product, owner))
                newcomer, heir = (owner, image.product) if mine and not theirs else (image.product, owner)
                names[type_, image.arch, name] = heir
                yield Fault(newcomer, f"the alias {alias!r} belongs to {heir} already")
                break


def _document(data: bytes | None, path: str) -> Mapping[str, object] | Fault:
    if data is None:
        return Fault("", f"{path} does not exist")
    try:
        document = json.loads(data)
    except ValueError as error:
        return Fault("", f"{path} is no JSON: {error}")
    return document if isinstance(document, dict) else Fault("", f"{path} holds no object")


def _objects(of: Mapping[str, object], field: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """The objects in an object; what is of another type makes the file unreadable and is seen as {}."""
    value = of.get(field)
    for name, one in value.items() if isinstance(value, dict) else ():
        yield name, one if isinstance(one, dict) else _OBJECT
