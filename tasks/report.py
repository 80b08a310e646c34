"""What a run ends with: what is exposed, what is held and why, what failed (acts: reads the state)."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from fnmatch import fnmatchcase

import msgspec

from tasks import state, tree
from tasks.decisions import Decisions
from tasks.image import Image, Product, serial_time
from tasks.layout import Layout
from tasks.ledgers import exposed
from tasks.mirrored import record
from tasks.settings import Settings
from tasks.state import (
    Document,
    Failure,
    Followed,
    Held,
    Ledger,
    Offers,
    Quarantine,
    latest_name,
    load,
    load_all,
)
from tasks.words import counted, lasting

SHOWN = 20  # lines of one sort before the rest is only counted
WRONG = 5  # files of one upstream, likewise


def faults(layout: Layout, settings: Settings) -> list[str]:
    """Everything that makes ``publish`` end with 1, a line each."""
    offers = load(layout.offers, Offers) or Offers()
    found = [f"Jenkins: {offers.failed}"] if offers.failed else []
    found += [f"{name}: {why}" for name, why in sorted(offers.troubled.items())]
    for failure in load_all(layout.state / "failures", Failure):
        verdict = "rejected" if failure.rejected else "failed"
        found.append(f"{failure.product.name}: {failure.build} {verdict}: {failure.reason}")
    found += [f"{name}: in quarantine: {why}" for name, why in apart(layout).items()]
    for upstream in settings.upstream:
        followed = load(layout.followed(upstream.name), Followed)
        if followed and followed.failed:
            found.append(f"upstream {upstream.name}: {followed.failed}")
        held = load(layout.held(upstream.name), Held) if upstream.is_mirrored else None
        why = list(held.failed.values()) if held else []
        found += [f"upstream {upstream.name}: {one}" for one in why[:WRONG]]
        if len(why) > WRONG:
            found.append(f"upstream {upstream.name}: and {counted(len(why) - WRONG, 'more file')}")
    for mirror in settings.mirror:
        if (known := record(layout, mirror)).failed:
            found.append(f"mirror {mirror.name}: {known.failed.removeprefix(f'mirror {mirror.name}: ')}")
    return found


def apart(layout: Layout) -> dict[str, str]:
    """Products and images in quarantine by their names, and why."""
    kept = load(layout.quarantine, Quarantine) or Quarantine()
    found = {key.replace(":", "/"): why for key, why in kept.products.items()}
    found |= {path.removeprefix("images/"): why for path, why in kept.images.items()}
    return dict(sorted(found.items()))


def fate(layout: Layout, job: str, build: int, result: str) -> list[str]:
    """What became of the hook's build: published, or why not."""
    job, configuration = job.rpartition("/")[::2] if "=" in job else (job, "")
    published = [
        f"{image.product.name} {image.serial}"
        for ledger in load_all(layout.state / "ledger", Ledger)
        for image in ledger.images
        if (image.source.job, image.source.number) == (job, build)
        and configuration in ("", image.source.configuration)
        and (layout.latest / image.path).exists()  # a proof or a signature may have failed since
    ]
    if published:
        return [f"{job} #{build}: published as {', '.join(published)}"]
    if result not in ("SUCCESS", "UNSTABLE"):
        return [f"{job} #{build}: not published, for it ended {result}"]
    return [f"{job} #{build}: not published; see what is held or failed below"]


def published(images: Collection[Image]) -> list[str]:
    """What this run added."""
    lines = [f"{image.product.name} {image.serial} ({', '.join(sorted(image.kinds))})" for image in images]
    return _some("published", lines)


def summary(layout: Layout, settings: Settings, word: Decisions, *, nothing_done: bool) -> list[str]:
    """The last lines of ``publish``."""
    offers = load(layout.offers, Offers) or Offers()
    kept = load(layout.quarantine, Quarantine) or Quarantine()
    name = latest_name(layout)
    lines = word.lines()
    lines += _some("held", (f"{product}: {why}" for product, why in sorted(offers.held.items())))
    followed = {
        one.name: load(layout.followed(one.name), Followed) or Followed() for one in settings.upstream
    }
    left_out = [f"upstream {of}: {note}" for of, known in followed.items() for note in known.notes]
    lines += _some("note", [*offers.notes, *left_out])
    lines += _some("failed", faults(layout, settings))
    if nothing_done:
        lines.append("nothing changed")
    if name:
        count = len(kept.products) + len(kept.images)
        apart = f" (and {count} in quarantine)" if count else ""
        paths = tree.listed_paths(layout.latest)  # a proof or a signature may have failed since collect
        products = {path.rpartition("/")[0] for path in paths}
        others = [f" {counted(many, 'product')} of {of}," for of, many in tree.others(layout.latest).items()]
        lines.append(
            f"exposed: {counted(len(products), 'product')}, {counted(len(paths), 'image')}{apart},"
            f"{''.join(others)} in {layout.latest} -> {name}"
        )
    else:
        lines.append("exposed: nothing yet")
    return lines


def _some(label: str, lines: Iterable[str]) -> list[str]:
    every = [f"{label}: {line}" for line in lines]
    more = [f"{label}: and {len(every) - SHOWN} more"] if len(every) > SHOWN else []
    return every[:SHOWN] + more


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How one product stands."""

    product: str
    serial: str = ""  # of its newest image, "" when there is none
    age_hours: int | None = None
    kinds: tuple[str, ...] = ()
    build: str = ""  # that the newest image came from
    images: int = 0  # listed
    held: str = ""  # why not a newer build
    failed: str = ""  # why the wished build is not published


def status(layout: Layout, word: Decisions, now: datetime) -> list[Status]:
    """Every product that is known, in order of its name."""
    offers = load(layout.offers, Offers) or Offers()
    failures = {one.product.name: one for one in load_all(layout.state / "failures", Failure)}
    listed: dict[str, list[Image]] = {}
    for image in exposed(layout):
        listed.setdefault(image.product.name, []).append(image)
    held = apart(layout)
    names = {*listed, *failures, *offers.held, *offers.troubled, *offers.waiting}
    names |= {path.stem.replace(":", "/") for path in state.listing(layout.state / "ledger")}
    names |= {one.product.name for one in word.hold if not one.released}
    names |= {one.product.name for one in word.retire if not one.released}
    return [
        _status(name, listed.get(name, []), _why(name, failures.get(name), offers, word, held), now)
        for name in sorted(names)
    ]


def chosen(rows: Sequence[Status], globs: Collection[str]) -> list[Status]:
    """Those that a glob matches; without globs all."""
    return [row for row in rows if not globs or any(fnmatchcase(row.product, glob) for glob in globs)]


def unmatched(rows: Sequence[Status], globs: Iterable[str]) -> list[str]:
    """A line for each glob that matches none of all rows."""
    return [
        f"no product matches {glob!r}; doit status shows all {len(rows)}"
        for glob in globs
        if not chosen(rows, [glob])
    ]


def _why(
    name: str, failure: Failure | None, offers: Offers, word: Decisions, apart: Mapping[str, str]
) -> tuple[str, str]:
    """Why not a newer build, and what failed."""
    failures = [f"{failure.build}: {failure.reason}" if failure else offers.troubled.get(name, "")]
    mine = (why for whose, why in apart.items() if f"{whose}/".startswith(f"{name}/"))
    failures += [f"in quarantine: {why}" for why in mine]
    failed = "; ".join(filter(None, failures))
    held = "never built" if name in offers.waiting else offers.held.get(name, "")
    if name.count("/") == 3:  # noqa: PLR2004 - a product, not a job that could not be asked
        held = word.keeping(Product.parse(name)) or held
    return held, failed


def _status(name: str, images: list[Image], why: tuple[str, str], now: datetime) -> Status:
    held, failed = why
    if not images:
        return Status(product=name, held=held, failed=failed)
    newest = images[-1]
    return Status(
        product=name,
        serial=newest.serial,
        age_hours=int((now - serial_time(newest.serial)).total_seconds() // 3600),
        kinds=tuple(sorted(newest.kinds)),
        build=newest.source.text
        if newest.source.imported
        else f"{newest.source.job} #{newest.source.number}",
        images=len(images),
        held=held,
        failed=failed,
    )


class Beside(msgspec.Struct, frozen=True, kw_only=True):
    """How an upstream stands."""

    upstream: str
    url: str
    products: int  # exposed
    files: int | None = None  # that lie here, of a mirrored one
    missing: int = 0  # files that did not come
    documents: tuple[Document, ...] = ()  # where these come from
    failed: str = ""  # why there is nothing newer


def upstreams(layout: Layout, settings: Settings) -> list[Beside]:
    """Every upstream of the configuration."""
    exposed, rows = tree.others(layout.latest), []
    for one in settings.upstream:
        known = load(layout.followed(one.name), Followed) or Followed()
        documents = tuple(document for _, document in sorted(known.documents.items()))
        held = (load(layout.held(one.name), Held) or Held()) if one.is_mirrored else None
        rows.append(
            Beside(
                upstream=one.name,
                url=one.url,
                products=exposed.get(one.name, 0),
                files=len(held.files) if held else None,
                missing=len(held.failed) if held else 0,
                documents=documents,
                failed=known.failed,
            )
        )
    return rows


def provenance(rows: Iterable[Beside]) -> list[str]:
    """Upstreams for people: what is exposed of each, and by which signed documents."""
    lines = []
    for row in rows:
        here = "" if row.files is None else f", {counted(row.files, 'file')} here"
        lines.append(f"upstream {row.upstream}: {counted(row.products, 'product')} of {row.url}{here}")
        lines += [
            f"    {one.url}" + (f" of {one.updated}" if one.updated else "") + f", signed by {one.key}"
            for one in row.documents
        ]
        lines += [f"    failed: {row.failed}"] if row.failed else []
        lines += [f"    failed: {counted(row.missing, 'file')} did not come"] if row.missing else []
    return lines


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How a mirror stands."""

    mirror: str
    url: str
    snapshot: str  # "" before the first push
    latest: bool
    lag: (
        int | None
    )  # seconds after its publication in which the mirror was seen to show it, None for not seen
    failed: str  # why it has not the newest, or more than that
    since: int  # seconds since the epoch, of the first failure in a row; 0 for none


def mirrors(layout: Layout, settings: Settings) -> list[Standing]:
    """Every mirror of the configuration, as of its last push."""
    newest, rows = latest_name(layout), []
    for one in settings.mirror:
        known = record(layout, one)
        rows.append(
            Standing(
                mirror=one.name,
                url=one.url,
                snapshot=known.snapshot,
                latest=known.snapshot == newest,
                lag=known.lag,
                failed=known.failed,
                since=known.since,
            )
        )
    return rows


def standing(rows: Iterable[Standing], now: datetime) -> list[str]:
    """Mirrors for people: what each has, and how soon it had it."""
    lines = []
    for row in rows:
        lag = "" if row.lag is None else f", {lasting(row.lag)} after it was published"
        has = f"{row.snapshot}{lag}" if row.snapshot else "nothing yet"
        lines.append(f"mirror {row.mirror}: {has}, at {row.url}" + ("" if row.latest else "; behind"))
        since = f" (for {lasting(max(0, int(now.timestamp()) - row.since))})" if row.since else ""
        lines += [f"    failed: {row.failed}{since}"] if row.failed else []
    return lines


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot shows."""

    name: str
    products: int
    images: int
    latest: bool
    pinned: bool
    kept: str  # why it stays, "" when it goes in time
    remotes: tuple[str, ...]  # what it is called below at/


def snapshots(layout: Layout, word: Decisions) -> list[Snapshot]:
    """Every snapshot, newest first."""
    latest, pin, rows = latest_name(layout), word.pinned(), []
    kept, dated = word.kept(), word.dated(state.snapshots(layout))
    for name in reversed(state.snapshots(layout)):
        paths = tree.listed_paths(layout.snapshots / name / "public")
        rows.append(
            Snapshot(
                name=name,
                products=len({path.rpartition("/")[0] for path in paths}),
                images=len(paths),
                latest=name == latest,
                pinned=pin is not None and name == pin.snapshot,
                kept=kept[name].said if name in kept else "",
                remotes=tuple(sorted(one for one, of in dated.items() if of == name != one)),
            )
        )
    return rows


def listing(rows: Sequence[Snapshot]) -> list[str]:
    """Snapshots for people."""
    return [
        f"{row.name}  {counted(row.products, 'product')}, {counted(row.images, 'image')}"
        + ", latest" * row.latest
        + ", pinned" * row.pinned
        + f", kept {row.kept}" * bool(row.kept)
        + "".join(f", at/{one}/" for one in row.remotes)
        for row in rows
    ] or ["there is no snapshot yet"]


def table(rows: Sequence[Status]) -> list[str]:
    """Statuses for people: aligned columns, then what is wrong, indented."""
    cells = [
        (
            one.product,
            one.serial or "-",
            "-" if one.age_hours is None else _age(one.age_hours),
            ", ".join(one.kinds) or "-",
            one.build or "-",
        )
        for one in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row, one in zip(cells, rows, strict=True):
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        lines += [f"    {what}: {why}" for what, why in (("held", one.held), ("failed", one.failed)) if why]
    return lines


def _age(hours: int) -> str:
    return f"{hours} h" if hours < 48 else f"{hours // 24} d"  # noqa: PLR2004 - two days
