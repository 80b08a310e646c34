"""Whoever holds an index gets every file it names until ``grace`` after it was last served, here and on mirrors.

Days of publications, prunes, rollbacks, withdrawals and mirrors that were away, in seconds: time is passed in.
"""

import hashlib
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from mirrors import push, terms
from readers import named
from sites import Key

from tasks import decide, indexes, settings
from tasks.image import INCUS, META, ROOT_TAR, SOURCE, SQUASHFS, SUMS, File, Image, Product, Source, sums
from tasks.layout import Layout
from tasks.prune import prune
from tasks.purge import purge
from tasks.settings import Lxc, Mirror, Share, Site, Snapshot, Span
from tasks.sign import Sequoia, sign_directory
from tasks.snapshot import snapshot
from tasks.state import Ledger, decisions, encode, load, save, snapshots

GRACE = timedelta(hours=4)
PRODUCTS = [Product("tiny", "1", "amd64", "default"), Product("tiny", "2", "amd64", "default")]


class World:
    """A site and a mirror, a clock, and clients that hold what they saw."""

    def __init__(self, base: Path, key: Key, seed: int) -> None:
        self.layout, self.signer = Layout(base / "root"), Sequoia(key.secret, "")
        self.mirror = Mirror(name="near", url=str(base / "mirror"))
        self.settings = settings.Settings(
            site=Site(
                root=base / "root", keep=2, grace=Span(int(GRACE.total_seconds())), max_shrink=Share(100)
            ),
            signing=settings.Signing(key=str(key.secret)),
            snapshot=Snapshot(keep=2, keep_for=Span(3600)),
        )
        self.layout.state.mkdir(parents=True)
        self.now, self.random, self.count = datetime(2026, 11, 21, tzinfo=UTC), random.Random(seed), 0
        self.held: dict[Path, dict[frozenset[str], datetime]] = {
            self.layout.latest: {},
            Path(self.mirror.url): {},
        }
        self.gone: set[str] = set()

    def build(self, product: Product) -> None:
        """Place one image more, as ``make`` does."""
        self.count += 1
        serial = f"{self.now - timedelta(days=365) + timedelta(minutes=self.count):%Y%m%d_%H:%M}"
        directory = self.layout.public / product.path / serial
        directory.mkdir(parents=True)
        contents = {name: f"{name} {self.count}".encode() for name in (INCUS, SQUASHFS, ROOT_TAR, META)}
        listed = {name: File(len(data), hashlib.sha256(data).hexdigest()) for name, data in contents.items()}
        roots = (SQUASHFS, ROOT_TAR)
        marks = {root: hashlib.sha256(contents[INCUS] + contents[root]).hexdigest() for root in roots}
        source = Source(
            job="image-tiny", configuration=product.release, number=self.count, timestamp=self.count, md5={}
        )
        image = Image(
            product=product, serial=serial, files=listed, fingerprints={INCUS: marks}, source=source
        )
        for name, data in {**contents, SOURCE: encode(image), SUMS: sums(listed).encode()}.items():
            (directory / name).write_bytes(data)
        sign_directory(directory, self.signer)
        ledger = load(self.layout.ledger(product), Ledger) or Ledger(product)
        save(self.layout.ledger(product), ledger.with_image(image))

    def publish(self) -> None:
        """The second half of the pipeline, as it stands in the plot."""
        layout, word = self.layout, decisions(self.layout)
        prune(layout, self.settings, word, self.now)
        indexes.collect(layout, self.settings, word, allow_shrink=True)
        indexes.write_streams(layout, self.settings, lambda: self.signer)
        indexes.write_lxc(layout, (), Lxc(), lambda: self.signer)
        indexes.prove(layout, self.settings, lambda: self.signer, lambda: True)
        snapshot(layout, self.now)
        self.gone = word.withdrawn(at_once=True)
        purge(layout, self.gone, lambda: self.signer, self.settings)

    def push(self) -> None:
        grace = self.settings.site.grace
        push(self.mirror, terms(self.layout, self.now, self.gone, grace))

    def decide(self) -> None:
        """What an operator does on a bad day."""
        by = decide.By(who="me@here", when="2026-11-21T00:00:00Z")
        choice = self.random.choice(["rollback", "release", "withdraw", "hold", "unhold"])
        if choice == "rollback":
            decide.pin(self.layout, self.random.choice(snapshots(self.layout)), by)
        elif choice == "release" and decisions(self.layout).pinned():
            decide.release(self.layout, by)
        elif choice == "withdraw" and self.random.random() < 0.3:
            product = self.random.choice(PRODUCTS)
            if len(listed := self.listed(product)) > 1:
                decide.withdraw(self.layout, [(product, listed[-1])], by, now=True)
        elif choice == "hold" and self.listed(PRODUCTS[0]):
            decide.hold(self.layout, PRODUCTS[:1], "", by)
        elif choice == "unhold" and decisions(self.layout).hold_of(PRODUCTS[0]):
            decide.unhold(self.layout, [PRODUCTS[0].name], by)

    def listed(self, product: Product) -> list[str]:
        paths = {path.rpartition("/")[0] for path in named(self.layout.latest)}
        return sorted(path.rpartition("/")[2] for path in paths if path.startswith(f"{product.path}/"))

    def missing(self) -> Iterator[str]:
        """What a client stumbles over that holds an index which was served within ``grace``."""
        for tree, held in self.held.items():
            if (tree / "streams/v1/index.json").exists():
                held[frozenset(named(tree))] = self.now
            for paths, seen in list(held.items()):
                if seen + GRACE <= self.now:
                    del held[paths]
                    continue
                for path in sorted(paths):
                    if path.rpartition("/")[0] not in self.gone and not (tree / path).exists():
                        yield f"{tree.name}: {path}, listed until {self.now - seen} ago"


@pytest.mark.parametrize("seed", range(4))
def test_no_client_is_left_alone(tmp_path: Path, key: Key, seed: int) -> None:
    world = World(tmp_path, key, seed)
    for product in PRODUCTS:
        world.build(product)
    world.publish()
    world.push()
    lapsed = 0
    for step in range(40):
        world.now += timedelta(minutes=world.random.choice([5, 20, 60, 150]))
        if world.random.random() < 0.3:
            world.decide()
        if world.random.random() < 0.6 and not decisions(world.layout).pinned():
            world.build(world.random.choice(PRODUCTS))
        before = len(list(world.layout.public.glob("images/*/*/*/*/*")))
        assert list(world.missing()) == [], f"step {step}, before it"
        world.publish()
        lapsed += len(list(world.layout.public.glob("images/*/*/*/*/*"))) < before
        assert list(world.missing()) == [], f"step {step}, published"
        assert world.listed(PRODUCTS[1]), f"step {step}: nothing is listed, so nothing could be missing"
        if world.random.random() < 0.6:
            world.push()
            assert list(world.missing()) == [], f"step {step}, pushed"
    assert lapsed, "and yet what has lapsed goes"
    world.now += timedelta(days=9)
    for _ in range(2):
        world.publish()
    world.push()
    world.now += timedelta(days=9)
    world.push()
    there, shown = (
        {str(path.relative_to(top)) for path in top.rglob("*")}
        for top in (Path(world.mirror.url), world.layout.latest)
    )
    assert there == shown
