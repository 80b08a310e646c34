"""Mirrors that pull, by what their administrators run: real rsync, rsyncd, nginx and clients."""

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

import clients
import pytest
import released
import requests
from readers import Reader
from servers import nginx, rsyncd_as
from sites import Site, build, files, matrix, wait_for
from test_serverconfig_rsyncd import family
from test_snapshot import image, place
from test_upstream import Ubuntu, new_key, plain, table
from tools import need, need_root, program

from tasks import page, trace
from tasks.layout import Layout
from tasks.snapshot import snapshot

A = "tiny/1/amd64/default"
NOW = datetime(2026, 11, 21, 8, 30, tzinfo=UTC)


def content(tree: Path) -> dict[str, bytes]:
    return {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


def pulled(layout: Layout, into: Path) -> None:
    """What a plain rsync brings, which compares sizes and seconds."""
    argv = [program("rsync"), "-a", "--delete", "--delay-updates", f"{layout.latest}/", f"{into}/"]
    subprocess.run(argv, check=True, timeout=60)


@pytest.mark.parametrize("step", [1, 7], ids=["each", "some"])
def test_a_plain_pull_sees_each_of_many_publications_in_a_second(tmp_path: Path, step: int) -> None:
    layout, into = Layout(tmp_path / "root"), tmp_path / "pulled"
    place(layout, image("20260101_00:00"), listed=1)
    names = ("streams/v1/images.json", "meta/1.0/index-system", "page", "protocols/rest/x")
    for name in names:
        (layout.public / name).parent.mkdir(parents=True, exist_ok=True)
    for number in range(22):
        for name in names:
            (layout.public / name).unlink(missing_ok=True)
            (layout.public / name).write_text(f"{number:04d}")
        snapshot(layout, NOW)
        if number % step == 0:
            pulled(layout, into)
            assert content(into) == content(layout.latest)


def test_what_is_not_replaced_keeps_its_time_and_what_was_frozen_too(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "root")
    place(layout, image("20260101_00:00"), listed=1)
    page, other, old = (layout.public / name for name in ("page", "other", "old"))
    for path in (page, other, old):
        path.write_text("1")
    os.utime(old, (0, 0))
    snapshot(layout, NOW)
    first = layout.latest.resolve()
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    for path in (page, old):
        path.unlink()
        path.write_text("2")
    late = page.stat().st_mtime_ns // 10**9 + 1000
    os.utime(page, (late, late))
    snapshot(layout, NOW)
    assert page.stat().st_mtime == late, "what is later already stays"
    assert old.stat().st_mtime > 1e9
    assert other.stat().st_mtime_ns == before[first / "other"]
    page.unlink()
    os.link(first / "page", page)  # as a rollback brings it back
    snapshot(layout, NOW)
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == before
    page.unlink()
    page.write_text("3")
    snapshot(layout, NOW)
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == before


def test_a_site_at_rest_is_at_rest_however_soon(site: Site) -> None:
    """Times that were put forward are no news to the next run."""
    site.more = "[protocols]\nrest = true\nheader_import = true\n"
    matrix(site.ci, A)
    build(site.ci, A)
    site.publish()
    soon = time.time() + 1000
    for top in ("protocols", "streams", "meta"):
        for path in (site.root / "site/public" / top).rglob("*"):
            os.utime(path, (soon, soon))
    build(site.ci, A)
    site.publish()
    before = site.tree()
    assert max(seen for seen, _ in before.values()) // 10**9 == int(soon) + 1
    for _ in range(2):
        assert site.publish().executed == ["poll"]
    assert site.tree() == before


README = (Path(__file__).parents[1] / "README.md").read_text()
SECTION = README.partition("## Mirrors that pull\n")[2].partition("\n## ")[0]
FLIPPED, STAGED = re.findall(r"(?:^ {4}.*\n)+", SECTION, re.MULTILINE)
(CRON,) = re.findall(r"`(flock [^`]+)`", SECTION)
SLOW = "--bwlimit=400"  # KiB a second: what comes takes a while, and readers look meanwhile
GRACE = 8.0  # seconds


class Looker(Reader):
    """A reader who knows lists of upstreams, and that a mirror's tree is replaced as a whole."""

    seen: set[str]

    def look(self, tree: Path) -> None:
        real, before = tree.resolve(), len(self.faults)
        super().look(tree)
        if tree.resolve() != real:  # of two trees; what is named must be there all the same
            self.faults[before:] = [one for one in self.faults[before:] if "is missing" in one]
        for listed in (tree / "streams/v1/ubuntu.json",):
            if listed.exists():
                document = json.loads(listed.read_bytes())
                for path, digest in digests(document).items():
                    self._file(tree, path, digest)


def digests(document: dict[str, Any]) -> dict[str, str]:
    versions = [one for product in document["products"].values() for one in product["versions"].values()]
    return {item["path"]: item["sha256"] for of in versions for item in of["items"].values()}


def told(block: str, into: Path, url: str) -> str:
    """A recipe of the README for this mirror, and slow."""
    assert "rsync://images.example.org/images/" in block
    text = block.replace("/srv/mirror", str(into)).replace("rsync://images.example.org", url)
    return text.replace("rsync -a ", f"{program('rsync')} -a {SLOW} ")


def done(command: str) -> None:
    ended = subprocess.run(command, shell=True, check=False, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout + ended.stderr


@pytest.fixture
def ubuntu(tmp_path: Path) -> Iterator[Ubuntu]:
    (public := tmp_path / "ubuntu").mkdir()
    with nginx(public, tmp_path / "ubuntu-web", plain) as web:
        yield Ubuntu(public, new_key(tmp_path / "ubuntu-key"), {}, web)


@pytest.fixture
def growing(site: Site, ubuntu: Ubuntu) -> Site:
    """A site whose images are of some size and lapse soon, beside a mirrored upstream."""
    site.lines = f'keep = 1\ngrace = "{GRACE:.0f}s"\n'
    site.more = f'[snapshot]\nkeep = 2\nkeep_for = "60s"\n{table(ubuntu, mode=quoted("mirror"))}'
    matrix(site.ci, A)
    grow(site, ubuntu)
    return site


def quoted(text: str) -> str:
    return f'"{text}"'


def grow(site: Site, ubuntu: Ubuntu) -> None:
    """Publish one more image, and one more version of the upstream's."""
    build(site.ci, A, content={A: files(A, kinds=("container", "lxc"), payload=os.urandom(100_000))})
    ubuntu.document = released.products(["24.04"], ["amd64"], 1 + ubuntu.writes // 2)
    ubuntu.publish()
    site.publish()


def there(tree: Path) -> set[str]:
    return {str(path.relative_to(tree)) for path in tree.rglob("incus.tar.xz")}


def test_the_two_lines_of_the_readme_show_one_snapshot_at_any_instant(
    growing: Site, ubuntu: Ubuntu, tmp_path: Path
) -> None:
    need("flock")
    need_root()
    mirror, shown, gone, pulls = tmp_path / "mirror", tmp_path / "mirror/now", set[str](), 0
    mirror.mkdir()
    stop = threading.Event()

    def publish() -> None:
        while not stop.is_set():
            grow(growing, ubuntu)

    with rsyncd_as(growing.doit("serverconfig", "rsyncd").out, tmp_path) as url:
        (mirror / "pull").write_text(told(FLIPPED, mirror, url))
        pull = CRON.replace("/srv/mirror", str(mirror))
        done(f"{pull} 2> /dev/null")  # that there is no `now` yet is said
        before = there(shown)
        with Looker(growing.key.public, shown) as reader, ThreadPoolExecutor() as pool:
            try:
                publishing = pool.submit(publish)
                until = time.monotonic() + 90
                while time.monotonic() < until and (pulls < 5 or not gone) and not publishing.done():
                    done(pull)
                    pulls += 1
                    gone |= before - there(shown)
                    before = there(shown)
            finally:
                stop.set()
            publishing.result()
        assert not reader.faults, reader.faults[:5]
        assert reader.rounds > pulls
        assert gone, "nothing was deleted: this saw too little"
        done(pull)
        assert content(shown.resolve()) == content(growing.latest.resolve())
        assert trace.read((shown / "trace").read_text()).snapshot == growing.latest.resolve().parent.name
        ours = shown / min(there(shown))
        assert ours.stat().st_nlink == 2, "what was there is linked, not fetched"


class Early(Looker):
    """A reader of a mirror that is only being made, who gives a missing file a moment."""

    moment = 0.0  # seconds

    def look(self, tree: Path) -> None:
        with suppress(FileNotFoundError):
            for link in page.links((tree / "index.html").read_bytes()):
                if link.startswith("images/"):
                    self._file(tree, link, "")
        with suppress(FileNotFoundError):
            for path, digest in digests(json.loads((tree / "streams/v1/ubuntu.json").read_bytes())).items():
                self._file(tree, path, digest)

    def _file(self, tree: Path, path: str, digest: str) -> None:
        until = time.monotonic() + self.moment
        while not (tree / path).exists() and time.monotonic() < until:
            time.sleep(0.01)
        super()._file(tree, path, digest)


def test_in_one_directory_the_first_pull_is_in_order_too(
    growing: Site, ubuntu: Ubuntu, tmp_path: Path
) -> None:
    need_root()
    (mirror := tmp_path / "mirror").mkdir()
    with rsyncd_as(growing.doit("serverconfig", "rsyncd").out, tmp_path) as url:
        first, last = told(STAGED, mirror, url).splitlines()
        with Early(growing.key.public, mirror) as reader:
            done(first)
            assert {path.name for path in mirror.iterdir()} == {"images", "upstream", "key.asc", "site-id"}
            done(last)
        assert not reader.faults, reader.faults[:5]
        assert reader.rounds > 2
        # A publication between the two lines: what is new is shown at once, when all of it has come.
        done(first)
        grow(growing, ubuntu)
        reader = Early(growing.key.public, mirror)
        reader.moment = 1.0
        with reader:
            done(last.replace(SLOW, "--bwlimit=60"))
        assert not reader.faults, reader.faults[:5]
        assert content(mirror) == content(growing.latest.resolve())


def test_in_one_directory_images_come_first_and_deletions_last(
    growing: Site, ubuntu: Ubuntu, tmp_path: Path
) -> None:
    need_root()
    mirror, gone = tmp_path / "mirror", set[str]()
    mirror.mkdir()
    with rsyncd_as(growing.doit("serverconfig", "rsyncd").out, tmp_path) as url:
        lines = told(STAGED, mirror, url)
        done(lines)
        with Looker(growing.key.public, mirror) as reader:
            for _ in range(20):
                grow(growing, ubuntu)
                before = there(mirror)
                done(lines)
                gone |= before - there(mirror)
                assert content(mirror) == content(growing.latest.resolve())
                if gone:
                    break
        assert not reader.faults, reader.faults[:5]
        assert gone, "nothing was deleted: this saw too little"


class Late(Looker):
    """A reader who asks again where the index is another by now: what that named before may be gone."""

    def look(self, tree: Path) -> None:
        index, before = tree / "streams/v1/images.json", len(self.faults)
        old = index.read_bytes()
        super().look(tree)
        if index.read_bytes() != old:
            del self.faults[before:]


def test_one_directory_that_was_away_for_long_keeps_what_its_index_names(
    growing: Site, ubuntu: Ubuntu, tmp_path: Path
) -> None:
    need_root()
    (mirror := tmp_path / "mirror").mkdir()
    with rsyncd_as(growing.doit("serverconfig", "rsyncd").out, tmp_path) as url:
        lines = told(STAGED, mirror, url)
        done(lines)
        growing.lines = 'keep = 1\ngrace = "0s"\n'
        growing.configure()
        old = there(mirror)
        for _ in range(2):
            grow(growing, ubuntu)
        growing.publish()
        assert not old & there(growing.latest), "all that it has is gone at the origin"
        first, last = lines.splitlines()
        with Late(growing.key.public, mirror) as reader:
            done(first)
            assert old < there(mirror)
            done(last.replace(SLOW, "--bwlimit=20"))
        assert not reader.faults, reader.faults[:5]
        assert content(mirror) == content(growing.latest.resolve())


def test_in_one_directory_what_is_replaced_waits_for_the_index_that_says_so(
    growing: Site, tmp_path: Path
) -> None:
    need_root()
    (mirror := tmp_path / "mirror").mkdir()
    with rsyncd_as(growing.doit("serverconfig", "rsyncd").out, tmp_path) as url:
        first, last = told(STAGED, mirror, url).splitlines()
        done(f"{first}\n{last}")
        tree = growing.latest.resolve()
        path = next((tree / "upstream").rglob("*squashfs")).relative_to(tree)
        old = (mirror / path).read_bytes()
        (tree / path).unlink()
        (tree / path).write_bytes(b"another of the same name")
        done(first)
        assert (mirror / path).read_bytes() == old
        done(last)
        assert content(mirror) == content(tree)


def test_the_configuration_says_the_same_lines(site: Site) -> None:
    text = site.doit("serverconfig", "rsyncd").out
    lines = FLIPPED.replace("images.example.org", "HOST")
    assert re.sub(r"(?m)^ {4}", "#     ", lines) in text


@pytest.mark.parametrize("options", [[], ["--safe-links", "-H"]], ids=["plain", "a stock script"])
def test_a_slow_pull_gets_the_snapshot_of_its_start_whatever_is_published(
    options: list[str], site: Site, tmp_path: Path
) -> None:
    need_root()
    site.lines = 'keep = 1\ngrace = "60s"\n'
    matrix(site.ci, A)
    for _ in range(2):
        build(site.ci, A, content={A: files(A, kinds=("container", "lxc"), payload=os.urandom(600_000))})
        site.publish()
    tree, into = site.latest.resolve(), tmp_path / "pulled"
    with rsyncd_as(site.doit("serverconfig", "rsyncd").out, tmp_path) as url:
        argv = [program("rsync"), "-a", "--delete", "--delay-updates", *options]
        subprocess.run([*argv, "--exclude=/streams", f"{url}/images/", f"{into}/"], check=True, timeout=60)
        (into / "images/stray").mkdir()
        build(site.ci, A, content={A: files(A, kinds=("container", "lxc"), payload=os.urandom(600_000))})
        site.publish()
        tree = site.latest.resolve()
        slow = subprocess.Popen([*argv, "--bwlimit=200", f"{url}/images/", f"{into}/"])
        wait_for(lambda: any(path.is_file() for path in into.rglob(".*")))
        halves = family(slow.pid)
        for pid in halves:  # however long the publications take
            os.kill(pid, signal.SIGSTOP)
        try:
            for _ in range(2):
                build(site.ci, A)
                site.publish()
        finally:
            for pid in halves:
                os.kill(pid, signal.SIGCONT)
        assert slow.wait(timeout=120) == 0
        assert site.latest.resolve() != tree
        assert content(into) == content(tree)
        assert not [path for path in into.rglob("*") if path.is_symlink()]
        assert not (into / "images/stray").exists()
        subprocess.run([*argv, f"{url}/images/", f"{into}/"], check=True, timeout=60)
        assert content(into) == content(site.latest)


PREFIX = "/some/prefix"


def under_a_prefix(public: Path, _lists: object, web: Any) -> str:
    """The configuration of a mirror's web server that has much else to serve."""
    (location,) = re.findall(r"`(location [^`]+)`", SECTION)
    server = plain(Path("/nonexistent"), _lists, web).rstrip().removesuffix("}")
    return f"{server} {location.replace('/srv/mirror/now', str(public))} }}"


def test_a_pulled_tree_works_under_a_prefix(site: Site, tmp_path: Path) -> None:
    need_root()
    matrix(site.ci, A)
    build(site.ci, A, content={A: files(A, kinds=("container", "vm", "lxc"))})
    site.publish()
    (mirror := tmp_path / "mirror").mkdir()
    with rsyncd_as(site.doit("serverconfig", "rsyncd").out, tmp_path) as url:
        done(f"exec 2> {tmp_path}/said\n{told(FLIPPED, mirror, url)}")
    assert "--link-dest arg does not exist" in (tmp_path / "said").read_text(), "the first time, and no more"
    with nginx(mirror / "now", tmp_path / "web", under_a_prefix) as root:
        web = replace(root, url=f"{root.url}{PREFIX}")

        def get(url: str) -> requests.Response:
            return requests.get(url, verify=str(web.ca), timeout=20)

        assert get(f"{root.url}/trace").status_code == 404
        shown = trace.read(get(f"{web.url}/trace").text)
        assert shown
        assert shown.snapshot == site.latest.resolve().parent.name
        links = {*page.links(get(f"{web.url}/").content)}
        assert len(links) > 5
        for link in links:
            answer = get(urljoin(f"{web.url}/", quote(link)))
            assert (answer.status_code, answer.content) == (200, (site.latest / link).read_bytes()), link
        remote = clients.incus(web, tmp_path / "home")
        listed = {one["fingerprint"] for one in remote.images()}
        exported = {remote.export("tiny/1", tmp_path / str(vm), vm=vm) for vm in (False, True)}
        assert len(exported) == 2
        assert exported < listed, "of a container there is a tarball, too"
        (serial,) = site.products()["tiny:1:amd64:default"]["versions"]
        assert clients.lxc_list(web, tmp_path / "list") == [[*A.split("/"), serial]]
        rootfs = clients.lxc_create(web, tmp_path / "lxc", *A.split("/"))
        assert (rootfs / "etc/serial").read_text().strip() == serial
