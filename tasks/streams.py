"""The simplestreams of a catalogue: index.json and images.json as dictionaries, then bytes (pure).

Written for the readers in lxc/incus:shared/simplestreams and canonical/lxd:shared/simplestreams:
all values but sizes are strings, an alias list is one string without blanks, and a metadata file is
listed once for each daemon. Item keys are those of images.linuxcontainers.org.
"""

import gzip
from collections.abc import Collection, Iterable, Mapping
from typing import TypeAlias

import msgspec

from tasks.catalogue import duplicates, spared
from tasks.image import (
    DISK,
    INCUS,
    LXD,
    ROOT_TAR,
    SQUASHFS,
    UNIFIED,
    UNIFIED_LXD,
    UNIFIED_VM,
    Image,
    Product,
)
from tasks.layout import STREAMS
from tasks.policy import CLIENTS, Policy, matched, policy
from tasks.settings import Rule

Json: TypeAlias = "dict[str, Json] | list[str] | str | int"

# root file -> (item key of its deltas, ftype)
DELTA_ITEMS = {
    SQUASHFS: ("root.{}.vcdiff", "squashfs.vcdiff"),
    DISK: ("disk.{}.qcow2.vcdiff", "disk-kvm.img.vcdiff"),
}
# root file -> (item key, ftype, keys of the combined hash on the metadata item)
ROOT_ITEMS = {
    ROOT_TAR: ("root.tar.xz", "root.tar.xz", ("combined_sha256", "combined_rootxz_sha256")),
    SQUASHFS: ("root.squashfs", "squashfs", ("combined_squashfs_sha256",)),
    DISK: ("disk.qcow2", "disk-kvm.img", ("combined_disk-kvm-img_sha256",)),
}
METADATA_OF = {"incus": (INCUS, LXD), "lxd": (LXD, INCUS)}  # own metadata first, else the other's
VM = "virtual-machine"  # combined_type; without it a unified image is a container
UNIFIED_OF = {"incus": (UNIFIED, UNIFIED_LXD), "lxd": (UNIFIED_LXD, UNIFIED)}  # as above
NOTHING: Mapping[str, Json] = {}
NO_OTHERS: Mapping[str, Iterable[str]] = {}
INDEX, IMAGES = "index.json", "images.json"


def images_json(
    images: Iterable[Image],
    rules: Iterable[Rule],
    kept: Mapping[str, Json] = NOTHING,
    readers: tuple[str, ...] = CLIENTS,
    match: Iterable[str] | None = None,
) -> dict[str, Json]:
    """The products file that these clients read, with ``kept`` products as they are.

    Left out are images for LXC alone, which have no metadata, and repeated fingerprints. With
    patterns in ``match`` it is a list for ``readers`` alone: what these may not see is left out too.
    """
    images, rules = spared(images), tuple(rules)
    twins = duplicates(images)
    lines: dict[Product, list[Image]] = {}
    for image in images:
        if image.marks and image.path not in twins:
            lines.setdefault(image.product, []).append(image)
    told = {one: policy(one, rules) for one in lines}
    if match is not None:
        told = {one: of for one, of in told.items() if {*readers} & {*of.clients} and matched(one, match)}
    products = {one.key: _product(one, lines[one], of, readers) for one, of in told.items()}
    return {
        "content_id": "images",
        "datatype": "image-downloads",
        "format": "products:1.0",
        "products": {**{key: one for key, one in products.items() if one["versions"]}, **kept},
    }


def index_json(
    products: Iterable[str], suffix: str = "json", others: Mapping[str, Iterable[str]] = NO_OTHERS
) -> dict[str, Json]:
    """The index of any list; the signed one names the signed products file (``images.sjson``).

    It names the URL, at which a web server serves the list of whoever asks. ``others`` are the products
    files of upstreams by their names; one without a product is nothing that clients would open.
    """
    files = {"images": sorted(products), **{name: sorted(of) for name, of in others.items()}}
    entries: dict[str, Json] = {
        name: {
            "datatype": "image-downloads",
            "format": "products:1.0",
            "path": str(STREAMS / f"{name}.{suffix}"),
            "products": of,
        }
        for name, of in files.items()
        if of or name == "images"
    }
    return {"format": "index:1.0", "index": entries}


def sizes(products: Mapping[str, Json]) -> dict[str, int]:
    """The bytes of every file that a products file names, as it says."""
    return {
        str(item.get("path")): size
        for product in products.values()
        for version in _versions(product).values()
        for _, item in _objects(version.get("items") if isinstance(version, dict) else None)
        if isinstance(size := item.get("size"), int)
    }


def items(image: Image, clients: Collection[str]) -> dict[str, Json]:
    """The items of one version, for these clients."""
    found: dict[str, Json] = {}
    for client in clients:
        own, other = METADATA_OF[client]
        name = own if own in image.files else other
        if name in image.files:
            ftype = f"{client}.tar.xz"
            combined = image.fingerprints.get(name, {})
            item = _item(image, name, ftype)
            for root, mark in combined.items():
                item |= dict.fromkeys(ROOT_ITEMS[root][2], mark)
            found[ftype] = item
    for name, (key, ftype, _) in ROOT_ITEMS.items():
        if name in image.files and image.fingerprints:
            found[key] = _item(image, name, ftype)
    return found | _unified(image, clients)


def _unified(image: Image, clients: Collection[str]) -> dict[str, Json]:
    """The items of unified images, whose own sha256 is the fingerprint; a VM is for Incus alone."""
    found: dict[str, Json] = {}
    for client in clients:
        own, other = UNIFIED_OF[client]
        name = own if own in image.files else other
        if name in image.files:
            ftype = f"{client}_combined.tar.gz"
            found[ftype] = _item(image, name, ftype)
    if UNIFIED_VM in image.files and "incus" in clients:
        item = _item(image, UNIFIED_VM, UNIFIED)
        found[UNIFIED_VM] = {**item, "combined_type": VM}
    return found


def delta_items(image: Image, listed: Mapping[str, Image], clients: Collection[str]) -> dict[str, Json]:
    """The deltas of one version whose bases are listed; ``listed`` are the product's images by serial.

    Those of a disk are for a list that Incus does not read: it takes the base of every delta for the
    container of that version, and fails over a disk's (lxc/incus:shared/simplestreams/products.go).
    """
    found: dict[str, Json] = {}
    for name, base, root in image.deltas:
        pairs = [image.has(root), base in listed and listed[base].has(root)]
        if not all(pairs) or (root == DISK and "incus" in clients):
            continue
        key, ftype = DELTA_ITEMS[root]
        item = _item(image, name, ftype)
        item["delta_base"] = base
        found[key.format(base)] = item
    return found


def keys(document: Mapping[str, Json]) -> list[str]:
    """The products that a products file lists."""
    products = document.get("products")
    return list(products) if isinstance(products, dict) else []


def is_seen(product: Json, client: str) -> bool:
    """Whether a product, as a products file has it, holds anything for a client."""
    wanted = (f"{client}.tar.xz", f"{client}_combined.tar.gz")
    return any(
        isinstance(item, dict) and item.get("ftype") in wanted
        for version in _versions(product).values()
        if isinstance(version, dict) and isinstance(items := version.get("items"), dict)
        for item in items.values()
    )


def paths(products: Mapping[str, Json]) -> set[str]:
    """The directories of all images that a products file lists, relative to ``public``."""
    return {_path(key, serial) for key, product in products.items() for serial in _versions(product)}


def chosen(products: Mapping[str, Json], match: Iterable[str]) -> dict[str, Json]:
    """The products of a products file that one of the patterns covers."""
    patterns = tuple(match)
    return {
        key: of for key, of in products.items() if matched(Product.parse(key.replace(":", "/")), patterns)
    }


def for_clients(products: Mapping[str, Json], clients: Collection[str]) -> dict[str, Json]:
    """The products of images.json as a list for these clients has them; what is not for them is left out."""
    mine, others = tuple(clients), tuple(one for one in CLIENTS if one not in clients)
    left: dict[str, Json] = {}
    for key, product in products.items():
        versions: dict[str, Json] = {}
        for serial, version in _versions(product).items():
            found = version.get("items") if isinstance(version, dict) else None
            ftypes = {name: str(of.get("ftype")) for name, of in _objects(found)}
            if any(ftype.startswith(mine) for ftype in ftypes.values()):
                items: dict[str, Json] = {
                    name: of for name, of in _objects(found) if not ftypes[name].startswith(others)
                }
                versions[serial] = {"items": items}
        if versions and isinstance(product, dict):
            left[key] = {**product, "versions": versions}
    return left


def _objects(of: object) -> list[tuple[str, dict[str, Json]]]:
    return [(name, one) for name, one in of.items() if isinstance(one, dict)] if isinstance(of, dict) else []


def without(products: Mapping[str, Json], gone: Collection[str]) -> dict[str, Json]:
    """A products file's products without some images; a product without any other goes too."""
    left: dict[str, Json] = {}
    for key, product in products.items():
        kept = {one: of for one, of in _versions(product).items() if _path(key, one) not in gone}
        if kept and isinstance(product, dict):
            left[key] = {**product, "versions": {one: _based(of, kept) for one, of in kept.items()}}
    return left


def _based(version: Json, versions: Collection[str]) -> Json:
    """A version without the deltas whose base is gone."""
    if not isinstance(version, dict) or not isinstance(items := version.get("items"), dict):
        return version
    kept: dict[str, Json] = {
        name: item
        for name, item in items.items()
        if not (isinstance(item, dict) and "delta_base" in item and item["delta_base"] not in versions)
    }
    return {**version, "items": kept}


def _versions(product: Json) -> dict[str, Json]:
    versions = product.get("versions") if isinstance(product, dict) else None
    return versions if isinstance(versions, dict) else {}


def _path(key: str, serial: str) -> str:
    return f"images/{key.replace(':', '/')}/{serial}"


def text(document: Mapping[str, Json]) -> bytes:
    """Sorted, indented JSON: equal catalogues are equal bytes.

    One value a line, because gpg cuts the lines of a clear-signed text after 20,000 characters.
    """
    compact = msgspec.json.encode(document, order="sorted")
    return msgspec.json.format(compact, indent=1) + b"\n"


def gzipped(data: bytes) -> bytes:
    """For nginx' gzip_static; no time stamp inside."""
    return gzip.compress(data, compresslevel=6, mtime=0)


def _product(
    product: Product, images: Iterable[Image], rules: Policy, readers: tuple[str, ...]
) -> dict[str, Json]:
    clients = [one for one in rules.clients if one in readers]
    listed = {one.serial: one for one in images}
    found = {
        serial: items(one, clients) | delta_items(one, listed, clients) for serial, one in listed.items()
    }
    newest = listed[max(listed)]
    own: dict[str, Json] = {**newest.requirements, **rules.requirements}
    lxd: dict[str, Json] = {**newest.requirements, **newest.lxd_requirements, **rules.lxd_requirements}
    eol: dict[str, Json] = {"support_eol": rules.support_eol} if rules.support_eol else {}
    return eol | {
        "aliases": ",".join(rules.aliases),
        "arch": product.arch,
        "lxd_requirements": lxd,
        "os": rules.os,
        "release": product.release,
        "release_title": rules.release_title,
        "requirements": own,
        "variant": product.variant,
        "versions": {serial: {"items": of} for serial, of in found.items() if of},
    }


def _item(image: Image, name: str, ftype: str) -> dict[str, Json]:
    file = image.files[name]
    return {
        "ftype": ftype,
        "path": f"{image.path}/{name}",
        "sha256": file.sha256,
        "size": file.size,
    }
