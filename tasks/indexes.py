"""Write the indexes of the catalogue, signed, into the tree; then prove them (acts).

The tree is not what the world sees, so the order here only has to be honest: what is named before
what names it.
"""

from collections.abc import Callable, Container, Iterable
from collections.abc import Set as AbstractSet
from pathlib import Path

from tasks import files, lxcindex, streams
from tasks.catalogue import Catalogue, catalogue, duplicates
from tasks.errors import ProofError, TreeError
from tasks.image import Image, Product
from tasks.layout import LXC, STREAMS, STREAMS_TWIN, Layout
from tasks.policy import matches
from tasks.proof import METADATA, Fault, prove_lxc, prove_streams
from tasks.settings import Lxc, Rule, Settings, Share
from tasks.sign import Signer, publish_signed
from tasks.state import NONE, Ledger, Offers, Quarantine, load, load_all, save

SHOWN = 10  # faults named before the rest is only counted


def collect(layout: Layout, settings: Settings, *, allow_shrink: bool) -> str:
    """Gather what is to be listed; raises TreeError when too much of what is exposed would vanish."""
    ledgers = load_all(layout.state / "ledger", Ledger)
    new = catalogue((ledger.images for ledger in ledgers), settings.site.keep)
    products = {image.product.key for image in new.images}
    if not allow_shrink:
        _refuse_shrink(layout, products, settings.site.max_shrink)
    save(layout.catalogue, new)
    return f"{len(products)} products, {len(new.images)} images"


def _refuse_shrink(layout: Layout, products: AbstractSet[str], limit: Share) -> None:
    """Raise TreeError when more of what is exposed would vanish than the site allows."""
    before = exposed_products(layout)
    lost = sorted(key.replace(":", "/") for key in before - products)
    if len(lost) * 100 > len(before) * limit.percent:
        named = ", ".join(lost[:SHOWN]) + (", …" if len(lost) > SHOWN else "")
        raise TreeError(
            f"{len(lost)} of {len(before)} products would vanish ({named}),"
            " more than site.max_shrink allows; if that is meant: doit publish --allow-shrink"
        )


def exposed_products(layout: Layout) -> set[str]:
    """The keys of the products that the newest snapshot lists."""
    lines = _lxc_lines(layout.latest / LXC / "index-system")
    return set(_exposed_streams(layout)) | set(lines)


def write_streams(
    layout: Layout,
    rules: Iterable[Rule],
    signer: Callable[[], Signer],
    held: Quarantine = NONE,
) -> str:
    """index.json and images.json with .gpg, .sjson and .gz, at both of their places.

    A product in quarantine keeps the entry that is exposed now, an image in quarantine has none.
    """
    images, rules = tuple(i for i in _listed(layout) if i.path not in held.images), tuple(rules)
    exposed = _exposed_streams(layout) if held.products else {}
    kept = {key: exposed[key] for key in held.products if key in exposed}
    document = streams.images_json((i for i in images if i.product.key not in held.products), rules, kept)
    products = document["products"]
    names = list(products) if isinstance(products, dict) else []
    by, changed = signer(), False
    for place in (STREAMS, STREAMS_TWIN):
        directory = layout.public / place
        changed |= _stream(directory / streams.IMAGES, streams.text(document), None, by)
        index, signed = (streams.text(streams.index_json(names, suffix)) for suffix in ("json", "sjson"))
        changed |= _stream(directory / streams.INDEX, index, signed, by)
    twins = duplicates(images)
    dead = idle(layout, images, rules)
    named = ", ".join(map(repr, dead[:SHOWN])) + (", …" if len(dead) > SHOWN else "")
    notes = [f"; no product for {len(dead)} of {len(rules)} rules: {named}"] if dead else []
    notes += [f"; {path} repeats a fingerprint of {first} and is not listed" for path, first in twins.items()]
    return f"{len(names)} products" + ("" if changed else ", no byte changed") + "".join(notes)


def idle(layout: Layout, images: Iterable[Image], rules: Iterable[Rule]) -> list[str]:
    """The rules that speak of no product, listed or still held: mistyped, or of yesterday."""
    offers = load(layout.offers, Offers) or Offers()
    held = [name for name in (*offers.held, *offers.waiting) if name.count("/") == 3]  # noqa: PLR2004 - no job
    products = {image.product for image in images} | {Product.parse(name) for name in held}
    return [rule.match for rule in rules if not any(matches(rule.match, product) for product in products)]


def _listed(layout: Layout) -> tuple[Image, ...]:
    return (load(layout.catalogue, Catalogue) or Catalogue(())).images


def _exposed_streams(layout: Layout) -> dict[str, streams.Json]:
    """The products that the newest snapshot lists, as it does."""
    document = load(layout.latest / STREAMS / streams.IMAGES, dict) or {}
    products = document.get("products")
    return products if isinstance(products, dict) else {}


def _lxc_lines(index: Path) -> dict[str, str]:
    """The lines of an LXC index by their product's key."""
    lines = (files.read(index) or b"").decode().splitlines(keepends=True)
    return {":".join(line.split(";")[:4]): line for line in lines}


def _stream(path: Path, data: bytes, signed: bytes | None, by: Signer) -> bool:
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


def stream_files(layout: Layout) -> list[Path]:
    """Every file that write_streams leaves."""
    forms = ("json", "json.gpg", "json.gz", "sjson")
    return [
        layout.public / top / f"{name}.{form}"
        for top in (STREAMS, STREAMS_TWIN)
        for name in ("images", "index")
        for form in forms
    ]


def lxc_files(layout: Layout, lxc: Lxc) -> list[Path]:
    """Every file that write_lxc leaves."""
    names = [name + suffix for name in lxcindex.names(lxc.levels) for suffix in ("", ".asc")]
    return [layout.public / LXC / name for name in names]


def write_lxc(
    layout: Layout,
    rules: Iterable[Rule],
    lxc: Lxc,
    signer: Callable[[], Signer],
    held: Quarantine = NONE,
) -> str:
    """The LXC indexes, each with its .asc; those of levels no longer wanted go."""
    listed = [image for image in _listed(layout) if image.path not in held.images]
    texts = lxcindex.indexes((i for i in listed if i.product.key not in held.products), rules, lxc.levels)
    directory, by = layout.public / LXC, signer()
    for name, text in texts.items():
        exposed = _lxc_lines(layout.latest / LXC / name) if held.products else {}
        kept = [exposed[key] for key in held.products if key in exposed]
        lines = [*text.decode().splitlines(keepends=True), *kept]
        lines.sort(key=lambda line: line.split(";")[:4])
        publish_signed(directory / name, "".join(lines).encode() if kept else text, by, ".asc")
    for stale in directory.glob("index-*"):
        if stale.name.removesuffix(".asc") not in texts:
            files.unlink(stale)
    return f"{len(texts['index-system'].splitlines())} products"


def prove(
    layout: Layout, settings: Settings, signer: Callable[[], Signer], allow_shrink: Callable[[], bool]
) -> str:
    """Read the new indexes as every client would.

    What can be laid to one image or product puts that into quarantine: the image is left out, the
    product stays as it is exposed, the indexes are written again, and proven again. Raises
    ProofError for the rest, and nothing is exposed then.
    """
    rules, lxc, held = settings.rules, settings.lxc, NONE
    if (load(layout.quarantine, Quarantine) or NONE) != NONE:  # the indexes may be what it left of them
        write_streams(layout, rules, signer)
        write_lxc(layout, rules, lxc, signer)
    while faults := _faults(layout, held):
        more = held.with_faults(faults)
        if more == held or any(not fault.product for fault in faults):
            lines = list(dict.fromkeys(map(str, faults)))
            rest = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
            said = ["clients could not read the new indexes; nothing is exposed:", *lines[:SHOWN], *rest]
            raise ProofError("\n  ".join(said))
        held = more
        if not allow_shrink():
            _refuse_shrink(layout, _spared(layout, held), settings.site.max_shrink)
        save(layout.quarantine, held)  # before it shows: a kill must not make it look like all there is
        write_streams(layout, rules, signer, held)
        write_lxc(layout, rules, lxc, signer, held)
    save(layout.quarantine, held)
    count = len(held.products) + len(held.images)
    return "the new indexes are good for Incus, LXD and LXC" + (f", {count} in quarantine" if count else "")


def _spared(layout: Layout, held: Quarantine) -> set[str]:
    """The products that a quarantine leaves something of."""
    images = (image for image in _listed(layout) if image.path not in held.images)
    return {image.product.key for image in images} | (held.products.keys() & exposed_products(layout))


def _faults(layout: Layout, held: Quarantine) -> list[Fault]:
    """Everything that any client would stumble over."""
    public, faults = layout.public, list[Fault]()
    sizes = files.sizes(public)
    incumbents = {
        key: str(product.get("aliases", "")).split(",")
        for key, product in _exposed_streams(layout).items()
        if isinstance(product, dict)
    }

    def read(path: str) -> bytes | None:
        return files.read(public / path)

    for client in METADATA:
        faults += prove_streams(read, sizes.get, client, incumbents)
    for index in sorted((public / LXC).glob("index-*")):
        if index.suffix != ".asc":
            faults += prove_lxc(files.read(index) or b"", index.name, sizes.get)
    return faults + unsigned(layout, sizes.keys(), held)


def unsigned(layout: Layout, present: Container[str], held: Quarantine) -> list[Fault]:
    """Published files without their signature."""
    found = []
    for top, suffix in ((STREAMS, ".gpg"), (STREAMS_TWIN, ".gpg"), (LXC, ".asc")):
        for path in (layout.public / top).iterdir():
            plain = path.suffix == ".json" if suffix == ".gpg" else path.suffix != ".asc"
            if plain and not path.with_name(path.name + suffix).exists():
                found.append(Fault("", f"{top / path.name} has no signature"))
    for image in _listed(layout):
        where = image.path
        found += [
            Fault(image.product.key, f"{image.serial} {name} has no signature", image.serial)
            for name in image.files
            if f"{where}/{name}.asc" not in present and image.path not in held.images
        ]
    return found
