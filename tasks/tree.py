"""The door to the indexes of a tree: what they list, and how they are written, signed, in all their forms.

A tree is a directory with ``images``, ``streams`` and ``meta`` below: the site's own, or a snapshot's.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

from tasks import files, lxcindex, stock, streams, trees
from tasks.errors import TreeError
from tasks.hashed import settle
from tasks.image import SOURCE, Image
from tasks.layout import KEY, LXC, PAGE, PROTOCOLS, STREAMS, STREAMS_TWIN, Layout
from tasks.overlay import TOP
from tasks.policy import CLIENTS
from tasks.settings import Lxc, Page, Protocols, Settings, Signing
from tasks.sign import Signer, is_whole, keyring, publish_signed
from tasks.state import PRIVATE, load
from tasks.streams import Json
from tasks.words import counted

TEMPLATE = Path(__file__).with_name("page.html")
OLD_FORMS = ("json", "json.gpg", "sjson")
FORMS = ("json", "json.gpg", "json.gz", "sjson")


def stream_files(public: Path, lists: Iterable[str] = (), others: Iterable[str] = ()) -> list[Path]:
    """Every file that ``put_streams`` leaves, for images.json and these lists, and those of upstreams."""
    names = dict.fromkeys(lists, ("images", "index")) | {"": ("images", "index", *others)}
    return [
        public / top / of / f"{name}.{form}"
        for of in names
        for top in (STREAMS, STREAMS_TWIN)
        for name in names[of]
        for form in FORMS
    ]


def lxc_files(public: Path, lxc: Lxc) -> list[Path]:
    """Every index of LXC with its signature."""
    names = [name + suffix for name in lxcindex.names(lxc.levels) for suffix in ("", ".asc")]
    return [public / LXC / name for name in names]


def lxc_indexes(public: Path) -> list[Path]:
    """The indexes of LXC that are there, without their signatures."""
    return sorted(path for path in (public / LXC).glob("index-*") if path.suffix != ".asc")


def lists(public: Path) -> list[str]:
    """The names of the lists beside images.json that a tree has."""
    found = (path for top in (STREAMS, STREAMS_TWIN) for path in (public / top).glob("*"))
    return sorted({path.name for path in found if path.is_dir()})


def overlays(public: Path) -> list[str]:
    """The names of the upstreams whose products a tree lists beside its own."""
    found = (path for top in (STREAMS, STREAMS_TWIN) for path in (public / top).glob("*.json"))
    ours = (streams.INDEX, streams.IMAGES)
    return sorted({one.stem for one in found if one.name not in ours and one.name[0] != "."})


def overlaid(public: Path, name: str) -> dict[str, Json]:
    """The products of an upstream as a tree lists them."""
    products = (load(public / STREAMS / f"{name}.json", dict) or {}).get("products")
    return products if isinstance(products, dict) else {}


def others(public: Path) -> dict[str, int]:
    """How many products a tree's index names of each upstream."""
    index = (load(public / STREAMS / streams.INDEX, dict) or {}).get("index")
    named = index.items() if isinstance(index, dict) else ()
    return {name: len(of["products"]) for name, of in named if name != "images"}


def elsewhere(public: Path, but: Collection[str] = ()) -> dict[str, int]:
    """Every file that a tree lists of upstreams, with the bytes that these say it has; of some not."""
    found = (streams.sizes(overlaid(public, name)) for name in overlays(public) if name not in but)
    return {path: size for one in found for path, size in one.items() if path.startswith(f"{TOP}/")}


def brought(public: Path) -> set[str]:
    """The files that a tree lists of upstreams and has itself."""
    return elsewhere(public).keys() & sizes_of(public, TOP).keys()


def bring_back(shown: Path, public: Path, staging: Path) -> set[str]:
    """Give a tree the files of upstreams that a snapshot lists and has; says which it had not."""
    lost = {path for path in brought(shown) if not _is_same(shown / path, public / path)}
    if lost:
        again = staging / f"{TOP}:again"
        if again.exists():
            files.remove(again, staging)
        trees.link(shown / TOP, again)
        for path in sorted(lost):
            settle(again / path.removeprefix(f"{TOP}/"), public / path)
        files.remove(again, staging)
    return lost


def _is_same(one: Path, other: Path) -> bool:
    """Whether two names are of one file, or of a file and what a snapshot has of it."""
    here, there = files.status(one), files.status(other)
    marks = {(seen.st_size, seen.st_mtime_ns) for seen in (here, there) if seen}
    return bool(here and there) and len(marks) == 1


def there(public: Path, products: Mapping[str, Json]) -> dict[str, Json]:
    """What a tree can list of these products: versions all of whose files it has, with their sizes."""
    sizes = sizes_of(public, TOP)
    named = stock.files(products)
    return stock.listed(products, 0, {path: of for path, of in named.items() if sizes.get(path) == of.size})


def sizes_of(public: Path, top: str) -> dict[str, int]:
    """The files below a directory of a tree, with their bytes; none where it does not exist."""
    found = files.sizes(public / top) if (public / top).is_dir() else {}
    return {f"{top}/{path}": size for path, size in found.items()}


def listed_products(public: Path) -> set[str]:
    """The keys of the products that a tree lists."""
    return set(listed_streams(public)) | set(lxc_lines(public / LXC / "index-system"))


def audiences(public: Path) -> dict[str, set[str]]:
    """Who sees which products: each client in images.json, whoever gets a list, and LXC."""
    found = {"LXC": set(lxc_lines(public / LXC / "index-system"))}
    for of in ("", *lists(public)):
        products = listed_streams(public, of)
        incus, lxd = (
            {key for key, one in products.items() if streams.is_seen(one, client)} for client in CLIENTS
        )
        found |= {f"the list {of}": incus | lxd} if of else {"Incus": incus, "LXD": lxd}
    return found


def listed_streams(public: Path, of: str = "") -> dict[str, Json]:
    """The products of a tree's images.json, or of a list, as they stand there.

    No list names an image that images.json does not: ``proof`` sees to that.
    """
    document = load(public / STREAMS / of / streams.IMAGES, dict) or {}
    products = document.get("products")
    return products if isinstance(products, dict) else {}


def lxc_lines(index: Path) -> dict[str, str]:
    """The lines of an LXC index by their product's key."""
    lines = (files.read(index) or b"").decode().splitlines(keepends=True)
    return {":".join(line.split(";")[:4]): line for line in lines}


def listed_paths(public: Path) -> set[str]:
    """The directories of the images that a tree lists, relative to it."""
    paths = streams.paths(listed_streams(public))
    for index in lxc_indexes(public):
        paths |= {lxcindex.path(line) for line in lxc_lines(index).values()}
    return paths


def listed_images(public: Path) -> Iterator[Image]:
    """The images that a tree lists, read from their own ``source.json``, in order of their paths.

    One whose record is damaged or gone is left out.
    """
    yield from filter(None, (_record(public, path) for path in sorted(listed_paths(public))))


def _record(public: Path, path: str) -> Image | None:
    with suppress(TreeError):
        return load(public / path / SOURCE, Image)
    return None


def put_streams(public: Path, document: Mapping[str, Json], by: Signer, of: str = "") -> bool:
    """Write images.json and index.json, or those of a list, with .gpg, .sjson and .gz, at both places.

    The index names the upstreams' files too that are there; a list is of our own images alone.
    """
    names, changed = streams.keys(document), False
    others = {name: list(overlaid(public, name)) for name in overlays(public)} if not of else {}
    for place in (STREAMS, STREAMS_TWIN):
        directory = public / place / of
        changed |= _put_stream(directory / streams.IMAGES, streams.text(document), None, by)
        index, signed = (streams.text(streams.index_json(names, form, others)) for form in ("json", "sjson"))
        changed |= _put_stream(directory / streams.INDEX, index, signed, by)
    return changed


def put_overlay(public: Path, name: str, url: str, products: Mapping[str, Json], by: Signer) -> bool:
    """Write the products of an upstream in all forms at both places, for ``put_streams`` to name."""
    document: dict[str, Json] = {
        "content_id": name,
        "datatype": "image-downloads",
        "format": "products:1.0",
        "products": dict(products),
        "upstream": url,  # for the page; clients have no use for it
    }
    data = streams.text(document)
    places = [public / top / f"{name}.json" for top in (STREAMS, STREAMS_TWIN)]
    return True in [_put_stream(path, data, None, by) for path in places]


def drop_overlays(public: Path, wanted: Collection[str]) -> bool:
    """Remove those of all other upstreams; says whether there was one."""
    stale = [name for name in overlays(public) if name not in wanted]
    for top in (STREAMS, STREAMS_TWIN):
        for path in (public / top / f"{name}.{form}" for name in stale for form in FORMS):
            files.unlink(path)
    return bool(stale)


def _put_stream(path: Path, data: bytes, signed: bytes | None, by: Signer) -> bool:
    """One stream file in its four forms; says whether it changed."""
    clear, packed = path.with_suffix(".sjson"), path.with_name(f"{path.name}.gz")
    if (
        files.read(path) == data
        and clear.exists()
        and packed.exists()
        and path.with_name(f"{path.name}.gpg").exists()
    ):
        return False
    files.unlink(path)  # made again whole, should we be killed in between
    files.write(clear, by.clear(signed or data))
    files.write(packed, streams.gzipped(data))
    return publish_signed(path, data, by, ".gpg")


def put_old_names(public: Path, *, wanted: bool) -> bool:
    """Copies of each list under the names that images.linuxcontainers.org has; says whether one changed.

    ``.images.json.lxd`` of the list «lxd»: web servers were configured for these (lxc/lxc-ci).
    """
    changed = False
    for top in (public / STREAMS, public / STREAMS_TWIN):
        names = lists(public) if wanted else []
        copies = {f".images.{form}.{of}": f"{of}/images.{form}" for of in names for form in OLD_FORMS}
        for stale in [path for path in top.glob(".images.*") if path.name not in copies]:
            files.unlink(stale)
            changed = True
        for name, of in copies.items():
            if (data := files.read(top / of)) is not None:
                changed |= files.write_changed(top / name, data)
    return changed


def page_of(public: Path, settings: Page, images_in: Path | None = None) -> bytes:
    """The page of what a tree's indexes list; its images may lie in another."""
    from tasks import page  # noqa: PLC0415 - not needed when nothing is new

    lines = lxc_lines(public / LXC / "index-system").values()
    listed = page.offers(listed_streams(public), lines)
    for name in overlays(public):
        listed += page.followed(name, load(public / STREAMS / f"{name}.json", dict) or {})
    images = {
        path: image
        for one in listed
        for path in one.paths.values()
        if (image := _record(images_in or public, path))
    }
    with files.disk("read"):
        template = (settings.template or TEMPLATE).read_text(encoding="utf-8")
    return page.page(template, settings, listed, images)


def put_page(public: Path, settings: Settings) -> bool:
    """Make the page of what the indexes list; says whether it changed."""
    return files.write_changed(public / PAGE, page_of(public, settings.page))


def protocols_of(public: Path) -> Protocols:
    """The older protocols that a tree has files for."""
    top = public / PROTOCOLS
    return Protocols(rest=(top / "rest").exists(), header_import=(top / "import").exists())


def protocol_files(public: Path, which: Protocols) -> tuple[dict[str, dict[str, bytes]], list[str]]:
    """What older protocols are made of, by directory, if a tree lists this; and files that cannot be."""
    from tasks import protocols  # noqa: PLC0415 - not needed when nothing is new

    return protocols.made(listed_streams(public) if protocols.wanted(which) else {}, which)


def put_protocols(public: Path, which: Protocols) -> str:
    """Make their files these; says so in a few words, "" where there are and were none."""
    wanted, left = protocol_files(public, which)
    changed = sum(files.fill(public / PROTOCOLS / name, of) for name, of in wanted.items())
    files.remove_empty(public / PROTOCOLS, public)
    if not (count := sum(map(len, wanted.values()))) and not changed:
        return ""
    unfit = [f"{len(left)} would have names that no file can have, like {left[0][:80]!r}"] if left else []
    return ", ".join([f"{counted(count, 'file')} of older protocols, {changed} changed", *unfit])


def put_key(layout: Layout, signing: Signing) -> bool:
    """Publish the key that signs, beside those that signed before; says whether there was anything new.

    Which these are stands in the state directory, where nobody else can write; whoever wants to be rid of
    the older ones empties that file. Where it is lost or damaged, the ring that is exposed tells.
    """
    before = files.read(layout.keyring)
    if before is None or (before and not is_whole(before)):
        before = files.read(layout.latest / KEY) or b""
        before = before if is_whole(before) else b""
    ring = keyring(signing, before)
    files.write_changed(layout.keyring, ring, PRIVATE)
    return files.write_changed(layout.public / KEY, ring)


def has_key(layout: Layout) -> bool:
    """Whether the published ring is the site's, byte for byte."""
    return files.read(layout.public / KEY) == files.read(layout.keyring)


def add_key(public: Path, signing: Signing) -> None:
    """Put the key that signs into the ring of a snapshot, whose other signatures may be of older ones."""
    before = files.read(public / KEY) or b""
    files.write_changed(public / KEY, keyring(signing, before if is_whole(before) else b""))


def strip(public: Path, gone: Collection[str], by: Signer) -> bool:
    """Take images out of every index of a tree; says whether one named them."""
    changed = False
    for of in ("", *lists(public)):
        document = load(public / STREAMS / of / streams.IMAGES, dict) or {}
        products = listed_streams(public, of)
        left = streams.without(products, gone)
        if left != products:
            put_streams(public, {**document, "products": left}, by, of)
            changed = True
    if changed and any((public / STREAMS).glob(".images.*")):
        put_old_names(public, wanted=True)
    for index in lxc_indexes(public):
        lines = lxc_lines(index).values()
        kept = [line for line in lines if lxcindex.path(line) not in gone]
        if len(kept) < len(lines):
            publish_signed(index, "".join(kept).encode(), by, ".asc")
            changed = True
    return changed


def copy_indexes(source: Path, target: Path, top: PurePosixPath) -> bool:
    """Make the indexes below ``top`` those of another tree, byte for byte; says whether one changed.

    A signature comes after what it signs, as everywhere.
    """
    found = (path for path in (source / top).rglob("*") if not path.name.startswith(files.TEMPORARY))
    wanted = {path.relative_to(source) for path in found if path.is_file()}
    stale = [path for path in (target / top).rglob("*") if path.is_file()]
    changed = False
    for path in stale:
        if path.relative_to(target) not in wanted:
            files.unlink(path)
            files.remove_empty(path.parent, target / top)
            changed = True
    for path in sorted(wanted):
        changed |= files.write_changed(target / path, files.read(source / path) or b"")
    return changed
