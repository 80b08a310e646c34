"""``doit status``: how every product stands, for people and for programs, without touching anything."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from sites import Site, build, files, matrix

from tasks.decisions import Decisions
from tasks.image import serial_time
from tasks.layout import Layout
from tasks.report import Status, status, table

A, B, C = "tiny/1/amd64/default", "tiny/1/arm64/default", "tiny/2/amd64/default"


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
    (one,) = json.loads(result.out)
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
    found = status(Layout(mixed.root), [B], Decisions(), datetime(2026, 1, 1, tzinfo=UTC))
    built = serial_time(found[0].serial)
    (one,) = status(Layout(mixed.root), [B], Decisions(), built + timedelta(hours=47, minutes=59))
    assert one.age_hours == 47
    assert " 47 h " in table([one])[0]
    assert (
        " 2 d " in table([Status(product=B, serial=one.serial, age_hours=48, kinds=("VM",), build="x #1")])[0]
    )
