"""Snapshots, ``latest``, and what time alone removes."""

import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from sites import Site, build, files, matrix

from tasks import settings
from tasks.catalogue import Catalogue, kept
from tasks.decisions import Decisions
from tasks.files import point
from tasks.image import File, Image, Kind, Product, Source
from tasks.layout import Layout
from tasks.prune import due, prune
from tasks.snapshot import mark_lapsing, snapshot
from tasks.state import Ledger, encode, latest_name, save, snapshots

PRODUCT = Product("tiny", "1", "amd64", "default")
NOW = datetime(2026, 11, 21, 8, 30, tzinfo=UTC)


def image(serial: str, *names: str) -> Image:
    source = Source(job="image-tiny", configuration="", number=1, timestamp=0, md5={})
    listed = {name: File(4, "0" * 64) for name in names or ("incus.tar.xz", "rootfs.squashfs")}
    return Image(product=PRODUCT, serial=serial, files=listed, fingerprints={}, source=source)


def place(layout: Layout, *images: Image, listed: int) -> None:
    """Put images into the tree and the ledger, the newest of them into the catalogue."""
    for one in images:
        for name in one.files:
            path = layout.image(one) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(one.serial[:4])
    layout.state.mkdir(exist_ok=True)
    save(layout.ledger(PRODUCT), Ledger(PRODUCT, images))
    save(layout.catalogue, Catalogue(images[-listed:]))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "root")


@pytest.fixture
def rules(tmp_path: Path) -> settings.Settings:
    return settings.Settings(
        site=settings.Site(root=tmp_path / "root", grace=settings.Span(3600)),
        signing=settings.Signing(key="x"),
        snapshot=settings.Snapshot(keep=2, keep_for=settings.Span(3600)),
    )


def test_latest_shows_the_tree_as_it_was(layout: Layout) -> None:
    place(layout, image("20260101_00:00"), listed=1)
    assert snapshot(layout, NOW) == "20261121-0830.0 (hardlink)"
    assert os.readlink(layout.latest) == "snapshots/20261121-0830.0/public"
    shown = [path for path in layout.latest.rglob("*") if path.is_file()]
    assert len(shown) == 4, "the two files, site-id and trace"
    index = layout.public / "streams/v1/index.json"
    index.parent.mkdir(parents=True)
    index.write_text("{}")
    assert not (layout.latest / "streams").exists()
    assert snapshot(layout, NOW) == "20261121-0830.1 (hardlink)"
    assert (layout.latest / "streams/v1/index.json").read_text() == "{}"


def test_nothing_new_is_no_snapshot(layout: Layout) -> None:
    place(layout, image("20260101_00:00"), listed=1)
    snapshot(layout, NOW)
    assert snapshot(layout, NOW + timedelta(hours=1)) == "20261121-0830.0 shows it already"
    assert snapshots(layout) == ["20261121-0830.0"]


def test_nothing_at_all_is_not_shown(layout: Layout) -> None:
    layout.state.mkdir(parents=True)
    assert snapshot(layout, NOW) == "nothing to show yet"
    assert not layout.latest.exists()


def test_an_unfinished_snapshot_is_made_again(layout: Layout) -> None:
    place(layout, image("20260101_00:00"), listed=1)
    (layout.snapshots / ".tmp-20261121-0830.0/public/half").mkdir(parents=True)
    assert snapshots(layout) == []
    snapshot(layout, NOW)
    assert not (layout.latest / "half").exists()


def test_the_newest_has_the_greatest_name_also_when_the_clock_went_back(layout: Layout) -> None:
    for step in range(12):
        place(layout, *(image(f"20260101_00:{minute:02d}") for minute in range(step + 1)), listed=1)
        snapshot(layout, NOW - timedelta(hours=step))
        assert snapshots(layout)[-1] == latest_name(layout)
    assert latest_name(layout) == "20261121-0830.11"


def test_latest_is_never_missing_while_it_flips(layout: Layout) -> None:
    place(layout, image("20260101_00:00"), listed=1)
    snapshot(layout, NOW)
    stop, missing = threading.Event(), []

    def look() -> None:
        while not stop.is_set():
            if not (layout.latest / "images").exists():
                missing.append(1)

    thread = threading.Thread(target=look)
    thread.start()
    for step in range(1, 40):
        (layout.public / f"file{step}").write_text("x")
        snapshot(layout, NOW)
    stop.set()
    thread.join()
    assert not missing


def test_a_delisted_image_stays_for_grace_after_the_flip(layout: Layout, rules: settings.Settings) -> None:
    old, new = image("20260101_00:00"), image("20260102_00:00")
    place(layout, old, new, listed=2)
    snapshot(layout, NOW)
    assert due(layout, rules, Decisions(), NOW + timedelta(days=9)) == ([], [])
    place(layout, old, new, listed=1)
    mark_lapsing(layout, NOW)
    assert due(layout, rules, Decisions(), NOW + timedelta(minutes=59))[0] == []
    assert due(layout, rules, Decisions(), NOW + timedelta(minutes=60))[0] == [str(old.path)]
    prune(layout, rules, Decisions(), NOW + timedelta(minutes=60))
    assert not layout.image(old).exists()
    assert layout.image(new).exists()
    assert encode(Ledger(PRODUCT, (new,))) == layout.ledger(PRODUCT).read_bytes()
    save(layout.catalogue, Catalogue(()))
    mark_lapsing(layout, NOW)
    prune(layout, rules, Decisions(), NOW + timedelta(minutes=60))
    assert not (layout.public / "images").exists()


def test_an_image_that_is_listed_again_is_not_removed(layout: Layout, rules: settings.Settings) -> None:
    old, new = image("20260101_00:00"), image("20260102_00:00")
    place(layout, old, new, listed=1)
    mark_lapsing(layout, NOW)
    place(layout, old, new, listed=2)
    prune(layout, rules, Decisions(), NOW + timedelta(days=9))
    assert layout.image(old).exists()


def test_a_snapshot_goes_when_both_limits_are_passed(layout: Layout, rules: settings.Settings) -> None:
    for step in range(4):
        place(layout, *(image(f"20260101_00:{minute:02d}") for minute in range(step + 1)), listed=4)
        snapshot(layout, NOW + timedelta(minutes=step))
    assert due(layout, rules, Decisions(), NOW + timedelta(minutes=60))[1] == [], (
        "from when the next was shown"
    )
    assert due(layout, rules, Decisions(), NOW + timedelta(minutes=61))[1] == ["20261121-0830.0"]
    shorter = msgspec.structs.replace(rules, site=settings.Site(root=layout.root, grace=settings.Span(60)))
    assert due(layout, shorter, Decisions(), NOW + timedelta(minutes=60))[1] == []
    longer = msgspec.structs.replace(rules, site=settings.Site(root=layout.root, grace=settings.Span(7200)))
    assert due(layout, longer, Decisions(), NOW + timedelta(minutes=120))[1] == [], "whatever is longer"
    assert due(layout, longer, Decisions(), NOW + timedelta(minutes=121))[1] == ["20261121-0830.0"]
    assert due(layout, rules, Decisions(), NOW + timedelta(days=1))[1] == [
        "20261121-0830.0",
        "20261121-0831.0",
    ]
    prune(layout, rules, Decisions(), NOW + timedelta(days=1))
    assert snapshots(layout) == ["20261121-0832.0", "20261121-0833.0"]
    assert latest_name(layout) == "20261121-0833.0"


def test_what_latest_shows_stays_though_a_run_was_killed_before_it_showed_another(layout: Layout) -> None:
    for step in range(2):
        place(layout, *(image(f"20260101_00:{minute:02d}") for minute in range(step + 1)), listed=2)
        snapshot(layout, NOW)
    point(layout.latest, "snapshots/20261121-0830.0/public")
    nothing = settings.Span(0)
    at_once = settings.Settings(
        site=settings.Site(root=layout.root, grace=nothing),
        signing=settings.Signing(key="x"),
        snapshot=settings.Snapshot(keep=1, keep_for=nothing),
    )
    assert due(layout, at_once, Decisions(), NOW + timedelta(days=1)) == ([], [])


def test_keep_counts_images_and_spares_the_newest_of_each_kind() -> None:
    lxc, vm = ("meta.tar.xz", "rootfs.tar.xz"), ("incus.tar.xz", "disk.qcow2")
    images = [image("20260101_00:00", *vm), image("20260102_00:00", *lxc), image("20260103_00:00", *lxc)]
    images += [image(f"202601{day}_00:00") for day in range(10, 15)]
    stay = sorted(one.serial for one in kept(images, 2))
    assert stay == ["20260101_00:00", "20260103_00:00", "20260113_00:00", "20260114_00:00"]
    assert {kind for one in kept(images, 1) for kind in one.kinds} == set(Kind)


def test_keep_in_a_real_site(site: Site) -> None:
    site.lines = 'keep = 2\ngrace = "0s"\n'
    product = "tiny/1/amd64/default"
    matrix(site.ci, product)
    for step in range(4):
        kinds = ("vm",) if step == 0 else ("container", "lxc")
        build(site.ci, product, content={product: files(product, kinds=kinds)})
        site.publish()
    assert len(site.products()["tiny:1:amd64:default"]["versions"]) == 3
    site.publish()
    assert len(list(site.latest.glob(f"images/{product}/*"))) == 3
