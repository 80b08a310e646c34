"""Look into the files of a build before anyone else does (acts: reads staged files).

What a client or template needs at launch is asked for, and that every file is whole: formats by their
first bytes (lxc/incus:shared/archive/detect.go), roots by their headers and length, tarballs from end to
end, metadata.yaml with its required keys and an architecture that agrees
(lxc/incus:shared/api/image.go), and in meta.tar.xz the file ``config``, without which lxc-create fails
for everybody (lxc/lxc:templates/lxc-download.in; the outage lxc/lxc#4325).
"""

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from tasks import files
from tasks.archive import CHUNK, HEAD, BadArchiveError, Limits, TooMuchError, contents
from tasks.errors import ImageRejected
from tasks.headers import BadRootError, check_qcow2, check_qcow2_header, check_squashfs
from tasks.image import (
    COMBINED,
    DISK,
    INCUS,
    LXD,
    META,
    METADATA,
    ROOT_TAR,
    SQUASHFS,
    UNIFIED_VM,
    File,
    Product,
    canonical_arch,
    serial_time,
)
from tasks.metadata import parse, product_fields

METADATA_LIMIT = 1 << 20  # bytes of metadata.yaml; the limit of Incus
SMALL = Limits(entries=10_000, unpacked=64 << 20, content=METADATA_LIMIT)  # real ones have kilobytes
ROOT = Limits(entries=5_000_000, unpacked=64 << 30, content=0)  # a desktop has 500,000 and 10 GiB
UNIFIED = ROOT._replace(content=METADATA_LIMIT)
TREE, IMG = "rootfs/", "rootfs.img"  # the root of a unified container, and of a VM
AHEAD = timedelta(hours=1)

_XZ, _SQUASHFS, _QCOW2 = b"\xfd7zXZ\x00", b"hsqs", b"QFI\xfb"
_MAGIC = {SQUASHFS: _SQUASHFS, DISK: _QCOW2, ROOT_TAR: _XZ, META: _XZ}
# What lxc-download reads: of each name also those of a mode and of a compat level (its relevant_file).
_LXC = frozenset(
    f"{name}{mode}{level}"
    for name in ("config", "expiry", "templates")
    for mode in ("", "-system", "-user")
    for level in ("", *(f".{number}" for number in range(1, 10)))
)


def check(directory: Path, names: Mapping[str, File], product: Product, serial: str, now: datetime) -> None:
    """Raise ImageRejected, saying which file and why, when this must not be published.

    Raises TreeError where our own disk does not give what was staged. The cheap looks come first.
    """
    if serial_time(serial) > now + AHEAD:
        raise ImageRejected(f"serial {serial} lies in the future (it is {now:%Y%m%d_%H:%M} UTC)")
    for name in names:
        if name in _MAGIC:
            check_header(directory / name)
    told = [check_metadata(directory / name, product) for name in METADATA if name in names]
    _check_agreement(told)
    if META in names:
        check_meta(directory / META)
    if ROOT_TAR in names:
        check_root(directory / ROOT_TAR)
    for name in COMBINED:
        if name in names:
            check_unified(directory / name, product)


def check_header(path: Path) -> None:
    """Check what a file begins with, and that it is not cut where its header tells its length."""
    with files.disk("read"), path.open("rb") as file:
        check_opened(path.name, file)


def check_opened(name: str, file: BinaryIO) -> None:
    """The same of an open file, by the name under which it would be stored."""
    size = os.fstat(file.fileno()).st_size

    def read(offset: int, length: int) -> bytes:
        file.seek(offset)
        return file.read(length)

    head = read(0, HEAD)
    if not head.startswith(_MAGIC.get(name, b"")):
        raise ImageRejected(
            f"{name} is not what its name says: it starts with other bytes than such files do"
        )
    try:
        if name == SQUASHFS:
            check_squashfs(head, size)
        if name == DISK:
            check_qcow2(read, size)
    except BadRootError as error:
        raise ImageRejected(f"{name} is damaged or unusable: {error}") from error


def check_metadata(path: Path, product: Product) -> Mapping[str, object]:
    """Check the metadata tarball of a split image; what its metadata.yaml says."""
    return _check_yaml(path, _contents(path, SMALL, ["metadata.yaml"]), product)


def _check_agreement(told: Sequence[Mapping[str, object]]) -> None:
    """Check that the metadata for LXD beside that for Incus is of the same image."""
    named = [dict(zip(("os", "release", "architecture"), product_fields(one), strict=False)) for one in told]
    for what, ours in named[0].items() if len(named) > 1 else ():
        theirs = named[1][what]
        if ours and theirs and ours != theirs:
            raise ImageRejected(f"{LXD}: its {what} {theirs[:40]!r} is not that of {INCUS}, {ours[:40]!r}")


def check_unified(path: Path, product: Product) -> None:
    """Check a unified image: whole, with metadata, and of the type that it is published as.

    A client takes it for a container by an entry below rootfs/, for a VM by rootfs.img, which qemu-img
    opens on the client, as root (lxc/incus:doc/reference/image_format.md).
    """
    roots: dict[str, int] = {}

    def see(name: str, size: int) -> None:
        if name == IMG or (name.startswith(TREE) and name != TREE):
            roots[IMG if name == IMG else TREE] = size

    found = _contents(path, UNIFIED, ["metadata.yaml"], head=IMG, see=see)
    _check_yaml(path, found, product)
    what, root = ("virtual machine", IMG) if path.name == UNIFIED_VM else ("container", TREE)
    if roots.keys() != {root}:
        holds = " and ".join(sorted(roots)) or f"no {root}"
        raise ImageRejected(f"{path.name} is no unified {what}: it holds {holds}; see jenkins.artifacts")
    if root == TREE:
        return
    if not found.get(IMG, b"").startswith(_QCOW2):
        raise ImageRejected(f"{path.name}: {IMG} is no plain file, or no qcow2")
    try:
        check_qcow2_header(found[IMG], roots[IMG])
    except BadRootError as error:
        raise ImageRejected(f"{path.name}: {IMG} is damaged or unusable: {error}") from error


def _check_yaml(path: Path, found: Mapping[str, bytes], product: Product) -> Mapping[str, object]:
    """Check the metadata.yaml that was found in a tarball; what it says."""
    try:
        metadata = parse(_demand(path, found, "metadata.yaml"))
    except ValueError as error:
        raise ImageRejected(f"{path.name}: metadata.yaml {error}") from error
    arch = metadata.get("architecture")
    if not isinstance(arch, str) or not arch:
        raise ImageRejected(f"{path.name}: metadata.yaml has no architecture")
    created = metadata.get("creation_date")
    if not isinstance(created, int) or isinstance(created, bool) or not 0 < created < 1 << 63:
        raise ImageRejected(f"{path.name}: metadata.yaml has no creation_date in seconds")
    if canonical_arch(arch) is None:
        raise ImageRejected(f"{path.name}: no client knows the architecture {arch[:40]!r}")
    if canonical_arch(arch) != canonical_arch(product.arch):
        raise ImageRejected(f"{path.name}: architecture {arch[:40]!r} is not the product's {product.arch}")
    return metadata


def check_meta(path: Path) -> None:
    """Check LXC's own metadata tarball, by what lxc-download does with its files.

    It appends ``config`` to the container's, compares ``expiry`` with the time, and edits what
    ``templates`` lists below the root file system: on the client, as root.
    """
    found = _contents(path, SMALL, _LXC)
    _demand(path, found, "config")
    for name, text in found.items():
        if name.startswith("config") and not text.strip():
            raise ImageRejected(f"{path.name}: {name} is empty")
        if name.startswith("expiry") and not re.fullmatch(rb"[0-9]{1,18}\s*", text):
            raise ImageRejected(f"{path.name}: {name} is no time in seconds")
        if name.startswith("templates") and any(b".." in line.split(b"/") for line in text.split()):
            raise ImageRejected(f"{path.name}: {name} lists a file outside of the container")


def check_root(path: Path) -> None:
    """Check the tarball of a root file system: that it is whole."""
    _contents(path, ROOT)


def _contents(
    path: Path,
    limits: Limits,
    wanted: Collection[str] = (),
    *,
    head: str = "",
    see: Callable[[str, int], object] = lambda *_: None,
) -> dict[str, bytes]:
    """Read a tarball whole: a bomb ends at a limit, and a cut is seen wherever it is."""
    try:
        found = contents(_chunks(path), limits, wanted, head=head, see=see)
    except BadArchiveError as error:
        raise ImageRejected(f"{path.name} cannot be read as a tarball: {error}") from error
    except TooMuchError as error:
        raise ImageRejected(f"{path.name} {error}") from error
    return found


def _demand(path: Path, found: Mapping[str, bytes], name: str) -> bytes:
    """What a tarball must hold."""
    if name not in found:
        raise ImageRejected(f"{path.name} holds no file {name!r}")
    return found[name]


def _chunks(path: Path) -> Iterator[bytes]:
    with files.disk("read"), path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk
