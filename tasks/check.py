"""Look into the files of a build before anyone else does (acts: reads staged files).

Only what a client or template needs at launch is asked for: formats by their first bytes
(lxc/incus:shared/archive/detect.go), metadata.yaml with its required keys and an architecture that
agrees (lxc/incus:shared/api/image.go), and in meta.tar.xz the file ``config``, without which
lxc-create fails for everybody (lxc/lxc:templates/lxc-download.in; the outage lxc/lxc#4325).
"""

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tasks.errors import ImageRejected
from tasks.image import (
    DISK,
    META,
    METADATA,
    ROOT_TAR,
    SQUASHFS,
    File,
    Product,
    canonical_arch,
    serial_time,
)

METADATA_LIMIT = 1 << 20  # bytes of metadata.yaml; the limit of Incus
UNPACKED_LIMIT = 64 << 20  # bytes of a metadata tarball; real ones have kilobytes
MEMBERS_LIMIT = 10_000  # entries looked at in it
DEPTH_LIMIT = 100  # of metadata.yaml: libyaml's composer recurses on the C stack
# What tarfile and yaml raise over hostile input, beside errors of their own.
MALFORMED = (ValueError, LookupError, AttributeError, TypeError, OverflowError, RecursionError)
AHEAD = timedelta(hours=1)

_XZ, _SQUASHFS, _QCOW2 = b"\xfd7zXZ\x00", b"hsqs", b"QFI\xfb"
_PACKED: Mapping[bytes, Callable[..., Any]] = {_XZ: lzma.open, b"\x1f\x8b": gzip.open, b"BZh": bz2.open}
_MAGIC = {SQUASHFS: _SQUASHFS, DISK: _QCOW2, ROOT_TAR: _XZ, META: _XZ}


def check(directory: Path, names: Mapping[str, File], product: Product, serial: str, now: datetime) -> None:
    """Raise ImageRejected, saying which file and why, when this must not be published."""
    if serial_time(serial) > now + AHEAD:
        raise ImageRejected(f"serial {serial} lies in the future (it is {now:%Y%m%d_%H:%M} UTC)")
    for name in names:
        if magic := _MAGIC.get(name):
            with (directory / name).open("rb") as file:
                if file.read(len(magic)) != magic:
                    raise ImageRejected(
                        f"{name} is not what its name says: it starts with other bytes than such files do"
                    )
    for name in METADATA:
        if name in names:
            check_metadata(directory / name, product)
    if META in names:
        check_meta(directory / META)


def check_metadata(path: Path, product: Product) -> None:
    """Check the metadata tarball of a split image."""
    import yaml  # noqa: PLC0415 - 30 ms that a run with nothing new does not need

    with _tar(path) as tar:
        text = _member(tar, "metadata.yaml", path.name)
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > DEPTH_LIMIT:
                raise ImageRejected(f"{path.name}: metadata.yaml has YAML aliases or is nested too deep")
        metadata = yaml.load(text, Loader=yaml.CSafeLoader)
    except (yaml.YAMLError, *MALFORMED) as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise ImageRejected(f"{path.name}: metadata.yaml is no YAML: {said}") from error
    if not isinstance(metadata, dict):
        raise ImageRejected(f"{path.name}: metadata.yaml is not a mapping")
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


def check_meta(path: Path) -> None:
    """Check LXC's own metadata tarball."""
    with _tar(path) as tar:
        _member(tar, "config", path.name)


@contextmanager
def _tar(path: Path) -> Iterator[tarfile.TarFile]:
    """Open a tarball from memory: a bomb ends at the limit, and a cut is seen wherever it is.

    (tarfile's own streams copy what is left of a decompressed block for every 512 bytes they read.)
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(_XZ))
        opened = next((one for magic, one in _PACKED.items() if start.startswith(magic)), open)
        with opened(path, "rb") as file:
            data = file.read(UNPACKED_LIMIT + 1)
        if len(data) > UNPACKED_LIMIT:
            raise ImageRejected(f"{path.name} unpacks to more than {UNPACKED_LIMIT >> 20} MiB")
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            yield tar
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, *MALFORMED) as error:
        said = str(error) or type(error).__name__
        raise ImageRejected(f"{path.name} cannot be read as a tarball: {said}") from error


def _member(tar: tarfile.TarFile, wanted: str, archive: str) -> bytes:
    """The content of one regular file, with or without a leading ``./``, as the daemons accept it."""
    for number, member in enumerate(tar):
        if number > MEMBERS_LIMIT:
            raise ImageRejected(f"{archive} has more than {MEMBERS_LIMIT} entries")
        if member.name.removeprefix("./") == wanted and member.isfile():
            if member.size > METADATA_LIMIT:
                raise ImageRejected(f"{archive}: {wanted} is larger than {METADATA_LIMIT >> 20} MiB")
            content = tar.extractfile(member)
            return content.read() if content else b""
    raise ImageRejected(f"{archive} holds no file {wanted!r}")
