"""How long the check of a root's tarball takes, beside what else could read it.

    python tests/benchmarks/tarball.py --mib=400 --members=50000 [--noise=0.3]

Beside each figure stands a yardstick of the same minute on the same machine: ``xz -t`` on one thread, which unpacks
and looks at nothing. What counts is the ratio. ``tarfile`` is what the check would cost with Python's own reader.
"""

import argparse
import io
import lzma
import random
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tasks.archive import CHUNK
from tasks.check import check_root
from tasks.image import ROOT_TAR
from tasks.threads import together


def make(path: Path, mib: int, members: int, noise: float) -> None:
    """A root of words and noise, its files of sizes as in a system: many small, few large."""
    chance = random.Random(0)
    words = [chance.randbytes(chance.randint(2, 5)).hex().encode() for _ in range(3000)]
    text = b" ".join(chance.choices(words, k=1 << 20))
    shares = [chance.lognormvariate(0, 1.6) for _ in range(members)]
    each = (mib << 20) / sum(shares)
    packer = subprocess.Popen(["xz", "-1", "-T0"], stdin=subprocess.PIPE, stdout=path.open("wb"))
    with packer, tarfile.open(fileobj=packer.stdin, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for number, share in enumerate(shares):
            info = tarfile.TarInfo(f"usr/share/{number % 500}/file-{number}")
            info.size = int(share * each)
            info.mtime = number + 0.5 * (number % 2)  # every other one with a pax header
            random_ = chance.randbytes(int(info.size * noise))
            start = chance.randrange(len(text) // 2)
            rest = info.size - len(random_)
            written = text[start : start + rest]
            tar.addfile(info, io.BytesIO(random_ + written * (rest // max(len(written), 1) + 1)))


def unpack(path: Path) -> None:
    with lzma.open(path) as file:
        while file.read(CHUNK):
            pass


def list_members(path: Path) -> None:
    with lzma.open(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for _ in tar:
            tar.members = []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=400, help="unpacked")
    parser.add_argument("--members", type=int, default=50_000)
    parser.add_argument("--noise", type=float, default=0.3, help="the share of bytes that cannot be packed")
    parser.add_argument("--runs", type=int, default=3)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, ROOT_TAR)
        make(path, told.mib, told.members, told.noise)
        print(f"{told.mib} MiB in {told.members} files, packed {path.stat().st_size >> 20} MiB")
        ways = {
            "xz -t": lambda: subprocess.run(["xz", "-t", "-T1", path], check=True),
            "lzma alone": lambda: unpack(path),
            "tarfile": lambda: list_members(path),
            "check": lambda: check_root(path),
            "two checks at once": lambda: together(check_root, [path, path], 2),
        }
        taken = {name: [] for name in ways}
        for _ in range(told.runs):
            for name, way in ways.items():
                began = time.perf_counter()
                way()
                taken[name].append(time.perf_counter() - began)
        yardstick = statistics.median(taken["xz -t"])
        for name, seconds in taken.items():
            median = statistics.median(seconds)
            print(f"{name}: {median:.2f} s, {median / yardstick:.2f} x xz -t")


if __name__ == "__main__":
    main()
