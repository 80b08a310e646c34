"""Unified images, from an artifact of any name to the clients that read them."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clients
import pytest
from servers import Web, nginx
from sites import Key, Site, build, files, matrix

from jenkins import standin
from jenkins.controller import Controller
from jenkins.samples import unified_tarball
from tasks.image import UNIFIED, UNIFIED_LXD, UNIFIED_VM
from tasks.sign import Sequoia
from tasks.tree import put_streams

BOX, PAIR, VM = "tiny/1/amd64/default", "tiny/2/amd64/default", "tiny/3/amd64/default"
PATTERNS = '[jenkins.artifacts]\nunified = "tiny-*.tar.xz"\nunified_lxd = "lxd-*"\nunified_vm = "vm-*"\n'
REMOTES = {"incus": clients.incus, "lxc": clients.lxc}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, key: Key) -> Iterator[tuple[Site, Web]]:
    """A container for both daemons, one for each, and a VM; nothing of them is split."""
    base = tmp_path_factory.mktemp("unified")
    with standin.serve(Controller(base / "jenkins")) as running:
        matrix(running.ci, BOX, PAIR, VM)
        for _ in range(2):
            content = {
                BOX: files(BOX, kinds=("unified",), lxd="same"),
                PAIR: files(PAIR, kinds=("unified",), lxd="differs"),
                VM: files(VM, kinds=("unified-vm",)),
            }
            build(running.ci, BOX, PAIR, VM, content=content)
            site = Site(base, running, key, more=PATTERNS)
            site.publish()
        with nginx(site.latest, base / "web") as web:
            yield site, web


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stored(site: Site, product: str, name: str) -> list[Path]:
    return sorted((site.latest / "images" / product).glob(f"*/{name}"))


def items(site: Site, product: str) -> dict[str, Any]:
    """The items of the newest version."""
    versions = site.products()[product.replace("/", ":")]["versions"]
    found: dict[str, Any] = versions[max(versions)]["items"]
    return found


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("incus", ((BOX, UNIFIED), (PAIR, UNIFIED), (VM, UNIFIED_VM))),
        ("lxc", ((BOX, UNIFIED), (PAIR, UNIFIED_LXD))),
    ],
)
def test_clients_list_and_export_the_file_by_its_own_sha256(
    name: str, ours: tuple[tuple[str, str], ...], served: tuple[Site, Web], tmp_path: Path
) -> None:
    site, web = served
    remote = REMOTES[name](web, tmp_path)
    files = {product: stored(site, product, file) for product, file in ours}
    assert all(len(paths) == 2 for paths in files.values())
    expected = sorted(sha256(path) for paths in files.values() for path in paths)
    assert sorted(image["fingerprint"] for image in remote.images()) == expected
    for product in (BOX, PAIR):
        alias, newest = product.removesuffix("/amd64/default"), files[product][-1]
        assert f"Fingerprint: {sha256(newest)}" in remote.info(alias)
        assert remote.export(alias, tmp_path / alias) == sha256(newest)
        assert [path.name for path in (tmp_path / alias).iterdir()] == ["image.tar.gz"]  # and no root beside


def test_the_parser_of_incus_finds_every_file(served: tuple[Site, Web]) -> None:
    site, _ = served
    clients.incus_simplestreams(site.latest, "verify")
    listed = json.loads(clients.incus_simplestreams(site.latest, "list"))
    assert len(listed) == 6


def test_equal_files_are_stored_once_and_listed_for_both(served: tuple[Site, Web]) -> None:
    site, _ = served
    found = items(site, BOX)
    assert found.keys() == {"incus_combined.tar.gz", "lxd_combined.tar.gz"}
    assert len({one["path"] for one in found.values()}) == 1
    assert not stored(site, BOX, UNIFIED_LXD)
    assert stored(site, PAIR, UNIFIED_LXD)


def test_what_is_served_verifies_and_the_ledger_can_be_made_again(served: tuple[Site, Web]) -> None:
    site, _ = served
    done = site.doit("verify")
    assert done.code == 0, done.out
    assert "6 images" in done.out
    done = site.doit("rebuild")
    assert (done.code, "set aside" in done.out) == (0, False), done.out
    assert "nothing changed" in site.publish().out
    rows = json.loads(site.doit("status", "--json").out)["products"]
    assert [row["kinds"] for row in rows] == [["container"], ["container"], ["VM"]]


def test_a_damaged_one_is_named(site: Site) -> None:
    matrix(site.ci, BOX)
    build(site.ci, BOX, content={BOX: files(BOX, kinds=("unified",))})
    site.more = PATTERNS
    site.publish()
    (path,) = stored(site, BOX, UNIFIED)
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    assert f"{UNIFIED}: has another sha256" in site.doit("verify").out


@pytest.mark.parametrize(
    ("product", "name", "change"),
    [
        (VM, "incus_combined.vm.tar.gz", {"combined_type": "container"}),
        (BOX, "incus_combined.tar.gz", {"combined_type": "virtual-machine"}),
        (BOX, "lxd_combined.tar.gz", {"sha256": "0" * 64}),
    ],
)
def test_what_the_streams_say_of_one_is_held_against_it(
    product: str, name: str, change: dict[str, str], site: Site
) -> None:
    matrix(site.ci, BOX, VM)
    content = {BOX: files(BOX, kinds=("unified",)), VM: files(VM, kinds=("unified-vm",))}
    build(site.ci, BOX, VM, content=content)
    site.more = PATTERNS
    site.publish()
    document = site.json("streams/v1/images.json")
    (version,) = document["products"][product.replace("/", ":")]["versions"].values()
    version["items"][name] |= change
    put_streams(site.latest, document, Sequoia(site.key.secret, ""))
    done = site.doit("verify")
    assert done.code == 1
    (said,) = [line for line in done.out.splitlines() if f" {name}: " in line]
    assert said.startswith(f"streams/v1/images.json: {product.replace('/', ':')} ")
    assert ("combined_type is not that of" if "sha256" not in change else "names another sha256") in said


def test_a_unified_vm_beside_containers_waits_unlisted(site: Site) -> None:
    """A client that takes it for a container would launch it by the container's alias."""
    matrix(site.ci, BOX)
    build(site.ci, BOX, content={BOX: files(BOX, kinds=("container", "unified-vm"))})
    site.more = PATTERNS
    note = "unified VMs of products with containers are not listed"
    done = site.publish()
    assert note in done.out
    assert items(site, BOX).keys() == {"incus.tar.xz", "lxd.tar.xz", "root.squashfs"}
    assert stored(site, BOX, UNIFIED_VM)
    build(site.ci, BOX, content={BOX: files(BOX, kinds=("unified-vm",))})  # a newer one alone: no different
    assert note in site.publish().out
    assert items(site, BOX).keys() == {"incus.tar.xz", "lxd.tar.xz", "root.squashfs"}
    assert "nothing changed" in site.publish().out
    assert site.doit("verify").code == 0


def test_a_vm_for_lxd_alone_is_shown_to_nobody_and_that_is_said(site: Site) -> None:
    matrix(site.ci, BOX)
    build(site.ci, BOX, content={BOX: files(BOX, kinds=("unified-vm",))})
    site.more = PATTERNS + f'[[rules]]\nmatch = "{BOX}"\nclients = ["lxd"]\n'
    assert f"; nobody is shown {BOX}" in site.publish().out


def test_a_vm_that_is_not_listed_repeats_no_fingerprint(site: Site) -> None:
    """Its container is new, and nothing else of it is shown."""
    matrix(site.ci, BOX)
    site.more = PATTERNS
    vm: dict[str, bytes] = {}
    for _ in range(2):
        made = files(BOX, kinds=("container", "unified-vm"))
        vm = vm or {name: body for name, body in made.items() if name.startswith("vm-")}
        build(site.ci, BOX, content={BOX: {n: b for n, b in made.items() if not n.startswith("vm-")} | vm})
        said = site.publish().out
    assert "repeats a fingerprint" not in said
    assert len(site.products()["tiny:1:amd64:default"]["versions"]) == 2


def test_a_unified_vm_whose_alias_is_anothers_container_is_held(site: Site) -> None:
    """Two products with one alias: for clients of before May 2026 both have a container of that name."""
    other = "tiny/4/amd64/default"
    matrix(site.ci, BOX, other)
    build(site.ci, BOX, content={BOX: files(BOX)})
    site.more = PATTERNS + '[[rules]]\nmatch = "tiny/4"\naliases = ["tiny/1"]\n'
    site.publish()
    build(site.ci, other, content={other: files(other, kinds=("unified-vm",))})
    done = site.publish(code=1)
    assert f"{other}: in quarantine: the alias 'tiny/1/default' belongs to tiny:1:amd64:default" in done.out


def test_what_is_not_what_the_pattern_says_is_rejected_until_the_pattern_changes(site: Site) -> None:
    matrix(site.ci, BOX)
    build(site.ci, BOX, content={BOX: files(BOX, kinds=("unified-vm",))})
    site.more = '[jenkins.artifacts]\nunified = "*.tar.xz"\n'
    said = f"rejected: {UNIFIED} is no unified container: it holds rootfs.img; see jenkins.artifacts"
    assert said in site.publish(code=1).out
    site.server.clear()
    assert said in site.publish(code=1).out
    assert not [record for record in site.server.requests if "/artifact/" in record.path]
    site.more = '[jenkins.artifacts]\nunified_vm = "*.tar.xz"\n'
    site.configure()
    site.publish()
    assert items(site, BOX).keys() == {UNIFIED_VM}


def test_a_name_that_says_it_all_needs_no_pattern(site: Site) -> None:
    matrix(site.ci, BOX)
    content = {**files(BOX, kinds=()), UNIFIED: image_of(BOX), "tiny-1.tar.xz": b"not asked for"}
    build(site.ci, BOX, content={BOX: content})
    site.publish()
    assert items(site, BOX).keys() == {"incus_combined.tar.gz", "lxd_combined.tar.gz"}


def image_of(product: str) -> bytes:
    os, release, arch, variant = product.split("/")
    return unified_tarball(os=os, release=release, arch=arch, variant=variant, serial="20260101_00:00")


def test_patterns_hold_for_the_products_of_a_pipeline_too(site: Site) -> None:
    job = site.ci.freestyle("image-tiny")
    found = {}
    for release in ("1", "2"):
        content = files(f"tiny/{release}/amd64/default", kinds=("unified",))
        found |= {f"out/{release}/{name}": body for name, body in content.items()}
    job.build(files=found)
    site.jenkins, site.more = 'path = "out/{release}/{file}"', PATTERNS
    site.publish()
    assert site.products().keys() == {"tiny:1:amd64:default", "tiny:2:amd64:default"}
    assert items(site, BOX).keys() == {"incus_combined.tar.gz", "lxd_combined.tar.gz"}
