"""What a delta costs, beside the command of images.linuxcontainers.org, which decodes none.

    python tests/benchmarks/deltas.py --mib=200 [--runs=3]

The yardstick of the same minute on the same machine is ``xdelta3 -e -s OLD NEW DELTA``. Three pairs: a root of
which a twentieth is new; one whose parts moved far from where they were; one that has nothing in common with its base.
``ours`` hashes the base, encodes, decodes and compares. What counts is the ratio, in time and in size.
"""

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tasks.delta import deltas
from tasks.files import digest
from tasks.image import SQUASHFS, File, Image, Product, Source
from tasks.settings import Deltas

BASE = "20260101_00:00"


def pairs(mib: int) -> dict[str, tuple[bytes, bytes]]:
    """Compressed content, as a squashfs has it: noise."""
    chance = random.Random(0)
    old = chance.randbytes(mib << 20)
    step = max(1, len(old) // 400)
    pieces = [old[start : start + step] for start in range(0, len(old), step)]
    pieces = [chance.randbytes(len(one)) if chance.random() < 0.05 else one for one in pieces]
    half = len(old) // 2
    return {
        "a twentieth new": (old, b"".join(pieces)),
        "halves swapped": (old, old[half:] + old[:half]),
        "nothing in common": (old, chance.randbytes(len(old))),
    }


def reference(directory: Path, old: Path) -> int:
    delta = directory / "reference"
    subprocess.run(["xdelta3", "-f", "-e", "-s", old, directory / SQUASHFS, delta], check=True)
    return delta.stat().st_size


def ours(directory: Path, base: Image, old: Path, new: File) -> int:
    made, _ = deltas(directory, {SQUASHFS: new}, [(base, old.parent)], Deltas())
    return sum(file.size for file in made.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=200)
    parser.add_argument("--runs", type=int, default=3)
    told = parser.parse_args()
    for name, (old, new) in pairs(told.mib).items():
        with tempfile.TemporaryDirectory() as temporary:
            directory, at = Path(temporary, "new"), Path(temporary, "old", SQUASHFS)
            directory.mkdir()
            at.parent.mkdir()
            at.write_bytes(old)
            (directory / SQUASHFS).write_bytes(new)
            base = Image(
                product=Product.parse("tiny/1/amd64/default"),
                serial=BASE,
                files={SQUASHFS: File(len(old), digest(old))},
                fingerprints={},
                source=Source(job="", configuration="", number=1, timestamp=0, md5={}),
            )
            wanted = File(len(new), digest(new))
            taken: dict[str, list[float]] = {"xdelta3": [], "ours": []}
            sizes = {}
            for _ in range(told.runs):
                for who, seconds in taken.items():
                    began = time.perf_counter()
                    sizes[who] = (
                        reference(directory, at) if who == "xdelta3" else ours(directory, base, at, wanted)
                    )
                    seconds.append(time.perf_counter() - began)
        theirs, mine = (statistics.median(taken[who]) for who in ("xdelta3", "ours"))
        kept = f"{sizes['ours'] / len(new):.1%} of the root" if sizes["ours"] else "dropped"
        print(
            f"{name}: {mine:.2f} s, {mine / theirs:.2f} x xdelta3 alone ({theirs:.2f} s);"
            f" {kept} (xdelta3 alone {sizes['xdelta3'] / len(new):.1%})"
        )


if __name__ == "__main__":
    main()
