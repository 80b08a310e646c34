"""Our tree beside the one that the publisher of images.linuxcontainers.org makes of the same builds.

Both publish forty products after each of a few nights. Whatever differs between what they show must
be in DIFFERENCES with the reason why, and whatever is in there must occur.
"""

import fnmatch
import json
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import forty
import pytest
import reference
from forty import MOMENTS, PRODUCTS, Forty, Image
from reference import TABLES_AS_RULES, Tables
from sites import Key, Result, Site

from jenkins.controller import Controller
from jenkins.standin import serve

OURS, THEIRS = "only ours", "only the reference"
KEEP = 3
TWIN = "meta/simplestreams/v1"  # both publishers keep the streams here
LXC = {"rootfs.tar.xz", "meta.tar.xz"}

Json = dict[str, Any]
Images = dict[Image, dict[str, bytes]]
Found = Iterator[tuple[str, str, str, Any, Any]]  # product, serial, what, ours, theirs


@dataclass(frozen=True, repr=False)
class Tree:
    """What one publisher shows."""

    images: Images
    lxc: dict[str, str]  # name of the index -> its text
    streams: Json
    index: Json
    lxd: set[str]  # keys of the products that LXD may see

    def newer(self, image: Image) -> list[Image]:
        """The images of the same product with a greater serial."""
        return [one for one in self.images if one.product == image.product and one.serial > image.serial]


@dataclass(frozen=True, repr=False)
class Difference:
    """One thing that is not the same in both; None where it is not there.

    ``what`` is a file of the image, or a field of the product or version, and "" the whole of it.
    """

    place: str  # tree, streams, index, lxd, or the name of an LXC index
    product: str
    serial: str
    what: str
    mine: Any
    theirs: Any
    ours: Tree
    reference: Tree

    @property
    def image(self) -> Image:
        return Image(self.product, self.serial)

    @property
    def side(self) -> str:
        return OURS if self.theirs is None else THEIRS if self.mine is None else "differs"

    def __str__(self) -> str:
        where = " ".join(part for part in (self.place, *self.image, self.what) if part)
        values = f": {self.mine!r:.200}, not {self.theirs!r:.200}" if self.side == "differs" else ""
        return f"{where}: {self.side}{values}"


@dataclass(frozen=True, repr=False)
class Night:
    """Both trees after a moment, and how they differ."""

    name: str
    ours: Tree
    reference: Tree
    differences: list[Difference]
    result: Result  # of ours
    skipped: list[str]  # what the reference says of builds that it does not take


Is = Callable[[Difference], bool]


def whole(side: str, *images: Image) -> Is:
    """These whole images, wherever they are named on this side alone."""
    return lambda d: d.side == side and not d.what and d.image in images


def our_product(name: str) -> Is:
    """A product that only we have, and its images."""
    return lambda d: d.side == OURS and not d.what and d.product == name


def both(one: Is, other: Is) -> Is:
    return lambda d: one(d) and other(d)


def streams(d: Difference) -> bool:
    return d.place == "streams"


def not_streams(d: Difference) -> bool:
    return d.place not in ("streams", "index")


def is_signature(d: Difference) -> bool:
    name = d.what.removesuffix(".asc")
    return d.place == "tree" and d.side == OURS and name != d.what and name in d.ours.images[d.image]


def is_source(d: Difference) -> bool:
    return d.place == "tree" and d.side == OURS and d.what in ("source.json", "SHA256SUMS source.json")


def is_delta(d: Difference) -> bool:
    """Of the image before it, in the tree and in SHA256SUMS, and where that is listed in the streams."""
    found = re.fullmatch(r"(?:SHA256SUMS )?delta-(.*)\.vcdiff|items/root\.(.*)\.vcdiff", d.what)
    if not found or d.side != OURS or d.place not in ("tree", "streams"):
        return False
    base = Image(d.product, found[1] or found[2])
    return base.serial < d.serial and (listed(d.ours, base) or not found[2])


def is_in_grace(d: Difference) -> bool:
    expired = len(d.reference.newer(d.image)) >= KEEP
    return d.place == "tree" and d.side == OURS and not d.what and expired and not listed(d.ours, d.image)


def is_last_of_its_kind(d: Difference) -> bool:
    def has_vm(image: Image) -> bool:
        return {"disk.qcow2", "incus.tar.xz"} <= d.ours.images[image].keys()

    newer = d.ours.newer(d.image)
    return (
        d.place in ("tree", "streams")
        and d.side == OURS
        and not d.what
        and listed(d.ours, d.image)
        and len(newer) >= KEEP
        and has_vm(d.image)
        and not any(map(has_vm, newer))
    )


def is_line_without_files(d: Difference) -> bool:
    named = d.place.startswith("index-") and d.side == THEIRS and not d.what
    return named and d.image in d.reference.images and not d.reference.images[d.image].keys() >= LXC


def is_lxd_requirements(d: Difference) -> bool:
    theirs = d.reference.streams["products"].get(key_of(d.product), {})
    return (d.what, d.side) == ("lxd_requirements", OURS) and d.mine == theirs["requirements"]


def is_lxd_metadata(d: Difference) -> bool:
    names = ("lxd.tar.xz", "SHA256SUMS lxd.tar.xz")
    return d.image == forty.TWO_METADATA and d.place == "tree" and d.side == OURS and d.what in names


def is_item_of_lxd_metadata(d: Difference) -> bool:
    item, _, field = d.what.rpartition("/")
    found = d.ours.images.get(d.image, {})
    if d.image != forty.TWO_METADATA or item != "items/lxd.tar.xz" or "lxd.tar.xz" not in found:
        return False
    metadata = found["lxd.tar.xz"]
    return d.mine == {
        "path": f"images/{d.product}/{d.serial}/lxd.tar.xz",
        "sha256": sha256(metadata).hexdigest(),
        "combined_sha256": sha256(metadata + found["rootfs.tar.xz"]).hexdigest(),
        "combined_rootxz_sha256": sha256(metadata + found["rootfs.tar.xz"]).hexdigest(),
        "combined_squashfs_sha256": sha256(metadata + found["rootfs.squashfs"]).hexdigest(),
        "combined_disk-kvm-img_sha256": sha256(metadata + found["disk.qcow2"]).hexdigest(),
    }.get(field)


def is_hidden_from_lxd(d: Difference) -> bool:
    hidden = key_of(d.product) not in d.reference.lxd
    return d.place == "streams" and hidden and (d.what, d.side) == ("items/lxd.tar.xz", THEIRS)


DIFFERENCES: list[tuple[str, Is, str]] = [
    (
        "signatures",
        is_signature,
        "the model of the reference leaves out the signatures, which both publishers make",
    ),
    (
        "deltas",
        is_delta,
        "the model of the reference leaves out the deltas, which both publishers make",
    ),
    (
        "source.json",
        is_source,
        "an operator can tell which Jenkins build an image came from, and the ledger can be made again",
    ),
    (
        "grace",
        is_in_grace,
        "who read the index of a moment ago can still fetch what it named; the reference deletes at once",
    ),
    (
        "last of its kind",
        is_last_of_its_kind,
        "users of a VM keep the last one when three builds without a VM follow",
    ),
    (
        "LXC line without LXC files",
        is_line_without_files,
        "lxc-create fails with 404 on a product or build that the index names but that has no LXC files",
    ),
    (
        "lxd_requirements",
        is_lxd_requirements,
        "LXD 5.0 reads only lxd_requirements, so without them it starts images that cannot boot",
    ),
    (
        "lxd.tar.xz",
        is_lxd_metadata,
        "metadata that was made for LXD is kept where it differs from Incus' own; the reference drops it",
    ),
    (
        "lxd.tar.xz for LXD",
        is_item_of_lxd_metadata,
        "and LXD is given that file, with the fingerprints that go with it",
    ),
    (
        "not for LXD",
        is_hidden_from_lxd,
        "one list keeps nixos from LXD, where the reference needs a second one and a web server that picks",
    ),
    (
        "pipeline",
        our_product("busybox/1.37/amd64/default"),
        "a pipeline's images are published too; the reference ends with a KeyError at such a job",
    ),
    (
        "LXC alone",
        both(not_streams, our_product("slackware/15.0/amd64/default")),
        "users of LXC get images without incus.tar.xz; the reference looks for that file and crashes",
    ),
    (
        "older build that passed",
        whole(OURS, *forty.HELD),
        "the newest build that passed is published at once, also while a newer one waits for its test",
    ),
    (
        "passed once",
        whole(OURS, *forty.TESTED_AGAIN),
        "a build that passed stays passed when somebody tests an older one again",
    ),
    (
        "unstable build",
        whole(THEIRS, forty.UNSTABLE),
        "an UNSTABLE build is only published where jenkins.unstable asks for it",
    ),
    (
        "serial without a date",
        whole(THEIRS, forty.NO_DATE),
        "clients skip a version that does not begin with YYYYMMDD, so it is refused by name",
    ),
    (
        "serial of the future",
        whole(THEIRS, forty.LATE),
        "a serial of the year 2099 would be the newest image for ever",
    ),
    (
        "serial of the past",
        whole(THEIRS, forty.EARLY),
        "a new build under an older serial would never reach a user, so the operator is told",
    ),
    (
        "broken squashfs",
        whole(THEIRS, forty.BROKEN),
        "a file that is no squashfs is refused, and users stay with the image that works",
    ),
    (
        "two artifacts of one name",
        whole(THEIRS, forty.TWICE),
        "which of two rootfs.squashfs is the image cannot be known; the reference takes the last",
    ),
    (
        "same content again",
        whole(THEIRS, forty.SAME),
        "a build of the very same bytes is nothing new to anybody, so LXC keeps the image that it has",
    ),
    (
        "kept in its place",
        whole(OURS, Image(forty.SAME.product, "20260101_09:42")),
        "a build of the same bytes pushes no image out of those that are kept",
    ),
    (
        "same as an unlisted image",
        both(streams, whole(OURS, forty.SAME_AS_UNLISTED)),
        "only a fingerprint that is listed twice confuses clients, not one of an image that was left out",
    ),
]


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory, key: Key) -> list[Night]:
    """Both trees after each moment."""
    base = tmp_path_factory.mktemp("beside")
    with serve(Controller(base / "jenkins")) as server:
        site = Site(base, server, key)
        site.lines = f"keep = {KEEP}\n"
        site.jenkins = f'log = true\npath = "{forty.PATH}"\n'
        site.more = f'{TABLES_AS_RULES}\n[jenkins.gate]\njob = "test-image"\nscope = "os"\n'
        products = Forty(server.ci, server.url)
        found = []
        for moment in MOMENTS:
            with server.ci.bulk():
                moment.happen(products)
            result = site.doit("publish")
            assert result.code == moment.code, f"exit {result.code}\n{result.out}\n{result.err}"
            skipped = reference.publish(server.url, base / "reference", Tables())
            ours, theirs = read_ours(site.latest), read_reference(base / "reference")
            differences = list(compare(ours, theirs))
            found.append(Night(moment.name, ours, theirs, differences, result, skipped))
        return found


@pytest.mark.parametrize("number", range(len(MOMENTS)), ids=[moment.name for moment in MOMENTS])
def test_every_difference_has_a_reason(nights: list[Night], number: int) -> None:
    unlisted = [str(d) for d in nights[number].differences if not any(entry[1](d) for entry in DIFFERENCES)]
    assert not unlisted, "\n".join(["these differ, and DIFFERENCES does not say why:", *unlisted])


@pytest.mark.parametrize("entry", DIFFERENCES, ids=[entry[0] for entry in DIFFERENCES])
def test_every_reason_has_a_difference(nights: list[Night], entry: tuple[str, Is, str]) -> None:
    name, applies, reason = entry
    assert any(applies(d) for night in nights for d in night.differences), (
        f"{name}: nothing differs; {reason}"
    )


def test_no_product_of_the_reference_is_missing(nights: list[Night]) -> None:
    """In no index of ours; an LXC index may be without products that have nothing for LXC."""
    missing = []
    for night in nights:
        ours, theirs = lists(night.ours), lists(night.reference)
        for_lxc = {image.product for image, found in night.reference.images.items() if found.keys() >= LXC}
        for name, products in theirs.items():
            wanted = products & for_lxc if name.startswith("index-") else products
            missing += [f"{night.name}: {name}: {one}" for one in sorted(wanted - ours.get(name, set()))]
    assert not missing, "\n".join(["the reference lists these, we do not:", *missing])


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (0, "devuan: * is not tested"),
        (0, "funtoo: architecture=amd64,* no successful build"),
        (0, "funtoo: architecture=arm64,* no successful build"),
        (0, "kali: * KeyError('release')"),
        (1, "alpine: * is not tested"),
        (1, "nixos: * missing serial"),
        (1, f"oracle: * {forty.night(1)} is there"),
        (1, "rockylinux: * is partial"),
        (1, f"springdalelinux: * {forty.night(1)} is there"),
        (1, "void: * has no colon"),
        (1, "found duplicate: images/centos/7/*"),
        (1, "found duplicate: images/plamo/*"),
        (4, "debian: *,release=wheezy,* missing serial"),
    ],
)
def test_the_reference_meets_what_it_skips(nights: list[Night], number: int, message: str) -> None:
    """And does not list it, and so neither do we: what was equal says nothing of what was there."""
    assert fnmatch.filter(nights[number].skipped, message)


@pytest.mark.parametrize(
    ("number", "image", "reason"),
    [
        (1, forty.NO_SERIAL, "there is no artifact called serial"),
        (1, forty.NO_COLON, "serial '20260102_0742' is not YYYYMMDD_HH:MM"),
        (1, forty.LATE, "lies in the future"),
        (1, forty.EARLY, "is older than the published 20260101_09:42"),
        (1, forty.BROKEN, "rootfs.squashfs is not what its name says"),
        (1, forty.TWICE, "two artifacts are called rootfs.squashfs"),
        (1, forty.PARTIAL, "the artifacts make no image"),
        (1, forty.REPEATED, "is published with other bytes"),
        (2, forty.NO_DATE, "serial '2026-01-03_07:42' is not YYYYMMDD_HH:MM"),
    ],
)
def test_what_we_refuse_is_named(nights: list[Night], number: int, image: Image, reason: str) -> None:
    said = nights[number].result.out.splitlines()
    (line,) = [line for line in said if line.startswith(f"failed: {image.product}: ")]
    assert reason in line


def test_the_products_need_every_table(nights: list[Night], tmp_path: Path) -> None:
    """Without any one of its tables the reference would write other indexes."""
    assert len(PRODUCTS) == 40
    root = tmp_path / "root"
    for image, found in nights[0].reference.images.items():
        (root / "images" / image.product / image.serial).mkdir(parents=True)
        for name, content in found.items():
            (root / "images" / image.product / image.serial / name).write_bytes(content)

    def indexes(tables: Tables) -> dict[str, str]:
        shutil.rmtree(root / "meta", ignore_errors=True)
        reference._write_lxc_indexes(root, tables)
        reference._write_streams(root, tables, [])
        return {path.name: path.read_text() for path in root.glob("meta/**/*") if path.is_file()}

    full = Tables()
    names = [table.name for table in fields(Tables) if getattr(full, table.name)]
    written = indexes(full)
    unneeded = [
        name for name in names if indexes(replace(full, **{name: type(getattr(full, name))()})) == written
    ]
    assert not unneeded


def read_ours(top: Path) -> Tree:
    for name in ("images.json", "index.json"):
        assert (top / "streams/v1" / name).read_bytes() == (top / TWIN / name).read_bytes()
    products = load(top, f"{TWIN}/images.json")["products"]
    return read(top, {name for name, product in products.items() if "lxd.tar.xz" in ftypes(product)})


def read_reference(top: Path) -> Tree:
    return read(top, set(load(top, f"{TWIN}/.images.json.lxd")["products"]))


def read(top: Path, lxd: set[str]) -> Tree:
    return Tree(
        images={
            Image(str(path.parent.relative_to(top / "images")), path.name): {
                file.name: file.read_bytes() for file in path.iterdir()
            }
            for path in top.glob("images/*/*/*/*/*")
        },
        lxc={path.name: path.read_text() for path in top.glob("meta/1.0/*") if path.suffix != ".asc"},
        streams=load(top, f"{TWIN}/images.json"),
        index=load(top, f"{TWIN}/index.json"),
        lxd=lxd,
    )


def load(top: Path, path: str) -> Json:
    return json.loads((top / path).read_bytes())


def ftypes(product: Json) -> set[str]:
    versions = product["versions"].values()
    return {item["ftype"] for version in versions for item in version["items"].values()}


def key_of(product: str) -> str:
    return product.replace("/", ":")


def listed(tree: Tree, image: Image) -> bool:
    """Whether any index names the image."""
    product = tree.streams["products"].get(key_of(image.product), {"versions": {}})
    return image.serial in product["versions"] or any(
        lines(text).get(image.product, "").split(";")[4:5] == [image.serial] for text in tree.lxc.values()
    )


def lists(tree: Tree) -> dict[str, set[str]]:
    """The products of each index."""
    found = {name: set(lines(text)) for name, text in tree.lxc.items()}
    found |= {"images.json": set(tree.streams["products"]), "for LXD": tree.lxd}
    found |= {"index.json": set(tree.index["index"]["images"]["products"])}
    return {name: {one.replace(":", "/") for one in products} for name, products in found.items()}


def lines(text: str) -> dict[str, str]:
    """The lines of an LXC index by product."""
    return {"/".join(line.split(";")[:4]): line for line in text.splitlines(keepends=True)}


def compare(ours: Tree, theirs: Tree) -> Iterator[Difference]:
    """Everything that is not the same in both."""
    places = {
        "tree": differing_images(ours.images, theirs.images),
        "streams": differing_streams(ours.streams, theirs.streams),
        "index": differing_index(ours.index, theirs.index),
        "lxd": differing_products(ours.lxd, theirs.lxd),
    }
    for name in sorted(ours.lxc.keys() | theirs.lxc.keys()):
        places[name] = differing_lines(ours.lxc.get(name), theirs.lxc.get(name))
    for place, found in places.items():
        for product, *rest in found:
            yield Difference(place, product.replace(":", "/"), *rest, ours, theirs)


def differing_images(ours: Images, theirs: Images) -> Found:
    for path, mine, other in differing(ours, theirs):
        (product, serial), *names = path
        if names != ["SHA256SUMS"] or None in (mine, other):
            yield product, serial, "/".join(names), mine, other
            continue
        sums = [dict.fromkeys(text.decode().splitlines(), "line") for text in (mine, other)]
        for (line,), here, there in differing(*sums):
            yield product, serial, f"SHA256SUMS {line.partition('  ')[2]}", here, there


def differing_streams(ours: Json, theirs: Json) -> Found:
    for path, mine, other in differing(ours, theirs):
        match path:
            case ("products", product, "versions", serial, *names):
                yield product, serial, "/".join(names), mine, other
            case ("products", product, *names):
                yield product, "", "/".join(names), mine, other
            case _:
                yield "", "", "/".join(path), mine, other


def differing_index(ours: Json, theirs: Json) -> Found:
    for path, mine, other in differing(ours, theirs):
        if path != ("index", "images", "products"):
            yield "", "", "/".join(path), mine, other
            continue
        yield from differing_products(mine, other)
        both = set(mine) & set(other)
        here, there = ([one for one in products if one in both] for products in (mine, other))
        if here != there:
            yield "", "", "order of the products", here, there


def differing_products(ours: Collection[str], theirs: Collection[str]) -> Found:
    for (product,), mine, other in differing(dict.fromkeys(ours, "listed"), dict.fromkeys(theirs, "listed")):
        yield product, "", "", mine, other


def differing_lines(ours: str | None, theirs: str | None) -> Found:
    """Line by line; where each names another image, only the newer one is of interest."""
    if ours is None or theirs is None:
        yield "", "", "", ours, theirs
        return
    other_lines = set()
    for (product,), mine, other in differing(lines(ours), lines(theirs)):
        serials = [line.split(";")[4] if line else "" for line in (mine, other)]
        newer = [
            line if serial == max(serials) else None
            for line, serial in zip((mine, other), serials, strict=True)
        ]
        yield product, max(serials), "line" if None not in newer else "", *newer
        other_lines |= {mine, other}
    mine, other = (
        "".join(one for one in text.splitlines(keepends=True) if one not in other_lines)
        for text in (ours, theirs)
    )
    if mine != other:
        yield "", "", "order of the lines", mine, other


def differing(
    ours: Any, theirs: Any, path: tuple[Any, ...] = ()
) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    """Path and both values, as high up as one of them is missing and else as far down as it goes."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name in sorted(ours.keys() | theirs.keys()):
            yield from differing(ours.get(name), theirs.get(name), (*path, name))
    elif ours != theirs or type(ours) is not type(theirs):
        yield path, ours, theirs
