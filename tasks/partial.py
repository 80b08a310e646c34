"""Make the indexes of a mirror that gets a part of the images, signed by the site's key (acts).

All is made of one frozen tree's own indexes, and lies in the state directory, whole or not at all:
``current`` is replaced at once. A file whose content is the same keeps its signature and its time.
"""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import msgspec

from tasks import files, lxcindex, portion, streams, tree, trees
from tasks.errors import ProofError, TreeError
from tasks.layout import KEY, PAGE, STREAMS
from tasks.overlay import TOP
from tasks.policy import CLIENTS
from tasks.proof import prove_tree
from tasks.rsync import literal
from tasks.schema import objects
from tasks.settings import Mirror, Protocols, Settings
from tasks.sign import Signer, is_whole, keyring, publish_signed
from tasks.state import load, save
from tasks.words import counted

EDITION = 1  # of what is made here; with another one all is made anew
IMAGES = "images"
TOPS = (IMAGES, TOP)  # where the files lie that indexes name


class View(NamedTuple):
    """What a mirror gets instead of the whole tree."""

    indexes: Path  # a directory with all that it gets but images and files of upstreams
    paths: frozenset[str]  # the directories of images, and the files of upstreams, that these name
    notes: tuple[str, ...] = ()


class Made(msgspec.Struct, frozen=True):
    """What a view was made of, and what its indexes name."""

    mark: str
    key: str  # a digest of the key that signed
    match: tuple[str, ...]
    paths: tuple[str, ...]
    notes: tuple[str, ...]


def view(source: Path, mirror: Mirror, home: Path, settings: Settings, signer: Callable[[], Signer]) -> View:
    """The indexes of a mirror, made if they are not there already, in the directory ``home``.

    ``source`` is the ``public`` of a snapshot, by its real path. Raises ProofError when a client could not
    read these indexes, or no product fits a match that is new: with an old one, all may have been withdrawn.
    What was there stays then.
    """
    ring = keyring(settings.signing, _ring(source))
    key = files.digest(settings.signing.key.encode() + keyring(settings.signing, b""))
    mark = _mark(source, mirror, settings, ring, key)
    current = home / "current"
    known = _made(current)
    if known is None or known.mark != mark:
        notes = _idle(source, mirror)
        if len(notes) == len(mirror.match) and not (known and known.match == mirror.match):
            raise ProofError(f"mirror {mirror.name}: match fits no product")
        files.sweep(home, home)
        new = home / f"{files.TEMPORARY}new"
        public = new / "public"
        if known and known.key == key:  # else all is signed anew
            _begin(current / "public", public, source)
        files.write_changed(public / KEY, ring)
        paths = _make(public, source, mirror, settings, signer())
        known = Made(mark, key, mirror.match, tuple(sorted(paths)), tuple(notes))
        _prove(public, source, mirror, settings, known.paths)
        save(new / "made.json", known)
        if current.exists():
            trees.later(public, current / "public")
            files.exchange(new, current)
            files.remove(new, home)
        else:
            files.move(new, current)
    return View(current / "public", frozenset(known.paths), known.notes)


def kept(home: Path) -> View | None:
    """The indexes that were made last, None before that; writes nothing."""
    known = _made(home / "current")
    return View(home / "current/public", frozenset(known.paths), known.notes) if known else None


def filters(view: View, source: Path) -> str:
    """Rules for rsync's ``--filter=merge FILE`` that hide what the mirror does not get from the sender.

    The receiver deletes it, unless it is protected there. There is a rule for a whole directory where the
    mirror gets nothing of it: rsync holds every name against every rule.
    """
    return "".join(f"hide /{literal(path)}\n" for path in _others(source, view.paths))


def _others(source: Path, paths: frozenset[str]) -> Iterator[str]:
    """What of the images and the files of upstreams is none of these, in as few names as say it."""
    above = {str(parent) for path in paths for parent in PurePosixPath(path).parents}

    def below(directory: str) -> Iterator[str]:
        for entry in sorted((source / directory).iterdir()):
            path = f"{directory}/{entry.name}"
            if path in above:
                yield from below(path)
            elif path not in paths:
                yield path

    with files.disk("list"):
        for top in TOPS:
            if top in above:
                yield from below(top)
            else:
                yield top


def _ring(source: Path) -> bytes:
    """The keys beside a tree, b"" where they are damaged."""
    ring = files.read(source / KEY) or b""
    return ring if is_whole(ring) else b""


def _made(current: Path) -> Made | None:
    try:
        return load(current / "made.json", Made)
    except TreeError:
        return None  # damaged: made anew


def _mark(source: Path, mirror: Mirror, settings: Settings, ring: bytes, key: str) -> str:
    """A mark of all that a view is made of; of each snapshot another, for its files are proven too."""
    template = files.read(settings.page.template or tree.TEMPLATE) or b""
    told = (mirror.match, mirror.keep, settings.page, _protocols(source, settings), _has_old_names(source))
    names = [f"{of}/{streams.IMAGES}" for of in ("", *tree.lists(source))]
    names += [f"{name}.json" for name in tree.overlays(source)]
    found = [source / STREAMS / name.lstrip("/") for name in names]
    found += [*tree.lxc_indexes(source), *_plain(source)]
    digests = {str(path): files.digest(files.read(path) or b"") for path in found}
    return files.digest(f"{EDITION} {told!r} {digests!r} {key} ".encode() + template + ring)


def _plain(source: Path) -> list[Path]:
    """The files at the top of a tree that a mirror gets as they are: whose it is, and when it was made."""
    with files.disk("list"):
        found = [path for path in source.iterdir() if path.is_file() and path.name not in {KEY, PAGE}]
    return sorted(path for path in found if not path.name.startswith(files.TEMPORARY))


def _has_old_names(source: Path) -> bool:
    return any((source / STREAMS).glob(".images.*"))


def _protocols(source: Path, settings: Settings) -> Protocols:
    """The older protocols that the tree has, and that are still spoken."""
    has, wanted = tree.protocols_of(source), settings.protocols
    return Protocols(rest=has.rest and wanted.rest, header_import=has.header_import and wanted.header_import)


def _begin(before: Path, public: Path, source: Path) -> None:
    """Begin with what there was, by hard links, but for files of which the tree has none any more."""
    trees.link(before, public)
    for path in [path for path in public.rglob("*") if path.is_file()]:
        if not (source / path.relative_to(public)).exists():
            files.unlink(path)
            files.remove_empty(path.parent, public)


def _make(public: Path, source: Path, mirror: Mirror, settings: Settings, by: Signer) -> set[str]:
    """Write all of it but the key; the paths that it names."""
    lines = {index: [*tree.lxc_lines(index).values()] for index in tree.lxc_indexes(source)}
    every = tree.listed_streams(source)
    others = {name: load(source / STREAMS / f"{name}.json", dict) or {} for name in tree.overlays(source)}
    paths = portion.ours(every, (one for of in lines.values() for one in of), mirror.match, mirror.keep)
    theirs = {name: portion.theirs(tree.overlaid(source, name), mirror.match, mirror.keep) for name in others}
    for name, document in others.items():
        tree.put_overlay(public, name, str(document.get("upstream") or ""), theirs[name], by)
    for of in ("", *tree.lists(source)):
        document = load(source / STREAMS / of / streams.IMAGES, dict) or {}
        left = portion.listed(tree.listed_streams(source, of), paths)
        tree.put_streams(public, {**document, "products": left}, by, of)
    tree.put_old_names(public, wanted=_has_old_names(source))
    for index, every_line in lines.items():
        text = "".join(line for line in every_line if lxcindex.path(line) in paths)
        publish_signed(public / index.relative_to(source), text.encode(), by, ".asc")
    for path in _plain(source):
        files.write_changed(public / path.name, files.read(path) or b"")
    files.write_changed(public / PAGE, tree.page_of(public, settings.page, source))
    tree.put_protocols(public, _protocols(source, settings))
    return paths | (tree.elsewhere(public).keys() & tree.sizes_of(source, TOP).keys())


def _idle(source: Path, mirror: Mirror) -> list[str]:
    """A line for each pattern that fits no product of a tree; none where it has no product at all."""
    names = [key.replace(":", "/") for key in sorted(tree.listed_products(source))]
    others = [
        of for name in tree.overlays(source) for _, of in objects({"": tree.overlaid(source, name)}, "")
    ]
    idle = portion.idle(names, others, mirror.match) if names or others else []
    return [f"mirror.match: {pattern!r} fits no product" for pattern in idle]


def _prove(public: Path, source: Path, mirror: Mirror, settings: Settings, paths: Collection[str]) -> None:
    """Read the indexes as clients will, over what the mirror gets; raises ProofError."""
    here = [one.name for one in settings.upstream if one.is_mirrored]
    sizes = tree.elsewhere(public, here)
    for path in paths:
        if seen := files.status(source / path):
            is_image = path.startswith(f"{IMAGES}/")
            sizes |= tree.sizes_of(source, path) if is_image else {path: seen.st_size}
    lxc = [str(path.relative_to(public)) for path in tree.lxc_indexes(public)]
    readers = dict.fromkeys(tree.lists(public), CLIENTS)
    found = prove_tree(lambda path: files.read(public / path), sizes.get, lxc, lists=readers)
    if faults := list(dict.fromkeys(map(str, found))):
        more = f", and {counted(len(faults) - 1, 'other fault')}" if len(faults) > 1 else ""
        raise ProofError(f"mirror {mirror.name}: clients could not read its indexes: {faults[0]}{more}")
