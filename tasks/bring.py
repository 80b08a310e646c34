"""The road of an image that no Jenkins built: found, staged, checked, signed, placed (acts).

The same gates as those of a build (``make``). Older serials than the newest are taken, for a tree has
a history; what would not be listed is not.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from tasks import files, make, take
from tasks.catalogue import Usable, kept
from tasks.check import check, check_opened
from tasks.decisions import BuildName
from tasks.errors import ImageRejected, UpstreamError
from tasks.foreign import Foreign
from tasks.hashed import Staged
from tasks.image import IMPORT, Image, Product, Source, serial_time
from tasks.layout import Layout
from tasks.ledgers import adopt
from tasks.make import Made
from tasks.origin import Found
from tasks.settings import Settings
from tasks.sign import Signer, Verifier
from tasks.state import Ledger, decisions, load, load_all
from tasks.words import counted

OTHER_REQUIREMENTS = "its requirements are others than those it is published with, which stay; see [[rules]]"


class Into(NamedTuple):
    """Where images go, and how."""

    layout: Layout
    settings: Settings
    signer: Callable[[], Signer]
    now: datetime
    dry: bool = False  # only say what would be done
    adopted: Callable[[], Verifier] | None = (
        None  # for files that are taken over: what judges their signatures
    )


def build_name(found: Found) -> BuildName:
    """What stands in the place of a build: how the image came, and its minute.

    One number for all would make the withdrawal of one image that of all its product's. The world reads it
    in source.json, so the operator's own directories are not named.
    """
    return BuildName.parse(f"{IMPORT}{found.came} #{int(serial_time(found.serial).timestamp()) // 60}")


def bring(found: Iterable[Found], source: Foreign, into: Into) -> Iterator[tuple[Found, Made]]:
    """Take what may be listed, product by product, oldest first: deltas begin from the one before."""
    ordered = sorted(found, key=lambda one: (one.name, one.serial))
    yield from ((one, Made(f"rejected: {one.fault}")) for one in ordered if one.fault)
    good = [one for one in ordered if not one.fault]
    owners = dict(_owners(into))
    for product, group in groupby(good, key=lambda one: one.product):
        if product:  # identify has seen to that
            road = _Road(product, source, into, owners)
            yield from road.images(list(group))


def _owners(into: Into) -> Iterator[tuple[str, Image]]:
    """Every fingerprint that is to be listed, with the image that has it."""
    word = decisions(into.layout)
    for ledger in load_all(into.layout.state / "ledger", Ledger):
        for image in kept(word.listed(ledger.images), into.settings.site.keep):
            yield from ((mark, image) for mark in image.marks)


class _Road:
    """The images of one product."""

    def __init__(self, product: Product, source: Foreign, into: Into, owners: dict[str, Image]) -> None:
        self._product, self._source, self._into, self._owners = product, source, into, owners

    def images(self, waiting: list[Found]) -> Iterator[tuple[Found, Made]]:
        """Those that are there already, then those that would be listed beside them.

        Where one is rejected, the next older may be listed after all.
        """
        ledger, keep = self._ledger(), self._into.settings.site.keep
        listed: list[Usable] = list(decisions(self._into.layout).listed(ledger.images))
        present = {image.serial for image in ledger.images}
        there = [one for one in waiting if one.serial in present]
        chosen = there or self._listable(listed, waiting, keep)
        while chosen:
            for one in chosen:
                waiting.remove(one)
                made = self._made(one)
                if made.image:
                    listed.append(one)
                    self._owners |= dict.fromkeys(made.image.marks, made.image)
                yield one, made
            chosen = self._listable(listed, waiting, keep)
        yield from (
            (one, Made(f"left: {counted(keep, 'newer image')} are listed (site.keep)")) for one in waiting
        )

    @staticmethod
    def _listable(listed: list[Usable], waiting: list[Found], keep: int) -> list[Found]:
        both = list(kept([*listed, *waiting], keep))
        return [one for one in waiting if any(one is other for other in both)]

    def _made(self, found: Found) -> Made:
        layout, word = self._into.layout, decisions(self._into.layout)
        build = build_name(found)
        if why := word.stop(self._product, build.job, build.configuration, build.number):
            return Made(f"held: {why}")
        if f"{self._product.path}/{found.serial}" in word.withdrawn():
            return Made(f"held: withdrawn; doit unhold {found.name} lets it come again")
        ledger = self._ledger()
        known = any(image.serial == found.serial for image in ledger.images)
        try:
            if self._into.adopted and not known:
                take.refuse_others(self._source, found)
            for name, path in () if known else found.paths.items():  # a sparse one would be copied whole
                with self._source.file(path) as file:
                    check_opened(name, file)
            if known or self._into.dry:
                return self._looked_at(found, build, ledger, known=known)
            return self._taken(found, build, ledger, layout.staging / self._product.key)
        except ImageRejected as fault:
            return Made(f"rejected: {fault}")
        except UpstreamError as fault:
            return Made(f"failed: {fault}")

    def _taken(self, found: Found, build: BuildName, ledger: Ledger, staging: Path) -> Made:
        """Stage, check, sign and place it; what is not placed does not stay in the way of others."""
        into = self._into
        how = take.How.LINKED if into.adopted else take.How.COPIED
        try:
            staged = take.stage(self._source, found, staging, how)
            if twin := self._twin(self._image(found, staged, build)):
                return twin
            staged = make.finish(self._product, staged, into.layout, into.settings, into.now)
            if into.adopted:
                staged = replace(staged, signed=_signed(staged, into.adopted()))
            image = self._image(found, staged, build)
            return make.place(image, staged, ledger, into.layout, into.signer)
        finally:
            if files.status(staging):
                files.remove(staging, into.layout.staging)

    def _looked_at(self, found: Found, build: BuildName, ledger: Ledger, *, known: bool) -> Made:
        """What would become of it; nothing is copied."""
        with files.scratch() as scratch, ExitStack() as hold:
            staged = take.stage(self._source, found, scratch / "image", take.How.SEEN, hold)
            if not known:
                check(staged.directory, staged.files, self._product, staged.serial, self._into.now)
        image = self._image(found, staged, build)
        would = Made(f"would be taken: {make.described(image)}", image)
        twin = None if known else self._twin(image)
        made = make.verdict(image, ledger, self._into.layout) or twin or would
        same = next((old for old in ledger.images if old.serial == image.serial), image)
        asks = (image.requirements, image.lxd_requirements)
        other = asks != (same.requirements, same.lxd_requirements)
        return Made(f"{made.line}; {OTHER_REQUIREMENTS}", made.image) if other else made

    def _twin(self, image: Image) -> Made | None:
        """That all of it is listed under another name: Incus copies no image that is listed twice."""
        owners = [self._owners.get(mark) for mark in image.marks]
        if not owners or not all(owners) or not (owner := owners[0]):
            return None
        name = owner.serial if owner.product == image.product else f"{owner.product.name}/{owner.serial}"
        return Made(f"{image.serial} has the content of {name}: nothing new")

    def _image(self, found: Found, staged: Staged, build: BuildName) -> Image:
        source = Source(
            job=build.job,
            configuration=build.configuration,
            number=build.number,
            timestamp=int(self._into.now.timestamp() * 1000),  # a newcomer, whatever its serial
            md5={},
        )
        image = make.image_of(self._product, staged, source)
        return replace(image, requirements=found.requirements, lxd_requirements=found.lxd_requirements)

    def _ledger(self) -> Ledger:
        """The product's ledger; a dry run does not put it in line with the tree."""
        if self._into.dry:
            return load(self._into.layout.ledger(self._product), Ledger) or Ledger(self._product)
        return adopt(self._product, self._into.layout)


def _signed(staged: Staged, verifier: Verifier) -> tuple[str, ...]:
    """The files of a directory that was taken over whose signatures are good.

    Bad ones leave it, and whatever does not belong to the image.
    """
    with files.disk("list"):
        names = {path.name for path in staged.directory.iterdir()}
    good = []
    for name in sorted(name for name in staged.files if f"{name}.asc" in names):
        signature = files.read(staged.directory / f"{name}.asc") or b""
        if not verifier.detached(staged.directory / name, signature):
            good.append(name)
    for name in names - {*staged.files, *(f"{one}.asc" for one in good)}:
        files.unlink(staged.directory / name)
    return tuple(good)


def is_there(found: Found, layout: Layout) -> bool:
    """Whether an image is in our tree under its name."""
    return bool(found.product and files.status(layout.public / found.product.path / found.serial))
