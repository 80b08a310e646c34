"""One contract for every way to freeze a tree: hard links, btrfs, ZFS and (by a stand-in) CephFS."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from sites import CHECKOUT, Key, Site, build, matrix
from test_snapshot import image, place
from tools import need_root
from volumes import VOLUMES, btrfs, run

from jenkins.standin import Standin
from tasks import frozen, settings, trees
from tasks.decisions import Decisions
from tasks.errors import TreeError
from tasks.layout import Layout
from tasks.prune import prune
from tasks.purge import purge
from tasks.snapshot import snapshot
from tasks.state import latest_name, snapshots

NOW = datetime(2026, 11, 21, 8, 30, tzinfo=UTC)
A, B = "20260101_00:00", "20260102_00:00"
TINY = "tiny/1/amd64/default"


@pytest.fixture(params=VOLUMES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def volume(kind: str, tmp_path: Path) -> Iterator[Path]:
    work = tmp_path / "work"
    work.mkdir()
    with VOLUMES[kind](work) as made:
        yield made


@pytest.fixture
def layout(volume: Path) -> Layout:
    made = Layout(volume / "root")
    frozen.prepare(made, "auto")
    return made


@pytest.fixture
def on_volume(volume: Path, server: Standin, key: Key) -> Site:
    made = Site(volume, server, key, lines='grace = "0s"')
    matrix(made.ci, TINY)
    return made


def read(layout: Layout, name: str) -> set[str]:
    top = layout.snapshots / name / "public"
    return {str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()}


class TestContract:
    def test_auto_takes_what_the_file_system_has_and_says_so(self, layout: Layout, kind: str) -> None:
        place(layout, image(A), listed=1)
        assert snapshot(layout, NOW) == f"20261121-0830.0 ({kind})"
        assert snapshot(layout, NOW, kind) == "20261121-0830.0 shows it already"

    def test_it_shows_the_tree_as_it_was(self, layout: Layout, kind: str) -> None:
        place(layout, image(A), listed=1)
        snapshot(layout, NOW)
        (layout.staging / "half").mkdir(parents=True)
        before = read(layout, "20261121-0830.0")
        place(layout, image(A), image(B), listed=2)
        (layout.public / "page").write_text("new")
        (layout.public / "site-id").unlink()
        assert read(layout, "20261121-0830.0") == before
        snapshot(layout, NOW)
        assert len(read(layout, "20261121-0830.1")) == len(before) + 3
        all_of_site = ["public", *(["staging"] if kind in {"zfs", "cephfs"} else [])]
        assert sorted(os.listdir(layout.snapshots / "20261121-0830.1")) == all_of_site
        assert read(layout, "20261121-0830.0") == before
        assert snapshots(layout) == ["20261121-0830.0", "20261121-0830.1"]
        assert latest_name(layout) == "20261121-0830.1"
        assert layout.latest.resolve() == (layout.snapshots / "20261121-0830.1/public").resolve()

    def test_nobody_can_change_it(self, layout: Layout, kind: str) -> None:
        if kind == "hardlink":
            return  # nothing but directories: nobody does, and that is all
        place(layout, image(A), listed=1)
        snapshot(layout, NOW)
        with pytest.raises(OSError, match="Read-only"):
            (layout.latest / "new").touch()

    def test_a_new_file_of_the_same_name_is_seen(self, layout: Layout, kind: str) -> None:
        place(layout, image(A), listed=1)
        for step in range(4):  # ZFS may give the inode of a file that went to another
            (layout.public / "new").write_text(str(step))
            (layout.public / "new").replace(layout.public / "page")
            snapshot(layout, NOW)
            assert (layout.latest / "page").read_text() == str(step)
        if kind != "hardlink":  # as if it had: another file, the same inode
            (layout.public / "page").write_text("again")
            os.utime(layout.public / "page", ns=(0, 0))  # zfs-fuse tells whole seconds alone
            snapshot(layout, NOW)
            assert (layout.latest / "page").read_text() == "again"

    def test_old_ones_go_by_time_and_nothing_is_left_of_them(self, layout: Layout, kind: str) -> None:
        for step in range(4):
            place(layout, *(image(f"20260101_00:0{minute}") for minute in range(step + 1)), listed=4)
            snapshot(layout, NOW + timedelta(minutes=step))
        prune(layout, rules(layout), Decisions(), NOW + timedelta(days=1))
        assert snapshots(layout) == ["20261121-0832.0", "20261121-0833.0"]
        assert read(layout, "20261121-0832.0")
        assert sorted(remains(layout, kind)) == ["20261121-0832.0", "20261121-0833.0"]

    def test_what_a_kill_left_is_gone_after_the_next(self, layout: Layout, kind: str) -> None:
        place(layout, image(A), listed=1)
        snapshot(layout, NOW)
        leave_half(layout, kind, "20261121-0830.1")
        leave_half(layout, kind, "20261121-0831.0")
        assert snapshots(layout) == ["20261121-0830.0"]
        frozen.sweep(layout)
        place(layout, image(A), image(B), listed=2)
        snapshot(layout, NOW)
        assert snapshots(layout) == ["20261121-0830.0", "20261121-0830.1"]
        assert len(read(layout, "20261121-0830.1")) == 6
        assert sorted(remains(layout, kind)) == snapshots(layout)

    def test_what_was_withdrawn_is_in_none_of_them(self, layout: Layout, kind: str, key: Key) -> None:
        place(layout, image(A), image(B), listed=1)
        snapshot(layout, NOW)
        (layout.public / "page").write_text("new")
        snapshot(layout, NOW)
        gone = [image(A).path]
        said = purge(layout, gone, lambda: None, rules(layout), {"20261121-0830.0", "20261121-0830.1"})
        assert said == "out of the tree and of 2 snapshots"
        for name in snapshots(layout):
            assert {path for path in read(layout, name) if path.startswith("images/")} == {
                f"{image(B).path}/{file}" for file in image(B).files
            }
            if kind == "btrfs":
                with pytest.raises(OSError, match="Read-only"):
                    (layout.snapshots / name / "new").touch()
        assert len(snapshots(layout)) == 2
        assert not list(layout.snapshots.glob(".tmp-*"))
        assert sorted(remains(layout, kind)) == ([] if kind in {"zfs", "cephfs"} else snapshots(layout))

    def test_one_that_cannot_be_changed_goes_unless_it_is_needed(self, layout: Layout, kind: str) -> None:
        place(layout, image(A), image(B), listed=1)
        snapshot(layout, NOW)
        (layout.public / "page").write_text("new")
        snapshot(layout, NOW)
        said = purge(layout, [image(A).path], lambda: None, rules(layout), {"20261121-0830.1"})
        stay = ["20261121-0830.0", "20261121-0830.1"]
        if kind in {"zfs", "cephfs"}:
            assert "20261121-0830.0 went with it" in said
            stay = stay[1:]
        assert snapshots(layout) == stay
        assert len(read(layout, stay[-1])) == 5

    def test_everybody_may_look_into_it_whatever_the_umask(self, layout: Layout, kind: str) -> None:
        place(layout, image(A), image(B), listed=1)
        layout.public.parent.chmod(0o700)
        top, before = layout.snapshots / "20261121-0830.0", os.umask(0o077)
        try:
            snapshot(layout, NOW)
            if kind not in {"zfs", "cephfs"}:  # there it is the site itself
                assert top.stat().st_mode & 0o777 == 0o755
            purge(layout, [image(A).path], lambda: None, rules(layout), {top.name})
        finally:
            os.umask(before)
        if kind != "btrfs":  # there it is a copy of what was right
            assert top.stat().st_mode & 0o777 == 0o755

    def test_its_times_are_those_of_the_site(self, layout: Layout) -> None:
        place(layout, image(A), image(B), listed=1)
        file = layout.image(image(A)) / "incus.tar.xz"
        os.utime(file, ns=(1_600_000_000_000_000_000, 1_600_000_000_000_000_000))
        snapshot(layout, NOW)
        assert " 1 snapshot" in purge(
            layout, [image(B).path], lambda: None, rules(layout), {"20261121-0830.0"}
        )
        shown = layout.latest / image(A).path / "incus.tar.xz"
        assert shown.stat().st_mtime_ns == 1_600_000_000_000_000_000


def rules(layout: Layout) -> settings.Settings:
    return settings.Settings(
        site=settings.Site(root=layout.root, grace=settings.Span(0)),
        signing=settings.Signing(key="x"),
        snapshot=settings.Snapshot(keep=2, keep_for=settings.Span(60)),
    )


def remains(layout: Layout, kind: str) -> list[str]:
    """The names of all that is kept, as the file system itself tells."""
    if kind == "zfs":
        names = run("zfs", "list", "-H", "-r", "-t", "snapshot,filesystem", "-o", "name", dataset(layout))
        marks = [name.replace("@", "/").rpartition("/")[2] for name in names.split()]
        found = [mark.removeprefix("imagepress-") for mark in marks if mark.startswith("imagepress-")]
        assert len(found) == 2 * len({*found}), "a clone for each"
        return [*{*found}]
    if kind == "cephfs":
        return [name.removeprefix("imagepress-") for name in os.listdir(layout.public.parent / ".snap")]
    if kind == "btrfs":
        listed = run("btrfs", "subvolume", "list", layout.root).splitlines()
        paths = [line.rpartition(" ")[2] for line in listed]
        return [path.rpartition("/")[2] for path in paths if "snapshots/" in path]
    return [name for name in os.listdir(layout.snapshots) if name != frozen.SPARE]


def dataset(layout: Layout) -> str:
    return run("zfs", "list", "-H", "-o", "name", layout.public.parent).strip()


def leave_half(layout: Layout, kind: str, name: str) -> None:
    """What a run leaves that is killed in the middle of it."""
    if kind == "zfs":
        mark = f"imagepress-{name}"
        run("zfs", "snapshot", f"{dataset(layout)}@{mark}")
        run("zfs", "clone", f"{dataset(layout)}@{mark}", f"{dataset(layout)}/{mark}")
    elif kind == "cephfs":
        (layout.public.parent / ".snap" / f"imagepress-{name}").mkdir()
    elif kind == "btrfs":
        run("btrfs", "subvolume", "snapshot", layout.public.parent, layout.snapshots / f".tmp-{name}")
    else:
        (layout.snapshots / f".tmp-{name}/public/half").mkdir(parents=True)


class TestPipeline:
    def test_publish_withdraw_and_roll_back(self, on_volume: Site, kind: str) -> None:
        site = on_volume
        for _ in range(3):
            build(site.ci, TINY)
            said = site.publish()
            assert f"({kind})" in said.out
        first, *_, last = snapshots(Layout(site.root))
        assert first != last
        newest = max(site.products()["tiny:1:amd64:default"]["versions"])
        assert site.doit("withdraw", "--now", f"{TINY}/{newest}").code == 0
        assert not [*site.root.glob(f"snapshots/*/public/images/{TINY}/{newest}")]
        left = snapshots(Layout(site.root))
        back = site.doit("rollback", left[0])
        assert back.code == 0, back.out
        assert site.doit("verify").code == 0
        assert site.doit("rollback", "--release").code == 0
        assert site.doit("publish").code == 0

    def test_a_rollback_brings_a_pruned_image_again(self, on_volume: Site) -> None:
        site = on_volume
        site.more = "[snapshot]\nkeep = 9\n[deltas]\nbases = 0\n"
        site.lines += "\nkeep = 1"
        build(site.ci, TINY)
        site.publish()
        [old] = site.products()["tiny:1:amd64:default"]["versions"]
        build(site.ci, TINY)
        site.publish()
        site.publish()
        assert not (site.root / f"site/public/images/{TINY}/{old}").exists()
        assert site.doit("rollback", snapshots(Layout(site.root))[0]).code == 0
        file = f"images/{TINY}/{old}/incus.tar.xz"
        assert (site.latest / file).is_file()
        assert site.doit("verify").code == 0


def below(top: Path) -> set[str]:
    return {str(path.relative_to(top)) for path in top.rglob("*")}


class TestSpare:
    """What a tree of hard links leaves when it goes."""

    @pytest.fixture
    def pruned(self, tmp_path: Path) -> Layout:
        layout = Layout(tmp_path / "root")
        for step in range(3):
            place(layout, *(image(f"20260101_00:0{minute}") for minute in range(step + 1)), listed=4)
            (layout.public / "page").write_text(str(step))
            snapshot(layout, NOW + timedelta(minutes=step))
            (layout.public / "page").unlink()
        prune(layout, rules(layout), Decisions(), NOW + timedelta(days=1))
        assert (layout.snapshots / frozen.SPARE / "public").is_dir()
        return layout

    def test_it_becomes_the_next_without_a_new_link_but_for_what_is_new(self, pruned: Layout) -> None:
        kept = (pruned.snapshots / frozen.SPARE / "public/images/tiny/1").stat().st_ino
        (pruned.public / "page").write_text("3")
        (pruned.public / ".tmp-half").touch()
        assert snapshot(pruned, NOW + timedelta(days=2)) == "20261123-0830.0 (hardlink)"
        assert not (pruned.latest / ".tmp-half").exists()
        assert trees.marks(pruned.public) == trees.marks(pruned.latest)
        assert (pruned.latest / "images/tiny/1").stat().st_ino == kept
        assert not (pruned.snapshots / frozen.SPARE).exists()

    def test_it_holds_nothing_that_went(self, pruned: Layout) -> None:
        shutil.rmtree(pruned.image(image("20260101_00:00")))
        (pruned.public / "page").write_text("3")
        snapshot(pruned, NOW + timedelta(days=2))
        shutil.rmtree(pruned.image(image("20260101_00:01")))
        prune(pruned, rules(pruned), Decisions(), NOW + timedelta(days=9))
        assert not list(pruned.snapshots.glob(f"{frozen.SPARE}/**/20260101_00:01"))

    def test_nor_what_was_withdrawn_at_once(self, pruned: Layout) -> None:
        gone = image("20260101_00:00").path
        purge(pruned, [gone], lambda: None, rules(pruned))
        assert not [*pruned.root.glob(f"**/{gone}")]

    @limits(deadline=None)  # of a machine that is busy
    @given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(("", "x", "x/y", "z"))), max_size=12))
    def test_any_tree_becomes_any_other(self, files_of: list[tuple[str, str]]) -> None:
        with tempfile.TemporaryDirectory() as made:
            tops = [Path(made, name) for name in ("old", "new", "other")]
            for tree in tops:
                tree.mkdir()
            for number, (first, rest) in enumerate(files_of):
                path = tops[number % 2] / first / rest
                if not path.exists() and not any(one.is_file() for one in path.parents):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(str(number))
            trees.link(tops[0], tops[2] / "it")
            trees.align(tops[1], tops[2] / "it")
            assert trees.marks(tops[1]) == trees.marks(tops[2] / "it")
            assert below(tops[1]) == below(tops[2] / "it")


def test_a_clone_that_is_read_stays_until_its_reader_has_gone(tmp_path: Path) -> None:
    with VOLUMES["zfs"](tmp_path) as volume:
        layout = Layout(volume / "root")
        place(layout, image(A), listed=1)
        snapshot(layout, NOW)
        place(layout, image(A), image(B), listed=2)
        snapshot(layout, NOW)
        reader = (layout.snapshots / "20261121-0830.0/public/site-id").open()
        here = (layout.snapshots / "20261121-0830.0").resolve()
        frozen.drop(layout, "20261121-0830.0")
        assert snapshots(layout) == ["20261121-0830.1"]
        assert (here / "public/site-id").exists()
        reader.close()
        frozen.drop(layout, "20261121-0830.1")
        assert remains(layout, "zfs") == []


def test_a_back_end_that_the_file_system_has_not(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "root")
    layout.public.mkdir(parents=True)
    for wanted in ("btrfs", "zfs", "cephfs"):
        with pytest.raises(TreeError, match=r"snapshot.backend: .*root/site.*auto would take hardlink"):
            frozen.backend(layout, wanted)


def test_on_btrfs_a_plain_directory_is_frozen_by_hard_links(tmp_path: Path) -> None:
    with btrfs(tmp_path) as volume:
        layout = Layout(volume / "root")
        layout.public.mkdir(parents=True)
        place(layout, image(A), listed=1)
        assert snapshot(layout, NOW) == "20261121-0830.0 (hardlink)"
        with pytest.raises(TreeError, match="no subvolume of its own"):
            frozen.backend(layout, "btrfs")


def test_on_btrfs_without_its_programs_there_are_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with btrfs(tmp_path) as volume:
        layout = Layout(volume / "root")
        with monkeypatch.context() as here:  # what unmounts it is needed again
            here.setenv("PATH", str(tmp_path))
            frozen.prepare(layout, "auto")
            place(layout, image(A), listed=1)
            assert snapshot(layout, NOW) == "20261121-0830.0 (hardlink)"


def test_the_demo_can_be_removed_on_btrfs(tmp_path: Path) -> None:
    with btrfs(tmp_path) as volume:
        for name in ("tasks", "jenkins"):
            shutil.copytree(CHECKOUT / name, volume / name)
        for name in ("dodo.py", "pyproject.toml"):
            shutil.copy(CHECKOUT / name, volume / name)
        env = {name: value for name, value in os.environ.items() if name != "PUBLISH_CONFIG"}
        argv = [sys.executable, "-m", "doit", "publish"]
        subprocess.run(argv, cwd=volume, env=env, check=True, capture_output=True, timeout=120)
        shutil.rmtree(volume / ".demo")


def test_who_is_not_root_freezes_and_removes_on_btrfs() -> None:
    need_root()
    with tempfile.TemporaryDirectory() as work, btrfs(Path(work)) as volume:
        Path(work).chmod(0o755)  # pytest's own directories are for root alone
        os.chown(volume, 65534, 65534)
        child = os.fork() or _as_nobody(Layout(volume / "root"))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _as_nobody(layout: Layout) -> int:
    try:
        os.setgid(65534)
        os.setuid(65534)
        frozen.prepare(layout, "auto")
        place(layout, image(A), listed=1)
        assert snapshot(layout, NOW) == "20261121-0830.0 (btrfs)"
        frozen.drop(layout, "20261121-0830.0")
        assert os.listdir(layout.snapshots) == []
        os._exit(os.EX_OK)
    finally:
        os._exit(1)


def test_init_makes_a_directory_on_btrfs_a_subvolume(tmp_path: Path, server: Standin, key: Key) -> None:
    with btrfs(tmp_path / "work") as volume:
        site = Site(volume, server, key, more='[snapshot]\nbackend = "hardlink"\n')
        matrix(site.ci, TINY)
        build(site.ci, TINY)
        (volume / "root/site").mkdir(parents=True)
        site.publish()
        before = site.tree("latest")
        site.more = '[snapshot]\nbackend = "btrfs"\n'
        site.configure()
        refused = site.doit("publish")
        assert refused.code == 2
        assert "doit init makes it one" in refused.out
        unfinished = volume / "root/.tmp-site"
        run("btrfs", "subvolume", "create", unfinished)
        (unfinished / "half").touch()
        said = site.doit("init")
        assert said.code == 0, said.out
        assert "root/site is a subvolume now; snapshots by btrfs" in said.out
        assert not unfinished.exists()
        assert not (volume / "root/site/half").exists()
        assert "(btrfs)" in site.publish().out
        assert site.tree("latest").keys() == before.keys()
        assert "nothing changed" in site.publish().out
        assert site.doit("verify").code == 0
        assert "snapshots by btrfs" in site.doit("init").out
