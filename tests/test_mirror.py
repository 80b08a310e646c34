"""Mirrors as operators have them: a path, an rsync daemon, ssh; real rsync, real order."""

import os
import re
from pathlib import Path

import pytest
import servers
from sites import Site, build, matrix
from tools import need

from tasks.mirror import command, phases

A, B = "tiny/1/amd64/default", "tiny/1/arm64/default"


def content(tree: Path) -> dict[str, bytes]:
    return {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


@pytest.fixture
def two(site: Site) -> Site:
    need("rsync")
    matrix(site.ci, A, B)
    build(site.ci, A, B)
    return site


def mirrored(site: Site, url: str, destination: Path) -> None:
    """First push, a later one, and one that deletes, all end equal."""
    site.lines = 'keep = 1\ngrace = "0s"\n'
    site.more = f'[snapshot]\nkeep = 1\nkeep_for = "0s"\n[[mirror]]\nname = "eu1"\nurl = "{url}"\n'
    site.publish()
    assert content(destination) == content(site.latest)
    (destination / "images/stray").mkdir()
    (destination / "images/stray/file").write_text("left behind")
    build(site.ci, A)
    site.publish()
    assert content(destination) == content(site.latest)
    assert len(list(destination.glob(f"images/{A}/*"))) == 2, "the delisted image goes with the next run at the earliest"
    site.publish()
    assert len(list(destination.glob(f"images/{A}/*"))) == 1
    assert content(destination) == content(site.latest)
    assert site.publish().executed == ["poll", "prune"], "of the snapshot before alone"
    assert site.publish().executed == ["poll"]


def test_a_local_path(two: Site) -> None:
    mirrored(two, "a mirror", two.base / "a mirror")


def test_an_rsync_daemon(two: Site, tmp_path: Path) -> None:
    destination = tmp_path / "served"
    destination.mkdir()
    with servers.rsyncd({"images": destination}, tmp_path) as url:
        mirrored(two, f"{url}/images/", destination)


def test_ssh(two: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    destination = tmp_path / "over ssh"
    with servers.sshd(tmp_path) as ssh:
        monkeypatch.setenv("RSYNC_RSH", ssh.rsh)
        destination.mkdir()
        mirrored(two, f"mirror.example.org:{destination}/", destination)


def test_a_mirror_that_is_away_is_named_and_others_go_on(two: Site) -> None:
    two.more = '[[mirror]]\nname = "gone"\nurl = "rsync://127.0.0.1:1/images/"\n[[mirror]]\nname = "near"\nurl = "near"\n'
    result = two.publish(code=1)
    assert re.search(r"failed: mirror gone: rsync ended with code \d+", result.out)
    assert content(two.base / "near") == content(two.latest)
    again = two.publish(code=1)
    assert "mirror:gone" in again.executed
    assert "mirror:near" not in again.executed


def test_no_index_ever_names_a_file_that_is_not_there(two: Site, tmp_path: Path) -> None:
    """After every phase by itself the mirror is whole: images first, indexes next, deletions last."""
    two.lines = 'keep = 1\ngrace = "0s"\n'
    two.publish()
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for _ in range(3):
        build(two.ci, A)
        two.publish()
        for phase in phases():
            assert os.spawnvp(os.P_WAIT, "rsync", command(phase, two.latest.resolve(), str(mirror))) == 0
            index = mirror / "streams/v1/images.json"
            named = set(re.findall(r'"path": "([^"]+)"', index.read_text())) if index.exists() else set()
            assert not [path for path in named if not (mirror / path).is_file()]
            for listed in mirror.glob("meta/1.0/index-*[mr1-4]"):
                for line in listed.read_text().splitlines():
                    assert (mirror / line.split(";")[5].strip("/") / "rootfs.tar.xz").is_file()


def test_an_index_of_equal_size_and_time_is_pushed(two: Site, tmp_path: Path) -> None:
    two.publish()
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    source = two.latest.resolve()
    for phase in phases():
        os.spawnvp(os.P_WAIT, "rsync", command(phase, source, str(mirror)))
    stale = mirror / "streams/v1/index.json"
    seen = stale.stat()
    stale.write_bytes(b"x" * seen.st_size)
    os.utime(stale, ns=(seen.st_mtime_ns, seen.st_mtime_ns))
    for phase in phases():
        os.spawnvp(os.P_WAIT, "rsync", command(phase, source, str(mirror)))
    assert content(mirror) == content(source)
