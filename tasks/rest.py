"""The images of a tree as the REST API of LXD and Incus has them, for ``remote add --public`` (pure).

Files that a web server hands out at the URLs of that API. What clients ask for, and what they need of the
answers, is in lxc/incus:client/incus_images.go and lxc/incus:shared/api/image.go, and their LXD twins.

One list is for both clients, so it has what Incus sees, and by LXD's fingerprint what LXD alone sees. Times
come from the serial.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple
from urllib.parse import quote

import msgspec

from tasks.image import canonical_arch, parse_serial, serial_time
from tasks.policy import CLIENTS
from tasks.schema import HEX, METADATA, ROOTS, TYPES, UNIFIED, objects

SHORT = 12  # digits of a fingerprint that clients show, and take
# It must not occur in an image: whoever puts it into his own only makes that one useless.
BOUNDARY = "imagepress-6f1d3c0b9a5e4d728c7b60f2e1a94d3587bc06e2f49d1a83"
FIRST = "x86_64"  # whose images a name without an architecture means to a client that does not tell its own
VM = TYPES[1]
NEVER, UNUSED = "1970-01-01T00:00:00Z", "0001-01-01T00:00:00Z"
REQUIREMENTS = {"incus": "requirements", "lxd": "lxd_requirements"}
# Of several images of one version, the first is what a name stands for.
ORDER = ("squashfs", *UNIFIED.values(), "root.tar.xz", "disk-kvm.img", "uefi1.img", "disk1.img")
_PATH = re.compile(r"images(/[A-Za-z0-9_][A-Za-z0-9._+~:-]*)+")  # nothing that a directive would end at


class Shown(NamedTuple):
    """One image as this protocol knows it."""

    product: Mapping[str, object]  # as the products file has it
    serial: str
    client: str  # whose it is
    arch: str  # the kernel's name of it
    ftype: str  # of its root, or of the whole
    type: str
    fingerprint: str
    files: tuple[tuple[str, int], ...]  # path and bytes: metadata and root, or the one file

    @property
    def newness(self) -> tuple[str, int]:
        """The greatest is what a name stands for."""
        return self.serial, -ORDER.index(self.ftype)

    @property
    def aliases(self) -> list[str]:
        """Those of its product."""
        return [one for one in str(self.product.get("aliases") or "").split(",") if one]


Names = Mapping[str, Mapping[str, Shown]]  # name -> architecture -> what it stands for


def rest(products: Mapping[str, object]) -> dict[str, bytes]:
    """Every file, by its path, of what a products file lists."""
    shown = {one.fingerprint: one for one in _shown(products)}
    names = _names(shown.values())
    of: dict[str, list[str]] = {}
    for name, archs in names.items():
        for one in archs.values():
            of.setdefault(one.fingerprint, []).append(name)
    images = {mark: _image(one, of.get(mark, ())) for mark, one in sorted(shown.items())}
    aliases = {name: _alias(name, _first(archs)) for name, archs in sorted(names.items())}
    made = {
        "404.json": _json({"error": "not found", "error_code": 404, "type": "error"}),
        "1.0.json": _answer(
            {
                "api_extensions": [],
                "api_status": "stable",
                "api_version": "1.0",
                "auth": "untrusted",
                "public": True,
            }
        ),
        "images.json": _answer([f"/1.0/images/{mark}" for mark in images]),
        "images.recursion.json": _answer(list(images.values())),
        "images/aliases.json": _answer([f"/1.0/images/aliases/{quote(name, safe='')}" for name in aliases]),
        "images/aliases.recursion.json": _answer(list(aliases.values())),
    }
    short: dict[str, list[str]] = {}
    for mark, image in images.items():
        made[f"images/{mark}.json"] = _answer(image)
        short.setdefault(mark[:SHORT], []).append(mark)
        split = len(shown[mark].files) > 1
        made[f"export/{mark}.{'multipart' if split else 'whole'}"] = _export(shown[mark])
    for start, marks in short.items():
        if len(marks) == 1:
            made[f"images/{start}.json"] = made[f"images/{marks[0]}.json"]
    for name, archs in names.items():
        made[f"images/aliases/{name}@.json"] = _answer(aliases[name])
        if len(archs) > 1:
            made |= {
                f"images/aliases/{name}@{arch}.json": _answer(_alias(name, one))
                for arch, one in archs.items()
            }
    return made


def _shown(products: Mapping[str, object]) -> Iterator[Shown]:
    """What Incus sees of each version, or else LXD."""
    for _, product in objects({"products": products}, "products"):
        arch = canonical_arch(str(product.get("arch")))
        for serial, version in objects(product, "versions") if arch else ():
            try:
                parse_serial(serial)
            except ValueError:
                continue
            items = dict(objects(version, "items"))
            found = (list(_of(items, client, (product, serial, client, str(arch)))) for client in CLIENTS)
            yield from next(filter(None, found), [])


def _of(
    items: Mapping[str, Mapping[str, object]], client: str, of: tuple[Mapping[str, object], str, str, str]
) -> Iterator[Shown]:
    """The images that a client makes of a version, as ``proof`` knows them."""
    metadata = next((item for item in items.values() if item.get("ftype") == METADATA[client]), None)
    for item in items.values():
        ftype = str(item.get("ftype"))
        if ftype == UNIFIED[client]:
            type_, mark = str(item.get("combined_type", TYPES[0])), item.get("sha256")
            files = [item]
        elif metadata and ftype in ROOTS:
            type_, keys = ROOTS[ftype]
            mark = next((metadata[one] for one in keys if one in metadata), None)
            files = [metadata, item]
        else:
            continue
        found = tuple(
            (str(one.get("path")), size) for one in files if isinstance(size := one.get("size"), int)
        )
        good = len(found) == len(files) and all(_PATH.fullmatch(path) for path, _ in found)
        if good and isinstance(mark, str) and HEX.fullmatch(mark):
            yield Shown(*of, ftype, type_, mark, found)


def _names(shown: Iterable[Shown]) -> Names:
    """What every name stands for.

    The protocol's aliases know neither architectures nor types: one has a container where there is one,
    and the virtual machine beside it is called ``…/vm``, unless something else is.
    """
    newest: dict[tuple[str, str, str], Shown] = {}
    for one in sorted(shown, key=lambda one: one.newness):
        newest |= {(alias, one.arch, one.type): one for alias in one.aliases}
    names: dict[str, dict[str, Shown]] = {}
    for (alias, arch, type_), one in sorted(newest.items(), key=lambda pair: pair[0]):
        if type_ != VM or (alias, arch, TYPES[0]) not in newest:
            names.setdefault(alias, {})[arch] = one
    with_arch = {
        f"{alias}/{one.product.get('arch')}": {arch: one}
        for alias, of in names.items()
        for arch, one in of.items()
    }
    names = with_arch | names
    machines: dict[str, dict[str, Shown]] = {}
    for (alias, arch, type_), one in sorted(newest.items(), key=lambda pair: pair[0]):
        if type_ == VM and names[alias][arch] is not one:
            machines.setdefault(f"{alias}/vm", {})[arch] = one
            machines[f"{alias}/{one.product.get('arch')}/vm"] = {arch: one}
    return machines | names


def _first(archs: Mapping[str, Shown]) -> Shown:
    return archs.get(FIRST) or archs[min(archs)]


def _alias(name: str, one: Shown) -> dict[str, object]:
    return {"description": "", "name": name, "target": one.fingerprint, "type": one.type}


def _image(one: Shown, names: Iterable[str]) -> dict[str, object]:
    product, stamp = one.product, f"{serial_time(one.serial):%Y-%m-%dT%H:%M:%SZ}"
    eol = product.get("support_eol")
    path, _ = one.files[0]
    return {
        "aliases": [{"description": "", "name": name} for name in sorted(names)],
        "architecture": one.arch,
        "auto_update": False,
        "cached": False,
        "created_at": stamp,
        "expires_at": f"{eol}T00:00:00Z" if eol else NEVER,
        "filename": path.rpartition("/")[2],
        "fingerprint": one.fingerprint,
        "last_used_at": UNUSED,
        "properties": _properties(one),
        "public": True,
        "size": sum(size for _, size in one.files),
        "type": one.type,
        "uploaded_at": stamp,
    }


def _properties(one: Shown) -> dict[str, str]:
    """Those that clients give an image of the streams (lxc/incus:shared/simplestreams/products.go)."""
    of = {
        name: str(one.product.get(name) or "")
        for name in ("os", "release", "release_title", "arch", "variant")
    }
    needs = one.product.get(REQUIREMENTS[one.client])
    words = [of["os"], of["release_title"] or of["release"], of["arch"]]
    variant = f" {of['variant']}" if of["variant"] not in ("", "default") else ""
    return {
        "architecture": of["arch"],
        "description": f"{' '.join(words)}{variant} ({one.serial})",
        "os": of["os"],
        "release": of["release"],
        "serial": one.serial,
        "type": one.ftype,
        "variant": of["variant"],
        **{
            f"requirements.{name}": str(value)
            for name, value in (needs.items() if isinstance(needs, dict) else ())
        },
    }


def _export(one: Shown) -> bytes:
    """The bytes of an image for a web server that puts the files in: server-side includes."""
    puts = [f'<!--#include virtual="/{path}" -->' for path, _ in one.files]
    if len(puts) == 1:
        return puts[0].encode()
    parts = ("metadata", "rootfs.img" if one.type == VM else "rootfs")
    framed = "".join(
        f"--{BOUNDARY}\r\n"
        f'Content-Disposition: form-data; name="{part}"; filename="{path.rpartition("/")[2]}"\r\n'
        f"Content-Type: application/octet-stream\r\n\r\n{put}\r\n"
        for part, put, (path, _) in zip(parts, puts, one.files, strict=True)
    )
    return f"{framed}--{BOUNDARY}--\r\n".encode()


def _answer(metadata: object) -> bytes:
    return _json(
        {
            "error": "",
            "error_code": 0,
            "metadata": metadata,
            "operation": "",
            "status": "Success",
            "status_code": 200,
            "type": "sync",
        }
    )


def _json(of: object) -> bytes:
    return msgspec.json.encode(of, order="sorted") + b"\n"
