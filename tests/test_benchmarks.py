"""The benchmarks run; what they measure is for whoever runs them on a quiet machine."""

import os
import subprocess
import sys

import pytest
from sites import CHECKOUT
from tools import need

SMALL = {
    "deltas.py": ["--mib=1", "--runs=1"],
    "hashes.py": ["--products=2", "--images=1", "--size=1000", "--runs=1"],
    "many.py": ["--products=2", "--payload=1000", "--runs=1"],
    "mirrors.py": ["--files=80", "--mirrors=2", "--runs=1", "--bandwidth=100M"],
    "snapshots.py": ["--files=80", "--runs=2", "--backends=hardlink"],
    "tarball.py": ["--mib=1", "--members=20", "--runs=1"],
    "upstream.py": ["--versions=2", "--runs=1"],
}


def test_every_benchmark_is_run_here() -> None:
    assert {path.name for path in (CHECKOUT / "tests/benchmarks").glob("*.py")} == SMALL.keys()


@pytest.mark.parametrize("name", SMALL)
def test_it_runs_and_prints_ratios(name: str) -> None:
    need("xz", "xdelta3")
    argv = [sys.executable, str(CHECKOUT / "tests/benchmarks" / name), *SMALL[name]]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " x " in done.stdout
