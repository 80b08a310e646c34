"""The door for bytes that come in a stream: to a file, through all its hashes, in one pass."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tasks import files
from tasks.errors import ImageRejected

LIMIT = 64 << 30  # bytes of a file; a desktop's disk has 5 GiB


class Hashed:
    """A file being written, with every hash of it; may be reset when a transfer starts again.

    Raises ImageRejected with the byte after ``limit``, which ends the transfer, and TreeError when the
    disk refuses.
    """

    def __init__(self, path: Path, seeds: Mapping[str, bytes], limit: int = LIMIT) -> None:
        self._path, self._seeds, self._limit = path, seeds, limit
        with files.disk("write"):
            self._file = open(path, "wb")  # noqa: SIM115, PTH123 - closed by the with statement around us
            os.fchmod(self._file.fileno(), 0o644)
        self._begin()

    def _begin(self) -> None:
        self.size, self.sha256, self.md5 = 0, hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        self.combined = {name: hashlib.sha256(seed) for name, seed in self._seeds.items()}

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        if self.size + len(chunk) > self._limit:
            raise ImageRejected(f"{self._path.name} is larger than {self._limit >> 20} MiB")
        with files.disk(f"write {self._path}"):
            self._file.write(chunk)
        self.size += len(chunk)
        for digest in (self.sha256, self.md5, *self.combined.values()):
            digest.update(chunk)

    def reset(self) -> None:
        """Start the file again."""
        with files.disk(f"write {self._path}"):
            self._file.seek(0)
            self._file.truncate()
        self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with files.disk(f"write {self._path}"):  # the last bytes
            self._file.close()
