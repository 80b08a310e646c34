"""Where everything lies below a site's root (pure: it names paths and touches none)."""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tasks.image import Image, Product

STREAMS = PurePosixPath("streams/v1")
STREAMS_TWIN = PurePosixPath("meta/simplestreams/v1")  # where images.linuxcontainers.org keeps them
LXC = PurePosixPath("meta/1.0")
SNAPSHOT = re.compile(r"[0-9]{8}-[0-9]{4}\.[0-9]+")  # the minute in UTC, and a counter
OLD_SERIAL = ".serial"  # when the tree was published, as images.linuxcontainers.org's publisher has it
SITE_ID = "site-id"  # tells whose tree this is, here and on every mirror
TRACE = "trace"  # which snapshot this is, and of when: the last file that a mirror gets
PAGE = "index.html"  # for people
KEY = "key.asc"  # the public keys that have signed here
PROTOCOLS = "protocols"  # what older protocols ask for
INDEX_TREES = ("meta", "streams", PROTOCOLS)  # what names images, and so must come after them


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one site."""

    root: Path
    blind: bool = False  # whether the state is somebody else's, and nothing of it can be read

    @property
    def public(self) -> Path:
        """The tree as it should be; never served itself, only through a snapshot."""
        return self.root / "site/public"

    @property
    def staging(self) -> Path:
        """Downloads in progress, on the file system of ``public``; cleared at start."""
        return self.root / "site/staging"

    @property
    def parts(self) -> Path:
        """Files of upstreams that did not come whole yet, by their SHA-256; they outlive a run."""
        return self.root / "site/parts"

    @property
    def damaged(self) -> Path:
        """Images that were found damaged, out of the tree but kept."""
        return self.root / "site/damaged"

    @property
    def snapshots(self) -> Path:
        """Frozen trees, each ``<name>/public``."""
        return self.root / "snapshots"

    @property
    def latest(self) -> Path:
        """The symbolic link that the web server and rsyncd serve."""
        return self.root / "latest"

    @property
    def dated(self) -> Path:
        """The snapshots as remotes of their own: symbolic links by date and by name."""
        return self.root / "at"

    @property
    def state(self) -> Path:
        """What the publisher remembers; mode 0700. To others, a place with nothing in it."""
        return self.root / ("nothing" if self.blind else "state")

    @property
    def lock(self) -> Path:
        """Held by flock for as long as a run lives."""
        return self.state / "lock"

    @property
    def knock(self) -> Path:
        """Held by flock by whoever waits for the lock."""
        return self.state / "knock"

    @property
    def catalogue(self) -> Path:
        """What is to be listed: the one input of every index."""
        return self.state / "catalogue.json"

    @property
    def offers(self) -> Path:
        """What the last poll saw beyond the wishes: held and contested products, its own failure."""
        return self.state / "offers.json"

    @property
    def decisions(self) -> Path:
        """The operator's word: holds, blocks, retirements; it outlives the state directory."""
        return self.root / "decisions.toml"

    @property
    def decisions_copy(self) -> Path:
        """What the last run read there."""
        return self.state / "decisions.toml"

    @property
    def quarantine(self) -> Path:
        """What the proof keeps out of the indexes."""
        return self.state / "quarantine.json"

    @property
    def keyring(self) -> Path:
        """The public keys that have signed here: what ``key.asc`` has to be."""
        return self.state / KEY

    @property
    def told(self) -> Path:
        """Marks of what the configuration said when the indexes and the page were last written."""
        return self.state / "told.json"

    @property
    def lapsing(self) -> Path:
        """Since when delisted images are no longer named by what is exposed."""
        return self.state / "lapsing.json"

    def wish(self, product: Product) -> Path:
        """The build that a product should be at."""
        return self.state / "wishes" / f"{product.key}.json"

    def ledger(self, product: Product) -> Path:
        """The images of a product that lie complete in the tree."""
        return self.state / "ledger" / f"{product.key}.json"

    def failure(self, product: Product) -> Path:
        """Why a product's wished build is not published."""
        return self.state / "failures" / f"{product.key}.json"

    def mirrored(self, mirror: str) -> Path:
        """What a mirror was last given, or why not."""
        return self.state / "mirrors" / f"{mirror}.json"

    def view(self, mirror: str) -> Path:
        """The indexes of a mirror that gets a part of the images."""
        return self.state / "views" / mirror

    def followed(self, upstream: str) -> Path:
        """What an upstream was last asked, and why that failed."""
        return self.state / "upstream" / f"{upstream}.json"

    @property
    def overlays(self) -> Path:
        """The products of upstreams, as they may stand beside ours."""
        return self.state / "overlays"

    def overlay(self, upstream: str) -> Path:
        """Those of one upstream."""
        return self.overlays / f"{upstream}.json"

    def offered(self, upstream: str) -> Path:
        """All that a mirrored upstream offers: what is to be brought here is chosen from it."""
        return self.state / "offered" / f"{upstream}.json"

    def held(self, upstream: str) -> Path:
        """Which files of an upstream lie here."""
        return self.state / "held" / f"{upstream}.json"

    def image(self, image: Image) -> Path:
        """The directory of an image."""
        return self.public / image.path
