"""What a snapshot costs: the first, one more after an image came, and to have one go; on each file system.

    python tests/benchmarks/snapshots.py [--files=50000] [--runs=3] [--backends=hardlink,btrfs,zfs]

The yardstick beside each is `cp -al` of the same tree on the file system of --work, where hard links are all there
is; btrfs and ZFS (zfs-fuse) are mounted from files, which takes root.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from volumes import VOLUMES

from tasks import frozen
from tasks.layout import Layout

PER_IMAGE = 8  # files


def plant(public: Path, number: int) -> None:
    """One image of small files."""
    product = f"os{number % 20}/r{number // 20 % 5}/amd64/v{number // 500}"
    directory = public / "images" / product / f"{number:08d}_00:00"
    directory.mkdir(parents=True)
    for name in range(PER_IMAGE):
        (directory / f"file{name}").write_bytes(b"x")


def timed(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def yardstick(public: Path, work: Path, runs: int) -> float:
    """Seconds of `cp -al`, the median."""
    found, copy = [], work / "copy"
    for _ in range(runs):
        found.append(timed(lambda: subprocess.run(["cp", "-al", public, copy], check=True)))
        shutil.rmtree(copy)
    return statistics.median(found)


def measure(kind: str, work: Path, images: int, runs: int, cp: float) -> float:
    """One file system, a line; returns the yardstick, which is taken where there are only hard links."""
    with VOLUMES[kind](work) as volume:
        layout = Layout(volume / "root")
        frozen.prepare(layout, "auto")
        layout.public.mkdir(parents=True, exist_ok=True)
        for number in range(images):
            plant(layout.public, number)
        backend = frozen.backend(layout, kind)
        first = timed(lambda: backend.freeze("20260101-0000.0"))
        more, gone = [], []
        for run in range(1, runs + 1):
            plant(layout.public, images + run)
            if run == 1:
                backend.freeze("20260101-0000.1")
                plant(layout.public, images)
            gone.append(timed(lambda: frozen.drop(layout, f"20260101-0000.{run - 1}")))  # noqa: B023 - at once
            more.append(timed(lambda: backend.freeze(f"20260101-0000.{run + 1}")))  # noqa: B023 - as above
        for name in [path.name for path in layout.snapshots.iterdir() if path.name[0] != "."]:
            frozen.drop(layout, name)
        if kind == "hardlink":
            cp = yardstick(layout.public, work, runs)
    said = [("first", first), ("one more", statistics.median(more)), ("gone", statistics.median(gone))]
    print(f"{kind:<9} " + "  ".join(f"{what} {took:.3f} s = {took / cp:.2f} x cp -al" for what, took in said))
    return cp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--backends", default="hardlink,btrfs,zfs")
    parser.add_argument("--work", type=Path)
    told = parser.parse_args()
    print(f"{told.files} files, {PER_IMAGE} in each image; medians of {told.runs}")
    cp = 0.0
    for kind in ["hardlink", *(one for one in told.backends.split(",") if one != "hardlink")]:
        with tempfile.TemporaryDirectory(dir=told.work) as work:
            cp = measure(kind, Path(work), told.files // PER_IMAGE, told.runs, cp)


if __name__ == "__main__":
    main()
