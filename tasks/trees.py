"""The door to whole trees on the disk: copied by hard links, compared, made equal again.

A snapshot by hard links is such a copy (``frozen``), and so is an image that comes back from one.
"""

import errno
import os
import shutil
from collections.abc import Container
from pathlib import Path

from tasks.files import TEMPORARY, disk, keep_time, opener, share, walk


def link(source: Path, target: Path) -> None:
    """Make ``target`` a copy of the tree ``source`` that shares its files by hard links.

    Between a file system's snapshot and the site there are none: there blocks are shared, if they can be.
    """
    with disk("link into"):
        target.mkdir(parents=True)
        target.chmod(0o755)
        for entry in walk(str(source)):
            here = f"{target}{entry.path.removeprefix(str(source))}"
            if entry.is_dir(follow_symlinks=False):
                os.mkdir(here)  # noqa: PTH102 - pathlib would take half of the time of a snapshot
                os.chmod(here, 0o755)  # noqa: PTH101, S103 - as above; the world reads it
            else:
                try:
                    os.link(entry.path, here, follow_symlinks=False)
                except OSError as error:
                    if error.errno != errno.EXDEV:
                        raise
                    _copy(entry.path, here)


def align(source: Path, target: Path) -> None:
    """Make a tree of hard links equal to another: what both have is only looked at."""
    with disk("align"):
        _align(str(source), str(target))


def _align(source: str, target: str) -> None:
    wanted, there = _sorts(source), _sorts(target)
    for name in [name for name, sort in there.items() if name not in wanted or wanted[name] != sort]:
        path = Path(target, name)
        shutil.rmtree(path) if there.pop(name) is None else path.unlink()
    for name, inode in wanted.items():
        here = f"{target}/{name}"
        if name in there:
            if inode is None:
                _align(f"{source}/{name}", here)
        elif inode is None:
            link(Path(source, name), Path(here))
        else:
            os.link(f"{source}/{name}", here, follow_symlinks=False)


def _sorts(directory: str) -> dict[str, int | None]:
    """The entries of a directory: the inode of a file, None for a directory."""
    with os.scandir(directory) as entries:
        return {
            entry.name: None if entry.is_dir(follow_symlinks=False) else entry.inode()
            for entry in entries
            if not entry.name.startswith(TEMPORARY)
        }


def _copy(source: str, target: str) -> None:
    with Path(source).open("rb") as old, open(target, "xb", opener=opener) as new:
        try:
            share(old.fileno(), new.fileno())
        except OSError:  # two file systems, or one that cannot
            shutil.copyfileobj(old, new)
        new.flush()
        keep_time(old, Path(target))


def later(tree: Path, shown: Path, but: Container[str] = ()) -> None:
    """Make a file that takes another's place later than that, by a whole second at least.

    In less, two publications may write an index of one size: rsync without --checksum then takes it for the
    one that it has, and nginx gives it the same ETag; both compare sizes and seconds. ``but`` are names at
    the top that are passed over. A file of more names than one is of an older tree, and keeps its time.
    """
    with disk("touch"), os.scandir(tree) as entries:
        for top in entries:
            if top.name not in but and not top.name.startswith(TEMPORARY):
                for entry in walk(top.path) if top.is_dir(follow_symlinks=False) else (top,):
                    if not entry.is_dir(follow_symlinks=False):
                        _later(entry, f"{shown}{entry.path.removeprefix(str(tree))}")


def _later(new: "os.DirEntry[str]", old: str) -> None:
    try:
        before = os.stat(old, follow_symlinks=False)  # noqa: PTH116 - as above
    except (FileNotFoundError, NotADirectoryError):
        return
    seen, second = new.stat(follow_symlinks=False), 10**9
    if (seen.st_ino, seen.st_mtime_ns) == (before.st_ino, before.st_mtime_ns) or seen.st_nlink > 1:
        return
    if seen.st_mtime_ns // second <= (replaced := before.st_mtime_ns // second):
        os.utime(new.path, ns=(seen.st_atime_ns, (replaced + 1) * second))


def marks(top: Path) -> dict[str, tuple[int, int]]:
    """Every file below ``top`` with its inode and time: a tree and a snapshot are equal when these are.

    The time too, in nanoseconds: ZFS gives the inode of a file that went to another.
    """
    return {
        entry.path.removeprefix(str(top)): (entry.inode(), entry.stat(follow_symlinks=False).st_mtime_ns)
        for entry in walk(str(top))
        if not entry.is_dir(follow_symlinks=False)
    }
