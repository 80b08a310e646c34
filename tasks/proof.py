"""The clients' own rules, replayed on the new indexes (pure: bytes and sizes in, faults out).

What Incus and LXD do with index.json and the products file is in lxc/incus:shared/simplestreams
(index.go, products.go, simplestreams.go, sort.go) and its LXD twin; what LXC does with its index in
lxc/lxc:templates/lxc-download.in. Where a client would silently drop or later refuse an image, that
is a fault here.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

from tasks.image import META, ROOT_TAR, canonical_arch
from tasks.layout import STREAMS
from tasks.schema import (
    DELTAS,
    HEX,
    METADATA,
    ROOTS,
    TYPES,
    UNIFIED,
    Documents,
    Fault,
    SizeOf,
    is_dated,
    objects,
    parsed,
    products_files,
    shared_faults,
)

Incumbents = Mapping[str, Collection[str]]  # product -> its aliases in what is exposed
NOBODY: Incumbents = {}
Readers = Mapping[str, Collection[str]]  # list -> the clients that read it
NOT_ANY: Readers = {}


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
    return _walk(lambda path: parsed(read(path), path), size_of, client, incumbents)


def _walk(
    document: Documents, size_of: SizeOf, client: str, incumbents: Incumbents, *, again: bool = False
) -> Iterator[Fault]:
    """``prove_streams``; ``again`` after another client, without what is the same for all of them."""
    names: dict[tuple[str, str, str], str] = {}
    owners: dict[str, Listed] = {}
    for products in products_files(document):
        if isinstance(products, Fault):
            yield products
            continue
        for key, product in objects(products, "products"):
            claimed = set()
            if not again:
                yield from shared_faults(key, product, size_of)
            for found in _images_of(key, product, client):
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
    document = _parsed(read)
    for client in METADATA:
        for fault in _walk(document, size_of, client, incumbents, again=client != next(iter(METADATA))):
            seen.add(fault)
            yield fault
    everything = _images(document(f"{STREAMS}/images.json")) if lists else set()
    for name, clients in lists.items():
        served = _parsed(as_served(read, name))
        for client in clients:
            for fault in _walk(served, size_of, client, incumbents, again=client != next(iter(clients))):
                if fault not in seen:
                    yield fault._replace(what=f"{fault.what} (in the list {name})")
        for key, serial in sorted(_images(served(f"{STREAMS}/images.json")) - everything):
            yield Fault("", f"the list {name} names {key} {serial}, and images.json does not")
    for path in lxc:
        yield from prove_lxc(read(path) or b"", PurePosixPath(path).name, size_of)


def _parsed(read: Callable[[str], bytes | None]) -> Documents:
    """The documents of a tree, each read once for all clients."""
    known: dict[str, Mapping[str, object] | Fault] = {}

    def document(path: str) -> Mapping[str, object] | Fault:
        if path not in known:
            known[path] = parsed(read(path), path)
        return known[path]

    return document


def as_served(read: Callable[[str], bytes | None], name: str) -> Callable[[str], bytes | None]:
    """What the web server hands to those whose list this is: its files at the URLs of the streams."""

    def reading(path: str) -> bytes | None:
        directory, _, file = path.rpartition("/")
        return read(f"{STREAMS}/{name}/{file}" if directory == str(STREAMS) else path)

    return reading


def _images(document: Mapping[str, object] | Fault) -> set[tuple[str, str]]:
    """The product and serial of every image that a products file names."""
    products = objects({} if isinstance(document, Fault) else document, "products")
    return {(key, serial) for key, product in products for serial, _ in objects(product, "versions")}


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


def _images_of(key: str, product: Mapping[str, object], client: str) -> Iterator[Fault | Listed]:
    """The images that one client lists of a product, and what keeps it from listing or using others."""
    arch = canonical_arch(str(product.get("arch"))) or ""
    for serial, version in objects(product, "versions"):
        if not is_dated(serial[:8]):
            continue
        items = dict(objects(version, "items"))
        for name, item in items.items() if _metadata(items, client) else ():
            if why := _delta_fault(item, product, client):
                yield Fault(key, f"{serial} {name}: {why}", serial)
        for name, of, mark, lacks in _marks(items, client):
            if isinstance(mark, str) and HEX.fullmatch(mark):
                yield Listed(key, serial, of, arch, mark)
            else:
                yield Fault(key, f"{serial} {name}: {lacks}: {client} does not list it", serial)


def types(items: Mapping[str, Mapping[str, object]], client: str) -> set[str]:
    """The types of image that a client of today makes of the items of a version."""
    return {of[-1] for _, of, _, _ in _marks(items, client)}


def _metadata(items: Mapping[str, Mapping[str, object]], client: str) -> Mapping[str, object] | None:
    return next((item for item in items.values() if item.get("ftype") == METADATA[client]), None)


def _marks(
    items: Mapping[str, Mapping[str, object]], client: str
) -> Iterator[tuple[str, tuple[str, ...], object, str]]:
    """Every image that a client makes of a version: item, types, fingerprint, what to say if it is none.

    A unified image needs no metadata item. Incus took each for a container until May 2026, as LXD does.
    """
    metadata = _metadata(items, client)
    for name, item in items.items():
        ftype = str(item.get("ftype"))
        if ftype == UNIFIED[client]:
            said = dict.fromkeys((TYPES[0], str(item.get("combined_type", TYPES[0]))))
            yield name, tuple(said), item.get("sha256"), "it has no sha256"
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
    version = dict(objects(product, "versions")).get(base) if isinstance(base, str) else None
    if version is None:
        return f"its base {base!r} is not listed"
    found = {str(one.get("ftype")) for _, one in objects(version, "items")}
    if not {root, METADATA[client]} <= found:
        return f"its base {base} has no {root} for {client}"
    return "Incus would apply it to a container" if client == "incus" and root != "squashfs" else ""


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
