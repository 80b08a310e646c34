"""Readers that loop over a tree as clients and mirrors do, and keep what they stumbled over."""

import hashlib
import json
import re
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Self
from urllib.parse import unquote

import pysequoia

STREAMS = (
    "streams/v1/index",
    "streams/v1/images",
    "meta/simplestreams/v1/index",
    "meta/simplestreams/v1/images",
)
PATIENCE = 2.0  # seconds in which a mirror's index and its signature must be a pair again


class Reader:
    """Reads index, signature and files, each by a path of its own, as requests come one by one.

    With ``hold``, every index that was ever seen is held, and all it names must stay. ``spare`` are paths
    that may vanish. Of ``latest`` one snapshot is read at a time; on other trees rsync renames an index and
    its signature one after the other, so a pair may be out of step for a moment: ``window`` is the longest.
    """

    def __init__(
        self, public_key: Path, *trees: Path, hold: bool = False, spare: Collection[str] = ()
    ) -> None:
        self.faults: list[str] = []
        self.rounds, self.window = 0, 0.0
        self._trees, self._hold, self._spare = trees, hold, tuple(spare)
        self._certificate = pysequoia.Cert.from_bytes(public_key.read_bytes())
        self._hashes: dict[tuple[int, int], str] = {}
        self._good: set[bytes] = set()
        self._wanted: dict[Path, dict[str, str]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _read(self) -> None:
        while not self._stop.is_set():
            for tree in self._trees:
                self.look(tree)
            self.rounds += 1

    def look(self, tree: Path) -> None:
        """One round: the signatures, then an index, then what it names."""
        real = tree.resolve()
        try:
            self._pairs(real, settled=real != tree)
        except FileNotFoundError as error:
            if tree.resolve() == real and real.exists():  # else that snapshot was pruned meanwhile
                self.faults.append(f"{tree.name}: {error}")
        try:
            wanted = named(tree)
        except (OSError, ValueError) as error:
            self.faults.append(f"{tree.name}: {error!r}")
            return
        if self._hold:
            wanted = self._wanted[tree] = {**self._wanted.get(tree, {}), **wanted}
        for path, digest in wanted.items():
            if not path.startswith(self._spare or ("\0",)):
                self._file(tree, path, digest)

    def _file(self, tree: Path, path: str, digest: str) -> None:
        try:
            seen = (tree / path).stat()
            known = self._hashes.get((seen.st_ino, seen.st_mtime_ns))
            found = known or hashlib.sha256((tree / path).read_bytes()).hexdigest()
        except OSError:
            self.faults.append(f"{tree.name}: {path} is missing")
            return
        self._hashes[seen.st_ino, seen.st_mtime_ns] = found
        if digest and found != digest:
            self.faults.append(f"{tree.name}: {path} is wrong")

    def _pairs(self, tree: Path, *, settled: bool) -> None:
        lxc = [
            path
            for path in (tree / "meta/1.0").glob("index-*")
            if path.suffix != ".asc" and not path.name.startswith(".")
        ]
        pairs = [(tree / f"{name}.json", tree / f"{name}.json.gpg") for name in STREAMS]
        pairs += [(path, path.with_name(f"{path.name}.asc")) for path in lxc]
        for path, signature in pairs:
            begun, last = time.monotonic(), settled
            while not self._fits(path, signature):
                if last:
                    self.faults.append(f"{tree.name}: {signature.name} is not of {path.name}")
                    break
                self.window = max(self.window, time.monotonic() - begun)
                last = time.monotonic() > begun + PATIENCE  # and once more: it was perhaps we who slept
        for name in STREAMS:
            text = (tree / f"{name}.sjson").read_bytes()
            if text not in self._good and not self._clear(text):
                self.faults.append(f"{tree.name}: {name}.sjson is not well signed")

    def _fits(self, path: Path, signature: Path) -> bool:
        signed, armour = path.read_bytes(), signature.read_bytes()
        if (mark := hashlib.sha256(signed + armour).digest()) in self._good:
            return True
        try:
            pysequoia.verify(bytes=signed, store=self._store, signature=pysequoia.Sig.from_bytes(armour))
        except Exception:
            return False
        self._good.add(mark)
        return True

    def _clear(self, text: bytes) -> bool:
        try:
            pysequoia.verify(bytes=text, store=self._store)
        except Exception:
            return False
        self._good.add(text)
        return True

    def _store(self, _: list[str]) -> list[pysequoia.Cert]:
        return [self._certificate]


def named(tree: Path) -> dict[str, str]:
    """Every path that the indexes and the page of a tree name, with its SHA-256 where that is told."""
    index = json.loads((tree / "streams/v1/index.json").read_bytes())
    images = json.loads((tree / index["index"]["images"]["path"]).read_bytes())
    versions = [
        version for product in images["products"].values() for version in product["versions"].values()
    ]
    wanted = {item["path"]: item["sha256"] for version in versions for item in version["items"].values()}
    for line in (tree / "meta/1.0/index-system").read_text().splitlines():
        directory = line.split(";")[5].strip("/")
        names = ("rootfs.tar.xz", "meta.tar.xz", "rootfs.tar.xz.asc")
        wanted |= {f"{directory}/{name}": wanted.get(f"{directory}/{name}", "") for name in names}
    if (page := tree / "index.html").exists():  # on a mirror it comes after them
        links = map(unquote, re.findall(r'href="(images/[^"]+)"', page.read_text()))
        wanted |= {link: wanted.get(link, "") for link in links}
    return wanted
