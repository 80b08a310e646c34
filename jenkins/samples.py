"""Small, valid image files as an image job archives them, for the demo CI, tests and benchmarks.

Same arguments, same bytes, on every machine. The layouts follow doc/reference/image_format.md of
lxc/incus, image/lxc.go of lxc/distrobuilder for the LXC files, and image-*.yaml of lxc/lxc-ci for
what a job archives under which name. Nothing in them is copied from a distribution.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from tarfile import DIRTYPE, GNU_FORMAT, TarInfo
from typing import Literal

from jenkins.qcow2 import qcow2
from jenkins.squashfs import mode, squashfs
from jenkins.xz import xz

__all__ = [
    "artifacts",
    "meta_tarball",
    "metadata_tarball",
    "qcow2",
    "squashfs",
    "tar_xz",
    "unified_tarball",
]

_KINDS = frozenset({"container", "vm", "lxc", "unified", "unified-vm"})
_LIFETIME = timedelta(days=30)  # distrobuilder's default
_DISK = 1 << 20

# Debian's names, the labels of Jenkins nodes (lxc/incus:shared/osarch/architectures.go).
_CANONICAL = {
    "amd64": "x86_64",
    "arm64": "aarch64",
    "armel": "armv6l",
    "armhf": "armv7l",
    "i386": "i686",
    "loong64": "loongarch64",
    "ppc64el": "ppc64le",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Build:
    """What tells one image from another."""

    os: str
    release: str
    arch: str
    variant: str
    serial: str

    @property
    def created(self) -> int:
        return _timestamp(self.serial)

    @property
    def title(self) -> str:
        return f"{self.os.capitalize()} {self.release} {self.arch} ({self.serial})"

    @property
    def name(self) -> str:
        return f"{self.os}-{self.release}-{self.arch}-{self.variant}-{self.serial}"


def artifacts(  # noqa: PLR0913 -- each argument is one thing in which jobs differ
    *,
    os: str,
    release: str,
    arch: str,
    variant: str,
    serial: str,
    kinds: Collection[str] = ("container", "lxc"),
    lxd: Literal["none", "only", "same", "differs"] = "none",
    tar_root: bool = False,
    payload: bytes = b"",
    image_yaml: bool = True,
) -> dict[str, bytes]:
    """Make the files of one build, by name.

    `kinds` are any of container, vm, lxc, unified and unified-vm; `tar_root` adds a container's
    rootfs.tar.xz. Unified images are called as distrobuilder does, by the name in their metadata; a
    VM's begins with "vm-". `lxd` puts lxd.tar.xz in the place of incus.tar.xz, or beside it with equal
    or other bytes, and a unified container "lxd-..." beside or in the place of the other.
    `payload` is a file more in every root, so the root files are as large and as random as it.
    """
    if unknown := set(kinds) - _KINDS:
        raise ValueError(f"no such kind of image: {', '.join(sorted(unknown))}")
    build = _Build(os=os, release=release, arch=arch, variant=variant, serial=serial)
    root = _root(build, payload)
    files = {"serial": f"{serial}\n".encode()}
    if tar_root or not {"container", "vm"}.isdisjoint(kinds):
        files |= _metadata_files(build, lxd)
    if "container" in kinds:
        files["rootfs.squashfs"] = squashfs(root, mtime=build.created)
    if tar_root or "lxc" in kinds:
        files["rootfs.tar.xz"] = tar_xz(root, mtime=build.created)
    if "lxc" in kinds:
        files["meta.tar.xz"] = meta_tarball(arch=arch, serial=serial)
    if "vm" in kinds:
        files["disk.qcow2"] = _disk(build, payload)
    if "unified" in kinds:
        files |= _unified_files(build, lxd, payload)
    if "unified-vm" in kinds:
        files[f"vm-{build.name}.tar.xz"] = unified_tarball(**asdict(build), vm=True, payload=payload)
    if image_yaml:
        files["image.yaml"] = _definition(build)
    return files


def unified_tarball(  # noqa: PLR0913 -- as above
    *,
    os: str,
    release: str,
    arch: str,
    variant: str,
    serial: str,
    vm: bool = False,
    payload: bytes = b"",
    **overrides: object,
) -> bytes:
    """Make a unified image: metadata.yaml, a template, and rootfs/ or, for a VM, rootfs.img."""
    build = _Build(os=os, release=release, arch=arch, variant=variant, serial=serial)
    root = {f"rootfs/{name}": content for name, content in _root(build, payload).items()}
    tree = {"rootfs.img": _disk(build, payload)} if vm else {"rootfs": None, **root}
    return tar_xz({**_metadata_entries(build, overrides), **tree}, mtime=build.created)


def metadata_tarball(
    *, os: str, release: str, arch: str, variant: str, serial: str, **overrides: object
) -> bytes:
    """Make incus.tar.xz or lxd.tar.xz: metadata.yaml and the template it names.

    `overrides` replace top-level keys of metadata.yaml; None leaves the key out.
    """
    build = _Build(os=os, release=release, arch=arch, variant=variant, serial=serial)
    return tar_xz(_metadata_entries(build, overrides), mtime=build.created)


def meta_tarball(*, arch: str, serial: str, omit: Collection[str] = ()) -> bytes:
    """Make meta.tar.xz, what `lxc-create -t download` configures a container from.

    `omit` names entries to leave out: config, config-user, create-message, expiry, excludes-user,
    templates.
    """
    created = _timestamp(serial)
    config = f"lxc.include = LXC_TEMPLATE_CONFIG/common.conf\nlxc.arch = {_canonical(arch)}\n"
    user = "lxc.include = LXC_TEMPLATE_CONFIG/userns.conf\n"
    entries = {
        "config": config,
        "config-user": config + user,
        "create-message": "You just made a sample container.\n",
        "expiry": f"{created + int(_LIFETIME.total_seconds())}\n",
        "excludes-user": "./dev/console\n./dev/null\n",
        "templates": "/etc/hostname\n",
    }
    kept = {name: text.encode() for name, text in entries.items() if name not in omit}
    return tar_xz(kept, mtime=created)


def tar_xz(entries: Mapping[str, bytes | None], *, mtime: int = 0) -> bytes:
    """Make a .tar.xz of exactly these names in this order; None is a directory."""
    parts = []
    for name, content in entries.items():
        info = TarInfo(name)
        info.mode, info.mtime = mode(content), mtime
        info.uname = info.gname = "root"
        if content is None:
            info.type = DIRTYPE
        body = content or b""
        info.size = len(body)
        parts += [info.tobuf(GNU_FORMAT), body, bytes(-len(body) % 512)]
    return xz(b"".join([*parts, bytes(1024)]))


def _unified_files(build: _Build, lxd: str, payload: bytes) -> dict[str, bytes]:
    """Choose the names of unified containers, as for metadata."""
    incus, name = unified_tarball(**asdict(build), payload=payload), f"{build.name}.tar.xz"
    other = unified_tarball(**asdict(build), payload=payload, creation_date=build.created + 60)
    both = {"same": {f"lxd-{name}": incus}, "differs": {f"lxd-{name}": other}}
    return {f"lxd-{name}": incus} if lxd == "only" else {name: incus, **both.get(lxd, {})}


def _metadata_entries(build: _Build, overrides: Mapping[str, object]) -> dict[str, bytes | None]:
    """The files of a metadata tarball; a value None leaves a key of metadata.yaml out."""
    fields = {**_metadata(build), **overrides}
    metadata = _yaml({key: value for key, value in fields.items() if value is not None})
    return {
        "metadata.yaml": metadata.encode(),
        "templates": None,
        "templates/hostname.tpl": b"{{ container.name }}\n",
    }


def _metadata_files(build: _Build, lxd: str) -> dict[str, bytes]:
    """Choose the names; where two tools packed the image, they did so a minute apart."""
    metadata = metadata_tarball(**asdict(build))
    if lxd == "only":
        return {"lxd.tar.xz": metadata}
    files = {"incus.tar.xz": metadata}
    if lxd == "same":
        files["lxd.tar.xz"] = metadata
    if lxd == "differs":
        files["lxd.tar.xz"] = metadata_tarball(**asdict(build), creation_date=build.created + 60)
    return files


def _metadata(build: _Build) -> dict[str, object]:
    """Fill in metadata.yaml as distrobuilder does."""
    return {
        "architecture": _canonical(build.arch),
        "creation_date": build.created,
        "properties": {
            "architecture": build.arch,
            "description": build.title,
            "name": build.name,
            "os": build.os,
            "release": build.release,
            "serial": build.serial,
            "variant": build.variant,
        },
        "templates": {
            "/etc/hostname": {
                "when": ["create", "copy"],
                "create_only": False,
                "template": "hostname.tpl",
                "properties": {},
            },
        },
    }


def _root(build: _Build, payload: bytes) -> dict[str, bytes | None]:
    """Plant a tree that looks like a system to whoever unpacks it; nothing in it can start."""
    release = f'ID={build.os}\nVERSION_ID="{build.release}"\nPRETTY_NAME="{build.title}"\n'
    root: dict[str, bytes | None] = {
        "bin": None,
        "bin/true": b"#!/bin/sh\n",
        "dev": None,
        "etc": None,
        "etc/hostname": b"LXC_NAME\n",
        "etc/os-release": f"{release}VARIANT_ID={build.variant}\n".encode(),
        "etc/serial": f"{build.serial}\n".encode(),
        "proc": None,
        "sbin": None,
        "sbin/init": b"#!/bin/sh\n",
        "sys": None,
        "tmp": None,
    }
    if payload:
        root |= {"usr": None, "usr/share": None, "usr/share/payload": payload}
    return root


def _disk(build: _Build, payload: bytes) -> bytes:
    """Fill a disk of whole MiB, without partitions: a line of text, then the payload."""
    guest = f"{build.title} {build.variant}\n".encode() + payload
    return qcow2(guest, max(1, -(-len(guest) // _DISK)) * _DISK)


def _definition(build: _Build) -> bytes:
    """Write a distrobuilder definition that could have made the image."""
    fields = {
        "image": {
            "distribution": build.os,
            "release": build.release,
            "architecture": build.arch,
            "variant": build.variant,
            "serial": build.serial,
            "description": build.title,
        },
        "source": {"downloader": "rootfs-http", "url": "https://example.org/rootfs.tar.xz"},
        "targets": {"lxc": {"create_message": "You just made a sample container."}},
        "files": [{"path": "/etc/hostname", "generator": "hostname"}],
        "packages": {"manager": "apt"},
    }
    return _yaml(fields).encode()


def _yaml(fields: Mapping[str, object], indent: str = "") -> str:
    """Nested blocks of JSON scalars, which are YAML: so every string is quoted."""
    lines = []
    for key, value in fields.items():
        if isinstance(value, Mapping) and value:
            lines.append(f"{indent}{key}:\n{_yaml(value, indent + '  ')}")
        else:
            lines.append(f"{indent}{key}: {json.dumps(value, ensure_ascii=False)}\n")
    return "".join(lines)


def _canonical(arch: str) -> str:
    return _CANONICAL.get(arch, arch)


def _timestamp(serial: str) -> int:
    return int(datetime.strptime(serial, "%Y%m%d_%H:%M").replace(tzinfo=UTC).timestamp())
