"""The real daemons copy, update and start what was published; each image as its own client names it."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import clients
import daemons
import pytest
from browser import chromium, lines
from busybox import machine, unified_machine
from daemons import Daemon
from servers import Web, nginx
from sites import Key, Site, build, files, matrix

from jenkins import standin
from jenkins.controller import Controller
from tasks.files import digest

PRODUCT, LXDS = "tiny/1/amd64/default", "tiny/2/amd64/default"
# Deltas of disks, but never before Incus, which would apply them to containers.
SETTINGS = """
[deltas]
vm = true
[[rules]]
match = "tiny/2"
clients = ["lxd"]
[[rules]]
match = "tiny/1"
requirements = { cdrom_agent = "true" }
"""
METADATA = {"incus": "incus.tar.xz", "lxd": "lxd.tar.xz"}
COMBINED = {
    "rootfs.squashfs": "combined_squashfs_sha256",
    "rootfs.tar.xz": "combined_rootxz_sha256",
    "disk.qcow2": "combined_disk-kvm-img_sha256",
}


@dataclass(frozen=True)
class Shop:
    """A web server that shows published trees, each test its own, under a name that may move on."""

    web: Web
    window: Path

    def show(self, name: str, tree: Path) -> str:
        """Show a tree under this name from now on; the answer is its URL."""
        new = self.window / f".{name}"
        new.symlink_to(tree)
        new.rename(self.window / name)
        return f"{self.web.url}/{name}"

    def fetched(self, name: str) -> set[str]:
        """The file names that were fetched from there so far, with their serials."""
        lines = [line.split('"') for line in self.web.log.read_text().splitlines()]
        paths = [line[1].split()[1] for line in lines if line[2].split()[0] == "200"]
        return {"/".join(path.split("/")[-2:]) for path in paths if path.startswith(f"/{name}/images/")}


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory, key: Key) -> list[Path]:
    """What the world saw after each of three publications: of one image, of two, of the third alone."""
    base, found = tmp_path_factory.mktemp("trees"), []
    with standin.serve(Controller(base / "jenkins")) as running:
        matrix(running.ci, PRODUCT, LXDS)
        for keep in (3, 3, 1):
            site = Site(base, running, key, lines=f"keep = {keep}", more=SETTINGS)
            site.configure()
            content = {PRODUCT: machine(PRODUCT), LXDS: files(LXDS, kinds=("container", "vm"))}
            build(running.ci, PRODUCT, LXDS, content=content)
            site.publish()
            found.append(site.latest.resolve())
    assert [len(serials(tree)) for tree in found] == [1, 2, 1]
    return found


@pytest.fixture(scope="module")
def unified(tmp_path_factory: pytest.TempPathFactory, key: Key) -> Path:
    """A published container that is one file."""
    base = tmp_path_factory.mktemp("unified")
    with standin.serve(Controller(base / "jenkins")) as running:
        matrix(running.ci, PRODUCT)
        build(running.ci, PRODUCT, content={PRODUCT: unified_machine(PRODUCT)})
        site = Site(base, running, key)
        site.publish()
        return site.latest.resolve()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    window = tmp_path_factory.mktemp("window")
    with nginx(window, tmp_path_factory.mktemp("web")) as web:
        yield Shop(web, window)


@pytest.fixture(scope="module", params=["incus", "lxd"])
def started(request: pytest.FixtureRequest, shop: Shop) -> Iterator[Daemon]:
    with daemons.running(request.param, shop.web.ca) as daemon:
        yield daemon


@pytest.fixture
def daemon(started: Daemon) -> Iterator[Daemon]:
    """A daemon that has no images and knows no server."""
    yield started
    started.clear()


@pytest.fixture
def name(request: pytest.FixtureRequest, daemon: Daemon) -> str:
    """Where this test's tree is shown."""
    return f"{request.node.originalname}-{daemon.name}"


def versions(tree: Path, product: str = PRODUCT) -> dict[str, Any]:
    streams = json.loads((tree / "streams/v1/images.json").read_bytes())
    return streams["products"][product.replace("/", ":")]["versions"]


def serials(tree: Path, product: str = PRODUCT) -> list[str]:
    return sorted(versions(tree, product))


def fingerprint(
    daemon: Daemon, tree: Path, serial: str, root: str = "rootfs.squashfs", product: str = PRODUCT
) -> str:
    """What the index says that the daemon must come to."""
    items = versions(tree, product)[serial]["items"].values()
    (item,) = [item for item in items if item["ftype"] == METADATA[daemon.name]]
    return item[COMBINED[root]]


@pytest.mark.parametrize("root", ["rootfs.squashfs", "disk.qcow2"])
def test_daemon_copies_an_image_by_alias(
    root: str, daemon: Daemon, shop: Shop, name: str, trees: list[Path]
) -> None:
    daemon.follow(shop.show(f"{name}-{root}", trees[0]))
    vm = root == "disk.qcow2"
    daemon.copy("tiny/1", vm=vm)
    (serial,) = serials(trees[0])
    wanted = fingerprint(daemon, trees[0], serial, root)
    assert daemon.images() == {wanted: "virtual-machine" if vm else "container"}
    assert shop.fetched(f"{name}-{root}") == {f"{serial}/incus.tar.xz", f"{serial}/{root}"}


def test_daemon_copies_a_tarball_by_fingerprint(
    daemon: Daemon, shop: Shop, name: str, trees: list[Path]
) -> None:
    daemon.follow(shop.show(name, trees[0]))
    (serial,) = serials(trees[0])
    wanted = fingerprint(daemon, trees[0], serial, "rootfs.tar.xz")
    daemon.copy(wanted)
    assert daemon.images() == {wanted: "container"}
    assert shop.fetched(name) == {f"{serial}/incus.tar.xz", f"{serial}/rootfs.tar.xz"}


def test_daemon_does_what_the_page_says(
    daemon: Daemon, shop: Shop, name: str, trees: list[Path], tmp_path: Path
) -> None:
    """The lines as they are copied from a browser; a virtual machine would take a kernel that has KVM."""
    with chromium(tmp_path) as browser:
        browser.open(f"{shop.show(name, trees[1])}/", width=1280)
        found = [line.split(" ") for line in lines(browser)]
    command = daemons.DAEMONS[daemon.name][0]
    add, launch = (
        words for words in found if words[0] == command and "/2/" not in words[2] and "--vm" not in words
    )
    daemon(*add[1:])
    daemon(*launch[1:])
    (instance,) = json.loads(daemon("list", "--format=json"))
    assert daemon("exec", instance["name"], "--", "cat", "/etc/serial") == f"{serials(trees[1])[-1]}\n"
    daemon("remote", "remove", "imagepress")


@pytest.mark.parametrize("started", ["incus"], indirect=True)
def test_incus_takes_the_line_of_a_machine_that_needs_a_disk(
    daemon: Daemon, shop: Shop, name: str, trees: list[Path], tmp_path: Path
) -> None:
    """Up to what takes KVM; after that every command finds only that there is no such machine. Not LXD 5.0, which
    knows neither the disk nor that anything needs it.
    """
    with chromium(tmp_path) as browser:
        browser.open(f"{shop.show(name, trees[1])}/", width=1280)
        found = lines(browser)
    (add,) = (one for one in found if one.startswith("incus remote add "))
    (line,) = (one for one in found if "agent:config" in one)
    daemon(*add.split()[1:])
    wanted = fingerprint(daemon, trees[1], serials(trees[1])[-1], "disk.qcow2")
    create, device, start = (one.removeprefix("incus ").split(" ") for one in line.split(" && "))
    for words, refused in (
        (create, '"virtual-machine" is not supported on this server'),
        (device, "Instance not found"),
        (start, "Instance not found"),
    ):
        with suppress_only(refused):
            daemon(*words)
    assert daemon.images() == {wanted: "virtual-machine"}
    *_, disk, kind, source = device
    daemon("profile", "device", "add", "default", disk, kind, source)  # the daemon knows such a disk
    daemon("profile", "device", "remove", "default", disk)
    # It cannot be added at launch.
    with pytest.raises(clients.ClientFailed, match="Device not found in profile devices"):
        daemon("launch", *create[1:], "-d", f"{disk},type={kind},{source}")
    daemon("remote", "remove", "imagepress")


@contextmanager
def suppress_only(refused: str) -> Iterator[None]:
    """What no daemon here can do for want of KVM may fail, but for that reason alone."""
    try:
        yield
    except clients.ClientFailed as failed:
        assert refused in failed.errors


def test_daemon_starts_a_container(daemon: Daemon, shop: Shop, name: str, trees: list[Path]) -> None:
    daemon.follow(shop.show(name, trees[1]))
    daemon("launch", "pub:tiny/1", "c0")
    newest = serials(trees[1])[-1]
    assert daemon("exec", "c0", "--", "cat", "/etc/serial", "/etc/hostname") == f"{newest}\nc0\n"
    daemon("delete", "--force", "c0")
    assert json.loads(daemon("list", "--format=json")) == []


def test_daemon_starts_a_unified_container(daemon: Daemon, shop: Shop, name: str, unified: Path) -> None:
    daemon.follow(shop.show(name, unified))
    daemon("launch", "pub:tiny/1", "c0")
    (serial,) = serials(unified)
    assert daemon("exec", "c0", "--", "cat", "/etc/serial", "/etc/hostname") == f"{serial}\nc0\n"
    file = unified / f"images/{PRODUCT}/{serial}/incus_combined.tar.gz"
    assert daemon.images() == {digest(file.read_bytes()): "container"}
    assert shop.fetched(name) == {f"{serial}/incus_combined.tar.gz"}


def test_daemon_sees_a_republication_when_its_index_is_old(
    daemon: Daemon, shop: Shop, name: str, trees: list[Path]
) -> None:
    first, last = trees[0], trees[2]
    (before,), (after,) = serials(first), serials(last)
    daemon.follow(shop.show(name, first))
    daemon.copy("tiny/1", vm=True)  # now it has the index
    shop.show(name, last)  # where the old serial is listed no more
    daemon.copy("tiny/1")
    old, new = fingerprint(daemon, first, before), fingerprint(daemon, last, after)
    assert (old in daemon.images(), new in daemon.images()) == (True, False)
    daemon.forget()
    daemon.copy("tiny/1")
    assert new in daemon.images()


def test_daemon_refreshes_an_image_by_itself(
    daemon: Daemon, shop: Shop, name: str, trees: list[Path]
) -> None:
    daemon.follow(shop.show(name, trees[0]))
    daemon("image", "copy", "pub:tiny/1", "local:", "--auto-update")
    shop.show(name, trees[2])
    daemon.forget()
    (old,) = daemon.images()
    daemon("image", "refresh", old)
    (new,) = serials(trees[2])
    assert daemon.images() == {fingerprint(daemon, trees[2], new): "container"}


def test_daemon_updates_by_delta(daemon: Daemon, shop: Shop, name: str, trees: list[Path]) -> None:
    daemon.follow(shop.show(name, trees[0]))
    daemon.copy("tiny/1")
    before, after = serials(trees[1])
    shop.show(name, trees[1])
    daemon.forget()
    seen = shop.fetched(name)
    daemon.copy("tiny/1")
    assert fingerprint(daemon, trees[1], after) in daemon.images()
    assert shop.fetched(name) - seen == {f"{after}/incus.tar.xz", f"{after}/delta-{before}.vcdiff"}


def test_a_containers_delta_is_not_tried_on_a_virtual_machine(
    daemon: Daemon, shop: Shop, name: str, trees: list[Path]
) -> None:
    daemon.follow(shop.show(name, trees[0]))
    daemon.copy("tiny/1")
    _, after = serials(trees[1])
    shop.show(name, trees[1])
    daemon.forget()
    seen = shop.fetched(name)
    daemon.copy("tiny/1", vm=True)
    assert daemon.images()[fingerprint(daemon, trees[1], after, "disk.qcow2")] == "virtual-machine"
    assert shop.fetched(name) - seen == {f"{after}/incus.tar.xz", f"{after}/disk.qcow2"}


@pytest.mark.parametrize("started", ["lxd"], indirect=True)
def test_lxd_is_not_misled_by_the_delta_of_a_disk(
    daemon: Daemon, shop: Shop, name: str, trees: list[Path]
) -> None:
    before, after = serials(trees[1], LXDS)
    assert f"disk.{before}.qcow2.vcdiff" in versions(trees[1], LXDS)[after]["items"]
    daemon.follow(shop.show(name, trees[0]))
    for tree in trees[:2]:
        shop.show(name, tree)
        daemon.forget()
        daemon.copy("tiny/2")
        daemon.copy("tiny/2", vm=True)
    kinds = {"rootfs.squashfs": "container", "disk.qcow2": "virtual-machine"}
    assert daemon.images() == {
        fingerprint(daemon, trees[1], serial, root, LXDS): kinds[root]
        for serial in (before, after)
        for root in kinds
    }


def test_incus_itself_sees_a_republication_when_its_index_is_old(
    shop: Shop, trees: list[Path], tmp_path: Path
) -> None:
    (before,), (after,) = serials(trees[0]), serials(trees[2])
    url = shop.show("client", trees[0])
    remote = clients.incus(replace(shop.web, url=url), tmp_path)

    def seen() -> dict[str, str]:
        """Every squashfs: its fingerprint and serial."""
        found = [(image["fingerprint"], image["properties"]) for image in remote.images()]
        return {mark: says["serial"] for mark, says in found if says["type"] == "squashfs"}

    ((old, serial),) = seen().items()
    assert serial == before
    shop.show("client", trees[2])
    assert seen() == {old: before}
    assert remote.export("tiny/1", tmp_path / "old") == old
    shutil.rmtree(remote.env["INCUS_CACHE"])
    ((new, serial),) = seen().items()
    assert serial == after
    assert remote.export("tiny/1", tmp_path / "new") == new


def test_lxc_starts_the_container_that_it_made(shop: Shop, trees: list[Path], tmp_path: Path) -> None:
    web = replace(shop.web, url=shop.show("lxc", trees[1]))
    rootfs = clients.lxc_create(web, tmp_path, *PRODUCT.split("/"))
    said = clients.lxc_start(rootfs.parent, "cat", "/etc/serial", "/etc/hostname")
    assert said == f"{serials(trees[1])[-1]}\nc\n"
