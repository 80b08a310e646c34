"""Several mirrors: in parallel, in groups, flipped, cut for a while, asked what they show; real rsync."""

import json
import os
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import servers
import sites
from mirrors import push, terms
from msgspec import ValidationError, convert
from sites import Site, build, matrix, wait_for
from tools import need

from tasks import files
from tasks.errors import MadeWay, ProgramFailed, ProgramStalled
from tasks.fleet import Fleet
from tasks.layout import Layout
from tasks.mirrored import is_current, record
from tasks.programs import run
from tasks.rsync import Rsync, Watch, literal
from tasks.settings import Mirror, Span

A, B = "tiny/1/amd64/default", "tiny/1/arm64/default"
NOW = datetime(2026, 11, 21, 8, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def two(site: Site) -> Site:
    need("rsync")
    matrix(site.ci, A, B)
    build(site.ci, A, B)
    site.lines = 'keep = 1\ngrace = "0s"\n'
    return site


def read(tree: Path) -> dict[str, bytes]:
    """What a web server would give out of a directory, without what hides."""
    found = {}
    for top, _, names in os.walk(tree, followlinks=True):
        where = Path(top).relative_to(tree)
        if not any(part.startswith(".") for part in where.parts):
            found |= {str(where / name): (Path(top) / name).read_bytes() for name in names}
    return found


def flipped(path: Path) -> Mirror:
    return Mirror(name="eu1", url=str(path), flip=True)


def test_a_flipped_mirror_shows_all_its_indexes_by_one_link(two: Site) -> None:
    layout, there = Layout(two.root), two.mirror
    for day in range(3):
        build(two.ci, A)
        two.publish()
        before = os.readlink(there / ".index/now") if day else ""
        line = push(flipped(there), terms(layout, NOW + day * HOUR, grace=Span(0)))
        assert line.startswith(os.readlink(layout.latest).split("/")[1]), line
        assert read(there) == read(two.latest)
        now = os.readlink(there / ".index/now")
        assert now != before
        assert [one.name for one in (there / ".index").iterdir() if not one.is_symlink()] == [now]
        assert {one.name for one in there.iterdir() if one.is_symlink()} == {
            one.name for one in two.latest.iterdir()
        } - {"images", "site-id"}
    assert is_current(flipped(there), terms(layout, NOW + 3 * HOUR, grace=Span(0)))


def test_the_link_is_there_at_every_instant_and_its_index_fits_its_signature(two: Site) -> None:
    """Whoever resolved the link finds a pair; whoever resolves it finds one of them."""
    layout, there = Layout(two.root), two.mirror
    two.publish()
    push(flipped(there), terms(layout, NOW))
    good, seen, faults, done = set(), set(), list[str](), threading.Event()

    def fitting(tree: Path) -> tuple[bytes, ...]:
        return tuple((tree / f"meta/1.0/index-system{end}").read_bytes() for end in ("", ".asc"))

    def look() -> None:
        while not done.is_set():
            try:
                seen.add(fitting((there / ".index/now").resolve(strict=True)))
                read_through = (there / "streams/v1/index.json").read_bytes()
                assert read_through
            except Exception as error:
                faults.append(repr(error))

    with ThreadPoolExecutor(1) as pool:
        good.add(fitting(two.latest))
        reading = pool.submit(look)
        for day in range(1, 4):
            build(two.ci, A)
            two.publish()
            good.add(fitting(two.latest))
            push(flipped(there), terms(layout, NOW + day * HOUR))
        done.set()
        reading.result()
    assert faults == []
    assert seen
    assert seen <= good


def test_a_mirror_is_flipped_from_now_on_or_not_any_more(two: Site) -> None:
    layout, there = Layout(two.root), two.mirror
    two.publish()
    for flip in (False, True, False):
        mirror = Mirror(name="eu1", url=str(there), flip=flip)
        assert not is_current(mirror, terms(layout, NOW))
        push(mirror, terms(layout, NOW))
        assert is_current(mirror, terms(layout, NOW))
        assert read(there) == read(two.latest)
        assert (there / "streams").is_symlink() is flip
        assert (there / ".index").exists() is flip


def test_a_flipped_mirror_keeps_what_it_named_for_grace(two: Site) -> None:
    layout, there = Layout(two.root), two.mirror
    two.publish()
    push(flipped(there), terms(layout, NOW))
    build(two.ci, A)
    two.publish()
    two.publish()
    for minutes, images in ((0, 2), (59, 2), (61, 1)):
        push(flipped(there), terms(layout, NOW + timedelta(days=1, minutes=minutes)))
        assert len(list((there / f"images/{A}").iterdir())) == images, minutes


def pair(base: Path) -> list[Mirror]:
    return [Mirror(name=name, url=str(base / name), group="eu", retries=0) for name in ("eu1", "eu2")]


def index(mirror: Mirror) -> bytes:
    return Path(mirror.url, "streams/v1/images.json").read_bytes()


@pytest.fixture
def group(two: Site) -> list[Mirror]:
    """Two mirrors behind one name that have the first snapshot, where there is a second by now."""
    mirrors = pair(two.base)
    two.publish()
    push(mirrors[0], terms(Layout(two.root), NOW), mirrors[1])
    assert is_current(mirrors[1], terms(Layout(two.root), NOW)), "one pushes to all of its group"
    build(two.ci, A)
    two.publish()
    return mirrors


@contextmanager
def in_the_way(mirror: Mirror) -> Iterator[None]:
    """A file where the mirror should be mounted."""
    place = Path(mirror.url)
    place.rename(place.with_name("away"))
    place.touch()
    yield
    place.unlink()
    place.with_name("away").rename(place)


def test_a_group_waits_for_one_that_cannot_take_the_images(two: Site, group: list[Mirror]) -> None:
    one, other = group
    layout, before = Layout(two.root), index(one)
    now = terms(layout, NOW + HOUR)
    fleet = Fleet(group)
    with in_the_way(other):
        said = {mirror.name: fleet.push(mirror, now, {"eu1", "eu2"}, "") for mirror in group}
    until = f"{NOW + 2 * HOUR:%Y-%m-%d %H:%M} UTC at most"
    assert said["eu1"] == f"waits for eu2, of its group, until {until}; the images are there"
    assert said["eu2"] == f"failed: {other.url} is no directory"
    assert index(one) == before
    assert len(list(Path(one.url, f"images/{A}").iterdir())) == 2
    assert not is_current(one, now)
    assert [bool(record(layout, mirror).failed) for mirror in group] == [False, True]
    push(one, terms(layout, NOW + 2 * HOUR), other)
    assert read(Path(one.url)).items() >= read(two.latest).items()
    assert index(other) == index(one) == (two.latest / "streams/v1/images.json").read_bytes()
    assert all(is_current(mirror, terms(layout, NOW + 2 * HOUR)) for mirror in group)
    assert record(layout, other).since == 0


def test_a_group_goes_on_without_one_that_failed_for_grace(two: Site, group: list[Mirror]) -> None:
    one, other = group
    layout, before = Layout(two.root), index(one)
    with in_the_way(other):
        for minutes, waits in ((0, True), (59, True), (61, False)):
            line = push(one, terms(layout, NOW + timedelta(minutes=minutes)), other)
            assert ("waits for eu2" in line) is waits, minutes
            assert (index(one) == before) is waits
    assert index(one) == (two.latest / "streams/v1/images.json").read_bytes()
    assert is_current(one, terms(layout, NOW + timedelta(minutes=62)), [other])
    push(other, terms(layout, NOW + timedelta(minutes=62)), one)
    assert index(other) == index(one)


def test_what_is_withdrawn_at_once_waits_for_no_other_of_the_group(two: Site, group: list[Mirror]) -> None:
    one, other = group
    layout = Layout(two.root)
    gone = {str(path.relative_to(one.url)) for path in Path(one.url, f"images/{A}").iterdir()}
    with in_the_way(other):
        for path in gone:
            shutil.rmtree(two.latest / path, ignore_errors=True)
        assert "is at" in push(one, terms(layout, NOW, gone), other)
    assert not any(Path(one.url, path).exists() for path in gone)
    assert index(one) != index(other)


def test_nothing_goes_that_another_of_the_group_still_names(two: Site, group: list[Mirror]) -> None:
    """One switched, the other could not: what its index names stays on both, until grace after it did."""
    one, other = group
    two.publish()  # prunes what the first snapshot named
    layout, images = Layout(two.root), Path(one.url, f"images/{A}")
    blocking = Path(other.url, "streams/v1/images.json")
    blocking.unlink()
    (blocking / "full").mkdir(parents=True)
    assert "is at" in push(one, terms(layout, NOW), other)
    late = NOW + timedelta(minutes=59)
    assert record(layout, other).since == int(NOW.timestamp())
    push(one, terms(layout, late), other)
    assert len(list(images.iterdir())) == 2, "before grace after the first switched"
    shutil.rmtree(blocking)
    push(other, terms(layout, late), one)
    assert index(one) == index(other)
    for minutes, there in ((61, 2), (118, 2), (120, 1)):
        for mirror in group:
            others = [other if mirror is one else one]
            now = terms(layout, NOW + timedelta(minutes=minutes))
            if not is_current(mirror, now, others):
                push(mirror, now, *others)
        assert len(list(images.iterdir())) == there, minutes
    assert [*record(layout, one).lapsing, *record(layout, other).lapsing] == []


def test_a_push_that_was_cut_is_begun_again(two: Site, tmp_path: Path) -> None:
    """The daemon comes up while the pause lasts."""
    two.publish()
    (tmp_path / "served").mkdir()
    with servers.rsyncd({"images": tmp_path / "served"}, tmp_path) as url:
        pass
    mirror = Mirror(name="eu1", url=f"{url}/images/", retries=3, pause=Span(7))
    rsync, waited = Rsync(mirror), list[float]()
    with ExitStack() as stack:

        def wait(seconds: float) -> None:
            waited.append(seconds)
            if len(waited) == 3:
                stack.enter_context(servers.rsyncd({"images": tmp_path / "served"}, tmp_path, at=url))

        rsync.wait = wait
        rsync.push([], two.latest.resolve())
    assert waited == [7, 14, 28]
    assert read(tmp_path / "served") == read(two.latest)


def test_what_does_not_pass_is_not_tried_again(two: Site, tmp_path: Path) -> None:
    rsync = Rsync(Mirror(name="eu1", url=str(tmp_path / "no/such/place")))
    rsync.wait = lambda _: pytest.fail("it waited")
    with pytest.raises(ProgramFailed, match="code 11"):
        rsync.push([], two.base)


def test_ssh_gets_the_operators_options_and_never_asks(two: Site, tmp_path: Path) -> None:
    two.publish()
    with servers.sshd(tmp_path) as ssh:
        url = f"mirror.example.org:{two.mirror}/"
        mirror = Mirror(name="eu1", url=url, ssh=f'-F "{ssh.config}"', retries=0)
        assert "is at" in push(mirror, terms(Layout(two.root), NOW))
        assert read(two.mirror) == read(two.latest)
        ssh.identity.unlink()  # it would ask for a password now, of whoever is there
        with pytest.raises(ProgramFailed, match=r"Permission denied|code 255"):
            Rsync(mirror).read("site-id")


def test_a_daemons_password_comes_from_a_file(two: Site, tmp_path: Path) -> None:
    two.publish()
    two.mirror.mkdir()
    (tmp_path / "secrets").write_text("publisher:open sesame\n")
    (tmp_path / "secrets").chmod(0o600)
    told = f"auth users = publisher\nsecrets file = {tmp_path}/secrets\nread only = no\nuse chroot = no\n"
    ids = "uid = root\ngid = root\n" if os.geteuid() == 0 else ""
    with servers.rsyncd_as(f"[images]\npath = {two.mirror}\n{told}{ids}", tmp_path) as url:
        there = f"{url.replace('://', '://publisher@')}/images/"
        mirror = Mirror(name="eu1", url=there, password_file=tmp_path / "password", retries=0)
        (tmp_path / "password").write_text("wrong\n")
        (tmp_path / "password").chmod(0o600)
        assert "auth failed" in push(mirror, terms(Layout(two.root), NOW))
        (tmp_path / "password").write_text("open sesame\n")
        assert "is at" in push(mirror, terms(Layout(two.root), NOW))
    assert read(two.mirror) == read(two.latest)


@pytest.mark.parametrize("bandwidth", ["20M", "0.5G", "100", "1500K"])
def test_a_bandwidth_is_one_that_rsync_takes(two: Site, bandwidth: str) -> None:
    assert convert({"name": "a", "url": "/b", "bandwidth": bandwidth}, Mirror).bandwidth == bandwidth
    two.publish()
    push(Mirror(name="eu1", url=str(two.mirror), bandwidth=bandwidth), terms(Layout(two.root), NOW))
    assert read(two.mirror) == read(two.latest)


@pytest.mark.parametrize("bandwidth", ["fast", "-1", "20 M", "20MB/s", "1e3"])
def test_another_is_refused(bandwidth: str) -> None:
    with pytest.raises(ValidationError):
        convert({"name": "a", "url": "/b", "bandwidth": bandwidth}, Mirror)


def test_one_that_says_nothing_keeps_no_other_from_its_images(two: Site) -> None:
    """It accepts the connection, and that is all."""
    near = Mirror(name="near", url=str(two.base / "near"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        two.more = (
            f'[[mirror]]\nname = "silent"\nurl = "rsync://127.0.0.1:{port}/x/"\ntimeout = "1h"\n'
            '[[mirror]]\nname = "near"\nurl = "near"\n'
        )
        publishing = two.start("publish")
        try:
            wait_for(lambda: record(Layout(two.root), near).snapshot)
            assert publishing.poll() is None
        finally:
            publishing.terminate()
            publishing.communicate()
    assert read(two.base / "near") == read(two.latest)


def test_a_mirror_of_a_part_has_just_that_and_follows_the_configuration(two: Site) -> None:
    """Another part of the same snapshot is another push, and what is no part any more goes after grace."""
    two.lines = 'keep = 2\ngrace = "0s"\n'
    for match, flip, there in (
        ('["*/*/amd64"]', "false", {A}),
        ('["*"]', "true", {A, B}),
        ('["*/*/arm64"]', "true", {B}),
    ):
        two.more = f'[[mirror]]\nname = "eu1"\nurl = "mirror"\nmatch = {match}\nkeep = 1\nflip = {flip}\n'
        two.configure()
        build(two.ci, A)
        two.publish()
        two.publish()
        images = {
            str(path.parent.relative_to(two.mirror / "images"))
            for path in two.mirror.glob("images/*/*/*/*/*")
        }
        assert images == there
        products = json.loads((two.mirror / "streams/v1/images.json").read_bytes())["products"]
        assert {key.replace(":", "/") for key in products} == there
        assert all(len(product["versions"]) == 1 for product in products.values())
        assert two.publish().executed == ["poll"]


def test_status_says_what_each_mirror_has_and_how_soon(two: Site) -> None:
    far = '[[mirror]]\nname = "far"\nurl = "rsync://127.0.0.1:1/images/"\nretries = 0\n'
    two.more = f'[[mirror]]\nname = "near"\nurl = "near"\n{far}'
    two.publish(code=1)
    newest = os.readlink(two.latest).split("/")[1]
    told = two.doit("status").out
    assert re.search(
        rf"^mirror near: {newest}, \d+ s after it was published, at {two.base}/near$", told, re.MULTILINE
    )
    assert (
        "mirror far: nothing yet, at rsync://127.0.0.1:1/images/; behind\n    failed: rsync ended with"
        in told
    )
    near, away = json.loads(two.doit("status", "--json").out)["mirrors"]
    assert (near["snapshot"], near["latest"], near["failed"], near["since"]) == (newest, True, "", 0)
    assert (away["snapshot"], away["latest"], away["lag"]) == ("", False, None)
    assert away["since"] > 0
    assert re.search(r"failed: .*refused.* \(for \d+ s\)", told)


def test_a_mirror_is_asked_where_clients_find_it(two: Site, tmp_path: Path) -> None:
    """Another directory is served there, or a cache's copy: that is no success."""
    layout, shown = Layout(two.root), tmp_path / "shown"
    two.publish()
    shutil.copytree(two.latest, tmp_path / "elsewhere")
    shown.symlink_to("elsewhere")
    build(two.ci, A)
    two.publish()
    newest = os.readlink(two.latest).split("/")[1]
    with servers.nginx(shown, tmp_path) as web:
        mirror = Mirror(name="eu1", url=str(two.mirror), probe=f"{web.url}/", ca=web.ca)
        two.mirror.mkdir()
        (two.mirror / "images/stray").mkdir(parents=True)
        now = replace(terms(layout, NOW), clock=lambda: datetime.now(UTC))
        said = Fleet([mirror]).push(mirror, now, {"eu1"}, "eu1")
        assert re.fullmatch(
            rf"failed: everything is there, but {web.url}/ \(probe\) shows 2\S+ of 2\S+Z, not {newest}: is .*",
            said,
        )
        assert record(layout, mirror).lag is None
        assert not (two.mirror / "images/stray").exists()
        assert not is_current(mirror, now)
        files.point(shown, str(two.mirror))
        assert re.fullmatch(rf"{newest} is at \S+, seen \d+ s after it was published", push(mirror, now))
        assert record(layout, mirror).lag is not None
        assert not (two.mirror / "images/stray").exists()
        assert is_current(mirror, now)
        assert f"GET /trace?{newest} HTTP" in web.log.read_text()
    build(two.ci, A)
    two.publish()
    assert re.match(
        r"failed: everything is there, but probe: https://localhost:\d+/trace\?\S+: ", push(mirror, now)
    ), "nobody answers there"
    assert read(two.mirror).items() >= read(two.latest).items()


def test_a_trace_that_rsync_cannot_read_back_is_no_success(two: Site, tmp_path: Path) -> None:
    two.publish()
    two.mirror.mkdir()
    ids = "uid = root\ngid = root\n" if os.geteuid() == 0 else ""
    module = f"[images]\npath = {two.mirror}\nread only = no\nuse chroot = no\nexclude = /trace\n{ids}"
    with servers.rsyncd_as(module, tmp_path) as url:
        said = push(Mirror(name="eu1", url=f"{url}/images/", retries=0), terms(Layout(two.root), NOW))
    assert said.startswith("failed: ")


@pytest.mark.parametrize("flip", [False, True], ids=["in place", "flipped"])
@pytest.mark.parametrize("match", ["*", "*/*/amd64"])
def test_verify_names_what_is_wrong_on_a_mirror_and_adopting_it_mends_that(
    two: Site, flip: bool, match: str
) -> None:
    two.lines = 'keep = 1\ngrace = "1h"\n'
    told = f'match = ["{match}"]\nflip = {str(flip).lower()}\n'
    two.more = f'[[mirror]]\nname = "eu1"\nurl = "mirror"\n{told}'
    two.publish()
    build(two.ci, A)
    two.publish()
    assert len(list(two.mirror.glob(f"images/{A}/*"))) == 2, "one of them is there for grace alone"
    clean = two.doit("verify", "--mirror=eu1")
    assert (clean.code, "is, byte for byte, what it should be" in clean.out) == (0, True), clean.out
    image = max(two.mirror.glob(f"images/{A}/*/rootfs.tar.xz"))
    damaged = bytearray(image.read_bytes())
    damaged[100] ^= 1
    for path, data in ((image, bytes(damaged)), (two.mirror / "streams/v1/index.json", b"x")):
        seen = path.stat()
        path.write_bytes(data)
        os.utime(path, ns=(seen.st_mtime_ns, seen.st_mtime_ns))
    lost = image.with_name("image.yaml")
    lost.unlink()
    (two.mirror / "images/stray").touch()
    found = two.doit("verify", "--mirror=eu1")
    index = (two.mirror / "streams/v1/index.json").resolve().relative_to(two.mirror.resolve())
    where = image.parent.relative_to(two.mirror)
    assert found.code == 1
    assert {line for line in found.out.splitlines() if ": " in line and "verify" not in line} == {
        f"{where}/rootfs.tar.xz: differs",
        f"{where}/image.yaml: is missing",
        f"{index}: differs",
        "images/stray: does not belong there",
    }
    assert "mirror eu1: 4 faults; doit mirror --adopt=eu1 brings it again" in found.out
    assert two.doit("mirror", "--adopt=eu1").code == 0
    assert two.doit("verify", "--mirror=eu1").code == 0
    assert two.doit("verify", "--mirror=eu2").code == 3


def test_one_that_hears_nothing_is_ended_and_one_that_reads_is_not(tmp_path: Path) -> None:
    """rsync itself takes what it sends into a line that was cut for a sign of life."""
    with pytest.raises(ProgramStalled, match=r"sleep was ended: nothing came for 2 s"):
        run(["sleep", "600"], timeout=600, watch=Watch(["sleep"], 2, None))
    with pytest.raises(MadeWay):
        run(["sleep", "600"], timeout=600, watch=Watch(["sleep"], 0, lambda: True))
    with pytest.raises(ProgramFailed, match=r"did not end within 1 s"):
        run(["sleep", "600"], timeout=1)
    reading = 'for i in 1 2 3 4 5 6 7 8; do read line < "$0"; sleep 0.5; done; cat'
    (tmp_path / "line").write_text("x\n")
    argv = ["bash", "-c", reading, tmp_path / "line"]
    assert run(argv, stdin=b"input", timeout=600, watch=Watch(["bash"], 2, None)) == b"input"


def test_a_push_makes_way_for_a_run_that_waits_and_goes_on_after_it(two: Site) -> None:
    """One file lasts: what is withdrawn meanwhile is gone from here before that file has come."""
    two.lines = 'keep = 3\nbatch_time = "1s"\n'
    two.publish()
    (old,) = (path.name for path in two.latest.glob(f"images/{A}/*"))
    two.more = '[[mirror]]\nname = "slow"\nurl = "slow"\nbandwidth = "1M"\n'
    two.configure()
    build(two.ci, A, content={A: sites.files(A, payload=os.urandom(12 << 20))})
    there, started = two.base / "slow", [two.start("publish")]
    try:
        wait_for(lambda: any(there.rglob(".rootfs.squashfs.*")), 60)
        started.append(two.start("withdraw", "--now", f"{A}/{old}"))
        wait_for(lambda: not (two.latest / f"images/{A}/{old}").exists(), 60)
        assert started[0].poll() is None, "it goes on"
        assert not (there / "streams").exists()
        (said, _), (withdrawn, _) = (one.communicate(timeout=120) for one in started)
    finally:
        for one in started:
            one.kill()
            one.communicate()
    assert [one.returncode for one in started] == [0, 0], said + withdrawn
    assert "lock        waiting for another run" in withdrawn
    assert said.count("lock        makes way for another run, and goes on after it\n") == 1
    assert read(there) == read(two.latest)
    assert not any(there.rglob(".partial"))


def test_indexes_that_were_shown_and_never_recorded_count_too(two: Site) -> None:
    """A push that ended in the middle of them: clients may hold those all the same."""
    layout, mirror = Layout(two.root), Mirror(name="eu1", url=str(two.mirror), retries=0)
    images = two.mirror / f"images/{A}"
    two.publish()
    push(mirror, terms(layout, NOW))
    build(two.ci, A)
    two.publish()
    page = two.mirror / "index.html"
    page.unlink()
    (page / "full").mkdir(parents=True)
    assert push(mirror, terms(layout, NOW)).startswith("failed: ")
    assert index(mirror) == (two.latest / "streams/v1/images.json").read_bytes()
    shutil.rmtree(page)
    build(two.ci, A)
    two.publish()
    two.publish()
    assert len(list(two.latest.glob(f"images/{A}/*"))) == 1, "the origin has pruned both"
    for minutes, there in ((0, 3), (59, 3), (61, 1)):
        push(mirror, terms(layout, NOW + timedelta(days=1, minutes=minutes)))
        assert len(list(images.iterdir())) == there, minutes


@pytest.mark.parametrize("name", ["a[b]c", r"a\b", "a*", "a?", " a", "a#"])
@pytest.mark.parametrize("below", ["", "/***"])
def test_a_name_that_looks_like_a_pattern_is_spared_and_no_other(
    tmp_path: Path, name: str, below: str
) -> None:
    there, rules = tmp_path / "there", tmp_path / "rules"
    for one in (name, "abc", "ab", "x"):
        (there / "images" / one / "20260101").mkdir(parents=True)
    (tmp_path / "source/images").mkdir(parents=True)
    rules.write_text(f"protect /{literal(f'images/{name}', below)}\n")
    Rsync(Mirror(name="x", url=str(there))).push(["--delete", f"--filter=merge {rules}"], tmp_path / "source")
    assert [one.name for one in (there / "images").iterdir()] == [name]
