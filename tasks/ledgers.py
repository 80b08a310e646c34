"""The door to the ledgers: what each product has, in line with the tree, and what of it is exposed."""

from collections.abc import Collection, Iterator

from msgspec.structs import replace

from tasks import files, tree
from tasks.catalogue import Catalogue
from tasks.errors import TreeError
from tasks.image import SOURCE, SUMS, Image, Product
from tasks.layout import Layout
from tasks.state import Held, Ledger, listing, load, save


def adopt(product: Product, layout: Layout) -> Ledger:
    """The product's ledger, brought in line with the tree: complete images join, damaged ones leave.

    A run that was killed between placing an image and noting it, or a lost state directory, costs no
    download: ``source.json`` says what an image is. Sizes are compared here, hashes by ``verify``.
    """
    ledger = load(layout.ledger(product), Ledger) or Ledger(product)
    ledger = Ledger(product, tuple(image for image in ledger.images if _whole(image, layout)))
    known = {image.serial for image in ledger.images}
    for path in sorted(layout.public.joinpath(product.path).glob(f"*/{SUMS}")):
        if path.parent.name in known or not path.with_name(f"{SUMS}.asc").exists():
            continue
        try:
            image = load(path.with_name(SOURCE), Image)
        except TreeError:
            continue  # damaged, so it is no whole image
        if image and image.product == product and image.serial == path.parent.name and _whole(image, layout):
            ledger = ledger.with_image(image)
    if ledger.images or files.status(layout.ledger(product)):  # an empty one would make it a product
        save(layout.ledger(product), ledger)
    return ledger


def forget(layout: Layout, paths: Collection[str]) -> None:
    """Strike files of upstreams from the records of what lies here: whatever lies there is read again."""
    for place in listing(layout.state / "held") if paths else ():
        held = load(place, Held) or Held()
        save(place, replace(held, files={path: of for path, of in held.files.items() if path not in paths}))


def _whole(image: Image, layout: Layout) -> bool:
    directory = layout.image(image)
    return all(
        (path := directory / name).is_file() and path.stat().st_size == file.size
        for name, file in image.files.items()
    ) and all((directory / name).is_file() for name in (SUMS, f"{SUMS}.asc", SOURCE))


def exposed(layout: Layout) -> Iterator[Image]:
    """The images that ``latest`` lists, in order of their paths; of the catalogue as far as it has them."""
    known = {image.path: image for image in (load(layout.catalogue, Catalogue) or Catalogue(())).images}
    for path in sorted(tree.listed_paths(layout.latest)):
        if image := known.get(path) or load(layout.latest / path / SOURCE, Image):
            yield image
