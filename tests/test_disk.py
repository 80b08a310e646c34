"""A disk that is full, at any moment: nothing is exposed that is not whole, and nothing is lost."""

import json
import os
import re
import subprocess
import sys

import pytest
from readers import Reader
from sites import CHECKOUT, Result, Site, build, files, matrix

A, B = "tiny/1/amd64/default", "tiny/1/arm64/default"


def publish_with(site: Site, blocks: int) -> Result:
    """Publish where no file can grow beyond so many blocks of 512 bytes: what the kernel says then is EFBIG."""
    words = f"ulimit -f {blocks}; exec {sys.executable} -m doit publish"
    done = subprocess.run(
        ["sh", "-c", words], cwd=CHECKOUT, env=site.environment(), capture_output=True, text=True, check=False
    )
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("blocks", [1, 2, 4, 8, 16, 24])
def test_what_does_not_fit_is_not_shown(site: Site, blocks: int) -> None:
    site.lines = "keep = 1\n"
    matrix(site.ci, A, B)
    build(site.ci, A, B)
    site.publish()
    before = site.products()
    build(site.ci, A, B)
    result = publish_with(site, blocks)
    assert "Traceback" not in result.out + result.err
    if result.code:
        assert result.code == 2, result.out + result.err
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
