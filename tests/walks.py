"""Readers that no package brings any more, as far as they fetch and verify, with the programs they did it with.

lxc4: LXC's download template up to 4.0 (lxc/lxc:templates/lxc-download.in before commit 585202630), wget and
gpg. sstream_mirror: Canonical's Python simplestreams (simplestreams/mirrors/__init__.py, util.py), gpgv. Both
end with Refused, or ClientFailed, at the first thing that is not as it has to be.
"""

import hashlib
import json
import posixpath
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import clients
import requests
from clients import ClientFailed, environment, fresh, lxc_environment, run
from servers import Web
from tools import program

INDEX = "streams/v1/index.sjson"


class Refused(Exception):  # noqa: N818 (named like ClientFailed)
    """What was read is not what the reader takes."""


def lxc4(web: Web, work: Path, key: Path, *product: str, mode: str = "system", level: int = 7) -> list[str]:
    """Fetch an image of os, release, arch, variant; returns the paths that were fetched, in order."""
    home, ring = fresh(work), clients.gpg_home(key, work)
    env = lxc_environment(web, home)
    fetched = []

    def get(path: str) -> Path:
        into = home / posixpath.basename(path)
        agent = f"--user-agent=lxc/4.0.9 compat:{level}"
        run([program("wget"), agent, "-T", "30", "-q", f"{web.url}/{path}", "-O", str(into)], env)
        fetched.append(path)
        return into

    def pair(path: str) -> tuple[Path, Path]:
        signed = get(path)
        return get(f"{path}.asc"), signed

    try:
        signature, index = pair(f"/meta/1.0/index-{mode}.{level}")
    except ClientFailed:
        signature, index = pair(f"/meta/1.0/index-{mode}")
    clients.gpg_verify(ring, signature, index)
    for line in index.read_text().splitlines():
        *names, _, path = line.split(";")
        if tuple(names) == product and path:
            clients.gpg_verify(ring, *pair(f"{path}/rootfs.tar.xz"))
            clients.gpg_verify(ring, *pair(f"{path}/meta.tar.xz"))
            return fetched
    raise Refused(f"{';'.join(product)} is not in {index.name}")


def sstream_mirror(web: Web, work: Path, key: Path) -> dict[str, str]:
    """Mirror every item of every version; returns their paths with what they are (ftype)."""
    reader = _Streams(web, fresh(work), key)
    index = reader.signed(INDEX, "index:1.0")
    found: dict[str, str] = {}
    for entry in index["index"].values():
        if entry["format"] != "products:1.0":
            raise Refused(f"format {entry['format']!r} of {entry['path']}")
        for item in _items(reader.signed(entry["path"], "products:1.0")):
            content = reader.get(item["path"])
            if hashlib.sha256(content).hexdigest() != item["sha256"] or len(content) != item["size"]:
                raise Refused(f"checksum or size of {item['path']}")
            found[item["path"]] = item["ftype"]
    return found


class _Streams:
    """HTTPS and gpgv."""

    def __init__(self, web: Web, home: Path, key: Path) -> None:
        self.web, self.home, self.keyring = web, home, home / "keyring.gpg"
        run([program("gpg"), "--batch", "--output", str(self.keyring), "--dearmor", str(key)], environment())

    def get(self, path: str) -> bytes:
        if path.startswith("/") or ".." in path.split("/"):
            raise Refused(f"path {path}")
        answer = requests.get(f"{self.web.url}/{path}", verify=str(self.web.ca), timeout=10)
        if answer.status_code != 200:
            raise Refused(f"{path}: {answer.status_code}")
        return answer.content

    def signed(self, path: str, kind: str) -> Mapping[str, Any]:
        """Read a clear-signed JSON file; a plain one, which an index may name, would be taken unverified."""
        if not path.endswith(".sjson"):
            raise Refused(f"{path} is not signed")
        text = self.get(path)
        run([program("gpgv"), f"--keyring={self.keyring}", "-"], environment(HOME=str(self.home)), feed=text)
        read = json.loads(_payload(text.decode()))
        if read["format"] != kind:
            raise Refused(f"format {read['format']!r} of {path}")
        return read


def _items(streams: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for product in streams["products"].values():
        for version in product["versions"].values():
            yield from version["items"].values()


def _payload(text: str) -> str:
    """The signed text, without armour headers and dashes (RFC 9580, 7)."""
    head, _, rest = text.partition("\n\n")
    if not head.startswith("-----BEGIN PGP SIGNED MESSAGE-----"):
        raise Refused("no signed message")
    lines = rest.partition("\n-----BEGIN PGP SIGNATURE-----")[0].split("\n")
    return "\n".join(line.removeprefix("- ") for line in lines)
