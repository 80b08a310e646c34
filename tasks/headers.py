"""The headers of root file systems, held against the length of their file (pure: bytes in, complaint out).

A file that was cut, or that points out of itself, does not mount on any client. Sources:
squashfs: doc/format.adoc of squashfs-tools-ng, and fs/squashfs/super.c of Linux, which mounts it.
qcow2: docs/interop/qcow2.txt of QEMU, and block/qcow2.c, which opens it.
"""

from array import array
from collections.abc import Callable
from struct import unpack_from
from sys import byteorder

_NONE = (1 << 64) - 1
_SUPERBLOCK = 96  # bytes
_BLOCK_LOGS = range(12, 21)  # 4 KiB to 1 MiB
_COMPRESSORS = range(1, 7)  # gzip, lzma, lzo, xz, lz4, zstd

_HEADERS = {2: 72, 3: 104}  # version: bytes of the header at least
_CLUSTER_BITS = range(9, 22)  # 512 bytes to 2 MiB
_L1_LIMIT = 1 << 17  # entries: 64 TiB in clusters of 64 KiB
_CORRUPT, _EXTERNAL, _EXTENDED_L2 = 1 << 1, 1 << 2, 1 << 4
_KNOWN = 0x1F  # dirty, corrupt, external data file, compression type, extended L2 entries
_OFFSET = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED = 1 << 62
_SECTOR = 512


class BadRootError(ValueError):
    """What is wrong with the bytes, to come after "is damaged or unusable:"."""


def check_squashfs(head: bytes, size: int) -> None:
    """Raise BadRootError where this cannot be the beginning of a squashfs of ``size`` bytes."""
    if len(head) < _SUPERBLOCK:
        raise BadRootError("it ends within its superblock")
    inodes, _, block, fragments, compressor, log, _, owners, major, minor, root, used = unpack_from(
        "<4xIIIIHHHHHHQQ", head
    )
    ids, xattrs, inode_table, directory_table, fragment_table, exports = unpack_from("<6Q", head, 48)
    if (major, minor) != (4, 0):
        raise BadRootError(f"its version is {major}.{minor}, not 4.0")
    if log not in _BLOCK_LOGS or block != 1 << log:
        raise BadRootError(f"its block size is {block} bytes, and 2 to the {log}")
    if compressor not in _COMPRESSORS:
        raise BadRootError(f"its compression {compressor} is none that Linux knows")
    if used > size:
        raise BadRootError(f"it is cut short: {size} of {used} bytes are there")
    if not inodes or not owners:
        raise BadRootError("it counts no inodes or no owners")
    tables = [inode_table, directory_table, ids]
    tables += [fragment_table] if fragments else []
    tables += [table for table in (xattrs, exports) if table != _NONE]
    if not all(_SUPERBLOCK <= table < used for table in tables) or inode_table >= directory_table:
        raise BadRootError("its tables lie outside of it or in the wrong order")
    if root >> 16 >= directory_table - inode_table:
        raise BadRootError("its root directory lies outside of the inodes")


def check_qcow2(read: Callable[[int, int], bytes], size: int) -> None:
    """Raise BadRootError where this is no qcow2 of ``size`` bytes; ``read(offset, length)`` gives some.

    Beyond the header, every cluster of the guest's has to begin inside the file: nothing else tells
    that one was cut. That reads each table once, a cluster at a time.
    """
    l1, entries, bits, entry = check_qcow2_header(read(0, max(_HEADERS.values())), size)
    _check_clusters(read, size, _entries(read(l1, entries * 8)), bits, entry)


def check_qcow2_header(head: bytes, size: int) -> tuple[int, int, int, int]:
    """Raise BadRootError where this begins no qcow2 of ``size`` bytes that is a disk of its own.

    Returns where its first table is and how many entries it has, the cluster_bits, and the bytes of an
    entry of the second tables.
    """
    version = unpack_from(">4xI", head.ljust(8, b"\0"))[0]
    if version not in _HEADERS:
        raise BadRootError(f"its version is {version}, not 2 or 3")
    if len(head) < _HEADERS[version]:
        raise BadRootError("it ends within its header")
    backing, bits, virtual, encrypted, entries, l1 = unpack_from(">8xQ4xIQIIQ", head)
    counts, count_clusters = unpack_from(">QI", head, 48)
    features = unpack_from(">Q", head, 72)[0] if version != 2 else 0  # noqa: PLR2004 - has no features
    cluster = 1 << bits if bits in _CLUSTER_BITS else 0
    entry = 16 if features & _EXTENDED_L2 else 8
    if not cluster:
        raise BadRootError(f"its cluster_bits are {bits}, not 9 to 21")
    if fault := _qcow2_kind_fault(backing, virtual, encrypted, features):
        raise BadRootError(fault)
    needed = -(-virtual // (cluster * (cluster // entry)))
    if not needed <= entries <= _L1_LIMIT:
        raise BadRootError(
            f"its first table has {entries} entries; {needed} are needed, {_L1_LIMIT} are allowed"
        )
    for offset, length in ((l1, entries * 8), (counts, count_clusters * cluster)):
        if not offset or not length or offset % cluster or offset + length > size:
            raise BadRootError("a table of it lies outside of the file; was it cut short?")
    return l1, entries, bits, entry


def _qcow2_kind_fault(backing: int, virtual: int, encrypted: int, features: int) -> str:
    """What keeps it from being a disk of its own that every client can open."""
    faults = {
        "its disk has no size": not virtual,
        "it needs a backing file": backing,
        "it is encrypted": encrypted,
        "its data lie in another file": features & _EXTERNAL,
        "it is marked as corrupt": features & _CORRUPT,
        "it has features that QEMU does not know": features & ~_KNOWN,
    }
    return next((what for what, so in faults.items() if so), "")


def _check_clusters(
    read: Callable[[int, int], bytes], size: int, tables: "array[int]", bits: int, entry: int
) -> None:
    """See that no cluster is beyond the end; QEMU itself leaves the very last one short."""
    cluster, cut = 1 << bits, "it is cut short: a cluster lies beyond its end"
    end = -(-size // _SECTOR) * _SECTOR
    shift = 62 - (bits - 8)  # where the offset of a compressed cluster ends and its count of sectors begins
    for table in sorted({one & _OFFSET for one in tables} - {0}):
        if table + cluster > size:
            raise BadRootError(cut)
        for one in filter(None, _entries(read(table, cluster))[:: entry // 8]):
            if one & _COMPRESSED:
                start = one & ((1 << shift) - 1)
                length = ((one & (_COMPRESSED - 1)) >> shift) * _SECTOR + _SECTOR - start % _SECTOR
                if start + length > end:
                    raise BadRootError(cut)
            elif (one & _OFFSET) >= size:
                raise BadRootError(cut)


def _entries(data: bytes) -> "array[int]":
    """The big-endian numbers of a table."""
    numbers = array("Q", data)
    if byteorder == "little":
        numbers.byteswap()
    return numbers
