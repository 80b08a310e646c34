"""What the readers that verify signatures fetch and take, and that one changed byte stops them."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest
from clients import ClientFailed
from servers import Web, nginx
from walks import INDEX, Refused, lxc4, sstream_mirror

PRODUCT = ("tiny", "1", "amd64", "default")
IMAGES = "images/tiny/1/amd64/default/*"
OTHERS = "images/tiny/2/amd64/cloud/*"


class Published(Protocol):
    latest: Path
    public_key: Path


@dataclass(frozen=True)
class Copy:
    """A copy of the published tree that a test may spoil, and a server of it."""

    tree: Path
    web: Web
    key: Path
    work: Path

    def lxc4(self, **options: str | int) -> list[str]:
        return lxc4(self.web, self.work, self.key, *PRODUCT, **options)

    def sstream_mirror(self) -> dict[str, str]:
        return sstream_mirror(self.web, self.work, self.key)


@pytest.fixture
def copy(published: Published, tmp_path: Path) -> Iterator[Copy]:
    tree = shutil.copytree(published.latest.resolve(), tmp_path / "tree")
    with nginx(tree, tmp_path / "web") as web:
        yield Copy(tree, web, published.public_key, tmp_path)


@pytest.mark.parametrize(
    ("mode", "level", "index"),
    [("system", 7, "index-system"), ("system", 4, "index-system.4"), ("user", 6, "index-user")],
)
def test_lxc_4_verifies_the_index_and_both_tarballs(mode: str, level: int, index: str, copy: Copy) -> None:
    lines = (copy.tree / "meta/1.0" / index).read_text().splitlines()
    (image,) = [line.split(";")[5] for line in lines if line.startswith(";".join(PRODUCT))]
    wanted = [f"/meta/1.0/{index}", f"{image}/rootfs.tar.xz", f"{image}/meta.tar.xz"]
    assert copy.lxc4(mode=mode, level=level) == [one for path in wanted for one in (path, f"{path}.asc")]


def test_lxc_4_takes_the_bare_index_when_a_levels_signature_is_missing(copy: Copy) -> None:
    (copy.tree / "meta/1.0/index-system.4.asc").unlink()
    names = ("index-system.4", "index-system", "index-system.asc")
    assert copy.lxc4(level=4)[:3] == [f"/meta/1.0/{name}" for name in names]


@pytest.mark.parametrize(
    ("ours", "other"),
    [
        ("meta/1.0/index-system", "meta/1.0/index-system.1"),
        (f"{IMAGES}/rootfs.tar.xz", f"{OTHERS}/rootfs.tar.xz"),
        (f"{IMAGES}/meta.tar.xz", f"{OTHERS}/meta.tar.xz"),
    ],
)
def test_lxc_4_refuses_what_was_swapped(ours: str, other: str, copy: Copy) -> None:
    content = next(copy.tree.glob(other)).read_bytes()
    for path in copy.tree.glob(ours):
        assert path.read_bytes() != content
        path.write_bytes(content)
    with pytest.raises(ClientFailed, match="BAD signature"):
        copy.lxc4()


def test_sstream_mirror_takes_every_item_by_signed_indexes(copy: Copy) -> None:
    streams = json.loads((copy.tree / "streams/v1/images.json").read_bytes())
    versions = [
        version for product in streams["products"].values() for version in product["versions"].values()
    ]
    listed = {item["path"]: item["ftype"] for version in versions for item in version["items"].values()}
    assert {"squashfs", "disk-kvm.img"} <= set(listed.values())
    assert copy.sstream_mirror().keys() == listed.keys()


@pytest.mark.parametrize(
    ("path", "near", "says"),
    [
        (INDEX, b'"datatype": "image', "BAD signature"),
        ("streams/v1/images.sjson", b'"path": "images/', "BAD signature"),
        (f"{IMAGES}/rootfs.squashfs", b"hsqs", "checksum"),
    ],
)
def test_sstream_mirror_refuses_a_changed_byte(path: str, near: bytes, says: str, copy: Copy) -> None:
    for file in copy.tree.glob(path):
        head, found, rest = file.read_bytes().partition(near)
        assert found
        file.write_bytes(head + found + bytes([rest[0] ^ 1]) + rest[1:])
    with pytest.raises((ClientFailed, Refused), match=says):
        copy.sstream_mirror()
