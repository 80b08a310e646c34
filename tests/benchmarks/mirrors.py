"""What a push costs: the first, one with nothing to bring, one more image; to one mirror, and to several at once.

    python tests/benchmarks/mirrors.py [--files=50000] [--mirrors=4] [--runs=3] [--bandwidth=4M]

The yardstick beside each is one `rsync -a --delete` of the same trees. Mirrors are rsync daemons on this machine;
where several are pushed to, each has a line of its own of --bandwidth, as mirrors far away have.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import servers
from snapshots import PER_IMAGE, plant

from tasks import frozen
from tasks.fleet import Fleet
from tasks.layout import SITE_ID, TRACE, Layout
from tasks.mirrored import Terms
from tasks.settings import Mirror, Span
from tasks.trace import Trace

LARGE = 8 << 20  # bytes of the one file that is worth a line's time


def timed(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def show(layout: Layout, number: int) -> None:
    """Freeze the tree as it stands."""
    name = f"20260101-0000.{number}"
    (layout.public / "streams/v1").mkdir(parents=True, exist_ok=True)
    (layout.public / "streams/v1/images.json").write_text(f'{{"products": {{}}, "number": {number}}}\n')
    (layout.public / SITE_ID).write_text("benchmark\n")
    (layout.public / TRACE).write_text(Trace("benchmark", name, "2026-01-01T00:00:00Z").text())
    frozen.backend(layout, "hardlink").freeze(name)
    layout.latest.unlink(missing_ok=True)
    layout.latest.symlink_to(f"snapshots/{name}/public")


def push(layout: Layout, mirrors: list[Mirror], *, apart: bool = False) -> None:
    """To all at once, or to one after the other."""
    terms = Terms(layout, Span(0), frozenset(), (), partial(datetime.now, UTC))
    fleet = Fleet(mirrors)
    for one in mirrors:
        if apart or one is mirrors[0]:
            wanted = {one.name} if apart else {other.name for other in mirrors}
            said = fleet.push(one, terms, wanted, "")
            assert " is at " in said, said


def compared(layout: Layout, base: str, other: Path, runs: int, images: int) -> None:
    """One mirror against plain rsync."""
    mirror = Mirror(name="one", url=f"{base}/m0/")
    plain = ["rsync", "-a", "--delete", "--", f"{layout.latest.resolve()}/", f"{base}/plain/"]
    ours, yard = [timed(lambda: push(layout, [mirror]))], [timed(lambda: subprocess.run(plain, check=True))]
    print(f"first push      {ours[0]:.2f} s = {ours[0] / yard[0]:.2f} x rsync -a")
    for what in ("nothing new", "one more image"):
        ours, yard = [], []
        for run in range(runs):
            if what != "nothing new":
                plant(layout.public, images + run)
                show(layout, run + 1)
            else:
                (layout.state / "mirrors/one.json").unlink()
            plain[-2] = f"{layout.latest.resolve()}/"
            ours.append(timed(lambda: push(layout, [mirror])))
            yard.append(timed(lambda: subprocess.run(plain, check=True)))
        took, one = statistics.median(ours), statistics.median(yard)
        print(f"{what:<15} {took:.2f} s = {took / one:.2f} x rsync -a")
    shutil.rmtree(other)


def together(layout: Layout, base: str, count: int, bandwidth: str) -> None:
    """One large file more, to several mirrors."""
    mirrors = [Mirror(name=f"m{n}", url=f"{base}/m{n}/", bandwidth=bandwidth) for n in range(1, count + 1)]
    push(layout, [Mirror(name=one.name, url=one.url) for one in mirrors])
    took = {}
    for number, apart in enumerate((True, False), start=100):
        plant(layout.public, 1_000_000 + number)
        large = next(layout.public.glob(f"images/*/*/*/*/{1_000_000 + number:08d}_00:00")) / "large"
        large.write_bytes(bytes(LARGE))
        show(layout, number)
        took[apart] = timed(lambda: push(layout, mirrors, apart=apart))  # noqa: B023 - at once
    print(
        f"{count} mirrors, {LARGE >> 20} MiB more: {took[False]:.2f} s"
        f" = {took[False] / took[True]:.2f} x one after the other"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--mirrors", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--bandwidth", default="4M")
    told = parser.parse_args()
    print(f"{told.files} files, {PER_IMAGE} in each image; medians of {told.runs}")
    with tempfile.TemporaryDirectory() as work, ExitStack() as stack:
        layout, places = Layout(Path(work, "root")), ["plain", *(f"m{n}" for n in range(told.mirrors + 1))]
        frozen.prepare(layout, "hardlink")
        layout.public.mkdir(parents=True, exist_ok=True)
        for number in range(told.files // PER_IMAGE):
            plant(layout.public, number)
        show(layout, 0)
        for place in places:
            Path(work, place).mkdir()
        modules = {place: Path(work, place) for place in places}
        base = stack.enter_context(servers.rsyncd(modules, Path(work)))
        compared(layout, base, Path(work, "plain"), told.runs, told.files // PER_IMAGE)
        together(layout, base, told.mirrors, told.bandwidth)


if __name__ == "__main__":
    main()
