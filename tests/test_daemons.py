"""The real daemons copy, update and start what was published; each image as its own client names it."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import daemons
import pytest
from busybox import machine
from daemons import Daemon
from servers import Web, nginx
from sites import Key, Site, build, matrix, wait_for

from jenkins import standin
from jenkins.controller import Controller

PRODUCT = "tiny/1/amd64/default"
METADATA = {"incus": "incus.tar.xz", "lxd": "lxd.tar.xz"}
COMBINED = {"container": "combined_squashfs_sha256", "virtual-machine": "combined_disk-kvm-img_sha256"}


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
        matrix(running.ci, PRODUCT)
        for keep in (3, 3, 1):
            site = Site(base, running, key, lines=f"keep = {keep}")
            site.configure()
            build(running.ci, PRODUCT, content={PRODUCT: machine(PRODUCT)})
            site.publish()
            found.append(site.latest.resolve())
    assert [len(serials(tree)) for tree in found] == [1, 2, 1]
    return found


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


def versions(tree: Path) -> dict[str, Any]:
    streams = json.loads((tree / "streams/v1/images.json").read_bytes())
    return streams["products"][PRODUCT.replace("/", ":")]["versions"]


def serials(tree: Path) -> list[str]:
    return sorted(versions(tree))


def fingerprint(daemon: Daemon, tree: Path, serial: str, kind: str = "container") -> str:
    """What the index says that the daemon must come to."""
    (item,) = [
        item for item in versions(tree)[serial]["items"].values() if item["ftype"] == METADATA[daemon.name]
    ]
    return item[COMBINED[kind]]


@pytest.mark.parametrize("kind", ["container", "virtual-machine"])
def test_daemon_copies_an_image_by_alias(
    kind: str, daemon: Daemon, shop: Shop, name: str, trees: list[Path]
) -> None:
    name = f"{name}-{kind}"
    daemon.follow(shop.show(name, trees[0]))
    daemon.copy("tiny/1", vm=kind == "virtual-machine")
    (serial,) = serials(trees[0])
    assert daemon.images() == {fingerprint(daemon, trees[0], serial, kind): kind}
    root = "rootfs.squashfs" if kind == "container" else "disk.qcow2"
    assert {one.partition("/")[2] for one in shop.fetched(name)} == {"incus.tar.xz", root}


def test_daemon_starts_a_container(daemon: Daemon, shop: Shop, name: str, trees: list[Path]) -> None:
    daemon.follow(shop.show(name, trees[1]))
    daemon("launch", "pub:tiny/1", "c0")
    newest = serials(trees[1])[-1]
    assert daemon("exec", "c0", "--", "cat", "/etc/serial", "/etc/hostname") == f"{newest}\nc0\n"
    daemon("delete", "--force", "c0")
    assert json.loads(daemon("list", "--format=json")) == []


def test_daemon_sees_a_republication_when_its_cache_is_old(
    daemon: Daemon, shop: Shop, name: str, trees: list[Path]
) -> None:
    first, second = trees[0], trees[2]
    (before,), (after,) = serials(first), serials(second)
    old, new = fingerprint(daemon, first, before), fingerprint(daemon, second, after)
    daemon.follow(shop.show(name, first))
    daemon.copy("tiny/1", vm=True)  # an index is cached now
    shop.show(name, second)  # where the old serial is listed no more
    daemon.copy(old)
    assert old in daemon.images()
    assert f"{before}/rootfs.squashfs" in shop.fetched(name)
    daemon.forget()
    daemon.copy("tiny/1")
    assert new in daemon.images()
