"""What other tools call things, and what a metadata.yaml tells: pure, so a table each."""

from time import process_time

import pytest

from tasks import metadata, origin
from tasks.image import DISK, INCUS, LXD, SQUASHFS, UNIFIED, UNIFIED_VM

MARK, OTHER = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("text", "serial"),
    [
        ("20250102_03:04", "20250102_03:04"),
        ("20250102_0304", "20250102_03:04"),
        ("202501020304", "20250102_03:04"),
        ("20250102", "20250102_00:00"),
    ],
)
def test_a_serial_of_any_tool_becomes_ours(text: str, serial: str) -> None:
    assert origin.serial_of(text) == serial


@pytest.mark.parametrize(
    "text", ["", "today", "20250102.1", "20250102_", "20251302", "20250102_2561", "2025010203:04", "٢٠٢٥٠١٠٢"]
)
def test_what_is_no_serial_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="serial"):
        origin.serial_of(text)


@pytest.mark.parametrize(
    ("told", "fields"),
    [
        ({"os": "Debian", "release": "trixie", "architecture": "amd64", "variant": "cloud"}, "debian trixie amd64 cloud"),
        ({"os": "tiny", "release": 1}, "tiny 1 amd64 default"),
        ({"os": "tiny", "release": "1", "architecture": "aarch64"}, "tiny 1 arm64 default"),
    ],
)  # fmt: skip
def test_metadata_tells_the_product(told: dict[str, object], fields: str) -> None:
    found = metadata.product_fields({"architecture": "x86_64", "properties": told})
    assert found == tuple(fields.split())


@pytest.mark.parametrize(
    ("told", "text"),
    [
        ({"properties": {"serial": "20250102_0304"}, "creation_date": 1}, "20250102_0304"),
        ({"creation_date": 1735787040}, "20250102_03:04"),
        ({"creation_date": 10**30}, ""),
        ({"creation_date": True, "properties": []}, ""),
    ],
)
def test_metadata_tells_the_serial(told: dict[str, object], text: str) -> None:
    assert metadata.serial_text(told) == text


@pytest.mark.parametrize(
    "text", ["3.20", "20250102_0304", "1:20", "yes", "1_000", "0x10", "007", "2025-01-02", "1e3", "9" * 20]
)
def test_what_metadata_says_stays_as_it_is_written(text: str) -> None:
    """Incus reads properties into a map of strings; 3.20 is no release 3.2."""
    told = metadata.parse(f"properties: {{release: {text}, os: a, architecture: amd64}}".encode())
    assert metadata.product_fields(told)[1] == text


def test_nothing_in_metadata_takes_long() -> None:
    """A number of YAML 1.1 in base 60 took 48 s; packed, it has 360 bytes."""
    digits = ":".join(["1"] * 400_000)
    begun = process_time()
    assert metadata.parse(f"a: {digits}".encode()) == {"a": digits}
    for tag in ("int", "float", "timestamp", "binary"):
        with pytest.raises(ValueError, match="is no YAML: "):
            metadata.parse(f"a: !!{tag} {digits}".encode())
    assert process_time() - begun < 5


def test_the_nearest_requirement_counts() -> None:
    levels = [("far", b'{"a": "1", "b": "1"}'), ("near", b'{"a": "2"}')]
    assert origin.requirements(levels) == {"a": "2", "b": "1"}


@pytest.mark.parametrize(
    ("sums", "items", "known"),
    [
        (f"{MARK}  lxd.tar.xz\n", b"", {INCUS: MARK}),
        (f"{MARK} *incus.tar.xz\n{OTHER}  gone.log\n", b"", {INCUS: MARK}),
        (f"{MARK}  ./incus.tar.xz\n", b"", {INCUS: MARK}),
        (f"\n{MARK.upper()}  incus.tar.xz\r\n \n", b"", {INCUS: MARK}),
        ("", f'{{"incus.tar.xz": {{"sha256": "{MARK}"}}}}'.encode(), {INCUS: MARK}),
    ],
)
def test_records_tell_hashes(sums: str, items: bytes, known: dict[str, str]) -> None:
    assert origin.known_hashes([INCUS], sums.encode(), items) == known


@pytest.mark.parametrize(
    ("names", "there", "away"),
    [
        ("incus.tar.xz disk.qcow2 rootfs.squashfs", "incus.tar.xz rootfs.squashfs", "disk.qcow2"),
        ("incus.tar.xz root.squashfs", "incus.tar.xz", "root.squashfs"),
        ("incus.tar.xz image.yaml meta.tar.xz", "incus.tar.xz", "image.yaml, meta.tar.xz"),
        ("incus.tar.xz build.log delta-20250101_00:00.vcdiff x.vcdiff serial", "incus.tar.xz", ""),
        ("lxd.tar.xz", "incus.tar.xz", ""),
        ("lxd.tar.xz", "rootfs.squashfs", "lxd.tar.xz"),
        ("incus.tar.xz lxd.tar.xz", "incus.tar.xz", ""),
        ("incus.tar.xz", "lxd.tar.xz", "incus.tar.xz"),
        ("", "incus.tar.xz", ""),
    ],
)
def test_sums_tell_what_is_not_there_yet(names: str, there: str, away: str) -> None:
    sums = "".join(f"{MARK}  {name}\n" for name in names.split()).encode()
    said = f"it was not finished: SHA256SUMS names {away}" if away else ""
    assert origin.unfinished(there.split(), sums) == said


def test_metadata_for_lxd_that_differs_is_awaited() -> None:
    sums = f"{MARK}  incus.tar.xz\n{OTHER}  lxd.tar.xz\n".encode()
    assert origin.unfinished([INCUS], sums) == "it was not finished: SHA256SUMS names lxd.tar.xz"


@pytest.mark.parametrize(
    ("sums", "items", "why"),
    [
        (b"incus.tar.xz\n", b"", "is no sha256 and name"),
        (f"{MARK}  incus.tar.xz\n".encode(), f'{{"incus.tar.xz": {{"sha256": "{OTHER}"}}}}'.encode(), "disagree"),
        (b"", b'{"incus.tar.xz": 1}\n\x00', "items.json"),
    ],
)  # fmt: skip
def test_records_that_cannot_be_believed_are_named(sums: bytes, items: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        origin.known_hashes([INCUS], sums, items)


def product(**items: dict[str, object]) -> dict[str, object]:
    named = {"os": "Tiny", "release": "1", "arch": "amd64", "requirements": {"a": "b"}}
    return {"products": {"x": {**named, "versions": {"202501020304": {"items": items}}}}}


def item(ftype: str, path: str, **more: str) -> dict[str, object]:
    return {"ftype": ftype, "path": path, "sha256": MARK, **more}


def test_streams_name_files_wherever_they_lie() -> None:
    found = origin.listed(
        product(
            a=item("lxd.tar.xz", "images/m.tar.xz"),
            b=item("incus.tar.xz", "images/m.tar.xz"),
            c=item("squashfs", "images/r.squashfs"),
            d=item("disk-kvm.img", "images/r.qcow2"),
            e=item("incus_combined.tar.gz", "images/vm", combined_type="virtual-machine"),
            f=item("squashfs.vcdiff", "images/delta"),
        ),
        "images.json",
    )
    (one,) = found
    assert one.name == "tiny/1/amd64/default/20250102_03:04"
    assert one.paths == {
        INCUS: "images/m.tar.xz",
        SQUASHFS: "images/r.squashfs",
        DISK: "images/r.qcow2",
        UNIFIED_VM: "images/vm",
    }
    assert set(one.known.values()) == {MARK}
    assert (one.requirements, one.fault) == ({"a": "b"}, "")
    assert one.notes == ("its serial was 202501020304",)


@pytest.mark.parametrize(
    ("arch", "ours"),
    [
        ("x86_64", "amd64"), ("aarch64", "arm64"), ("armv7l", "armhf"), ("i686", "i386"), ("ppc64le", "ppc64el"),
        ("s390x", "s390x"), ("riscv64", "riscv64"), ("amd64", "amd64"), ("loongarch64", "loong64"), ("vax", "vax"),
        ("x86_64_v3", "x86_64_v3"), ("i586", "i386"), ("armv6l", "armel"),
    ],
)  # fmt: skip
def test_an_architecture_has_one_name(arch: str, ours: str) -> None:
    document = product(a=item("lxd.tar.xz", "m"), b=item("squashfs", "r"))
    document["products"]["x"]["arch"] = arch  # type: ignore[index]
    (one,) = origin.listed(document, "images.json")
    assert one.product
    assert one.product.arch == ours
    assert (f"its architecture was {arch}" in one.notes) == (arch != ours)


@pytest.mark.parametrize("path", ["/etc/shadow", "../../etc/shadow", "images/../../x"])
def test_streams_name_nothing_outside(path: str) -> None:
    (one,) = origin.listed(product(a=item("squashfs", path)), "images.json")
    assert "is not a plain relative one" in one.fault
    assert not one.paths


def test_one_tarball_alone_may_be_a_unified_image() -> None:
    assert origin.unified(["debian.tar.xz", "image.yaml"]) == "debian.tar.xz"
    assert not origin.unified(["a.tar.xz", "b.tar.xz"])
    assert not origin.unified(["a.tar.xz", "rootfs.squashfs"])


def test_two_names_for_one_file_are_refused() -> None:
    assert origin.to_store(["lxd.tar.xz", "root.squashfs"]) == {INCUS: LXD, SQUASHFS: "root.squashfs"}
    with pytest.raises(ValueError, match="would both be rootfs.squashfs"):
        origin.to_store(["root.squashfs", "rootfs.squashfs"])
    assert origin.to_store([UNIFIED]) == {UNIFIED: UNIFIED}
