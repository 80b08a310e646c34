"""Verify what is served: every byte, signature, index and client rule (acts: reads, changes nothing).

Needs the right to read the served tree and the public key, and nothing else: not the lock, and of the
state directory only whose keys the site's are, where it may. ``latest`` is resolved once, so that a
publication in between does not matter. What may be wrong with an image is in ``audit``; here are the
indexes, and whether they speak of these images.
"""

import zlib
from collections.abc import Callable, Container, Iterable
from functools import partial
from pathlib import Path, PurePosixPath

import msgspec

from tasks import files, frozen, lxcindex, page, stock, streams, trace, xdelta
from tasks.audit import Audit, audit
from tasks.errors import ProgramMissing, SettingsError, TreeError
from tasks.hashed import file_of
from tasks.image import METADATA, SUMS, UNIFIED_VM, File, Image
from tasks.layout import KEY, LXC, PAGE, PROTOCOLS, SITE_ID, STREAMS, STREAMS_TWIN, TRACE, Layout
from tasks.overlay import TOP
from tasks.policy import CLIENTS
from tasks.proof import prove_tree
from tasks.schema import listed_items
from tasks.settings import Lxc, Page
from tasks.sign import Verifier, certificates, is_whole
from tasks.threads import CORES, apart, together
from tasks.tree import (
    elsewhere,
    listed_paths,
    lists,
    overlaid,
    overlays,
    page_of,
    protocol_files,
    protocols_of,
    sizes_of,
)
from tasks.words import counted

DEPTH = 6  # images/<os>/<release>/<arch>/<variant>/<serial>
Say = Callable[[str], object]


class Verified(msgspec.Struct):
    """What was looked at."""

    images: int = 0
    files: int = 0  # without signatures
    size: int = 0  # bytes of these
    signatures: int = 0
    faults: int = 0

    def __str__(self) -> str:
        """The last line."""
        return (
            f"{self.images} images, {self.files} files, {self.size:,} bytes, {self.signatures} signatures: "
            + (
                "all good"
                if not self.faults
                else f"{self.faults} fault{'s' * (self.faults > 1)}, named above"
            )
        )


def verify(  # noqa: PLR0913, PLR0917 - what, by which keys, and what the configuration says of it
    layout: Layout,
    lxc: Lxc,
    verifier: Callable[[], Verifier],
    say: Say,
    own: Page,
    mirrored: Container[str] = (),
) -> Verified:
    """Hold everything against everything else; ``say`` is given a line for each fault.

    ``own`` is how the page should be made, if it does not say otherwise; its template it cannot say.
    ``mirrored`` are the upstreams all of whose files have to be here; of others, those that are. Raises
    TreeError when nothing is exposed, or when it cannot be listed or went away meanwhile.
    """
    with files.disk("read"):
        if not layout.latest.exists():
            raise TreeError(f"there is nothing to verify: {layout.latest} does not exist")
        tree = layout.latest.resolve()
    try:
        ring = files.read(layout.keyring)
    except TreeError:  # not for everybody; who the keys are of is not asked then
        ring = None
    found = _Verification(tree, verifier(), say, ring, own).all(lxc, mirrored)
    if not tree.exists():
        raise TreeError(f"{tree} was pruned while it was read; verify again")
    return found


class _Verification:
    """One tree while it is verified."""

    def __init__(self, tree: Path, verifier: Verifier, say: Say, ring: bytes | None, own: Page) -> None:
        self._tree, self._verifier, self._say, self._ring, self._own = tree, verifier, say, ring, own
        self._others = overlays(tree)
        self._sizes = files.sizes(tree) | elsewhere(tree)
        self._images: dict[str, Image] = {}
        self._damaged: set[str] = set()
        self._done = Verified()

    def all(self, lxc: Lxc, mirrored: Container[str]) -> Verified:
        """Images first: the indexes are held against them."""
        self._read_images()
        names, before = lists(self._tree), self._done.faults
        for of in ("", *names):
            self._streams(of, [] if of else self._others)
        present = {PurePosixPath(path) for path in self._sizes}
        indexes = {path.with_name(path.name.removesuffix(".asc")) for path in present if path.parent == LXC}
        for path in sorted(indexes | {LXC / name for name in lxcindex.names(lxc.levels)}):
            self._signed(path, ".asc")
        self._people()
        for of in ("", *names):
            self._items(STREAMS / of / streams.IMAGES)
        self._brought(mirrored)
        plain = sorted(str(path) for path in indexes & present)
        readers = dict.fromkeys(names, CLIENTS)
        said = prove_tree(lambda path: self._read(PurePosixPath(path)), self._size_of, plain, lists=readers)
        for line in dict.fromkeys(map(str, said)):
            self._fault(line)
        if self._done.faults == before:  # else it is made of what was named
            self._page()
            self._older()
        self._deltas()
        return self._done

    def _fault(self, where: object, what: str = "") -> None:
        self._done.faults += 1
        self._say(f"{where}: {what}" if what else str(where))

    def _read_images(self) -> None:
        """Every image, in processes: pysequoia keeps the interpreter to itself while it verifies."""
        paths = set()
        for path in self._sizes:
            parts = path.split("/")
            if parts[0] == "images" and len(parts) == DEPTH + 1:
                paths.add("/".join(parts[:DEPTH]))
            elif parts[0] == "images":
                self._fault(path, "belongs to no image")
        check = partial(_audit, self._tree, self._verifier)
        for path, found in apart(check, sorted(paths), CORES):
            self._done.images += 1
            if found is None:
                self._fault(path, "the process that read it died; the kernel's log may tell of a bad disk")
                continue
            for line in (*found.damage, *found.strays):
                self._fault(line)
            self._done.files += found.files
            self._done.size += found.size
            self._done.signatures += found.signatures
            if found.damage:
                self._damaged.add(path)
            if found.image:
                self._images[path] = found.image

    def _read(self, path: PurePosixPath) -> bytes | None:
        """An index, None where there is none that can be read."""
        try:
            return files.read(self._tree / path)
        except TreeError:
            return None

    def _signed(self, path: PurePosixPath, suffix: str) -> bytes | None:
        """An index whose detached signature is beside it."""
        data, signature = self._read(path), self._read(path.with_name(path.name + suffix))
        if data is None:
            self._fault(path, "is missing, or cannot be read")
            return None
        self._done.files += 1
        self._done.size += len(data)
        if signature is None:
            self._fault(path, f"has no {suffix}, or none that can be read")
            return data
        self._done.signatures += 1
        if why := self._verifier.detached(data, signature):
            self._fault(f"{path}{suffix}", why)
        return data

    def _streams(self, of: str, others: Iterable[str]) -> None:
        """images.json and index.json, or those of a list, and the upstreams', at both of their places."""
        for name in (streams.IMAGES, streams.INDEX, *(f"{one}.json" for one in others)):
            path, twin = STREAMS / of / name, STREAMS_TWIN / of / name
            self._stream(path.parent, name)
            self._stream(twin.parent, name)
            if self._read(path) != self._read(twin):
                self._fault(twin, f"is not the same as {path}")

    def _people(self) -> None:
        """Every link of the page leads somewhere, and the keys beside it are the site's, whole."""
        html, ring = self._read(PurePosixPath(PAGE)), self._read(PurePosixPath(KEY))
        if html is None:
            self._fault(PAGE, "is missing, or cannot be read")
        for link in dict.fromkeys(page.links(html or b"")):
            if not self._is_there(link):
                self._fault(PAGE, f"links to {link}, which does not exist")
        try:
            self._keys(ring or b"")
        except SettingsError as error:
            self._fault(error)
        self._trace()

    def _trace(self) -> None:
        """Who watches mirrors is told the right snapshot; trees of before there was such a file have none."""
        data, own = self._read(PurePosixPath(TRACE)), self._read(PurePosixPath(SITE_ID)) or b""
        told = trace.read((data or b"").decode(errors="replace"))
        here = own.decode(errors="replace").strip(), self._tree.parent.name.removeprefix(frozen.MARK)
        if data is not None and (told is None or told[:2] != here):
            self._fault(TRACE, f"does not say that this is {here[1]}")

    def _keys(self, ring: bytes) -> None:
        """The keys that readers are given; raises SettingsError where there is none."""
        path = STREAMS / streams.IMAGES
        data, signature = self._read(path), self._read(path.with_name(f"{path.name}.gpg"))
        found = certificates(ring, KEY)
        public = Verifier(found)
        good = data is not None and signature is not None and not self._verifier.detached(data, signature)
        if not is_whole(ring):
            self._fault(KEY, "is damaged, or not as it was published: gpg may not read it")
        elif good and public.detached(data or b"", signature or b""):
            self._fault(KEY, f"is not of the key that signed {path}")
        elif self._ring and is_whole(self._ring):
            ours = {one.fingerprint for one in certificates(self._ring, KEY)}
            for one in found:
                if one.fingerprint not in ours:
                    self._fault(KEY, f"holds a key that is not this site's: {one.fingerprint}")

    def _page(self) -> None:
        """The page has no signature: it is made again of the indexes, with the title that it has."""
        html = self._read(PurePosixPath(PAGE)) or b""
        if self._damaged & listed_paths(self._tree):
            return  # it tells of their files
        told = msgspec.structs.replace(page.settings(html), template=self._own.template)
        if html not in (page_of(self._tree, told), page_of(self._tree, self._own)):
            version = " or another template" if self._own.template else ""
            self._fault(PAGE, f"is not what the indexes say, or another version{version} made it")

    def _older(self) -> None:
        """What older protocols ask for is made again of the indexes, too."""
        made, _ = protocol_files(self._tree, protocols_of(self._tree))
        wanted = {f"{PROTOCOLS}/{top}/{path}": data for top, of in made.items() for path, data in of.items()}
        there = {
            path for path in self._sizes if path.startswith(tuple(f"{PROTOCOLS}/{top}/" for top in made))
        }
        for path in sorted(wanted.keys() | there):
            self._done.files += 1
            self._done.size += self._sizes.get(path, 0)
            if path not in there or self._read(PurePosixPath(path)) != wanted.get(path):
                self._fault(path, "is not what the indexes say, or another version made it")

    def _is_there(self, path: str) -> bool:
        """Whether a link leads somewhere; whether an image has all of its files was asked before."""
        directory, _, name = path.rpartition("/")
        image = self._images.get(directory)
        return path in self._sizes or bool(image and name.removesuffix(".asc") in {*image.files, SUMS})

    def _stream(self, top: PurePosixPath, name: str) -> None:
        """One stream file in its four forms, each with the same content."""
        path = top / name
        data = self._signed(path, ".gpg")
        for other, content in (
            (path.with_suffix(".sjson"), self._clear),
            (top / f"{name}.gz", self._unpacked),
        ):
            if (form := self._read(other)) is None:
                self._fault(other, "is missing, or cannot be read")
                continue
            self._done.files += 1
            self._done.size += len(form)
            why, text = content(form, data or b"")
            if not why and data is not None and text != data:
                why = f"has other content than {path}"
            if why:
                self._fault(other, why)

    def _clear(self, form: bytes, data: bytes) -> tuple[str, bytes]:
        """The signed index names the signed products file; the last line feed is the signature's."""
        self._done.signatures += 1
        plain_data = data
        why, text = self._verifier.clear(form)
        for name in ("images", *self._others):
            plain, signed = (b'"%s"' % str(STREAMS / f"{name}.{form}").encode() for form in ("json", "sjson"))
            data = data.replace(plain, signed)
        return why, (plain_data if text.removesuffix(b"\n") == data.removesuffix(b"\n") else text)

    def _unpacked(self, form: bytes, data: bytes) -> tuple[str, bytes]:
        """Not more than should be there: a bomb is only another content."""
        unpacker = zlib.decompressobj(wbits=31)
        try:
            text = unpacker.decompress(form, len(data) + 1)
        except zlib.error as error:
            return f"cannot be unpacked: {error}", b""
        whole = unpacker.eof and not unpacker.unused_data
        return "" if whole or text != data else "is cut, or has something after its end", text

    def _items(self, path: PurePosixPath) -> None:
        """What a products file says of files and combined hashes, against what the images say."""
        for of, item in listed_items(self._read(path)):
            where = PurePosixPath(str(item.get("path")))
            image = self._images.get(str(where.parent))
            if image is None or where.name not in image.files:
                continue  # the clients' rules ask whether it is there
            if item.get("sha256") != image.files[where.name].sha256:
                self._fault(path, f"{of}: names another sha256 than {where.parent}/{SUMS}")
            if (item.get("combined_type") == streams.VM) != (where.name == UNIFIED_VM):
                self._fault(path, f"{of}: combined_type is not that of {where}")
            if where.name in METADATA:
                marks = image.fingerprints.get(where.name, {})
                wanted = {key: mark for root, mark in marks.items() for key in streams.ROOT_ITEMS[root][2]}
                named = {key: mark for key, mark in item.items() if key.startswith("combined_")}
                for key in sorted(key for key in wanted | named if wanted.get(key) != named.get(key)):
                    self._fault(path, f"{of}: {key} is not that of {where.parent}")

    def _brought(self, mirrored: Container[str]) -> None:
        """Every file of an upstream that lies here, against what its signed list says of it."""
        for name in self._others:
            listed = stock.files(overlaid(self._tree, name))
            here = sizes_of(self._tree, f"{TOP}/{name}")
            if name in mirrored:
                for path in sorted(listed.keys() - here.keys()):
                    self._fault(path, "is missing")
            wanted = sorted(listed.keys() & here.keys())
            for path, found in apart(partial(_file, self._tree), wanted, CORES):
                if isinstance(found, File) and found == listed[path]:
                    self._done.files += 1
                    self._done.size += found.size
                elif isinstance(found, File):
                    self._fault(path, f"is not the file that {STREAMS}/{name}.json names")
                else:
                    self._fault(path, found or "the process that read it died; is the disk bad?")

    def _deltas(self) -> None:
        """Every delta whose base is there, decoded; only what both images say of themselves counts.

        A delta, base or root that is damaged itself was named before.
        """
        found = [
            (image, name, base, root)
            for image in self._images.values()
            for name, serial, root in image.deltas
            if (base := self._images.get(f"{image.product.path}/{serial}")) and root in base.files
        ]
        good = [one for one in found if not self._damaged.intersection((one[0].path, one[2].path))]

        def fault(of: tuple[Image, str, Image, str]) -> str:
            image, name, base, root = of
            return xdelta.fault(
                self._tree / image.path / name, self._tree / base.path / root, image.files[root]
            )

        try:
            told = together(fault, good, CORES)
        except ProgramMissing as missing:
            self._fault(f"{counted(len(good), 'delta')} cannot be decoded: {missing}")
            return
        for (image, name, base, _), why in zip(good, told, strict=True):
            if why:
                self._fault(f"{image.path}/{name}", f"from {base.serial} it {why}")

    def _size_of(self, path: str) -> int | None:
        """What an image says of its own file; whether that is so was asked before, and is one fault."""
        directory, _, name = path.rpartition("/")
        image = self._images.get(directory)
        return image.files[name].size if image and name in image.files else self._sizes.get(path)


def _file(tree: Path, path: str) -> File | str:
    """What a file is, or why it cannot be read."""
    try:
        return file_of(tree / path)
    except TreeError as error:
        return f"cannot be read: {error}"


def _audit(tree: Path, verifier: Verifier, path: str) -> Audit:
    return audit(tree, path, verifier)
