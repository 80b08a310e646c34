"""What other tools call the files, serials and records of an image (pure).

lxc/lxc-ci (images.linuxcontainers.org), antifob/lxd-simplestreams, Avature/lxd-image-server,
canonical/lxd-imagebuilder and lxc/incus (incus-simplestreams) wrote the trees that are imported.
"""

import re
from collections.abc import Collection, Iterable, Mapping

import msgspec

from tasks.image import (
    DEFINITION,
    DISK,
    INCUS,
    LOG,
    LXD,
    ROOT_TAR,
    SERIAL,
    SOURCE,
    SQUASHFS,
    STORED,
    SUMS,
    UNIFIED,
    UNIFIED_LXD,
    UNIFIED_VM,
    Kind,
    Product,
    debian_arch,
    kinds,
    parse_delta,
    parse_serial,
)

NAMES = {**{name: name for name in STORED}, "root.squashfs": SQUASHFS, "root.tar.xz": ROOT_TAR}
ITEMS = ".items.json"  # lxd-simplestreams' cache: file name -> what the streams list of it
# images.linuxcontainers.org's cache of fingerprints: file -> root
FINGERPRINTS = {
    ".combined_fingerprint": ROOT_TAR,
    ".combined_fingerprint_squashfs": SQUASHFS,
    ".combined_fingerprint_qcow2": DISK,
}
REQUIREMENTS, LXD_REQUIREMENTS = ".requirements", ".lxd_requirements"  # its, for all that lies below
# ftype -> name to store; of a unified image combined_type tells (lxc/incus:shared/simplestreams/products.go)
FTYPES = {
    "incus.tar.xz": INCUS,
    "lxd.tar.xz": LXD,
    "squashfs": SQUASHFS,
    "root.tar.xz": ROOT_TAR,
    "disk-kvm.img": DISK,
    "incus_combined.tar.gz": UNIFIED,
    "lxd_combined.tar.gz": UNIFIED_LXD,
}
DEPTH_LIMIT = 20  # of a JSON document; an images.json has 7
_SERIAL = re.compile(r"([0-9]{8})(?:_?([0-9]{2})([0-9]{2})|_([0-9]{2}):([0-9]{2}))?")
_SUM = re.compile(r"([0-9a-fA-F]{64}) [ *](?:\./)*(.+)")  # ./ as sha256sum writes what find(1) found
_TARBALL = re.compile(r".+\.tar(\.[a-z0-9]+)?")


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """An image that was found, not looked into yet."""

    where: str  # for people
    product: Product | None = None  # None where only its metadata can tell
    serial: str = ""
    paths: Mapping[str, str] = msgspec.field(default_factory=dict)  # name to store -> path
    known: Mapping[str, str] = msgspec.field(default_factory=dict)  # path -> the sha256 that it should have
    requirements: Mapping[str, str] = msgspec.field(default_factory=dict)
    lxd_requirements: Mapping[str, str] = msgspec.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    fault: str = ""  # why it cannot be taken
    came: str = "directory"  # what may be told to the world: where in a tree it lay, or what held it
    stray: bool = False  # no image: what is in the way to some
    has_sums: bool = False
    combined: Mapping[str, str] = msgspec.field(default_factory=dict)  # root -> fingerprint it should have
    kept: Mapping[str, str] = msgspec.field(default_factory=dict)  # log, deltas, signatures: name -> path

    @property
    def kinds(self) -> frozenset[Kind]:
        """What it can be used as."""
        return kinds(self.paths)

    @property
    def name(self) -> str:
        """The image as it will be called, as far as that is known."""
        return f"{self.product.name}/{self.serial}" if self.product else self.where


def as_listed(product: Product) -> Product:
    """A product under the one name of its architecture that LXC and the streams have: amd64, not x86_64.

    incus-simplestreams writes the kernel's name, as it stands in metadata.yaml.
    """
    return msgspec.structs.replace(product, arch=debian_arch(product.arch))


def arch_became(product: Product) -> tuple[str, ...]:
    """What to say of an architecture that had another name."""
    return () if as_listed(product) == product else (f"its architecture was {product.arch}",)


def to_store(names: Iterable[str]) -> dict[str, str]:
    """The files of a directory that make an image, by the name to store; raises ValueError.

    Where lxd.tar.xz is there and incus.tar.xz is not, it stands in for it.
    """
    found: dict[str, str] = {}
    for name in sorted(names):
        if (stored := NAMES.get(name)) and (other := found.setdefault(stored, name)) != name:
            raise ValueError(f"{other} and {name} would both be {stored}")
    if LXD in found and INCUS not in found:
        found[INCUS] = found.pop(LXD)
    return found


def lacking(paths: Mapping[str, str]) -> str:
    """Why these files make no image, "" when they do."""
    if kinds(paths):
        return ""
    have = ", ".join(sorted(paths)) or "none of them"
    return (
        "it is no image: needed are incus.tar.xz with rootfs.squashfs, rootfs.tar.xz or disk.qcow2,"
        f" or rootfs.tar.xz with meta.tar.xz, or a unified image; there are {have}"
    )


def unified(names: Collection[str]) -> str:
    """The one tarball of a directory that is no part of a split image, "" for none."""
    found = [name for name in names if _TARBALL.fullmatch(name)]
    return found[0] if len(found) == 1 and not set(names) & (NAMES.keys() - {DEFINITION}) else ""


def keepers(names: Iterable[str]) -> list[str]:
    """What goes with an image that is taken over where it lies: its log, deltas, and all signatures."""
    return [name for name in names if name == LOG or parse_delta(name) or name.endswith(".asc")]


def strangers(names: Iterable[str]) -> list[str]:
    """What in an image's directory is neither taken nor made here anew."""
    ours = {*NAMES, SUMS, SOURCE, SERIAL, LOG}
    return [name for name in names if _plain(name) not in ours and not name.startswith(".")]


def _plain(name: str) -> str:
    """The file that a signature is of; of a delta only that it is one."""
    name = name.removesuffix(".asc")
    return SOURCE if parse_delta(name) or name.endswith(".vcdiff") else name


def serial_of(text: str) -> str:
    """A serial in our form, of any form that other tools write; raises ValueError."""
    if not (found := _SERIAL.fullmatch(text)):
        raise ValueError(
            f"{text[:40]!a} is no serial: YYYYMMDD_HH:MM, YYYYMMDD_HHMM, YYYYMMDDHHMM or YYYYMMDD"
        )
    day, *clock = found.groups()
    hour, minute = [part for part in clock if part] or ("00", "00")
    return parse_serial(f"{day}_{hour}:{minute}")


def known_hashes(names: Collection[str], sums: bytes | None, items: bytes | None) -> dict[str, str]:
    """The sha256 that the records beside these files tell of each; raises ValueError.

    images.linuxcontainers.org renamed lxd.tar.xz to incus.tar.xz and left it under its old name there.
    """
    found = _sums(sums)
    for name, item in mapping(items or b"{}", ITEMS).items():
        mark = str(item.get("sha256")) if isinstance(item, dict) else ""
        if found.setdefault(name, mark) != mark:
            raise ValueError(f"{ITEMS} and {SUMS} disagree about {name[:100]!a}")
    if LXD in found and LXD not in names:
        found.setdefault(INCUS, found[LXD])
    return {name: mark for name, mark in found.items() if name in names}


def unfinished(names: Collection[str], sums: bytes | None) -> str:
    """Why the files of an image are not all there, by its SHA256SUMS, "" when they are; raises ValueError.

    What is no file of an image may be left out, and LXD's metadata, where Incus' stands in for it.
    """
    named = _sums(sums)
    away = sorted((named.keys() & NAMES.keys()) - set(names))
    if LXD in away and INCUS in names and named.get(INCUS, named[LXD]) == named[LXD]:
        away.remove(LXD)
    return f"it was not finished: {SUMS} names {', '.join(away)}" if away else ""


def _sums(data: bytes | None) -> dict[str, str]:
    """The sha256 of every name in a SHA256SUMS of any tool; raises ValueError."""
    found: dict[str, str] = {}
    for line in (data or b"").decode("utf-8", "replace").splitlines():
        if not line.strip():
            continue
        if not (said := _SUM.fullmatch(line)):
            raise ValueError(f"{SUMS}: the line {line[:100]!a} is no sha256 and name")
        found[said[2]] = said[1].lower()
    return found


def requirements(levels: Iterable[tuple[str, bytes | None]]) -> dict[str, str]:
    """What these files say, the farthest first, each key as the nearest has it; raises ValueError.

    A value that is no string would make the whole list unreadable to Incus and LXD.
    """
    found: dict[str, str] = {}
    for where, data in levels:
        for key, value in mapping(data or b"{}", where).items():
            if not isinstance(value, str) or not key.isprintable() or not value.isprintable():
                raise ValueError(f'{where}: {key[:40]!a} is not a string, as in "false"')
            found[key] = value
    return found


def mapping(data: bytes, where: str) -> dict[str, object]:
    """A JSON document of anybody; raises ValueError."""
    try:
        found = msgspec.json.decode(data, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{where}: {error}") from error
    level: list[object] = [found]
    for _ in range(DEPTH_LIMIT):
        if not level:
            return found
        level = [inner for one in level for inner in _inner(one)]
    raise ValueError(f"{where}: it is nested too deep")


def _inner(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def listed(document: Mapping[str, object], where: str) -> Iterable[Found]:
    """The images of an images.json, such as incus-simplestreams keeps, whose files lie anywhere below."""
    products = document.get("products")
    for key, product in (products if isinstance(products, dict) else {}).items():
        versions = product.get("versions") if isinstance(product, dict) else None
        for version, one in (versions if isinstance(versions, dict) else {}).items():
            name = f"{where} {key} {version}"
            try:
                yield _listed(product, str(version), one.get("items", {}), name)
            except (AttributeError, ValueError) as error:
                yield Found(where=name, fault=str(error))


def _listed(
    product: Mapping[str, object], version: str, items: Mapping[str, Mapping[str, object]], where: str
) -> Found:
    told = {
        "variant": "default",
        **{key: str(value) for key, value in product.items() if isinstance(value, str)},
    }
    paths: dict[str, str] = {}
    known: dict[str, str] = {}
    for item in items.values():
        stored = FTYPES.get(str(item.get("ftype")))
        if stored == UNIFIED and item.get("combined_type") == "virtual-machine":
            stored = UNIFIED_VM
        if stored is None:
            continue
        path, mark = inside(str(item.get("path"))), str(item.get("sha256"))
        paths[stored], known[path] = path, mark
    if LXD in paths and (INCUS not in paths or paths[INCUS] == paths[LXD]):
        paths[INCUS] = paths.pop(LXD)
    serial = serial_of(version)
    named = [told.get("os", "").lower(), told.get("release", ""), told.get("arch", ""), told["variant"]]
    called = Product(*named)
    return Found(
        where=where,
        product=as_listed(called),
        serial=serial,
        paths=paths,
        known=known,
        requirements=_told(product, "requirements"),
        lxd_requirements=_told(product, "lxd_requirements"),
        notes=became(version, serial) + arch_became(called),
        fault=lacking(paths),
        came="streams/v1",
    )


def inside(path: str) -> str:
    """A path that a record tells; raises ValueError for one that leads out of the tree."""
    if path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"the path {path[:100]!a} is not a plain relative one")
    return path


def _told(product: Mapping[str, object], key: str) -> dict[str, str]:
    return requirements([(key, msgspec.json.encode(product.get(key) or {}))])


def became(text: str, serial: str) -> tuple[str, ...]:
    """What to say of a serial that had another form."""
    return () if text == serial else (f"its serial was {text}",)


def combined_name(members: Iterable[str]) -> str:
    """Under which name a unified image is stored, by what it holds."""
    return UNIFIED_VM if "rootfs.img" in members else UNIFIED
