"""The real daemons copy the images of an ``[[upstream]]``: our server redirects, the upstream's gives the bytes."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import daemons
import pytest
import released
from busybox import machine
from daemons import Daemon
from servers import Web, nginx
from sites import Key, Site
from test_serverconfig import generated
from test_upstream import NOBLE, Ubuntu, alone, both, new_key, plain

from jenkins import standin
from jenkins.controller import Controller

# How the files of an image job are called there; the metadata is there for LXD alone.
THERE = {
    "lxd.tar.xz": "incus.tar.xz",
    "squashfs": "rootfs.squashfs",
    "root.tar.xz": "rootfs.tar.xz",
    "disk1.img": "disk.qcow2",
}


@dataclass(frozen=True)
class Pair:
    """Our web server and the upstream's, which has one image that starts."""

    ours: Web  # its ca is that of both
    ubuntu: Ubuntu
    files: Mapping[str, bytes]  # of that image, by ftype
    serial: str

    def fingerprint(self, root: str) -> str:
        """What both daemons have to come to."""
        return hashlib.sha256(self.files["lxd.tar.xz"] + self.files[root]).hexdigest()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, key: Key) -> Iterator[Pair]:
    base = tmp_path_factory.mktemp("overlay")
    made = machine("ubuntu/24.04/amd64/default")
    files = {there: bytes(made[here]) for there, here in THERE.items()}
    document = released.products(["22.04", "24.04"], ["amd64", "arm64"], 500)
    *_, (newest, version) = document["products"][NOBLE]["versions"].items()
    for ftype, data in files.items():
        version["items"][ftype] |= {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    for root, name in released.ROOTS.items():
        whole = hashlib.sha256(files["lxd.tar.xz"] + files[root])
        version["items"]["lxd.tar.xz"][name] = whole.hexdigest()
    (base / "ubuntu").mkdir()
    with (
        nginx(base / "ubuntu", base / "ubuntu-web", plain) as theirs,
        standin.serve(Controller(base / "jenkins")) as unasked,
    ):
        ubuntu = Ubuntu(base / "ubuntu", new_key(base / "ubuntu-key"), document, theirs)
        ubuntu.publish()
        for ftype, data in files.items():
            (ubuntu.public / version["items"][ftype]["path"]).write_bytes(data)
        site = Site(base, unasked, key)
        alone(site, ubuntu)
        site.publish()
        with nginx(site.latest, base / "web", generated(site)) as web:
            yield Pair(both(web, theirs, base), ubuntu, files, newest)


@pytest.fixture(scope="module", params=["incus", "lxd"])
def started(request: pytest.FixtureRequest, pair: Pair) -> Iterator[Daemon]:
    with daemons.running(request.param, pair.ours.ca) as daemon:
        yield daemon


@pytest.fixture
def daemon(started: Daemon, pair: Pair) -> Iterator[Daemon]:
    """A daemon that has no images and knows our server alone."""
    started.follow(pair.ours.url)
    yield started
    started.clear()


def requests(web: Web, top: str) -> list[tuple[str, str, int]]:
    """Path, status and bytes of every GET of something there."""
    found = [line.split('"')[1:3] for line in web.log.read_text().splitlines()]
    asked = [(request.split(" ")[:2], answer.split()) for request, answer in found]
    return [(path, code, int(size)) for (how, path), (code, size) in asked if how == "GET" and top in path]


@pytest.mark.parametrize("root", ["squashfs", "root.tar.xz", "disk1.img"])
def test_daemon_copies_through_the_redirect(root: str, daemon: Daemon, pair: Pair) -> None:
    here, there = len(requests(pair.ours, "/upstream/")), len(requests(pair.ubuntu.web, "/server/"))
    wanted, vm = pair.fingerprint(root), root == "disk1.img"
    # A squashfs goes before a tarball.
    daemon.copy(wanted if root == "root.tar.xz" else "24.04", vm=vm)
    assert daemon.images() == {wanted: "virtual-machine" if vm else "container"}
    top = f"/server/releases/24.04/amd64/release-{pair.serial}/ubuntu-{pair.serial}-"
    ours, theirs = requests(pair.ours, "/upstream/")[here:], requests(pair.ubuntu.web, "/server/")[there:]
    # Both ask without TLS first, which the port of HTTPS answers with 400.
    assert {(path, code) for path, code, _ in ours if code != "400"} == {
        (f"/upstream/ubuntu{top}{ftype}", "302") for ftype in ("lxd.tar.xz", root)
    }
    assert sorted(theirs) == sorted(
        (f"{top}{ftype}", "200", len(pair.files[ftype])) for ftype in ("lxd.tar.xz", root)
    )


def test_daemon_starts_what_it_copied(daemon: Daemon, pair: Pair) -> None:
    daemon("launch", "pub:24.04", "c0")
    said = daemon("exec", "c0", "--", "cat", "/etc/hostname")
    assert said == "c0\n"
    assert [*daemon.images()] == [pair.fingerprint("squashfs")]


def test_daemon_lists_every_version(daemon: Daemon, pair: Pair) -> None:
    listed = json.loads(daemon("image", "list", "pub:", "--format=json"))
    assert len(listed) == 2 * 2 * 500 * len(released.ROOTS)
