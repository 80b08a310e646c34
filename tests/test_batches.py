"""What is ready is exposed while the rest still downloads: one stalled download holds up nobody."""

import json
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sites import Site, build, matrix, wait_for

PRODUCTS = [f"tiny/{number}/amd64/default" for number in range(6)]
STALLED = PRODUCTS[0]  # the first in every order: doit comes to it before all others


@pytest.fixture
def go() -> Iterator[threading.Event]:
    """What the stalled download waits for."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def stalled(site: Site, go: threading.Event) -> Site:
    """Six new images, of which the first does not arrive until ``go`` is set."""
    site.more = '[[mirror]]\nname = "near"\nurl = "mirror"\n'
    matrix(site.ci, *PRODUCTS)
    build(site.ci, *PRODUCTS)
    site.server.faults.add("release=0,.*/rootfs.squashfs", call=lambda: go.wait(60), times=None)
    return site


def listed(tree: Path) -> set[str]:
    path = tree / "streams/v1/images.json"
    return (
        {key.replace(":", "/") for key in json.loads(path.read_bytes())["products"]}
        if path.exists()
        else set()
    )


@pytest.mark.parametrize(
    ("lines", "shown"),
    [("batch = 5", 5), ('batch_time = "1s"', 5), ('batch = 2\nbatch_time = "1d"', 2)],
)
def test_the_others_reach_the_mirror_while_one_is_stalled(
    stalled: Site, go: threading.Event, lines: str, shown: int
) -> None:
    stalled.lines = lines
    process = stalled.start("publish")
    wait_for(lambda: len(listed(stalled.mirror)) >= shown)
    assert process.poll() is None, "it still waits"
    assert STALLED not in listed(stalled.mirror)
    assert listed(stalled.mirror) <= listed(stalled.latest)
    go.set()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
    assert listed(stalled.mirror) == set(PRODUCTS) == listed(stalled.latest)
    assert re.search(r"^batch +\d new images exposed, \d still awaited$", out, re.MULTILINE), out
    names = re.findall(r"^image:(\S+) 2026", out, re.MULTILINE)
    assert sorted(names) == PRODUCTS, "each is told once"
    assert names.index(STALLED) >= shown
    assert out.count("published: ") == 6
    assert stalled.publish().executed == ["poll"]


def test_by_default_a_small_run_is_one_publication(stalled: Site, go: threading.Event) -> None:
    go.set()
    result = stalled.publish()
    assert "batch" not in result.out
    assert len(list((stalled.root / "snapshots").iterdir())) == 1


def test_a_run_that_is_killed_while_it_waits_keeps_what_was_shown(stalled: Site, go: threading.Event) -> None:
    stalled.lines = "batch = 5"
    process = stalled.start("publish")
    wait_for(lambda: len(listed(stalled.mirror)) == 5)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 143, out + err
    go.set()
    stalled.server.requests.clear()
    stalled.publish()
    assert listed(stalled.mirror) == set(PRODUCTS)
    asked = {
        found[0]
        for one in stalled.server.requests
        if (found := re.search(r"release=\d", str(one))) and "/artifact/" in str(one)
    }
    assert asked == {"release=0"}, "nothing else is fetched again"


def test_one_image_by_name_exposes_nothing(stalled: Site, go: threading.Event) -> None:
    stalled.lines = 'batch = 1\nbatch_time = "0s"'
    go.set()
    stalled.publish()
    shown = stalled.latest.resolve()
    build(stalled.ci, *PRODUCTS)
    result = stalled.doit(f"image:{PRODUCTS[1]}")
    assert result.code == 0, result.out
    assert stalled.latest.resolve() == shown


def test_a_batch_that_cannot_be_shown_does_not_stop_the_others(stalled: Site, go: threading.Event) -> None:
    """What is wrong is said at once, and the end of the run says so with its exit code."""
    stalled.lines = 'batch = 2\nbatch_time = "0s"'
    (stalled.root / "site/public/meta/1.0").mkdir(parents=True)
    (stalled.root / "site/public/meta/1.0/extra").write_text("{}")
    process = stalled.start("publish")
    wait_for(
        lambda: len(list(stalled.root.glob("site/public/images/tiny/*/amd64/default/*/SHA256SUMS"))) == 5
    )
    go.set()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2, out + err
    assert re.search(r"^batch +not exposed: clients could not read", out, re.MULTILINE), out
    assert "Traceback" not in out + err
    assert not stalled.latest.exists()


def test_without_jenkins_what_is_there_is_there(stalled: Site, go: threading.Event) -> None:
    go.set()
    stalled.publish()
    (stalled.root / "state/doit.db").unlink()
    text = stalled.config.read_text()
    stalled.config.write_text(re.sub(r"\[jenkins\]\nurl = .*\n", "", text))
    assert stalled.publish().executed.count(f"image:{STALLED}") == 1
