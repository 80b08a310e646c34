"""What lies beside the images of a tree that is taken over (acts: links files of our own).

What a web server's operator put there was served, and goes on to be, as far as it was for everybody.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from tasks import files
from tasks.errors import TreeError, UpstreamError
from tasks.foreign import LOST, NOT_OURS, Foreign, Sort, shown
from tasks.layout import KEY, LXC, PROTOCOLS, SITE_ID, STREAMS, STREAMS_TWIN, TRACE, Layout
from tasks.overlay import TOP as UPSTREAMS

TOP = "images"
# What a publisher writes itself, the reference or this one.
WRITTEN = {TOP, "index.html", str(STREAMS.parent), str(STREAMS_TWIN.parent), str(LXC), SITE_ID, KEY}
WRITTEN |= {"site", "snapshots", "at", "latest", "state", "decisions.toml"}
WRITTEN |= {PROTOCOLS, UPSTREAMS, TRACE}
LEFT = {
    "index.html": "ours takes its place (page.template makes it yours)",
    ".well-known": "what begins with a dot is not served here",
}
DEPTH = 32  # directories above a file beside the images
OTHERS_READ, OTHERS_ENTER = 0o004, 0o005  # the modes of a file and of a directory that is for everybody


def keep_extras(source: Foreign, layout: Layout, *, dry: bool) -> Iterator[str]:
    """Take over what else is served beside the images, where nothing of ours has that name; a line each.

    Where there is no directory of images to lie beside, all of the tree is images.
    """
    if source.sorts("").get(TOP) is not Sort.DIRECTORY:
        return
    for path, why in extras(source):
        try:
            if why:
                yield f"{source.shown(path)}: left: {why}"
            elif _kept(source, path, layout.public / path, dry=dry):
                yield f"{shown(path)}: {'would be ' if dry else ''}kept"
        except (TreeError, UpstreamError) as error:
            yield f"{source.shown(path)}: left: {error}"


def _kept(source: Foreign, path: str, target: Path, *, dry: bool) -> bool:
    """Whether one file was taken over, or would be: not where there is one."""
    if files.status(target):
        return False
    if not dry:
        with files.disk("make"):
            target.parent.mkdir(parents=True, exist_ok=True)
        with source.file(path) as file:
            files.link_open(file, target)
    return True


def extras(source: Foreign, path: str = "") -> Iterator[tuple[str, str]]:
    """What a web server's operator put into a tree of the reference beside what that wrote.

    The path of each, and why it is left, "" where it is not: it was not served, or is not his.
    """
    entries: Mapping[str, Sort] = {}
    try:
        if not (why := _not_served(source, path, OTHERS_ENTER)):
            entries = source.sorts(path)
    except UpstreamError as error:
        why = str(error)
    if why:
        yield path, why
    for name, sort in entries.items():
        here = f"{path}/{name}" if path else name
        if here in LEFT:
            yield here, LEFT[here]
        if here in WRITTEN or here == LOST or name.startswith("."):
            continue
        if sort is Sort.DIRECTORY and here.count("/") == DEPTH:
            yield here, f"it lies deeper than {DEPTH} directories"
        elif sort is Sort.DIRECTORY:
            yield from extras(source, here)
        elif sort is not Sort.FILE:
            yield here, f"it is a {sort.value}"
        else:
            yield here, _not_served(source, here, OTHERS_READ)


def _not_served(source: Foreign, path: str, mode: int) -> str:
    """Why no web server should have shown a file or directory, "" where it might have."""
    try:
        seen = source.status(path)
    except UpstreamError as error:
        return str(error)
    if seen.st_mode & mode != mode:
        return "it is not for everybody"
    return "" if mode == OTHERS_ENTER or files.is_ours(seen) else NOT_OURS
