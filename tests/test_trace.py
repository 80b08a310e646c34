"""The file that says which snapshot a tree is: here, in what was frozen, and last of all on a mirror."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from mirrors import phase, phases
from sites import Site, build, matrix
from test_snapshot import image, place
from tools import need

from tasks import trace
from tasks.layout import TRACE, Layout
from tasks.snapshot import snapshot
from tasks.state import latest_name

A = "tiny/1/amd64/default"
NOW = datetime(2026, 11, 21, 9, 30, 12, 345678, tzinfo=UTC)


def test_it_says_whose_tree_it_is_and_which_and_of_when(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "root")
    place(layout, image("20260101_00:00"), listed=1)
    snapshot(layout, NOW)
    own = (layout.root / "site-id").read_text()
    text = (layout.latest / TRACE).read_text()
    assert text == f"site: {own}snapshot: 20261121-0930.0\npublished: 2026-11-21T09:30:12Z\n"
    assert trace.read(text) == (own.strip(), "20261121-0930.0", "2026-11-21T09:30:12Z")
    frozen = layout.latest.resolve()
    assert snapshot(layout, NOW + timedelta(hours=1)) == "20261121-0930.0 shows it already"
    place(layout, image("20260101_00:00"), image("20260102_00:00"), listed=1)
    snapshot(layout, NOW + timedelta(hours=1))
    assert trace.read((layout.latest / TRACE).read_text()) == (
        own.strip(),
        "20261121-1030.0",
        "2026-11-21T10:30:12Z",
    )
    assert (frozen / TRACE).read_text() == text, "what was frozen stays"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "site: a\n",
        "site: a\nsnapshot: x\npublished: y\n",
        "site: a\nsnapshot: 20261121-0930.0\n",
        "<html>",
    ],
)
def test_anything_else_is_none(text: str) -> None:
    assert trace.read(text) is None


def test_a_mirror_gets_it_last_of_all(site: Site) -> None:
    need("rsync")
    matrix(site.ci, A)
    for _ in range(2):
        build(site.ci, A)
        site.publish()
        wanted, there = (site.latest / TRACE).read_text(), site.mirror / TRACE
        site.mirror.mkdir(exist_ok=True)
        *before, last = phases()
        for options in before:
            phase(options, site.latest, site.mirror)
            assert not there.exists() or there.read_text() != wanted
        phase(last, site.latest, site.mirror)
        assert there.read_text() == wanted
        assert latest_name(Layout(site.root)) in wanted


def test_a_site_at_rest_keeps_it(site: Site) -> None:
    matrix(site.ci, A)
    build(site.ci, A)
    site.publish()
    before = site.tree()
    site.publish()
    assert site.tree() == before
