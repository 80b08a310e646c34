"""The door to files that somebody else owns: nothing but plain files is read, and no link is followed.

Their owner may move them about while they are read, so every name on the way is opened by itself,
with O_NOFOLLOW, from the directory before.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import BinaryIO

from tasks.errors import UpstreamError

CHUNK = 1 << 20  # bytes
LOST = "lost+found"  # at the top of an ext4
NOT_OURS = "it belongs to another user: chown it, or use --from"


class Sort(Enum):
    """What a name stands for."""

    FILE = "plain file"
    DIRECTORY = "directory"
    LINK = "symbolic link"
    OTHER = "special file"


class Foreign:
    """What lies below a directory; paths are relative to it, "" is itself.

    Raises UpstreamError for what the kernel does not let us read, and for what is not what it was.
    """

    def __init__(self, top: Path) -> None:
        self.top = top

    def sorts(self, path: str) -> dict[str, Sort]:
        """The entries of a directory, in order of their names."""
        with self._opened(path, os.O_DIRECTORY) as handle, os.scandir(handle) as entries:
            return dict(sorted((entry.name, _sort(entry)) for entry in entries))

    @contextmanager
    def file(self, path: str) -> Iterator[BinaryIO]:
        """One plain file, to be read."""
        with self._opened(path, os.O_NONBLOCK) as handle:  # a FIFO would wait for its writer
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise UpstreamError(f"{self.shown(path)} is no plain file")
            with os.fdopen(handle, "rb", closefd=False) as file:
                yield file

    def status(self, path: str) -> os.stat_result:
        """What the kernel says of a plain file or directory."""
        with self._opened(path, os.O_NONBLOCK) as handle:
            return os.fstat(handle)

    def read(self, path: str, limit: int) -> bytes:
        """A small file; raises ValueError when it is longer than ``limit`` bytes."""
        with self.file(path) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise ValueError(f"{self.shown(path)} is longer than {limit >> 10} KiB")
        return data

    def chunks(self, path: str) -> Iterator[bytes]:
        """A file, piece by piece."""
        with self.file(path) as file:
            while chunk := file.read(CHUNK):
                yield chunk

    def shown(self, path: str) -> str:
        """A path for people: a name may hold anything."""
        return shown(str(self.top / path))

    @contextmanager
    def _opened(self, path: str, flags: int) -> Iterator[int]:
        try:
            handle = self._open(path, flags)
        except OSError as error:
            raise UpstreamError(f"cannot read {self.shown(path)}: {error.strerror}") from error
        try:
            yield handle
        except OSError as error:
            raise UpstreamError(f"cannot read {self.shown(path)}: {error.strerror}") from error
        finally:
            os.close(handle)

    def _open(self, path: str, flags: int) -> int:
        names = path.split("/") if path else []
        if "\0" in path or {"", ".", ".."} & {*names}:
            raise UpstreamError(f"{shown(path)} is no path below {self.shown('')}")
        handle = os.open(self.top, os.O_RDONLY | os.O_DIRECTORY)
        for position, name in enumerate(names, 1):
            more = flags if position == len(names) else os.O_DIRECTORY
            try:
                inner = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | more, dir_fd=handle)
            finally:
                os.close(handle)
            handle = inner
        return handle


def shown(text: str) -> str:
    """A name or path of somebody else, in printable characters."""
    return text if text.isascii() and text.isprintable() else ascii(text)


def _sort(entry: "os.DirEntry[str]") -> Sort:
    if entry.is_symlink():
        return Sort.LINK
    if entry.is_dir(follow_symlinks=False):
        return Sort.DIRECTORY
    return Sort.FILE if entry.is_file(follow_symlinks=False) else Sort.OTHER
