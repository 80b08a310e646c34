"""A disk for virtual machines: qcow2 version 3, after docs/interop/qcow2.rst of QEMU."""

from struct import pack

_CLUSTER_BITS = 12  # with QEMU's usual 64 KiB no image is below 384 KiB, with 4 KiB one takes 24
_CLUSTER = 1 << _CLUSTER_BITS
_POINTERS = _CLUSTER // 8  # how many the L1, L2 and refcount tables hold in a cluster
_REFCOUNT_ORDER = 4  # counts of 16 bits
_COUNTS = _CLUSTER // 2
_COPIED = 1 << 63  # on a pointer: what it points to is used once
_HEADER_LENGTH = 104


def qcow2(data: bytes, size: int) -> bytes:
    """Make a disk of `size` bytes that begins with `data`; the rest is unallocated.

    The file: header, refcount table, refcount blocks, L1 table, L2 tables, guest data.
    """
    if len(data) > size or size % 512:
        raise ValueError(f"no disk of {size} bytes, in sectors of 512, can hold {len(data)} bytes")
    clusters = _ceil(len(data), _CLUSTER)
    l2_tables = _ceil(clusters, _POINTERS)
    l1_entries = _ceil(size, _CLUSTER * _POINTERS)
    l1_clusters = _ceil(l1_entries, _POINTERS)
    table, blocks = _refcount_clusters(1 + l1_clusters + l2_tables + clusters)
    l1 = 1 + table + blocks
    l2 = l1 + l1_clusters
    guest = l2 + l2_tables
    return b"".join(
        [
            _filled(_header(size, l1_entries, l1, table), 1),
            _filled(_pointers(1 + table, blocks), table),
            _filled(pack(">H", 1) * (guest + clusters), blocks),
            _filled(_pointers(l2, l2_tables, _COPIED), l1_clusters),
            _filled(_pointers(guest, clusters, _COPIED), l2_tables),
            _filled(data, clusters),
        ]
    )


def _header(size: int, l1_entries: int, l1: int, refcount_table: int) -> bytes:
    """No backing file, encryption, snapshots, features or extensions."""
    return b"".join(
        [
            pack(">4sI", b"QFI\xfb", 3),
            pack(">QI", 0, 0),  # backing file
            pack(">IQI", _CLUSTER_BITS, size, 0),  # 0: not encrypted
            pack(">IQ", l1_entries, l1 * _CLUSTER),
            pack(">QI", _CLUSTER, refcount_table),
            pack(">IQ", 0, 0),  # snapshots
            pack(">QQQ", 0, 0, 0),  # features: incompatible, compatible, autoclear
            pack(">II", _REFCOUNT_ORDER, _HEADER_LENGTH),
        ]
    )


def _refcount_clusters(others: int) -> tuple[int, int]:
    """How many clusters the refcount table and its blocks take: they count themselves too."""
    table = blocks = 1
    while blocks * _COUNTS < others + table + blocks:
        blocks += 1
        table = _ceil(blocks, _POINTERS)
    return table, blocks


def _pointers(first: int, count: int, flags: int = 0) -> bytes:
    return b"".join(pack(">Q", flags | n * _CLUSTER) for n in range(first, first + count))


def _filled(content: bytes, clusters: int) -> bytes:
    return content.ljust(clusters * _CLUSTER, b"\x00")


def _ceil(number: int, unit: int) -> int:
    return -(-number // unit)
