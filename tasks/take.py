"""Find images that something else made, and bring their files into staging (acts: reads what others own).

Found is one image (a directory of distrobuilder's files, or a unified tarball), a tree
``[images/]os/release/arch/variant/serial``, as lxd-simplestreams, lxd-image-server,
simplestream-maintainer and images.linuxcontainers.org keep one, or what a ``streams/v1`` names, as
incus-simplestreams keeps it, or an image of a local daemon. Nothing is believed of names, records or files.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from enum import Enum
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from msgspec.structs import replace

from tasks import archive, files, metadata, origin, programs
from tasks.errors import ImageRejected, ProgramFailed, UpstreamError
from tasks.foreign import LOST, NOT_OURS, Foreign, Sort, shown
from tasks.hashed import Hashed, Staged, Staging
from tasks.image import (
    COMBINED,
    DEFINITION,
    DISK,
    INCUS,
    LOG,
    LXD,
    ROOT_TAR,
    SQUASHFS,
    STORED,
    SUMS,
    UNIFIED,
    Product,
)
from tasks.layout import STREAMS
from tasks.origin import Found

CLIENTS = {"incus": "incus", "lxd": "lxc"}  # daemon -> the program that speaks to it
EXPORT = 3600.0  # seconds for one image
HEAD = 4  # bytes that tell a root's format; a tarball is what is no other
MAGIC = {SQUASHFS: b"hsqs", DISK: b"QFI\xfb"}
TOP = "images"
DEPTH = 4  # directories above the serial: os, release, arch, variant
PLACE = "os/release/arch/variant/serial"
RECORD_LIMIT = 1 << 20  # bytes of SHA256SUMS, .items.json, .requirements
INDEX_LIMIT = 64 << 20  # bytes of an images.json; Ubuntu's has 17 MiB, and its lists take 25 times as much
IMG = "rootfs.img"  # what makes a unified image a VM
# As those of check: of a unified image, and of metadata alone.
LIMITS = archive.Limits(entries=5_000_000, unpacked=64 << 30, content=1 << 20)
SMALL = archive.Limits(entries=10_000, unpacked=64 << 20, content=1 << 20)
UNFINISHED = "it has no SHA256SUMS, as the others have: it was not finished"


class Above(NamedTuple):
    """What the directories above an image say of it: path and content of each record, the nearest last."""

    requirements: tuple[tuple[str, bytes], ...] = ()
    lxd_requirements: tuple[tuple[str, bytes], ...] = ()
    fault: str = ""  # of one that cannot be read


class How(Enum):
    """How files come into staging."""

    COPIED = "copied"  # their owner may do with his what he likes
    LINKED = "linked"  # taken over where they lie
    SEEN = "seen"  # only looked at


def alone(source: Foreign) -> list[Found]:
    """The one image whose files lie in a directory itself; none where it is no such directory."""
    here = source.sorts("")
    if origin.NAMES.keys() & here.keys() - {DEFINITION}:
        return [_image(source, "", Found(where=source.shown("")), Above())]
    if (tarball := origin.unified(here)) and here[tarball] is Sort.FILE:
        return [single(tarball)]
    return []


def find(source: Foreign, *, whole: bool) -> list[Found]:
    """Every image of a tree, also those that cannot be taken; raises UpstreamError.

    Who keeps a SHA256SUMS has not finished an image without one: of its product, or of the ``whole`` tree.
    """
    here = source.sorts("")
    top = TOP if here.get(TOP) is Sort.DIRECTORY else ""
    found = list(_tree(source, top, (), _above(source, "", here, Above()) if top else Above()))
    if not any(one.paths for one in found):
        return [*found, *_streams(source, here)]
    done = {one.product for one in found if one.has_sums}
    return [
        replace(one, fault=one.fault or UNFINISHED)
        if not one.has_sums and (done if whole else one.product in done)
        else one
        for one in found
    ]


def single(tarball: str) -> Found:
    """One unified image; of which kind, ``identify`` sees."""
    return Found(where=shown(tarball), paths={UNIFIED: tarball}, came="file")


def export(daemon: str, image: str, directory: Path, keep: Collection[int]) -> Found:
    """Let a local daemon write one of its images, by alias or fingerprint, into an empty directory.

    A split image becomes two files, a unified one has a suffix (lxc/incus:cmd/incus/image.go). Raises
    UpstreamError in the client's words.
    """
    argv = [CLIENTS[daemon], "image", "export", f"local:{image}", str(directory / "image")]
    try:
        programs.run(argv, timeout=EXPORT, keep=[*keep])
    except ProgramFailed as error:
        raise UpstreamError(f"{daemon}:{shown(image)} cannot be exported: {error}") from error
    source = Foreign(directory)
    names = sorted(source.sorts(""))
    where = f"{daemon}:{shown(image)}"
    if not names:
        raise UpstreamError(f"{where} cannot be exported: {argv[0]} wrote nothing")
    if names != ["image", "image.root"]:
        return replace(single(names[0]), where=where, came=daemon)
    with source.file("image.root") as file:
        head = file.read(HEAD)
    root = next((name for name, magic in MAGIC.items() if head.startswith(magic)), ROOT_TAR)
    return Found(where=where, paths={INCUS: "image", root: "image.root"}, came=daemon)


def identify(source: Foreign, found: Found, product: Product | None, serial: str) -> Found:
    """Say which product and serial an image is: as was given, else as its metadata has it."""
    if found.fault or (found.product and found.serial):
        return found
    members: set[str] = set()
    path = next((found.paths[name] for name in (INCUS, LXD, *COMBINED) if name in found.paths), "")
    try:
        told = _metadata(source, path, members, alone=not {*COMBINED} & {*found.paths}) if path else {}
        if not product:
            product = Product(*metadata.product_fields(told))
        text = serial or metadata.serial_text(told)
        serial = origin.serial_of(text)
    except ImageRejected as error:
        return replace(found, fault=str(error))
    except ValueError as error:
        what = "--as=os/release/arch/variant and --serial=YYYYMMDD_HH:MM say what it is"
        why = str(error) if path else "it has no metadata.yaml"
        return replace(found, fault=f"{why}; {what}")
    paths = found.paths
    if UNIFIED in paths and IMG in members:
        paths = {origin.combined_name(members): paths[UNIFIED]}
    return replace(
        found, product=product, serial=serial, paths=paths, notes=found.notes + origin.became(text, serial)
    )


def _metadata(source: Foreign, path: str, members: set[str], *, alone: bool) -> Mapping[str, object]:
    """What a tarball's metadata.yaml says; raises ValueError, and ImageRejected for what is no tarball."""
    try:
        text = archive.contents(
            source.chunks(path),
            SMALL if alone else LIMITS,
            ["metadata.yaml"],
            see=lambda name, _: members.add(IMG) if name == IMG else None,  # of a million names no other
        )
        return metadata.parse(text.get("metadata.yaml", b"0"))
    except (ValueError, UpstreamError) as error:  # BadArchiveError and TooMuchError are the former
        if isinstance(error, archive.BadArchiveError):
            raise ImageRejected(f"{shown(path)} is no tarball, or a damaged one: {error}") from error
        raise ValueError(f"{shown(path)}: metadata.yaml cannot be read: {error}") from error


def stage(source: Foreign, found: Found, directory: Path, how: How, hold: ExitStack | None = None) -> Staged:
    """Bring the files into a directory, hashed in one pass.

    Those that are only looked at stay open in ``hold``, for what has their names may become another file.
    Raises ImageRejected for what they are, and UpstreamError for the way to them.
    """
    staging = Staging(directory)
    for name in (name for name in STORED if name in found.paths):
        path = found.paths[name]
        with ExitStack() as own:
            _bring((hold or own).enter_context(source.file(path)), staging, name, how)
        if found.known.get(path, staging.files[name].sha256) != staging.files[name].sha256:
            raise ImageRejected(f"{shown(path)} has another sha256 than the record beside it says")
        staging.settle(name)
    if LOG in found.kept and how is How.LINKED:
        with source.file(found.kept[LOG]) as file:
            _bring(file, staging, LOG, how)
    staged = staging.staged(found.serial)
    for root, mark in found.combined.items():
        if staged.fingerprints.get(INCUS, {}).get(root, mark) != mark:
            raise ImageRejected(f"{root} with {INCUS} has another fingerprint than the record beside it says")
    if how is How.LINKED:
        for name in found.kept.keys() - {LOG, f"{SUMS}.asc"}:
            if name.endswith(".asc") and source.status(found.kept[name]).st_size > RECORD_LIMIT:
                continue  # no signature
            with source.file(found.kept[name]) as file:
                files.link_open(file, directory / name)
    return staged


def refuse_others(source: Foreign, found: Found) -> None:
    """Raise ImageRejected for a file to take over that another user could go on to change."""
    for path in (*found.paths.values(), *found.kept.values()):
        if not files.is_ours(source.status(path)):
            raise ImageRejected(f"{shown(path)}: {NOT_OURS}")


def _bring(file: BinaryIO, staging: Staging, name: str, how: How) -> None:
    copied = how is How.COPIED or (how is How.LINKED and not files.is_plain(file))
    staging.add(name, partial(Hashed.copy if copied else Hashed.hash_only, source=file))
    here = staging.directory / name
    if not copied:
        files.unlink(here)
    if how is How.LINKED and copied:
        files.keep_time(file, here)
    elif how is How.LINKED:
        files.link_open(file, here)
    if how is How.SEEN:
        with files.disk("link"):
            here.symlink_to(f"/proc/self/fd/{file.fileno()}")


def _tree(source: Foreign, path: str, names: tuple[str, ...], above: Above) -> Iterator[Found]:
    """All images below a directory, and what is in the way to them."""
    where = partial(_join, path)
    stray = Found(where=source.shown(path), stray=True)
    try:
        entries = source.sorts(path)
    except UpstreamError as error:
        yield replace(stray, fault=str(error))
        return
    above = _above(source, path, entries, above)
    if misplaced := sorted((origin.NAMES.keys() - {DEFINITION}) & entries.keys()):
        yield replace(stray, fault=f"it holds {misplaced[0]}, and images lie in {PLACE}")
    for name, sort in entries.items():
        if name.startswith(".") or sort not in (Sort.DIRECTORY, Sort.LINK) or (not names and name == LOST):
            continue  # uploads in progress are hidden, and files belong to nothing
        if sort is Sort.LINK:
            fault = "it is a symbolic link, which is not followed"
            yield replace(stray, where=source.shown(where(name)), fault=fault)
        elif len(names) < DEPTH:
            yield from _tree(source, where(name), (*names, name), above)
        else:
            yield from _serial(source, where(name), (*names, name), above)


def _above(source: Foreign, path: str, entries: Mapping[str, Sort], above: Above) -> Above:
    """What is said above the entries of a directory, which may say more."""
    try:
        more, lxd_more = (
            tuple(_record(source, _join(path, name), entries.get(name)))
            for name in (origin.REQUIREMENTS, origin.LXD_REQUIREMENTS)
        )
    except (ValueError, UpstreamError) as error:
        return above._replace(fault=str(error))
    return Above(above.requirements + more, above.lxd_requirements + lxd_more, above.fault)


def _serial(source: Foreign, path: str, names: tuple[str, ...], above: Above) -> Iterator[Found]:
    """The image of one directory, whose name is the serial; none where it is no such directory."""
    *product, text = names
    found = Found(where=source.shown(path), came=path)
    try:
        serial = origin.serial_of(text)
        called = Product(*product)
        notes = origin.became(text, serial) + origin.arch_became(called)
        found = replace(found, product=origin.as_listed(called), serial=serial, notes=notes)
        yield _image(source, path, found, above)
    except ValueError as error:
        yield from _misnamed(source, path, replace(found, fault=str(error)))
    except UpstreamError as error:
        yield replace(found, fault=str(error))


def _misnamed(source: Foreign, path: str, found: Found) -> Iterator[Found]:
    """A directory whose name is no serial, where it looks as if it had an image."""
    try:
        entries = source.sorts(path)
    except UpstreamError as error:
        yield replace(found, fault=str(error), stray=True)
        return
    if origin.NAMES.keys() & entries.keys() or path.rpartition("/")[2][:8].isdigit():
        yield found


def _image(source: Foreign, path: str, found: Found, above: Above) -> Found:
    """The image of one directory; what is wrong with it is its fault."""
    entries = source.sorts(path)
    found = replace(found, has_sums=entries.get(SUMS) is Sort.FILE)
    for name in (*origin.NAMES, SUMS, origin.ITEMS):
        if (sort := entries.get(name, Sort.FILE)) is not Sort.FILE:
            return replace(found, fault=f"{name} is a {sort.value}, which is not followed")
    try:
        paths = origin.to_store(entries)
        records = [
            b"".join(data for _, data in _record(source, _join(path, one), entries.get(one)))
            for one in (SUMS, origin.ITEMS)
        ]
        known = origin.known_hashes(entries, *records)
        fault = origin.unfinished(entries, records[0])
        combined = {
            root: data.decode("ascii", "replace").strip()
            for one, root in origin.FINGERPRINTS.items()
            for _, data in _record(source, _join(path, one), entries.get(one))
        }
        found = replace(
            found,
            requirements=origin.requirements(above.requirements),
            lxd_requirements=origin.requirements(above.lxd_requirements),
        )
    except (ValueError, UpstreamError) as error:
        return replace(found, fault=str(error))
    left = origin.strangers(entries)
    return replace(
        found,
        paths={name: _join(path, one) for name, one in paths.items()},
        known={_join(path, name): mark for name, mark in known.items()},
        notes=found.notes + ((f"left out: {', '.join(map(shown, left))}",) if left else ()),
        fault=above.fault or fault or origin.lacking(paths),
        combined=combined,
        kept={one: _join(path, one) for one in origin.keepers(entries) if entries[one] is Sort.FILE},
    )


def _record(source: Foreign, path: str, sort: Sort | None) -> Iterator[tuple[str, bytes]]:
    """A small file with its path, where there is one; raises ValueError."""
    if sort is None:
        return
    if sort is not Sort.FILE:
        raise ValueError(f"{source.shown(path)} is a {sort.value}, which is not followed")
    yield source.shown(path), source.read(path, RECORD_LIMIT)


def _streams(source: Foreign, here: Mapping[str, Sort]) -> Iterator[Found]:
    """What the streams of a tree name, where it has any; raises UpstreamError when they cannot be read."""
    if here.get(STREAMS.parts[0]) is not Sort.DIRECTORY:
        return
    index = _document(source, f"{STREAMS}/index.json").get("index")
    for entry in (index if isinstance(index, dict) else {}).values():
        path = entry.get("path") if isinstance(entry, dict) else None
        if isinstance(path, str) and entry.get("datatype") == "image-downloads":
            try:
                yield from origin.listed(_document(source, origin.inside(path)), shown(path))
            except (ValueError, UpstreamError) as error:
                yield Found(where=source.shown(f"{STREAMS}/index.json"), fault=str(error))


def _document(source: Foreign, path: str) -> dict[str, object]:
    try:
        return origin.mapping(source.read(path, INDEX_LIMIT), source.shown(path))
    except ValueError as error:
        raise UpstreamError(str(error)) from error


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name
