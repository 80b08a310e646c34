"""How long a run takes with many products: nothing new, one new build, the first run.

    python tests/benchmarks/many.py --products=500 [--latency=0.02]

Beside each figure stands a yardstick of the same minute on the same machine: an interpreter that asks the same
Jenkins the same number of requests and does nothing else. What counts is the ratio.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from sites import Key, Site, build, files, matrix

from jenkins import standin
from jenkins.api import jobs_tree
from jenkins.controller import Controller
from tasks import demo

ASK = """
import sys, requests
requests.get(sys.argv[1] + "/api/json", params={"tree": sys.argv[2]}).json()
"""


def timed(action, runs: int) -> tuple[float, object]:
    taken = []
    for _ in range(runs):
        began = time.perf_counter()
        result = action()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--products", type=int, default=500)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds per request")
    parser.add_argument("--payload", type=int, default=200_000, help="bytes in each root file system")
    parser.add_argument("--runs", type=int, default=5)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        demo.make_key(base / "key")
        key = Key(base / "key/publisher.asc", base / "key/publisher.pub.asc")
        ci = Controller(base / "jenkins")
        names = [f"os{n % 20}/r{n // 20}/amd64/default" for n in range(told.products)]
        payload = bytes(range(256)) * (told.payload // 256)
        with ci.bulk():
            matrix(ci, *names)
            for os_ in range(20):
                mine = [name for name in names if name.startswith(f"os{os_}/")]
                kinds = ("container", "vm", "lxc")
                if mine:
                    build(ci, *mine, content={p: files(p, kinds=kinds, payload=payload) for p in mine})
        with standin.serve(ci, latency=told.latency) as server:
            site = Site(base, server, key)
            began = time.perf_counter()
            site.publish()
            print(f"first run, {told.products} products: {time.perf_counter() - began:.2f} s")
            arguments = [sys.executable, "-c", ASK, server.url, jobs_tree(older=False, unstable=False)]
            floor, _ = timed(lambda: subprocess.run(arguments, check=True), told.runs)
            idle, result = timed(site.publish, told.runs)
            assert "nothing changed" in result.out
            print(f"nothing new: {idle:.3f} s, {idle / floor:.2f} x asking alone ({floor:.3f} s)")
            taken = []
            for turn in range(told.runs):
                build(ci, names[turn])
                began = time.perf_counter()
                site.publish()
                taken.append(time.perf_counter() - began)
            one = statistics.median(taken)
            print(f"one new image: {one:.3f} s, {one / floor:.2f} x asking alone")


if __name__ == "__main__":
    main()
