"""Write the indexes of the catalogue, signed, into the tree; then prove them (acts).

The tree is not what the world sees, so the order here only has to be honest: what is named before
what names it.
"""

from collections.abc import Callable, Container, Iterable
from pathlib import Path

from tasks import files, lxcindex, streams
from tasks.catalogue import Catalogue, catalogue, duplicates
from tasks.errors import ProofError, TreeError
from tasks.layout import LXC, STREAMS, STREAMS_TWIN, Layout
from tasks.proof import METADATA, Fault, prove_lxc, prove_streams
from tasks.settings import Lxc, Rule, Settings
from tasks.sign import Signer, publish_signed
from tasks.state import Ledger, load, load_all, save

SHOWN = 20  # faults named before the rest is only counted


def collect(layout: Layout, settings: Settings, *, allow_shrink: bool) -> str:
    """Gather what is to be listed; raises TreeError when too much of what is exposed would vanish."""
    ledgers = load_all(layout.state / "ledger", Ledger)
    new = catalogue((ledger.images for ledger in ledgers), settings.site.keep)
    products = {image.product.key for image in new.images}
    before = exposed_products(layout)
    lost = sorted(before - products)
    if lost and not allow_shrink and len(lost) * 100 > len(before) * settings.site.max_shrink.percent:
        raise TreeError(
            f"{len(lost)} of {len(before)} products would vanish ({', '.join(lost[:3])}, ...), more than"
            f" site.max_shrink allows; if that is meant: doit publish --allow-shrink"
        )
    save(layout.catalogue, new)
    return f"{len(products)} products, {len(new.images)} images"


def exposed_products(layout: Layout) -> set[str]:
    """The keys of the products that the newest snapshot lists."""
    entry = load(layout.latest / STREAMS / streams.INDEX, dict)
    listed = {key for part in (entry or {}).get("index", {}).values() for key in part["products"]}
    lines = (files.read(layout.latest / LXC / "index-system") or b"").decode().splitlines()
    return listed | {":".join(line.split(";")[:4]) for line in lines}


def write_streams(layout: Layout, rules: Iterable[Rule], signer: Callable[[], Signer]) -> str:
    """index.json and images.json with .gpg, .sjson and .gz, at both of their places."""
    images = (load(layout.catalogue, Catalogue) or Catalogue(())).images
    document = streams.images_json(images, rules)
    products = document["products"]
    names = list(products) if isinstance(products, dict) else []
    by, changed = signer(), False
    for place in (STREAMS, STREAMS_TWIN):
        directory = layout.public / place
        changed |= _stream(directory / streams.IMAGES, streams.text(document), None, by)
        index, signed = (streams.text(streams.index_json(names, suffix)) for suffix in ("json", "sjson"))
        changed |= _stream(directory / streams.INDEX, index, signed, by)
    twins = duplicates(images)
    notes = [f"; {path} repeats a fingerprint of {first} and is not listed" for path, first in twins.items()]
    return f"{len(names)} products" + ("" if changed else ", no byte changed") + "".join(notes)


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


def write_lxc(layout: Layout, rules: Iterable[Rule], lxc: Lxc, signer: Callable[[], Signer]) -> str:
    """The LXC indexes, each with its .asc; those of levels no longer wanted go."""
    images = (load(layout.catalogue, Catalogue) or Catalogue(())).images
    texts = lxcindex.indexes(images, rules, lxc.levels)
    directory = layout.public / LXC
    by = signer()
    for name, text in texts.items():
        publish_signed(directory / name, text, by, ".asc")
    for stale in directory.glob("index-*"):
        if stale.name.removesuffix(".asc") not in texts:
            files.unlink(stale)
    return f"{len(texts['index-system'].splitlines())} products"


def prove(layout: Layout) -> str:
    """Read the new indexes as every client would; raises ProofError, and nothing is exposed then."""
    public = layout.public
    sizes = files.sizes(public)

    faults: list[Fault] = []
    for client in METADATA:
        faults += prove_streams(lambda path: files.read(public / path), sizes.get, client)
    for index in sorted((public / LXC).glob("index-*")):
        if index.suffix != ".asc":
            faults += prove_lxc(files.read(index) or b"", index.name, sizes.get)
    faults += unsigned(layout, sizes.keys())
    if faults:
        lines = list(dict.fromkeys(map(str, faults)))
        more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        raise ProofError(
            "\n  ".join(
                [
                    "clients could not read the new indexes; nothing is exposed:",
                    *lines[:SHOWN],
                    *more,
                ]
            )
        )
    return "the new indexes are good for Incus, LXD and LXC"


def unsigned(layout: Layout, present: Container[str]) -> list[Fault]:
    """Published files without their signature."""
    found = []
    for top, suffix in ((STREAMS, ".gpg"), (STREAMS_TWIN, ".gpg"), (LXC, ".asc")):
        for path in (layout.public / top).iterdir():
            plain = path.suffix == ".json" if suffix == ".gpg" else path.suffix != ".asc"
            if plain and not path.with_name(path.name + suffix).exists():
                found.append(Fault("", f"{top / path.name} has no signature"))
    for image in (load(layout.catalogue, Catalogue) or Catalogue(())).images:
        where = image.path
        found += [
            Fault(image.product.key, f"{image.serial} {name} has no signature")
            for name in image.files
            if f"{where}/{name}.asc" not in present
        ]
    return found
