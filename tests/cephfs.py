"""A stand-in for CephFS's snapshots, which take a cluster: a directory shown again, each with its `.snap`.

As on CephFS (https://docs.ceph.com/en/latest/dev/cephfs-snapshots/): `.snap` is in no listing; a mkdir in it
freezes the directory as it is, with its inodes and times; a snapshot is read-only, and goes whole by
one rmdir; nothing else can be made or renamed there, and no name begins with `_`.

`python tests/cephfs.py BACKING MOUNTPOINT` serves until it is unmounted.
"""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mfusepy
from mfusepy import FuseOSError, Operations

SNAP = ".snap"


class CephLike(Operations):
    """Paths are absolute, as FUSE gives them: `/site/.snap/a/public`."""

    use_ns = True

    def __init__(self, backing: Path) -> None:
        self._head, self._snaps = backing / "head", backing / "snaps"
        for directory in (self._head, self._snaps):
            directory.mkdir()

    def _where(self, path: str) -> Path:
        before, snap, after = path.partition(f"/{SNAP}")
        if not snap:
            return self._head / path.lstrip("/")
        if after.startswith("/"):
            return self._snaps / before.strip("/").replace("/", "|") / after.lstrip("/")
        return self._snaps / before.strip("/").replace("/", "|")

    def _writable(self, path: str) -> Path:
        if f"/{SNAP}" in path:
            raise FuseOSError(errno.EROFS)
        return self._where(path)

    def _snapshot(self, path: str) -> tuple[str, str]:
        """Of the path of a snapshot itself, its directory and its name; "" for any other path."""
        before, snap, name = path.partition(f"/{SNAP}/")
        return (before, name) if snap and "/" not in name else ("", "")

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        where = self._where(path)
        if path.endswith(f"/{SNAP}"):
            self._where(path.removesuffix(f"/{SNAP}")).lstat()
            where.mkdir(exist_ok=True)
        seen = where.lstat()
        names = ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size")
        times = {f"st_{one}": getattr(seen, f"st_{one}_ns") for one in ("atime", "mtime", "ctime")}
        return {name: getattr(seen, name) for name in names} | times

    def readdir(self, path: str, fh: int) -> Any:
        for name in (".", "..", *os.listdir(self._where(path))):
            yield name, self.getattr(f"{path.rstrip('/')}/{name}") if name[0] != "." else None, 0

    def mkdir(self, path: str, mode: int) -> None:
        directory, name = self._snapshot(path)
        if not name:
            self._writable(path).mkdir(mode)
            return
        if name.startswith("_"):
            raise FuseOSError(errno.EINVAL)
        target = self._where(path)
        if target.exists():
            raise FuseOSError(errno.EEXIST)
        target.parent.mkdir(exist_ok=True)
        subprocess.run(["cp", "-al", "--", self._where(directory), target], check=True)

    def rmdir(self, path: str) -> None:
        if self._snapshot(path)[1]:
            self._where(path).lstat()
            subprocess.run(["rm", "-rf", "--", self._where(path)], check=True)
        else:
            self._writable(path).rmdir()

    def open(self, path: str, flags: int) -> int:
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC)
        return os.open(self._writable(path) if writes else self._where(path), flags)

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        return os.open(self._writable(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        os.truncate(self._writable(path), length)

    def release(self, path: str, fh: int) -> None:
        os.close(fh)

    def fsync(self, path: str, datasync: int, fh: int) -> None:
        os.fsync(fh)

    def unlink(self, path: str) -> None:
        self._writable(path).unlink()

    def symlink(self, target: str, source: str) -> None:
        self._writable(target).symlink_to(source)

    def readlink(self, path: str) -> str:
        return os.readlink(self._where(path))

    def rename(self, old: str, new: str) -> None:
        self._writable(old).rename(self._writable(new))

    def link(self, target: str, source: str) -> None:
        self._writable(target).hardlink_to(self._where(source))

    def chmod(self, path: str, mode: int) -> None:
        self._writable(path).chmod(mode)

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
        os.utime(self._writable(path), ns=times)

    def statfs(self, path: str) -> dict[str, int]:
        seen = os.statvfs(self._where(path))
        names = ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_favail", "f_ffree", "f_files", "f_frsize")
        return {name: getattr(seen, name) for name in (*names, "f_namemax")}


if __name__ == "__main__":
    mfusepy.FUSE(
        CephLike(Path(sys.argv[1])),
        sys.argv[2],
        foreground=True,
        use_ino=True,
        allow_other=True,
        attr_timeout=0,
        entry_timeout=0,
        negative_timeout=0,
        fsname="ceph",
        nothreads=False,
    )
