"""What clients would stumble over is found, and laid to the product that is to blame."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from test_streams import CONTAINER, EVERYTHING, LXC, VM, content, image, images_of, serial

from tasks.catalogue import catalogue
from tasks.image import DISK, INCUS, LXD, SQUASHFS, UNIFIED, UNIFIED_LXD, UNIFIED_VM, Image
from tasks.lxcindex import indexes
from tasks.proof import prove_lxc, prove_streams
from tasks.schema import Fault
from tasks.settings import Rule
from tasks.streams import images_json, index_json, text

INDEX, IMAGES = "streams/v1/index.json", "streams/v1/images.json"
TINY, ARM, HUGE = "tiny:1:amd64:default", "tiny:1:arm64:default", "huge:2:amd64:cloud"
OLD, NEW = "20260101_00:00", "20260102_00:00"
GOOD = images_of(
    {"tiny/1/amd64/default": EVERYTHING, "tiny/1/arm64/default": CONTAINER, "huge/2/amd64/cloud": VM},
    (OLD, NEW),
)
UNREADABLE = "which makes the whole list unreadable"


@dataclass
class Tree:
    """What a client would fetch: the documents, and how large each file is."""

    images: tuple[Image, ...] = GOOD
    rules: tuple[Rule, ...] = ()
    files: dict[str, bytes | None] = field(default_factory=dict)  # instead of the documents

    def __post_init__(self) -> None:
        self.list: Any = json.loads(text(images_json(self.images, self.rules)))
        self.index: Any = json.loads(text(index_json(self.list["products"])))
        self.sizes: dict[str, int] = {
            f"{one.path}/{name}": file.size for one in self.images for name, file in one.files.items()
        }

    def product(self, key: str = TINY) -> Any:
        return self.list["products"][key]

    def items(self, serial: str = NEW, key: str = TINY) -> Any:
        return self.product(key)["versions"][serial]["items"]

    def prove(self, client: str = "incus", **options: Any) -> list[Fault]:
        documents = {INDEX: json.dumps(self.index).encode(), IMAGES: json.dumps(self.list).encode()}
        return list(prove_streams((documents | self.files).get, self.sizes.get, client, **options))

    def faults(self, client: str = "incus", **options: Any) -> list[str]:
        return [str(fault) for fault in self.prove(client, **options)]


CLIENTS = pytest.mark.parametrize("client", ["incus", "lxd"])


# What is good


@CLIENTS
@pytest.mark.parametrize(
    "tree",
    [
        pytest.param(Tree(), id="everything"),
        pytest.param(Tree(images=()), id="nothing"),
        pytest.param(Tree(images_of({"a/1/amd64/x": LXC})), id="for LXC alone"),
        pytest.param(Tree(images_of({"a/1/amd64/x": (LXD, SQUASHFS)})), id="metadata of LXD alone"),
        pytest.param(Tree(images_of({"a/1/amd64/x": (INCUS, LXD, SQUASHFS, DISK)})), id="metadata of each"),
        pytest.param(Tree(images_of({"a/1/amd64/x": (UNIFIED,)}, (OLD, NEW))), id="unified"),
        pytest.param(
            Tree(images_of({"a/1/amd64/x": (UNIFIED, UNIFIED_LXD, INCUS, SQUASHFS)})), id="unified and split"
        ),
        pytest.param(
            Tree(images_of({"a/1/amd64/x": (UNIFIED_VM,), "b/1/amd64/x": (UNIFIED,)})), id="a unified VM"
        ),
        pytest.param(Tree(rules=(Rule(match="*", clients=("incus",)),)), id="not for LXD"),
        pytest.param(Tree(rules=(Rule(match="*", clients=()),)), id="for neither"),
        pytest.param(
            Tree(rules=(Rule(match="*", requirements={"secureboot": "false"}, lxd_requirements={"a": ""}),)),
            id="requirements",
        ),
        pytest.param(
            Tree(images_of({f"a/1/{arch}/x": CONTAINER for arch in ("amd64", "i386", "armhf", "loong64")})),
            id="architectures",
        ),
        pytest.param(
            Tree((image(serial=OLD), image(serial=NEW, like=OLD))),
            id="a fingerprint twice, one of them listed",
        ),
    ],
)
def test_what_we_write_is_good(tree: Tree, client: str) -> None:
    assert tree.faults(client) == []


# What damages it


def set_aliases(value: object, key: str = TINY) -> Callable[[Tree], None]:
    return lambda tree: tree.product(key).update(aliases=value)


def set_product(field: str, value: object) -> Callable[[Tree], None]:
    return lambda tree: tree.product().update({field: value})


def set_item(name: str, field: str, value: object) -> Callable[[Tree], None]:
    return lambda tree: tree.items()[name].update({field: value})


def drop_item(name: str, field: str) -> Callable[[Tree], None]:
    def damage(tree: Tree) -> None:
        del tree.items()[name][field]

    return damage


def move_version(serial: str) -> Callable[[Tree], None]:
    def damage(tree: Tree) -> None:
        versions = tree.product()["versions"]
        versions[serial] = versions.pop(NEW)

    return damage


def squashfs(size: int | None) -> Callable[[Tree], None]:
    """Another size on disk, or none."""

    def damage(tree: Tree) -> None:
        path = f"{PATH}/{SQUASHFS}"
        if size is None:
            del tree.sizes[path]
        else:
            tree.sizes[path] = size

    return damage


PATH = f"images/tiny/1/amd64/default/{NEW}"
ROOT = f"{TINY}: {NEW} root.squashfs"
SIZE = len(content("tiny/1/amd64/default", NEW, SQUASHFS))


@CLIENTS
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        pytest.param(set_aliases(["tiny/1"]), f"{TINY}: aliases is no string, {UNREADABLE}", id="aliases: list"),
        pytest.param(
            set_aliases("tiny/1, tiny"),
            f"{TINY}: aliases 'tiny/1, tiny' hold a blank or an empty name, which clients keep",
            id="aliases: blank",
        ),
        pytest.param(
            set_aliases("tiny/1,tiny "),
            f"{TINY}: aliases 'tiny/1,tiny ' hold a blank or an empty name, which clients keep",
            id="aliases: blank at the end",
        ),
        pytest.param(
            set_aliases("tiny/1,,tiny"),
            f"{TINY}: aliases 'tiny/1,,tiny' hold a blank or an empty name, which clients keep",
            id="aliases: empty name",
        ),
        pytest.param(
            set_aliases("tiny/1,"),
            f"{TINY}: aliases 'tiny/1,' hold a blank or an empty name, which clients keep",
            id="aliases: comma at the end",
        ),
        *(
            pytest.param(set_product(name, 1), f"{TINY}: {name} is no string, {UNREADABLE}", id=f"{name}: number")
            for name in ("os", "release", "release_title", "variant", "version", "support_eol")
        ),
        *(
            pytest.param(
                set_product("support_eol", day),
                f"{TINY}: support_eol {day!r} is no YYYY-MM-DD: clients overlook it",
                id=f"support_eol: {day}",
            )
            for day in ("1903737600", "2030-02-30", "20300430")
        ),
        pytest.param(
            set_product("requirements", {"secureboot": False}),
            f"{TINY}: requirements must map strings to strings, else the whole list is unreadable",
            id="requirements: bool",
        ),
        pytest.param(
            set_product("requirements", ["secureboot"]),
            f"{TINY}: requirements must map strings to strings, else the whole list is unreadable",
            id="requirements: list",
        ),
        pytest.param(
            set_product("lxd_requirements", {"a": "b", "secureboot": 0}),
            f"{TINY}: lxd_requirements must map strings to strings, else the whole list is unreadable",
            id="lxd_requirements: number",
        ),
        pytest.param(
            set_product("arch", "amd65"), f"{TINY}: no client knows the architecture 'amd65'", id="arch: unknown"
        ),
        pytest.param(
            set_product("arch", 64),
            [f"{TINY}: arch is no string, {UNREADABLE}", f"{TINY}: no client knows the architecture 64"],
            id="arch: number",
        ),
        pytest.param(
            lambda tree: tree.product().pop("arch"), f"{TINY}: no client knows the architecture None", id="arch: none"
        ),
        *(
            pytest.param(
                move_version(serial),
                f"{TINY}: the version {serial!r} does not begin with a date: no client lists it",
                id=f"version: {serial!r}",
            )
            for serial in ("2026112", "202611 2", "２０２６0102", "", "latest", "2026_01_02", "20261301_00:00", "20260230_00:00", "2026010", "x20260102")
        ),
        pytest.param(set_item("root.squashfs", "size", "4"), [f"{ROOT}: size is no integer, {UNREADABLE}", f"{ROOT}: {PATH}/{SQUASHFS} has {SIZE} bytes, not 4"], id="size: string"),
        pytest.param(set_item("root.squashfs", "size", float(SIZE)), f"{ROOT}: size is no integer, {UNREADABLE}", id="size: float"),
        pytest.param(set_item("root.squashfs", "size", True), [f"{ROOT}: size is no integer, {UNREADABLE}", f"{ROOT}: {PATH}/{SQUASHFS} has {SIZE} bytes, not True"], id="size: bool"),
        pytest.param(drop_item("root.squashfs", "size"), [f"{ROOT}: size is no integer, {UNREADABLE}", f"{ROOT}: {PATH}/{SQUASHFS} has {SIZE} bytes, not None"], id="size: none"),
        pytest.param(squashfs(SIZE + 1), f"{ROOT}: {PATH}/{SQUASHFS} has {SIZE + 1} bytes, not {SIZE}", id="size: too small"),
        pytest.param(squashfs(0), f"{ROOT}: {PATH}/{SQUASHFS} has 0 bytes, not {SIZE}", id="size: an empty file"),
        pytest.param(squashfs(None), f"{ROOT}: {PATH}/{SQUASHFS} does not exist", id="file: missing"),
        pytest.param(set_item("root.squashfs", "path", f"/{PATH}/{SQUASHFS}"), f"{ROOT}: path '/{PATH}/{SQUASHFS}' is not a plain relative one", id="path: absolute"),
        pytest.param(set_item("root.squashfs", "path", f"x/../{PATH}/{SQUASHFS}"), f"{ROOT}: path 'x/../{PATH}/{SQUASHFS}' is not a plain relative one", id="path: up"),
        pytest.param(set_item("root.squashfs", "path", f"https://x/{PATH}"), f"{ROOT}: https://x/{PATH} does not exist", id="path: a URL"),
        pytest.param(set_item("root.squashfs", "path", ""), f"{ROOT}:  does not exist", id="path: empty"),
        pytest.param(drop_item("root.squashfs", "path"), f"{ROOT}: path None is not a plain relative one", id="path: none"),
        pytest.param(set_item("root.squashfs", "path", 1), f"{ROOT}: path 1 is not a plain relative one", id="path: number"),
        pytest.param(set_item("root.squashfs", "sha256", "A" * 64), f"{ROOT}: has no sha256", id="sha256: upper case"),
        pytest.param(set_item("root.squashfs", "sha256", "a" * 63), f"{ROOT}: has no sha256", id="sha256: short"),
        pytest.param(set_item("root.squashfs", "sha256", ""), f"{ROOT}: has no sha256", id="sha256: empty"),
        pytest.param(drop_item("root.squashfs", "sha256"), f"{ROOT}: has no sha256", id="sha256: none"),
        pytest.param(drop_item("root.squashfs", "ftype"), f"{ROOT}: has no ftype", id="ftype: none"),
        pytest.param(set_item("root.squashfs", "ftype", "root.squashfs"), f"{ROOT}: no client knows the ftype 'root.squashfs'", id="ftype: unknown"),
        pytest.param(set_item("incus.tar.xz", "md5", 1), f"{TINY}: {NEW} incus.tar.xz: md5 is no string, {UNREADABLE}", id="md5: number"),
        pytest.param(set_item("root.squashfs", "delta_base", 1), f"{ROOT}: delta_base is no string, {UNREADABLE}", id="delta_base: number"),
        pytest.param(set_item("lxd.tar.xz", "combined_sha256", 1), f"{TINY}: {NEW} lxd.tar.xz: combined_sha256 is no string, {UNREADABLE}", id="combined hash: number"),
        pytest.param(set_product("release_codename", 1), f"{TINY}: release_codename is no string, {UNREADABLE}", id="release_codename: number"),
        pytest.param(set_product("versions", []), f"{TINY}: versions is no object of objects, {UNREADABLE}", id="versions: list"),
        pytest.param(set_product("versions", {NEW: []}), f"{TINY}: versions is no object of objects, {UNREADABLE}", id="version: list"),
        pytest.param(lambda tree: tree.product()["versions"][NEW].update(items=[]), f"{TINY}: {NEW}: items is no object of objects, {UNREADABLE}", id="items: list"),
        pytest.param(lambda tree: tree.items().update(x="y"), [f"{TINY}: {NEW}: items is no object of objects, {UNREADABLE}", f"{TINY}: {NEW} x: has no ftype", f"{TINY}: {NEW} x: size is no integer, {UNREADABLE}", f"{TINY}: {NEW} x: has no sha256", f"{TINY}: {NEW} x: path None is not a plain relative one"], id="item: string"),
        pytest.param(lambda tree: tree.product()["versions"][NEW].update(label=1), f"{TINY}: {NEW}: label is no string, {UNREADABLE}", id="label: number"),
        pytest.param(lambda tree: tree.list.update(products=[]), [f"{IMAGES}: products is no object of objects, {UNREADABLE}", f"index.json names other products than {IMAGES} has"], id="products: list"),
        pytest.param(lambda tree: tree.list.update(content_id=1), f"{IMAGES}: content_id is no string, {UNREADABLE}", id="content_id: number"),
        pytest.param(lambda tree: tree.index.update(format=1.0), f"index.json: format is no string, {UNREADABLE}", id="format: number"),
        pytest.param(lambda tree: tree.index.update(index=[]), f"index.json: index is no object of objects, {UNREADABLE}", id="index: list"),
        pytest.param(lambda tree: tree.index["index"]["images"].update(products=[]), f"index.json names other products than {IMAGES} has", id="an empty list hides all products"),
        pytest.param(lambda tree: tree.index["index"]["images"]["products"].pop(), f"index.json names other products than {IMAGES} has", id="a product not named"),
        pytest.param(set_item("root.squashfs", "ftype", 1), f"{ROOT}: has no ftype", id="ftype: number"),
    ],
)  # fmt: skip
def test_damage_that_every_client_sees(
    damage: Callable[[Tree], None], expected: str | list[str], client: str
) -> None:
    tree = Tree()
    damage(tree)
    assert tree.faults(client) == ([expected] if isinstance(expected, str) else expected)


@CLIENTS
@pytest.mark.parametrize(
    ("root", "keys", "named"),
    [
        ("root.squashfs", ["combined_squashfs_sha256"], "combined_squashfs_sha256"),
        ("disk.qcow2", ["combined_disk-kvm-img_sha256"], "combined_disk-kvm-img_sha256"),
        ("root.tar.xz", ["combined_rootxz_sha256", "combined_sha256"], "combined_rootxz_sha256"),
    ],
)
@pytest.mark.parametrize("value", [None, "", "a" * 63, "A" * 64], ids=repr)
def test_a_combined_hash_that_is_not_there(
    root: str, keys: list[str], named: str, value: object, client: str
) -> None:
    """Seen by the client whose metadata lacks it, and by no other."""
    tree, other = Tree(), {"incus": "lxd", "lxd": "incus"}[client]
    for key in keys:
        del tree.items()[f"{client}.tar.xz"][key]
        if value is not None:
            tree.items()[f"{client}.tar.xz"][key] = value
    assert tree.faults(client) == [
        f"{TINY}: {NEW} {root}: {client}.tar.xz has no {named}: {client} does not list it"
    ]
    assert tree.faults(other) == []


def test_what_is_not_listed_is_not_looked_at_further() -> None:
    """Neither a version without a date, nor a root without its hash, repeats anything."""
    tree = Tree()
    move_version("latest")(tree)
    versions = tree.product()["versions"]
    versions["latest"]["items"] = versions[OLD]["items"] | {"x": {}}
    for one in (OLD, NEW):
        del tree.items(one, HUGE)["incus.tar.xz"]["combined_disk-kvm-img_sha256"]
    assert tree.faults() == [
        *(
            f"{HUGE}: {one} disk.qcow2: incus.tar.xz has no combined_disk-kvm-img_sha256: incus does not list it"
            for one in (OLD, NEW)
        ),
        f"{TINY}: the version 'latest' does not begin with a date: no client lists it",
    ]


@CLIENTS
@pytest.mark.parametrize("key", ["combined_rootxz_sha256", "combined_sha256"])
def test_one_of_the_two_names_of_a_combined_hash_is_enough(key: str, client: str) -> None:
    tree = Tree()
    del tree.items()[f"{client}.tar.xz"][key]
    assert tree.faults(client) == []


@CLIENTS
@pytest.mark.parametrize("ftype", ["uefi1.img", "disk1.img"])
def test_other_disks_need_their_own_combined_hash(ftype: str, client: str) -> None:
    tree = Tree()
    tree.items()["disk.qcow2"]["ftype"] = ftype
    key = f"combined_{ftype.replace('.', '-')}_sha256"
    assert tree.faults(client) == [
        f"{TINY}: {NEW} disk.qcow2: {client}.tar.xz has no {key}: {client} does not list it"
    ]
    metadata = tree.items()[f"{client}.tar.xz"]
    metadata[key] = metadata.pop("combined_disk-kvm-img_sha256")
    assert tree.faults(client) == []


WITH_DELTA = (*CONTAINER, DISK)


def based(ftype: str, base: object, clients: tuple[str, ...] = ("incus", "lxd")) -> Tree:
    """Two versions of a container and a disk, the newer with a delta."""
    images = images_of({"tiny/1/amd64/default": WITH_DELTA}, (OLD, NEW))
    tree = Tree(images, (Rule(match="*", clients=clients),))
    tree.items()["delta"] = {
        "ftype": ftype,
        "path": "delta",
        "size": 7,
        "sha256": "0" * 64,
        "delta_base": base,
    }
    tree.sizes["delta"] = 7
    return tree


@CLIENTS
def test_a_delta_of_a_listed_base_is_good(client: str) -> None:
    assert based("squashfs.vcdiff", OLD).faults(client) == []


def test_a_delta_of_a_disk_is_for_lxd_alone() -> None:
    assert based("disk-kvm.img.vcdiff", OLD, ("lxd",)).faults("lxd") == []
    assert based("disk-kvm.img.vcdiff", OLD, ("lxd",)).faults("incus") == []
    both = based("disk-kvm.img.vcdiff", OLD)
    assert both.faults("incus") == [f"{TINY}: {NEW} delta: Incus would apply it to a container"]


@CLIENTS
@pytest.mark.parametrize("base", ["20250101_00:00", None])
def test_a_delta_whose_base_is_not_listed(base: object, client: str) -> None:
    tree = based("squashfs.vcdiff", base)
    if base is None:
        del tree.items()["delta"]["delta_base"]
    (fault,) = tree.prove(client)
    assert str(fault) == f"{TINY}: {NEW} delta: its base {base!r} is not listed"
    assert fault.serial == NEW


@CLIENTS
@pytest.mark.parametrize("missing", ["root.squashfs", "{client}.tar.xz"])
def test_a_delta_whose_base_has_no_such_root(missing: str, client: str) -> None:
    tree = based("squashfs.vcdiff", OLD)
    del tree.items(OLD)[missing.format(client=client)]
    assert tree.faults(client) == [f"{TINY}: {NEW} delta: its base {OLD} has no squashfs for {client}"]


def test_every_fault_is_told() -> None:
    tree = Tree()
    set_aliases([])(tree)
    tree.items(OLD)["root.squashfs"]["sha256"] = ""
    tree.product(ARM)["arch"] = "arm65"
    tree.items(NEW, HUGE)["disk.qcow2"]["path"] = "/x"
    assert tree.faults() == [
        f"{HUGE}: {NEW} disk.qcow2: path '/x' is not a plain relative one",
        f"{TINY}: aliases is no string, {UNREADABLE}",
        f"{TINY}: {OLD} root.squashfs: has no sha256",
        f"{ARM}: no client knows the architecture 'arm65'",
    ]


def no_hash(tree: Tree) -> None:
    del tree.items()["incus.tar.xz"]["combined_squashfs_sha256"]


def twin(tree: Tree) -> None:
    marks = [tree.items(one, TINY)["incus.tar.xz"] for one in (OLD, NEW)]
    marks[1]["combined_squashfs_sha256"] = marks[0]["combined_squashfs_sha256"]


@pytest.mark.parametrize(
    ("damage", "blamed"),
    [
        (set_item("root.squashfs", "sha256", ""), (TINY, NEW)),
        (squashfs(None), (TINY, NEW)),
        (move_version("latest"), (TINY, "latest")),
        (no_hash, (TINY, NEW)),
        (twin, (TINY, NEW)),
        (set_aliases([]), (TINY, "")),
        (set_product("arch", "z80"), (TINY, "")),
        (set_product("requirements", {"a": True}), (TINY, "")),
        (lambda tree: tree.files.update({IMAGES: b""}), ("", "")),
        (lambda tree: tree.index["index"]["images"].update(path=""), ("", "")),
    ],
    ids=[
        "item",
        "file",
        "version",
        "hash",
        "fingerprint",
        "aliases",
        "arch",
        "requirements",
        "list",
        "index",
    ],
)
def test_a_fault_is_laid_to_as_little_as_may_be(
    damage: Callable[[Tree], None], blamed: tuple[str, str]
) -> None:
    """To one image, else to its product, else to nobody."""
    tree = Tree()
    damage(tree)
    assert {(fault.product, fault.serial) for fault in tree.prove()} == {blamed}


# Fingerprints


@CLIENTS
def test_a_fingerprint_in_two_versions(client: str) -> None:
    tree = Tree()
    first, second = (tree.items(one, ARM)[f"{client}.tar.xz"] for one in (OLD, NEW))
    second["combined_squashfs_sha256"] = first["combined_squashfs_sha256"]
    assert tree.faults(client) == [f"{ARM}: {NEW} repeats the fingerprint of {ARM} {OLD}"]


def test_a_fingerprint_in_two_products_of_two_kinds() -> None:
    tree = Tree()
    disk, root = tree.items(OLD, HUGE)["incus.tar.xz"], tree.items(NEW, ARM)["incus.tar.xz"]
    root["combined_squashfs_sha256"] = disk["combined_disk-kvm-img_sha256"]
    assert tree.faults("incus") == [f"{ARM}: {NEW} repeats the fingerprint of {HUGE} {OLD}"]
    assert tree.faults("lxd") == []


def test_a_fingerprint_three_times() -> None:
    tree = Tree()
    for key, one in ((TINY, OLD), (TINY, NEW), (ARM, OLD)):
        tree.items(one, key)["incus.tar.xz"]["combined_squashfs_sha256"] = "a" * 64
    assert tree.faults() == [
        f"{TINY}: {NEW} repeats the fingerprint of {TINY} {OLD}",
        f"{ARM}: {OLD} repeats the fingerprint of {TINY} {NEW}",
    ]


def test_metadata_of_one_client_that_stands_for_another_image() -> None:
    """What one client never lists cannot clash with what it does."""
    tree = Tree()
    mark = tree.items(OLD, TINY)["incus.tar.xz"]["combined_squashfs_sha256"]
    tree.items(OLD, ARM)["lxd.tar.xz"]["combined_squashfs_sha256"] = mark
    assert tree.faults("incus") == []
    assert tree.faults("lxd") == [f"{ARM}: {OLD} repeats the fingerprint of {TINY} {OLD}"]


# Aliases

NOBLE = {"ubuntu/24.04/amd64/default": CONTAINER, "ubuntu/noble/amd64/default": CONTAINER}


@CLIENTS
def test_an_alias_of_two_products(client: str) -> None:
    """The first in order keeps it; said once, not for every version."""
    tree = Tree(images_of(NOBLE, (OLD, NEW)), (Rule(match="ubuntu/noble", aliases=("ubuntu/24.04",)),))
    key, owner = "ubuntu:noble:amd64:default", "ubuntu:24.04:amd64:default"
    assert tree.faults(client) == [
        f"{key}: the alias 'ubuntu/24.04/default' belongs to {owner} already",
        f"{key}: the alias 'ubuntu/24.04' belongs to {owner} already",
    ]


@CLIENTS
@pytest.mark.parametrize(
    ("incumbents", "loser"),
    [
        pytest.param({}, "noble", id="two newcomers"),
        pytest.param({"ubuntu:noble:amd64:default": ["a", "x"]}, "24.04", id="the later one had it"),
        pytest.param({"ubuntu:24.04:amd64:default": ["x"]}, "noble", id="the first one had it"),
        pytest.param(
            {"ubuntu:24.04:amd64:default": ["x"], "ubuntu:noble:amd64:default": ["x"]},
            "noble",
            id="both had it",
        ),
        pytest.param(
            {"ubuntu:noble:amd64:default": ["y"], "other": ["x"]}, "noble", id="neither had this one"
        ),
    ],
)
def test_an_alias_stays_with_whom_the_world_knows_by_it(
    incumbents: dict[str, list[str]], loser: str, client: str
) -> None:
    tree = Tree(images_of(NOBLE, (OLD, NEW)))
    keys = [f"ubuntu:{release}:amd64:default" for release in ("24.04", "noble")]
    for key in keys:
        set_aliases("x", key)(tree)
    other, blamed = sorted(keys, key=lambda key: loser in key)
    assert tree.faults(client, incumbents=incumbents) == [
        f"{blamed}: the alias 'x' belongs to {other} already"
    ]


def other_arch(tree: Tree) -> None:
    set_aliases("x", TINY)(tree)
    set_aliases("x", ARM)(tree)


def other_kind(tree: Tree) -> None:
    """A VM and a container may share a name."""
    set_aliases("x", ARM)(tree)
    tree.product(ARM)["arch"] = "amd64"
    set_aliases("x", HUGE)(tree)


def same_kind(tree: Tree) -> None:
    set_aliases("x", TINY)(tree)
    set_aliases("x", HUGE)(tree)


def same_arch_by_another_name(tree: Tree) -> None:
    same_kind(tree)
    tree.product(TINY)["arch"] = "x86_64"


def same_kind_of_another_root(tree: Tree) -> None:
    """A tarball is a container as a squashfs is."""
    other_kind(tree)
    set_aliases("x", TINY)(tree)
    for one in (OLD, NEW):
        del tree.items(one, TINY)["root.squashfs"]
        del tree.items(one, TINY)["disk.qcow2"]


def retype_disks(tree: Tree, **ftypes: str) -> None:
    same_kind(tree)
    for key, ftype in ftypes.items():
        for one in (OLD, NEW):
            items = tree.items(one, {"tiny": TINY, "huge": HUGE}[key])
            mark = items["incus.tar.xz"].pop("combined_disk-kvm-img_sha256")
            items["incus.tar.xz"][f"combined_{ftype.replace('.', '-')}_sha256"] = mark
            items["disk.qcow2"]["ftype"] = ftype


def disks_of_two_ftypes(tree: Tree) -> None:
    retype_disks(tree, huge="uefi1.img")


def disks_of_two_other_ftypes(tree: Tree) -> None:
    retype_disks(tree, tiny="disk1.img", huge="uefi1.img")


def no_aliases(tree: Tree) -> None:
    """Clients take an empty text for none, too."""
    set_aliases("", TINY)(tree)
    set_aliases("", HUGE)(tree)
    tree.product(ARM).pop("aliases")
    tree.product(ARM)["arch"] = "amd64"


def an_alias_with_an_architecture(tree: Tree) -> None:
    """Clients add it to every alias themselves."""
    set_aliases("x", TINY)(tree)
    set_aliases("x/amd64", HUGE)(tree)


def within_one_product(tree: Tree) -> None:
    set_aliases("x,y,x", TINY)(tree)


def only_one_has_images(tree: Tree) -> None:
    same_kind(tree)
    tree.product(HUGE)["versions"] = {}


CLASH = f"{TINY}: the alias 'x' belongs to {HUGE} already"


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (other_arch, []),
        (other_kind, []),
        (within_one_product, []),
        (only_one_has_images, []),
        (no_aliases, []),
        (an_alias_with_an_architecture, [f"{TINY}: the alias 'x' belongs to {HUGE} already"]),
        (same_kind, [CLASH]),
        (same_kind_of_another_root, [f"{ARM}: the alias 'x' belongs to {TINY} already"]),
        (disks_of_two_ftypes, [CLASH]),
        (disks_of_two_other_ftypes, [CLASH]),
        (same_arch_by_another_name, [CLASH]),
    ],
)
def test_when_an_alias_is_contested(damage: Callable[[Tree], None], expected: list[str]) -> None:
    tree = Tree()
    damage(tree)
    assert tree.faults() == expected


def test_an_alias_of_two_products_for_different_clients() -> None:
    rules = (
        Rule(match="ubuntu/noble", aliases=("ubuntu/24.04",), clients=("lxd",)),
        Rule(match="ubuntu/24.04", clients=("incus",)),
    )
    tree = Tree(images_of(NOBLE), rules)
    assert tree.faults("incus") == []
    assert tree.faults("lxd") == []


# Documents


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({INDEX: None}, f"{INDEX} does not exist", id="no index"),
        pytest.param({IMAGES: None}, f"{IMAGES} does not exist", id="no list"),
        pytest.param({INDEX: b""}, f"{INDEX} is no JSON: Input data was truncated", id="empty index"),
        pytest.param({IMAGES: b'{"a": }'}, f"{IMAGES} is no JSON: JSON is malformed: invalid character (byte 6)", id="broken list"),
        pytest.param({IMAGES: b"\xff"}, f"{IMAGES} is no JSON: JSON is malformed: invalid character (byte 0)", id="no text"),
        pytest.param({INDEX: b"[]"}, f"{INDEX} holds no object", id="index: list"),
        pytest.param({IMAGES: b"null"}, f"{IMAGES} holds no object", id="list: null"),
    ],
)  # fmt: skip
def test_documents_that_cannot_be_read(files: dict[str, bytes | None], expected: str) -> None:
    assert Tree(files=files).faults() == [expected]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"datatype": "image-ids"}, "index.json: no client reads the entry 'images'"),
        ({"datatype": None}, "index.json: no client reads the entry 'images'"),
        ({"path": None}, "index.json: no client reads the entry 'images'"),
        ({"products": "tiny"}, "index.json: the products of 'images' are no list of strings"),
        ({"products": [1]}, "index.json: the products of 'images' are no list of strings"),
        ({"products": None}, "index.json: the products of 'images' are no list of strings"),
        ({"path": "streams/v1/other.json"}, "streams/v1/other.json does not exist"),
    ],
)
def test_entries_of_the_index(entry: dict[str, object], expected: str) -> None:
    tree = Tree()
    tree.index["index"]["images"].update(entry)
    assert tree.faults() == [expected]


def test_every_list_of_the_index_is_walked() -> None:
    """As one remote: what repeats between two lists is a fault too."""
    tree = Tree(images_of({"tiny/1/amd64/default": CONTAINER}))
    entry = tree.index["index"]["images"]
    tree.index["index"]["more"] = entry | {"path": "more.json", "products": ["twin:1:amd64:default"]}
    tree.files["more.json"] = json.dumps(tree.list).replace("tiny:1", "twin:1").encode()
    key = "tiny:1:amd64:default"
    assert tree.faults() == [
        f"twin:1:amd64:default: 20260101_07:42 repeats the fingerprint of {key} 20260101_07:42",
        f"twin:1:amd64:default: the alias 'tiny/1/default' belongs to {key} already",
        f"twin:1:amd64:default: the alias 'tiny/1' belongs to {key} already",
    ]


@pytest.mark.parametrize(
    ("fault", "expected"), [(Fault("a:b:c:d", "is bad"), "a:b:c:d: is bad"), (Fault("", "is bad"), "is bad")]
)
def test_a_fault_as_a_sentence(fault: Fault, expected: str) -> None:
    assert str(fault) == expected


# LXC

LINES = catalogue(
    [[image("a/1/amd64/x", serial(1), LXC)], [image("b/1/arm64/y", serial(2), EVERYTHING)]], 3
).images
A = f"a;1;amd64;x;{serial(1)};/images/a/1/amd64/x/{serial(1)}/"
B = f"b;1;arm64;y;{serial(2)};/images/b/1/arm64/y/{serial(2)}/"
LISTED = {f"{one.path}/{name}": file.size for one in LINES for name, file in one.files.items()}


def lxc_faults(index: str, sizes: dict[str, int] = LISTED) -> list[str]:
    return [str(fault) for fault in prove_lxc(index.encode(), "index-user", sizes.get)]


def test_the_lxc_index_that_we_write_is_good() -> None:
    written = indexes(LINES, (), (1,))
    assert written["index-user"].decode() == f"{A}\n{B}\n"
    for name, data in written.items():
        assert list(prove_lxc(data, name, LISTED.get)) == []
    assert lxc_faults("") == []


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        pytest.param(f"{A}\n{B}", ["index-user does not end with a line feed"], id="no line feed at the end"),
        pytest.param(
            f"a;1;amd64;x;{serial(1)}\n{B}\n",
            [f"index-user: the line 'a;1;amd64;x;{serial(1)}' has not six fields"],
            id="five fields",
        ),
        pytest.param(f"{A};x\n", [f"index-user: the line '{A};x' has not six fields"], id="seven fields"),
        pytest.param(
            f"a;1;amd64;;{serial(1)};/x/\n",
            [f"index-user: the line 'a;1;amd64;;{serial(1)};/x/' has not six fields"],
            id="an empty field",
        ),
        pytest.param(
            f"a;1;amd64;x;{serial(1)};\n",
            [f"index-user: the line 'a;1;amd64;x;{serial(1)};' has not six fields"],
            id="no path",
        ),
        pytest.param(f"{A}\n\n{B}\n", ["index-user: the line '' has not six fields"], id="an empty line"),
        pytest.param("x" * 200 + "\n", [f"index-user: the line '{'x' * 100}' has not six fields"], id="a long line"),
        pytest.param(f"{A}\n{B}\n{A}\n", ["a:1:amd64:x: index-user lists it twice; templates take the first"], id="twice"),
        pytest.param(
            f"{A[:-1]}\n",
            [f"a:1:amd64:x: index-user: the path '/images/a/1/amd64/x/{serial(1)}' must begin and end with a slash"],
            id="no slash at the end",
        ),
        pytest.param(
            f"{A.replace('/images', 'images')}\n",
            [f"a:1:amd64:x: index-user: the path 'images/a/1/amd64/x/{serial(1)}/' must begin and end with a slash"],
            id="no slash at the beginning",
        ),
        pytest.param(
            f"{B.replace(serial(2), serial(3))}\n",
            [
                f"b:1:arm64:y: index-user names /images/b/1/arm64/y/{serial(3)}/, where {name} is missing"
                for name in ("rootfs.tar.xz", "meta.tar.xz")
            ],
            id="another serial",
        ),
    ],
)  # fmt: skip
def test_damage_that_the_template_sees(index: str, expected: list[str]) -> None:
    assert lxc_faults(index) == expected


def test_a_path_below_the_root() -> None:
    assert lxc_faults("a;1;amd64;x;y;/Z/\n", {"Z/rootfs.tar.xz": 1, "Z/meta.tar.xz": 1}) == []


def test_a_line_that_is_not_ascii() -> None:
    assert lxc_faults("é;1;amd64;x;y;/z/\n") == [
        f"\ufffd\ufffd:1:amd64:x: index-user names /z/, where {name} is missing"
        for name in ("rootfs.tar.xz", "meta.tar.xz")
    ]


@pytest.mark.parametrize("name", ["rootfs.tar.xz", "meta.tar.xz"])
def test_a_file_that_the_template_would_miss(name: str) -> None:
    sizes = {path: size for path, size in LISTED.items() if path != f"images/b/1/arm64/y/{serial(2)}/{name}"}
    assert lxc_faults(f"{A}\n{B}\n", sizes) == [
        f"b:1:arm64:y: index-user names /images/b/1/arm64/y/{serial(2)}/, where {name} is missing"
    ]


def test_a_missing_file_is_laid_to_its_image() -> None:
    (fault,) = prove_lxc(
        f"{A}\n".encode(), "index-user", ({path: 1 for path in LISTED if "meta" in path}).get
    )
    assert (fault.product, fault.serial) == ("a:1:amd64:x", serial(1))
    faults = list(prove_lxc(f"{A}\n{A}".encode(), "index-user", LISTED.get))
    assert [(fault.product, fault.serial) for fault in faults] == [("", ""), ("a:1:amd64:x", "")]


def test_every_fault_of_the_lxc_index_is_told() -> None:
    assert lxc_faults(f"{A}\nx\n{A}") == [
        "index-user does not end with a line feed",
        "index-user: the line 'x' has not six fields",
        "a:1:amd64:x: index-user lists it twice; templates take the first",
    ]


# Unified images


def unified(*rules: Rule, **names: tuple[str, ...]) -> Tree:
    """Products of one os, by their releases."""
    return Tree(images_of({f"tiny/{name}/amd64/x": files for name, files in names.items()}), rules)


def only(tree: Tree, release: str) -> Any:
    """The items of the one version of a product."""
    (version,) = tree.product(f"tiny:{release}:amd64:x")["versions"].values()
    return version["items"]


@pytest.mark.parametrize(
    ("client", "name", "damage", "said"),
    [
        ("incus", "incus_combined.tar.gz", {"combined_type": "vm"}, "no client knows the combined_type 'vm'"),
        ("incus", "incus_combined.tar.gz", {"combined_type": 1}, f"combined_type is no string, {UNREADABLE}"),
        ("incus", "incus_combined.tar.gz", {"sha256": ""}, "it has no sha256: incus does not list it"),
        ("lxd", "lxd_combined.tar.gz", {"sha256": None}, "it has no sha256: lxd does not list it"),
    ],
)
def test_what_damages_a_unified_image(client: str, name: str, damage: dict[str, Any], said: str) -> None:
    tree = unified(a=(UNIFIED, UNIFIED_LXD))
    assert tree.faults(client) == []
    only(tree, "a")[name] |= damage
    assert [one for one in tree.faults(client) if one.endswith(said)] != []


@pytest.mark.parametrize(
    ("client", "taken", "alone"),
    [
        ("incus", "lxd_combined.tar.gz", "incus_combined.tar.gz"),
        ("lxd", "incus_combined.tar.gz", "lxd_combined.tar.gz"),
    ],
)
def test_each_daemon_reads_its_own(client: str, taken: str, alone: str) -> None:
    """A fingerprint counts by its own ftype only, and the split and the unified image of it count both."""
    tree = unified(a=(UNIFIED, UNIFIED_LXD), b=(UNIFIED, UNIFIED_LXD))
    only(tree, "b")[taken]["sha256"] = only(tree, "a")[taken]["sha256"]
    assert not [fault for fault in tree.faults(client) if "repeats the fingerprint" in fault]
    only(tree, "b")[alone]["sha256"] = only(tree, "a")[alone]["sha256"]
    assert [fault for fault in tree.faults(client) if "repeats the fingerprint of tiny:a:amd64:x" in fault]


def test_a_unified_image_repeats_a_combined_hash() -> None:
    tree = unified(a=CONTAINER, b=(UNIFIED,))
    only(tree, "b")["incus_combined.tar.gz"]["sha256"] = only(tree, "a")["incus.tar.xz"][
        "combined_squashfs_sha256"
    ]
    assert [fault for fault in tree.faults() if "repeats the fingerprint of tiny:a:amd64:x" in fault]


@pytest.mark.parametrize(
    ("a", "b", "clients"),
    [
        (CONTAINER, (UNIFIED,), {"incus", "lxd"}),
        ((UNIFIED,), (UNIFIED,), {"incus", "lxd"}),
        (VM, (UNIFIED,), set()),
        (VM, (UNIFIED_VM,), {"incus"}),
        (CONTAINER, (UNIFIED_VM,), {"incus"}),  # for Incus before May 2026
        ((UNIFIED_VM,), (UNIFIED_VM,), {"incus"}),
    ],
)
def test_an_alias_of_two_unified_images(a: tuple[str, ...], b: tuple[str, ...], clients: set[str]) -> None:
    tree = unified(Rule(match="tiny/b", aliases=("tiny/a",)), a=a, b=b)
    for client in ("incus", "lxd"):
        said = [one for one in tree.faults(client) if "the alias 'tiny/a/x' belongs to tiny:a:amd64:x" in one]
        assert bool(said) is (client in clients), client
