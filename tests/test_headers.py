"""Squashfs and qcow2: what real tools and the samples write passes, what could not be mounted does not."""

import random
import struct
import subprocess
from pathlib import Path

import pytest
from tools import program

from jenkins.samples import artifacts, qcow2, squashfs
from tasks.headers import BadRootError, check_qcow2, check_squashfs

NAMES = {"os": "tiny", "release": "1", "arch": "amd64", "variant": "default", "serial": "20260101_00:00"}
BOTH = artifacts(**NAMES, kinds=("container", "vm"), payload=random.Random(0).randbytes(300_000))
SQUASHFS, DISK = BOTH["rootfs.squashfs"], BOTH["disk.qcow2"]
NONE = (1 << 64) - 1


def squashfs_said(data: bytes) -> str:
    try:
        check_squashfs(data[:4096], len(data))
    except BadRootError as error:
        return str(error)
    return ""


def qcow2_said(data: bytes) -> str:
    def read(offset: int, length: int) -> bytes:
        assert length <= 2 << 20
        return data[offset : offset + length]

    try:
        check_qcow2(read, len(data))
    except BadRootError as error:
        return str(error)
    return ""


def put(data: bytes, form: str, at: int, value: int) -> bytes:
    """The same with a number replaced."""
    changed = bytearray(data)
    struct.pack_into(form, changed, at, value)
    return bytes(changed)


def number(data: bytes, form: str, at: int) -> int:
    return struct.unpack_from(form, data, at)[0]


class TestSquashfs:
    def test_samples(self):
        assert squashfs_said(SQUASHFS) == ""
        assert squashfs_said(squashfs({})) == ""
        assert squashfs_said(squashfs({f"{n:04}": bytes(n) for n in range(1000)})) == ""

    @pytest.mark.parametrize("compression", ["gzip", "lzo", "lz4", "xz", "zstd", "lzma"])
    @pytest.mark.parametrize(
        "options",
        [["-b", "4096"], ["-b", "1M"], ["-no-exports", "-no-fragments", "-no-xattrs"]],
        ids=" ".join,
    )
    def test_mksquashfs(self, tmp_path, compression, options):
        mksquashfs = program("mksquashfs")
        (tmp_path / "root/empty").mkdir(parents=True)
        (tmp_path / "root/file").write_bytes(b"x" * 5000)
        file = tmp_path / "fs"
        done = subprocess.run(
            [mksquashfs, tmp_path / "root", file, "-noappend", "-quiet", "-comp", compression, *options],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0 or "not supported" in done.stdout + done.stderr, done
        assert done.returncode or squashfs_said(file.read_bytes()) == ""

    def test_mksquashfs_of_nothing(self, tmp_path):
        (tmp_path / "root").mkdir()
        file = tmp_path / "fs"
        argv = [program("mksquashfs"), tmp_path / "root", file, "-noappend", "-quiet"]
        subprocess.run(argv, check=True, capture_output=True)
        assert squashfs_said(file.read_bytes()) == ""

    def test_without_the_padding_after_it(self):
        used = number(SQUASHFS, "<Q", 40)
        assert used < len(SQUASHFS)
        assert squashfs_said(SQUASHFS[:used]) == ""
        assert squashfs_said(SQUASHFS[: used - 1]) == f"it is cut short: {used - 1} of {used} bytes are there"

    @pytest.mark.parametrize("cut", [4, 50, 95])
    def test_a_cut_superblock(self, cut):
        assert squashfs_said(SQUASHFS[:cut]) == "it ends within its superblock"

    @pytest.mark.parametrize("cut", [96, 1000, 100_000])
    def test_a_cut_file(self, cut):
        assert squashfs_said(SQUASHFS[:cut]).startswith("it is cut short: ")

    @pytest.mark.parametrize(
        ("form", "at", "value", "words"),
        [
            ("<H", 28, 3, "its version is 3.0"),
            ("<H", 28, 0x400, "its version is 1024.0"),
            ("<H", 30, 1, "its version is 4.1"),
            ("<I", 12, 0, "its block size"),
            ("<I", 12, 131_073, "its block size"),
            ("<I", 12, 65_536, "its block size is 65536 bytes, and 2 to the 17"),
            ("<H", 22, 16, "its block size"),
            ("<H", 22, 63, "its block size"),
            ("<H", 20, 0, "its compression 0"),
            ("<H", 20, 7, "its compression 7"),
            ("<Q", 40, 1 << 63, "it is cut short"),
            ("<Q", 40, 0, "its tables"),
            ("<I", 4, 0, "counts no inodes"),
            ("<H", 26, 0, "counts no inodes or no owners"),
            ("<Q", 32, 1 << 47, "its root directory"),
        ],
    )
    def test_a_number_that_cannot_be(self, form, at, value, words):
        assert words in squashfs_said(put(SQUASHFS, form, at, value))

    @pytest.mark.parametrize(("log", "good"), [(11, False), (12, True), (20, True), (21, False)])
    def test_block_sizes(self, log, good):
        data = put(put(SQUASHFS, "<H", 22, log), "<I", 12, 1 << log)
        assert (squashfs_said(data) == "") is good

    @pytest.mark.parametrize("at", [48, 56, 64, 72, 80, 88])
    def test_a_table_elsewhere(self, at):
        used = number(SQUASHFS, "<Q", 40)
        data = put(SQUASHFS, "<I", 16, 1)  # a fragment
        data = put(data, "<Q", 80, number(data, "<Q", 48))
        assert squashfs_said(data) == ""
        for where in (0, 95, used, 1 << 63):
            assert squashfs_said(put(data, "<Q", at, where)).startswith("its tables lie outside")
        optional = at in (56, 88)
        assert (squashfs_said(put(data, "<Q", at, NONE)) == "") is optional

    def test_no_fragments_need_no_table(self):
        assert number(SQUASHFS, "<I", 16) == 0
        assert squashfs_said(put(SQUASHFS, "<Q", 80, 0)) == ""

    def test_inodes_come_before_directories(self):
        inodes = number(SQUASHFS, "<Q", 64)
        assert "wrong order" in squashfs_said(put(SQUASHFS, "<Q", 72, inodes))


class TestQcow2:
    def test_samples(self):
        assert qcow2_said(DISK) == ""
        assert qcow2_said(qcow2(b"", 1 << 20)) == ""
        assert qcow2_said(qcow2(b"x" * 5_000_000, 1 << 30)) == ""

    @pytest.mark.parametrize(
        "options",
        [
            "compat=0.10",
            "compat=1.1",
            "cluster_size=512",
            "cluster_size=2M",
            "lazy_refcounts=on",
            "refcount_bits=1",
            "extended_l2=on",
            "preallocation=metadata",
            "preallocation=full",
        ],
    )
    @pytest.mark.parametrize("packed", [[], ["-c"]], ids=["plain", "packed"])
    def test_qemu_img(self, tmp_path, options, packed):
        data = convert(tmp_path, [*(packed if "prealloc" not in options else []), "-o", options])
        assert qcow2_said(data) == ""

    @pytest.mark.parametrize("kind", ["zlib", "zstd"])
    def test_qemu_img_packs(self, tmp_path, kind):
        assert qcow2_said(convert(tmp_path, ["-c", "-o", f"compression_type={kind}"])) == ""

    @pytest.mark.parametrize("size", ["512", "1M", "2T"])
    def test_qemu_img_of_nothing(self, tmp_path, size):
        qemu_img("create", "-f", "qcow2", tmp_path / "disk", size)
        assert qcow2_said((tmp_path / "disk").read_bytes()) == ""

    def test_a_snapshot_inside_is_no_fault(self, tmp_path):
        (tmp_path / "disk").write_bytes(DISK)
        qemu_img("snapshot", "-c", "one", tmp_path / "disk")
        assert qcow2_said((tmp_path / "disk").read_bytes()) == ""

    def test_qemu_img_of_what_needs_something_else(self, tmp_path):
        (tmp_path / "base").write_bytes(DISK)
        disk = tmp_path / "disk"
        qemu_img("create", "-f", "qcow2", "-b", tmp_path / "base", "-F", "qcow2", disk)
        assert qcow2_said(disk.read_bytes()) == "it needs a backing file"
        qemu_img("create", "-f", "qcow2", "-o", f"data_file={tmp_path}/data", disk, "1M")
        assert qcow2_said(disk.read_bytes()) == "its data lie in another file"
        # Not luks: qemu-img then measures the machine first, and gives up on a busy one.
        secret = ["--object", "secret,id=a,data=abc", "-o", "encrypt.format=aes,encrypt.key-secret=a"]
        qemu_img("create", "-f", "qcow2", *secret, disk, "1M")
        assert qcow2_said(disk.read_bytes()) == "it is encrypted"

    @pytest.mark.parametrize("packed", [[], ["-c"], ["-c", "-o", "extended_l2=on"], ["-o", "cluster_size=512"], ["-c", "-o", "cluster_size=2M"]], ids=" ".join)  # fmt: skip
    def test_a_cut_anywhere(self, tmp_path, packed):
        """Of the very last cluster QEMU itself leaves away what is empty."""
        data = convert(tmp_path, packed)
        last = 2 << 20 if "2M" in str(packed) and "-c" not in packed else 1 << 16
        for cut in [*range(4, len(data) - last, 9973), 71, 103, len(data) - last]:
            assert qcow2_said(data[:cut]) != "", cut

    def test_a_cut_packed_cluster(self, tmp_path):
        data = convert(tmp_path, ["-c"], noisy=False)
        table = number(data, ">Q", number(data, ">Q", 40)) & 0x00FF_FFFF_FFFF_FE00
        entries = [one for one in struct.unpack_from(">8192Q", data, table) if one >> 62 & 1]
        last = max(one & (1 << 54) - 1 for one in entries)
        count = next(one for one in entries if one & (1 << 54) - 1 == last) >> 54 & 0xFF
        end = (last // 512 + count + 1) * 512
        assert qcow2_said(data[:end]) == ""
        assert qcow2_said(data[: end - 511]) == "", "its last sector may be short"
        assert qcow2_said(data[: end - 512]) == "it is cut short: a cluster lies beyond its end"

    def test_a_cut_plain_cluster(self):
        table = number(DISK, ">Q", number(DISK, ">Q", 40)) & 0x00FF_FFFF_FFFF_FE00
        last = max(one & 0x00FF_FFFF_FFFF_FE00 for one in struct.unpack_from(">512Q", DISK, table))
        assert qcow2_said(DISK[: last + 1]) == ""
        assert qcow2_said(DISK[:last]) == "it is cut short: a cluster lies beyond its end"

    def test_a_table_behind_the_end(self):
        first = number(DISK, ">Q", 40)
        for where in (len(DISK), len(DISK) - 512, 1 << 40):
            assert "cut short" in qcow2_said(put(DISK, ">Q", first, where))

    @pytest.mark.parametrize(
        ("form", "at", "value", "words"),
        [
            (">I", 4, 1, "its version is 1"),
            (">I", 4, 4, "its version is 4"),
            (">Q", 8, 112, "a backing file"),
            (">I", 20, 8, "cluster_bits are 8"),
            (">I", 20, 22, "cluster_bits are 22"),
            (">I", 20, 1 << 31, "cluster_bits"),
            (">Q", 24, 0, "has no size"),
            (">Q", 24, 1 << 63, "its first table has 1 entries; 4398046511104 are needed"),
            (">Q", 24, (1 << 21) + 1, "its first table has 1 entries; 2 are needed"),
            (">I", 32, 1, "encrypted"),
            (">I", 32, 2, "encrypted"),
            (">I", 36, 0, "its first table has 0 entries"),
            (">I", 36, 1 << 31, "131072 are allowed"),
            (">Q", 40, 0, "a table of it lies outside"),
            (">Q", 40, 1 << 20, "a table of it lies outside"),
            (">Q", 40, 512, "a table of it lies outside"),
            (">Q", 48, 0, "a table of it lies outside"),
            (">Q", 48, 1 << 62, "a table of it lies outside"),
            (">Q", 48, 65_537, "a table of it lies outside"),
            (">I", 56, 0, "a table of it lies outside"),
            (">I", 56, 1 << 20, "a table of it lies outside"),
            (">Q", 72, 2, "marked as corrupt"),
            (">Q", 72, 4, "in another file"),
            (">Q", 72, 32, "QEMU does not know"),
            (">Q", 72, 1 << 63, "QEMU does not know"),
        ],
    )
    def test_a_number_that_cannot_be(self, form, at, value, words):
        assert words in qcow2_said(put(DISK, form, at, value))

    @pytest.mark.parametrize("bit", [0, 3])
    def test_features_that_are_no_fault(self, bit):
        assert qcow2_said(put(DISK, ">Q", 72, 1 << bit)) == ""

    def test_the_second_version_has_no_features(self):
        assert qcow2_said(put(put(DISK, ">I", 4, 2), ">Q", 72, NONE)) == ""
        assert qcow2_said(put(put(DISK, ">I", 4, 3), ">Q", 72, NONE)) != ""

    @pytest.mark.parametrize("cut", [5, 8, 71, 103])
    def test_a_cut_header(self, cut):
        assert qcow2_said(DISK[:cut]) in ("it ends within its header", "its version is 0, not 2 or 3")


def qemu_img(*arguments: str | Path) -> None:
    subprocess.run([program("qemu-img"), *arguments], check=True, capture_output=True)


def convert(directory: Path, options: list[str], *, noisy: bool = True) -> bytes:
    """A disk of text and noise that qemu-img wrote."""
    noise = random.Random(1)
    raw = bytearray(8 << 20)
    raw[3 << 20 : 4 << 20] = b"".join(b"%d " % noise.randrange(99) for _ in range(1 << 19))[: 1 << 20]
    if noisy:  # what is not worth packing is stored plain
        raw[1 << 20 : 2 << 20] = noise.randbytes(1 << 20)
        raw[-(1 << 16) :] = noise.randbytes(1 << 16)
    (directory / "raw").write_bytes(raw)
    qemu_img("convert", "-f", "raw", "-O", "qcow2", *options, directory / "raw", directory / "disk")
    return (directory / "disk").read_bytes()
