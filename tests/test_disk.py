"""A disk that is full, at any moment: nothing is exposed that is not whole, and nothing is lost."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from doit.dependency import JSONCodec
from readers import Reader
from sites import CHECKOUT, Result, Site, build, files, matrix
from tools import need_root, program

from tasks.journal import Journal

A, B = "tiny/1/amd64/default", "tiny/1/arm64/default"


def publish_with(site: Site, blocks: int) -> Result:
    """Publish where no file can grow beyond so many blocks of 512 bytes: what the kernel says then is EFBIG."""
    words = f"ulimit -f {blocks}; exec {sys.executable} -m doit publish"
    done = subprocess.run(
        ["sh", "-c", words], cwd=CHECKOUT, env=site.environment(), capture_output=True, text=True, check=False
    )
    return Result(done.returncode, done.stdout, done.stderr)


FITS = 8192


@pytest.mark.parametrize("blocks", [1, 2, 4, 8, 16, 24, FITS])
def test_what_does_not_fit_is_not_shown(site: Site, blocks: int) -> None:
    site.lines = "keep = 1\n"
    matrix(site.ci, A, B)
    build(site.ci, A, B)
    site.publish()
    before = site.products()
    build(site.ci, A, B)
    result = publish_with(site, blocks)
    assert "Traceback" not in result.out + result.err
    assert result.code == (0 if blocks == FITS else 2), result.out + result.err
    if result.code:
        assert re.search(
            r"ERROR: .*(File too large|disk I/O error|database or disk is full)", result.out + result.err
        )
    assert site.products() == before if result.code else site.products() != before
    reader = Reader(site.key.public, site.latest)
    reader.look(site.latest)
    assert reader.faults == []
    site.publish()
    assert site.products() != before
    reader.look(site.latest)
    assert reader.faults == []
    assert not list(site.root.rglob(".tmp-*"))


def test_the_room_that_time_makes_is_made_before_anything_is_fetched(site: Site) -> None:
    """Prune waits for no image: what has lapsed goes although the disk takes nothing more."""
    site.lines = 'keep = 1\ngrace = "0s"\n'
    matrix(site.ci, A)
    for _ in range(2):
        build(site.ci, A)
        site.publish()
    (lapsing,) = json.loads((site.root / "state/lapsing.json").read_text())
    assert (site.root / "site/public" / lapsing).exists()
    build(site.ci, A, content={A: files(A, payload=os.urandom(1 << 20))})
    result = publish_with(site, 1024)
    assert result.code == 2
    assert "rootfs" in result.out
    assert not (site.root / "site/public" / lapsing).exists()


FULL = "No space left on device"


@pytest.fixture
def small(site: Site) -> Iterator[Site]:
    """A site on a file system of its own, of 16 MB, in memory."""
    need_root("a file system that fills up is mounted by root alone; run pytest as root to see it full")
    mount, umount = program("mount"), program("umount")
    site.root.mkdir()
    subprocess.run([mount, "-t", "tmpfs", "-o", "size=16m", "none", site.root], check=True)
    try:
        site.lines = "keep = 1\n"
        matrix(site.ci, A, B)
        build(site.ci, A, B)
        yield site
    finally:
        subprocess.run([umount, "-l", site.root], check=True)


def fill(site: Site, left: int) -> None:
    """Leave so many bytes, in whole pages."""
    filler = site.root / "filler"
    filler.unlink(missing_ok=True)
    there = os.statvfs(site.root)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, there.f_bavail * there.f_frsize - left // 4096 * 4096)


def said_once(result: Result) -> None:
    """An error of the operator's: exit 2, lines that name a path each, and no trace of the program."""
    said = result.out + result.err
    assert result.code == 2, said
    assert not re.search("Traceback|sqlite3|a bug", said), said
    errors = [line for line in said.splitlines() if "ERROR" in line]
    assert errors, said
    assert all(re.search(rf"ERROR: cannot [a-z ]+ /\S+: {FULL}$", line) for line in errors), said


@pytest.mark.parametrize("left", [0, 20_000, 60_000, 500_000, 2_000_000])
def test_a_full_disk_is_one_line_and_costs_nothing(small: Site, left: int) -> None:
    small.publish()
    before = small.products()
    build(small.ci, A, B, content={one: files(one, payload=os.urandom(1_500_000)) for one in (A, B)})
    fill(small, left)
    said_once(small.doit("publish"))
    assert small.products() == before
    reader = Reader(small.key.public, small.latest)
    reader.look(small.latest)
    assert reader.faults == []
    (small.root / "filler").unlink()
    small.publish()
    assert all(len(now["versions"]) == 1 for now in small.products().values())
    assert small.products() != before
    assert not list((small.root / "site/staging").iterdir())
    assert not list(small.root.rglob(".tmp-*"))
    reader.look(small.latest)
    assert reader.faults == []
    assert small.publish().executed == ["poll"]


@pytest.mark.parametrize("left", [0, 20_000, 60_000])
def test_every_command_says_that_the_disk_is_full(small: Site, left: int) -> None:
    small.publish()
    build(small.ci, A, B, content={A: files(A, payload=os.urandom(1_500_000))})
    assert small.doit("poll").code == 0
    fill(small, left)
    said_once(small.doit(f"image:{A}"))
    for asked in (("hold", A), ("rebuild",)):
        fill(small, 0)
        result = small.doit(*asked)
        if asked != ("rebuild",) or result.code:  # which has nothing to write where all is well
            said_once(result)
    (small.root / "filler").unlink()
    assert small.doit("hold", A).code == 0


def test_what_could_not_be_forgotten_is_not_remembered(small: Site) -> None:
    """A failed step whose last success stays in doit's database would be passed over once its input is back."""

    def journal() -> Journal:
        return Journal(str(small.root / "doit.db"), JSONCodec())

    one = journal()
    for number in range(200):
        one.set(f"task {number}", "deps:", ["x" * 400])
    fill(small, 0)
    for number in range(200):
        one.remove(f"task {number}")
        assert not one.in_(f"task {number}")
    one.set("task 0", "deps:", ["new"])
    assert one.get("task 0", "deps:") == ["new"]
    one.dump()
    (small.root / "filler").unlink()
    later = journal()
    assert not any(later.in_(f"task {number}") for number in range(200))
    later.dump()


@pytest.mark.parametrize("left", [0, 20_000])
def test_what_lapsed_makes_room_for_a_withdrawal_at_once(small: Site, left: int) -> None:
    small.lines = 'keep = 2\ngrace = "0s"\n'
    small.more = '[snapshot]\nkeep = 1\nkeep_for = "0s"\n'
    for _ in range(4):  # a lapsed image gives its room back with the last snapshot that has it
        build(small.ci, A, B, content={A: files(A, payload=os.urandom(1_500_000))})
        small.publish()
    before = small.products()
    *_, bad = sorted(before[A.replace("/", ":")]["versions"])
    fill(small, left)
    result = small.doit("withdraw", "--now", f"{A}/{bad}")
    assert result.code == 0, result.out + result.err
    assert bad not in small.products()[A.replace("/", ":")]["versions"]
    assert not list(small.root.rglob(f"{A}/{bad}"))


def test_a_withdrawal_without_room_is_said_and_may_be_said_again(small: Site) -> None:
    small.publish()
    build(small.ci, A, B)
    small.publish()
    *_, bad = sorted(small.products()[A.replace("/", ":")]["versions"])
    fill(small, 0)
    said_once(small.doit("withdraw", "--now", f"{A}/{bad}"))
    assert bad in small.products()[A.replace("/", ":")]["versions"]
    (small.root / "filler").unlink()
    assert small.doit("withdraw", "--now", f"{A}/{bad}").code == 0
    assert not list(small.root.rglob(f"{A}/{bad}"))
