"""A products file with the structure of Ubuntu's released stream, and its signed index."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

ROOTS = {
    "disk1.img": "combined_disk1-img_sha256",
    "root.tar.xz": "combined_rootxz_sha256",
    "squashfs": "combined_squashfs_sha256",
}
OTHERS = ("manifest", "squashfs.manifest", "ova", "tar.gz")  # what no client of ours knows
LXD = "lxd.tar.xz"


def content(product: str, serial: str, ftype: str) -> bytes:
    """The bytes of a file."""
    return f"{product} {serial} {ftype}\n".encode()


def items(product: str, serial: str, top: str) -> dict[str, Any]:
    """The items of a version, as they are there: the metadata for LXD alone."""
    found: dict[str, Any] = {}
    for ftype in (*ROOTS, *OTHERS, LXD):
        data = content(product, serial, ftype)
        found[ftype] = {
            "ftype": ftype,
            "md5": hashlib.md5(data).hexdigest(),
            "path": f"{top}/ubuntu-{serial}-{ftype}",
            "sha256": hashlib.sha256(data).hexdigest(),
            "size": len(data),
        }
    for root, name in ROOTS.items():
        both = content(product, serial, LXD) + content(product, serial, root)
        found[LXD][name] = hashlib.sha256(both).hexdigest()
    found[LXD]["combined_sha256"] = found[LXD]["combined_rootxz_sha256"]
    return dict(sorted(found.items()))


def products(releases: Iterable[str], arches: Iterable[str], versions: int) -> dict[str, Any]:
    """The products file."""
    made = {}
    for release in releases:
        for arch in arches:
            key = f"com.ubuntu.cloud:server:{release}:{arch}"
            serials = [f"{2020 + n // 300}{n // 25 % 12 + 1:02d}{n % 25 + 1:02d}" for n in range(versions)]
            made[key] = {
                "aliases": f"{release},u{release.replace('.', '')}",
                "arch": arch,
                "os": "ubuntu",
                "release": f"u{release.replace('.', '')}",
                "release_codename": "Noble Numbat",
                "release_title": f"{release} LTS",
                "support_eol": "2029-05-31",
                "supported": True,
                "version": release,
                "versions": {
                    serial: {
                        "items": items(key, serial, f"server/releases/{release}/{arch}/release-{serial}"),
                        "label": "release",
                        "pubname": f"ubuntu-{release}-{arch}-server-{serial}",
                    }
                    for serial in serials
                },
            }
    return {
        "content_id": "com.ubuntu.cloud:released:download",
        "datatype": "image-downloads",
        "format": "products:1.0",
        "license": "http://www.canonical.com/intellectual-property-policy",
        "products": made,
        "updated": "Sat, 21 Nov 2026 08:00:00 +0000",
    }


def text(document: dict[str, Any]) -> bytes:
    """As it is served: indented by one."""
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()
