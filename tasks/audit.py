"""Whether the directory of an image holds what it says it holds (acts: reads all of it, changes nothing).

SHA256SUMS, source.json and the files themselves are held against each other, so that whichever was
damaged is named. Every byte is read once for all of its hashes; memory does not depend on sizes.
What a publication leaves in such a directory is in ``make`` and ``fetch``.
"""

import errno
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tasks.image import METADATA, ROOTS, SOURCE, SUMS, Image, parse_sums

if TYPE_CHECKING:
    from hashlib import _Hash

    from tasks.sign import Verifier

CHUNK = 1 << 18  # bytes read at once; what is no longer is kept for its signature, and copied by sequoia


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in one directory; faults are lines that begin with the file they blame."""

    path: str  # of the directory, relative to the tree
    image: Image | None  # what source.json says, None when it cannot be read or speaks of another
    damage: tuple[str, ...]  # what makes the image unfit to be listed
    strays: tuple[str, ...]  # files that nothing names; they harm nobody
    refused: str  # a file that the kernel does not let us read, which says nothing of the image
    files: int  # read, without signatures
    size: int  # bytes of these
    signatures: int  # checked


def audit(tree: Path, path: str, verifier: "Verifier | None" = None) -> Audit:
    """Read the image in ``tree/path``; without a verifier, signatures only have to be there."""
    return _Reading(tree, path, verifier).result()


class _Reading:
    """One directory while it is read."""

    def __init__(self, tree: Path, path: str, verifier: "Verifier | None") -> None:
        self._directory, self._path, self._verifier = tree / path, path, verifier
        self._damage: list[str] = []
        self._strays: list[str] = []
        self._refused = ""
        self._present: set[str] = set()
        self._hashes: dict[str, _Hash] = {}
        self._combined: dict[str, dict[str, str]] = {}
        self._size = self._signatures = 0

    def result(self) -> Audit:
        """Read everything, the small records first: they tell what else to expect."""
        self._list()
        sums, source = self._read(SUMS), self._read(SOURCE)
        listed, image = self._parsed(sums), self._image(source)
        self._names_agree(listed, image)
        said = {**(image.files if image else {}), **listed}
        self._is_right(SOURCE, listed, image)
        for name in sorted(said.keys() - {SOURCE}, key=lambda one: (one not in METADATA, one)):
            self._file(name, listed, image)
        if image:
            self._fingerprints(image)
        known = {*said, SUMS, SOURCE}
        for name in sorted(self._present - known - {f"{one}.asc" for one in known}):
            self._strays.append(f"{self._path}/{name}: is not named by {SUMS}")
        return Audit(
            path=self._path,
            image=image,
            damage=tuple(self._damage),
            strays=tuple(self._strays),
            refused=self._refused,
            files=len(self._hashes),
            size=self._size,
            signatures=self._signatures,
        )

    def _fault(self, name: str, what: str) -> None:
        self._damage.append(f"{self._path}/{name}: {what}")

    def _list(self) -> None:
        try:
            entries = list(os.scandir(self._directory))
        except OSError as error:
            self._unread("", error)
            return
        self._present = {entry.name for entry in entries if entry.is_file(follow_symlinks=False)}
        for entry in sorted(entries, key=lambda one: one.name):
            if entry.name not in self._present:
                self._strays.append(f"{self._path}/{entry.name}: is no plain file")

    def _unread(self, name: str, error: OSError) -> None:
        self._fault(name, f"cannot be read: {error.strerror}")
        if error.errno != errno.EIO:  # a bad disk is damage, a missing right is not
            self._refused = self._damage[-1]

    def _read(self, name: str) -> bytes | None:
        """A small record, and its signature."""
        if name not in self._present:
            self._fault(name, "is missing")
            return None
        try:
            data = (self._directory / name).read_bytes()
        except OSError as error:
            self._unread(name, error)
            return None
        self._hashes[name] = hashlib.sha256(data)
        self._size += len(data)
        self._signature(name, data)
        return data

    def _parsed(self, sums: bytes | None) -> Mapping[str, str]:
        try:
            return parse_sums(sums or b"")
        except ValueError as error:
            self._fault(SUMS, str(error))
            return {}

    def _image(self, source: bytes | None) -> Image | None:
        if source is None:
            return None
        try:
            image = msgspec.json.decode(source, type=Image)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._fault(SOURCE, f"is damaged: {error}")
            return None
        if image.path != self._path:
            self._fault(SOURCE, f"speaks of {image.path}")
            return None
        return image

    def _names_agree(self, listed: Mapping[str, str], image: Image | None) -> None:
        if not listed or not image:
            return
        for name in sorted(image.files.keys() | {SOURCE}):
            if name not in listed:
                self._fault(SUMS, f"does not name {name}")
        for name in sorted(listed.keys() - image.files.keys() - {SOURCE}):
            self._fault(SOURCE, f"does not name {name}, which {SUMS} does")

    def _file(self, name: str, listed: Mapping[str, str], image: Image | None) -> None:
        """Read one file through its hashes: its own, and after each metadata file the combined ones."""
        if name not in self._present:
            self._fault(name, "is missing")
            return
        seeds = {one: self._hashes[one].copy() for one in METADATA if name in ROOTS and one in self._hashes}
        own = hashlib.sha256()
        try:
            size, small = self._through(self._directory / name, [own, *seeds.values()])
        except OSError as error:
            self._unread(name, error)
            return
        self._size += size
        self._hashes[name] = own
        for metadata, mark in seeds.items():
            self._combined.setdefault(metadata, {})[name] = mark.hexdigest()
        if image and name in image.files and size != image.files[name].size:
            self._fault(name, f"has {size} bytes, not {image.files[name].size}")
        if self._is_right(name, listed, image):  # else no signature can be good
            self._signature(name, self._directory / name if small is None else small)

    def _through(self, path: Path, hashes: "list[_Hash]") -> tuple[int, bytes | None]:
        """Bytes of a file that these hashes took, and the content where it is small."""
        with path.open("rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size <= CHUNK:
                data = file.read()
                for one in hashes:
                    one.update(data)
                return len(data), data
            size, buffer = 0, memoryview(bytearray(CHUNK))
            while count := file.readinto(buffer):
                for one in hashes:
                    one.update(buffer[:count])
                size += count
            return size, None

    def _signature(self, name: str, signed: bytes | Path) -> None:
        if f"{name}.asc" not in self._present:
            self._fault(name, "has no signature")
        elif self._verifier:
            try:
                why = self._verifier.detached(signed, (self._directory / f"{name}.asc").read_bytes())
            except OSError as error:
                self._unread(f"{name}.asc", error)
                return
            self._signatures += 1
            if why:
                self._fault(f"{name}.asc", why)

    def _is_right(self, name: str, listed: Mapping[str, str], image: Image | None) -> bool:
        """Hold a file against what is said of it: where only one of two says otherwise, that one is wrong."""
        if name not in self._hashes:
            return False
        claims = {SUMS: listed[name]} if name in listed else {}
        if image and name in image.files:
            claims[SOURCE] = image.files[name].sha256
        wrong = [by for by, claim in claims.items() if claim != self._hashes[name].hexdigest()]
        if wrong and len(wrong) == len(claims):
            verb = "says" if len(wrong) == 1 else "say"
            self._fault(name, f"has another sha256 than {' and '.join(wrong)} {verb}")
            return False
        if wrong:
            self._fault(wrong[0], f"names another sha256 for {name} than the file has")
        return True

    def _fingerprints(self, image: Image) -> None:
        """Hold the combined hashes against metadata and roots that are themselves what they should be."""
        good = {name for name, file in image.files.items() if self._is_what(name, file.sha256)}
        for metadata in METADATA:
            for root in ROOTS:
                if not {metadata, root} <= good:
                    continue
                said = image.fingerprints.get(metadata, {}).get(root)
                if said != self._combined[metadata][root]:
                    verb = "names another" if said else "names no"
                    self._fault(SOURCE, f"{verb} combined sha256 of {metadata} and {root}")

    def _is_what(self, name: str, sha256: str) -> bool:
        return name in self._hashes and self._hashes[name].hexdigest() == sha256


def claims(directory: Path) -> Iterator[tuple[str, str]]:
    """What a directory that may be damaged says of its files: name, sha256.

    Where SHA256SUMS and source.json disagree, one of them is damaged, and neither is believed.
    """
    said: list[Mapping[str, str]] = []
    with suppress(OSError, ValueError):
        said.append(parse_sums((directory / SUMS).read_bytes()))
    with suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
        image = msgspec.json.decode((directory / SOURCE).read_bytes(), type=Image)
        said.append({name: file.sha256 for name, file in image.files.items()})
    for name in sorted({name for one in said for name in one}):
        marks = {one[name] for one in said if name in one}
        if len(marks) == 1:
            yield name, marks.pop()
