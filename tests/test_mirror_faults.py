"""What mirrors do to a push: restricted, munged, unmounted, lied about, mounted with more than ours; real rsync."""

import fcntl
import os
import re
import shutil
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
import servers
import sites
from mirrors import push, terms
from msgspec.structs import replace
from sites import Site, build, wait_for
from test_fleet import NOW, A, flipped, index, read, two
from tools import need, program

from tasks.errors import MadeWay, TreeError
from tasks.fleet import Fleet
from tasks.layout import Layout
from tasks.mirror import PARTLY, Push, whole
from tasks.mirrored import is_away, record
from tasks.rsync import Rsync, is_daemon
from tasks.settings import Mirror, Span

__all__ = ["two"]  # a fixture
BOTH = pytest.mark.parametrize("flip", [False, True], ids=["in place", "flipped"])


def images(top: Path) -> int:
    return len(list(top.glob(f"images/{A}/*")))


@BOTH
def test_a_key_that_is_restricted_by_rrsync_is_enough(
    two: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flip: bool
) -> None:
    need("rrsync")
    shell = tmp_path / "shell"
    shell.write_text(
        '#!/bin/sh\nwhile [ "$1" != mirror ]; do shift; done\nshift\n'
        f'SSH_ORIGINAL_COMMAND="$*" exec {program("rrsync")} {two.mirror}\n'
    )
    shell.chmod(0o755)
    monkeypatch.setenv("RSYNC_RSH", str(shell))
    two.mirror.mkdir()
    mirror = Mirror(name="eu1", url="mirror:/", flip=flip, retries=0)
    for hour in range(3):
        build(two.ci, A)
        two.publish()
        said = push(mirror, terms(Layout(two.root), NOW + timedelta(hours=hour), grace=Span(0)))
        assert " is at mirror:/, seen " in said, said
        assert read(two.mirror) == read(two.latest)


def test_a_daemon_that_munges_links_keeps_what_it_has(two: Site, tmp_path: Path) -> None:
    two.publish()
    two.mirror.mkdir()
    ids = "uid = root\ngid = root\n" if os.geteuid() == 0 else ""
    module = f"[images]\npath = {two.mirror}\nread only = no\nuse chroot = no\nmunge symlinks = yes\n{ids}"
    with servers.rsyncd_as(module, tmp_path) as url:
        mirror = Mirror(name="eu1", url=f"{url}/images/", retries=0)
        push(mirror, terms(Layout(two.root), NOW))
        before = read(two.mirror)
        build(two.ci, A)
        two.publish()
        with pytest.raises(TreeError, match="changes symbolic links.*needs `munge symlinks = no`"):
            push(Mirror(name="eu1", url=mirror.url, flip=True, retries=0), terms(Layout(two.root), NOW))
        assert read(two.mirror).items() >= before.items()
        assert index(Mirror(name="eu1", url=str(two.mirror))) == before["streams/v1/images.json"]


@BOTH
def test_what_a_mirror_names_of_which_nothing_is_known_stays_for_grace(two: Site, flip: bool) -> None:
    """Its record is lost, or it has another name or address: its own indexes say what clients hold."""
    layout, mirror = Layout(two.root), Mirror(name="eu1", url=str(two.mirror), flip=flip)
    two.publish()
    push(mirror, terms(layout, NOW))
    build(two.ci, A)
    two.publish()
    two.publish()
    assert images(two.latest) == 1, "the origin has pruned it"
    layout.mirrored("eu1").unlink()
    for minutes, there in ((0, 2), (59, 2), (61, 1)):
        push(mirror, terms(layout, NOW + timedelta(minutes=minutes)))
        assert images(two.mirror) == there, minutes


def test_indexes_there_that_nobody_can_read_are_no_reason_to_fail(two: Site) -> None:
    two.publish()
    mirror = Mirror(name="eu1", url=str(two.mirror))
    push(mirror, terms(Layout(two.root), NOW))
    Layout(two.root).mirrored("eu1").unlink()
    (two.mirror / "streams/v1/images.json").write_text('{"products": 7')
    (two.mirror / "meta/1.0/index-system").write_bytes(b"\xff;;\n")
    assert "is at" in push(mirror, terms(Layout(two.root), NOW))
    assert read(two.mirror) == read(two.latest)


@pytest.mark.parametrize("step", ["switch", "sweep"])
def test_a_disk_that_is_another_after_hours_of_images_is_left_alone(two: Site, step: str) -> None:
    two.publish()
    layout = Layout(two.root)
    sending = Push(Mirror(name="eu1", url=str(two.mirror)), whole(layout), terms(layout, NOW))
    sending.carry()
    if step == "sweep":
        sending.switch()
    two.mirror.rename(two.base / "unmounted")
    two.mirror.mkdir()
    (two.mirror / "thesis.tex").write_text("do not delete")
    with pytest.raises(TreeError, match="has lost its site-id, or is another one: is it mounted"):
        getattr(sending, step)()
    assert read(two.mirror) == {"thesis.tex": b"do not delete"}


def test_one_that_has_all_and_does_not_show_it_holds_up_and_lets_go_of_nothing(two: Site) -> None:
    """A failing probe is no mirror that is away, and no reason to keep what is withdrawn."""
    two.publish()
    layout, late = Layout(two.root), terms(Layout(two.root), NOW + timedelta(hours=9))
    mirror = Mirror(name="eu1", url=str(two.mirror), probe="http://127.0.0.1:1/", group="eu", retries=0)
    (two.mirror / "images/stray").mkdir(parents=True)
    said = Fleet([mirror]).push(mirror, terms(layout, NOW), {"eu1"}, "eu1")
    assert said.startswith("failed: everything is there, but probe: http://127.0.0.1:1/trace?"), said
    assert not (two.mirror / "images/stray").exists()
    assert (record(layout, mirror).failed != "", is_away(record(layout, mirror), late)) == (True, False)


def test_the_lag_is_that_of_the_first_push_of_a_snapshot(two: Site) -> None:
    two.publish()
    layout, mirror = Layout(two.root), Mirror(name="eu1", url=str(two.mirror))
    push(mirror, terms(layout, NOW))
    lag = record(layout, mirror).lag
    push(mirror, terms(layout, NOW + timedelta(days=9)))
    assert record(layout, mirror).lag == lag is not None
    build(two.ci, A)
    two.publish()
    push(mirror, terms(layout, NOW + timedelta(days=9)))
    assert record(layout, mirror).lag != lag


def test_a_run_that_is_stopped_leaves_no_rsync_that_holds_the_lock(two: Site) -> None:
    two.more = '[[mirror]]\nname = "slow"\nurl = "slow"\nbandwidth = "100K"\n'
    build(two.ci, A, content={A: sites.files(A, payload=os.urandom(12 << 20))})
    run = two.start("publish")
    wait_for(lambda: any((two.base / "slow").rglob(".rootfs.squashfs.*")), 60)
    run.terminate()
    out, err = run.communicate(timeout=60)
    assert run.returncode == 143, out + err

    def is_free() -> bool:
        with Layout(two.root).lock.open("r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    wait_for(is_free)
    assert not record(Layout(two.root), Mirror(name="slow", url=str(two.base / "slow"))).failed


@BOTH
def test_verify_takes_what_stays_for_grace_for_no_fault(two: Site, flip: bool) -> None:
    two.lines = 'keep = 1\ngrace = "1h"\n'
    for match in ("*", "*/*/arm64"):
        told = f'match = ["{match}"]\nflip = {str(flip).lower()}\n'
        two.more = f'[[mirror]]\nname = "eu1"\nurl = "mirror"\n{told}'
        two.configure()
        two.publish()
    assert images(two.mirror) == 1, "for grace alone"
    found = two.doit("verify", "--mirror=eu1")
    assert (found.code, "byte for byte" in found.out) == (0, True), found.out
    (two.mirror / "site-id").unlink()
    found = two.doit("verify", "--mirror=eu1")
    assert found.code == 2
    assert "is it mounted?" in found.out
    assert "--adopt" not in found.out


def test_what_a_cut_push_left_beside_flipped_indexes_goes(two: Site) -> None:
    two.publish()
    layout = Layout(two.root)
    push(flipped(two.mirror), terms(layout, NOW))
    stray = two.mirror / ".index/now/streams/v1/.images.json.Xa1b2C"
    stray.write_text("half")
    (two.mirror / ".index/20200101-0000.0-00000000").mkdir()
    push(flipped(two.mirror), terms(layout, NOW))
    assert not stray.exists()
    assert len([one for one in (two.mirror / ".index").iterdir() if not one.is_symlink()]) == 1


def test_a_mount_point_is_empty_and_keeps_its_own(two: Site) -> None:
    two.publish()
    (two.mirror / "lost+found").mkdir(parents=True)
    (two.mirror / "lost+found/#12").touch()
    mirror = Mirror(name="eu1", url=str(two.mirror))
    assert "is at" in push(mirror, terms(Layout(two.root), NOW))
    assert (two.mirror / "lost+found/#12").exists()


def test_a_directory_that_is_not_there_yet_is_made_where_its_disk_is(two: Site) -> None:
    two.publish()
    nowhere = Mirror(name="eu1", url=str(two.base / "mnt/disk/images"))
    said = push(nowhere, terms(Layout(two.root), NOW))
    assert said == f"failed: {nowhere.url}: there is no directory {two.base}/mnt/disk: is it mounted?"
    assert not (two.base / "mnt").exists()
    (two.base / "file").touch()
    said = push(Mirror(name="eu2", url=str(two.base / "file")), terms(Layout(two.root), NOW))
    assert said == f"failed: {two.base}/file is no directory"


@pytest.mark.parametrize(
    ("url", "daemon"),
    [
        ("rsync://[2001:db8::1]/images/", True),
        ("[2001:db8::1]::images/", True),
        ("host::images", True),
        ("me@[2001:db8::1]:/srv/", False),
        ("me@host:/a::b/", False),
        ("/a::b", False),
    ],
)
def test_a_daemon_is_told_from_a_shell(url: str, daemon: bool) -> None:
    assert is_daemon(url) is daemon


def test_a_site_id_that_is_no_small_file_is_none(tmp_path: Path) -> None:
    rsync = Rsync(Mirror(name="eu1", url=str(tmp_path)))
    assert rsync.read("site-id") is None
    (tmp_path / "site-id").mkdir()
    assert rsync.read("site-id") is None
    (tmp_path / "site-id").rmdir()
    with (tmp_path / "site-id").open("wb") as file:
        file.truncate(1 << 30)
    assert rsync.read("site-id") is None
    (tmp_path / "site-id").write_text("ours\n")
    assert rsync.read("site-id") == "ours\n"


def test_who_asks_for_a_mirror_by_name_gets_a_push_of_that_one(two: Site) -> None:
    two.more = "".join(f'[[mirror]]\nname = "{name}"\nurl = "{name}"\n' for name in ("eu1", "eu2"))
    two.publish()
    for name in ("eu1", "eu2"):
        shutil.rmtree(two.base / name / "images")
    assert "mirror:eu1  " in two.doit("mirror:eu1").out
    assert read(two.base / "eu1") == read(two.latest) != read(two.base / "eu2")
    (two.base / "eu2/site-id").unlink()
    adopted = two.doit("mirror", "--adopt=eu2")
    assert adopted.code == 0
    assert "mirror:eu1" not in adopted.out
    assert read(two.base / "eu2") == read(two.latest)


def test_one_that_waits_for_its_group_says_so_by_its_exit_code(two: Site) -> None:
    two.lines = 'grace = "1h"\n'
    rows = "".join(f'[[mirror]]\nname = "{name}"\nurl = "{name}"\ngroup = "eu"\n' for name in ("eu1", "eu2"))
    two.more = rows
    two.publish()
    (two.base / "eu2").rename(two.base / "away")
    (two.base / "eu2").touch()
    build(two.ci, A)
    two.publish(code=1)
    said = two.doit("mirror:eu1")
    assert said.code == 1
    assert re.search(
        r"mirror:eu1 +waits for eu2, of its group, until .* UTC at most; the images are there", said.out
    )


def test_what_came_of_a_file_does_not_come_again(two: Site, tmp_path: Path) -> None:
    """rsync was killed in the middle of it; the daemon's log says how many bytes came then."""
    two.mirror.mkdir()
    size = 8 << 20
    build(two.ci, A, content={A: sites.files(A, payload=os.urandom(size))})
    two.publish()
    ids = "uid = root\ngid = root\n" if os.geteuid() == 0 else ""
    logged = "transfer logging = yes\nlog format = came %f %b\n"
    module = f"[images]\npath = {two.mirror}\nread only = no\nuse chroot = no\n{logged}{ids}"
    with servers.rsyncd_as(module, tmp_path) as url:
        slow = Mirror(name="eu1", url=f"{url}/images/", bandwidth="1M", retries=0)
        run = Rsync(slow)
        with pytest.raises(MadeWay):
            run.push([PARTLY], two.latest.resolve(), way=lambda: _largest(two.mirror) > size // 3)
        half = f"images/{A}/*/.partial/rootfs.squashfs"
        wait_for(lambda: any(two.mirror.glob(half)))
        came = next(two.mirror.glob(half)).stat().st_size
        Rsync(replace(slow, bandwidth="")).push([PARTLY], two.latest.resolve())
        (log,) = tmp_path.glob("rsyncd*/rsyncd.log")
        (bytes_,) = re.findall(rf"came images/{A}/\S+/rootfs.squashfs (\d+)", log.read_text())
    assert size // 3 < came
    assert int(bytes_) < size - came + (64 << 10)
    assert read(two.mirror) == read(two.latest)


def _largest(top: Path) -> int:
    sizes = [0]
    for path in top.rglob("*rootfs.squashfs*"):
        with suppress(FileNotFoundError):  # it has its name by now
            sizes.append(path.stat().st_size)
    return max(sizes)
