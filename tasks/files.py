"""The door to the disk: atomic writes, moves, links and removals, in the order that survives a kill.

Everything is written to a temporary file beside its target, synced, and renamed; a name is only
ever seen with its whole content. What is renamed as a whole (an image, a snapshot) is made durable
by one syncfs(2) before, which costs a tenth of an fsync for every file. Directories are synced where
the world starts to see them; elsewhere an old name after a power cut is only work done again.
Modes are 0644 and 0755 whatever the umask.
"""

import ctypes
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tasks.errors import TreeError

PLAIN = 0o644
TEMPORARY = ".tmp-"  # no published name starts so
_FICLONE = 0x40049409  # linux/fs.h: share all blocks of another file; btrfs, XFS, ZFS 2.2, bcachefs


@contextmanager
def disk(doing: str, path: Path | None = None) -> Iterator[None]:
    """Turn the kernel's refusals (full, read-only, not permitted) into one sentence.

    It names the file that the kernel named, else ``path``: of write(2) it knows a number alone.
    """
    try:
        yield
    except OSError as error:
        names = [os.fsdecode(name) for name in (error.filename or path, error.filename2) if name]
        where = "".join(f" {name if name.isprintable() else ascii(name)}" for name in names)  # others' too
        raise TreeError(f"cannot {doing}{where}: {error.strerror or error}") from error


def write(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace a file at once and for good; its directory is made where missing."""
    with disk("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f"{TEMPORARY}{path.name}"
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(handle, mode)
            os.fsync(handle)
        temporary.replace(path)


def write_changed(path: Path, data: bytes, mode: int = 0o644) -> bool:
    """Replace a file only when its content differs: doit sees a new mtime as a change."""
    if read(path) == data:
        return False
    write(path, data, mode)
    return True


def read(path: Path) -> bytes | None:
    """The content of a file, None where there is none."""
    with disk("read"):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None


def status(path: Path) -> os.stat_result | None:
    """What the kernel says of a file, None where there is none."""
    with disk("look at"):
        try:
            return path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None


def digest(data: bytes) -> str:
    """SHA-256 in lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def sync(directory: Path) -> None:
    """Make everything on the file system of a directory durable, in one call."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(handle):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(directory))
    finally:
        os.close(handle)


def place(path: Path, data: bytes) -> None:
    """Write a file in a directory that nobody sees yet; ``move`` makes it durable."""
    with disk("write", path), open(path, "wb", opener=opener) as file:
        file.write(data)


def opener(path: str, flags: int) -> int:
    """For ``open``: no link is followed, and the mode is ours."""
    handle = os.open(path, flags | os.O_NOFOLLOW, 0o644)
    os.fchmod(handle, 0o644)
    return handle


def move(source: Path, target: Path) -> None:
    """Make a finished directory durable and rename it into place; the target must not exist."""
    with disk("move into place"):
        target.parent.mkdir(parents=True, exist_ok=True)
        source.chmod(0o755)
        sync(source)
        source.rename(target)


def exchange(new: Path, old: Path) -> None:
    """Let two directories change their names, at once where the file system can (renameat2(2))."""
    with disk("exchange"):
        sync(new)
        libc = ctypes.CDLL(None, use_errno=True)
        here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        if libc.renameat2(here, os.fsencode(new), here, os.fsencode(old), swap):
            aside = new.with_name(f"{new.name}-old")
            old.rename(aside)
            new.rename(old)
            aside.rename(new)


def remove(path: Path, trash: Path) -> None:
    """Remove a directory tree: gone under its name at once, its bytes afterwards."""
    with disk("remove"):
        trash.mkdir(parents=True, exist_ok=True)
        grave = trash / f"{TEMPORARY}gone-{path.name}"
        if grave.exists():
            shutil.rmtree(grave)
        path.rename(grave)
        shutil.rmtree(grave)


def unlink(path: Path) -> None:
    """Remove one file, if it is there."""
    with disk("remove"):
        path.unlink(missing_ok=True)


def remove_empty(directory: Path, top: Path) -> None:
    """Remove a directory and its parents below ``top`` for as long as they are empty."""
    while directory != top:
        try:
            directory.rmdir()
        except OSError:
            return
        directory = directory.parent


def sweep(directory: Path, trash: Path) -> None:
    """Remove what a killed run left unfinished in a directory."""
    with disk("sweep"):
        for path in directory.glob(f"{TEMPORARY}*"):
            remove(path, trash)


def clear(directory: Path) -> None:
    """Empty a directory of our own work files, making it where missing."""
    with disk("clear"):
        directory.mkdir(parents=True, exist_ok=True)
        for entry in os.scandir(directory):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                Path(entry.path).unlink()


@contextmanager
def scratch(inside: Path | None = None) -> Iterator[Path]:
    """A directory of nobody's, for as long as it is needed."""
    made_in = tempfile.TemporaryDirectory(prefix="imagepress-", dir=inside)
    with disk("use a temporary directory"), made_in as made:
        yield Path(made)


def share(source: int, target: int) -> None:
    """Let an open file have all blocks of another; raises OSError where the file system cannot."""
    fcntl.ioctl(target, _FICLONE, source)


def is_ours(seen: os.stat_result) -> bool:
    """Whether a file belongs to who runs this: anybody else could go on to change it."""
    return seen.st_uid == os.geteuid()


def is_plain(file: BinaryIO) -> bool:
    """Whether an open file has the mode of all that is published."""
    return stat.S_IMODE(os.fstat(file.fileno()).st_mode) == PLAIN


def keep_time(file: BinaryIO, copy: Path) -> None:
    """Give a copy the times of the open file that it was made of: a mirror compares them."""
    seen = os.fstat(file.fileno())
    with disk("touch"):
        os.utime(copy, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def link_open(file: BinaryIO, target: Path) -> None:
    """Give an open file of our own another name; its name may be no more.

    One whose mode is not 0644 is copied, for the file under its old name is not changed in anything.
    Raises TreeError for a file of another user: he could change what is published.
    """
    with disk("link"):
        seen = os.fstat(file.fileno())
        if not is_ours(seen):
            raise TreeError(
                f"{target.name} is to be taken over, and belongs to another user: chown it, or use --from"
            )
        if not is_plain(file):
            _copy_open(file, target)
            return
        here = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:  # with a directory given, os.link follows the link in /proc, as it has to
            os.link(f"/proc/self/fd/{file.fileno()}", target, src_dir_fd=here, follow_symlinks=True)
        finally:
            os.close(here)


def _copy_open(file: BinaryIO, target: Path) -> None:
    temporary = target.with_name(f"{TEMPORARY}{target.name}")
    with open(temporary, "wb", opener=opener) as copy:
        try:
            share(file.fileno(), copy.fileno())
        except OSError:  # one that cannot
            shutil.copyfileobj(file, copy)
        copy.flush()
        os.fsync(copy.fileno())
    keep_time(file, temporary)
    temporary.replace(target)


def fill(directory: Path, wanted: Mapping[str, bytes]) -> int:
    """Let a directory hold these files and nothing else, by path; says how many changed, came or went.

    Each is replaced and none rewritten, for others may have its bytes by a hard link; all are made
    durable at once. A directory without a file is none.
    """
    temporary = directory.with_name(f"{TEMPORARY}{directory.name}")
    unlink(temporary)
    there, directories = _below(directory)
    changed = there - wanted.keys()
    for name in changed:
        unlink(directory / name)
    for name in directories:
        remove_empty(directory / name, directory.parent)
    for name, data in wanted.items():
        path = directory / name
        if name in there and read(path) == data:
            continue
        changed.add(name)
        with disk("write", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            place(temporary, data)
            temporary.replace(path)
    if changed:
        with disk("write", directory):
            sync(next(one for one in directory.parents if one.exists()))
    return len(changed)


def _below(directory: Path) -> tuple[set[str], list[str]]:
    """The paths of all files below a directory, and of all directories with itself."""
    files, directories = set[str](), [""]
    with disk("list"):
        if not directory.exists():
            return files, []
        for entry in walk(str(directory)):
            name = entry.path.removeprefix(f"{directory}/")
            if entry.is_dir(follow_symlinks=False):
                directories.append(name)
            else:
                files.add(name)
    return files, directories


def stamp(directory: Path) -> str:
    """A mark of a flat directory that changes with any of its files: names, sizes, times."""
    with disk("list"):
        if not directory.exists():
            return ""
        with os.scandir(directory) as entries:
            marks = sorted((one.name, (seen := one.stat()).st_mtime_ns, seen.st_size) for one in entries)
    return digest(repr(marks).encode())


def sizes(top: Path) -> dict[str, int]:
    """Every file below ``top`` with its size in bytes, by its path relative to it."""
    with disk("read"):
        return {
            entry.path.removeprefix(f"{top}/"): entry.stat(follow_symlinks=False).st_size
            for entry in walk(str(top))
            if entry.is_file(follow_symlinks=False)
        }


def walk(top: str) -> Iterator["os.DirEntry[str]"]:
    """Every directory and file below ``top`` but our own temporary ones, parents first."""
    with os.scandir(top) as entries:
        for entry in entries:
            if entry.name.startswith(TEMPORARY):
                continue
            yield entry
            if entry.is_dir(follow_symlinks=False):
                yield from walk(entry.path)


def point(link: Path, target: str) -> None:
    """Make ``link`` a symbolic link to ``target``, by one rename(2), once all it shows is durable."""
    with disk("flip"):
        sync(link.parent)
        temporary = link.parent / f"{TEMPORARY}{link.name}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        temporary.replace(link)
        sync(link.parent)
