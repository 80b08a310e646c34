"""One image's road from a wish to the tree: fetched and checked, signed, placed (acts).

The only verb that calls other verbs: it is the straight line of one image. A fault of the build or of
the way to it is written down for the last task to report and stops nobody else; the product stays at
its last good image. A fault of ours (signing, disk) is an error and is raised.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from tasks import files
from tasks.audit import claims
from tasks.catalogue import bases
from tasks.check import check
from tasks.delta import deltas
from tasks.errors import ImageRejected, UpstreamError
from tasks.hashed import Staged
from tasks.image import LOG, SOURCE, SUMS, File, Image, Product, Source, parse_delta, sums
from tasks.layout import STREAMS, Layout
from tasks.ledgers import adopt
from tasks.plan import Wish
from tasks.schema import listed_items
from tasks.settings import Settings
from tasks.sign import Signer, sign_directory
from tasks.state import Failure, Ledger, decisions, encode, load, save
from tasks.words import counted


class Made(NamedTuple):
    """How a wish ended, in a line, and the image where that is new."""

    line: str
    image: Image | None = None

    @property
    def failed(self) -> bool:
        """Whether it did not come to what was wished for, by its own or the way's fault."""
        return self.line.startswith(("rejected:", "failed:"))


def make(
    wish: Wish,
    layout: Layout,
    take: Callable[[Wish], Staged],
    signer: Callable[[], Signer],
    rules: str = "",
) -> Made:
    """Bring one product to its wished build; ``take`` gives it checked, ``rules`` stand beside a failure."""
    ledger = adopt(wish.product, layout)
    if image := ledger.of_build(wish):
        files.unlink(layout.failure(wish.product))
        return Made(f"{image.serial} is there already")
    try:
        staged = take(wish)
        source = Source(
            job=wish.job,
            configuration=wish.configuration,
            number=wish.number,
            timestamp=wish.timestamp,
            md5=dict(sorted(staged.md5.items())),
        )
        made = place(image_of(wish.product, staged, source), staged, ledger, layout, signer)
    except (ImageRejected, UpstreamError) as fault:
        rejected = isinstance(fault, ImageRejected)
        failure = Failure(
            product=wish.product,
            build=wish.build,
            timestamp=wish.timestamp,
            reason=str(fault),
            rejected=rejected,
            rules=rules,
        )
        save(layout.failure(wish.product), failure)
        return Made(f"{'rejected' if rejected else 'failed'}: {wish.build}: {fault}")
    files.unlink(layout.failure(wish.product))
    return made


def finish(product: Product, staged: Staged, layout: Layout, settings: Settings, now: datetime) -> Staged:
    """Look into what arrived, and make its deltas from the images that are to stay listed beside it.

    Raises ImageRejected for what the files hold.
    """
    check(staged.directory, staged.files, product, staged.serial, now)
    ledger = load(layout.ledger(product), Ledger) or Ledger(product)
    keep, count = settings.site.keep, settings.deltas.bases
    chosen = bases(decisions(layout).listed(ledger.images), staged.serial, keep, count)
    old = [(one, layout.image(one)) for one in chosen]
    made, notes = deltas(staged.directory, staged.files, old, settings.deltas)
    return replace(staged, files={**staged.files, **made}, notes=tuple(notes))


def image_of(product: Product, staged: Staged, source: Source) -> Image:
    """The record of what is staged."""
    return Image(
        product=product,
        serial=staged.serial,
        files=dict(sorted(staged.files.items())),
        fingerprints=staged.fingerprints,
        source=source,
    )


def verdict(image: Image, ledger: Ledger, layout: Layout) -> Made | None:
    """Why an image has not to be placed, None when it has; raises ImageRejected when it must not be.

    Of an import nothing is noted, and its serial may be older than the newest: a tree has a history.
    """
    word = decisions(layout)
    if image.path in word.withdrawn():
        again = f"doit unhold {image.product.name}/{image.serial}, then doit image:{image.product.name}"
        raise ImageRejected(f"serial {image.serial} was withdrawn; to let it come again: {again}")
    if same := next((old for old in ledger.images if old.serial == image.serial), None):
        return _again(image, same, ledger, layout)
    if twin := next((old for old in ledger.images if old.content == image.content), None):
        if word.refuses(twin):
            raise ImageRejected(
                f"serial {image.serial} has the content of {twin.serial}, which was taken back"
            )
        said = f"{image.serial} has the content of {twin.serial}: nothing new"
        return _noted(twin, image.source, ledger, layout, said)
    if not image.source.imported:
        _refuse_older(image, [old for old in ledger.images if not word.refuses(old)])
    _refuse_other_bytes(image, layout)
    return None


def place(image: Image, staged: Staged, ledger: Ledger, layout: Layout, signer: Callable[[], Signer]) -> Made:
    """Sign a checked image and rename it into the tree; the ledger follows, never leads.

    Raises ImageRejected where the ledger, the operator or what is exposed already forbids it.
    """
    if known := verdict(image, ledger, layout):
        return known
    source = encode(image)
    files.place(staged.directory / SOURCE, source)
    listed = {**image.files, SOURCE: File(len(source), files.digest(source))}
    files.place(staged.directory / SUMS, sums(listed).encode())
    sign_directory(staged.directory, signer(), staged.signed)
    if layout.image(image).exists():  # and is not whole, else the ledger had it
        files.remove(layout.image(image), layout.staging)
    files.move(staged.directory, layout.image(image))
    save(layout.ledger(image.product), ledger.with_image(image))
    said = "; ".join([described(image), *staged.notes])
    return Made(f"{image.serial} ({said}) from {image.source.text}", image)


def described(image: Image) -> str:
    """What it can be used as, and how much it is."""
    what = ", ".join(sorted(image.kinds))
    return f"{what}; {counted(len(image.files), 'file')}, {_human(image.size)}"


def _again(image: Image, same: Image, ledger: Ledger, layout: Layout) -> Made:
    """The serial is there: note the newer build of equal bytes, refuse one of others."""
    if image.content != same.content:  # the first build's log and deltas stay
        raise ImageRejected(
            f"serial {image.serial} is published with other bytes, from {_build(same)};"
            " an image never changes"
        )
    said = f"{image.serial} is there already, with the same bytes, from {_build(same)}"
    return _noted(same, image.source, ledger, layout, said)


def _noted(same: Image, source: Source, ledger: Ledger, layout: Layout, said: str) -> Made:
    """Note that a newer build brought nothing new, so that it is not fetched again."""
    if source.imported:
        return Made(said)
    save(layout.ledger(same.product), ledger.with_image(msgspec.structs.replace(same, source=source)))
    return Made(said)


def _refuse_other_bytes(image: Image, layout: Layout) -> None:
    """A serial whose image is damaged, or gone from the tree, may come again with the same bytes only.

    Clients may have them: what is exposed says so, and what is left of the image.
    """
    for path, sha256 in (*_exposed(image, layout), *_left(image, layout)):
        name = path.name
        if name in (LOG, SOURCE) or parse_delta(name):
            continue
        if name not in image.files or image.files[name].sha256 != sha256:
            raise ImageRejected(
                f"serial {image.serial} has another {name} than was published: see {path.parent};"
                " an image never changes"
            )


def _exposed(image: Image, layout: Layout) -> Iterator[tuple[Path, str]]:
    """What the exposed images.json says of a serial's files: path, sha256."""
    index = layout.latest.resolve() / STREAMS / "images.json"
    if f'"{image.path}/'.encode() not in (data := _unchanging(index)):
        return
    for _, item in listed_items(data):
        path, sha256 = str(item.get("path")), str(item.get("sha256"))
        if path.startswith(f"{image.path}/"):
            yield layout.latest / path, sha256


@lru_cache(maxsize=1)
def _unchanging(index: Path) -> bytes:
    """A file of a snapshot, read once for all images of a run; none where nothing is exposed."""
    return files.read(index) or b""


def _left(image: Image, layout: Layout) -> Iterator[tuple[Path, str]]:
    """What is left of a serial in the tree, in what is exposed, and where damaged images are set aside."""
    aside = layout.damaged / image.product.name
    for where in (
        layout.image(image),
        layout.latest / image.path,
        *sorted(aside.glob(f"{image.serial}*")),
    ):
        yield from ((where / name, sha256) for name, sha256 in claims(where))


def _refuse_older(image: Image, published: Sequence[Image]) -> None:
    newest = published[-1] if published else None
    if newest and image.serial < newest.serial:
        raise ImageRejected(
            f"its serial {image.serial} is older than the published {newest.serial}"
            f" of {_build(newest)}; was the clock of the agent wrong?"
        )


def _build(image: Image) -> str:
    return image.source.text if image.source.imported else f"build #{image.source.number}"


def _human(size: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:  # noqa: PLR2004 - the base of the units
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
