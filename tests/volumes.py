"""Real file systems in files, each mounted for one test: btrfs, and ZFS by Debian's zfs-fuse; and CephFS's stand-in.

They take root, and loop devices or FUSE. Each is a context manager that yields where a site may be put.
"""

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tools import need, need_root, program

SIZE = 1 << 30  # bytes, sparse
WHY = "a file system is mounted by root alone; run pytest as root"
STAND_IN = Path(__file__).with_name("cephfs.py")
START = 20.0  # seconds
_COUNT = itertools.count()


def run(*argv: str | Path) -> str:
    """Run a program that must succeed."""
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


@contextmanager
def plain(work: Path) -> Iterator[Path]:
    """What pytest's directories lie on: hard links are all it has."""
    yield work


@contextmanager
def btrfs(work: Path) -> Iterator[Path]:
    """A new btrfs."""
    need_root(WHY)
    with _mountpoint(work) as place:
        run(program("mkfs.btrfs"), "-q", _image(work))
        run("mount", "--bind", place, place)  # what is mounted last at a place is seen there
        run("mount", "-o", "loop", work / "image", place)
        try:
            yield place
        finally:
            run("umount", place)
            run("umount", place)


@contextmanager
def zfs(work: Path) -> Iterator[Path]:
    """A new pool, with a dataset at root/site; zfs-fuse shows no `.zfs`."""
    need_root(WHY)
    need("zfs", "zpool", "zfs-fuse")
    pool = f"imagepress-test-{os.getpid()}-{next(_COUNT)}"
    with _zfs_daemon(work), _mountpoint(work) as place:
        run("zpool", "create", "-m", place, pool, _image(work))
        try:
            (place / "root").mkdir()
            run("zfs", "create", "-o", f"mountpoint={place / 'root/site'}", f"{pool}/site")
            yield place
        finally:
            _again(lambda: run("zpool", "destroy", "-f", pool))


@contextmanager
def cephfs(work: Path) -> Iterator[Path]:
    """The stand-in."""
    need_root(WHY)
    backing = work / "backing"
    backing.mkdir()
    with _mountpoint(work) as place:
        server = subprocess.Popen([sys.executable, STAND_IN, backing, place])
        try:
            _wait(lambda: place.is_mount() and server.poll() is None)
            yield place
        finally:
            _again(lambda: run("umount", place))
            server.wait(START)


@contextmanager
def _zfs_daemon(work: Path) -> Iterator[None]:
    """There is one for the machine: that which runs, or our own."""
    if subprocess.run(["zpool", "list"], check=False, capture_output=True, timeout=60).returncode == 0:
        yield
        return
    argv = [program("zfs-fuse"), "--no-daemon", "--pidfile", str(work / "zfs.pid")]
    with (work / "zfs.log").open("wb") as log:
        daemon = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
    try:
        listed = ["zpool", "list"]
        _wait(lambda: subprocess.run(listed, check=False, capture_output=True, timeout=60).returncode == 0)
        yield
    finally:
        daemon.terminate()
        daemon.wait(START)


def _image(work: Path) -> Path:
    path = work / "image"
    with path.open("wb") as file:
        file.truncate(SIZE)
    return path


@contextmanager
def _mountpoint(work: Path) -> Iterator[Path]:
    """Shared: what is unmounted below it goes from the mount namespaces of other tests' daemons too."""
    outer = work / "volumes"
    place = outer / "a volume"  # /proc/self/mountinfo writes the blank by its number
    place.mkdir(parents=True)
    run("mount", "--bind", outer, outer)
    run("mount", "--make-shared", outer)
    try:
        yield place
    finally:
        run("umount", outer)


def _wait(done: Callable[[], bool]) -> None:
    end = time.monotonic() + START
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


def _again(act: Callable[[], object]) -> None:
    """Unmounting takes a moment after the last reader has gone."""
    end = time.monotonic() + START
    while True:
        try:
            act()
        except AssertionError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return


VOLUMES = {"hardlink": plain, "btrfs": btrfs, "zfs": zfs, "cephfs": cephfs}
