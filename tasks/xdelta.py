"""The door to xdelta3: deltas as the daemons apply them, ``xdelta3 -d -s BASE`` (lxc/incus:client)."""

import hashlib
from pathlib import Path

from tasks import programs
from tasks.errors import ProgramFailed, ProgramMissing
from tasks.hashed import Hashed
from tasks.image import File

_XDELTA = ("xdelta3", "-q", "-c", "-f")
# Without secondary compression: roots are compressed, so it gains nothing, and costs a third of the time.
_ENCODE = (*_XDELTA, "-e", "-S", "none")
_DECODE = (*_XDELTA, "-d")
# What xdelta3 sees of the base at once: a match outside of it is not found, which costs size and much
# time. It takes up to twice as much memory.
_WINDOW_LEAST, _WINDOW_MOST = 64 << 20, 1 << 30
# Related roots go at 50 MiB/s and more; what is much slower has little in common with its base.
_PATIENCE = 10  # seconds
_ENCODING, _DECODING = 16 << 20, 4 << 20  # bytes a second; decoding goes at 500 MiB/s


class TooLargeError(Exception):
    """More bytes than were to be made."""


def encode(base: Path, target: Path, delta: Path, limit: int) -> File:
    """Write the delta that makes ``target`` of ``base``.

    Raises TooLargeError with the byte after ``limit``, ProgramFailed where it takes too long, and
    TreeError when the disk refuses.
    """
    with Hashed(delta, {}) as sink:

        def write(piece: bytes) -> None:
            if sink.size + len(piece) > limit:
                raise TooLargeError(f"more than {limit} bytes")
            sink.write(piece)

        window = min(max(base.stat().st_size, _WINDOW_LEAST), _WINDOW_MOST)
        patience = _PATIENCE + target.stat().st_size / _ENCODING
        programs.pour([*_ENCODE, "-B", str(window), "-s", base, target], write, timeout=patience)
    return File(sink.size, sink.sha256.hexdigest())


def fault(delta: Path, base: Path, target: File) -> str:
    """Why a delta does not make of this base the root that it should, "" when it does.

    Raises ProgramMissing without xdelta3.
    """
    made, size = hashlib.sha256(), 0

    def take(piece: bytes) -> None:
        nonlocal size
        size += len(piece)
        if size > target.size:
            raise TooLargeError("makes more bytes than the root has")
        made.update(piece)

    try:
        programs.pour([*_DECODE, "-s", base, delta], take, timeout=_PATIENCE + target.size / _DECODING)
    except ProgramMissing:
        raise
    except ProgramFailed as why:
        return f"cannot be decoded: {why}"
    except TooLargeError as why:
        return str(why)
    return "" if made.hexdigest() == target.sha256 else "makes other bytes than the root has"
