"""SIGKILL anywhere: nobody sees anything half-made, and one quiet run ends where an undisturbed one would."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from readers import Reader, named
from sites import CHECKOUT, Site, build, files, matrix, wait_for

from jenkins import standin
from jenkins.controller import Controller
from tasks.layout import TRACE

A, B, C = "tiny/1/amd64/default", "tiny/1/arm64/default", "tiny/2/amd64/default"
OPERATIONS = ("rename", "link", "unlink", "mkdir", "sync")
LEAST = 3  # kills in every phase
HITS = 4  # kills in each phase, evenly over its operations
SIGNATURES = (".asc", ".gpg", ".sjson")
# Where an operation happens tells which step of the pipeline was hit.
PHASES = {
    "image": r"/site/public/images|/state/ledger|/state/failures|/site/staging/tiny",
    "prune": r"/site/staging/\.tmp-gone|/state/\.?(tmp-)?lapsing",
    "collect": r"/state/\.?(tmp-)?(catalogue|quarantine)",
    "streams": r"/site/public/streams|/site/public/meta/simplestreams",
    "lxc_index": r"/site/public/meta",
    "page": r"/site/public(/(\.tmp-)?(index\.html|key\.asc)|/protocols|$)",
    "indexes of a snapshot": r"/snapshots/.*/(streams|meta)/",
    "snapshot": r"/snapshots|/at(/|$)|/\.?(tmp-)?latest|/\.?(tmp-)?site-id|/site/public/(\.tmp-)?trace|$",
    "mirror": r"/state/mirrors",
    "poll": r"/state|/site/staging|/\.?(tmp-)?decisions",
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, key) -> Iterator[Site]:
    """A published site with work to do: new builds, a delisted image that has lapsed, a mirror behind.

    One of its lists has another name by now, so the old one has to go.
    """
    base = tmp_path_factory.mktemp("kill")
    with standin.serve(Controller(base / "jenkins")) as server:
        site = Site(base / "site", server, key)
        site.base.mkdir()
        site.lines = 'keep = 2\ngrace = "0s"\n'
        site.more = '[snapshot]\nkeep = 1\nkeep_for = "0s"\n[[mirror]]\nname = "near"\nurl = "mirror"\n'
        site.more += '[[list]]\nname = "old"\nclient = "lxd"\n'
        matrix(server.ci, A, B, C)
        build(server.ci, A, B)
        site.publish()
        for _ in range(2):
            build(server.ci, A)
            site.publish()
        build(server.ci, A, B, C, content={C: files(C, kinds=("container", "vm", "lxc"))})
        site.more = site.more.replace('"old"', '"new"')
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
    """Every file but those whose bytes carry their own time: signatures, and the trace."""
    return {
        str(path.relative_to(tree)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in tree.rglob("*")
        if path.is_file() and path.suffix not in SIGNATURES and path.name != TRACE
    }


def names(tree: Path) -> set[str]:
    return {str(path.relative_to(tree)) for path in tree.rglob("*")}


def run(
    site: Site,
    log: Path,
    operation: str,
    number: int,
    command: Sequence[str] = ("publish",),
    *,
    within: str = "",
) -> subprocess.CompletedProcess[str]:
    words = [
        sys.executable,
        str(CHECKOUT / "tests/killed.py"),
        str(log),
        str(site.root / within),
        operation,
        str(number),
    ]
    env = {**site.environment(), "PYTHONPATH": str(CHECKOUT)}
    return subprocess.run(
        [*words, *command], cwd=CHECKOUT, env=env, capture_output=True, text=True, timeout=120, check=False
    )


def told(request: pytest.FixtureRequest, line: str) -> None:
    request.config.get_terminal_writer().line(f"\n{line}")


def phase(line: str) -> str:
    path = line.split(" ", 1)[1].strip()
    return next(name for name, pattern in PHASES.items() if re.match(pattern, path))


def chosen(
    undisturbed: Site, where: Path, command: Sequence[str] = ("publish",), hits: int = HITS
) -> Iterator[tuple[str, str, int]]:
    """Operations to be killed at, for each phase evenly over what a run does there."""
    done: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for operation in OPERATIONS:
        log = where / f"{operation}.log"
        assert (
            run(copied(undisturbed, where / f"count-{operation}"), log, operation, 0, command).returncode == 0
        )
        for number, line in enumerate(log.read_text().splitlines(), start=1):
            name = phase(line)
            # What is changed in a frozen tree, if anything, is few of many operations: each sort of them is hit.
            sort = operation if name == "indexes of a snapshot" else ""
            done.setdefault((name, sort), []).append((operation, number))
    for (name, _), moments in done.items():
        picked = moments[:: max(1, len(moments) // hits)][:hits]
        for moment in [*picked, *moments[:1] * (LEAST - len(picked))]:  # a phase may have two operations only
            yield name, *moment


def test_a_kill_at_any_operation_leaves_nothing_half_made(undisturbed: Site, tmp_path: Path, request) -> None:
    model = copied(undisturbed, tmp_path / "model")
    model.publish()
    states = [content(model.root / "site/public")]
    model.publish()  # without grace, what this run delisted goes in the next
    states.append(content(model.root / "site/public"))
    hit: Counter[str] = Counter()
    window = 0.0
    moments = list(chosen(undisturbed, tmp_path))
    wanted = Counter(name for name, _, _ in moments)
    for expected, operation, number in moments:
        here, log = tmp_path / f"{operation}-{number}", tmp_path / f"{operation}-{number}.log"
        site = copied(undisturbed, here)
        with Reader(site.key.public, site.latest, site.mirror) as reader:
            killed = run(site, log, operation, number)
            quiet = site.publish()
        where = f"killed in {expected}: {log.read_text().splitlines()[-1]}\n{quiet.out}"
        assert killed.returncode == -9, f"{where}\n{killed.stdout}{killed.stderr}"
        assert not reader.faults, f"{where}\n{reader.faults[:5]}"
        assert reader.rounds
        window = max(window, reader.window)
        assert content(site.root / "site/public") in states, where
        assert names(site.latest) == names(site.root / "site/public"), where
        assert content(site.latest) == content(site.root / "site/public"), where
        assert content(site.mirror) == content(site.latest), where
        assert (site.mirror / TRACE).read_bytes() == (site.latest / TRACE).read_bytes(), where
        assert not list(site.root.rglob(".tmp-*")), where
        hit[phase(log.read_text().splitlines()[-1])] += 1
        shutil.rmtree(here)
    told(
        request, f"kills by phase: {dict(sorted(hit.items()))}; a mirror's pair was split for {window:.3f} s"
    )
    assert all(hit[name] >= LEAST for name in wanted), (hit, wanted)
    assert wanted.keys() == PHASES.keys()


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory, key) -> Iterator[Site]:
    """A site with two snapshots and a mirror, for the operator's hands."""
    base = tmp_path_factory.mktemp("hands")
    with standin.serve(Controller(base / "jenkins")) as server:
        site = Site(base / "site", server, key)
        site.base.mkdir()
        site.more = '[snapshot]\nkeep = 9\n[[mirror]]\nname = "near"\nurl = "mirror"\n'
        matrix(server.ci, A, B)
        for _ in range(2):
            build(server.ci, A, B)
            site.publish()
        yield site


def listed(site: Site) -> list[str]:
    return sorted(path for path in named(site.latest) if path.startswith(f"images/{A}/"))


@pytest.mark.parametrize("hand", ["withdraw", "rollback"])
def test_the_hands_may_be_killed_too(
    decided: Site, tmp_path: Path, request: pytest.FixtureRequest, hand: str
) -> None:
    """Whether the word was written down before the kill or not, the next publication ends in one of two states."""
    newest = listed(decided)[-1].split("/")[5]
    gone = f"images/{A}/{newest}/"
    first = min(path.name for path in (decided.root / "snapshots").iterdir())
    command = (
        ["withdraw", "--now", gone.removeprefix("images/").strip("/")]
        if hand == "withdraw"
        else [hand, first]
    )
    before = content(decided.root / "site/public")
    model = copied(decided, tmp_path / "model")
    assert model.doit(*command).code == 0
    model.publish()
    after = content(model.root / "site/public")
    assert after != before
    hit: Counter[str] = Counter()
    moments = list(chosen(decided, tmp_path, command, 3))
    for expected, operation, number in moments:
        here, log = tmp_path / f"{operation}-{number}", tmp_path / f"{operation}-{number}.log"
        site = copied(decided, here)
        spare = (gone,) if hand == "withdraw" else ()
        with Reader(site.key.public, site.latest, site.mirror, hold=True, spare=spare) as reader:
            killed = run(site, log, operation, number, command)
            quiet = site.publish()
        where = f"killed in {expected}: {log.read_text().splitlines()[-1]}\n{quiet.out}"
        assert killed.returncode == -9, f"{where}\n{killed.stdout}{killed.stderr}"
        assert not reader.faults, f"{where}\n{reader.faults[:5]}"
        said = (site.root / "decisions.toml").exists()
        assert content(site.root / "site/public") == (after if said else before), where
        assert content(site.latest) == content(site.root / "site/public"), where
        assert content(site.mirror) == content(site.latest), where
        assert (site.mirror / TRACE).read_bytes() == (site.latest / TRACE).read_bytes(), where
        if said and hand == "withdraw":
            assert not [
                path
                for path in site.base.rglob(newest)
                if path.parent.parent.parent.name == "1" and "amd64" in path.parts
            ], where
        for tree in (site.root / "snapshots").glob("*/public"):
            (whole := Reader(site.key.public, tree)).look(tree)
            assert not whole.faults, f"{where}\n{tree}: {whole.faults[:5]}"
        hit["decided" if said else "undecided"] += 1
        hit[expected] += 1
        shutil.rmtree(here)
    told(request, f"{hand}: kills by phase: {dict(sorted(hit.items()))}")
    assert hit["decided"] >= 9, hit


def test_an_import_may_be_killed_too(decided: Site, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Whatever was done of it, the same command does the rest, and nobody sees anything in between."""
    for product, when in ((A, "20250101_03:04"), (C, "20250101_03:04"), (C, "20250102_03:04")):
        directory = tmp_path / "old/images" / product / when
        directory.mkdir(parents=True)
        for name, data in files(product, serial=when, payload=os.urandom(99)).items():
            (directory / name).write_bytes(data)
    command = ["import", f"--from={tmp_path / 'old'}"]
    model = copied(decided, tmp_path / "model")
    assert model.doit(*command).code == 0
    after = bytes_of_images(model)
    hit: Counter[str] = Counter()
    moments = list(chosen(decided, tmp_path, command, 3))
    for expected, operation, number in moments:
        here, log = tmp_path / f"{operation}-{number}", tmp_path / f"{operation}-{number}.log"
        site = copied(decided, here)
        with Reader(site.key.public, site.latest, site.mirror) as reader:
            killed = run(site, log, operation, number, command)
            again = site.doit(*command)
        where = f"killed in {expected}: {log.read_text().splitlines()[-1]}\n{again.out}{again.err}"
        assert killed.returncode == -9, f"{where}\n{killed.stdout}{killed.stderr}"
        assert again.code == 0, where
        assert not reader.faults, f"{where}\n{reader.faults[:5]}"
        assert bytes_of_images(site) == after, where
        assert content(site.latest) == content(site.root / "site/public"), where
        assert content(site.mirror) == content(site.latest), where
        assert (site.mirror / TRACE).read_bytes() == (site.latest / TRACE).read_bytes(), where
        assert not list(site.root.rglob(".tmp-*")), where
        assert not list((site.root / "site/staging").iterdir()), where
        hit[expected] += 1
        shutil.rmtree(here)
    told(request, f"import: kills by phase: {dict(sorted(hit.items()))}")
    assert hit["image"] >= LEAST, hit


def bytes_of_images(site: Site) -> dict[str, str]:
    """Every file but the records of an import, which say when it was."""
    found = content(site.root / "site/public")
    return {path: mark for path, mark in found.items() if not path.endswith(("source.json", "SHA256SUMS"))}


def test_an_orphaned_rsync_keeps_the_next_run_waiting(site: Site) -> None:
    """The lock belongs to the kernel, and rsync inherited it: nobody else writes while it does."""
    site.more = '[[mirror]]\nname = "near"\nurl = "mirror"\n'
    matrix(site.ci, A)
    build(site.ci, A, content={A: files(A, payload=os.urandom(32 << 20))})
    first = site.start("publish")
    rsync = 0

    def writes() -> bool:
        nonlocal rsync
        rsync = next((pid for pid in children(first.pid) if b"--recursive" in argv(pid)), 0)
        return bool(rsync)

    wait_for(writes)
    os.kill(rsync, signal.SIGSTOP)
    try:
        first.kill()
        first.communicate()
        second = site.start("publish")
        line = second.stdout.readline()
        assert line == f"lock        waiting for another run at {site.root} to end\n"
        assert second.poll() is None
    finally:
        os.kill(rsync, signal.SIGCONT)
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0, out + err
    assert content(site.mirror) == content(site.latest)


def children(pid: int) -> list[int]:
    """Of all its threads: each push has one."""
    try:
        threads = list(Path(f"/proc/{pid}/task").glob("*/children"))
        return [int(one) for thread in threads for one in thread.read_text().split()]
    except OSError:
        return []


def argv(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
