"""``doit rebuild``: the tree alone makes the ledger; what is damaged goes aside and is fetched again."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sites import CHECKOUT, Site, build, files, matrix, wait_for

from tasks.audit import audit
from tasks.errors import TreeError
from tasks.image import Product
from tasks.layout import Layout
from tasks.rebuild import RECORDS, rebuild
from tasks.state import Ledger, load

A, B = "tiny/1/amd64/default", "tiny/1/arm64/default"
FIRST, SECOND = "20260301_00:00", "20260401_00:00"
INDEXES = ("site/public/streams", "site/public/meta")


@pytest.fixture
def done(site: Site) -> Site:
    """Two products, one of them with two images, published."""
    matrix(site.ci, A, B)
    build(site.ci, A, content={A: files(A, serial=FIRST, kinds=("container", "vm", "lxc"))})
    site.publish()
    build(site.ci, A, B, content={A: files(A, serial=SECOND), B: files(B, serial=SECOND)})
    site.publish()
    site.server.clear()
    return site


def again(site: Site, code: int = 0) -> list[str]:
    """Rebuild, and what it says before its last line."""
    result = site.doit("rebuild")
    assert result.code == code, result.out + result.err
    *said, last = result.out.splitlines()
    assert last.startswith("rebuild ")
    return said


def ledgers(site: Site) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (site.root / "state/ledger").iterdir()}


def published_as_before(site: Site, indexes: dict[str, tuple[int, int]]) -> str:
    """The next publish downloads nothing and writes no index."""
    site.server.clear()
    result = site.publish()
    assert site.server.count("/artifact/") == 0
    assert site.tree(*INDEXES) == indexes
    return result.out


def test_of_a_whole_site_it_changes_nothing(done: Site) -> None:
    before, known = done.tree("site", "snapshots", "latest", "state/ledger", "state/wishes"), ledgers(done)
    result = done.doit("rebuild")
    assert result.code == 0
    size = sum(
        path.stat().st_size
        for path in (done.root / "site/public/images").rglob("*")
        if path.is_file() and path.suffix != ".asc"
    )
    assert result.out == f"rebuild     2 products, 3 images, {size:,} bytes read\n"
    assert done.tree("site", "snapshots", "latest", "state/ledger", "state/wishes") == before
    assert ledgers(done) == known
    assert not done.server.requests, "Jenkins is not asked"
    assert "nothing changed" in published_as_before(done, done.tree(*INDEXES))


def test_a_lost_state_directory_costs_no_download(done: Site) -> None:
    known, indexes, shown = ledgers(done), done.tree(*INDEXES), os.readlink(done.latest)
    shutil.rmtree(done.root / "state")
    assert again(done) == []
    assert ledgers(done) == known
    assert (done.root / "state").stat().st_mode & 0o777 == 0o700
    published_as_before(done, indexes)
    assert os.readlink(done.latest) == shown


def test_without_it_an_image_that_is_no_newest_build_would_be_lost(done: Site) -> None:
    """What the command is for: a ledger that is gone, and no build to bring its images back."""
    indexes = done.tree(*INDEXES)
    (done.root / f"state/ledger/{B.replace('/', ':')}.json").unlink()
    (done.root / f"state/wishes/{B.replace('/', ':')}.json").unlink()
    again(done)
    published_as_before(done, indexes)
    assert len(done.products()) == 2


def test_records_that_cannot_be_read_do_not_stop_it(done: Site) -> None:
    known, indexes, state = ledgers(done), done.tree(*INDEXES), done.root / "state"
    made = {pattern: state / pattern.replace("*", "tiny:1:amd64:default") for pattern in RECORDS}
    for number, path in enumerate(made.values()):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((b"", b"{", b"\xff", b"[1]")[number % 4])
    for path in (state / "ledger").iterdir():
        path.write_bytes(b"{}")
    (state / "doit.db").write_bytes(b"no database")
    said = again(done)
    assert len(said) == len(made)
    for pattern, path in made.items():
        assert f"{path}: could not be read and is removed; {RECORDS[pattern][1]}" in said
        assert not path.exists()
    assert ledgers(done) == known
    published_as_before(done, indexes)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "flip": (
        lambda image: (image / "rootfs.squashfs").write_bytes(
            (image / "rootfs.squashfs").read_bytes()[:-1] + b"\xa5"
        ),
        "rootfs.squashfs: has another sha256 than SHA256SUMS and source.json say",
    ),
    "size": (lambda image: os.truncate(image / "incus.tar.xz", 9), "incus.tar.xz: has 9 bytes, not "),
    "missing": (lambda image: (image / "meta.tar.xz").unlink(), "meta.tar.xz: is missing"),
    "unsigned": (lambda image: (image / "meta.tar.xz.asc").unlink(), "meta.tar.xz: has no signature"),
    "sums": (lambda image: (image / "SHA256SUMS").unlink(), "SHA256SUMS: is missing"),
    "source": (lambda image: (image / "source.json").write_text("{}"), "source.json: is damaged: "),
    "both": (
        lambda image: [(image / name).unlink() for name in ("source.json", "SHA256SUMS")],
        "SHA256SUMS: is missing, and 1 more",
    ),
    "empty": (lambda image: [path.unlink() for path in image.iterdir()], "SHA256SUMS: is missing, and 1 more"),
    "moved": (
        lambda image: image.rename(image.with_name("20260402_00:00")),
        f"source.json: speaks of images/{A}/{SECOND}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_image_is_set_aside_and_fetched_again(done: Site, damage: str) -> None:
    act, why = DAMAGES[damage]
    image = done.root / "site/public/images" / A / SECOND
    content = {path.name: path.read_bytes() for path in image.iterdir() if path.suffix != ".asc"}
    act(image)
    serial = "20260402_00:00" if damage == "moved" else SECOND
    left = {path.name: path.read_bytes() for path in image.with_name(serial).iterdir()}
    aside = done.root / "site/damaged" / A / serial
    (line,) = again(done, 1)
    assert line.startswith(f"images/{A}/{serial}/{why}")
    assert line.endswith(f"; set aside in {aside}")
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == left
    assert not image.with_name(serial).exists()
    ledger = load(Layout(done.root).ledger(Product.parse(A)), Ledger)
    assert ledger
    assert [one.serial for one in ledger.images] == [FIRST]
    done.publish()
    assert {p.name: p.read_bytes() for p in image.iterdir() if p.suffix != ".asc"} == content
    assert done.doit("verify").code == 0
    assert again(done) == []


def test_what_was_set_aside_is_never_overwritten(done: Site) -> None:
    image = done.root / "site/public/images" / A / SECOND
    for turn in range(3):
        (image / "rootfs.squashfs").unlink()
        (image / "rootfs.squashfs").write_bytes(b"%d" % turn)
        again(done, 1)
        done.publish()
    aside = done.root / "site/damaged" / A
    found = {path.name: (path / "rootfs.squashfs").read_bytes() for path in aside.iterdir()}
    assert found == {SECOND: b"0", f"{SECOND}.1": b"1", f"{SECOND}.2": b"2"}


def test_a_damaged_image_that_nobody_builds_any_more_is_not_listed(done: Site) -> None:
    image = done.root / "site/public/images" / A / FIRST
    data = (image / "disk.qcow2").read_bytes()
    (image / "disk.qcow2").unlink()
    (image / "disk.qcow2").write_bytes(bytes(len(data)))
    again(done, 1)
    done.publish()
    assert list(done.products()[A.replace("/", ":")]["versions"]) == [SECOND]
    assert not (done.latest / "images" / A / FIRST).exists()


def test_of_a_product_whose_only_image_is_set_aside_nothing_is_left(done: Site) -> None:
    (done.root / "site/public/images" / B / SECOND / "SHA256SUMS").unlink()
    assert len(again(done, 1)) == 2
    assert not (done.root / "site/public/images/tiny/1/arm64").exists()
    assert list(ledgers(done)) == [f"{A.replace('/', ':')}.json"]


def test_the_ledger_of_a_product_without_images_goes(done: Site) -> None:
    shutil.rmtree(done.root / "site/public/images" / B)
    (line,) = again(done)
    assert line.startswith(str(done.root / f"state/ledger/{B.replace('/', ':')}.json"))
    assert line.endswith(": removed, for the tree has no image of that product")
    assert list(ledgers(done)) == [f"{A.replace('/', ':')}.json"]


def test_a_newer_build_of_the_same_bytes_stays_known(done: Site) -> None:
    build(done.ci, A, content={A: files(A, serial=SECOND)})
    done.publish()
    known = ledgers(done)
    again(done)
    assert ledgers(done) == known
    published_as_before(done, done.tree(*INDEXES))


def test_a_ledger_that_speaks_of_other_bytes_is_put_right(done: Site) -> None:
    known, path = ledgers(done), Layout(done.root).ledger(Product.parse(A))
    path.write_text(path.read_text().replace('"size": ', '"size": 1'))
    again(done)
    assert ledgers(done) == known


def test_a_lost_quarantine_is_learned_again(done: Site) -> None:
    """The indexes are what it left of them; without it they would stay so, and nobody would say why."""
    clash = '[[rules]]\nmatch = "{}"\naliases = ["shared"]\n'
    done.more = clash.format("tiny/1")
    matrix(done.ci, "other/1/amd64/default")
    build(done.ci, "other/1/amd64/default")
    done.more += clash.format("other")
    done.configure()
    assert "in quarantine" in done.publish(code=1).out
    (done.root / "state/quarantine.json").write_text("{")
    again(done)
    assert "in quarantine" in done.publish(code=1).out


def test_the_identity_of_the_site_comes_back(done: Site) -> None:
    own = done.root / "site-id"
    known = own.read_bytes()
    own.unlink()
    assert again(done) == [f"{own}: was missing and is that of the tree again; mirrors know it"]
    assert own.read_bytes() == known


def test_without_a_tree_nothing_is_changed(done: Site) -> None:
    known = ledgers(done)
    (done.root / "site/public").rename(done.root / "site/elsewhere")
    result = done.doit("rebuild")
    assert result.code == 2
    assert "ERROR: there is nothing to rebuild from: " in result.out
    assert ledgers(done) == known


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # from Python 3.12 on; the test's own threads
def test_a_right_that_is_missing_is_no_damage(done: Site) -> None:
    image = done.root / "site/public/images" / A / SECOND
    before = done.tree("site")
    (image / "rootfs.squashfs").chmod(0)
    done.root.chmod(0o755)
    pid = os.fork()
    if pid == 0:  # as somebody who is not root, whom modes do not bind
        try:
            os.chdir(done.root)
            os.setuid(65534) if os.geteuid() == 0 else None
            rebuild(Layout(Path()), print)
        except TreeError as error:
            os._exit(42 if "nothing was changed" in str(error) and "rootfs.squashfs" in str(error) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42
    assert done.tree("site") == before


def test_a_stray_file_is_no_reason_to_lose_an_image(done: Site) -> None:
    path = done.root / "site/public/images" / A / SECOND / "notes"
    path.write_text("of the operator")
    assert again(done) == []
    assert audit(done.root / "site/public", f"images/{A}/{SECOND}").strays


def test_it_waits_for_another_run(done: Site) -> None:
    with (done.root / "state/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = done.start("rebuild")
        assert process.stdout
        assert process.stdout.readline().startswith("lock        waiting for another run")
        assert process.poll() is None
    wait_for(lambda: process.poll() == 0)
    process.communicate()


def test_killed_anywhere_it_ends_its_work_the_next_time(done: Site, tmp_path: Path) -> None:
    public = done.root / "site/public/images"
    (public / A / FIRST / "rootfs.squashfs").unlink()
    (public / B / SECOND / "incus.tar.xz").unlink()
    shutil.rmtree(done.root / "state/ledger")
    (done.root / "state/catalogue.json").write_text("{")
    model = copied(done, tmp_path / "model")
    again(model, 1)
    wanted = names(model)
    kills = 0
    for operation in ("rename", "unlink", "mkdir", "sync"):
        for number in range(1, 20):
            site = copied(done, tmp_path / f"{operation}-{number}")
            script = [
                sys.executable,
                str(CHECKOUT / "tests/killed.py"),
                str(tmp_path / "log"),
                str(site.root),
            ]
            killed = subprocess.run(
                [*script, operation, str(number), "rebuild"],
                cwd=CHECKOUT, env={**site.environment(), "PYTHONPATH": str(CHECKOUT)},
                capture_output=True, text=True, check=False, timeout=60,
            )  # fmt: skip
            if killed.returncode != -9:
                assert killed.returncode == 1, killed.stderr
                break
            kills += 1
            assert site.doit("rebuild").code in (0, 1)
            assert names(site) == wanted, f"{operation} {number}"
            assert ledgers(site) == ledgers(model)
    assert kills > 8


def copied(site: Site, where: Path) -> Site:
    shutil.copytree(site.root, where / "root", symlinks=True)
    copy = Site(where, site.server, site.key)
    copy.configure()
    return copy


def names(site: Site) -> set[str]:
    """What there is, but for the machinery of doit and of the lock."""
    found = {str(path.relative_to(site.root)) for path in site.root.rglob("*")}
    return {name for name in found if not name.startswith(("state/doit.db", "state/lock"))}


class TestOtherBytes:
    """Clients may have what was exposed: its serial must not come back with other bytes."""

    @pytest.mark.parametrize("known_by", ["images.json", "exposed", "aside", "tree"])
    def test_they_are_refused_by_name(self, done: Site, known_by: str) -> None:
        image, shown = done.root / "site/public/images" / A / SECOND, done.latest.resolve() / "images" / A
        (image / "rootfs.squashfs").unlink()
        if known_by != "tree":
            again(done, 1)
        if known_by != "aside":
            shutil.rmtree(done.root / "site/damaged", ignore_errors=True)
        if known_by != "exposed":
            shutil.rmtree(shown / SECOND)
        if known_by != "images.json":
            for path in done.latest.resolve().glob("**/images.json"):
                path.unlink()
                path.write_text('{"products": {}}')
        build(done.ci, A, content={A: files(A, serial=SECOND, payload=b"other bytes")})
        result = done.publish("--allow-shrink", code=1)
        said = [line for line in result.out.splitlines() if line.startswith(f"image:{A} rejected: ")]
        assert f": serial {SECOND} has another " in said[0], result.out
        assert said[0].endswith("; an image never changes")
        assert not (image / "SHA256SUMS").exists() or known_by == "tree"
        assert f"serial {SECOND} has another " in done.publish(code=1).out, "it is said until it is mended"

    @pytest.mark.parametrize("turn", ["flip", "remove"])
    def test_records_that_contradict_each_other_are_not_believed(self, done: Site, turn: str) -> None:
        """One of them is what was damaged; the build that made the image must be able to mend it."""
        image = done.root / "site/public/images" / A / SECOND
        (image / "rootfs.squashfs").unlink()
        text = (image / "SHA256SUMS").read_text()
        other = "".join(
            f"{line[:63]}{'0' if line[63] != '0' else '1'}{line[64:]}" for line in text.splitlines(True)
        )
        (image / "SHA256SUMS").write_text(other)  # the same inode as in the snapshot
        if turn == "remove":
            (image / "source.json").write_text("{}")
        build(done.ci, A, content={A: files(A, serial=SECOND)})
        result = done.publish(code=0 if turn == "flip" else 1)
        assert (f": serial {SECOND} has another " in result.out) == (turn == "remove"), result.out
