"""The door for bytes that come in a stream: to a file, through all its hashes, in one pass."""

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Self

import msgspec

from tasks import files
from tasks.errors import ImageRejected
from tasks.image import INCUS, LXD, META, METADATA, ROOTS, UNIFIED, UNIFIED_LXD, File

CHUNK = 1 << 20  # bytes that are read at once
LIMIT = 64 << 30  # bytes of a file; a desktop's disk has 5 GiB
METADATA_LIMIT = 64 << 20  # bytes of a metadata tarball, kept in memory; real ones have kilobytes
LIMITS = dict.fromkeys((*METADATA, META), METADATA_LIMIT)
TWINS = {LXD: INCUS, UNIFIED_LXD: UNIFIED}  # one of the same bytes is dropped, and Incus' listed for both


class Staged(msgspec.Struct, frozen=True, kw_only=True):
    """An image whose files lie complete in a directory of their own."""

    directory: Path
    serial: str
    files: Mapping[str, File]
    fingerprints: Mapping[str, Mapping[str, str]]
    md5: Mapping[str, str]
    notes: tuple[str, ...] = ()  # of what was made of it here
    signed: tuple[str, ...] = ()  # files with good signatures beside them


class Staging:
    """The files of one image as they come into an empty directory, in the order of image.STORED.

    So metadata comes first: its bytes begin every fingerprint.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files: dict[str, File] = {}
        self.md5: dict[str, str] = {}
        self._seeds: dict[str, bytes] = {}
        self._fingerprints: dict[str, dict[str, str]] = {}
        with files.disk("stage in"):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)

    def add(self, name: str, fill: Callable[["Hashed"], object]) -> None:
        """Take one file, whose bytes ``fill`` gives; raises ImageRejected when they are too many."""
        seeds = self._seeds if name in ROOTS else {}
        with Hashed(self.directory / name, seeds, LIMITS.get(name, LIMIT)) as sink:
            fill(sink)
        self.files[name] = File(sink.size, sink.sha256.hexdigest())
        self.md5[name] = sink.md5.hexdigest()
        for metadata, mark in sink.combined.items():
            self._fingerprints.setdefault(metadata, {})[name] = mark.hexdigest()

    def settle(self, name: str) -> None:
        """The file stays: drop the second of two equal ones for the two daemons, keep what begins hashes."""
        if (twin := TWINS.get(name)) and self.files.get(twin) == self.files[name]:
            files.unlink(self.directory / name)
            del self.files[name], self.md5[name]
        elif name in METADATA:
            self._seeds[name] = files.read(self.directory / name) or b""

    def staged(self, serial: str) -> Staged:
        """The whole of it."""
        return Staged(
            directory=self.directory,
            serial=serial,
            files=self.files,
            fingerprints={name: marks for name, marks in self._fingerprints.items() if marks},
            md5=self.md5,
        )


class Hashed:
    """A file being written, with every hash of it; may be reset when a transfer starts again.

    Raises ImageRejected with the byte after ``limit``, which ends the transfer, and TreeError when the
    disk refuses.
    """

    def __init__(self, path: Path, seeds: Mapping[str, bytes], limit: int = LIMIT) -> None:
        self._path, self._seeds, self._limit = path, seeds, limit
        with files.disk("write"):
            self._file: IO[bytes] = open(path, "wb")  # noqa: SIM115, PTH123 - closed by the with statement around us
            os.fchmod(self._file.fileno(), 0o644)
        self._begin()

    def _begin(self) -> None:
        self.size, self.sha256, self.md5 = 0, hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        self.combined = {name: hashlib.sha256(seed) for name, seed in self._seeds.items()}

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._see(chunk)
        with files.disk(f"write {self._path}"):
            self._file.write(chunk)

    def _see(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self.size > self._limit:
            raise _too_large(self._path, self._limit)
        for digest in (self.sha256, self.md5, *self.combined.values()):
            digest.update(chunk)

    def copy(self, source: IO[bytes]) -> None:
        """Take all of an open file: where the file system can, its blocks are shared and not copied.

        Its owner may go on to write into it: what is hashed is what arrived here.
        """
        self._refuse_large(source)
        try:
            files.share(source.fileno(), self._file.fileno())
        except OSError:  # another file system, or one that cannot
            while chunk := source.read(CHUNK):
                self.write(chunk)
            return
        with files.disk("read"), self._path.open("rb") as ours:
            while chunk := ours.read(CHUNK):
                self._see(chunk)

    def hash_only(self, source: IO[bytes]) -> None:
        """Take the hashes of an open file, and none of its bytes."""
        self._refuse_large(source)
        while chunk := source.read(CHUNK):
            self._see(chunk)

    def _refuse_large(self, source: IO[bytes]) -> None:
        """See before it is read whether it is too large; it may still grow."""
        if os.fstat(source.fileno()).st_size > self._limit:
            raise _too_large(self._path, self._limit)

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


class Part(Hashed):
    """A file whose size is known, as it comes: it goes on where an earlier run left it."""

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._seeds, self._limit = path, {}, size
        with files.disk("write"):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            self._file = os.fdopen(handle, "r+b")
            if os.fstat(handle).st_size > size:  # it is of something else
                os.ftruncate(handle, 0)
            self._begin()
            self.hash_only(self._file)


def settle(source: Path, target: Path) -> None:
    """Make a finished file durable and rename it into place, over whatever has its name."""
    with files.disk("move into place"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with source.open("rb") as file:
            os.fchmod(file.fileno(), files.PLAIN)
            os.fsync(file.fileno())
        source.replace(target)


def file_of(path: Path) -> File:
    """The size and hash of a file that lies here."""
    with files.disk("read"), path.open("rb", buffering=0) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return File(os.fstat(file.fileno()).st_size, digest)


def _too_large(path: Path, limit: int) -> ImageRejected:
    return ImageRejected(f"{path.name} is larger than {limit >> 20} MiB")
