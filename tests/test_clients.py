"""The real clients read the published tree: what they list, download and verify is what it holds."""

import gzip
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import clients
import pytest
import requests
from servers import Web, nginx

STREAMS = ("streams/v1", "meta/simplestreams/v1")
INDEXES = tuple(
    f"meta/1.0/index-{mode}{level}" for mode in ("system", "user") for level in ("", ".1", ".2", ".3", ".4")
)
ROOTS = {"squashfs": "container", "root.tar.xz": "container", "disk-kvm.img": "virtual-machine"}
METADATA = {"incus": "incus.tar.xz", "lxc": "lxd.tar.xz"}
REMOTES = {"incus": clients.incus, "lxc": clients.lxc}
SUMMED = {".xz", ".squashfs", ".qcow2", ".yaml", ".log", ".vcdiff"}


class Published(Protocol):
    latest: Path  # the published tree
    public_key: Path  # armoured certificate of its signer


class Image(NamedTuple):
    """One image as clients tell it from others: a metadata file with one root."""

    os: str
    release: str
    arch: str
    variant: str
    serial: str
    root: str
    kind: str


class IndexLine(NamedTuple):
    """One line of an LXC index."""

    os: str
    release: str
    arch: str
    variant: str
    build: str
    path: str


@pytest.fixture(scope="module")
def web(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with nginx(published.latest, tmp_path_factory.mktemp("web")) as running:
        yield running


@pytest.fixture(scope="module")
def lxc_index(published: Published) -> list[IndexLine]:
    lines = (published.latest / "meta/1.0/index-system").read_text().splitlines()
    return [IndexLine(*line.split(";")) for line in lines]


def images_json(web: Web) -> dict[str, Any]:
    answer = requests.get(f"{web.url}/streams/v1/images.json", verify=str(web.ca), timeout=10)
    answer.raise_for_status()
    streams: dict[str, Any] = answer.json()
    return streams


def versions(streams: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, list[dict[str, Any]]]]:
    """Every version of every product: the product, the serial and the items."""
    for product in streams["products"].values():
        for serial, version in product["versions"].items():
            yield product, serial, list(version["items"].values())


def pairs(streams: dict[str, Any], metadata: str) -> Iterator[tuple[Image, str, str]]:
    """Every image that a client of this metadata type lists, with the paths of its two files."""
    for product, serial, items in versions(streams):
        paths = {item["ftype"]: item["path"] for item in items}
        names = (product["os"], product["release"], product["arch"], product["variant"])
        for root in sorted(ROOTS.keys() & paths if metadata in paths else ()):
            yield Image(*names, serial, root, ROOTS[root]), paths[metadata], paths[root]


def shown(image: dict[str, Any]) -> Image:
    """An image of a client's JSON."""
    says = image["properties"]
    names = (says["os"], says["release"], says["architecture"], says["variant"])
    return Image(*names, says["serial"], says["type"], image["type"])


def sha256(*files: Path) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def faults(check: Callable[[Path], None], files: Iterable[Path]) -> list[str]:
    """What the client said of each file that it refused; it is run for a few at a time."""

    def fault(file: Path) -> str | None:
        try:
            check(file)
        except clients.ClientFailed as failed:
            return str(failed)
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [found for found in pool.map(fault, files) if found]


def test_incus_simplestreams_lists_every_image(published: Published) -> None:
    listed = json.loads(clients.incus_simplestreams(published.latest, "list"))
    streams = json.loads((published.latest / "streams/v1/images.json").read_bytes())
    assert listed
    assert sorted(map(shown, listed)) == sorted(p[0] for p in pairs(streams, "incus.tar.xz"))


def test_incus_simplestreams_verifies_every_file(published: Published) -> None:
    clients.incus_simplestreams(published.latest, "verify")


@pytest.mark.parametrize("name", ["incus", "lxc"])
def test_client_lists_the_fingerprints_of_the_files(
    name: str, published: Published, web: Web, tmp_path: Path
) -> None:
    listed = REMOTES[name](web, tmp_path).images()
    expected = {
        (shown, sha256(published.latest / metadata, published.latest / root))
        for shown, metadata, root in pairs(images_json(web), METADATA[name])
    }
    assert expected
    assert {(shown(image), image["fingerprint"]) for image in listed} == expected
    assert len(listed) == len(expected)


@pytest.mark.parametrize("kind", ["container", "virtual-machine"])
@pytest.mark.parametrize("name", ["incus", "lxc"])
def test_client_downloads_what_it_listed(name: str, kind: str, web: Web, tmp_path: Path) -> None:
    remote, vm = REMOTES[name](web, tmp_path), kind == "virtual-machine"
    image = next(i for i in remote.images() if i["type"] == kind and i["aliases"])
    alias = image["aliases"][-1]["name"]
    assert f"Fingerprint: {image['fingerprint']}" in remote.info(alias, vm=vm)
    assert remote.export(alias, tmp_path / "out", vm=vm) == image["fingerprint"]


@pytest.mark.parametrize("name", ["incus", "lxc"])
def test_client_reads_the_compressed_index(name: str, published: Published, web: Web, tmp_path: Path) -> None:
    before = web.log.stat().st_size
    assert REMOTES[name](web, tmp_path).images()
    seen = web.log.read_text()[before:]
    sent = re.findall(r'"GET (/streams/v1/\S+) HTTP/1.1" 200 (\d+) ', seen)
    assert sent
    for path, size in sent:
        assert int(size) == (published.latest / f"{path[1:]}.gz").stat().st_size


def test_lxc_create_unpacks_the_newest_build(lxc_index: list[IndexLine], web: Web, tmp_path: Path) -> None:
    line = next(line for line in lxc_index if line.arch == "amd64")
    rootfs = clients.lxc_create(web, tmp_path, *line[:4])
    assert (rootfs / "etc/serial").read_text().strip() == line.build


def test_lxc_download_lists_the_index(lxc_index: list[IndexLine], web: Web, tmp_path: Path) -> None:
    assert lxc_index
    assert clients.lxc_list(web, tmp_path) == [list(line[:5]) for line in lxc_index]


@pytest.mark.parametrize("mode", ["system", "user"])
@pytest.mark.parametrize("level", [1, 2, 3, 4, 5, 7])
def test_lxc_download_of_every_level_is_shown_what_the_rules_say(
    level: int, mode: str, published: Published, web: Web, tmp_path: Path
) -> None:
    least = {  # by rules of conftest.py
        ("tiny", "1", "amd64", "default"): {"system": 1, "user": 1},
        ("tiny", "1", "arm64", "default"): {"system": 1, "user": 4},
        ("tiny", "2", "amd64", "cloud"): {"system": 3, "user": 3},
    }
    listed = clients.lxc_list(web, tmp_path, level=level, user=mode == "user")
    assert [tuple(line[:4]) for line in listed] == [name for name in least if least[name][mode] <= level]


@pytest.mark.parametrize("user", [False, True])
def test_lxc_download_of_an_old_level_unpacks_what_it_is_shown(user: bool, web: Web, tmp_path: Path) -> None:
    hidden = ("tiny", "2", "amd64", "cloud")
    container = clients.lxc_template(web, tmp_path, *hidden, level=3, user=user)
    assert (container / "rootfs/etc/serial").is_file()
    assert ("userns.conf" in (container / "config").read_text()) == user
    with pytest.raises(clients.ClientFailed, match="Couldn't find a matching image"):
        clients.lxc_template(web, tmp_path, *hidden, level=2, user=user)


def test_every_lxc_index_names_builds_that_are_there(published: Published) -> None:
    lines = {
        IndexLine(*line.split(";"))
        for index in INDEXES
        for line in (published.latest / index).read_text().splitlines()
    }
    needed = [
        published.latest / line.path.strip("/") / name
        for line in lines
        for name in ("rootfs.tar.xz", "meta.tar.xz")
    ]
    assert needed
    assert [str(file) for file in needed if not file.is_file()] == []


def test_all_that_clients_verify_is_signed(published: Published) -> None:
    latest = published.latest
    needed = [latest / f"{folder}/{name}.json.gpg" for folder in STREAMS for name in ("index", "images")]
    needed += [latest / f"{index}.asc" for index in INDEXES]
    for name in ("SHA256SUMS", *(f"*{suffix}" for suffix in sorted(SUMMED))):
        needed += [file.with_name(f"{file.name}.asc") for file in latest.glob(f"images/**/{name}")]
    assert [str(file) for file in needed if not file.is_file()] == []


@pytest.mark.parametrize("verifier", ["gpg", "sqv"])
def test_every_detached_signature_is_accepted(verifier: str, published: Published, tmp_path: Path) -> None:
    found = [*published.latest.rglob("*.asc"), *published.latest.rglob("*.gpg")]
    signatures = [file for file in found if b" PUBLIC KEY BLOCK" not in file.read_bytes()[:99]]
    key = published.public_key
    home = clients.gpg_home(key, tmp_path)

    def check(signature: Path) -> None:
        if verifier == "gpg":
            clients.gpg_verify(home, signature, signature.with_suffix(""))
        else:
            clients.sqv(key, signature, signature.with_suffix(""))

    assert signatures
    assert faults(check, signatures) == []


@pytest.mark.parametrize("name", ["index", "images"])
@pytest.mark.parametrize("folder", STREAMS)
def test_clear_signed_streams_say_what_the_json_says(
    folder: str, name: str, published: Published, tmp_path: Path
) -> None:
    signed = published.latest / folder / f"{name}.sjson"
    plain = signed.with_suffix(".json").read_bytes()
    if name == "index":  # a reader of signed streams has to stay on signed ones
        assert b"/images.json" in plain
        plain = plain.replace(b"/images.json", b"/images.sjson")
    home = clients.gpg_home(published.public_key, tmp_path)
    assert clients.gpg_clearsigned(home, signed) == plain
    clients.sqv_clearsigned(published.public_key, signed, tmp_path)


def test_compressed_files_equal_the_plain_ones(published: Published) -> None:
    compressed = list(published.latest.rglob("*.gz"))
    assert {file.name for file in compressed} >= {"index.json.gz", "images.json.gz"}
    for file in compressed:
        assert gzip.decompress(file.read_bytes()) == file.with_suffix("").read_bytes(), file


def test_sha256sums_name_every_file_and_hold(published: Published) -> None:
    sums = list(published.latest.glob("images/**/SHA256SUMS"))
    assert sums
    assert faults(clients.sha256sum, sums) == []
    for file in sums:
        named = {line.split("  ", 1)[1] for line in file.read_text().splitlines()}
        there = {other.name for other in file.parent.iterdir() if other.suffix in SUMMED}
        assert there <= named, file


def test_every_delta_makes_the_listed_root(published: Published) -> None:
    streams = json.loads((published.latest / "streams/v1/images.json").read_bytes())
    squashfs = {  # by directory of the image
        os.path.dirname(item["path"]): item
        for _, _, items in versions(streams)
        for item in items
        if item["ftype"] == "squashfs"
    }
    for _, _, items in versions(streams):
        for delta in (item for item in items if item["ftype"] == "squashfs.vcdiff"):
            folder, _ = os.path.split(delta["path"])
            base = squashfs[f"{os.path.dirname(folder)}/{delta['delta_base']}"]["path"]
            made = clients.xdelta3(published.latest / base, published.latest / delta["path"])
            assert hashlib.sha256(made).hexdigest() == squashfs[folder]["sha256"], delta["path"]
