"""The .xz container without compression, after xz-file-format.txt 1.2.1 (XZ Utils).

liblzma takes 0.2 s for a megabyte of noise, and its output depends on its version. Stored chunks
take a millisecond and are the same bytes everywhere, so that samples have known hashes.
"""

from struct import pack
from zlib import crc32

_MAGIC = b"\xfd7zXZ\x00"
_FOOTER_MAGIC = b"YZ"
_STREAM_FLAGS = b"\x00\x01"  # section 2.1.1.2: the check is CRC32
_LZMA2 = b"\x21\x01\x00"  # section 5.3.1: filter id, size of properties, a 4 KiB dictionary
_CHUNK = 1 << 16


def xz(data: bytes) -> bytes:
    """One stream of one block (sections 2 to 4)."""
    header = _with_crc(_padded(b"\x02\x00" + _LZMA2))  # 2: a header of (2 + 1) * 4 bytes
    block = header + _chunks(data)
    check = pack("<I", crc32(data))
    sizes = _varint(len(block) + len(check)) + _varint(len(data))
    index = _with_crc(_padded(b"\x00" + _varint(1) + sizes))
    backward = pack("<I", len(index) // 4 - 1) + _STREAM_FLAGS
    return b"".join(
        [
            _MAGIC + _with_crc(_STREAM_FLAGS),
            _padded(block) + check,
            index,
            pack("<I", crc32(backward)) + backward + _FOOTER_MAGIC,
        ]
    )


def _chunks(data: bytes) -> bytes:
    """Uncompressed LZMA2 chunks: the first one resets the dictionary, a zero byte ends them."""
    chunks = []
    for start in range(0, len(data), _CHUNK):
        chunk = data[start : start + _CHUNK]
        chunks += [pack(">BH", 2 if start else 1, len(chunk) - 1), chunk]
    return b"".join([*chunks, b"\x00"])


def _varint(number: int) -> bytes:
    """Section 1.2: seven bits a byte, the lowest first."""
    high, low = number >> 7, number & 0x7F
    return bytes([low | 0x80]) + _varint(high) if high else bytes([low])


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _with_crc(data: bytes) -> bytes:
    return data + pack("<I", crc32(data))
