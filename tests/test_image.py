"""Products, images and their files; and how records are written down."""

import json
import string
from datetime import UTC, datetime, timedelta, timezone
from itertools import chain, combinations
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import PAIRS

from tasks.errors import TreeError
from tasks.image import (
    _CANONICAL,
    COMBINED,
    DISK,
    INCUS,
    LOG,
    LXD,
    META,
    METADATA,
    ROOT_TAR,
    ROOTS,
    SERIAL,
    SOURCE,
    SQUASHFS,
    STORED,
    SUMS,
    UNIFIED,
    UNIFIED_LXD,
    UNIFIED_VM,
    File,
    Image,
    Kind,
    Product,
    Source,
    canonical_arch,
    kinds,
    parse_serial,
    publishable,
    serial_time,
    sums,
)
from tasks.state import encode, load, load_all

HEX = "0123456789abcdef" * 4
WORD = string.ascii_letters + string.digits
COMPONENTS = st.builds(str.__add__, st.sampled_from(WORD), st.text(WORD + "._+~-", max_size=20))
PRODUCTS = st.builds(Product, COMPONENTS, COMPONENTS, COMPONENTS, COMPONENTS)
MINUTES = st.datetimes(timezones=st.just(UTC)).map(lambda time: time.replace(second=0, microsecond=0))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
IMAGES = st.builds(
    Image,
    product=PRODUCTS,
    serial=st.just("20260101_07:42"),
    files=st.dictionaries(st.sampled_from(STORED), st.builds(File, st.integers(0, 2**53), st.just(HEX))),
    fingerprints=st.dictionaries(
        st.sampled_from((INCUS, LXD)), st.dictionaries(st.sampled_from(STORED), st.just(HEX))
    ),
    source=st.builds(
        Source,
        job=TEXTS,
        configuration=TEXTS,
        number=st.integers(0, 2**31),
        timestamp=st.integers(0, 2**53),
        md5=st.dictionaries(TEXTS, TEXTS),
    ),
)


def serial_of(time: datetime) -> str:
    """strftime does not pad years before 1000 everywhere."""
    return f"{time.year:04}{time:%m%d_%H:%M}"


# Products


@given(PRODUCTS)
def test_a_product_is_its_name(product: Product) -> None:
    assert Product.parse(product.name) == product
    assert product.key.split(":") == product.name.split("/")
    assert product.path == f"images/{product.name}"


@given(PRODUCTS)
def test_a_product_stays_below_its_directory(product: Product) -> None:
    root = Path("/srv/public")
    assert root.joinpath(product.path).resolve() == root / product.path
    assert Path(f"{product.key}.json").name == f"{product.key}.json"


def test_the_forms_of_a_name() -> None:
    product = Product("freebsd", "15.0", "amd64", "default+zfs")
    assert product.name == "freebsd/15.0/amd64/default+zfs"
    assert product.key == "freebsd:15.0:amd64:default+zfs"
    assert product.path == "images/freebsd/15.0/amd64/default+zfs"


@pytest.mark.parametrize(
    "component",
    ["a", "A9", "7-Stream", "24.04", "default+zfs", "x86_64", "sid~rc1", "a..b", "9" * 100],
)
@pytest.mark.parametrize("place", range(4))
def test_a_component_may_be(component: str, place: int) -> None:
    parts = ["x"] * 4
    parts[place] = component
    assert Product.parse("/".join(parts)).name.split("/")[place] == component


@pytest.mark.parametrize(
    "component",
    [
        *("", ".", "..", ".hidden", "-rf", "+x", "_x", "~root", "a b", " a", "a ", "a\n", "a\0", "a\t"),
        *("a:b", "a;b", "a=b", "a,b", "a\\b", "a%2fb", "a*", "a?", "[a]", "{a}", "a'b", "é", "２", "9" * 101),
    ],
)
@pytest.mark.parametrize("place", range(4))
def test_a_component_may_not_be(component: str, place: int) -> None:
    parts = ["x"] * 4
    parts[place] = component
    with pytest.raises(ValueError, match="cannot be part of a product's name") as caught:
        Product(*parts)
    assert str(caught.value) == f"{component!r} cannot be part of a product's name"


def test_a_name_fits_into_a_file_name() -> None:
    longest = Product("x" * 100, "1" * 100, "a" * 18, "v" * 19)
    assert len(f".tmp-{longest.key}.json") < 255
    with pytest.raises(ValueError, match="too long") as caught:
        Product("x" * 100, "1" * 100, "a" * 18, "v" * 20)
    assert str(caught.value) == (
        f"'{'x' * 100}/{'1' * 100}/{'a' * 18}/{'v' * 20}' is too long for a product's name"
    )


@pytest.mark.parametrize("name", ["", "a", "a/b/c", "a/b/c/d/e", "a:b:c:d"])
def test_a_name_has_four_parts(name: str) -> None:
    with pytest.raises(ValueError, match="os/release/arch/variant") as caught:
        Product.parse(name)
    assert str(caught.value) == f"{name!r} is not os/release/arch/variant"


@pytest.mark.parametrize("name", ["/b/c/d", "a//c/d", "a/b/c/", "a/b/../d"])
def test_a_name_has_no_empty_part(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be part of a product's name"):
        Product.parse(name)


def test_a_product_from_outside_is_checked_too() -> None:
    """Records on disk and answers of Jenkins go through the same gate."""
    with pytest.raises(msgspec.ValidationError, match=r"'\.\.' cannot be part of a product's name"):
        msgspec.json.decode('{"os":"..","release":"1","arch":"a","variant":"v"}', type=Product)


# Images


def test_the_names_of_all_files() -> None:
    """Clients, mirrors and old trees know them; they are never to change."""
    assert " ".join(STORED) == (
        "incus.tar.xz lxd.tar.xz meta.tar.xz rootfs.squashfs rootfs.tar.xz disk.qcow2"
        " incus_combined.tar.gz lxd_combined.tar.gz incus_combined.vm.tar.gz image.yaml"
    )
    assert (SERIAL, LOG, SUMS, SOURCE) == ("serial", "build.log", "SHA256SUMS", "source.json")
    assert " ".join(METADATA) == "incus.tar.xz lxd.tar.xz"
    assert " ".join(ROOTS) == "rootfs.squashfs rootfs.tar.xz disk.qcow2"
    assert [str(kind) for kind in Kind] == ["container", "VM", "LXC"]


def image(*names: str) -> Image:
    source = Source(job="image-tiny", configuration="", number=1, timestamp=0, md5={})
    files = {name: File(10 + number, HEX) for number, name in enumerate(names)}
    product = Product("tiny", "1", "amd64", "default")
    return Image(product=product, serial="20260101_07:42", files=files, fingerprints={}, source=source)


def test_an_image_knows_its_place_and_its_size() -> None:
    some = image(INCUS, SQUASHFS, DISK)
    assert some.path == "images/tiny/1/amd64/default/20260101_07:42"
    assert some.size == 10 + 11 + 12
    assert some.kinds == {Kind.CONTAINER, Kind.VM}
    assert (image().size, image().kinds) == (0, frozenset())


def test_an_image_knows_every_fingerprint_of_its_own() -> None:
    """Of pairs the combined hash, of unified images the file's own."""
    names = (INCUS, SQUASHFS, DISK, *COMBINED, LOG)
    files = {name: File(1, f"{number}" * 64) for number, name in enumerate(names)}
    split = {INCUS: {SQUASHFS: "a" * 64, DISK: "b" * 64}}
    some = msgspec.structs.replace(image(), files=files, fingerprints=split)
    assert some.marks == ["a" * 64, "b" * 64, "3" * 64, "4" * 64, "5" * 64]
    assert image(INCUS, META, LOG).marks == []


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((), ()),
        ((INCUS,), ()),
        ((SQUASHFS,), ()),
        ((INCUS, SQUASHFS), (Kind.CONTAINER,)),
        ((LXD, SQUASHFS), (Kind.CONTAINER,)),
        ((INCUS, DISK), (Kind.VM,)),
        ((LXD, DISK), (Kind.VM,)),
        ((INCUS, ROOT_TAR), (Kind.CONTAINER,)),
        ((META, SQUASHFS), ()),
        ((META, DISK), ()),
        ((META, ROOT_TAR), (Kind.LXC,)),
        ((META, ROOT_TAR, SQUASHFS), (Kind.LXC,)),
        ((INCUS, META, ROOT_TAR), (Kind.LXC,)),
        ((INCUS, LXD, SQUASHFS, DISK), (Kind.CONTAINER, Kind.VM)),
        ((UNIFIED,), (Kind.CONTAINER,)),
        ((UNIFIED_LXD,), (Kind.CONTAINER,)),
        ((UNIFIED_VM,), (Kind.VM,)),
        ((UNIFIED, UNIFIED_VM, META), (Kind.CONTAINER, Kind.VM)),
        (STORED, tuple(Kind)),
    ],
    ids=lambda value: " ".join(value) or "nothing",
)
def test_what_files_can_be_used_as(names: tuple[str, ...], expected: tuple[Kind, ...]) -> None:
    assert kinds(names) == set(expected)


def test_publishable_is_what_the_reference_publishes() -> None:
    """For every set of files that it knows; it takes lxd.tar.xz for incus.tar.xz where only that is there."""
    known = [name for name in STORED if name not in COMBINED]
    for names in chain.from_iterable(combinations(known, size) for size in range(len(known) + 1)):
        found = {INCUS if name == LXD else name for name in names}
        assert publishable(names) == any(pair <= found for pair in PAIRS), names


# Serials


@pytest.mark.parametrize(
    ("text", "serial"),
    [
        ("20260101_07:42", "20260101_07:42"),
        ("20260101_07:42\n", "20260101_07:42"),
        ("\r\n 20240229_23:59 \t", "20240229_23:59"),
        ("20000101_00:00", "20000101_00:00"),
    ],
)
def test_a_serial_is_read(text: str, serial: str) -> None:
    assert parse_serial(text) == serial


@pytest.mark.parametrize(
    "text",
    [
        *("", "20260101", "20260101_0742", "202601010742", "2026-01-01_07:42", "20260101 07:42"),
        *("20260101_07:42:00", "20260101_7:42", "x20260101_07:42", "20260101_07:42 20260102_07:42"),
        *("../../etc/passwd", "20260101_07:42/..", "20260101_07:4²", "２０２６0101_07:42", "20260101_0７:42"),
    ],
)
def test_another_form_is_no_serial(text: str) -> None:
    with pytest.raises(ValueError, match="is not YYYYMMDD_HH:MM") as caught:
        parse_serial(text)
    assert str(caught.value) == f"serial {text!r} is not YYYYMMDD_HH:MM"


@pytest.mark.parametrize(
    "text",
    [
        *("20260001_00:00", "20261301_00:00", "20260100_00:00", "20260132_00:00", "20260230_00:00"),
        *("20250229_00:00", "20260101_24:00", "20260101_00:60", "00000101_00:00"),
    ],
)
def test_a_serial_is_a_real_moment(text: str) -> None:
    with pytest.raises(ValueError, match="is no date and time") as caught:
        parse_serial(f" {text}\n")
    assert str(caught.value) == f"serial {text!r} is no date and time"


def test_a_long_serial_is_not_repeated_whole() -> None:
    with pytest.raises(ValueError, match="is not YYYYMMDD_HH:MM") as caught:
        parse_serial("x" * 100_000)
    assert str(caught.value) == f"serial {'x' * 40!r} is not YYYYMMDD_HH:MM"


@given(MINUTES)
def test_a_serial_is_a_minute_in_utc(time: datetime) -> None:
    assert serial_time(parse_serial(serial_of(time))) == time
    assert serial_time(serial_of(time)).utcoffset() == timedelta(0)


@given(MINUTES, MINUTES)
def test_serials_are_ordered_like_time(one: datetime, other: datetime) -> None:
    assert (serial_of(one) < serial_of(other)) == (one < other)
    assert (parse_serial(serial_of(one)) < parse_serial(serial_of(other))) == (one < other)


def test_a_serial_is_not_local_time() -> None:
    berlin = timezone(timedelta(hours=1))
    assert serial_time("20260101_07:42") == datetime(2026, 1, 1, 8, 42, tzinfo=berlin)


# SHA256SUMS


def test_sums_are_what_sha256sum_reads() -> None:
    files = {"rootfs.squashfs": File(3, "b" * 64), "incus.tar.xz": File(4, "a" * 64), "Z": File(0, "c" * 64)}
    assert sums(files) == f"{'c' * 64}  Z\n{'a' * 64}  incus.tar.xz\n{'b' * 64}  rootfs.squashfs\n"
    assert sums({}) == ""


# Architectures


@pytest.mark.parametrize(
    ("canonical", "names"),
    {
        "i686": "i386 i586 386 x86 generic_32",
        "x86_64": "amd64 generic_64 x86_64_v1 x86_64_v2 x86_64_v3 x86_64_v4",
        "armv6l": "armel arm",
        "armv7l": "armhf armhfp armv7a_hardfp armv7 armv7a_vfpv3_hardfp",
        "armv8l": "",
        "aarch64": "arm64 arm64_generic",
        "ppc": "powerpc",
        "ppc64": "powerpc64",
        "ppc64le": "ppc64el",
        "s390x": "",
        "mips": "mipsel mipsle",
        "mips64": "mips64el mips64le",
        "riscv32": "",
        "riscv64": "",
        "loongarch64": "loong64",
    }.items(),
    ids=lambda value: value.split(" ")[0],
)
def test_the_architectures_of_incus(canonical: str, names: str) -> None:
    assert {canonical_arch(name) for name in (canonical, *names.split())} == {canonical}


def test_no_name_stands_for_two_architectures() -> None:
    assert len(_CANONICAL) == 43
    assert set(_CANONICAL.values()) <= _CANONICAL.keys()


@pytest.mark.parametrize(
    "name", ["", "Z", "all", "any", "AMD64", "x86-64", "arm64 ", "sparc", "x86_64_v5", "None"]
)
def test_other_architectures_are_unknown(name: str) -> None:
    assert canonical_arch(name) is None


# Records as they are written down


@settings(max_examples=30)
@given(IMAGES)
def test_an_image_comes_back_as_it_was(one: Image) -> None:
    data = encode(one)
    assert msgspec.json.decode(data, type=Image) == one
    assert encode(msgspec.json.decode(data, type=Image)) == data


@settings(max_examples=30)
@given(st.dictionaries(TEXTS, st.just(HEX), min_size=2))
def test_equal_records_are_equal_bytes(md5: dict[str, str]) -> None:
    """In whatever order a mapping was filled."""
    orders = (md5, dict(reversed(md5.items())))
    one, other = (Source(job="a", configuration="b", number=1, timestamp=2, md5=order) for order in orders)
    assert encode(one) == encode(other)


def test_a_record_is_written_for_people_and_for_diff() -> None:
    assert encode({"b": [1, "ü"], "a": {"d": None, "c": {}}, "e": []}) == (
        b'{\n  "a": {\n    "c": {},\n    "d": null\n  },\n'
        b'  "b": [\n    1,\n    "\xc3\xbc"\n  ],\n  "e": []\n}\n'
    )
    assert encode(File(1, "x")) == b'{\n  "sha256": "x",\n  "size": 1\n}\n'
    assert list(json.loads(encode(image(INCUS)))) == ["files", "fingerprints", "product", "serial", "source"]


def test_a_record_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    assert load(path, Image) is None
    path.write_bytes(encode(image(INCUS)))
    assert load(path, Image) == image(INCUS)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        pytest.param(b'{"size": 1, "sha', "Input data was truncated", id="cut off"),
        pytest.param(b"", "Input data was truncated", id="empty"),
        pytest.param(
            b'{"sha256": "\xff", "size": 1}',
            "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
            id="no text inside",
        ),
        pytest.param(b'{"size": "1"}', "Expected `int`, got `str` - at `$.size`", id="another type"),
        pytest.param(b'{"size": 1}', "Object missing required field `sha256`", id="a field too few"),
        pytest.param(b"[]", "Expected `object`, got `array`", id="no object"),
    ],
)
def test_a_damaged_record_says_what_to_do(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "one.json"
    path.write_bytes(data)
    with pytest.raises(TreeError) as caught:
        load(path, File)
    assert str(caught.value) == f"{path} is damaged ({why}); remove it, the next publish makes it again"


def test_a_record_of_a_later_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_bytes(b'{"size": 1, "sha256": "x", "mtime": 5}')
    assert load(path, File) == File(1, "x")


def test_all_records_of_a_directory_in_the_order_of_their_names(tmp_path: Path) -> None:
    assert list(load_all(tmp_path / "missing", File)) == []
    for size, name in enumerate(("c", "a", "d", "b")):
        (tmp_path / f"{name}.json").write_bytes(encode(File(size, name)))
    (tmp_path / ".tmp-e.json").write_bytes(b"{")
    (tmp_path / "f.txt").write_bytes(b"{")
    assert [file.sha256 for file in load_all(tmp_path, File)] == ["a", "b", "c", "d"]
    lazily = load_all(tmp_path, File)
    next(lazily)
    (tmp_path / "c.json").unlink()
    assert [file.sha256 for file in lazily] == ["b", "d"]
    (tmp_path / "b.json").write_bytes(b"{")
    with pytest.raises(TreeError) as caught:
        list(load_all(tmp_path, File))
    path = tmp_path / "b.json"
    assert str(caught.value) == f"{path} is damaged (Input data was truncated); remove it and publish again"
