"""SIGKILL anywhere: nobody sees anything half-made, and one quiet run ends where an undisturbed one would."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from sites import CHECKOUT, Site, build, files, matrix

A, B, C = "tiny/1/amd64/default", "tiny/1/arm64/default", "tiny/2/amd64/default"
OPERATIONS = ("rename", "link", "unlink", "mkdir", "sync")
HITS = 4  # kills in each phase, evenly over its operations
SIGNATURES = (".asc", ".gpg", ".sjson")
# Where an operation happens tells which step of the pipeline was hit.
PHASES = {
    "image": r"/site/public/images|/state/ledger|/state/failures|/site/staging/tiny",
    "prune": r"/site/staging/\.tmp-gone|/state/\.?(tmp-)?lapsing",
    "collect": r"/state/\.?(tmp-)?(catalogue|quarantine)",
    "streams": r"/site/public/streams|/site/public/meta/simplestreams",
    "lxc_index": r"/site/public/meta",
    "snapshot": r"/snapshots|/\.?(tmp-)?latest|/\.?(tmp-)?site-id|$",
    "mirror": r"/state/mirrors",
    "poll": r"/state|/site/staging",
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, key) -> Iterator[Site]:
    """A published site with work to do: new builds, a delisted image that has lapsed, a mirror behind."""
    from jenkins import standin
    from jenkins.controller import Controller

    base = tmp_path_factory.mktemp("kill")
    with standin.serve(Controller(base / "jenkins")) as server:
        site = Site(base / "site", server, key)
        site.base.mkdir()
        site.lines = 'keep = 1\ngrace = "0s"\n'
        site.more = '[snapshot]\nkeep = 1\nkeep_for = "0s"\n[[mirror]]\nname = "near"\nurl = "mirror"\n'
        matrix(server.ci, A, B, C)
        build(server.ci, A, B)
        site.publish()
        build(server.ci, A)
        site.publish()
        build(server.ci, A, B, C, content={C: files(C, kinds=("container", "vm", "lxc"))})
        yield site


def copied(site: Site, where: Path) -> Site:
    shutil.copytree(site.base, where, symlinks=True, copy_function=os.link)
    for path in (where / "root/state").rglob("*"):  # SQLite writes in place
        if path.is_file():
            data = path.read_bytes()
            path.unlink()
            path.write_bytes(data)
    copy = Site(where, site.server, site.key, site.more, site.jenkins, site.lines)
    copy.configure()
    return copy


def content(tree: Path) -> dict[str, str]:
    """Every file but signatures, whose bytes carry their own time."""
    return {
        str(path.relative_to(tree)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in tree.rglob("*")
        if path.is_file() and path.suffix not in SIGNATURES
    }


def names(tree: Path) -> set[str]:
    return {str(path.relative_to(tree)) for path in tree.rglob("*")}


def run(site: Site, log: Path, operation: str, number: int) -> subprocess.CompletedProcess[str]:
    words = [
        sys.executable,
        str(CHECKOUT / "tests/killed.py"),
        str(log),
        str(site.root),
        operation,
        str(number),
    ]
    env = {**site.environment(), "PYTHONPATH": str(CHECKOUT)}
    return subprocess.run(
        [*words, "publish"], cwd=CHECKOUT, env=env, capture_output=True, text=True, timeout=120, check=False
    )


class Reader:
    """Reads a tree over and over as clients do, and keeps what it stumbled over."""

    def __init__(self, *trees: Path) -> None:
        self.faults: list[str] = []
        self.rounds = 0
        self._trees, self._stop, self._known = trees, threading.Event(), dict[tuple[int, int], str]()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _read(self) -> None:
        while not self._stop.is_set():
            for tree in self._trees:
                self.look(tree)
            self.rounds += 1

    def look(self, tree: Path) -> None:
        """Index first, then what it names; each by a path of its own, as requests come one by one."""
        try:
            index = json.loads((tree / "streams/v1/index.json").read_bytes())
            images = json.loads((tree / index["index"]["images"]["path"]).read_bytes())
            listed = (tree / "meta/1.0/index-system").read_text()
        except (OSError, ValueError) as error:
            self.faults.append(f"{tree.name}: {error!r}")
            return
        items = [
            item
            for p in images["products"].values()
            for v in p["versions"].values()
            for item in v["items"].values()
        ]
        wanted = {item["path"]: item["sha256"] for item in items}
        for line in listed.splitlines():
            directory = line.split(";")[5].strip("/")
            wanted |= {
                f"{directory}/{name}": "" for name in ("rootfs.tar.xz", "meta.tar.xz", "rootfs.tar.xz.asc")
            }
        for path, digest in wanted.items():
            try:
                seen = (tree / path).stat()
                found = (
                    self._known.get((seen.st_ino, seen.st_mtime_ns))
                    or hashlib.sha256((tree / path).read_bytes()).hexdigest()
                )
                self._known[seen.st_ino, seen.st_mtime_ns] = found
            except OSError:
                self.faults.append(f"{tree.name}: {path} is missing")
                continue
            if digest and found != digest:
                self.faults.append(f"{tree.name}: {path} is wrong")


def phase(line: str) -> str:
    path = line.split(" ", 1)[1].strip()
    return next(name for name, pattern in PHASES.items() if re.match(pattern, path))


def chosen(undisturbed: Site, where: Path) -> Iterator[tuple[str, str, int]]:
    """Operations to be killed at, for each phase evenly over what a run does there."""
    done: dict[str, list[tuple[str, int]]] = {name: [] for name in PHASES}
    for operation in OPERATIONS:
        log = where / f"{operation}.log"
        assert run(copied(undisturbed, where / f"count-{operation}"), log, operation, 0).returncode == 0
        for number, line in enumerate(log.read_text().splitlines(), start=1):
            done[phase(line)].append((operation, number))
    for name, moments in done.items():
        for moment in moments[:: max(1, len(moments) // HITS)][:HITS]:
            yield name, *moment


def test_a_kill_at_any_operation_leaves_nothing_half_made(undisturbed: Site, tmp_path: Path, request) -> None:
    model = copied(undisturbed, tmp_path / "model")
    model.publish()
    states = [content(model.root / "site/public")]
    model.publish()  # without grace, what this run delisted goes in the next
    states.append(content(model.root / "site/public"))
    hit: Counter[str] = Counter()
    moments = list(chosen(undisturbed, tmp_path))
    wanted = Counter(name for name, _, _ in moments)
    for expected, operation, number in moments:
        here, log = tmp_path / f"{operation}-{number}", tmp_path / f"{operation}-{number}.log"
        site = copied(undisturbed, here)
        with Reader(site.latest, site.mirror) as reader:
            killed = run(site, log, operation, number)
            quiet = site.publish()
        where = f"killed in {expected}: {log.read_text().splitlines()[-1]}\n{quiet.out}"
        assert killed.returncode == -9, f"{where}\n{killed.stdout}{killed.stderr}"
        assert not reader.faults, f"{where}\n{reader.faults[:5]}"
        assert reader.rounds
        assert content(site.root / "site/public") in states, where
        assert names(site.latest) == names(site.root / "site/public"), where
        assert content(site.latest) == content(site.root / "site/public"), where
        assert content(site.mirror) == content(site.latest), where
        assert not list(site.root.rglob(".tmp-*")), where
        hit[phase(log.read_text().splitlines()[-1])] += 1
        shutil.rmtree(here)
    request.config.get_terminal_writer().line(f"\nkills by phase: {dict(sorted(hit.items()))}")
    assert all(hit[name] >= min(3, count) for name, count in wanted.items()), (hit, wanted)
    assert wanted.keys() == PHASES.keys()
