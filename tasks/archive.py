"""Tarballs, read strictly from their first byte to their last (pure: chunks in, contents out).

Not with ``tarfile``: it takes a damaged header, or a cut between two members, for the end of the
archive, as ``lzma.open`` takes bytes after a stream, where ``tar -xJ`` fails on the client's machine.
Sources: xz-file-format.txt 1.2.1 (XZ Utils), "Basic Tar Format" and "Storing Sparse Files" in the
manual of GNU tar, pax in POSIX.1-2017, and tar(5) of libarchive.
"""

import bz2
import lzma
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

CHUNK = 1 << 18  # bytes that are unpacked at once; with XZ_MEMORY all the memory it takes
XZ_MEMORY = 256 << 20  # bytes to unpack with; what ``xz -9`` packs needs 65 MiB
HEAD = 4096  # bytes of a file of which only the beginning is wanted; no header has more
STREAMS = 100_000  # compressed ones after another; each costs a copy of a chunk, also when it holds nothing
EXTENDED_LIMIT = 1 << 20  # bytes of a long name or a pax header; the limit of Go, so of the daemons

_BLOCK = 512
_ZEROS = bytes(_BLOCK)
_HIGH = bytes(range(128))
_REGULAR = frozenset({b"0", b"\0", b"7"})
_WITHOUT_DATA = frozenset({b"1", b"2", b"3", b"4", b"5", b"6"})  # whatever their size says
_SPARSE = b"S"  # of GNU's old format
_LONG = {b"L": b"path", b"K": b"linkpath"}  # GNU's headers of a header, and what POSIX calls their content
_PAX_OF_ALL = b"g"
_PAX = frozenset({b"x", b"X", _PAX_OF_ALL})  # POSIX', Solaris'


class Limits(NamedTuple):
    """What an archive may cost; more is a bomb."""

    entries: int  # headers of any kind
    unpacked: int  # bytes
    content: int  # bytes of one wanted file


class BadArchiveError(ValueError):
    """What is wrong with the bytes, to come after "cannot be read as a tarball:"."""


class TooMuchError(ValueError):
    """Which limit is passed, to come after the archive's name."""


class _Decompressor(Protocol):
    """What lzma and bz2 offer."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most so many bytes, of this and what came before."""


class _Gzip:
    """One member of gzip, unpacked like the others."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


class _Packer(NamedTuple):
    """A format of which an archive may be several streams."""

    name: str
    magic: bytes
    padding: int  # zeros may follow a stream in multiples of so many bytes
    new: Callable[[], _Decompressor]


_XZ_MAGIC = b"\xfd7zXZ\x00"
_PACKERS = (
    _Packer("xz", _XZ_MAGIC, 4, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)),
    _Packer("gzip", b"\x1f\x8b", 1, _Gzip),
    _Packer("bzip2", b"BZh", 1, bz2.BZ2Decompressor),
)
# What some clients unpack too (lxc/incus:shared/archive/detect.go), and others do not.
_UNREAD = {b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4", b"\x5d\x00\x00": "lzma"}


def contents(
    chunks: Iterable[bytes],
    limits: Limits,
    wanted: Collection[str] = (),
    *,
    head: str = "",
    see: Callable[[str, int], object] = lambda *_: None,
) -> dict[str, bytes]:
    """Read a tarball to its end; the wanted regular files, by name without a leading ``./``.

    Of the one called ``head`` only the first HEAD bytes. ``see`` is told the name and size of every
    member. The chunks may be compressed. Raises BadArchiveError and TooMuchError.
    """
    found: dict[str, bytes] = {}
    stream = _Reader(_unpacked(chunks), limits.unpacked)
    try:
        for name, regular, size in _members(stream, limits.entries):
            see(name, size)
            taken = 0
            if regular and (name in wanted or name == head):
                if name != head and size > limits.content:
                    raise TooMuchError(f"holds a {name} larger than {limits.content >> 20} MiB")
                if name in found:
                    raise BadArchiveError(f"it holds {name} twice")
                taken = min(size, HEAD) if name == head else size
                found[name] = stream.take(taken)
            stream.skip(size - taken)
            stream.skip(-size % _BLOCK)
    except (lzma.LZMAError, zlib.error, EOFError, OSError) as error:  # of hostile bytes, not of a disk
        raise BadArchiveError(str(error) or type(error).__name__) from error
    return found


def _unpacked(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Decompress, by the first bytes as clients do; no packer takes memory by the archive's length."""
    chunks = iter(chunks)
    first = next(chunks, b"")
    while len(first) < len(_XZ_MAGIC) and (more := next(chunks, b"")):
        first += more
    for packer in _PACKERS:
        if first.startswith(packer.magic):
            yield from _decompressed(packer, first, chunks)
            return
    for magic, name in _UNREAD.items():
        if first.startswith(magic):
            known = ", ".join(packer.name for packer in _PACKERS)
            raise BadArchiveError(f"it is packed with {name}; pack it with one of {known}")
    yield first
    yield from chunks


def _decompressed(packer: _Packer, chunk: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress streams one after the other, zeros after each, nothing else (for xz: section 2.2)."""
    stream: _Decompressor | None = None
    padding = count = 0
    while chunk or (chunk := next(chunks, b"")):
        if stream is None:
            packed = chunk.lstrip(b"\0")
            padding += len(chunk) - len(packed)
            if not packed:
                chunk = b""
                continue
            if padding % packer.padding or not packer.magic.startswith(packed[: len(packer.magic)]):
                raise BadArchiveError(f"bytes that are no {packer.name} follow the stream")
            stream, chunk, count = packer.new(), packed, count + 1
            if count > STREAMS:
                raise TooMuchError(f"has more than {STREAMS:,} {packer.name} streams, one after the other")
        yield stream.decompress(chunk, CHUNK)
        while not (stream.needs_input or stream.eof):
            yield stream.decompress(b"", CHUNK)
        chunk = b""
        if stream.eof:
            chunk, stream, padding = stream.unused_data, None, 0
    if stream is not None or padding % packer.padding:
        raise BadArchiveError(f"the {packer.name} stream is cut short")


class _Reader:
    """A stream of bytes from which pieces of known size are taken."""

    def __init__(self, chunks: Iterator[bytes], limit: int) -> None:
        self._chunks, self._left = chunks, limit
        self._limit = f"unpacks to more than {limit >> 20} MiB"
        self._chunk, self._at = b"", 0

    def _fill(self) -> bool:
        """Go on to the next chunk, False at the end."""
        self._chunk, self._at = next(filter(None, self._chunks), b""), 0
        self._left -= len(self._chunk)
        if self._left < 0:
            raise TooMuchError(self._limit)
        return bool(self._chunk)

    def block(self) -> bytes:
        """The next header, b"" at the end."""
        if self._at == len(self._chunk) and not self._fill():
            return b""
        return self.take(_BLOCK)

    def take(self, size: int) -> bytes:
        """The next bytes, so many."""
        taken = self._chunk[self._at : self._at + size]
        self._at += len(taken)
        while len(taken) < size:
            if not self._fill():
                raise BadArchiveError("it ends in the middle of an entry")
            self._at = min(size - len(taken), len(self._chunk))
            taken += self._chunk[: self._at]
        return taken

    def skip(self, size: int) -> None:
        """Pass over the next bytes, so many."""
        if size > self._left + len(self._chunk) - self._at:
            raise TooMuchError(self._limit)
        while size > (there := len(self._chunk) - self._at):
            size -= there
            if not self._fill():
                raise BadArchiveError("it ends in the middle of an entry")
        self._at += size

    def rest_is_zero(self) -> bool:
        """Read to the end; whether nothing but padding comes."""
        zero = not self._chunk[self._at :].strip(b"\0")
        while self._fill():
            zero = zero and not self._chunk.strip(b"\0")
        return zero


def _members(stream: _Reader, limit: int) -> Iterator[tuple[str, bool, int]]:
    """Name, whether it is a regular file, and bytes of every member; whoever asks passes over the bytes.

    Each header must be sound, and two blocks of zeros end the archive.
    """
    extended: dict[bytes, bytes] = {}  # what headers before a member's own say of it
    count = 0
    while (header := stream.block()) != _ZEROS:
        if not header:
            raise BadArchiveError("it has no end-of-archive blocks; was it cut between two entries?")
        count += 1
        if count > limit:
            raise TooMuchError(f"has more than {limit} entries")
        kind, size = _checked(header)
        if kind in _LONG:
            extended[_LONG[kind]] = _extended(stream, size).partition(b"\0")[0]
        elif kind in _PAX:
            records = dict(_records(_extended(stream, size)))
            extended |= {} if kind == _PAX_OF_ALL else records
        else:
            if kind == _SPARSE:
                _skip_sparse_map(stream, header)
            size = _number(extended[b"size"], 10) if b"size" in extended else size
            yield _name(header, extended), kind in _REGULAR, 0 if kind in _WITHOUT_DATA else size
            extended = {}
    if not count:
        raise BadArchiveError("it is empty")
    if stream.block() != _ZEROS:
        raise BadArchiveError("one block of zeros is in the place of a header; two would end it")
    if not stream.rest_is_zero():
        raise BadArchiveError("more follows its end")


def _checked(header: bytes) -> tuple[bytes, int]:
    """The type of a member and its size in bytes, of a header whose checksum is right."""
    told = _number(header[148:156].partition(b"\0")[0], 8)
    total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    # Old Sun and HP tars added signed bytes.
    plain = header[:148] + header[156:]
    if told != total and told != total - 256 * len(plain.translate(None, _HIGH)):
        raise BadArchiveError("the checksum of a header is wrong")
    size = header[124:136]
    if size[0] == 0x80:  # noqa: PLR2004 - GNU's mark of a size beyond 8 GiB: 88 bits follow
        return header[156:157], int.from_bytes(size[1:], "big")
    return header[156:157], _number(size.partition(b"\0")[0], 8)


def _number(text: bytes, base: int) -> int:
    """A number as archives write it, nothing being 0."""
    text = text.strip(b" ")
    digits = b"0123456789"[:base]
    if text.strip(digits) or len(text) > 19:  # noqa: PLR2004 - the digits of 2**63
        raise BadArchiveError("a number in a header is none")
    return int(text or b"0", base)


def _extended(stream: _Reader, size: int) -> bytes:
    """What a header of a header holds."""
    if size > EXTENDED_LIMIT:
        raise TooMuchError(f"has a header larger than {EXTENDED_LIMIT >> 20} MiB")
    data = stream.take(size)
    stream.skip(-size % _BLOCK)
    return data


def _records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The key and value of pax records, each ``<length of all this> <key>=<value>`` and a newline."""
    at = 0
    while at < len(data):
        blank = data.find(b" ", at, at + 8)
        end = at + _number(data[at : max(blank, at)], 10)
        key, _, value = data[blank + 1 : end].partition(b"=")
        if blank <= at or end > len(data) or not value.endswith(b"\n"):
            raise BadArchiveError("a record of a pax header is damaged")
        if value != b"\n":  # nothing: as if it were not there
            yield key, value[:-1]
        at = end


def _skip_sparse_map(stream: _Reader, header: bytes) -> None:
    """Pass over the blocks in which GNU tar's old format goes on with the map of a file's holes."""
    more = header[482]
    while more:
        more = stream.take(_BLOCK)[504]


def _name(header: bytes, extended: Mapping[bytes, bytes]) -> str:
    """The name of a member, as the last of its headers says."""
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0]
    if prefix and header[257:263] == b"ustar\0":  # GNU keeps other things there
        name = prefix + b"/" + name
    return extended.get(b"path", name).decode("utf-8", "surrogateescape").removeprefix("./")
