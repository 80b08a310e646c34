"""What a run ends with: what is exposed, what is held and why, what failed (acts: reads the state)."""

from collections.abc import Collection, Iterable

from tasks.catalogue import Catalogue
from tasks.image import Image
from tasks.layout import Layout
from tasks.settings import Settings
from tasks.state import Failure, Ledger, Mirrored, Offers, Quarantine, latest_name, load, load_all

SHOWN = 20  # lines of one sort before the rest is only counted


def faults(layout: Layout, settings: Settings) -> list[str]:
    """Everything that makes ``publish`` end with 1, a line each."""
    offers = load(layout.offers, Offers) or Offers()
    found = [f"Jenkins: {offers.failed}"] if offers.failed else []
    found += [f"{name}: {why}" for name, why in sorted(offers.troubled.items())]
    for failure in load_all(layout.state / "failures", Failure):
        verdict = "rejected" if failure.rejected else "failed"
        found.append(f"{failure.product.name}: {failure.build} {verdict}: {failure.reason}")
    kept = load(layout.quarantine, Quarantine) or Quarantine()
    apart = {key.replace(":", "/"): why for key, why in kept.products.items()}
    apart |= {path.removeprefix("images/"): why for path, why in kept.images.items()}
    found += [f"{name}: in quarantine: {why}" for name, why in sorted(apart.items())]
    for mirror in settings.mirror:
        known = load(layout.mirrored(mirror.name), Mirrored)
        if known and known.failed:
            found.append(f"mirror {mirror.name}: {known.failed}")
    return found


def fate(layout: Layout, job: str, build: int, result: str) -> list[str]:
    """What became of the hook's build: published, or why not."""
    job = job if "=" not in job else job.rpartition("/")[0]
    published = [
        f"{image.product.name} {image.serial}"
        for ledger in load_all(layout.state / "ledger", Ledger)
        for image in ledger.images
        if (image.source.job, image.source.number) == (job, build)
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


def summary(layout: Layout, settings: Settings, *, nothing_done: bool) -> list[str]:
    """The last lines of ``publish``."""
    offers = load(layout.offers, Offers) or Offers()
    kept = load(layout.quarantine, Quarantine) or Quarantine()
    listed = (load(layout.catalogue, Catalogue) or Catalogue(())).images
    images = [one for one in listed if one.path not in kept.images and one.product.key not in kept.products]
    products = {image.product for image in images}
    name = latest_name(layout)
    lines = _some("held", (f"{product}: {why}" for product, why in sorted(offers.held.items())))
    lines += _some("note", offers.notes)
    lines += _some("failed", faults(layout, settings))
    if nothing_done:
        lines.append("nothing changed")
    if name:
        count = len(kept.products) + len(kept.images)
        apart = f" (and {count} in quarantine)" if count else ""
        lines.append(
            f"exposed: {len(products)} products, {len(images)} images{apart}, in {layout.latest} -> {name}"
        )
    else:
        lines.append("exposed: nothing yet")
    return lines


def _some(label: str, lines: Iterable[str]) -> list[str]:
    every = [f"{label}: {line}" for line in lines]
    more = [f"{label}: and {len(every) - SHOWN} more"] if len(every) > SHOWN else []
    return every[:SHOWN] + more
