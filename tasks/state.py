"""The records in the state directory, typed (acts: reads and writes them).

Each is a small JSON file that is replaced whole, and only when it changes.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from tasks import config, files
from tasks.decisions import Decisions
from tasks.errors import SettingsError, TreeError
from tasks.image import File, Image, Product
from tasks.layout import SNAPSHOT, Layout
from tasks.plan import Asked, Wish
from tasks.schema import Fault

Record = TypeVar("Record")
PRIVATE = 0o600


class Ledger(msgspec.Struct, frozen=True):
    """The complete images of one product, by serial."""

    product: Product
    images: tuple[Image, ...] = ()

    def of_build(self, wish: Wish) -> Image | None:
        """The image that the wished build became; a job made anew counts from 1 again, later."""
        wanted = (wish.job, wish.configuration, wish.number, wish.timestamp)
        for image in self.images:
            source = image.source
            if (source.job, source.configuration, source.number, source.timestamp) == wanted:
                return image
        return None

    def with_image(self, image: Image) -> "Ledger":
        """The ledger with one image added or replaced."""
        kept = [other for other in self.images if other.serial != image.serial]
        return Ledger(self.product, tuple(sorted([*kept, image], key=lambda one: one.serial)))


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a build was not published."""

    product: Product
    build: str
    timestamp: int  # of the build: a job made anew has its numbers again
    reason: str
    rejected: bool  # its content is at fault: the same build is not fetched again
    rules: str = ""  # the digest of the product's rules then: with others it is


class Offers(msgspec.Struct, frozen=True, kw_only=True):
    """What the last poll learned beyond the wishes."""

    failed: str = ""  # why there is no newer knowledge
    held: Mapping[str, str] = msgspec.field(default_factory=dict)  # product -> why not its newest build
    troubled: Mapping[str, str] = msgspec.field(default_factory=dict)  # product -> why it could not be asked
    waiting: tuple[str, ...] = ()  # products without any build to publish yet
    notes: tuple[str, ...] = ()
    asked: Mapping[str, Asked] = msgspec.field(default_factory=dict)  # job without configurations -> build


class Quarantine(msgspec.Struct, frozen=True):
    """What the proof keeps out of the new indexes, and why: products by key, images by path."""

    products: Mapping[str, str] = msgspec.field(default_factory=dict)
    images: Mapping[str, str] = msgspec.field(default_factory=dict)

    def with_faults(self, faults: Iterable[Fault]) -> "Quarantine":
        """More of it: the image that a fault names, else its product."""
        products, images = dict(self.products), dict(self.images)
        for fault in faults:
            path = f"images/{fault.product.replace(':', '/')}/{fault.serial}"
            if fault.serial:
                images.setdefault(path, fault.what)
            elif fault.product:
                products.setdefault(fault.product, fault.what)
        return Quarantine(products, images)


NONE = Quarantine()


class Mirrored(msgspec.Struct, frozen=True):
    """How a mirror stands: what it has, what its indexes name, and since when not any more."""

    snapshot: str = ""
    url: str = ""
    shape: str = ""  # a mark of what it gets of a snapshot, and how
    tree: str = ""  # where its indexes lie, of one that is flipped
    failed: str = ""
    since: int = 0  # seconds since the epoch, of the first of its failures in a row; 0 for none
    lag: int | None = None  # seconds from the snapshot's publication until the mirror was seen to show it
    listed: tuple[str, ...] = ()
    lapsing: dict[str, int] = msgspec.field(default_factory=dict)  # path -> seconds since the epoch
    gone: tuple[str, ...] = ()  # images that were withdrawn at once, and are not there any more


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A signed file of an upstream as it was read last: where what is listed comes from."""

    url: str
    etag: str = ""
    sha256: str = ""  # of the file as it came
    key: str = ""  # the fingerprint of the key that signed it, as gpgv says
    updated: str = ""  # what it says of itself
    products: tuple[str, ...] = ()  # those of its products that are listed, by key


class Followed(msgspec.Struct, frozen=True, kw_only=True):
    """How an upstream stands."""

    url: str = ""
    rules: str = ""  # a digest of what the configuration says of it, and of its keyring
    failed: str = ""  # why there is no newer knowledge
    marks: Mapping[str, str] = msgspec.field(default_factory=dict)  # file -> ETag and SHA-256 of it
    notes: tuple[str, ...] = ()  # what was left out
    documents: Mapping[str, Document] = msgspec.field(default_factory=dict)  # by their names without suffix


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """Which files of an upstream lie here, by their paths below ``public``."""

    files: Mapping[str, File] = msgspec.field(default_factory=dict)
    waiting: tuple[str, ...] = ()  # those of versions that are not whole yet, and so not listed
    failed: Mapping[str, str] = msgspec.field(default_factory=dict)  # path -> why it is not here
    done: str = ""  # a mark of what was wanted when all of it was here
    kept: bool = True  # whether they are to lie here at all


def load(path: Path, kind: type[Record]) -> Record | None:
    """One record, None where there is none; raises TreeError when it cannot be read."""
    if (data := files.read(path)) is None:
        return None
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TreeError(f"{path} is damaged ({error}); remove it, the next publish makes it again") from error


def load_all(directory: Path, kind: type[Record]) -> Iterator[Record]:
    """Every record of a directory, in order of their names."""
    decoder = msgspec.json.Decoder(kind)
    for path in sorted(listing(directory)):
        if (data := files.read(path)) is None:
            continue
        try:
            yield decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise TreeError(f"{path} is damaged ({error}); remove it and publish again") from error


def decisions(layout: Layout) -> Decisions:
    """The operator's word, none where nothing was ever decided; raises SettingsError.

    A file that is gone takes nothing back: its copy in the state directory tells.
    """
    path, copy = layout.decisions, layout.decisions_copy
    if path.exists() or path.is_symlink():
        return config.record(Decisions, config.text_of(path), path)
    text = files.read(copy) if files.status(copy) else None
    if text and config.record(Decisions, text.decode(), copy) != Decisions():
        raise SettingsError(
            [f"{path} is gone, and with it what was decided: copy {copy} there, or remove that too"]
        )
    return Decisions()


def listing(directory: Path) -> list[Path]:
    """The records of a directory, none where it does not exist."""
    with files.disk("list"):
        return [path for path in directory.glob("*.json") if not path.name.startswith(files.TEMPORARY)]


def save(path: Path, record: object) -> bool:
    """Write a record if it changed; says whether it did."""
    return files.write_changed(path, encode(record), PRIVATE)


def encode(record: object) -> bytes:
    """Canonical JSON: sorted keys, two spaces, a final newline: equal records are equal bytes."""
    compact = msgspec.json.encode(record, order="sorted")
    return msgspec.json.format(compact, indent=2) + b"\n"


def latest_name(layout: Layout) -> str:
    """The snapshot that ``latest`` shows, "" when there is none."""
    link = layout.latest
    return link.readlink().parts[1] if link.is_symlink() and link.exists() else ""


def snapshots(layout: Layout) -> list[str]:
    """All finished snapshots, oldest first."""
    found = [path.name for path in layout.snapshots.glob("*") if SNAPSHOT.fullmatch(path.name)]
    return sorted(found, key=snapshot_order)


def taken(name: str) -> datetime:
    """When a snapshot was taken, in UTC, to the minute."""
    return datetime.strptime(name.partition(".")[0], "%Y%m%d-%H%M").replace(tzinfo=UTC)


def snapshot_order(name: str) -> tuple[str, int]:
    """The sort key of snapshots: minute, then counter."""
    stamp, _, count = name.partition(".")
    return stamp, int(count)
