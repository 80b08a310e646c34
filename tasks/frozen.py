"""The door to file systems that freeze a tree: btrfs, ZFS, CephFS, and hard links for all others.

A snapshot is what lies at ``snapshots/<name>``: a directory of hard links, a btrfs subvolume, or a
symbolic link to where ZFS or CephFS shows it. It appears there whole, by one rename, and goes by one. How
one was made is seen by looking at it, so a site may change its back end: the old ones stay, and go in time.
"""

import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from tasks import files, trees
from tasks.errors import ProgramFailed, ProgramMissing, TreeError
from tasks.layout import Layout
from tasks.programs import run

TIMEOUT = 600.0  # seconds: a file system that is busy writes everything out first
PATIENCE = 10  # times that ZFS is asked to let go of a clone: it unmounts some time after it said so
MARK = "imagepress-"  # before our names among an operator's own snapshots
SPARE = ".spare"  # a tree of hard links that was a snapshot, and will be one
SUBVOLUME = 256  # the inode of every btrfs subvolume's top (BTRFS_FIRST_FREE_OBJECTID)
MOUNTS = Path("/proc/self/mountinfo")


class Backend(Protocol):
    """A way to freeze ``site/public``."""

    name: str

    def freeze(self, name: str) -> None:
        """Let ``snapshots/<name>/public`` be the tree as it is now, for good; raises PublishError."""


class HardLinks:
    """Directories of our own, whose files are shared with the site.

    Image files never change, and indexes are replaced, never rewritten.
    """

    name = "hardlink"

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def freeze(self, name: str) -> None:
        """What a snapshot that went has left is used again: links are made of what is new alone."""
        unfinished, spare = _free(self._layout, name), self._layout.snapshots / SPARE
        with files.disk("freeze"):
            if spare.exists():
                spare.rename(unfinished)
                trees.align(self._layout.public, unfinished / "public")
            else:
                unfinished.mkdir()
                trees.link(self._layout.public, unfinished / "public")
            unfinished.chmod(0o755)
            unfinished.rename(self._layout.snapshots / name)


class Btrfs:
    """Subvolumes; no right is needed but that to write."""

    name = "btrfs"

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def freeze(self, name: str) -> None:
        """Some milliseconds, whatever the size. Downloads in progress are left out."""
        unfinished = _free(self._layout, name)
        site = self._layout.public.parent
        _copied(site, unfinished)
        with files.disk("freeze"):
            for other in unfinished.iterdir():
                if other.name != self._layout.public.name:
                    shutil.rmtree(other)
            unfinished.chmod(0o755)
            _close(unfinished)
            unfinished.rename(self._layout.snapshots / name)


class Zfs:
    """Snapshots of the dataset at ``site``, seen in its ``.zfs`` or, where there is none, as a clone.

    They hold ``staging`` too: it is not served. `zfs allow` gives the right to make and destroy them; a
    clone is mounted, which takes root.
    """

    name = "zfs"

    def __init__(self, layout: Layout, dataset: str) -> None:
        self._layout, self._dataset = layout, dataset

    def freeze(self, name: str) -> None:
        """Some milliseconds, whatever the size."""
        self.tidy()
        site, mark = self._layout.public.parent, f"{MARK}{name}"
        run(["zfs", "snapshot", f"{self._dataset}@{mark}"], timeout=TIMEOUT)
        view = site / ".zfs/snapshot" / mark
        if not view.is_dir():
            view = self._layout.root / "clones" / name
            own = ["-o", f"mountpoint={view}", "-o", "readonly=on"]
            run(["zfs", "clone", *own, f"{self._dataset}@{mark}", f"{self._dataset}/{mark}"], timeout=TIMEOUT)
        _show(self._layout, name, view)

    def tidy(self) -> None:
        """Destroy those of ours that no name leads to: a kill, or a reader, kept them."""
        argv = ["zfs", "list", "-H", "-t", "snapshot", "-o", "name", "-d", "1", self._dataset]
        for line in run(argv, timeout=TIMEOUT).decode().split():
            mark = line.partition("@")[2]
            if mark.startswith(MARK) and not (self._layout.snapshots / mark.removeprefix(MARK)).is_symlink():
                self._destroy(line)

    def _destroy(self, snapshot: str) -> None:
        """What is in use stays until the next time."""
        for _ in range(PATIENCE):
            with suppress(ProgramFailed):
                run(["zfs", "destroy", "-R", snapshot], timeout=TIMEOUT)
                return
            time.sleep(0.1)


class Ceph:
    """CephFS makes a snapshot of a directory when one is made in its ``.snap``.

    That takes the ``s`` flag in the client's capabilities: ``ceph fs authorize … rws``.
    """

    name = "cephfs"

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._place = layout.public.parent / ".snap"

    def freeze(self, name: str) -> None:
        """One mkdir."""
        self.tidy()
        view = self._place / f"{MARK}{name}"
        with files.disk("freeze"):
            view.mkdir()
        _show(self._layout, name, view)

    def tidy(self) -> None:
        """As for ZFS."""
        for view in self._place.glob(f"{MARK}*"):
            if not (self._layout.snapshots / view.name.removeprefix(MARK)).is_symlink():
                with files.disk("remove"):
                    view.rmdir()


def backend(layout: Layout, wanted: str) -> Backend:
    """The back end that is wanted, or with ``auto`` what the site's file system has; raises TreeError."""
    site = layout.public.parent
    kind, source, point = _mount(site)
    own: dict[str, Backend] = {"hardlink": HardLinks(layout)}
    if kind == "btrfs" and site.is_dir() and site.stat().st_ino == SUBVOLUME:
        own["btrfs"] = Btrfs(layout)
    if kind in {"zfs", "fuse.zfs"} and point == site.resolve():
        own["zfs"] = Zfs(layout, source)
    if (site / ".snap").is_dir():
        own["cephfs"] = Ceph(layout)
    if wanted == "auto":
        return [*own.values()][-1]
    if wanted not in own:
        raise TreeError(
            f"snapshot.backend: {site} is on {kind} and {_lacks(wanted, kind)}; auto would take {[*own][-1]}"
        )
    return own[wanted]


def _lacks(wanted: str, kind: str) -> str:
    """What a back end wants of the file system, and how to have it where that can be."""
    if wanted == "btrfs" and kind == "btrfs":
        return "no subvolume of its own: doit init makes it one"
    if wanted == "zfs" and "zfs" in kind:
        return "no dataset of its own: zfs create -o mountpoint=… makes one"
    return f"not on {wanted}"


def prepare(layout: Layout, wanted: str) -> None:
    """Make ``site``, where it is missing, what the back end can freeze: a subvolume on btrfs.

    Raises TreeError when the back end that is wanted is not to be had.
    """
    site = layout.public.parent
    if wanted in {"auto", "btrfs"} and not site.exists() and _mount(site)[0] == "btrfs":
        with files.disk("make"):
            layout.root.mkdir(parents=True, exist_ok=True)
        with suppress(ProgramMissing):  # then it is a directory: no snapshot could be made
            _btrfs("subvolume", "create", str(site))
    if wanted != "auto":
        backend(layout, wanted)


def convert(layout: Layout) -> str:
    """Make ``site`` a subvolume where it is a plain directory on btrfs; what was done, "" for nothing.

    Blocks are shared, and the names exchanged at the end: a kill leaves one or the other, whole.
    """
    site, new = layout.public.parent, layout.root / f"{files.TEMPORARY}site"
    if _mount(site)[0] != "btrfs" or not site.is_dir() or _is_subvolume(site):
        return ""
    with files.disk("convert"):
        if new.exists():
            _remove(new)
        _btrfs("subvolume", "create", str(new))
        run(["cp", "--archive", "--reflink=always", "--", f"{site}/.", str(new)], timeout=TIMEOUT)
        files.exchange(new, site)
        shutil.rmtree(new)
    return f"{site} is a subvolume now"


def show(layout: Layout, names: Mapping[str, str]) -> None:
    """Let ``at/`` show these snapshots by these names, and nothing else."""
    with files.disk("show"):
        layout.dated.mkdir(parents=True, exist_ok=True)
        for link in layout.dated.iterdir():
            if link.name not in names:
                link.unlink()
        for name, snapshot in names.items():
            link, target = layout.dated / name, f"../{layout.snapshots.name}/{snapshot}/public"
            if not link.is_symlink() or str(link.readlink()) != target:
                temporary = layout.dated / f"{files.TEMPORARY}{name}"
                temporary.unlink(missing_ok=True)
                temporary.symlink_to(target)
                temporary.replace(link)


def drop(layout: Layout, name: str) -> None:
    """Remove a snapshot: gone under its name at once, its bytes afterwards."""
    with files.disk("remove"):
        gone = layout.snapshots / f"{files.TEMPORARY}gone-{name}"
        if os.path.lexists(gone):
            _remove(gone)
        (layout.snapshots / name).rename(gone)
        spare = layout.snapshots / SPARE
        if _is_tree(gone) and not spare.exists():
            gone.rename(spare)
        else:
            _remove(gone)
        if spare.exists():  # what else went since must not be held by it
            trees.align(layout.public, spare / "public")
    _tidy(layout)


def forget_spare(layout: Layout) -> None:
    """Remove what an old snapshot left for the next, where nothing of it may be left."""
    if (spare := layout.snapshots / SPARE).exists():
        with files.disk("remove"):
            _remove(spare)


def sweep(layout: Layout) -> None:
    """Remove what a killed run left unfinished, or half gone."""
    with files.disk("sweep"):
        for path in layout.snapshots.glob(f"{files.TEMPORARY}*"):
            _remove(path)


def is_fixed(layout: Layout, name: str) -> bool:
    """Whether nothing can be taken out of a snapshot: those of ZFS and CephFS are as they are."""
    return (layout.snapshots / name).is_symlink()


def copy(layout: Layout, name: str) -> Path:
    """A copy of a snapshot to be changed, which ``replace`` puts in its place."""
    old, new = layout.snapshots / name, _free(layout, name)
    if _is_subvolume(old):
        _copied(old, new)
        return new
    with files.disk("copy"):
        new.mkdir()
        trees.link(old / "public", new / "public")
        new.chmod(0o755)
    return new


def replace(layout: Layout, name: str) -> None:
    """Let the changed copy of a snapshot take its place, by one exchange of names."""
    old, new = layout.snapshots / name, _unfinished(layout, name)
    if _is_subvolume(new):
        _close(new)
    files.exchange(new, old)
    with files.disk("remove"):
        _remove(new)
    _tidy(layout)


def _unfinished(layout: Layout, name: str) -> Path:
    """Where a snapshot is made."""
    return layout.snapshots / f"{files.TEMPORARY}{name}"


def _free(layout: Layout, name: str) -> Path:
    """The same; what lies there was never finished."""
    path = _unfinished(layout, name)
    with files.disk("sweep"):
        if os.path.lexists(path):
            _remove(path)
        layout.snapshots.mkdir(parents=True, exist_ok=True)
    return path


def _show(layout: Layout, name: str, view: Path) -> None:
    with files.disk("show"):
        layout.snapshots.mkdir(parents=True, exist_ok=True)
    files.point(layout.snapshots / name, os.path.relpath(view, layout.snapshots))


def _tidy(layout: Layout) -> None:
    found = backend(layout, "auto")
    if isinstance(found, Zfs | Ceph):
        found.tidy()


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
        return
    if _is_subvolume(path):
        with suppress(ProgramFailed):  # it takes root, or a mount with user_subvol_rm_allowed
            _btrfs("subvolume", "delete", str(path))
            return
        _btrfs("property", "set", "-ts", str(path), "ro", "false")
    shutil.rmtree(path)


def _is_tree(path: Path) -> bool:
    return not path.is_symlink() and not _is_subvolume(path)


def _is_subvolume(path: Path) -> bool:
    return not path.is_symlink() and path.stat().st_ino == SUBVOLUME and _mount(path)[0] == "btrfs"


def _copied(source: Path, target: Path) -> None:
    _btrfs("subvolume", "snapshot", str(source), str(target))


def _close(path: Path) -> None:
    _btrfs("property", "set", "-ts", str(path), "ro", "true")


def _btrfs(*words: str) -> None:
    run(["btrfs", *words], timeout=TIMEOUT)


def _mount(path: Path) -> tuple[str, str, Path]:
    """The type, source and place of the mount that a path lies on, or would (proc(5), mountinfo)."""
    path = path.resolve()
    found = [one for one in _mounts() if path.is_relative_to(one[2])]
    return max(reversed(found), key=lambda one: len(one[2].parts), default=("", "", Path("/")))


def _mounts() -> Iterator[tuple[str, str, Path]]:
    for line in (files.read(MOUNTS) or b"").splitlines():
        before, _, after = os.fsdecode(line).partition(" - ")
        kind, source = after.split(" ")[:2]
        yield kind, _unescaped(source), Path(_unescaped(before.split(" ")[4]))


def _unescaped(text: str) -> str:
    """Blanks and backslashes are written by their octal number."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
