"""``doit serverconfig rsyncd``: the real rsyncd takes what it prints, and mirrors pull one whole tree."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import rsyncd_as
from sites import Site, build, files, matrix, wait_for
from tools import need, need_root, program

from tasks import rsyncd
from tasks.files import TEMPORARY

A, B = "alpine/3/amd64/default", "debian/12/amd64/default"
BIG = 48 << 20  # bytes, more than what waits in sockets


@pytest.fixture
def shown(site: Site) -> Site:
    need_root()  # to change the root directory, as the daemon of every package can
    matrix(site.ci, A, B)
    build(site.ci, A, content={A: files(A, kinds=("container", "vm", "lxc"))})
    build(site.ci, B)
    site.publish()
    return site


@pytest.fixture
def served(shown: Site, tmp_path: Path) -> Iterator[str]:
    with rsyncd_as(printed(shown), tmp_path) as url:
        yield url


def printed(site: Site, *options: str) -> str:
    result = site.doit("serverconfig", *options, "rsyncd")
    assert (result.code, result.err) == (0, "")
    return result.out


def pull(url: str, into: Path, *options: str) -> subprocess.Popen[str]:
    """What a mirror runs; ``into`` ends with a slash or names the directory to be made."""
    into.mkdir(exist_ok=True)
    argv = [program("rsync"), "-a", "--delete", "--delay-updates", *options, *url.split(), f"{into}/"]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> None:
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (0, "", "")


def content(tree: Path) -> dict[str, bytes | None]:
    """All that lies in a tree, files with what is in them; a symbolic link would be none."""
    there = {path.relative_to(tree): path for path in tree.rglob("*")}
    assert not [path for path in there.values() if path.is_symlink()]
    return {str(name): path.read_bytes() if path.is_file() else None for name, path in there.items()}


@pytest.mark.parametrize("options", [[], ["--safe-links"], ["-z", "--checksum"]])
def test_a_mirror_pulls_real_directories(
    options: list[str], served: str, shown: Site, tmp_path: Path
) -> None:
    into = tmp_path / "pulled"
    (into / "images").mkdir(parents=True)
    (into / "images/withdrawn").write_text("old")
    ended(pull(f"{served}/images/", into, *options))
    assert content(into) == content(shown.latest.resolve())
    assert (into / f"images/{B}").is_dir()
    for product in (A, B):
        build(shown.ci, product)
    shown.publish()
    ended(pull(f"{served}/images/", into, *options))
    assert content(into) == content(shown.latest.resolve()), "the daemon sees a publication at once"


@pytest.mark.parametrize("what", ["", "images streams site-id"], ids=["all", "several sources"])
def test_a_pull_that_a_publication_overtakes_gets_the_tree_of_its_start(
    what: str, served: str, shown: Site, tmp_path: Path
) -> None:
    tree = shown.latest.resolve()
    (tree / "images/big").write_bytes(os.urandom(BIG))
    before = content(tree)
    into = tmp_path / "pulled"
    sources = " ".join(f"{served}/images/{one}" for one in what.split() or [""])
    mirror = pull(sources, into, "--whole-file")
    try:
        wait_for(lambda: any(path.is_file() for path in into.rglob(".*")))  # the first file arrives
        for pid in family(mirror.pid):
            os.kill(pid, signal.SIGSTOP)
        (daemon,) = tmp_path.glob("rsyncd-*/rsyncd.pid")
        _, *workers = family(int(daemon.read_text()))
        assert [os.readlink(f"/proc/{pid}/root") for pid in workers] == [str(tree)]
        build(shown.ci, B)
        shown.publish()
        assert shown.latest.resolve() != tree
        assert content(shown.latest.resolve())["streams/v1/images.json"] != before["streams/v1/images.json"]
        behind = content(into)
        assert not {name for name in behind if name.endswith("images.json")}, "the publication was first"
    finally:
        for pid in family(mirror.pid):
            os.kill(pid, signal.SIGCONT)
    ended(mirror)
    asked = tuple(what.split())
    assert content(into) == {name: held for name, held in before.items() if name.startswith(asked or "")}


def family(pid: int) -> list[int]:
    """A process and its children: those that write a mirror's files, or serve a connection."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def test_what_is_not_finished_is_not_there(served: str, shown: Site, tmp_path: Path) -> None:
    tree = shown.latest.resolve()
    before = content(tree)
    for name in (f"images/{TEMPORARY}x", ".~tmp~/images.json", "streams/v1/.images.json.Zx81"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text("half")
    ended(pull(f"{served}/images/", tmp_path / "pulled"))
    assert content(tmp_path / "pulled") == before
    one = pull(f"{served}/images/images/{TEMPORARY}x", tmp_path / "one")
    _, err = one.communicate(timeout=20)
    assert one.returncode != 0
    assert "No such file" in err


def test_nobody_writes_there(served: str, shown: Site, tmp_path: Path) -> None:
    before = content(shown.latest.resolve())
    (tmp_path / "evil").mkdir()
    for options, said in ([], "read only"), (["--delete"], "configured to refuse --delete"):
        argv = [program("rsync"), "-r", *options, f"{tmp_path}/evil/", f"{served}/images/"]
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=20)
        assert done.returncode != 0
        assert said in done.stderr
    assert content(shown.latest.resolve()) == before


def test_each_transfer_is_logged(served: str, tmp_path: Path) -> None:
    ended(pull(f"{served}/images/streams/v1/index.json", tmp_path / "pulled"))
    (log,) = tmp_path.glob("rsyncd-*/rsyncd.log")
    wait_for(lambda: "send" in log.read_text())
    assert "UNDETERMINED [127.0.0.1] images () streams/v1/index.json" in log.read_text()


def test_its_name_and_what_it_says(shown: Site, tmp_path: Path) -> None:
    text = printed(shown, "--module=linux.images-2", "--comment=Images  # of 'us'; ü")
    with rsyncd_as(printed(shown) + text, tmp_path) as url:
        listed = subprocess.run([program("rsync"), f"{url}/"], check=True, capture_output=True, text=True)
        rows = [row.split("\t") for row in listed.stdout.splitlines()]
        assert [(name.strip(), said) for name, said in rows] == [
            ("images", "images for Incus, LXD and LXC"),
            ("linux.images-2", "Images  # of 'us'; ü"),
        ]
        ended(pull(f"{url}/linux.images-2/", tmp_path / "pulled"))
    assert content(tmp_path / "pulled") == content(shown.latest.resolve())


def test_on_a_mirror(shown: Site, tmp_path: Path) -> None:
    shown.more += '[[mirror]]\nname = "near"\nurl = "mirror"\n'
    shown.configure()
    shown.publish()
    with rsyncd_as(printed(shown, f"--tree={shown.mirror}"), tmp_path) as url:
        ended(pull(f"{url}/images/", tmp_path / "pulled"))
    assert content(tmp_path / "pulled") == content(shown.latest.resolve())


def test_a_module_for_each_snapshot_that_is_there(shown: Site, tmp_path: Path) -> None:
    first = shown.latest.resolve()
    build(shown.ci, B)
    shown.publish()
    last = shown.latest.resolve()
    names = [tree.parent.name for tree in (first, last)]
    assert shown.doit("pin", "--as=old.kernel", names[0]).code == 0
    with rsyncd_as(printed(shown, "--snapshots", "--comment=ours"), tmp_path) as url:
        listed = subprocess.run([program("rsync"), f"{url}/"], check=True, capture_output=True, text=True)
        rows = [row.split("\t") for row in listed.stdout.splitlines()]
        dated = [*sorted([names[1][:8], *names]), "old.kernel"]
        assert [(name.strip(), said) for name, said in rows] == [
            ("images", "ours"),
            *((f"images-{name}", f"ours, {name}") for name in dated),
        ]
        for name, tree in zip(
            ["", *(f"-{one}" for one in dated)], [last, last, first, last, first], strict=True
        ):
            ended(pull(f"{url}/images{name}/", tmp_path / f"pulled{name}"))
            assert content(tmp_path / f"pulled{name}") == content(tree)
        argv = [program("rsync"), "-r", f"{tmp_path}/pulled/", f"{url}/images-old.kernel/"]
        denied = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=20)
        assert "read only" in denied.stderr
        assert shown.doit("unpin", "old.kernel").code == 0
        shown.doit("prune")
        gone = pull(f"{url}/images-old.kernel/", tmp_path / "gone")
        assert "chroot failed" in gone.communicate(timeout=20)[1]
    after = printed(shown, "--snapshots")
    assert "[images-old.kernel]" not in after
    assert printed(shown) == after.partition("\n# The snapshots")[0]


@settings(max_examples=25, deadline=None)
@given(st.text(st.sampled_from("ab #;[]{}=$@\"'\\ü&~*?/"), min_size=1, max_size=12))
def test_rsyncd_finds_any_tree_that_it_is_told(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    need("rsync")
    need_root()
    base = tmp_path_factory.mktemp("tree")
    tree = Path(os.path.normpath(base / f"x{name}"))
    tree.mkdir(parents=True)
    (tree / "site-id").write_text(name)
    told = rsyncd.Module(tree=str(tree), comment=name)
    if told.faults():
        assert name.startswith(" ") or name.endswith((" ", "\\")) or str(tree).endswith((" ", "\\"))
        return
    base.chmod(0o755)
    with rsyncd_as(rsyncd.rsyncd(base, told), base) as url:
        ended(pull(f"{url}/images/site-id", base / "pulled"))
    assert (base / "pulled/site-id").read_text() == name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--module=a b", "rsyncd"], "--module=a b: write it like images"),
        (["--module=global", "rsyncd"], "--module=global: write it like images"),
        (["--module=a]", "rsyncd"], "--module=a]: write it like images"),
        (["--comment=100%", "rsyncd"], "--comment=100%: one line without '%'"),
        (["--comment=a\\", "rsyncd"], "--comment=a\\: one line"),
        (["--tree=mirror", "rsyncd"], "--tree=mirror: must be an absolute path in one line, without '%'"),
        (["--tree=/a%b", "rsyncd"], "--tree=/a%b: must be an absolute path in one line, without '%'"),
        (["--snapshots", "--tree=/a", "rsyncd"], "--snapshots: a mirror has the newest alone"),
        (["--snapshots", "nginx"], "--snapshots: nginx has no use for it"),
        (["--listen=873", "rsyncd"], "--listen: rsyncd has no use for it"),
        (["--module=a", "nginx"], "--module: nginx has no use for it"),
    ],
)
def test_what_it_refuses_in_one_line(site: Site, words: list[str], said: str) -> None:
    result = site.doit("serverconfig", *words)
    assert (result.code, result.out) == (3, "")
    (line,) = result.err.splitlines()
    assert line.startswith(f"ERROR: {said}")


def test_a_root_that_rsyncd_cannot_name(site: Site) -> None:
    site.configure()
    site.config.write_text(site.config.read_text().replace('"root"', '"ro%ot"'))
    result = site.doit("serverconfig", "rsyncd")
    assert (result.code, result.out) == (3, "")
    assert result.err.startswith(f"ERROR: site.root: {site.base}/ro%ot/latest: must be an absolute path")
