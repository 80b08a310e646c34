"""Products, images and their files: the words of the tree (pure).

Owns every file name and path below ``public/images`` and what a set of files can be used as.
Sources: simplestreams as Incus and LXD read it (lxc/incus:shared/simplestreams), LXC's download
template (lxc/lxc:templates/lxc-download.in), and the publisher of images.linuxcontainers.org.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Self

import msgspec

INCUS = "incus.tar.xz"
LXD = "lxd.tar.xz"
SQUASHFS = "rootfs.squashfs"
ROOT_TAR = "rootfs.tar.xz"
META = "meta.tar.xz"
DISK = "disk.qcow2"
UNIFIED = "incus_combined.tar.gz"  # whatever packs it: clients look into it
UNIFIED_LXD = "lxd_combined.tar.gz"
UNIFIED_VM = "incus_combined.vm.tar.gz"
DEFINITION = "image.yaml"
LOG = "build.log"
SERIAL = "serial"  # an artifact that names the image; never stored
SUMS = "SHA256SUMS"  # the mark of a complete image: written last
SOURCE = "source.json"
IMPORT = "import:"  # in place of a job's name, before what was imported

METADATA = (INCUS, LXD)
ROOTS = (SQUASHFS, ROOT_TAR, DISK)
COMBINED = (UNIFIED, UNIFIED_LXD, UNIFIED_VM)  # metadata and root in one: its sha256 is the fingerprint
STORED = (INCUS, LXD, META, SQUASHFS, ROOT_TAR, DISK, *COMBINED, DEFINITION)
DELTAS = {SQUASHFS: "vcdiff", DISK: "qcow2.vcdiff"}  # root -> how its deltas end: delta-<base>.vcdiff

# A component of a product becomes a directory, a URL, a doit task and a field of the LXC index:
# no separator of any of these, and no leading dot or dash.
_COMPONENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,99}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SERIAL = re.compile(r"[0-9]{8}_[0-9]{2}:[0-9]{2}")
_DELTA = re.compile(rf"delta-({_SERIAL.pattern})\.((?:qcow2\.)?vcdiff)")
_LONGEST = 240  # bytes of a key: with a suffix it is a file name, which ends at 255


class Kind(StrEnum):
    """What an image can be used as."""

    CONTAINER = "container"
    VM = "VM"
    LXC = "LXC"


class Product(msgspec.Struct, frozen=True, order=True):
    """One line of images: os, release, arch, variant; the owner of its names and paths."""

    os: str
    release: str
    arch: str
    variant: str

    def __post_init__(self) -> None:
        """Refuse what could leave its directory or break an index; raises ValueError."""
        for component in (self.os, self.release, self.arch, self.variant):
            if not _COMPONENT.fullmatch(component):
                raise ValueError(f"{component!r} cannot be part of a product's name")
        if len(self.key) > _LONGEST:
            raise ValueError(f"{self.name!r} is too long for a product's name")

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read ``os/release/arch/variant``; raises ValueError."""
        parts = name.split("/")
        if len(parts) != len(cls.__struct_fields__):
            raise ValueError(f"{name!r} is not os/release/arch/variant")
        return cls(*parts)

    @property
    def name(self) -> str:
        """As people and doit write it."""
        return f"{self.os}/{self.release}/{self.arch}/{self.variant}"

    @property
    def key(self) -> str:
        """As simplestreams has it (opaque to clients); also a file name in the state directory."""
        return f"{self.os}:{self.release}:{self.arch}:{self.variant}"

    @property
    def path(self) -> str:
        """The directory of its images, relative to ``public``."""
        return f"images/{self.name}"


class File(msgspec.Struct, frozen=True):
    """One stored file: its size in bytes and its SHA-256 in lower-case hex."""

    size: int
    sha256: str


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where an image came from: the Jenkins build and what Jenkins said of its files."""

    job: str
    configuration: str
    number: int
    timestamp: int  # start of the build, ms since the epoch
    md5: Mapping[str, str]

    @property
    def imported(self) -> bool:
        """Whether no Jenkins built it: Jenkins has no job with a colon in its name."""
        return self.job.startswith(IMPORT)

    @property
    def text(self) -> str:
        """The build, or what it was imported from, for people."""
        where = f"{self.job}/{self.configuration}" if self.configuration else self.job
        return where if self.imported else f"{where} #{self.number}"


class Image(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One product at one serial, as ``source.json`` and the ledger keep it.

    ``fingerprints`` maps a metadata file to its combined hashes: root file -> sha256(metadata+root),
    the name under which Incus and LXD know the image (lxc/incus:client/simplestreams_images.go).
    """

    product: Product
    serial: str
    files: Mapping[str, File]
    fingerprints: Mapping[str, Mapping[str, str]]
    source: Source
    requirements: Mapping[str, str] = {}  # that came with an import; the operator's rules go over them
    lxd_requirements: Mapping[str, str] = {}

    @property
    def path(self) -> str:
        """Its directory, relative to ``public``."""
        return f"{self.product.path}/{self.serial}"

    @property
    def kinds(self) -> frozenset[Kind]:
        """What it can be used as."""
        return kinds(self.files)

    def has(self, root: str) -> bool:
        """Whether a daemon lists a split image of this root: there is metadata to go with it."""
        return any(root in of for of in self.fingerprints.values())

    @property
    def has_container(self) -> bool:
        """Whether a daemon lists a container of it: also of a rootfs.tar.xz, which is LXC's at first."""
        return Kind.CONTAINER in self.kinds or self.has(ROOT_TAR)

    @property
    def content(self) -> dict[str, File]:
        """What the build is: all but its log, and the deltas that were made of it here."""
        return {name: file for name, file in self.files.items() if name != LOG and not parse_delta(name)}

    @property
    def deltas(self) -> Iterator[tuple[str, str, str]]:
        """Its deltas: name, serial of the base, the root that it makes."""
        for name in self.files:
            if found := parse_delta(name):
                yield name, *found

    @property
    def marks(self) -> list[str]:
        """Every fingerprint under which Incus or LXD know it."""
        combined = [mark for of in self.fingerprints.values() for mark in of.values()]
        return combined + [self.files[name].sha256 for name in COMBINED if name in self.files]

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files.values())


def kinds(names: Collection[str]) -> frozenset[Kind]:
    """What these files can be used as.

    A rootfs.tar.xz beside meta.tar.xz is LXC's in the first place, and the daemons' only without it.
    """
    metadata = not set(METADATA).isdisjoint(names)
    root = SQUASHFS in names or (ROOT_TAR in names and META not in names)
    unified = UNIFIED in names or UNIFIED_LXD in names
    found = {
        Kind.CONTAINER: (metadata and root) or unified,
        Kind.VM: (metadata and DISK in names) or UNIFIED_VM in names,
        Kind.LXC: ROOT_TAR in names and META in names,
    }
    return frozenset(kind for kind, present in found.items() if present)


def publishable(names: Collection[str]) -> bool:
    """Whether a build of these files is published: the pairs of images.linuxcontainers.org, and unified ones.

    A rootfs.tar.xz without meta.tar.xz is no reason to: a job that lost its other root made it.
    """
    return bool(kinds(set(names) - ({ROOT_TAR} if META not in names else set())))


def delta_name(base: str, root: str) -> str:
    """The delta that makes this root of the one that the serial ``base`` has."""
    return f"delta-{base}.{DELTAS[root]}"


def parse_delta(name: str) -> tuple[str, str] | None:
    """The serial of a delta's base, and the root that it makes; None for any other file."""
    if not (found := _DELTA.fullmatch(name)):
        return None
    return found[1], next(root for root, end in DELTAS.items() if end == found[2])


def parse_serial(text: str) -> str:
    """``YYYYMMDD_HH:MM`` with optional white space around it; raises ValueError.

    Clients take the first eight characters for a date and the greatest string for the newest
    image (lxc/incus:shared/simplestreams/products.go), so one form only, and real dates only.
    """
    serial = text.strip()
    if not _SERIAL.fullmatch(serial):
        raise ValueError(f"serial {serial[:40]!r} is not YYYYMMDD_HH:MM")
    try:
        serial_time(serial)
    except ValueError:
        raise ValueError(f"serial {serial!r} is no date and time") from None
    return serial


def serial_time(serial: str) -> datetime:
    """The moment that a serial names, in UTC."""
    return datetime.strptime(serial, "%Y%m%d_%H:%M").replace(tzinfo=UTC)


def sums(files: Mapping[str, File]) -> str:
    """The text of SHA256SUMS: hex, two spaces, name; sorted by name."""
    return "".join(f"{file.sha256}  {name}\n" for name, file in sorted(files.items()))


def parse_sums(data: bytes) -> dict[str, str]:
    """The sha256 of every name in a SHA256SUMS; raises ValueError."""
    found: dict[str, str] = {}
    for line in data.decode("ascii", "replace").removesuffix("\n").split("\n") if data else ():
        digest, blanks, name = line[:64], line[64:66], line[66:]
        if not _DIGEST.fullmatch(digest) or blanks != "  " or not name or "/" in name or name in found:
            raise ValueError(f"the line {line[:100]!r} is not a sha256, two blanks and a name of its own")
        found[name] = digest
    return found


# lxc/incus:shared/osarch/architectures.go: canonical name -> other names of the same machine.
_ARCHITECTURES = {
    "i686": "i386 i586 386 x86 generic_32",
    "x86_64": "amd64 generic_64 x86_64_v1 x86_64_v2 x86_64_v3 x86_64_v4",
    "armv6l": "armel arm",
    "armv7l": "armhf armhfp armv7a_hardfp armv7 armv7a_vfpv3_hardfp",
    "armv8l": "",
    "aarch64": "arm64 arm64_generic",
    "ppc": "powerpc",
    "ppc64": "powerpc64",
    "ppc64le": "ppc64el",
    "s390x": "",
    "mips": "mipsel mipsle",
    "mips64": "mips64el mips64le",
    "riscv32": "",
    "riscv64": "",
    "loongarch64": "loong64",
}
_CANONICAL = {alias: name for name, aliases in _ARCHITECTURES.items() for alias in (name, *aliases.split())}

_DEBIAN = {
    "i686": "i386",
    "x86_64": "amd64",
    "armv6l": "armel",
    "armv7l": "armhf",
    "aarch64": "arm64",
    "ppc64le": "ppc64el",
    "loongarch64": "loong64",
}


def canonical_arch(name: str) -> str | None:
    """The kernel's name of an architecture, or None: clients skip products of unknown ones."""
    return _CANONICAL.get(name)


def debian_arch(name: str) -> str:
    """An architecture as directories and LXC have it, where Debian has a name of its own for it.

    A level such as x86_64_v3 is no amd64: not every machine of that runs it.
    """
    return name if name.startswith("x86_64_v") else _DEBIAN.get(canonical_arch(name) or "", name)
