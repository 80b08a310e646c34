"""Which images are listed, and the streams that list them."""

import gzip
import hashlib
import json
from itertools import permutations
from pathlib import Path

import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import TABLES_AS_RULES, Tables

from tasks.catalogue import Catalogue, catalogue, duplicates, kept
from tasks.config import read
from tasks.image import (
    DISK,
    INCUS,
    LXD,
    META,
    METADATA,
    ROOT_TAR,
    ROOTS,
    SQUASHFS,
    UNIFIED,
    UNIFIED_LXD,
    UNIFIED_VM,
    File,
    Image,
    Kind,
    Product,
    Source,
)
from tasks.settings import Day, Rule
from tasks.streams import IMAGES, INDEX, gzipped, images_json, index_json, items, text

NAME, SERIAL = "tiny/1/amd64/default", "20260101_07:42"
CONTAINER, VM, LXC = (INCUS, SQUASHFS), (INCUS, DISK), (META, ROOT_TAR)
EVERYTHING = (INCUS, META, SQUASHFS, ROOT_TAR, DISK)
PLACE = f"images/{NAME}/{SERIAL}"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def content(name: str, serial: str, file: str) -> bytes:
    """Some bytes, never the same twice."""
    return f"{name} {serial} {file}\n".encode()


def image(
    name: str = NAME, serial: str = SERIAL, files: tuple[str, ...] = CONTAINER, like: str = ""
) -> Image:
    """An image whose hashes are those of its files; ``like`` another serial, it has the same bytes."""
    data = {file: content(name, like or serial, file) for file in files}
    marks = {
        metadata: {root: digest(data[metadata] + data[root]) for root in ROOTS if root in data}
        for metadata in METADATA
        if metadata in data
    }
    return Image(
        product=Product.parse(name),
        serial=serial,
        files={file: File(len(body), digest(body)) for file, body in data.items()},
        fingerprints={metadata: found for metadata, found in marks.items() if found},
        source=Source(job="image-tiny", configuration="", number=1, timestamp=0, md5={}),
    )


def images_of(names: dict[str, tuple[str, ...]], serials: tuple[str, ...] = (SERIAL,)) -> tuple[Image, ...]:
    """One catalogue, as it is gathered."""
    made = [[image(name, serial, files) for serial in serials] for name, files in names.items()]
    return catalogue(made, keep=3).images


# Which images are kept


def serial(day: int) -> str:
    return f"202601{day:02}_00:00"


BOTH = (INCUS, SQUASHFS, DISK)
KINDS = st.lists(st.sampled_from([CONTAINER, VM, LXC, BOTH, EVERYTHING]), max_size=8)


@pytest.mark.parametrize(
    ("history", "keep", "expected"),
    [
        pytest.param([], 3, [], id="none"),
        pytest.param([CONTAINER], 3, [1], id="fewer than may be"),
        pytest.param([CONTAINER] * 5, 3, [5, 4, 3], id="the newest"),
        pytest.param([CONTAINER] * 5, 1, [5], id="the newest alone"),
        pytest.param([BOTH] + [CONTAINER] * 4, 3, [5, 4, 3, 1], id="the last VM stays"),
        pytest.param([VM, VM] + [CONTAINER] * 4, 2, [6, 5, 2], id="the last VM, not the one before"),
        pytest.param([LXC, VM] + [CONTAINER] * 4, 1, [6, 2, 1], id="the last of each kind"),
        pytest.param([LXC, EVERYTHING] + [CONTAINER] * 4, 1, [6, 2], id="one for two kinds"),
        pytest.param([EVERYTHING] * 4, 2, [4, 3], id="all kinds in each"),
        pytest.param([(UNIFIED_VM,)] + [(UNIFIED,)] * 3, 1, [4, 1], id="the last unified VM stays"),
    ],
)
def test_which_images_are_kept(history: list[tuple[str, ...]], keep: int, expected: list[int]) -> None:
    images = [image(serial=serial(day), files=files) for day, files in enumerate(history, start=1)]
    for order in (images, images[::-1], images[1:] + images[:1]):
        assert [one.serial for one in kept(order, keep)] == [serial(day) for day in expected]


@settings(max_examples=50)
@given(KINDS, st.integers(1, 4))
def test_the_newest_of_a_kind_is_never_dropped(history: list[tuple[str, ...]], keep: int) -> None:
    images = [image(serial=serial(day), files=files) for day, files in enumerate(history, start=1)]
    found = list(kept(images, keep))
    assert found[:keep] == images[::-1][:keep]
    for kind in Kind:
        newest = [one for one in images if kind in one.kinds][-1:]
        assert [one for one in found if kind in one.kinds][:1] == newest
    for extra in found[keep:]:
        assert any(
            not any(kind in one.kinds for one in images if one.serial > extra.serial) for kind in extra.kinds
        )
    assert list(kept(found, keep)) == found


def test_the_catalogue_is_in_the_order_of_directories() -> None:
    """Of those of products, as one string: a slash comes after a plus and a dot."""
    names = [
        "b/1/amd64/default",
        "a/1/amd64/default",
        "a/1/amd64/x+y",
        "a/1/amd64/x",
        "a+b/1/amd64/x",
        "a/1.2/amd64/x",
    ]
    products = [[image(name, serial(day)) for day in (3, 1, 2)] for name in names]
    expected = [f"images/{name}/{serial(day)}" for name in sorted(names) for day in (1, 2, 3)]
    for order in (products, products[::-1]):
        assert [one.path for one in catalogue(order, 3).images] == expected
    assert catalogue([], 3) == Catalogue(())
    assert len(catalogue(products, 2).images) == 2 * len(names)


def test_a_fingerprint_counts_once() -> None:
    first, again, other = (
        image(serial=serial(1)),
        image(serial=serial(3), like=serial(1)),
        image(serial=serial(2)),
    )
    assert duplicates([first, other, again]) == {again.path: first.path}
    assert duplicates([first, other]) == {}
    assert duplicates([]) == {}


@pytest.mark.parametrize(
    ("files", "again", "twice"),
    [
        pytest.param(BOTH, VM, True, id="one of two roots"),
        pytest.param(CONTAINER, VM, False, id="the metadata alone"),
        pytest.param((INCUS, LXD, SQUASHFS), (LXD, SQUASHFS), True, id="by the metadata of LXD"),
        pytest.param((INCUS, SQUASHFS), (LXD, SQUASHFS), False, id="the root alone"),
        pytest.param(LXC, LXC, False, id="without metadata nothing has a fingerprint"),
        pytest.param((UNIFIED, *VM), (UNIFIED, *CONTAINER), True, id="a unified image"),
        pytest.param((UNIFIED, UNIFIED_LXD), (UNIFIED_LXD,), True, id="by that of LXD"),
        pytest.param((UNIFIED,), (UNIFIED_VM,), False, id="two unified images"),
    ],
)
def test_what_repeats_a_fingerprint(files: tuple[str, ...], again: tuple[str, ...], twice: bool) -> None:
    first, second = image(serial=serial(1), files=files), image(serial=serial(2), files=again, like=serial(1))
    assert duplicates([first, second]) == ({second.path: first.path} if twice else {})


def test_a_third_image_names_the_first() -> None:
    images = [image(serial=serial(day), like=serial(1)) for day in (1, 2, 3)]
    assert set(duplicates(images).values()) == {images[0].path}


def test_what_repeats_claims_nothing_for_itself() -> None:
    """Its other fingerprints are not listed, so the next image may have them."""
    first, twin = image(serial=serial(1)), image(serial=serial(2), files=BOTH, like=serial(1))
    vm = image(serial=serial(3), files=VM, like=serial(1))
    assert duplicates([first, twin, vm]) == {twin.path: first.path}


# The items


def test_the_items_of_everything() -> None:
    one = image(files=EVERYTHING)
    marks = one.fingerprints[INCUS]

    def item(ftype: str, file: str) -> dict:
        body = content(NAME, SERIAL, file)
        return {"ftype": ftype, "path": f"{PLACE}/{file}", "sha256": digest(body), "size": len(body)}

    combined = {
        "combined_sha256": marks[ROOT_TAR],
        "combined_rootxz_sha256": marks[ROOT_TAR],
        "combined_squashfs_sha256": marks[SQUASHFS],
        "combined_disk-kvm-img_sha256": marks[DISK],
    }
    assert items(one, ("incus", "lxd")) == {
        "incus.tar.xz": item("incus.tar.xz", INCUS) | combined,
        "lxd.tar.xz": item("lxd.tar.xz", INCUS) | combined,
        "root.tar.xz": item("root.tar.xz", ROOT_TAR),
        "root.squashfs": item("squashfs", SQUASHFS),
        "disk.qcow2": item("disk-kvm.img", DISK),
    }


@pytest.mark.parametrize(
    ("files", "clients", "expected"),
    [
        (CONTAINER, "incus lxd", "incus.tar.xz=incus.tar.xz lxd.tar.xz=incus.tar.xz root.squashfs=rootfs.squashfs"),
        ((LXD, DISK), "incus lxd", "disk.qcow2=disk.qcow2 incus.tar.xz=lxd.tar.xz lxd.tar.xz=lxd.tar.xz"),
        ((INCUS, LXD, DISK), "incus lxd", "disk.qcow2=disk.qcow2 incus.tar.xz=incus.tar.xz lxd.tar.xz=lxd.tar.xz"),
        ((INCUS, LXD, DISK), "incus", "disk.qcow2=disk.qcow2 incus.tar.xz=incus.tar.xz"),
        ((INCUS, LXD, DISK), "lxd", "disk.qcow2=disk.qcow2 lxd.tar.xz=lxd.tar.xz"),
        ((INCUS, DISK), "lxd", "disk.qcow2=disk.qcow2 lxd.tar.xz=incus.tar.xz"),
        (CONTAINER, "", "root.squashfs=rootfs.squashfs"),
        (LXC, "incus lxd", ""),
        ((UNIFIED,), "incus lxd", "incus_combined.tar.gz=incus_combined.tar.gz lxd_combined.tar.gz=incus_combined.tar.gz"),
        ((UNIFIED_LXD,), "incus lxd", "incus_combined.tar.gz=lxd_combined.tar.gz lxd_combined.tar.gz=lxd_combined.tar.gz"),
        ((UNIFIED, UNIFIED_LXD), "incus lxd", "incus_combined.tar.gz=incus_combined.tar.gz lxd_combined.tar.gz=lxd_combined.tar.gz"),
        ((UNIFIED,), "lxd", "lxd_combined.tar.gz=incus_combined.tar.gz"),
        ((UNIFIED, UNIFIED_LXD), "incus", "incus_combined.tar.gz=incus_combined.tar.gz"),
        ((UNIFIED, UNIFIED_VM), "", ""),
        ((UNIFIED_VM,), "incus lxd", "incus_combined.vm.tar.gz=incus_combined.vm.tar.gz"),
        ((UNIFIED_VM,), "lxd", ""),
        ((UNIFIED, *LXC), "lxd", "lxd_combined.tar.gz=incus_combined.tar.gz"),
        ((UNIFIED, *CONTAINER), "lxd", "lxd.tar.xz=incus.tar.xz lxd_combined.tar.gz=incus_combined.tar.gz root.squashfs=rootfs.squashfs"),
        ((*CONTAINER, "image.yaml", "build.log", META), "incus", "incus.tar.xz=incus.tar.xz root.squashfs=rootfs.squashfs"),
    ],
)  # fmt: skip
def test_which_file_is_which_item(files: tuple[str, ...], clients: str, expected: str) -> None:
    found = items(image(files=files), clients.split())
    assert (
        " ".join(f"{key}={item['path'].removeprefix(f'{PLACE}/')}" for key, item in sorted(found.items()))
        == expected
    )


def test_the_items_of_unified_images() -> None:
    """Old clients take combined_type's absence for a container, and so do new ones."""

    def item(ftype: str, file: str) -> dict:
        body = content(NAME, SERIAL, file)
        return {"ftype": ftype, "path": f"{PLACE}/{file}", "sha256": digest(body), "size": len(body)}

    assert items(image(files=(UNIFIED, UNIFIED_VM)), ("incus", "lxd")) == {
        "incus_combined.tar.gz": item("incus_combined.tar.gz", UNIFIED),
        "lxd_combined.tar.gz": item("lxd_combined.tar.gz", UNIFIED),
        "incus_combined.vm.tar.gz": {
            **item("incus_combined.tar.gz", UNIFIED_VM),
            "combined_type": "virtual-machine",
        },
    }


def test_each_metadata_file_has_the_hashes_of_its_own_bytes() -> None:
    found = items(image(files=(INCUS, LXD, SQUASHFS)), ("incus", "lxd"))
    root = content(NAME, SERIAL, SQUASHFS)
    for name in (INCUS, LXD):
        body = content(NAME, SERIAL, name)
        assert found[name]["sha256"] == digest(body)
        assert found[name]["combined_squashfs_sha256"] == digest(body + root)


# The documents


def test_the_products_file() -> None:
    rules = (
        Rule(match="tiny", aliases=("tiny/one",), requirements={"cgroup": "v1"}),
        Rule(match="tiny", lxd_requirements={"secureboot": "false"}),
        Rule(match="huge", clients=("incus",)),
    )
    tiny = [image(serial=serial(day)) for day in (1, 2)]
    huge = image("huge/current/arm64/cloud-x", files=VM)
    assert images_json([huge, *tiny], rules) == {
        "content_id": "images",
        "datatype": "image-downloads",
        "format": "products:1.0",
        "products": {
            "huge:current:arm64:cloud-x": {
                "aliases": "huge/current/cloud-x,huge/cloud-x",
                "arch": "arm64",
                "lxd_requirements": {},
                "os": "Huge",
                "release": "current",
                "release_title": "current",
                "requirements": {},
                "variant": "cloud-x",
                "versions": {SERIAL: {"items": items(huge, ("incus",))}},
            },
            "tiny:1:amd64:default": {
                "aliases": "tiny/1/default,tiny/one/default,tiny/1,tiny/one",
                "arch": "amd64",
                "lxd_requirements": {"cgroup": "v1", "secureboot": "false"},
                "os": "Tiny",
                "release": "1",
                "release_title": "1",
                "requirements": {"cgroup": "v1"},
                "variant": "default",
                "versions": {one.serial: {"items": items(one, ("incus", "lxd"))} for one in tiny},
            },
        },
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [("opensuse", "Opensuse"), ("a-b", "A-B"), ("rocky9x", "Rocky9X"), ("NixOS", "Nixos")],
)
def test_the_title_of_an_os(name: str, expected: str) -> None:
    (product,) = images_json([image(f"{name}/1/amd64/x")], ())["products"].values()
    assert product["os"] == expected


def test_what_the_rules_say_of_a_product_for_people() -> None:
    rules = (Rule(match="tiny", os="TinyOS", release_title="1 LTS", support_eol=Day("2030-04-30")),)
    (product,) = images_json([image()], rules)["products"].values()
    assert (product["os"], product["release"], product["release_title"]) == ("TinyOS", "1", "1 LTS")
    assert product["support_eol"] == "2030-04-30"
    assert "support_eol" not in images_json([image()], ())["products"]["tiny:1:amd64:default"]


@pytest.mark.parametrize(
    ("history", "listed"),
    [
        ([(UNIFIED_VM,)], [True]),
        ([(UNIFIED_VM,), (UNIFIED_VM, *LXC)], [True, True]),
        ([(UNIFIED_VM, *VM)], [True]),
        ([(UNIFIED_VM, UNIFIED)], [False]),
        ([(UNIFIED_VM, UNIFIED_LXD)], [False]),
        ([(UNIFIED_VM, *CONTAINER)], [False]),
        ([(UNIFIED_VM, INCUS, ROOT_TAR)], [False]),
        ([(UNIFIED_VM,), (UNIFIED,)], [False, False]),
        ([CONTAINER, (UNIFIED_VM,), (UNIFIED_VM, *LXC)], [False, False, False]),
    ],
)
def test_a_unified_vm_is_listed_where_its_product_has_no_container(history, listed) -> None:
    """Incus 6.0.4 takes it for one, and an alias stands for the newest of a product."""
    images = [image(serial=serial(day), files=files) for day, files in enumerate(history, start=1)]
    other = image("other/1/amd64/default")  # holds up nobody
    versions = images_json([*images, other], ())["products"]["tiny:1:amd64:default"]["versions"]
    assert [UNIFIED_VM in versions.get(one.serial, {"items": ()})["items"] for one in images] == listed
    assert all(version["items"] for version in versions.values())


def test_what_nobody_may_see_is_no_version() -> None:
    images = [image(serial=serial(1), files=(UNIFIED_VM,)), image("tiny/2/amd64/default")]
    rules = [Rule(match="tiny", clients=("lxd",))]
    assert list(images_json(images, rules)["products"]) == ["tiny:2:amd64:default"]
    assert list(images_json(images, ())["products"]) == ["tiny:1:amd64:default", "tiny:2:amd64:default"]
    assert list(images_json(images, (), {}, ("lxd",), ["*"])["products"]) == ["tiny:2:amd64:default"]
    everything = ["tiny:1:amd64:default", "tiny:2:amd64:default"]
    assert list(images_json(images, (), {}, ("incus",), ["*"])["products"]) == everything


def test_what_repeats_a_fingerprint_is_not_listed() -> None:
    images = [image(serial=serial(day), like=serial(1)) for day in (1, 2)]
    (product,) = images_json(images, ())["products"].values()
    assert list(product["versions"]) == [serial(1)]
    twin = image("tiny/2/amd64/default", files=CONTAINER)
    copy = Image(
        product=twin.product, serial=SERIAL, files={}, fingerprints=images[0].fingerprints, source=twin.source
    )
    assert list(images_json([*images, copy], ())["products"]) == ["tiny:1:amd64:default"]


def test_kept_products_are_listed_as_they_are() -> None:
    """Beside the others, or in place of what their images would make."""
    kept = {"tiny:1:amd64:default": {"aliases": "as it was"}, "gone:1:amd64:default": {}}
    alone = images_json([image("huge/1/amd64/x")], ())["products"]
    assert images_json([image(), image("huge/1/amd64/x")], (), kept)["products"] == alone | kept
    assert images_json([], (), kept)["products"] == kept
    assert text(images_json([image("huge/1/amd64/x")], (), kept)).index(b"gone") < 200, "sorted like the rest"


def test_what_is_for_lxc_alone_is_not_listed() -> None:
    images = [image(serial=serial(1)), image(serial=serial(2), files=LXC), image("huge/1/amd64/x", files=LXC)]
    (product,) = images_json(images, ())["products"].values()
    assert list(product["versions"]) == [serial(1)]


@pytest.mark.parametrize("suffix", ["json", "sjson"])
def test_the_index(suffix: str) -> None:
    assert index_json(iter(["b", "a"]), suffix) == {
        "format": "index:1.0",
        "index": {
            "images": {
                "datatype": "image-downloads",
                "format": "products:1.0",
                "path": f"streams/v1/images.{suffix}",
                "products": ["a", "b"],
            }
        },
    }


def test_the_index_names_the_plain_file_unless_told() -> None:
    assert index_json([]) == index_json([], "json")
    assert index_json([])["index"]["images"]["path"] == f"streams/v1/{IMAGES}"
    assert INDEX == "index.json"


# The bytes

MANY = images_of(
    {
        "tiny/1/amd64/default": EVERYTHING,
        "tiny/1/arm64/default": CONTAINER,
        "tiny/1/amd64/x+y": VM,
        "huge/current/amd64/default": LXC,
    },
    (serial(1), serial(2)),
)
DOCUMENTS = st.recursive(
    st.text(st.characters(exclude_categories=["Cs"])) | st.integers(-(2**53), 2**53),
    lambda inner: st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
).filter(lambda value: isinstance(value, dict))


def test_the_order_of_the_input_does_not_show() -> None:
    rules = (Rule(match="*", requirements={"b": "1", "a": "2"}),)
    expected = text(images_json(MANY, rules))
    for order in (MANY[::-1], MANY[3:] + MANY[:3]):
        assert text(images_json(order, rules)) == expected
    products = list(images_json(MANY, rules)["products"])
    for order in permutations(products):
        assert text(index_json(order)) == text(index_json(products))


@settings(max_examples=50)
@given(st.permutations(MANY), st.permutations(["a", "b", "c"]))
def test_equal_catalogues_are_equal_bytes(images: list[Image], keys: list[str]) -> None:
    rules = (Rule(match="*", requirements=dict.fromkeys(keys, "x")),)
    plain = (Rule(match="*", requirements=dict.fromkeys("abc", "x")),)
    assert text(images_json(images, rules)) == text(images_json(MANY, plain))


@settings(max_examples=50)
@given(DOCUMENTS)
def test_the_text_says_what_the_document_says(document: dict) -> None:
    data = text(document)
    assert json.loads(data) == document
    assert text(json.loads(data)) == data
    assert json.dumps(json.loads(data, object_pairs_hook=list)) == json.dumps(
        json.loads(json.dumps(document, sort_keys=True), object_pairs_hook=list)
    )


def test_the_text_has_one_value_a_line() -> None:
    """A clear-signed text is cut after some thousand characters in a line."""
    assert text({"b": ["y", "x"], "a": {"d": 1, "c": {}}}) == (
        b'{\n "a": {\n  "c": {},\n  "d": 1\n },\n "b": [\n  "y",\n  "x"\n ]\n}\n'
    )
    many = index_json([f"{'x' * 40}:{number}" for number in range(1000)])
    assert max(map(len, text(many).splitlines())) < 100


def test_packed_bytes_are_the_same_tomorrow() -> None:
    data = text(images_json(MANY, ()))
    packed = gzipped(data)
    assert gzip.decompress(packed) == data
    assert packed[4:8] == bytes(4), "no time"
    assert not packed[3] & 8, "no name"
    assert len(packed) < len(data) / 2


# The reference


def write(root: Path, images: tuple[Image, ...]) -> None:
    """The tree that the reference would have, with its sums."""
    for one in images:
        directory = root / one.path
        directory.mkdir(parents=True)
        for name, file in one.files.items():
            (directory / name).write_bytes(body := content(one.product.name, one.serial, name))
            assert digest(body) == file.sha256
        (directory / "SHA256SUMS").write_text(
            "".join(f"{file.sha256}  {name}\n" for name, file in one.files.items())
        )


CATALOGUE = {
    f"{name}/{arch}/{variant}": EVERYTHING
    for name in (
        *("almalinux/9", "alpine/3.21", "alpine/edge", "amazonlinux/2", "amazonlinux/2023", "archlinux/current"),
        *("centos/6", "centos/7", "centos/9-Stream", "debian/bookworm", "debian/wheezy", "debian/sid", "fedora/43"),
        *("freebsd/15", "gentoo/current", "nixos/25.11", "openeuler/24.03", "opensuse/tumbleweed", "oracle/7"),
        *("sabayon/current", "springdalelinux/7", "ubuntu/noble", "ubuntu/trusty", "voidlinux/current"),
    )
    for arch, variant in (("amd64", "default"), ("arm64", "cloud"), ("amd64", "desktop-x"), ("amd64", "default+zfs"))
}  # fmt: skip


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> tuple[Rule, ...]:
    path = tmp_path_factory.mktemp("etc") / "publish.toml"
    path.write_text(f'[site]\nroot = "r"\n[signing]\nkey = "k"\n{TABLES_AS_RULES}')
    return read(path, Path(__file__).parents[1]).rules


def test_the_reference_writes_the_same(tmp_path: Path, rules: tuple[Rule, ...]) -> None:
    """Of the same tree; requirements for LXD alone, and lists for it, it has in another form."""
    images = images_of(CATALOGUE)
    write(tmp_path, images)
    reference._write_streams(tmp_path, Tables(), messages := [])
    assert messages == []
    lists = tmp_path / reference.LISTS
    document = images_json(images, rules)
    for_lxd = {
        key
        for key, product in document["products"].items()
        if any("lxd.tar.xz" in version["items"] for version in product["versions"].values())
    }
    assert for_lxd == json.loads((lists / ".images.json.lxd").read_text())["products"].keys()
    expected = json.loads((lists / "images.json").read_text())
    for key, product in expected["products"].items():
        assert document["products"][key].pop("lxd_requirements") == product["requirements"]
        if key not in for_lxd:
            for version in product["versions"].values():
                del version["items"]["lxd.tar.xz"]
    assert document == expected
    assert index_json(document["products"]) == json.loads((lists / "index.json").read_text())
