"""Mirrors that pull, by what their administrators run: real rsync, rsyncd, nginx and clients."""

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sites import Site, build, matrix
from test_snapshot import image, place
from tools import program

from tasks.layout import Layout
from tasks.snapshot import snapshot

A = "tiny/1/amd64/default"
NOW = datetime(2026, 11, 21, 8, 30, tzinfo=UTC)


def content(tree: Path) -> dict[str, bytes]:
    return {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


def pulled(layout: Layout, into: Path) -> None:
    """What a plain rsync brings, which compares sizes and seconds."""
    argv = [program("rsync"), "-a", "--delete", "--delay-updates", f"{layout.latest}/", f"{into}/"]
    subprocess.run(argv, check=True, timeout=60)


@pytest.mark.parametrize("step", [1, 7], ids=["each", "some"])
def test_a_plain_pull_sees_each_of_many_publications_in_a_second(tmp_path: Path, step: int) -> None:
    layout, into = Layout(tmp_path / "root"), tmp_path / "pulled"
    place(layout, image("20260101_00:00"), listed=1)
    names = ("streams/v1/images.json", "meta/1.0/index-system", "page", "protocols/rest/x")
    for name in names:
        (layout.public / name).parent.mkdir(parents=True, exist_ok=True)
    for number in range(22):
        for name in names:
            (layout.public / name).unlink(missing_ok=True)
            (layout.public / name).write_text(f"{number:04d}")
        snapshot(layout, NOW)
        if number % step == 0:
            pulled(layout, into)
            assert content(into) == content(layout.latest)


def test_what_is_not_replaced_keeps_its_time_and_what_was_frozen_too(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "root")
    place(layout, image("20260101_00:00"), listed=1)
    page, other, old = (layout.public / name for name in ("page", "other", "old"))
    for path in (page, other, old):
        path.write_text("1")
    os.utime(old, (0, 0))
    snapshot(layout, NOW)
    first = layout.latest.resolve()
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    for path in (page, old):
        path.unlink()
        path.write_text("2")
    late = page.stat().st_mtime_ns // 10**9 + 1000
    os.utime(page, (late, late))
    snapshot(layout, NOW)
    assert page.stat().st_mtime == late, "what is later already stays"
    assert old.stat().st_mtime > 1e9
    assert other.stat().st_mtime_ns == before[first / "other"]
    page.unlink()
    os.link(first / "page", page)  # as a rollback brings it back
    snapshot(layout, NOW)
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == before
    page.unlink()
    page.write_text("3")
    snapshot(layout, NOW)
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == before


def test_a_site_at_rest_is_at_rest_however_soon(site: Site) -> None:
    """Times that were put forward are no news to the next run."""
    site.more = "[protocols]\nrest = true\nheader_import = true\n"
    matrix(site.ci, A)
    build(site.ci, A)
    site.publish()
    build(site.ci, A)
    site.publish()
    before = site.tree()
    for _ in range(2):
        assert site.publish().executed == ["poll"]
    assert site.tree() == before
