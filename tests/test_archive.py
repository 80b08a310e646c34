"""Tarballs from end to end: whatever real tools write passes, and no cut, flip or bomb does."""

import bz2
import gzip
import io
import lzma
import os
import random
import subprocess
import tarfile
import tracemalloc
from contextlib import suppress
from functools import partial
from pathlib import Path
from zlib import crc32

import pytest
from tools import program

from tasks.archive import HEAD, BadArchiveError, Limits, TooMuchError, contents

ROOMY = Limits(entries=10_000, unpacked=1 << 30, content=1 << 20)
FORMATS = ["gnu", "oldgnu", "posix", "ustar", "v7"]
PACKERS = {
    "one block": ["-6"],
    "blocks": ["-T0", "--block-size=65536"],
    "largest": ["-9e"],
    "sha256": ["--check=sha256"],
    "crc32": ["--check=crc32"],
    "unchecked": ["--check=none"],
    "x86": ["--x86", "--lzma2=preset=1"],
}


def said(data: bytes, limits: Limits = ROOMY, *wanted: str, size: int = 1000) -> str:
    """What is wrong with a tarball that comes in chunks of so many bytes, "" when nothing is."""
    try:
        contents((data[at : at + size] for at in range(0, len(data), size)), limits, wanted)
    except (BadArchiveError, TooMuchError) as error:
        assert str(error).isprintable()
        return str(error)
    return ""


def entry(name: str = "f", data: bytes = b"", *, form: int = tarfile.GNU_FORMAT, **fields) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(form) + data + bytes(-len(data) % 512)


def with_checksum(header: bytes) -> bytes:
    total = sum(header[:148]) + sum(header[156:512]) + 256
    return header[:148] + b"%06o\0 " % total + header[156:]


def with_size(field: bytes) -> bytes:
    """A header whose size is written in this way, before five bytes of data."""
    header = entry(data=b"hello")
    return with_checksum(header[:124] + field + header[136:])


def pax(*records: bytes, kind: bytes = b"x") -> bytes:
    return entry("pax", b"".join(records), type=kind)


END = bytes(1024)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a root file system is made of, as far as this user may make it."""
    base = tmp_path_factory.mktemp("tree")
    noise = random.Random(0)
    (base / "etc").mkdir()
    (base / "etc/config").write_bytes(b"wanted\n")
    for number in range(40):
        (base / f"etc/{number}").write_bytes(noise.randbytes(number * 211))
    os.link(base / "etc/39", base / "hard")
    os.symlink("etc/39", base / "soft")
    os.symlink("x" * 300, base / "far")
    os.mkfifo(base / "fifo")
    deep = base.joinpath(*["directory" * 10] * 4)
    deep.mkdir(parents=True)
    (deep / ("long" * 50)).write_bytes(b"x")
    (base / "bad\udcff\udcfename\n\\").write_bytes(b"x")
    os.utime(base / "soft", ns=(1, 1), follow_symlinks=False)
    with (base / "holes").open("wb") as file:  # more than the 4 + 21 holes that fit two headers
        for number in range(60):
            file.seek(number << 16)
            file.write(b"data" * 1024)
        file.truncate(9 << 30)
    with suppress(OSError):  # of a file system without them
        os.setxattr(base / "etc/1", "user.binary", b"\0=\n 12 a=b\n\xff" * 20)
    with suppress(OSError):
        os.mknod(base / "null", 0o20666, os.makedev(1, 3))
        os.mknod(base / "loop", 0o60660, os.makedev(7, 0))
    return base


def gnu_tar(tree: Path, *options: str) -> bytes:
    argv = [program("tar"), "-C", tree, "-cf", "-", "--warning=none", *options, "."]
    done = subprocess.run(argv, capture_output=True, check=False)
    assert done.returncode == 0 or "v7" in str(options) or "ustar" in str(options), done.stderr
    return done.stdout


def xz(data: bytes, *options: str) -> bytes:
    return subprocess.run([program("xz"), "-c", *options], input=data, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def tarball(tree: Path) -> bytes:
    return gnu_tar(tree, "-S")


class TestReal:
    @pytest.mark.parametrize("form", FORMATS)
    def test_every_format_of_gnu_tar(self, tree, form):
        sparse = ["-S"] if form in ("gnu", "oldgnu", "posix") else ["--exclude=./holes"]
        xattrs = ["--xattrs"] if form == "posix" else []
        data = gnu_tar(tree, f"--format={form}", *sparse, *xattrs)
        assert len(data) < 2 << 20
        assert contents([data], ROOMY, ["etc/config"]) == {"etc/config": b"wanted\n"}
        assert said(xz(data)) == ""

    @pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
    def test_every_format_of_holes(self, tree, version):
        assert said(xz(gnu_tar(tree, "--format=posix", "-S", f"--sparse-version={version}"))) == ""

    @pytest.mark.parametrize("options", PACKERS.values(), ids=PACKERS)
    @pytest.mark.parametrize("size", [1, 7, 512, 1 << 20])
    def test_however_xz_packs_it(self, tree, options, size):
        data = gnu_tar(tree, "--exclude=./holes", "-b20")
        assert said(xz(data, *options), size=size) == ""

    def test_its_end_may_be_padded_or_not(self, tree):
        data = gnu_tar(tree, "--exclude=./holes", "-b1")
        assert len(data) % 10240
        assert said(xz(data)) == ""
        assert said(xz(data + bytes(512 * 77))) == ""

    def test_streams_after_each_other_and_zeros_in_fours_between(self, tarball):
        half = len(tarball) // 2 + 13
        first, second = xz(tarball[:half]), xz(tarball[half:])
        for padding in (b"", bytes(4), bytes(3000), bytes(3004)):
            for size in (1, 1000, 1 << 22):
                assert said(first + padding + xz(b"") + second + padding, size=size) == ""

    @pytest.mark.parametrize("packed", [gzip.compress, bz2.compress, lzma.compress, bytes])
    def test_other_packers_too(self, tarball, packed):
        for size in (1, 1000, 1 << 22):
            assert said(packed(tarball), size=size) == ""
            assert said(packed(tarball[:-20480]), size=size) != ""

    @pytest.mark.parametrize("packed", [gzip.compress, bz2.compress])
    def test_members_after_each_other_and_zeros_between(self, tarball, packed):
        half = len(tarball) // 2 + 13
        first, second = packed(tarball[:half]), packed(tarball[half:])
        for padding in (b"", bytes(1), bytes(3000)):
            for size in (1, 1000, 1 << 22):
                assert said(first + padding + packed(b"") + second + padding, size=size) == ""

    def test_pax_headers_as_libarchive_writes_them(self):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for number, kind in enumerate([tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.REGTYPE]):  # fmt: skip
                info = tarfile.TarInfo(f"{number}/" + "ü" * 200)
                info.type, info.linkname, info.devmajor, info.devminor = kind, "0/" + "ü" * 200, 1, 3
                info.uid, info.mtime = 1 << 40, 1.000000001
                info.pax_headers = {
                    "SCHILY.xattr.security.capability": "\x01\0\0\2=\n",
                    "LIBARCHIVE.xattr.user.a": "AAA=",
                    "LIBARCHIVE.creationtime": "1767225600.5",
                    "SCHILY.fflags": "nodump",
                    "ctime": "",
                }
                tar.addfile(info)
            tar.addfile(tarfile.TarInfo("./config"))
        assert contents([xz(file.getvalue())], ROOMY, ["config"]) == {"config": b""}


class TestHeaders:
    @pytest.mark.parametrize(
        "field",
        [b"00000000005\0", b"00000000005 ", b"000000000005", b"          5 ", b"5\0garbage!!!", b"\x80" + bytes(10) + b"\5"],
        ids=repr,
    )  # fmt: skip
    def test_every_way_to_write_a_size(self, field):
        assert contents([with_size(field), END], ROOMY, ["f"]) == {"f": b"hello"}

    @pytest.mark.parametrize(
        "field", [b"-0000000005\0", b"0x000000005\0", b"0_000000005\0", b"00000000008\0", b"\xff" * 12, b"5 5" + bytes(9)], ids=repr
    )  # fmt: skip
    def test_what_is_no_size(self, field):
        assert said(with_size(field) + END) == "a number in a header is none"

    @pytest.mark.parametrize(
        "field", [b"77777777777\0", b"\x80" + bytes(6) + b"\1" + bytes(4), b"\x80" + b"\xff" * 11], ids=repr
    )
    def test_a_size_beyond_the_limit_is_not_waited_for(self, field):
        assert said(with_size(field) + END) == "unpacks to more than 1024 MiB"

    def test_a_size_in_a_pax_header_goes_before_the_other(self):
        data = pax(b"10 size=5\n") + with_size(b"00000000000\0") + entry("g", b"end") + END
        assert contents([data], ROOMY, ["f", "g"]) == {"f": b"hello", "g": b"end"}
        data = pax(b"8 size=\n") + with_size(b"00000000005\0") + END
        assert contents([data], ROOMY, ["f"]) == {"f": b"hello"}

    def test_a_header_of_all_does_not_speak_of_one(self):
        data = pax(b"10 size=0\n", b"10 path=x\n", kind=b"g") + entry("f", b"hello") + END
        assert contents([data], ROOMY, ["f"]) == {"f": b"hello"}

    def test_what_is_said_of_one_member_ends_with_it(self):
        data = pax(b"10 path=g\n", b"10 size=5\n") + entry("f", b"hello") + entry("f", b"x") + END
        assert contents([data], ROOMY, ["f", "g"]) == {"g": b"hello", "f": b"x"}

    @pytest.mark.parametrize("name", ["x" * 300, "a/" * 100 + "b", "ü" * 90])
    @pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_long_names(self, name, form):
        assert contents([entry(name, b"hello", form=form), END], ROOMY, [name]) == {name: b"hello"}

    def test_a_name_in_two_parts(self):
        name = "a/" * 60 + "b" * 90
        data = entry(name, b"x", form=tarfile.USTAR_FORMAT)
        assert contents([data, END], ROOMY, [name]) == {name: b"x"}

    def test_what_gnu_keeps_in_the_place_of_a_prefix_is_no_name(self):
        header = entry("f", b"x")
        times = with_checksum(header[:345] + b"00000000000\0" * 2 + header[369:])
        assert contents([times, END], ROOMY, ["f"]) == {"f": b"x"}

    @pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"5", b"6"])
    def test_what_has_no_data_has_none_whatever_its_size_says(self, kind):
        data = entry("d", type=kind, size=1000) + entry("f", b"x") + END
        assert contents([data], ROOMY, ["d", "f"]) == {"f": b"x"}

    @pytest.mark.parametrize("kind", [b"7", b"D", b"M", b"V", b"Z"])
    def test_other_kinds_have_the_data_that_their_size_says(self, kind):
        data = entry("d", b"y" * 1000, type=kind) + entry("f", b"x") + END
        assert contents([data], ROOMY, ["f"]) == {"f": b"x"}

    def test_sums_of_signed_bytes(self):
        header = entry("f\xff\xfe" * 10, b"x")
        plain = header[:148] + header[156:512]
        assert any(byte > 127 for byte in plain)
        signed = sum(byte - 256 if byte > 127 else byte for byte in plain) + 256
        assert said(header[:148] + b"%06o\0 " % signed + header[156:] + END) == ""

    def test_a_wrong_sum_is_seen_in_every_header(self):
        good = entry("a", b"x" * 700) + entry("b" * 200, b"y") + pax(b"10 path=c\n") + entry("c") + END
        assert said(good) == ""
        headers = [at for at in range(0, len(good) - 1024, 512) if good[at + 257 : at + 262] == b"ustar"]
        assert len(headers) == 5
        for at in headers:
            for where in (0, 100, 130, 150, 156, 300, 511):
                bad = bytearray(good)
                bad[at + where] ^= 0x40
                assert said(bytes(bad)) in (
                    "the checksum of a header is wrong",
                    "a number in a header is none",
                )

    @pytest.mark.parametrize(
        "record",
        [b"0 a=b\n", b"-5 a=b\n", b"5 a=b\n", b"7 a=b\n", b"999999 a=b\n", b"99999999999 a=b\n", b" 6 a=b\n", b"6\ta=b\n", b"a=b\n", b"6 a:b\n", b"6 a=bc", b"\0" * 6, b"6", b" ", b"+6 a=b\n"],
        ids=repr,
    )  # fmt: skip
    def test_records_that_lie(self, record):
        assert said(pax(b"6 a=b\n") + entry() + END) == ""
        assert said(pax(b"6 a=b\n", record) + entry() + END) in (
            "a record of a pax header is damaged",
            "a number in a header is none",
        )

    @pytest.mark.parametrize("size", [b"-1", b"5.0", b"x", b"9" * 40])
    def test_a_size_in_a_pax_header_that_is_none(self, size):
        record = b" size=" + size + b"\n"
        record = b"%d" % (len(record) + 2 if len(record) > 7 else len(record) + 1) + record
        assert said(pax(record) + entry() + END) == "a number in a header is none"

    def test_a_wanted_file_is_there_once_and_small(self):
        assert said(entry("f") + entry("./f") + END, ROOMY, "f") == "it holds f twice"
        large = entry("f", bytes((1 << 20) + 1)) + END
        assert said(large) == ""
        assert said(large, ROOMY, "f") == "holds a f larger than 1 MiB"
        assert said(entry("f", bytes(1 << 20)) + END, ROOMY, "f") == ""


class TestDamage:
    def test_a_tar_that_is_cut_anywhere_is_refused(self, tarball):
        end = len(tarball.rstrip(b"\0"))
        end += -end % 512
        assert said(xz(tarball[: end + 1024], "-0")) == ""
        cuts = [*range(0, end + 1024, 512), *range(1, end, 3001), end + 1023, end + 513]
        for cut in cuts:
            assert said(tarball[:cut], size=1 << 20) != "", cut

    def test_a_cut_in_an_entry_and_between_two_are_told_apart(self):
        good = entry("a", b"x" * 600) + entry("b")
        assert said(good[:1000]) == "it ends in the middle of an entry"
        assert said(good[:1535]) == "it ends in the middle of an entry"
        assert said(good[:1536]) == "it has no end-of-archive blocks; was it cut between two entries?"
        assert said(good[:1600]) == "it ends in the middle of an entry"
        assert said(good) == "it has no end-of-archive blocks; was it cut between two entries?"
        assert said(good + bytes(512)).startswith("one block of zeros is in the place of a header")
        assert said(good + END) == ""

    def test_zeros_in_the_place_of_a_header_do_not_end_it_quietly(self):
        good = entry("a", b"x" * 600) + entry("b") + entry("c", b"y") + END
        for zeros in (512, 1024):
            at = 1536
            assert said(good[:at] + bytes(zeros) + good[at + zeros :]) != ""
        assert said(good + entry("d") + END) == "more follows its end"
        assert said(good + bytes(100_000) + b"x") == "more follows its end"

    def test_nothing_at_all_is_no_archive(self):
        assert said(b"") != ""
        assert said(xz(b"")) != ""
        assert said(END) == "it is empty"

    def test_xz_that_is_cut_anywhere_is_refused(self, tarball):
        for options in (["-T0", "--block-size=65536"], ["-0"]):
            packed = xz(tarball, *options)
            for cut in [*range(0, len(packed), 499), *range(len(packed) - 100, len(packed))]:
                assert said(packed[:cut], size=1 << 20) != "", cut

    def test_any_flipped_byte_is_seen(self, tree):
        packed = xz(gnu_tar(tree, "--exclude=./holes", "--exclude=./etc/3?"), "-T0", "--block-size=65536")
        places = [*range(100), *range(100, len(packed), 251), *range(len(packed) - 100, len(packed))]
        for at in places:
            bad = bytearray(packed)
            bad[at] ^= 1 << at % 8
            assert said(bytes(bad), size=1 << 20) != "", at

    @pytest.mark.parametrize(
        "rest", [b"x", b"\n", b"garbage" * 100, bytes(3), bytes(5), bytes(4) + b"x", b"\xfd7z", b"\xfd7zXZ\0", b"\x1f\x8b\x08" + bytes(20), bytes(3) + lzma.compress(b"")],
        ids=repr,
    )  # fmt: skip
    @pytest.mark.parametrize("size", [1, 1 << 20])
    def test_what_follows_the_stream_is_refused(self, rest, size):
        packed = lzma.compress(entry() + END)
        assert said(packed, size=size) == ""
        assert said(packed + rest, size=size) != ""

    @pytest.mark.parametrize(
        ("packed", "bit"), [(gzip.compress, 0x01), (bz2.compress, 0x80)]
    )  # never padding
    def test_a_cut_or_flip_of_another_packer(self, tarball, packed, bit):
        data = packed(tarball)
        for cut in (1, 4, 8, 100):
            assert said(data[:-cut]).endswith("stream is cut short")
        unpack = {gzip.compress: gzip.decompress, bz2.compress: bz2.decompress}[packed]
        for at in range(len(data) - 300, len(data)):
            flipped = data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]
            with suppress(Exception):  # among equal bytes, another distance leads to the same
                if unpack(flipped) == tarball:
                    continue
            assert said(flipped, size=1 << 20) != "", at

    def test_streams_without_end_are_not_followed(self):
        many = gzip.compress(b"") * 100_001
        assert said(many, size=1 << 20) == "has more than 100,000 gzip streams, one after the other"

    @pytest.mark.parametrize("packed", [gzip.compress, bz2.compress])
    @pytest.mark.parametrize("rest", [b"x", b"\n", bytes(9) + b"x", b"\x1f", b"B", b"\xfd7zXZ\0"], ids=repr)
    @pytest.mark.parametrize("size", [1, 1 << 20])
    def test_what_follows_another_packer_is_refused(self, packed, rest, size):
        data = packed(entry() + END)
        assert said(data, size=size) == ""
        assert said(data + rest, size=size) != ""

    @pytest.mark.parametrize(
        ("packed", "name"),
        [
            (b"\x28\xb5\x2f\xfd\x24\x01", "zstd"),  # as zstd, lz4 and xz --format=lzma begin
            (b"\x04\x22\x4d\x18\x64\x40", "lz4"),
            (lzma.compress(entry() + END, format=lzma.FORMAT_ALONE), "lzma"),
        ],
        ids=["zstd", "lz4", "lzma"],
    )
    def test_what_not_every_client_unpacks_is_named(self, packed, name):
        for size in (1, 1000):
            assert said(packed, size=size) == f"it is packed with {name}; pack it with one of xz, gzip, bzip2"

    def test_of_the_same_mind_as_tar(self, tarball, tmp_path):
        """Whatever tar refuses is refused, at random damage of the unpacked archive."""
        noise = random.Random(1)
        tar = program("tar")
        plain = tarball[: 40 * 512] + END
        first = next(at for at in range(0, len(plain), 512) if not said(plain[:at] + END) and at > 30 * 512)
        plain = plain[:first] + END
        seen = 0
        for _ in range(150):
            bad = bytearray(plain)
            bad[noise.randrange(first)] = noise.randrange(256)
            done = subprocess.run([tar, "-tf", "-"], input=bad, capture_output=True, check=False)
            seen += done.returncode != 0
            assert done.returncode == 0 or said(bytes(bad)) != ""
        assert seen > 20


class TestHeads:
    def read(self, *entries: bytes, head: str = "disk", wanted: tuple[str, ...] = ()) -> dict[str, bytes]:
        return contents([b"".join(entries) + END], ROOMY._replace(content=10), wanted, head=head)

    def test_only_the_beginning_is_kept(self):
        body = bytes(range(256)) * 40
        found = self.read(entry("disk", body), entry("./a", b"x"), wanted=("a",))
        assert found == {"disk": body[:HEAD], "a": b"x"}
        assert self.read(entry("disk", b"short")) == {"disk": b"short"}
        assert self.read(entry("disk", type=tarfile.SYMTYPE, linkname="/dev/sda")) == {}

    def test_twice_is_refused(self):
        with pytest.raises(BadArchiveError, match="it holds disk twice"):
            self.read(entry("disk", b"x"), entry("./disk", b"y"))

    def test_every_member_is_seen(self):
        seen = []
        data = entry("./a", b"12345") + entry("d/", type=tarfile.DIRTYPE) + entry("l", type=tarfile.LNKTYPE)
        contents([data + END], ROOMY, see=lambda name, size: seen.append((name, size)))
        assert seen == [("a", 5), ("d/", 0), ("l", 0)]


class TestLimits:
    def test_entries(self):
        limits = Limits(entries=5, unpacked=1 << 20, content=0)
        assert said(entry() * 5 + END, limits) == ""
        assert said(entry() * 6 + END, limits) == "has more than 5 entries"
        assert said(pax(b"6 a=b\n") * 6 + entry() + END, limits) == "has more than 5 entries"

    def test_unpacked_bytes(self):
        limits = Limits(entries=5, unpacked=1 << 20, content=0)
        body = bytes((1 << 20) - 1536)
        assert said(xz(entry(data=body) + END), limits) == ""
        assert said(xz(entry(data=body) + END + bytes(1)), limits) == "unpacks to more than 1 MiB"
        assert said(xz(entry(data=body + bytes(1)) + END), limits) == "unpacks to more than 1 MiB"

    @pytest.mark.parametrize("kind", [b"x", b"g", b"X", b"L", b"K"])
    def test_headers_of_headers(self, kind):
        assert said(entry(type=kind, size=(1 << 20) + 1) + bytes(4 << 20)) == "has a header larger than 1 MiB"

    @pytest.mark.parametrize(
        "packed",
        [partial(lzma.compress, preset=0), partial(gzip.compress, compresslevel=1), bytes],
        ids=["xz", "gzip", "plain"],
    )
    def test_memory_does_not_depend_on_the_length(self, packed):
        data = packed(entry("f", bytes(96 << 20)) + END)
        tracemalloc.start()
        assert said(data, size=1 << 16) == ""
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4 << 20

    @pytest.mark.parametrize("packed", [gzip.compress, bz2.compress])
    def test_a_bomb_ends_at_its_limit(self, packed):
        limits = Limits(entries=5, unpacked=1 << 20, content=0)
        assert (
            said(packed(entry("f", bytes(2 << 20)) + END), limits, size=1 << 22)
            == "unpacks to more than 1 MiB"
        )

    def test_a_dictionary_that_nobody_needs(self):
        filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30, "preset": 0, "mode": lzma.MODE_FAST, "mf": lzma.MF_HC3, "depth": 1}]  # fmt: skip
        huge = bytearray(lzma.compress(entry() + END, filters=[{**filters[0], "dict_size": 64 << 20}]))
        assert said(bytes(huge)) == ""
        # The size of the dictionary is one byte of the block's header (section 5.3.1), before its CRC.
        assert huge[12:16] == b"\x02\x00\x21\x01"
        huge[16] = 36  # 1 GiB
        huge[20:24] = crc32(bytes(huge[12:20])).to_bytes(4, "little")
        assert said(bytes(huge)) == "Memory usage limit exceeded"
