"""How long ``doit twin`` takes for a products file as large as Ubuntu's, beside ``python -m json.tool``.

    python tests/benchmarks/upstream.py --versions=1200

Both start Python, read the file and write it; json.tool makes a document of it, and looks for nothing.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import released  # noqa: E402 - it lies there

WAYS = {"doit twin": ["doit", "twin"], "json.tool": ["json.tool", "--indent=1"]}


def run(words: list[str], source: Path) -> tuple[float, int]:
    """Seconds, and the most memory in KiB of any child so far."""
    env = {name: value for name, value in os.environ.items() if name != "PUBLISH_CONFIG"}
    began = time.perf_counter()
    with source.open("rb") as given, source.with_suffix(".out").open("wb") as out:
        subprocess.run([sys.executable, "-m", *words], stdin=given, stdout=out, cwd=ROOT, env=env, check=True)
    return time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--versions", type=int, default=1200, help="of each of four products")
    parser.add_argument("--runs", type=int, default=3)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory, "products.json")
        data = released.text(released.products(["22.04", "24.04"], ["amd64", "arm64"], told.versions))
        source.write_bytes(data)
        lines = len(data.splitlines())
        print(f"{lines:,} lines, {len(data):,} bytes")
        taken = {name: [run(words, source) for _ in range(told.runs)] for name, words in WAYS.items()}
    yardstick = statistics.median(seconds for seconds, _ in taken["json.tool"])
    for name, every in taken.items():
        median = statistics.median(seconds for seconds, _ in every)
        memory = max(memory for _, memory in every)
        print(
            f"{name}: {median:.2f} s, {median / yardstick:.2f} x json.tool, at most {memory >> 10} MiB so far"
        )


if __name__ == "__main__":
    main()
