"""Write the indexes of the catalogue, signed, into the tree; then prove them (acts).

The tree is not what the world sees, so the order here only has to be honest: what is named before
what names it.
"""

from collections.abc import Callable, Collection, Container, Iterable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path, PurePosixPath

from tasks import files, lxcindex, overlay, streams, tree, trees
from tasks.audit import audit
from tasks.catalogue import Catalogue, catalogue, duplicates, spared
from tasks.decisions import Decisions
from tasks.errors import ProofError, TreeError
from tasks.image import Image, Product
from tasks.layout import LXC, PAGE, STREAMS, STREAMS_TWIN, Layout
from tasks.ledgers import adopt, forget
from tasks.policy import CLIENTS, matches
from tasks.proof import prove_tree
from tasks.schema import Fault
from tasks.settings import List, Lxc, Rule, Settings, Share, Upstream
from tasks.sign import Signer, publish_signed
from tasks.state import NONE, Ledger, Offers, Quarantine, load, load_all, save
from tasks.words import counted

BOTH = (streams.INDEX, streams.IMAGES)
SHOWN = 10  # faults named before the rest is only counted
BESIDE_CONTAINERS = (
    "unified VMs of products with containers are not listed, for Incus before May 2026 takes them for these,"
)


def collect(layout: Layout, settings: Settings, word: Decisions, *, allow_shrink: bool) -> str:
    """Gather what is to be listed; raises TreeError when too much of what is exposed would vanish."""
    ledgers = {ledger.product: ledger for ledger in load_all(layout.state / "ledger", Ledger)}
    shown = {Product.parse(key.replace(":", "/")) for key in tree.listed_products(layout.latest)}
    for product in sorted(shown - ledgers.keys()):  # its record is lost, and not what it is of
        ledgers[product] = adopt(product, layout)
    placed = [image for _, ledger in sorted(ledgers.items()) for image in ledger.images]
    if pin := word.pinned():
        new, notes = _pinned(layout, pin.snapshot, word)
    else:
        refused = {image.path for image in placed if word.refuses(image)}
        new = catalogue((word.listed(one.images) for one in ledgers.values()), settings.site.keep, refused)
        notes = _emptied(placed, new)
        if not allow_shrink:  # what the operator took out himself is no loss
            out = {product.key for product in shown if _is_out(product, ledgers[product], word)}
            left = {image.product.key for image in new.images} | out
            _refuse_shrink(layout, left, settings.site.max_shrink)
    save(layout.catalogue, new)
    products = {image.product for image in new.images}
    said = f"{counted(len(products), 'product')}, {counted(len(new.images), 'image')}"
    return said + (f", as in {new.pinned}" if pin else "") + "".join(notes)


def _is_out(product: Product, ledger: Ledger, word: Decisions) -> bool:
    """Whether the operator took out whatever there is of a product."""
    return bool(word.ending(product) or (ledger.images and all(map(word.refuses, ledger.images))))


def _emptied(placed: Iterable[Image], new: Catalogue) -> list[str]:
    """Products that a hold at an image that is gone leaves without any."""
    listed = {image.product for image in new.images}
    held = {one.product.name for one in placed if one.product not in listed and one.path not in new.refused}
    return [f"; nothing of {name} is listed: it is held at an image that is gone" for name in sorted(held)]


def _pinned(layout: Layout, name: str, word: Decisions) -> tuple[Catalogue, list[str]]:
    """What a snapshot listed, with all of its files in the tree again: those pruned since lie in it.

    What was refused since is left out, and what is damaged, with a note.
    """
    shown = layout.snapshots / name / "public"
    if not shown.is_dir():
        raise TreeError(f"the snapshot {name} is pinned and gone; doit rollback --release, or another one")
    listed = {image.path: image for image in tree.listed_images(shown)}
    refused = {image.path for image in listed.values() if word.refuses(image)}
    damaged = {path for path in tree.listed_paths(shown) - refused if _is_damaged(layout, shown, path)}
    images = tuple(image for path, image in listed.items() if path not in refused | damaged)
    for image in images:
        if not layout.image(image).exists():
            again = layout.staging / f"{image.product.key}:again"
            if again.exists():
                files.remove(again, layout.staging)
            trees.link(shown / image.path, again)
            files.move(again, layout.image(image))
        ledger = load(layout.ledger(image.product), Ledger) or Ledger(image.product)
        if image.serial not in {one.serial for one in ledger.images}:
            save(layout.ledger(image.product), ledger.with_image(image))
    forget(layout, tree.bring_back(shown, layout.public, layout.staging))
    notes = [f"; {path} is damaged there and left out" for path in sorted(damaged)]
    return Catalogue(images, tuple(sorted(refused | damaged)), name), notes


def _is_damaged(layout: Layout, shown: Path, path: str) -> bool:
    """Whether an image that has to come back from a snapshot is not whole; what lies in the tree is known."""
    return not (layout.public / path).exists() and bool(audit(shown, path).damage)


def _refuse_shrink(layout: Layout, products: AbstractSet[str], limit: Share) -> None:
    """Raise TreeError when more of what is exposed would vanish than the site allows."""
    before = tree.listed_products(layout.latest)
    lost = sorted(key.replace(":", "/") for key in before - products)
    if len(lost) * 100 > len(before) * limit.percent:
        raise TreeError(
            f"{len(lost)} of {counted(len(before), 'product')} would vanish ({_named(lost)}),"
            " more than site.max_shrink allows; if that is meant: doit publish --allow-shrink"
        )


def _refuse_hiding(
    layout: Layout, there: AbstractSet[str], after: Mapping[str, AbstractSet[str]], limit: Share
) -> None:
    """Raise TreeError when more of what somebody sees would be hidden from him than the site allows.

    Rules and lists can do that to products that stay in the tree: one mistyped pattern is enough.
    """
    before = tree.audiences(layout.latest)
    for who in sorted(before.keys() & after.keys()):
        lost = sorted(key.replace(":", "/") for key in (before[who] - after[who]) & there)
        if len(lost) * 100 > len(before[who]) * limit.percent:
            raise TreeError(
                f"{len(lost)} of {counted(len(before[who]), 'product')} would be hidden from {who}"
                f" ({_named(lost)}), more than site.max_shrink allows; if that is meant:"
                " doit publish --allow-shrink"
            )


def write_streams(
    layout: Layout, settings: Settings, signer: Callable[[], Signer], held: Quarantine = NONE
) -> str:
    """index.json and images.json with .gpg, .sjson and .gz, at both of their places, and those of each list.

    Before them those of each upstream, for index.json names what is there.

    A product in quarantine keeps the entry that is exposed now, an image in quarantine has none. Lists
    of other names go.
    """
    listing = _listing(layout)
    if listing.pinned:
        return _again(layout, listing, (STREAMS, STREAMS_TWIN), signer)
    images, rules = tuple(i for i in listing.images if i.path not in held.images), settings.rules
    shown = tuple(i for i in images if i.product.key not in held.products)
    document = streams.images_json(shown, rules, _kept(layout, listing, held))
    changed, others, yielded = _put_overlays(layout, settings.upstream, document, signer())
    changed |= tree.put_streams(layout.public, document, signer())
    dead_lists = list[str]()
    counts = [counted(len(streams.keys(document)), "product"), *others]
    for one in settings.list:
        new = one.name not in tree.lists(layout.latest)
        kept = _kept(layout, listing, held, "" if new else one.name)
        kept = streams.chosen(streams.for_clients(kept, [one.client]), one.match)
        document = streams.images_json(shown, rules, kept, (one.client,), one.match)
        changed |= tree.put_streams(layout.public, document, signer(), one.name)
        counts.append(f"{len(streams.keys(document))} in {one.name}")
        empty = [what for what in one.match if not any(matches(what, i.product) for i in images)]
        dead_lists += [f"; the list {one.name}: no product matches {what!r}" for what in empty]
    changed |= _drop_lists(layout, {one.name for one in settings.list})
    listed = spared(images)
    twins = duplicates(listed)
    cut = [one.path for one, other in zip(images, listed, strict=True) if one != other]
    dead = idle(layout, images, rules)
    some = f"{len(dead)} of {counted(len(rules), 'rule')}"
    notes = [f"; no product for {some}: {_named(map(repr, dead))}"] if dead else []
    notes += dead_lists + yielded
    notes += [f"; {BESIDE_CONTAINERS} in {_named(cut)}"] if cut else []
    notes += [f"; {path} repeats a fingerprint of {first} and is not listed" for path, first in twins.items()]
    return ", ".join(counts) + ("" if changed else ", no byte changed") + "".join(notes)


def _put_overlays(
    layout: Layout, upstreams: Iterable[Upstream], document: Mapping[str, streams.Json], signer: Signer
) -> tuple[bool, list[str], list[str]]:
    """What stands beside ours, without what would clash: whether any changed, counts, and what yields.

    An upstream that never answered has a file without products.
    """
    taken = overlay.Taken(of if isinstance(of := document.get("products"), dict) else {})
    upstreams = list(upstreams)
    changed = tree.drop_overlays(layout.public, [one.name for one in upstreams])
    counts, notes = list[str](), list[str]()
    for one in upstreams:
        known, lost = _offered(layout, one.name)
        products, left = taken.spare(tree.there(layout.public, known) if one.is_mirrored else known)
        changed |= tree.put_overlay(layout.public, one.name, one.url, products, signer)
        counts.append(f"{len(products)} of {one.name}")
        notes += [f"; {line}" for line in (*lost, *overlay.said(left))]
    return changed, counts, notes


def _offered(layout: Layout, name: str) -> tuple[dict[str, streams.Json], list[str]]:
    """An upstream's products as it was followed last, or, where that is lost, as they are exposed."""
    lost = list[str]()
    try:
        if (found := load(layout.overlay(name), dict)) is not None:
            return found, lost
    except TreeError as error:
        lost.append(str(error))
    return tree.overlaid(layout.latest, name), lost


def _named(names: Iterable[str]) -> str:
    """Some of the names, in a line."""
    every = list(names)
    return ", ".join(every[:SHOWN]) + (", …" if len(every) > SHOWN else "")


def _again(
    layout: Layout, listing: Catalogue, tops: Iterable[PurePosixPath], signer: Callable[[], Signer]
) -> str:
    """The indexes of the pinned snapshot as they were, but for what was taken out since."""
    shown = layout.snapshots / listing.pinned / "public"
    changed = [tree.copy_indexes(shown, layout.public, top) for top in tops]
    if listing.refused:
        changed.append(tree.strip(layout.public, listing.refused, signer()))
    return f"those of {listing.pinned}" + ("" if any(changed) else ", no byte changed")


def idle(layout: Layout, images: Iterable[Image], rules: Iterable[Rule]) -> list[str]:
    """The rules that speak of no product, listed or still held: mistyped, or of yesterday."""
    offers = load(layout.offers, Offers) or Offers()
    held = [name for name in (*offers.held, *offers.waiting) if name.count("/") == 3]  # noqa: PLR2004 - no job
    products = {image.product for image in images} | {Product.parse(name) for name in held}
    return [rule.match for rule in rules if not any(matches(rule.match, product) for product in products)]


def _listing(layout: Layout) -> Catalogue:
    return load(layout.catalogue, Catalogue) or Catalogue(())


def _kept(layout: Layout, listing: Catalogue, held: Quarantine, of: str = "") -> dict[str, streams.Json]:
    """The products in quarantine as a list has them exposed, but for what was taken out since."""
    exposed = tree.listed_streams(layout.latest, of) if held.products else {}
    mine = {key: product for key, product in exposed.items() if key in held.products}
    return streams.without(mine, listing.refused)


def _drop_lists(layout: Layout, wanted: Collection[str]) -> bool:
    """Remove the lists of all other names; says whether there was one."""
    stale = [name for name in tree.lists(layout.public) if name not in wanted]
    for directory in (layout.public / top / name for name in stale for top in (STREAMS, STREAMS_TWIN)):
        if directory.exists():
            files.remove(directory, layout.staging)
    return bool(stale)


def write_lxc(
    layout: Layout,
    rules: Iterable[Rule],
    lxc: Lxc,
    signer: Callable[[], Signer],
    held: Quarantine = NONE,
) -> str:
    """The LXC indexes, each with its .asc; those of levels no longer wanted go."""
    listing = _listing(layout)
    if listing.pinned:
        return _again(layout, listing, (LXC,), signer)
    listed = [image for image in listing.images if image.path not in held.images]
    texts = lxcindex.indexes((i for i in listed if i.product.key not in held.products), rules, lxc.levels)
    directory, by = layout.public / LXC, signer()
    for name, text in texts.items():
        exposed = tree.lxc_lines(layout.latest / LXC / name) if held.products else {}
        kept = [exposed[key] for key in held.products if key in exposed]
        kept = [line for line in kept if lxcindex.path(line) not in listing.refused]
        lines = [*text.decode().splitlines(keepends=True), *kept]
        lines.sort(key=lambda line: line.split(";")[:4])
        publish_signed(directory / name, "".join(lines).encode() if kept else text, by, ".asc")
    for stale in directory.glob("index-*"):
        if stale.name.removesuffix(".asc") not in texts:
            files.unlink(stale)
    return counted(len(texts["index-system"].splitlines()), "product")


def prove(
    layout: Layout, settings: Settings, signer: Callable[[], Signer], allow_shrink: Callable[[], bool]
) -> str:
    """Read the new indexes as every client would.

    What can be laid to one image or product puts that into quarantine: the image is left out, the
    product stays as it is exposed, the indexes are written again, and proven again. Raises
    ProofError for the rest, and nothing is exposed then.
    """
    rules, lxc, held, lists = settings.rules, settings.lxc, NONE, settings.list
    pinned = _listing(layout).pinned  # what was shown before has no newcomers to blame
    # The indexes may be what an earlier quarantine left of them.
    if not pinned and (load(layout.quarantine, Quarantine) or NONE) != NONE:
        write_streams(layout, settings, signer)
        write_lxc(layout, rules, lxc, signer)
    here = [one.name for one in settings.upstream if one.is_mirrored]
    while faults := _faults(layout, held, () if pinned else lists, here):
        more = held.with_faults(faults)
        if pinned or more == held or any(not fault.product for fault in faults):
            lines = list(dict.fromkeys(map(str, faults)))
            rest = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
            said = ["clients could not read the new indexes; nothing is exposed:", *lines[:SHOWN], *rest]
            raise ProofError("\n  ".join(said))
        held = more
        if not allow_shrink():
            _refuse_shrink(layout, _spared(layout, held), settings.site.max_shrink)
        save(layout.quarantine, held)  # before it shows: a kill must not make it look like all there is
        write_streams(layout, settings, signer, held)
        write_lxc(layout, rules, lxc, signer, held)
    shown = tree.audiences(layout.public)
    there = {image.product.key for image in _listing(layout).images}
    if not pinned and not allow_shrink():
        _refuse_hiding(layout, there, shown, settings.site.max_shrink)
    save(layout.quarantine, held)
    count = len(held.products) + len(held.images)
    good = "the new indexes are good for Incus, LXD and LXC" + (f", {count} in quarantine" if count else "")
    unseen = sorted(key.replace(":", "/") for key in there.difference(*shown.values()))
    return good + (f"; nobody is shown {_named(unseen)}" if unseen else "")


def write_page(layout: Layout, settings: Settings) -> str:
    """The page of what the proven indexes list, or of the pinned snapshot, and the public key."""
    listing = _listing(layout)
    changed = tree.put_key(layout, settings.signing)
    before = files.read(layout.snapshots / listing.pinned / "public" / PAGE) if listing.pinned else None
    if before is None or listing.refused:
        changed |= tree.put_page(layout.public, settings)
    else:
        changed |= files.write_changed(layout.public / PAGE, before)
    return PAGE + ("" if changed else ", no byte changed")


def _spared(layout: Layout, held: Quarantine) -> set[str]:
    """The products that a quarantine leaves something of, or that were left out before it."""
    listed, exposed = _listing(layout).images, tree.listed_products(layout.latest)
    kept = {image.product.key for image in listed if image.path not in held.images}
    out = exposed - {image.product.key for image in listed}
    return kept | out | (held.products.keys() & exposed)


def _faults(layout: Layout, held: Quarantine, lists: Iterable[List], here: Collection[str]) -> list[Fault]:
    """Everything that any client would stumble over; a list that nobody knows of may be for each.

    ``here`` are the upstreams whose files have to be here.
    """
    public = layout.public
    sizes = tree.elsewhere(public, here) | files.sizes(public)
    incumbents = {
        key: str(product.get("aliases", "")).split(",")
        for key, product in tree.listed_streams(layout.latest).items()
        if isinstance(product, dict)
    }

    lxc = [str(path.relative_to(public)) for path in tree.lxc_indexes(public)]
    readers = dict.fromkeys(tree.lists(public), CLIENTS) | {one.name: (one.client,) for one in lists}
    found = prove_tree(lambda path: files.read(public / path), sizes.get, lxc, incumbents, readers)
    return [*found, *unsigned(layout, sizes.keys(), held, readers)]


def unsigned(
    layout: Layout, present: Container[str], held: Quarantine, lists: Collection[str] = ()
) -> list[Fault]:
    """Published files without their signature."""
    others = tree.overlays(layout.public)
    found = [
        Fault("", f"{path.relative_to(layout.public)} does not exist")
        for path in tree.stream_files(layout.public, lists, others)
        if not path.exists()
    ]
    both = [(STREAMS / of / name, STREAMS_TWIN / of / name) for of in ("", *lists) for name in BOTH]
    both += [(STREAMS / f"{name}.json", STREAMS_TWIN / f"{name}.json") for name in others]
    found += [
        Fault("", f"{twin} is not the same as {path}")
        for path, twin in both
        if files.read(layout.public / path) != files.read(layout.public / twin)
    ]
    tops = [(top / of, ".gpg") for of in ("", *lists) for top in (STREAMS, STREAMS_TWIN)]
    for top, suffix in (*tops, (LXC, ".asc")):
        for path in (layout.public / top).glob("*"):
            plain = path.suffix == ".json" if suffix == ".gpg" else path.suffix != ".asc"
            ours = path.name.startswith(files.TEMPORARY)
            if plain and not ours and not path.with_name(path.name + suffix).exists():
                found.append(Fault("", f"{top / path.name} has no signature"))
    for image in _listing(layout).images:
        where = image.path
        found += [
            Fault(image.product.key, f"{image.serial} {name} has no signature", image.serial)
            for name in image.files
            if f"{where}/{name}.asc" not in present and image.path not in held.images
        ]
    return found
