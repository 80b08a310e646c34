"""Make an image's deltas from earlier images of its product, and prove that they are right (acts).

A daemon that has the base fetches metadata and delta instead of the root. It has no way back: a delta
that is wrong makes the image unavailable to whoever has the base (lxc/incus:client/simplestreams_images.go).
So each is decoded here and held against the real file, from a base that is itself what it should be.
An image without deltas is as good as any, so what goes wrong with one is only noted.
"""

import hashlib
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

from tasks import files, xdelta
from tasks.errors import ProgramFailed
from tasks.image import DELTAS, DISK, File, Image, delta_name
from tasks.settings import Deltas

_TURNS = threading.BoundedSemaphore(2)  # each takes a core, and up to 2 GiB of memory


def deltas(
    directory: Path, names: Mapping[str, File], bases: Iterable[tuple[Image, Path]], wanted: Deltas
) -> tuple[dict[str, File], list[str]]:
    """Make the deltas of the roots in a directory, from each base; returns them and a note for each.

    Raises TreeError when our own disk refuses.
    """
    made: dict[str, File] = {}
    notes = []
    for base, where in bases:
        for root in DELTAS:
            if root not in names or root not in base.files or (root == DISK and not wanted.vm):
                continue
            name = delta_name(base.serial, root)
            of = " of the disk" if root == DISK else ""
            old, new = (where / root, base.files[root]), (directory / root, names[root])
            delta = _delta(directory / name, old, new, wanted.max_ratio)
            if isinstance(delta, str):
                files.unlink(directory / name)
                notes.append(f"no delta{of} from {base.serial}: {delta}")
            else:
                made[name] = delta
                notes.append(f"delta{of} from {base.serial} {delta.size / names[root].size:.0%}")
    return made, notes


def _delta(delta: Path, base: tuple[Path, File], target: tuple[Path, File], max_ratio: float) -> File | str:
    """One delta, decoded and compared, or why there is none."""
    (old, its), (new, wanted) = base, target
    try:
        with _TURNS:
            if (kept := files.status(delta)) is None:
                made = xdelta.encode(old, new, delta, int(wanted.size * max_ratio))
            else:  # it came with an image that is taken over
                made = File(kept.st_size, _digest(delta))
            found = _digest(old)
            fault = xdelta.fault(delta, old, wanted) if found == its.sha256 else ""
    except ProgramFailed as why:
        return str(why)
    except xdelta.TooLargeError:
        return f"it would be more than {max_ratio:.0%} of {new.name}"
    except OSError as why:  # it may have been withdrawn at once meanwhile
        return f"{old} cannot be read: {why.strerror}"
    if found != its.sha256:  # it would fit this base only, and no client has that
        return f"{old} is damaged"
    return f"it {fault}" if fault else made


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
