"""A read-only root file system: squashfs 4.0, after doc/format.adoc of squashfs-tools-ng.

Nothing is compressed: the format allows it block by block, it is fast, and the bytes do not depend
on a zlib version. There are no fragments, export table or extended attributes; all belongs to root.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from struct import pack
from typing import NamedTuple

_NONE = (1 << 64) - 1
_BLOCK_LOG = 17  # data blocks of 128 KiB
_BLOCK = 1 << _BLOCK_LOG
_METADATA = 8192
_SUPERBLOCK = 96
_UNCOMPRESSED_BLOCK = 1 << 24
_UNCOMPRESSED_METADATA = 1 << 15
_GZIP = 1  # a compressor has to be named even if none is used
# inodes, data, fragments and ids are uncompressed; no fragments; no extended attributes
_FLAGS = 0x1 | 0x2 | 0x8 | 0x800 | 0x10 | 0x200
_NO_FRAGMENT = 0xFFFFFFFF
_DIRECTORY, _FILE = 1, 2
_ENTRIES = 256  # of a directory under one header
_DEVICE_BLOCK = 4096  # Linux reads whole blocks of the device


class _Child(NamedTuple):
    """A directory entry: its name, and where and what its inode is."""

    name: bytes
    position: int
    number: int
    kind: int

    @property
    def inode_block(self) -> int:
        return _block(self.position)


def squashfs(entries: Mapping[str, bytes | None], *, mtime: int = 0) -> bytes:
    """Make an image of files and, where the content is None, directories; parents are implied."""
    return _Image(entries, mtime).image()


def mode(content: bytes | None) -> int:
    """Directories and scripts can be entered or run, the rest is only read."""
    return 0o755 if content is None or content.startswith(b"#!") else 0o644


class _Image:
    """The parts of the image as they grow, the children of a directory before itself."""

    def __init__(self, entries: Mapping[str, bytes | None], mtime: int) -> None:
        self._contents = _with_parents(entries)
        paths = sorted(self._contents)
        self._numbers = {path: number for number, path in enumerate(paths, 1)}
        self._below: dict[str, list[str]] = {path: [] for path in paths}
        for path in paths[1:]:
            self._below[_parent(path)].append(path)
        self._mtime = mtime
        self._data = bytearray()
        self._inodes = bytearray()
        self._listings = bytearray()

    def image(self) -> bytes:
        """Lay out superblock, data, inodes, directories and the one owner, and pad the end."""
        root = self._add("")
        inodes = _metadata(self._inodes)
        listings = _metadata(self._listings)
        owners = _metadata(pack("<I", 0))
        inodes_at = _SUPERBLOCK + len(self._data)
        listings_at = inodes_at + len(inodes)
        owners_at = listings_at + len(listings)
        table_at = owners_at + len(owners)
        end = table_at + 8
        superblock = b"".join(
            [
                pack("<4sIIII", b"hsqs", len(self._numbers), self._mtime, _BLOCK, 0),
                pack("<HHHH", _GZIP, _BLOCK_LOG, _FLAGS, 1),  # 1: owner
                pack("<HH", 4, 0),
                pack("<QQ", _reference(root), end),
                pack("<QQ", table_at, _NONE),  # owners, extended attributes
                pack("<QQ", inodes_at, listings_at),
                pack("<QQ", _NONE, _NONE),  # fragments, export table
            ]
        )
        image = b"".join([superblock, self._data, inodes, listings, owners, pack("<Q", owners_at)])
        return image + bytes(-end % _DEVICE_BLOCK)

    def _add(self, path: str) -> int:
        """Write a file or a whole directory; the answer is where its inode is."""
        content = self._contents[path]
        body = self._directory(path) if content is None else self._file(content)
        position = len(self._inodes)
        self._inodes += pack("<HHHH", _kind(content), mode(content), 0, 0)
        self._inodes += pack("<II", self._mtime, self._numbers[path]) + body
        return position

    def _file(self, content: bytes) -> bytes:
        start = _SUPERBLOCK + len(self._data)
        self._data += content
        sizes = [min(_BLOCK, len(content) - at) for at in range(0, len(content), _BLOCK)]
        blocks = b"".join(pack("<I", _UNCOMPRESSED_BLOCK | size) for size in sizes)
        return pack("<IIII", start, _NO_FRAGMENT, 0, len(content)) + blocks

    def _directory(self, path: str) -> bytes:
        children = [
            _Child(
                name=below.rpartition("/")[2].encode(),
                position=self._add(below),
                number=self._numbers[below],
                kind=_kind(self._contents[below]),
            )
            for below in self._below[path]
        ]
        position = len(self._listings)
        self._listings += b"".join(_listing(children))
        links = 2 + sum(child.kind == _DIRECTORY for child in children)
        # Three more than there are: for "." and "..", which are not stored.
        size = len(self._listings) - position + 3
        # The root's parent is no inode of the image, by convention the number after the last.
        parent = self._numbers[_parent(path)] if path else len(self._numbers) + 1
        return pack("<IIHHI", _block(position), links, size, position % _METADATA, parent)


def _kind(content: bytes | None) -> int:
    return _DIRECTORY if content is None else _FILE


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _with_parents(entries: Mapping[str, bytes | None]) -> dict[str, bytes | None]:
    paths: dict[str, bytes | None] = {"": None}
    for path in entries:
        steps = path.split("/")
        paths |= {"/".join(steps[:depth]): None for depth in range(1, len(steps))}
    return {**paths, **entries}


def _listing(children: Sequence[_Child]) -> Iterator[bytes]:
    """Write entries under headers that share a block of inodes and a number to count from."""
    for block, group in groupby(children, key=lambda child: child.inode_block):
        run = list(group)
        for at in range(0, len(run), _ENTRIES):
            batch = run[at : at + _ENTRIES]
            base = batch[0].number
            yield pack("<III", len(batch) - 1, block, base)
            for child in batch:
                offset = child.position % _METADATA
                yield pack("<HhH", offset, child.number - base, child.kind)
                yield pack("<H", len(child.name) - 1) + child.name


def _metadata(table: bytes | bytearray) -> bytes:
    """Cut a table into blocks with a header each; only the last may be short."""
    blocks = [table[at : at + _METADATA] for at in range(0, len(table), _METADATA)]
    return b"".join(pack("<H", _UNCOMPRESSED_METADATA | len(block)) + block for block in blocks)


def _block(position: int) -> int:
    """Where the metadata block of a table's byte starts, once each has its header."""
    return position // _METADATA * (_METADATA + 2)


def _reference(position: int) -> int:
    return _block(position) << 16 | position % _METADATA
