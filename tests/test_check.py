"""What may be published: a good image of every shape, and every damage by name."""

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from struct import pack_into

import pytest

from jenkins.samples import artifacts, meta_tarball, metadata_tarball, qcow2, tar_xz, unified_tarball
from tasks.check import ROOT, SMALL, check, check_meta, check_metadata
from tasks.errors import ImageRejected, TreeError
from tasks.image import File, Product

TINY = Product("tiny", "1", "amd64", "default")
NAMES = {"os": "tiny", "release": "1", "arch": "amd64", "variant": "default", "serial": "20260101_00:00"}
NOW = datetime(2026, 1, 1, 0, 0, tzinfo=UTC)
GOOD = "architecture: x86_64\ncreation_date: 1767225600\n"


def verdict(
    directory: Path,
    content: Mapping[str, bytes],
    *,
    product: Product = TINY,
    serial: str = "20260101_00:00",
    now: datetime = NOW,
) -> str:
    """Why these files are refused, "" when they are not."""
    stored = {name: data for name, data in content.items() if name != "serial"}
    for name, data in stored.items():
        (directory / name).write_bytes(data)
    listed = {name: File(len(data), "") for name, data in stored.items()}
    return reason(check, directory, listed, product, serial, now)


def reason(verb, *arguments) -> str:
    """Why a verb rejects, in one printable line; "" when it does not."""
    try:
        verb(*arguments)
    except ImageRejected as error:
        said = str(error)
    else:
        return ""
    assert said.isprintable()
    assert len(said) < 400
    return said


def metadata(text: str | bytes) -> bytes:
    return tar_xz({"metadata.yaml": text.encode() if isinstance(text, str) else text})


@pytest.mark.parametrize("lxd", ["none", "only", "same", "differs"])
@pytest.mark.parametrize(
    "kinds", [("container",), ("vm",), ("lxc",), ("container", "vm", "lxc")], ids="+".join
)
def test_good_images_pass(tmp_path, kinds, lxd):
    assert verdict(tmp_path, artifacts(**NAMES, kinds=kinds, lxd=lxd, tar_root=True)) == ""


@pytest.mark.parametrize(
    "arch", ["amd64", "arm64", "armhf", "armel", "i386", "ppc64el", "riscv64", "s390x", "loong64"]
)
def test_every_architecture_fits_itself(tmp_path, arch):
    names = {**NAMES, "arch": arch}
    assert verdict(tmp_path, artifacts(**names), product=Product("tiny", "1", arch, "default")) == ""


@pytest.mark.parametrize(
    ("serial", "ahead", "refused"),
    [
        ("20260101_00:00", timedelta(hours=-1), False),
        ("20260101_00:00", timedelta(hours=-1, seconds=-1), True),
        ("20260101_00:00", timedelta(days=-300), True),
        ("20260101_00:00", timedelta(days=300), False),
        ("20991231_23:59", timedelta(), True),
    ],
)
def test_a_serial_more_than_an_hour_ahead_is_refused(tmp_path, serial, ahead, refused):
    said = verdict(tmp_path, artifacts(**NAMES), serial=serial, now=NOW + ahead)
    assert said == (
        f"serial {serial} lies in the future (it is {NOW + ahead:%Y%m%d_%H:%M} UTC)" if refused else ""
    )


@pytest.mark.parametrize("name", ["rootfs.squashfs", "disk.qcow2", "rootfs.tar.xz", "meta.tar.xz"])
@pytest.mark.parametrize(
    "damage",
    [b"", b"\x00" * 1000, b"<html>login</html>", b"hsq", b"QFI", b"\xfd7zXZ", b"HSQS" * 10],
    ids=repr,
)
def test_a_file_of_another_format_is_refused(tmp_path, name, damage):
    content = {**artifacts(**NAMES, kinds=("container", "vm", "lxc"), tar_root=True), name: damage}
    assert (
        verdict(tmp_path, content)
        == f"{name} is not what its name says: it starts with other bytes than such files do"
    )


@pytest.mark.parametrize("name", ["incus.tar.xz", "lxd.tar.xz", "meta.tar.xz"])
@pytest.mark.parametrize("cut", [20, 100, -30])
def test_a_tarball_cut_short_is_refused(tmp_path, name, cut):
    content = artifacts(**NAMES, kinds=("container", "lxc"), lxd="differs")
    content[name] = content[name][:cut]
    assert verdict(tmp_path, content).startswith(f"{name} ")


TARBALLS = ["incus.tar.xz", "lxd.tar.xz", "meta.tar.xz", "rootfs.tar.xz"]
EVERYTHING = artifacts(**NAMES, kinds=("container", "vm", "lxc"), lxd="differs", tar_root=True, payload=b"x" * 300_000)  # fmt: skip


class TestWhole:
    """Every tarball is read to its end, every disk held against its header."""

    @pytest.mark.parametrize("name", TARBALLS)
    @pytest.mark.parametrize(
        ("damage", "words"),
        [
            (lambda tar: lzma.compress(tar)[:-1], "the xz stream is cut short"),
            (lambda tar: lzma.compress(tar) + b"garbage", "bytes that are no xz follow the stream"),
            (lambda tar: lzma.compress(tar[:1025]), "it ends in the middle of an entry"),
            (lambda tar: lzma.compress(tar.rstrip(b"\0")), "it ends in the middle of an entry"),
            (lambda tar: lzma.compress(tar[: len(tar) - 1024]), "it has no end-of-archive blocks"),
            (
                lambda tar: lzma.compress(flipped(tar, tar.rindex(b"ustar"))),
                "the checksum of a header is wrong",
            ),
            (lambda tar: flipped(lzma.compress(tar), -300), ""),
        ],
    )
    def test_a_tarball_whose_end_is_damaged(self, tmp_path, name, damage, words):
        tar = lzma.decompress(EVERYTHING[name])
        assert verdict(tmp_path, {**EVERYTHING, name: lzma.compress(tar)}) == ""
        said = verdict(tmp_path, {**EVERYTHING, name: damage(tar)})
        assert said.startswith(f"{name} cannot be read as a tarball: {words}")

    @pytest.mark.parametrize(
        ("name", "cut"),
        [("rootfs.squashfs", 1), ("rootfs.squashfs", 5000), ("disk.qcow2", 5000), ("disk.qcow2", 200_000)],
    )
    def test_a_disk_that_is_cut(self, tmp_path, name, cut):
        end = len(EVERYTHING[name].rstrip(b"\0"))
        said = verdict(tmp_path, {**EVERYTHING, name: EVERYTHING[name][: end - cut]})
        assert said.startswith(f"{name} is damaged or unusable: it is cut short")

    def test_a_root_may_be_larger_than_metadata(self, tmp_path):
        tar = lzma.decompress(EVERYTHING["rootfs.tar.xz"])
        entry = tarfile.TarInfo("more").tobuf() * (SMALL.entries + 1)
        large = lzma.compress(entry + tar, preset=0) + lzma.compress(bytes(65 << 20), preset=0)
        assert verdict(tmp_path, {**EVERYTHING, "rootfs.tar.xz": large}) == ""
        assert "unpacks to more" in verdict(
            tmp_path, {**EVERYTHING, "meta.tar.xz": lzma.compress(tar + bytes(65 << 20), preset=0)}
        )

    def test_a_root_may_not_be_without_end(self, tmp_path):
        info = tarfile.TarInfo("zeros")
        info.size = ROOT.unpacked
        data = lzma.compress(info.tobuf() + bytes(1 << 20))
        assert (
            verdict(tmp_path, {**EVERYTHING, "rootfs.tar.xz": data})
            == "rootfs.tar.xz unpacks to more than 65536 MiB"
        )

    def test_our_own_disk_is_not_the_builds_fault(self, tmp_path):
        listed = {name: File(1, "") for name in EVERYTHING if name != "serial"}
        for name in ("rootfs.tar.xz", "incus.tar.xz", "rootfs.squashfs"):
            with pytest.raises(TreeError, match=f"cannot read .*{name}"):
                check(tmp_path, {name: listed[name]}, TINY, "20260101_00:00", NOW)


BOX, VM = unified_tarball(**NAMES), unified_tarball(**NAMES, vm=True)
UNIFIED_NAMES = ["incus_combined.tar.gz", "lxd_combined.tar.gz", "incus_combined.vm.tar.gz"]
UNIFIED = list(zip(UNIFIED_NAMES, (BOX, BOX, VM), strict=True))


def combined(*entries: str, **content: bytes) -> bytes:
    """A unified image of these entries beside its metadata."""
    named = {"metadata.yaml": GOOD.encode(), **dict.fromkeys(entries, b""), **content}
    return tar_xz({name: None if name.endswith("/") else body for name, body in named.items()})


def disk(form: str = "", at: int = 0, value: int = 0) -> bytes:
    """A unified VM with a number of its disk's header changed."""
    data = bytearray(qcow2(b"x", 1 << 20))
    if form:
        pack_into(form, data, at, value)
    return tar_xz({"metadata.yaml": GOOD.encode(), "rootfs.img": bytes(data)})


class TestUnified:
    """A unified image is whole, has metadata, and is what it is published as."""

    @pytest.mark.parametrize("packed", [lzma.compress, gzip.compress, bz2.compress, lambda data: data])
    @pytest.mark.parametrize(("name", "data"), UNIFIED)
    def test_good(self, tmp_path, name, data, packed):
        assert verdict(tmp_path, {name: packed(lzma.decompress(data))}) == ""

    @pytest.mark.parametrize("name", UNIFIED_NAMES)
    @pytest.mark.parametrize(
        ("data", "holds"),
        [
            (BOX, "rootfs/"),
            (VM, "rootfs.img"),
            (combined("rootfs/a", "rootfs.img"), "rootfs.img and rootfs/"),
            (combined(), ""),
            (combined("rootfs/"), ""),
            (combined("rootfs", "rootfs.squashfs", "a/rootfs/b", "rootfsx/a", "rootfs.img.bak"), ""),
        ],
    )
    def test_of_another_type(self, tmp_path, name, data, holds):
        vm = ".vm." in name
        needed = "rootfs.img" if vm else "rootfs/"
        said = f"is no unified {'virtual machine' if vm else 'container'}: it holds {holds or f'no {needed}'}"
        wanted = "" if holds == needed else f"{name} {said}; see jenkins.artifacts"
        assert verdict(tmp_path, {name: data}) == wanted

    @pytest.mark.parametrize("name", UNIFIED_NAMES)
    @pytest.mark.parametrize(
        ("metadata", "words"),
        [
            (None, " holds no file 'metadata.yaml'"),
            ("- a", ": metadata.yaml is not a mapping"),
            ("architecture: arm64\ncreation_date: 1\n", ": architecture 'arm64' is not the product's amd64"),
            ("architecture: amd64\n", ": metadata.yaml has no creation_date"),
            (GOOD + "#" * (1 << 20), " holds a metadata.yaml larger than 1 MiB"),
        ],
    )
    def test_its_metadata_is_read_as_any(self, tmp_path, name, metadata, words):
        entries = {} if metadata is None else {"metadata.yaml": metadata.encode()}
        data = tar_xz({**entries, "rootfs/a": b"", "rootfs.img": b""})
        assert verdict(tmp_path, {name: data}).startswith(f"{name}{words}")

    @pytest.mark.parametrize(("name", "data"), UNIFIED)
    def test_its_end_is_read(self, tmp_path, name, data):
        said = verdict(tmp_path, {name: lzma.compress(lzma.decompress(data)[:-1024])})
        assert said.startswith(f"{name} cannot be read as a tarball: it has no end-of-archive blocks")
        assert verdict(tmp_path, {name: data[:-1]}).startswith(f"{name} cannot be read as a tarball: ")
        assert verdict(tmp_path, {name: b"hsqs" + bytes(2000)}).startswith(
            f"{name} cannot be read as a tarball: "
        )

    def test_it_may_be_as_large_as_a_root(self, tmp_path):
        tar = lzma.decompress(BOX)
        large = combined(**{"rootfs/a": bytes(65 << 20)})
        assert verdict(tmp_path, {UNIFIED_NAMES[0]: large}) == ""
        many = lzma.compress(tar[:-1024] + tar_of("rootfs/a") * (SMALL.entries + 1) + bytes(1024), preset=0)
        assert verdict(tmp_path, {UNIFIED_NAMES[0]: many}) == ""

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (disk(), ""),
            (disk(">Q", 8, 4096), "rootfs.img is damaged or unusable: it needs a backing file"),
            (disk(">Q", 72, 4), "rootfs.img is damaged or unusable: its data lie in another file"),
            (disk(">I", 32, 1), "rootfs.img is damaged or unusable: it is encrypted"),
            (disk(">I", 0, 1), "rootfs.img is no plain file, or no qcow2"),
            (disk(">Q", 40, 1 << 40), "rootfs.img is damaged or unusable: a table of it lies outside"),
            (combined("rootfs.img"), "rootfs.img is no plain file, or no qcow2"),
            (combined(**{"rootfs.img": b"QFI\xfb"}), "rootfs.img is damaged or unusable: its version is 0"),
        ],
    )
    def test_what_a_client_would_open_as_root(self, tmp_path, data, words):
        said = verdict(tmp_path, {UNIFIED_NAMES[2]: data})
        assert said.startswith(f"{UNIFIED_NAMES[2]}: {words}" if words else "")
        assert bool(said) is bool(words)

    @pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
    def test_a_disk_that_is_no_file(self, tmp_path, kind):
        """A link to a disk of the host, say."""
        link = tarfile.TarInfo("rootfs.img")
        link.type, link.linkname = kind, "/dev/sda"
        tar = lzma.decompress(combined())[:-1024] + link.tobuf() + bytes(1024)
        said = verdict(tmp_path, {UNIFIED_NAMES[2]: lzma.compress(tar)})
        assert said == f"{UNIFIED_NAMES[2]}: rootfs.img is no plain file, or no qcow2"


def tar_of(name: str) -> bytes:
    return tarfile.TarInfo(name).tobuf()


def flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


class TestMetadata:
    """metadata.yaml as the daemons read it."""

    def said(self, tmp_path: Path, data: bytes, product: Product = TINY) -> str:
        (tmp_path / "incus.tar.xz").write_bytes(data)
        return reason(check_metadata, tmp_path / "incus.tar.xz", product)

    @pytest.mark.parametrize(
        "text",
        [
            GOOD,
            GOOD + "expiry_date: 1767229200\nproperties:\n  os: Tiny\n  empty: ''\n",
            GOOD + "x: &anchor 1\n",
            GOOD + "x: 2026-99-99\ny: " + "9" * 5000 + "\n",
            GOOD + "deep: " + "[" * 90 + "]" * 90 + "\n",
            GOOD + "wide: [" + "[], {}, " * 300 + "]\n",
            "{architecture: amd64, creation_date: 1}",
            "---\n" + GOOD + "...\n",
            "\ufeff" + GOOD,
        ],
    )
    def test_good_metadata(self, tmp_path, text):
        assert self.said(tmp_path, metadata(text)) == ""

    @pytest.mark.parametrize(
        "packed",
        [gzip.compress, bz2.compress, lzma.compress, lambda data: data],
        ids=["gz", "bz2", "xz", "plain"],
    )
    def test_however_it_is_packed(self, tmp_path, packed):
        assert self.said(tmp_path, packed(lzma.decompress(metadata(GOOD)))) == ""

    @pytest.mark.parametrize(
        "names", [["metadata.yaml"], ["./metadata.yaml"], [".", "./templates", "./metadata.yaml"]]
    )
    def test_wherever_it_is(self, tmp_path, names):
        entries = {name: GOOD.encode() if "yaml" in name else None for name in names}
        assert self.said(tmp_path, tar_xz(entries)) == ""

    @pytest.mark.parametrize(
        "name", ["metadata.yml", "a/metadata.yaml", "metadata.yaml.bak", "/metadata.yaml", "../metadata.yaml"]
    )
    def test_elsewhere_it_does_not_count(self, tmp_path, name):
        assert (
            self.said(tmp_path, tar_xz({name: GOOD.encode()})) == "incus.tar.xz holds no file 'metadata.yaml'"
        )

    @pytest.mark.parametrize(
        "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
    )
    def test_what_is_no_file_does_not_count(self, tmp_path, kind):
        info = tarfile.TarInfo("metadata.yaml")
        info.type, info.linkname = kind, "/etc/passwd"
        assert (
            self.said(tmp_path, lzma.compress(info.tobuf() + bytes(1024)))
            == "incus.tar.xz holds no file 'metadata.yaml'"
        )

    def test_the_architecture_must_be_the_products(self, tmp_path):
        data = metadata_tarball(**{**NAMES, "arch": "arm64"})
        assert self.said(tmp_path, data) == "incus.tar.xz: architecture 'aarch64' is not the product's amd64"

    @pytest.mark.parametrize(
        ("override", "words"),
        [
            ({"architecture": None}, "has no architecture"),
            ({"architecture": ""}, "has no architecture"),
            ({"architecture": 64}, "has no architecture"),
            ({"architecture": ["x86_64"]}, "has no architecture"),
            ({"architecture": "sparc"}, "no client knows the architecture 'sparc'"),
            ({"architecture": "X86_64"}, "no client knows"),
            ({"architecture": "x" * 1000 + "\n\x1b[31m"}, "no client knows"),
            ({"creation_date": None}, "has no creation_date in seconds"),
            ({"creation_date": 0}, "has no creation_date in seconds"),
            ({"creation_date": -1}, "has no creation_date in seconds"),
            ({"creation_date": True}, "has no creation_date in seconds"),
            ({"creation_date": "1767225600"}, "has no creation_date in seconds"),
            ({"creation_date": 1.5}, "has no creation_date in seconds"),
            ({"creation_date": 1 << 63}, "has no creation_date in seconds"),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_what_a_daemon_needs(self, tmp_path, override, words):
        assert words in self.said(tmp_path, metadata_tarball(**NAMES, **override))

    def test_an_unknown_architecture_does_not_even_fit_itself(self, tmp_path):
        data = metadata_tarball(**{**NAMES, "arch": "sparc"})
        assert "no client knows" in self.said(tmp_path, data, Product("tiny", "1", "sparc", "default"))

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", "is not a mapping"),
            ("- a\n", "is not a mapping"),
            ("just words", "is not a mapping"),
            ("a: [", "is no YAML"),
            ("\tx: 1", "is no YAML"),
            (b"\xff\xfe\xfa", "is no YAML"),
            (b"a\x00b", "is no YAML"),
            (GOOD + "---\n" + GOOD, "is no YAML"),
            (GOOD + "x: !!python/object/apply:os.system ['true']\n", "is no YAML"),
            (GOOD + "x: !!int ''\n", "is no YAML"),
            (GOOD + "x: !!float ''\n", "is no YAML"),
            (GOOD + "x: !!bool perhaps\n", "is no YAML"),
            (GOOD + "x: !!timestamp soon\n", "is no YAML"),
            (GOOD + "x: !!binary 'é'\n", "is no YAML"),
            (GOOD + "? [a]\n: 1\n", "is no YAML"),
            (GOOD + "x: !!int " + "9" * 5000 + "\n", "is no YAML"),
            (GOOD + "x: &a [1]\ny: *a\n", "aliases"),
            ("a: &a [x, x]\nb: &b [*a, *a]\n" + GOOD, "aliases"),
            (GOOD + "x: " + "[" * 200_000, "nested too deep"),
            (GOOD + "x: " + "{a: " * 200_000, "nested too deep"),
            (GOOD + "x:\n " + "- " * 200_000 + "a\n", "nested too deep"),
        ],
        ids=lambda value: repr(value)[:50],
    )  # fmt: skip
    def test_text_that_is_no_metadata(self, tmp_path, text, words):
        said = self.said(tmp_path, metadata(text))
        assert said.startswith("incus.tar.xz: metadata.yaml ")
        assert words in said

    def test_text_larger_than_the_daemons_read(self, tmp_path):
        assert (
            self.said(tmp_path, metadata(GOOD + "#" * (1 << 20)))
            == "incus.tar.xz holds a metadata.yaml larger than 1 MiB"
        )
        assert self.said(tmp_path, metadata(GOOD + "#" * ((1 << 20) - len(GOOD)))) == ""


class TestTarballs:
    """What tarfile raises over hostile archives is a verdict, never a traceback."""

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"hello",
            b"<html>" * 200,
            b"\x1f\x8b\x08",
            b"\x1f\x8b\x08\x04" + bytes(6),
            b"\x1f\x8b\x08\x00" + bytes(6) + b"garbage" * 30,
            b"BZh91AY&SY" + b"x" * 200,
            b"\x28\xb5\x2f\xfd" + b"x" * 600,
            b"\xfd7zXZ\x00" + b"x" * 600,
            bytes(512) + b"x" * 2048,
        ],
        ids=repr,
    )
    def test_bytes_that_are_none(self, tmp_path, data):
        (tmp_path / "meta.tar.xz").write_bytes(data)
        with pytest.raises(
            ImageRejected, match=r"^meta\.tar\.xz (cannot be read as a tarball: \S|holds no file 'config')"
        ):
            check_meta(tmp_path / "meta.tar.xz")

    @pytest.mark.parametrize(
        "record",
        [b"0 a=b\n", b"-5 a=b\n", b"99999999999999999999999999 a=b\n", b"29 GNU.sparse.map=x,y,z,ab,c\n", b"13 path=\xff\xfe\xfa\n", b"12 size=-99\n", b"14 mtime=nan0\n"],
        ids=repr,
    )  # fmt: skip
    def test_headers_that_lie(self, tmp_path, record):
        info = tarfile.TarInfo("pax")
        info.type, info.size = b"x", len(record)
        data = info.tobuf() + record + bytes(-len(record) % 512) + lzma.decompress(tar_xz({"config": b"x"}))
        (tmp_path / "meta.tar.xz").write_bytes(lzma.compress(data))
        assert reason(check_meta, tmp_path / "meta.tar.xz").startswith(
            ("", "meta.tar.xz ")
        )  # harmless ones may pass

    def test_names_that_continue_for_ever(self, tmp_path):
        info = tarfile.TarInfo("././@LongLink")
        info.type, info.size = b"L", 5
        (tmp_path / "meta.tar.xz").write_bytes(lzma.compress((info.tobuf() + b"abcd" + bytes(508)) * 1500))
        with pytest.raises(ImageRejected, match="cannot be read as a tarball"):
            check_meta(tmp_path / "meta.tar.xz")

    def test_more_entries_than_any_image_has(self, tmp_path):
        one = tarfile.TarInfo("x").tobuf()
        (tmp_path / "meta.tar.xz").write_bytes(lzma.compress(one * (SMALL.entries + 1), preset=0))
        with pytest.raises(ImageRejected, match=rf"meta\.tar\.xz has more than {SMALL.entries} entries"):
            check_meta(tmp_path / "meta.tar.xz")

    def test_a_bomb_is_not_unpacked_to_its_end(self, tmp_path):
        info = tarfile.TarInfo("zeros")
        info.size = 1 << 40
        (tmp_path / "meta.tar.xz").write_bytes(
            lzma.compress(info.tobuf()) + 70 * lzma.compress(bytes(1 << 20))
        )
        with pytest.raises(ImageRejected, match="unpacks to more than"):
            check_meta(tmp_path / "meta.tar.xz")

    @pytest.mark.parametrize(
        "omit", ["config-user", "create-message", "expiry", "excludes-user", "templates"]
    )
    def test_lxc_needs_nothing_but_its_config(self, tmp_path, omit):
        (tmp_path / "meta.tar.xz").write_bytes(
            meta_tarball(arch="amd64", serial="20260101_00:00", omit=[omit])
        )
        check_meta(tmp_path / "meta.tar.xz")

    def test_lxc_without_its_config_is_refused(self, tmp_path):
        content = {
            **artifacts(**NAMES),
            "meta.tar.xz": meta_tarball(arch="amd64", serial="20260101_00:00", omit=["config"]),
        }
        assert verdict(tmp_path, content) == "meta.tar.xz holds no file 'config'"

    @pytest.mark.parametrize("name", ["etc/config", "config/config"])
    def test_a_config_elsewhere_is_none(self, tmp_path, name):
        (tmp_path / "meta.tar.xz").write_bytes(tar_xz({name: b"x"}))
        with pytest.raises(ImageRejected, match="holds no file 'config'"):
            check_meta(tmp_path / "meta.tar.xz")

    @pytest.mark.parametrize(
        "name", ["config", "config-user", "config-system.3", "config-user.1", "config.9"]
    )
    @pytest.mark.parametrize("text", [b"", b" \n\n"])
    def test_a_config_that_says_nothing(self, tmp_path, name, text):
        (tmp_path / "meta.tar.xz").write_bytes(tar_xz({"config": b"x", name: text}))
        assert reason(check_meta, tmp_path / "meta.tar.xz") == f"meta.tar.xz: {name} is empty"

    @pytest.mark.parametrize(
        ("name", "text", "good"),
        [
            ("expiry", b"1767225600", True),
            ("expiry", b"1767225600\n", True),
            ("expiry", b"", False),
            ("expiry", b"never\n", False),
            ("expiry", b"-1\n", False),
            ("expiry", b"1 -o 1\n", False),
            ("expiry", b"9" * 30, False),
            ("expiry.1", b"soon", False),
            ("expiry-user.5", b"soon", False),
            ("templates", b"", True),
            ("templates", b"/etc/hostname\netc/hosts\n", True),
            ("templates", b"/etc/..hidden..\n", True),
            ("templates", b"/etc/../../../../etc/passwd\n", False),
            ("templates-user", b"..\n", False),
            ("templates.2", b"/etc/hosts /../x", False),
            ("create-message", b"", True),
            ("excludes-user", b"./dev/..\n", True),
        ],
    )
    def test_what_lxc_does_with_the_rest(self, tmp_path, name, text, good):
        (tmp_path / "meta.tar.xz").write_bytes(tar_xz({"./config": b"x", f"./{name}": text}))
        said = reason(check_meta, tmp_path / "meta.tar.xz")
        assert said == "" if good else said.startswith(f"meta.tar.xz: {name} ")
