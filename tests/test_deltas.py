"""Deltas: who has an image fetches the difference, and a wrong delta never reaches anybody."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from msgspec.structs import replace
from sites import Site, build, files, matrix, serial, wait_for
from test_verify import flip
from tools import program

from tasks import programs, xdelta
from tasks.catalogue import bases, catalogue
from tasks.delta import deltas as make_deltas
from tasks.errors import ProgramFailed, ProgramMissing
from tasks.files import digest
from tasks.image import (
    DELTAS,
    DISK,
    INCUS,
    SOURCE,
    SQUASHFS,
    SUMS,
    UNIFIED_VM,
    File,
    Image,
    Product,
    Source,
    delta_name,
    parse_delta,
)
from tasks.settings import Deltas
from tasks.sign import Sequoia, sign_directory
from tasks.state import encode
from tasks.streams import delta_items, without

A = "tiny/1/amd64/default"
KEY = A.replace("/", ":")
ALL = ("container", "vm", "lxc")
PAYLOAD = os.urandom(300_000)

pytestmark = pytest.mark.usefixtures("xdelta3")


@pytest.fixture(scope="module")
def xdelta3() -> str:
    return program("xdelta3")


def made(site: Site, payload: bytes = PAYLOAD, **options) -> str:
    """Finish a build of the product; its serial."""
    new = options.setdefault("serial", serial())
    build(site.ci, A, content={A: files(A, payload=payload, **options)})
    return new


@pytest.fixture
def two(site: Site) -> tuple[Site, str, str]:
    """A product with two images of nearly the same content, published one after the other."""
    matrix(site.ci, A)
    first = made(site, kinds=ALL)
    site.publish()
    second = made(site, kinds=ALL)
    return site, first, second


def items(site: Site, of: str) -> dict[str, dict]:
    return site.products()[KEY]["versions"][of]["items"]


def deltas(site: Site, of: str) -> dict[str, str]:
    """The listed deltas of an image: their base by ftype."""
    found = items(site, of).values()
    return {item["ftype"]: item["delta_base"] for item in found if item["ftype"].endswith(".vcdiff")}


def test_the_second_image_has_a_delta_that_a_client_can_apply(two, tmp_path: Path) -> None:
    site, first, second = two
    said = site.publish().out
    item = items(site, second)[f"root.{first}.vcdiff"]
    delta = site.latest / item["path"]
    assert item["ftype"] == "squashfs.vcdiff"
    assert item["delta_base"] == first
    assert item["path"] == f"images/{A}/{second}/delta-{first}.vcdiff"
    assert (item["size"], item["sha256"]) == (delta.stat().st_size, digest(delta.read_bytes()))
    assert f"delta from {first} {item['size'] / items(site, second)['root.squashfs']['size']:.0%})" in said
    base, root = (site.latest / f"images/{A}/{one}/{SQUASHFS}" for one in (first, second))
    argv = ["xdelta3", "-f", "-d", "-s", base, delta, tmp_path / "made"]  # lxc/incus:client, word for word
    subprocess.run(argv, check=True)
    assert (tmp_path / "made").read_bytes() == root.read_bytes()
    assert f"{item['sha256']}  {delta.name}\n" in delta.with_name(SUMS).read_text()
    assert delta.with_name(f"{delta.name}.asc").exists()
    assert deltas(site, first) == {}
    assert not list(delta.parent.glob("*.qcow2.vcdiff"))
    assert site.doit("verify").code == 0
    assert site.publish().executed == ["poll"]


@pytest.mark.parametrize(
    ("clients", "listed"),
    [('["lxd"]', {"squashfs.vcdiff", "disk-kvm.img.vcdiff"}), ('["incus", "lxd"]', {"squashfs.vcdiff"})],
)
def test_the_delta_of_a_disk_is_made_if_asked_for_and_never_shown_to_incus(site, clients, listed) -> None:
    """Incus takes the base of any delta for a container (lxc/incus:shared/simplestreams/products.go)."""
    site.more = f"[deltas]\nvm = true\n[[rules]]\nmatch = '*'\nclients = {clients}\n"
    matrix(site.ci, A)
    first = made(site, kinds=ALL)
    site.publish()
    second = made(site, kinds=ALL)
    assert f"delta of the disk from {first}" in site.publish().out
    assert (site.latest / f"images/{A}/{second}/delta-{first}.qcow2.vcdiff").exists()
    assert deltas(site, second).keys() == listed
    assert site.doit("verify").code == 0


def test_so_many_bases_and_other_bases_touch_new_images_only(two) -> None:
    site, first, second = two
    site.publish()
    site.more = "[deltas]\nbases = 2\n"
    site.configure()
    assert site.publish().executed == ["poll"]
    third = made(site)
    site.publish()
    assert {name for name in items(site, third) if "vcdiff" in name} == {
        f"root.{first}.vcdiff",
        f"root.{second}.vcdiff",
    }
    site.more = "[deltas]\nbases = 0\n"
    site.configure()
    fourth = made(site)
    site.publish()
    assert not list((site.latest / f"images/{A}/{fourth}").glob("delta-*"))
    assert deltas(site, third)
    assert site.doit("verify").code == 0


def test_a_delta_whose_base_left_is_not_listed_and_goes_with_its_image(site: Site) -> None:
    site.lines = "keep = 2\n"
    matrix(site.ci, A)
    serials = []
    for _ in range(3):
        serials.append(made(site))
        site.publish()
    first, second, third = serials
    assert list(site.products()[KEY]["versions"]) == [second, third]
    assert deltas(site, second) == {}
    assert deltas(site, third) == {"squashfs.vcdiff": second}
    assert (site.latest / f"images/{A}/{second}/delta-{first}.vcdiff").exists()
    assert site.doit("verify").code == 0


def test_an_image_that_was_taken_back_is_no_base(two) -> None:
    site, first, second = two
    site.publish()
    assert site.doit("withdraw", f"{A}/{second}").code == 0
    third = made(site)
    site.publish()
    assert deltas(site, third) == {"squashfs.vcdiff": first}


@pytest.mark.parametrize("now", [("--now",), ()])
def test_a_delta_whose_base_is_withdrawn_is_not_listed(two, now) -> None:
    site, first, second = two
    site.publish()
    assert deltas(site, second)
    assert site.doit("withdraw", *now, f"{A}/{first}").code == 0
    site.publish()
    assert deltas(site, second) == {}
    assert site.doit("verify").code == 0


def test_an_image_that_would_leave_at_once_is_no_base(site: Site) -> None:
    site.lines = "keep = 1\n"
    matrix(site.ci, A)
    made(site)
    site.publish()
    second = made(site)
    site.publish()
    assert not list((site.latest / f"images/{A}/{second}").glob("delta-*"))


def test_a_delta_that_saves_little_is_dropped(site: Site) -> None:
    matrix(site.ci, A)
    first = made(site)
    site.publish()
    second = made(site, payload=os.urandom(300_000))
    assert f"no delta from {first}: it would be more than 70% of rootfs.squashfs)" in site.publish().out
    assert not list((site.latest / f"images/{A}/{second}").glob("delta-*"))
    assert site.doit("verify").code == 0


LIAR = """#!/bin/sh
# flips one byte of what it encodes
case " $* " in
*" -e "*) {xdelta3} "$@" | {python} -c '
import sys
data = bytearray(sys.stdin.buffer.read())
data[len(data) * 2 // 3] ^= 1
sys.stdout.buffer.write(data)' ;;
*) exec {xdelta3} "$@" ;;
esac
"""


def test_a_delta_that_does_not_make_the_root_is_dropped(two, tmp_path: Path, xdelta3: str) -> None:
    site, first, second = two
    liar = tmp_path / "bin/xdelta3"
    liar.parent.mkdir()
    liar.write_text(LIAR.format(xdelta3=xdelta3, python="/usr/bin/env python3"))
    liar.chmod(0o755)
    said = site.publish(env={"PATH": f"{liar.parent}:{os.environ['PATH']}"}).out
    assert f"no delta from {first}: " in said
    assert deltas(site, second) == {}
    assert not list((site.latest / f"images/{A}/{second}").glob("delta-*"))
    assert site.doit("verify").code == 0


def test_without_xdelta3_images_come_without_deltas_and_say_so(two, tmp_path: Path) -> None:
    site, first, second = two
    said = site.publish(env={"PATH": str(tmp_path)}).out
    assert f"no delta from {first}: xdelta3 is not installed on this machine)" in said
    assert deltas(site, second) == {}


def test_with_an_xdelta3_that_cannot_be_started_images_come_without_deltas(two, tmp_path: Path) -> None:
    site, first, second = two
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/xdelta3").write_text("no program")
    (tmp_path / "bin/xdelta3").chmod(0o755)
    said = site.publish(env={"PATH": str(tmp_path / "bin")}).out
    assert f"no delta from {first}: xdelta3 cannot be started: Exec format error)" in said
    assert deltas(site, second) == {}


def test_verify_without_xdelta3_says_that_it_could_not_look(two, tmp_path: Path) -> None:
    site, _, _ = two
    site.publish()
    result = site.doit("verify", env={"PATH": str(tmp_path)})
    assert result.code == 1
    assert "1 delta cannot be decoded: xdelta3 is not installed on this machine" in result.out
    assert "signatures: 1 fault, named above" in result.out


def test_a_base_that_is_gone_meanwhile_is_only_noted(tmp_path: Path) -> None:
    """Whoever withdraws it at once does not wait for a publication."""
    (tmp_path / SQUASHFS).write_bytes(PAYLOAD)
    files_ = {SQUASHFS: File(len(PAYLOAD), digest(PAYLOAD))}
    base = replace(TestNouns.image(1, SQUASHFS), files=files_)
    gone = tmp_path / "gone"
    made, notes = make_deltas(tmp_path, files_, [(base, gone)], Deltas())
    assert made == {}
    assert notes == [
        f"no delta from {base.serial}: {gone / SQUASHFS} cannot be read: No such file or directory"
    ]
    assert [path.name for path in tmp_path.iterdir()] == [SQUASHFS]


def test_nothing_is_made_of_a_base_that_is_damaged(two) -> None:
    """It would fit this base only, and no client has that."""
    site, first, second = two
    damaged = site.root / f"site/public/images/{A}/{first}/{SQUASHFS}"
    flip(damaged)
    assert f"no delta from {first}: {damaged} is damaged)" in site.publish().out
    assert not list((site.latest / f"images/{A}/{second}").glob("delta-*"))


def test_one_byte_of_a_published_delta_is_named(two) -> None:
    site, first, second = two
    site.publish()
    delta = f"images/{A}/{second}/delta-{first}.vcdiff"
    flip(site.latest / delta)
    result = site.doit("verify")
    assert result.code == 1
    assert f"{delta}: has another sha256 than SHA256SUMS and source.json say" in result.out


def test_of_a_base_that_is_damaged_only_that_is_said(two) -> None:
    site, first, _ = two
    site.publish()
    flip(site.latest / f"images/{A}/{first}/{SQUASHFS}")
    result = site.doit("verify")
    assert result.code == 1
    assert ": 1 fault, named above" in result.out


def test_an_image_with_a_delta_is_known_when_it_comes_again(two) -> None:
    site, _, second = two
    site.publish()
    names = ("incus.tar.xz", SQUASHFS, DISK, "rootfs.tar.xz", "meta.tar.xz", "image.yaml")
    again = {name: (site.latest / f"images/{A}/{second}/{name}").read_bytes() for name in names}
    build(site.ci, A, content={A: {**again, "serial": f"{serial()}\n".encode()}})
    assert f"has the content of {second}: nothing new" in site.publish().out


def test_a_delta_of_other_content_is_named_though_every_hash_is_right(two, tmp_path, key, xdelta3) -> None:
    site, first, second = two
    site.publish()
    where = site.latest.resolve() / f"images/{A}/{second}"
    delta = where / f"delta-{first}.vcdiff"
    (tmp_path / "other").write_bytes(os.urandom(1000))
    delta.unlink()
    base = site.latest / f"images/{A}/{first}/{SQUASHFS}"
    subprocess.run([xdelta3, "-e", "-s", base, tmp_path / "other", delta], check=True)
    record = site.json(f"images/{A}/{second}/{SOURCE}")
    old = record["files"][delta.name]["sha256"]
    record["files"][delta.name] = {
        "size": delta.stat().st_size,
        "sha256": digest(delta.read_bytes()),
    }
    text = (where / SUMS).read_text().replace(old, record["files"][delta.name]["sha256"])
    text = text.replace(digest((where / SOURCE).read_bytes()), digest(encode(record)))
    for name, data in ((SOURCE, encode(record)), (SUMS, text.encode())):
        (where / name).unlink()  # it is linked to the site's own
        (where / name).write_bytes(data)
    for signature in where.glob("*.asc"):
        signature.unlink()
    sign_directory(where, Sequoia(str(key.secret), ""))
    result = site.doit("verify")
    assert result.code == 1
    path = f"images/{A}/{second}/delta-{first}.vcdiff"
    assert f"{path}: from {first} it makes other bytes than the root has" in result.out
    assert f"{where.name}/{SUMS}:" not in result.out


def test_an_image_that_comes_again_may_lack_its_delta(two) -> None:
    """What was made here is no part of what the build is."""
    site, _, second = two
    site.publish()
    (site.root / f"site/public/images/{A}/{second}/image.yaml").unlink()
    shutil.rmtree(site.root / "state")
    site.more = "[deltas]\nbases = 0\n"
    site.configure()
    site.publish()
    assert deltas(site, second) == {}
    assert site.doit("verify").code == 0


def test_an_orphan_ends_with_the_run_that_was_killed(site: Site, tmp_path: Path) -> None:
    """It writes to its parent alone, so it has nothing to do without it."""
    matrix(site.ci, A)
    made(site, payload=os.urandom(6_000_000))
    site.publish()
    made(site, payload=os.urandom(40_000_000))
    process = site.start("publish")
    marks = str(site.root).encode()

    def encoders() -> list[Path]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes()
            except OSError:
                continue
            if words.startswith(b"xdelta3\0") and marks in words:
                found.append(path)
        return found

    try:
        wait_for(encoders, 60)
    finally:
        process.kill()
        process.communicate()
    wait_for(lambda: not encoders(), 60)
    assert site.publish().code == 0
    assert site.doit("verify").code == 0


class TestXdelta:
    def test_a_match_far_from_its_place_is_found(self, tmp_path: Path) -> None:
        """Beyond the 64 MiB that xdelta3 looks at by itself, and as its client decodes it: without -B."""
        base, target, delta = (tmp_path / name for name in ("base", "target", "delta"))
        block = os.urandom(20 << 20)
        base.write_bytes(block + bytes(80 << 20))
        target.write_bytes(os.urandom(1 << 20) + bytes(80 << 20) + block)
        made = xdelta.encode(base, target, delta, 8 << 20)
        assert made == File(delta.stat().st_size, digest(delta.read_bytes()))
        subprocess.run(["xdelta3", "-f", "-d", "-s", base, delta, tmp_path / "again"], check=True)
        assert (tmp_path / "again").read_bytes() == target.read_bytes()
        assert not xdelta.fault(delta, base, File(target.stat().st_size, digest(target.read_bytes())))

    def test_what_grows_too_large_is_cut_off(self, tmp_path: Path) -> None:
        base, target = tmp_path / "base", tmp_path / "target"
        base.write_bytes(os.urandom(1000))
        target.write_bytes(os.urandom(64 << 20))  # 16 s, if it were let
        with pytest.raises(xdelta.TooLargeError):
            xdelta.encode(base, target, tmp_path / "delta", 1 << 20)
        assert (tmp_path / "delta").stat().st_size <= 1 << 20

    @pytest.mark.parametrize(
        ("size", "what"),
        [(-1, "makes more bytes than the root has"), (1, "makes other bytes than the root has")],
    )
    def test_another_root_is_a_fault(self, tmp_path: Path, size: int, what: str) -> None:
        base, target, delta = (tmp_path / name for name in ("base", "target", "delta"))
        base.write_bytes(PAYLOAD)
        target.write_bytes(PAYLOAD[1000:])
        xdelta.encode(base, target, delta, 1 << 20)
        wanted = File(target.stat().st_size + size, digest(b""))
        assert xdelta.fault(delta, base, wanted) == what

    def test_what_is_no_delta_is_a_fault(self, tmp_path: Path) -> None:
        (tmp_path / "delta").write_bytes(b"no delta")
        (tmp_path / "base").write_bytes(b"base")
        fault = xdelta.fault(tmp_path / "delta", tmp_path / "base", File(4, digest(b"base")))
        assert fault.startswith("cannot be decoded: xdelta3 ended with code 1: ")

    def test_without_the_program_nothing_is_said_of_the_delta(self, tmp_path, monkeypatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(ProgramMissing, match="xdelta3 is not installed"):
            xdelta.fault(tmp_path / "delta", tmp_path / "base", File(4, digest(b"base")))


class TestPour:
    def test_all_that_it_says_comes_in_pieces(self) -> None:
        pieces: list[bytes] = []
        programs.pour(["head", "-c", "1000000", "/dev/zero"], pieces.append, timeout=60)
        assert b"".join(pieces) == bytes(1_000_000)
        assert len(pieces) > 1

    def test_what_takes_too_long_is_ended(self) -> None:
        with pytest.raises(ProgramFailed, match="sleep did not end within 0 s"):
            programs.pour(["sleep", "600"], print, timeout=0.2)

    def test_a_script_that_waits_for_another_is_ended_with_it(self) -> None:
        with pytest.raises(ProgramFailed, match="sh did not end within 0 s"):
            programs.pour(["sh", "-c", "sleep 600; true"], print, timeout=0.2)

    def test_what_fails_says_why(self) -> None:
        with pytest.raises(ProgramFailed, match="code 2: .*no such file"):
            programs.pour(["sh", "-c", "echo no such file >&2; exit 2"], print, timeout=60)

    def test_whoever_takes_it_may_end_it(self) -> None:
        def take(_: bytes) -> None:
            raise LookupError

        with pytest.raises(LookupError):
            programs.pour(["yes"], take, timeout=600)


class TestNouns:
    @pytest.mark.parametrize("root", [SQUASHFS, DISK])
    def test_a_name_says_its_base_and_its_root(self, root: str) -> None:
        assert parse_delta(delta_name("20260101_00:00", root)) == ("20260101_00:00", root)

    @pytest.mark.parametrize(
        "name",
        ["delta-20260101_00:00", "delta-x.vcdiff", "rootfs.squashfs", "delta-20260101_00:00.vcdiff.asc"],
    )
    def test_other_names_say_nothing(self, name: str) -> None:
        assert parse_delta(name) is None

    @staticmethod
    def image(day: int, *names: str) -> Image:
        return Image(
            product=Product.parse(A),
            serial=f"202601{day:02d}_00:00",
            files=dict.fromkeys(names, File(1, "0" * 64)),
            fingerprints={INCUS: {name: "0" * 64 for name in names if name in DELTAS}},
            source=Source(job="j", configuration="c", number=day, timestamp=day, md5={}),
        )

    @pytest.mark.parametrize(
        ("keep", "count", "expected"),
        [(3, 1, [3]), (3, 2, [3, 2]), (3, 9, [3, 2]), (9, 9, [3, 2, 1]), (1, 1, []), (3, 0, [])],
    )
    def test_bases_are_the_newest_that_stay(self, keep: int, count: int, expected: list[int]) -> None:
        images = [self.image(day, SQUASHFS, INCUS) for day in (2, 5, 1, 3)]
        images.append(replace(self.image(4, "meta.tar.xz"), serial="20260103_12:00"))  # nothing to begin from
        found = bases(images, "20260104_00:00", keep, count)
        assert [int(one.serial[6:8]) for one in found] == expected

    def test_what_nobody_is_shown_takes_no_place(self) -> None:
        """A unified VM beside containers; the newest stays, or its build would be fetched again."""
        containers = [self.image(day, SQUASHFS, INCUS) for day in (1, 2, 3)]
        vms = [self.image(day, UNIFIED_VM) for day in (4, 5)]
        found = catalogue([[*containers, *vms]], 3).images
        assert [int(one.serial[6:8]) for one in found] == [1, 2, 3, 5]
        assert [int(one.serial[6:8]) for one in catalogue([vms], 1).images] == [5]
        assert [int(one.serial[6:8]) for one in catalogue([vms], 2).images] == [4, 5]

    def test_a_delta_without_its_base_or_the_bases_root_is_not_listed(self) -> None:
        new = self.image(2, SQUASHFS, "delta-20260101_00:00.vcdiff")
        base, other = self.image(1, SQUASHFS), self.image(1, DISK)
        assert delta_items(new, {base.serial: base}, ("incus",)).keys() == {"root.20260101_00:00.vcdiff"}
        assert delta_items(new, {base.serial: other}, ("incus",)) == {}
        assert delta_items(new, {}, ("incus",)) == {}
        bare = replace(base, fingerprints={})  # unified beside a root that nobody lists without metadata
        assert delta_items(new, {base.serial: bare}, ("incus",)) == {}
        assert delta_items(replace(new, fingerprints={}), {base.serial: base}, ("incus",)) == {}

    def test_with_an_image_go_the_deltas_from_it(self) -> None:
        delta = {
            "root.1.vcdiff": {"delta_base": "1"},
            "root.2.vcdiff": {"delta_base": "2"},
            "incus.tar.xz": {},
        }
        products = {KEY: {"versions": {"1": {"items": {}}, "2": {"items": {}}, "3": {"items": delta}}}}
        left = without(products, {f"images/{A}/1"})
        assert left[KEY]["versions"]["3"]["items"].keys() == {"root.2.vcdiff", "incus.tar.xz"}  # type: ignore[index, union-attr]
