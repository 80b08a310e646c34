"""``doit status``: how every product stands, for people and for programs, without touching anything."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from sites import CHECKOUT, Site, build, files, matrix

from tasks.config import read
from tasks.decisions import Decisions
from tasks.image import Product, serial_time
from tasks.layout import Layout
from tasks.report import Status, status, summary, table
from tasks.state import Ledger, save

A, B, C, D = "tiny/1/amd64/default", "tiny/1/arm64/default", "tiny/2/amd64/default", "tiny/2/arm64/default"


@pytest.fixture
def mixed(site: Site) -> Site:
    """A is published and has a bad build since, B is published, C was never built."""
    matrix(site.ci, A, B, C)
    build(site.ci, A, B)
    site.publish()
    bad = files(A)
    bad["meta.tar.xz"] = b"not a tarball"
    build(site.ci, A, content={A: bad})
    site.publish(code=1)
    return site


def test_for_people(mixed: Site) -> None:
    before = mixed.tree()
    result = mixed.doit("status")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == [A, B, C]
    assert lines[0].split()[-2:] == ["image-tiny", "#1"]
    assert "LXC, container" in lines[0]
    assert lines[1].startswith(
        "    failed: image-tiny/architecture=amd64,release=1,variant=default #2: meta.tar.xz"
    )
    assert lines[-1] == "    held: never built"
    assert mixed.tree() == before


def test_for_programs_and_of_some(mixed: Site) -> None:
    result = mixed.doit("status", "--json", "tiny/*/arm64/*")
    (one,) = json.loads(result.out)["products"]
    assert one["product"] == B
    assert one["kinds"] == ["LXC", "container"]
    assert one["images"] == 1
    assert one["failed"] == one["held"] == ""


def test_of_a_site_that_is_not_there_it_makes_nothing(site: Site) -> None:
    result = site.doit("status")
    assert result.code == 0, result.err
    assert result.out == "no product is known yet\n"
    assert not site.root.exists()


def test_the_age_is_that_of_the_serial(mixed: Site) -> None:
    found = status(Layout(mixed.root), Decisions(), datetime(2026, 1, 1, tzinfo=UTC))
    built = serial_time(found[1].serial)
    one = status(Layout(mixed.root), Decisions(), built + timedelta(hours=47, minutes=59))[1]
    assert one.age_hours == 47
    assert " 47 h " in table([one])[0]
    assert (
        " 2 d " in table([Status(product=B, serial=one.serial, age_hours=48, kinds=("VM",), build="x #1")])[0]
    )


def unsigned(site: Site) -> None:
    """From now on the signing key is none."""
    (site.base / "no.asc").write_text("no key\n")
    site.config.write_text(site.config.read_text().replace(str(site.key.secret), str(site.base / "no.asc")))


def test_what_could_not_be_signed_is_not_what_is_exposed(mixed: Site) -> None:
    """The catalogue is ahead of latest then: A has ended in it."""
    assert mixed.doit("retire", A).code == 0
    unsigned(mixed)
    result = mixed.doit("publish")
    assert "collect" in result.executed, result.out + result.err
    assert "snapshot" not in result.executed
    (one,) = json.loads(mixed.doit("status", "--json", A).out)["products"]
    assert one["images"] == 1
    assert one["serial"]
    assert one["held"].startswith("retired by ")
    assert f"delisted: images/{A}/{one['serial']}" in mixed.doit("plan").out


def test_the_last_line_counts_what_latest_lists(mixed: Site) -> None:
    assert mixed.doit("retire", A).code == 0
    unsigned(mixed)
    mixed.doit("publish")
    lines = summary(Layout(mixed.root), read(mixed.config, CHECKOUT), Decisions(), nothing_done=False)
    assert lines[-1].startswith("exposed: 2 products, 2 images, in ")
    mixed.configure()
    assert "exposed: 1 product, 1 image, in " in mixed.doit("publish").out


def test_nothing_but_the_catalogue_and_the_indexes_is_read_of_what_is_exposed(mixed: Site) -> None:
    for source in mixed.latest.resolve().rglob("source.json"):
        source.unlink()
    assert [one.images for one in status(Layout(mixed.root), Decisions(), datetime.now(UTC))] == [1, 1, 0]


def test_a_retired_product_and_one_that_was_never_listed_are_known(mixed: Site) -> None:
    assert mixed.doit("retire", A).code == 0
    mixed.publish(code=1)
    lines = mixed.doit("status", A).out.splitlines()
    assert lines[0].split()[0] == A
    assert lines[1].startswith("    held: retired by ")
    save(Layout(mixed.root).ledger(Product.parse(D)), Ledger(Product.parse(D)))
    assert mixed.doit("status", D).out.split() == [D, "-", "-", "-", "-"]


def test_a_glob_that_matches_nothing_is_named(mixed: Site) -> None:
    result = mixed.doit("status", "big/*", B)
    assert result.code == 0, result.err
    assert result.out.splitlines()[0].split()[0] == B
    assert result.out.splitlines()[1:] == ["no product matches 'big/*'; doit status shows all 3"]
    assert json.loads(mixed.doit("status", "--json", "big/*").out)["products"] == []
