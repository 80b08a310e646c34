"""Mirrors as operators have them: a path, an rsync daemon, ssh; real rsync, real order."""

import os
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import servers
from mirrors import phase, phases, push, terms
from sites import Site, build, matrix
from tools import need, need_root

from tasks.config import unreadable
from tasks.errors import TreeError
from tasks.layout import Layout
from tasks.mirrored import is_current
from tasks.page import links
from tasks.settings import Mirror

DELETE = ["--delete", "--existing", "--ignore-existing"]

A, B = "tiny/1/amd64/default", "tiny/1/arm64/default"


def content(tree: Path) -> dict[str, bytes]:
    return {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


@pytest.fixture
def two(site: Site) -> Site:
    need("rsync")
    matrix(site.ci, A, B)
    build(site.ci, A, B)
    return site


def mirrored(site: Site, url: str, destination: Path) -> None:
    """First push, a later one, and one that deletes, all end equal."""
    site.lines = 'keep = 1\ngrace = "0s"\n'
    site.more = f'[snapshot]\nkeep = 1\nkeep_for = "0s"\n[[mirror]]\nname = "eu1"\nurl = "{url}"\n'
    site.publish()
    assert content(destination) == content(site.latest)
    (destination / "images/stray").mkdir()
    (destination / "images/stray/file").write_text("left behind")
    build(site.ci, A)
    site.publish()
    assert content(destination) == content(site.latest)
    assert len(list(destination.glob(f"images/{A}/*"))) == 2, (
        "the delisted image goes with the next run at the earliest"
    )
    site.publish()
    assert len(list(destination.glob(f"images/{A}/*"))) == 1
    assert content(destination) == content(site.latest)
    assert site.publish().executed == ["poll", "prune"], "of the snapshot before alone"
    assert site.publish().executed == ["poll"]


def test_a_local_path(two: Site) -> None:
    mirrored(two, "a mirror", two.base / "a mirror")


def test_an_rsync_daemon(two: Site, tmp_path: Path) -> None:
    destination = tmp_path / "served"
    destination.mkdir()
    with servers.rsyncd({"images": destination}, tmp_path) as url:
        mirrored(two, f"{url}/images/", destination)


def test_ssh(two: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    destination = tmp_path / "over ssh"
    with servers.sshd(tmp_path) as ssh:
        monkeypatch.setenv("RSYNC_RSH", ssh.rsh)
        destination.mkdir()
        mirrored(two, f"mirror.example.org:{destination}/", destination)


def test_a_mirror_that_is_away_is_named_and_others_go_on(two: Site) -> None:
    two.more = '[[mirror]]\nname = "gone"\nurl = "rsync://127.0.0.1:1/images/"\nretries = 0\n[[mirror]]\nname = "near"\nurl = "near"\n'
    result = two.publish(code=1)
    assert re.search(r"failed: mirror gone: rsync ended with code \d+", result.out)
    assert content(two.base / "near") == content(two.latest)
    again = two.publish(code=1)
    assert "mirror:gone" in again.executed
    assert "mirror:near" not in again.executed


def test_no_index_ever_names_a_file_that_is_not_there(two: Site, tmp_path: Path) -> None:
    """After every phase by itself the mirror is whole: images first, indexes next, deletions last."""
    two.lines = 'keep = 1\ngrace = "0s"\n'
    two.publish()
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for _ in range(3):
        build(two.ci, A)
        two.publish()
        page, key = two.latest / "index.html", two.latest / "key.asc"
        before = (mirror / "index.html").read_bytes() if (mirror / "index.html").exists() else b""
        (mirror / "key.asc").unlink(missing_ok=True)
        for number, options in enumerate([*phases(), DELETE]):
            phase(options, two.latest, mirror)
            index = mirror / "streams/v1/images.json"
            named = set(re.findall(r'"path": "([^"]+)"', index.read_text())) if index.exists() else set()
            assert not [path for path in named if not (mirror / path).is_file()]
            for listed in mirror.glob("meta/1.0/index-*[mr1-4]"):
                for line in listed.read_text().splitlines():
                    assert (mirror / line.split(";")[5].strip("/") / "rootfs.tar.xz").is_file()
            # The key comes with the streams, and the page after them.
            assert (mirror / "key.asc").exists() == (number >= 5)
            there = (mirror / "index.html").read_bytes() if (mirror / "index.html").exists() else b""
            assert there == (page.read_bytes() if number >= 6 else before)
            assert [link for link in {*links(there)} - {"key.asc"} if not (mirror / link).is_file()] == []
        assert (mirror / "key.asc").read_bytes() == key.read_bytes()


def test_an_index_of_equal_size_and_time_is_pushed(two: Site, tmp_path: Path) -> None:
    two.publish()
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for options in phases():
        phase(options, two.latest, mirror)
    for name in ("streams/v1/index.json", "index.html", "key.asc"):
        stale = mirror / name
        seen = stale.stat()
        stale.write_bytes(b"x" * seen.st_size)
        os.utime(stale, ns=(seen.st_mtime_ns, seen.st_mtime_ns))
    for options in phases():
        phase(options, two.latest, mirror)
    assert content(mirror) == content(two.latest)


NOW = datetime(2026, 11, 21, 8, 30, tzinfo=UTC)


def test_what_a_mirror_named_stays_for_grace_after_that_mirror_switched(two: Site) -> None:
    """Also on one that was away while the origin delisted, waited, and pruned."""
    two.lines = 'keep = 1\ngrace = "0s"\n'
    mirror = Mirror(name="eu1", url=str(two.mirror))
    layout = Layout(two.root)

    def give(now: datetime) -> int:
        push(mirror, terms(layout, now))
        assert content(two.latest).items() <= content(two.mirror).items()
        return len(list(two.mirror.glob(f"images/{A}/*")))

    two.publish()
    assert give(NOW) == 1
    build(two.ci, A)
    two.publish()
    two.publish()
    assert len(list(two.latest.glob(f"images/{A}/*"))) == 1, "the origin has pruned it"
    assert not is_current(mirror, terms(layout, NOW))
    assert give(NOW + timedelta(days=7)) == 2
    assert is_current(mirror, terms(layout, NOW + timedelta(days=7, minutes=59)))
    assert not is_current(mirror, terms(layout, NOW + timedelta(days=7, minutes=61))), (
        "time alone brings work"
    )
    assert give(NOW + timedelta(days=7, minutes=61)) == 1
    assert is_current(mirror, terms(layout, NOW + timedelta(days=9)))
    assert content(two.mirror) == content(two.latest)


@pytest.mark.parametrize("remote", [False, True], ids=["path", "daemon"])
def test_nothing_is_deleted_where_the_tree_is_not_ours(two: Site, tmp_path: Path, remote: bool) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("do not delete")
    with servers.rsyncd({"other": other}, tmp_path) as url:
        two.more = f'[[mirror]]\nname = "eu1"\nurl = "{f"{url}/other/" if remote else other}"\n'
        result = two.publish(code=2)
        assert "is not empty and has no site-id" in result.out
        assert "doit mirror --adopt=eu1" in result.out
        assert content(other) == {"thesis.tex": b"do not delete"}
        (other / "site-id").write_text("somebody else\n")
        assert "is another site's (site-id 'somebody else')" in two.publish(code=2).out
        assert (other / "thesis.tex").exists()
        assert two.doit("mirror", "--adopt=eu2").code == 3
        assert two.doit("mirror", "--adopt=eu1").code == 0
        assert content(other) == content(two.latest)
        assert two.publish().executed == ["poll"]


def test_a_mirror_alone_is_taken_over_by_the_same_option(two: Site) -> None:
    two.more = '[[mirror]]\nname = "eu1"\nurl = "mirror"\n[[mirror]]\nname = "eu2"\nurl = "other"\n'
    for there in (two.mirror, two.base / "other"):
        there.mkdir()
        (there / "foreign").touch()
    two.publish(code=2)
    assert two.doit("mirror:eu1", "--adopt=eu1").code == 0
    assert content(two.mirror) == content(two.latest)
    assert content(two.base / "other") == {"foreign": b""}


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("mirror --adopt=", "--adopt=: the mirrors are eu1, eu2"),
        ("mirror:eu1 --adopt=", "--adopt=: the mirrors are eu1, eu2"),
        ("mirror --adopt=eu1 --adopt=eu2", "--adopt=eu1 --adopt=eu2: one at a time"),
        ("mirror --adopt=eu1 mirror:eu2 --adopt=eu2", "--adopt=eu2 --adopt=eu1: one at a time"),
        ("mirror:eu1 --adopt=eu2", "mirror:eu1 --adopt=eu2: is another mirror"),
        ("verify --mirror=", "--mirror=: the mirrors are eu1, eu2"),
        ("verify --mirror=eu1 --mirror=eu2", "--mirror=eu1 --mirror=eu2: one at a time"),
        *(
            (both, "verify mirror:eu1 would verify what is here, and push: doit verify --mirror=eu1")
            for both in ("verify mirror:eu1", "mirror:eu1 verify")
        ),
        ("mirror verify", "verify mirror would verify what is here, and push: doit verify --mirror=NAME"),
    ],
)
def test_a_command_that_names_no_one_mirror_is_refused(two: Site, command: str, line: str) -> None:
    two.more = '[[mirror]]\nname = "eu1"\nurl = "mirror"\n[[mirror]]\nname = "eu2"\nurl = "other"\n'
    result = two.doit(*command.split())
    assert (result.code, result.out, result.err) == (3, "", f"ERROR: {line}\n")
    assert not two.mirror.exists()


def test_files_for_a_mirror_that_nobody_could_read_are_named_before_anything_is_done(two: Site) -> None:
    two.more = '[[mirror]]\nname = "eu1"\nurl = "mirror"\n'
    two.publish()
    password = two.base / "password"
    two.more += '[[mirror]]\nname = "eu2"\nurl = "h::m"\npassword_file = "password"\n'
    two.more += 'probe = "https://h"\nca = "none"\n'
    two.configure()
    lines = [
        f"mirror 'eu2': password_file: cannot read {password}: No such file or directory\n",
        f"mirror 'eu2': ca: cannot read {two.base}/none: No such file or directory\n",
    ]
    for command in ("publish", "mirror", "mirror:eu2", "verify --mirror=eu2"):
        result = two.doit(*command.split())
        assert (result.code, result.out, result.err) == (3, "", f"ERROR: {''.join(lines)}"), command
    password.write_text("secret\n")
    password.chmod(0o604)
    result = two.doit("mirror:eu2")
    lines[0] = f"mirror 'eu2': password_file: is open to others, and rsync refuses it: chmod o= {password}\n"
    assert (result.code, result.err) == (3, f"ERROR: {''.join(lines)}")
    for command in ("status", "mirror:eu1", "verify --mirror=eu1", "verify"):
        assert two.doit(*command.split()).code == 0, "it needs neither"


@pytest.mark.parametrize(("mode", "owner"), [(0o600, 0), (0o640, 0), (0o604, 0), (0o602, 0), (0o600, 1)])
def test_a_password_is_refused_as_rsync_does(tmp_path: Path, mode: int, owner: int) -> None:
    need("rsync")
    if owner:
        need_root("another user's file takes root; run pytest as root")
    path, secrets = tmp_path / "password", tmp_path / "secrets"
    path.write_text("secret\n")
    path.chmod(mode)
    os.chown(path, owner or os.geteuid(), -1)
    secrets.write_text("me:secret\n")
    secrets.chmod(0o600)
    config = f"[m]\npath = {tmp_path}\nuse chroot = no\nauth users = me\nsecrets file = {secrets}\n"
    with servers.rsyncd_as(config, tmp_path) as url:
        mirror = Mirror(name="eu1", url=f"{url.replace('//', '//me@')}/m/", password_file=path)
        argv = ["rsync", f"--password-file={path}", mirror.url]
        done = subprocess.run(argv, check=False, capture_output=True, text=True)
    refused = any(why in done.stderr for why in ("other-accessible", "must be owned by root"))
    assert (bool([*unreadable([mirror])]), refused) == (mode & 0o006 != 0 or owner != 0,) * 2, done.stderr


def test_a_mirror_that_is_not_mounted_is_not_filled(two: Site) -> None:
    two.more = '[[mirror]]\nname = "eu1"\nurl = "mirror"\n'
    two.publish()
    shutil.rmtree(two.mirror)
    build(two.ci, A)
    result = two.publish(code=2)
    assert "has lost its site-id: is it mounted?" in result.out
    assert not content(two.mirror)


def test_a_mirror_that_never_listed_it_gives_up_what_was_withdrawn_at_once(two: Site) -> None:
    """A file may lie there that no index of the mirror ever named: one of a product in quarantine."""
    two.publish()
    mirror, layout = Mirror(name="eu1", url=str(two.mirror)), Layout(two.root)
    push(mirror, terms(layout, NOW))
    assert is_current(mirror, terms(layout, NOW))
    listed = next(iter(two.latest.glob("images/*/*/*/*/*"))).relative_to(two.latest)
    push(mirror, terms(layout, NOW, {str(listed)}))
    assert not is_current(mirror, terms(layout, NOW, {str(listed)})), "it came from there just now"
    (two.mirror / "images/unlisted").mkdir()
    assert not is_current(mirror, terms(layout, NOW, {"images/unlisted"}))
    push(mirror, terms(layout, NOW, {"images/unlisted"}))
    assert not (two.mirror / "images/unlisted").exists()
    assert is_current(mirror, terms(layout, NOW, {"images/unlisted"}))


def test_a_first_push_that_was_cut_goes_on(two: Site) -> None:
    two.publish()
    two.mirror.mkdir()
    for options in phases()[:2]:
        phase(options, two.latest, two.mirror)
    mirror = Mirror(name="eu1", url=str(two.mirror))
    push(mirror, terms(Layout(two.root), NOW))
    assert content(two.mirror) == content(two.latest)


def test_a_root_that_is_not_mounted_reaches_no_mirror(two: Site) -> None:
    """An empty root is a new site: what it would push is not what the mirror has."""
    two.more = '[[mirror]]\nname = "eu1"\nurl = "mirror"\n'
    two.publish()
    before = content(two.mirror)
    two.root.rename(two.base / "unmounted")
    build(two.ci, A)
    assert "is another site's" in two.publish(code=2).out
    assert content(two.mirror) == before


def test_a_ledger_that_was_lost_in_part_does_not_empty_the_site(two: Site) -> None:
    two.more = '[[mirror]]\nname = "eu1"\nurl = "mirror"\n'
    two.publish()
    before = content(two.latest)
    for path in (two.root / "state").glob("*/tiny:1:amd64:default.json"):
        path.unlink()
    shutil.rmtree(two.root / f"site/public/images/{A}")
    two.ci.job("image-tiny").delete_build(1)
    result = two.publish(code=2)
    assert "1 of 2 products would vanish (tiny/1/amd64/default)" in result.out
    assert "--allow-shrink" in result.out
    assert content(two.latest) == before
    two.publish("--allow-shrink")
    assert list(two.products()) == ["tiny:1:arm64:default"]


def test_the_push_raises_for_a_foreign_tree(two: Site, tmp_path: Path) -> None:
    two.publish()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/file").touch()
    with pytest.raises(TreeError, match="is not empty"):
        push(Mirror(name="x", url=str(tmp_path / "foreign")), terms(Layout(two.root), NOW))
