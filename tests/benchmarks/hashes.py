"""How long it takes to read a whole tree: ``doit rebuild``, which hashes it, and ``doit verify``.

    python tests/benchmarks/hashes.py [--products=1000] [--images=3] [--size=1048576] [--runs=3]

Beside each figure stand yardsticks of the same minute over the same files: a loop on two threads that computes the
sha256 of every file and the combined one of every root, and the same with the sha512 that each signature is over.
"""

import argparse
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from sites import Key

from tasks import demo, files, indexes, snapshot
from tasks.decisions import Decisions
from tasks.image import INCUS, SOURCE, SQUASHFS, SUMS, File, Image, Product, Source, sums
from tasks.layout import Layout
from tasks.settings import Lxc, Settings, Signing
from tasks.settings import Site as Places
from tasks.sign import Sequoia, sign_directory
from tasks.state import encode
from tasks.threads import together

CHECKOUT = Path(__file__).parents[2]
THREADS = 2


def plant(layout: Layout, by: Sequoia, product: Product, serial: str, size: int) -> None:
    """One image with two files, as a publication leaves it."""
    metadata, root = f"{product.name} {serial}".encode() * 20, os.urandom(size)
    image = Image(
        product=product,
        serial=serial,
        files={n: File(len(d), files.digest(d)) for n, d in ((INCUS, metadata), (SQUASHFS, root))},
        fingerprints={INCUS: {SQUASHFS: files.digest(metadata + root)}},
        source=Source(job="image", configuration=product.key, number=1, timestamp=1, md5={}),
    )
    directory = layout.image(image)
    directory.mkdir(parents=True)
    source = encode(image)
    named = {**image.files, SOURCE: File(len(source), files.digest(source))}
    for name, data in ((INCUS, metadata), (SQUASHFS, root), (SOURCE, source), (SUMS, sums(named).encode())):
        (directory / name).write_bytes(data)
    sign_directory(directory, by)


def floor(paths: list[Path], *, signed: bool) -> None:
    """Nothing but the hashes, each file read once."""

    def one(path: Path) -> None:
        hashes = [hashlib.sha256()]
        if path.name == SQUASHFS:
            hashes.append(hashlib.sha256(path.with_name(INCUS).read_bytes()))
        if signed:
            hashes.append(hashlib.sha512())
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(1 << 20):
                for digest in hashes:
                    digest.update(chunk)

    together(one, paths, THREADS)


def timed(action) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--products", type=int, default=1000)
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--size", type=int, default=1 << 20, help="bytes of each root")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--directory", help="where the tree is made; it must have the room")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=told.directory) as directory:
        base = Path(directory)
        demo.make_key(base / "key")
        key = Key(base / "key/publisher.asc", base / "key/publisher.pub.asc")
        layout, by = Layout(base / "root"), Sequoia(key.secret, "")
        settings = Settings(site=Places(root=layout.root), signing=Signing(key=str(key.secret)))
        (base / "publish.toml").write_text(f'[site]\nroot = "root"\n[signing]\nkey = "{key.secret}"\n')
        for number in range(told.products):
            product = Product(f"os{number % 20}", f"r{number // 20}", "amd64", "default")
            for day in range(told.images):
                plant(layout, by, product, f"202601{day + 1:02}_00:00", told.size)
        environment = {
            **os.environ,
            "PUBLISH_CONFIG": str(base / "publish.toml"),
            "PYTHONPATH": str(CHECKOUT),
        }

        def doit(command: str) -> None:
            argv = [sys.executable, "-m", "doit", command]
            subprocess.run(argv, cwd=CHECKOUT, env=environment, check=True, stdout=subprocess.DEVNULL)

        doit("rebuild")
        indexes.collect(layout, settings, Decisions(), allow_shrink=True)
        indexes.write_streams(layout, settings, lambda: by)
        indexes.write_lxc(layout, (), Lxc(), lambda: by)
        indexes.write_page(layout, settings)
        snapshot.snapshot(layout, datetime.now(UTC))
        paths = [p for p in (layout.public / "images").rglob("*") if p.is_file() and p.suffix != ".asc"]
        taken: dict[str, list[float]] = {name: [] for name in ("floor", "signed", "rebuild", "verify")}
        for _ in range(told.runs):  # in turns, so that a busy minute meets all of them
            taken["floor"].append(timed(lambda: floor(paths, signed=False)))
            taken["signed"].append(timed(lambda: floor(paths, signed=True)))
            shutil.rmtree(layout.state / "ledger")
            taken["rebuild"].append(timed(lambda: doit("rebuild")))
            taken["verify"].append(timed(lambda: doit("verify")))
        best = {name: statistics.median(times) for name, times in taken.items()}
        print(f"{told.products} x {told.images} images of {told.size:,} bytes, {len(paths)} files")
        print(f"hashing alone: {best['floor']:.2f} s; with what signatures are over: {best['signed']:.2f} s")
        print(f"rebuild: {best['rebuild']:.2f} s, {best['rebuild'] / best['floor']:.2f} x hashing alone")
        print(
            f"verify: {best['verify']:.2f} s, {best['verify'] / best['floor']:.2f} x hashing alone,"
            f" {best['verify'] / best['signed']:.2f} x with what signatures are over"
        )


if __name__ == "__main__":
    main()
