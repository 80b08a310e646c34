"""``[[upstream]] mode = "mirror"``: another server's files here too, checked, and never half of a version."""

import hashlib
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import clients
import cutting
import pytest
import released
from cutting import Cutting
from mirrors import phase, phases
from readers import Reader
from servers import apache, nginx
from sites import CHECKOUT, Site, build, matrix, wait_for
from test_kill import copied, run
from test_serverconfig import generated, get
from test_upstream import DATA, INDEX, JAMMY, NOBLE, OURS, Ubuntu, alone, images, new_key, plain, table

from tasks import settings
from tasks.follow import follow
from tasks.haul import DOWNLOADS, Haul
from tasks.layout import Layout
from tasks.state import Held, load

TOP = "upstream/ubuntu"
LONG = 90  # seconds that a publication may take on a busy machine until it is where it is to be stopped


@pytest.fixture
def ubuntu(tmp_path: Path) -> Iterator[Ubuntu]:
    """A server all of whose files are there."""
    public = tmp_path / "ubuntu"
    public.mkdir()
    with nginx(public, tmp_path / "ubuntu-web", plain) as web:
        document = released.products(["22.04", "24.04"], ["amd64", "arm64"], 2)
        made = Ubuntu(public, new_key(tmp_path / "ubuntu-key"), document, web)
        made.publish()
        yield made


@pytest.fixture
def mirrored(site: Site, ubuntu: Ubuntu) -> Site:
    """A site beside whose own image that server's are."""
    site.lines = 'grace = "0s"\n'
    matrix(site.ci, OURS)
    build(site.ci, OURS)
    site.more = table(ubuntu, mode='"mirror"')
    site.publish()
    return site


def files(tree: Path) -> dict[str, str]:
    """The files of the upstream in a tree, by their paths, with their hashes."""
    found = (path for path in (tree / TOP).rglob("*") if path.is_file())
    return {str(one.relative_to(tree)): hashlib.sha256(one.read_bytes()).hexdigest() for one in found}


def named(site: Site) -> dict[str, str]:
    """What the upstream's document names here, by path."""
    return {
        item["path"]: item["sha256"]
        for product in images(site).values()
        for version in product["versions"].values()
        for item in version["items"].values()
    }


def fetched(ubuntu: Ubuntu, begin: int = 0) -> list[str]:
    """The files that were asked for, other than streams."""
    return [path for _, path, _ in ubuntu.asked()[begin:] if not path.startswith("/streams/")]


def test_incus_lists_and_fetches_from_us_alone(mirrored: Site, ubuntu: Ubuntu, tmp_path: Path) -> None:
    assert files(mirrored.latest) == named(mirrored)
    assert len(named(mirrored)) == 4 * 2 * 4
    asked = len(ubuntu.asked())
    with nginx(mirrored.latest, tmp_path / "web", generated(mirrored)) as web:
        incus = clients.incus(web, tmp_path / "home")
        assert len(incus.images()) == 2 + 4 * 2 * 3
        *_, newest = ubuntu.document["products"][NOBLE]["versions"]
        metadata = released.content(NOBLE, newest, "lxd.tar.xz")
        for vm, root in ((False, "squashfs"), (True, "disk1.img")):
            wanted = hashlib.sha256(metadata + released.content(NOBLE, newest, root)).hexdigest()
            assert incus.export("24.04/amd64", tmp_path / root, vm=vm) == wanted
        assert " 302 " not in web.log.read_text()
    assert len(ubuntu.asked()) == asked
    assert "all good" in mirrored.doit("verify").out


def test_nothing_new_fetches_and_rewrites_nothing(mirrored: Site, ubuntu: Ubuntu) -> None:
    assert len(fetched(ubuntu)) == len(named(mirrored))
    before, asked = mirrored.tree(), len(ubuntu.asked())
    done = mirrored.publish()
    assert "nothing changed" in done.out
    assert mirrored.tree() == before
    assert [status for _, _, status in ubuntu.asked()[asked:]] == ["304", "304"]


def test_a_flipped_byte_is_named_and_comes_again(mirrored: Site, ubuntu: Ubuntu) -> None:
    good = files(mirrored.latest)
    flipped, lost, *_ = sorted(good)
    path = mirrored.latest.resolve() / flipped
    path.write_bytes(b"X" + path.read_bytes()[1:])
    (mirrored.latest.resolve() / lost).unlink()
    done = mirrored.doit("verify")
    assert done.code == 1
    assert f"{flipped}: is not the file that streams/v1/ubuntu.json names" in done.out
    assert f"{lost}: is missing" in done.out
    assert "2 faults" in done.out
    assert f"{flipped}: is not what it was" in mirrored.doit("rebuild").out
    assert (mirrored.root / "site/damaged" / flipped).read_bytes() == path.read_bytes()
    asked = len(ubuntu.asked())
    mirrored.publish()
    assert fetched(ubuntu, asked) == [f"/{flipped.removeprefix(f'{TOP}/')}"]
    assert files(mirrored.latest) == good
    assert "all good" in mirrored.doit("verify").out


@pytest.fixture
def cut(ubuntu: Ubuntu, site: Site) -> Iterator[Cutting]:
    """The same server, but one that does as it is told; the site has nothing of its own and has seen nothing yet."""
    with cutting.serve(ubuntu.public) as server:
        alone(site, ubuntu, url=f'"{server.url}"', mode='"mirror"', match='["ubuntu/24.04/amd64"]')
        yield server


def grow(ubuntu: Ubuntu, size: int) -> str:
    """Make the disk of Noble's newest version that large, in all that is said of it; its path there."""
    product = ubuntu.document["products"][NOBLE]
    serial, version = list(product["versions"].items())[-1]
    items = version["items"]
    data = (f"{serial} ".encode() * size)[:size]
    items["disk1.img"] |= {"size": size, "sha256": hashlib.sha256(data).hexdigest()}
    metadata = released.content(NOBLE, serial, "lxd.tar.xz")
    items["lxd.tar.xz"]["combined_disk1-img_sha256"] = hashlib.sha256(metadata + data).hexdigest()
    ubuntu.publish()
    path: str = items["disk1.img"]["path"]
    (ubuntu.public / path).write_bytes(data)
    return path


def parts(site: Site) -> list[Path]:
    return [path for path in (site.root / "site/parts").rglob("*") if path.is_file()]


def begun(site: Site) -> list[Path]:
    """The files of which 2 MiB came, but for what Python still holds in its buffer."""
    return [path for path in parts(site) if path.stat().st_size > (2 << 20) - io.DEFAULT_BUFFER_SIZE]


def wait_a_moment(condition: Callable[[], bool]) -> bool:
    """Whether something that must not be comes to be within a second."""
    until = time.monotonic() + 1
    while not (found := condition()) and time.monotonic() < until:
        time.sleep(0.01)
    return found


def serials(site: Site, key: str = NOBLE) -> list[str]:
    return sorted(images(site).get(key, {}).get("versions", {}))


def test_what_breaks_off_is_resumed_where_it_broke(site: Site, ubuntu: Ubuntu, cut: Cutting) -> None:
    disk = grow(ubuntu, 3 << 20)
    cut.cut[disk] = [1 << 20, 2 << 20]
    site.publish()
    assert [start for path, start in cut.asked if path == disk] == [0, 1 << 20, 2 << 20]
    assert files(site.latest) == named(site)
    assert not parts(site)


@pytest.mark.parametrize("ends", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_ends_keeps_what_came(
    site: Site, ubuntu: Ubuntu, cut: Cutting, ends: signal.Signals
) -> None:
    disk = grow(ubuntu, 3 << 20)
    cut.stall[disk] = 2 << 20
    process = site.start("publish")
    wait_for(lambda: bool(begun(site)), LONG)
    process.send_signal(ends)
    assert process.wait(10) == {signal.SIGKILL: -9, signal.SIGTERM: 143}[ends]
    process.communicate()
    (part,) = begun(site)
    kept = part.stat().st_size
    cut.stall.clear()
    cut.asked.clear()
    site.publish()
    assert [start for path, start in cut.asked if path == disk] == [kept]
    assert files(site.latest) == named(site)
    assert len(serials(site)) == 2
    assert not parts(site)


@pytest.mark.parametrize(("size", "asked"), [(2, [2 << 20, 0]), (3, [0]), (4, [0])])
def test_a_beginning_of_something_else_is_fetched_again(
    site: Site, ubuntu: Ubuntu, cut: Cutting, size: int, asked: list[int]
) -> None:
    disk = grow(ubuntu, 3 << 20)
    cut.stall[disk] = 2 << 20
    process = site.start("publish")
    wait_for(lambda: bool(begun(site)), LONG)
    process.kill()
    process.communicate()
    cut.stall.clear()
    (part,) = begun(site)
    part.write_bytes(b"X" * (size << 20))
    (part.parent / "wanted no more").touch()
    cut.asked.clear()
    site.publish()
    assert [start for path, start in cut.asked if path == disk] == asked
    assert files(site.latest) == named(site)
    assert not parts(site)


def test_a_server_that_does_not_resume_starts_again(site: Site, ubuntu: Ubuntu, cut: Cutting) -> None:
    disk = grow(ubuntu, 3 << 20)
    cut.cut[disk], cut.ranges = [1 << 20], False
    site.publish()
    assert [start for path, start in cut.asked if path == disk] == [0, 1 << 20]
    assert files(site.latest) == named(site)


def test_other_bytes_than_signed_are_named_and_not_listed(site: Site, ubuntu: Ubuntu, cut: Cutting) -> None:
    """Longer, shorter, and others; all else goes on."""
    older, newer = ubuntu.document["products"][NOBLE]["versions"]
    items = ubuntu.document["products"][NOBLE]["versions"][newer]["items"]
    disk, tar, squashfs = (items[name]["path"] for name in ("disk1.img", "root.tar.xz", "squashfs"))
    cut.instead[disk] = (ubuntu.public / disk).read_bytes() + b"!"
    cut.instead[tar] = (ubuntu.public / tar).read_bytes()[:-1]
    cut.instead[squashfs] = b"X" + (ubuntu.public / squashfs).read_bytes()[1:]
    done = site.publish(code=1)
    for path in (disk, tar, squashfs):
        assert f"failed: upstream ubuntu: {cut.url}/{path}: is not what its signed list names" in done.out
    assert serials(site) == [older]
    assert not {f"{TOP}/{path}" for path in (disk, tar, squashfs)} & files(site.latest).keys()
    assert files(site.latest).keys() > named(site).keys(), "the metadata waits"
    assert json.loads((site.root / "state/lapsing.json").read_bytes()) == {}, "and stays"
    assert "all good" in site.doit("verify").out
    tree = site.tree("site/public", "snapshots")
    assert "is not what its signed list names" in site.publish(code=1).out
    assert site.tree("site/public", "snapshots") == tree
    cut.instead.clear()
    cut.asked.clear()
    site.publish()
    assert {path for path, _ in cut.asked if not path.startswith("streams")} == {disk, tar, squashfs}
    assert serials(site) == [older, newer]
    assert not parts(site)


def test_a_product_keeps_its_last_version_until_the_next_is_whole(
    site: Site, ubuntu: Ubuntu, cut: Cutting
) -> None:
    versions = ubuntu.document["products"][NOBLE]["versions"]
    versions.popitem()
    ubuntu.publish()
    site.publish()
    (old,) = serials(site)
    versions.clear()
    versions["20261120"] = {"items": released.items(NOBLE, "20261120", "new")}
    ubuntu.publish()
    shutil.rmtree(ubuntu.public / "new")
    done = site.publish(code=1)
    assert "not found" in done.out
    assert serials(site) == [old]
    assert files(site.latest) == named(site)
    ubuntu.publish()
    site.publish()
    assert serials(site) == ["20261120"]


def test_files_come_at_once_but_not_all(site: Site, ubuntu: Ubuntu, cut: Cutting) -> None:
    for version in ubuntu.document["products"][NOBLE]["versions"].values():
        cut.stall |= {item["path"]: 1 for item in version["items"].values()}
    process = site.start("publish")
    wait_for(lambda: cut.busy == 4, LONG)
    assert not wait_a_moment(lambda: cut.busy > 4)
    cut.end.set()
    cut.stall.clear()
    out, _ = process.communicate()
    assert process.returncode == 0, out
    assert files(site.latest) == named(site)


def test_a_server_that_is_gone_is_not_asked_for_every_file(site: Site, ubuntu: Ubuntu, cut: Cutting) -> None:
    ubuntu.document = released.products(["24.04"], ["amd64"], 50)
    ubuntu.publish()
    for item in (
        item
        for of in ubuntu.document["products"].values()
        for v in of["versions"].values()
        for item in v["items"].values()
    ):
        cut.cut[item["path"]] = [0] * 9
    done = site.publish(code=1)
    assert "failed: upstream ubuntu: " in done.out
    assert len({path for path, _ in cut.asked if not path.startswith("streams")}) < 12


def test_a_server_that_says_nothing_holds_nobody_up(site: Site, ubuntu: Ubuntu, cut: Cutting) -> None:
    items = [*ubuntu.document["products"][NOBLE]["versions"].values()][-1]["items"]
    cut.stall |= {items[name]["path"]: 0 for name in ("disk1.img", "root.tar.xz", "squashfs", "lxd.tar.xz")}
    layout = Layout(site.root)
    match = ("ubuntu/24.04/amd64",)
    of = settings.Upstream(name="ubuntu", url=cut.url, keyring=ubuntu.key.public, mode="mirror", match=match)
    follow(layout, [of], settings.Share(100))
    coming = Haul(layout, of)
    coming.limit = 0.5
    assert len([*coming.arrive()]) < 5
    assert "missing" in coming.settle()
    held = load(layout.held("ubuntu"), Held)
    assert held
    assert [*held.failed.values()] == [f"{cut.url}: nothing came for 0 s"]


def test_a_full_disk_is_one_line_and_keeps_ours_from_nobody(site: Site, ubuntu: Ubuntu) -> None:
    grow(ubuntu, 3 << 20)
    matrix(site.ci, OURS)
    build(site.ci, OURS)
    site.more = table(ubuntu, mode='"mirror"')
    site.configure()
    words = f"ulimit -f 4096; exec {sys.executable} -m doit publish"  # blocks of 512 bytes
    done = subprocess.run(
        ["sh", "-c", words], cwd=CHECKOUT, env=site.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.count("File too large") == 1, done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert site.products().keys() == {"tiny:1:amd64:default"}
    assert not parts(site)
    assert "all good" in site.doit("verify").out
    site.publish()
    assert files(site.latest) == named(site)


def test_a_disk_that_refuses_is_not_asked_for_every_file(site: Site, ubuntu: Ubuntu) -> None:
    alone(site, ubuntu, mode='"mirror"')
    (site.root / "site/parts").mkdir(parents=True)
    (site.root / "site/parts/ubuntu").touch()
    site.publish(code=1)
    held = load(Layout(site.root).held("ubuntu"), Held)
    assert held
    assert 1 <= len(held.failed) <= DOWNLOADS


def test_files_that_are_gone_are_asked_for_once_and_keep_no_other_away(site: Site, ubuntu: Ubuntu) -> None:
    ubuntu.document = released.products(["20.04", "22.04", "24.04"], ["amd64", "arm64", "s390x"], 2)
    ubuntu.publish()
    gone = [*ubuntu.public.rglob("*-squashfs")]
    assert len(gone) == 3 * 3 * 2
    for path in gone:
        path.unlink()
    alone(site, ubuntu, mode='"mirror"')
    site.publish(code=1)
    asked = fetched(ubuntu)
    assert len(asked) == len({*asked}) == 4 * len(gone)
    held = load(Layout(site.root).held("ubuntu"), Held)
    assert held
    assert {*held.failed} == {f"{TOP}/{path.relative_to(ubuntu.public)}" for path in gone}
    assert len(held.files) == 3 * len(gone)
    lost = site.root / "site/public" / next(path for path in held.files if "-20200101/" in path)
    lost.unlink()
    site.publish(code=1)
    assert lost.exists(), "what failed before comes last"


def test_kinds_and_keep_choose(site: Site, ubuntu: Ubuntu) -> None:
    """In both modes; of containers alone no disk is fetched."""
    newest = [*ubuntu.document["products"][NOBLE]["versions"]][-1]
    for mode in ("mirror", "overlay"):
        alone(site, ubuntu, mode=f'"{mode}"', kinds='["container"]', keep="1")
        site.publish()
        assert {serial for of in images(site).values() for serial in of["versions"]} == {newest}
        wanted = {"root.tar.xz", "squashfs", "lxd.tar.xz", "incus.tar.xz"}
        assert {*images(site)[NOBLE]["versions"][newest]["items"]} == wanted
    assert not [path for path in fetched(ubuntu) if "disk1" in path or newest not in path]
    alone(site, ubuntu, mode='"mirror"', kinds='["vm"]', keep="1")
    site.publish()
    assert {*images(site)[NOBLE]["versions"][newest]["items"]} == {"disk1.img", "lxd.tar.xz", "incus.tar.xz"}
    assert not [path for path in fetched(ubuntu) if newest not in path]


def test_keep_may_be_changed_both_ways(mirrored: Site, ubuntu: Ubuntu) -> None:
    every = named(mirrored)
    for keep, count in (("1", len(every) // 2), ("0", len(every))):
        mirrored.more = table(ubuntu, mode='"mirror"', keep=keep)
        mirrored.configure()
        mirrored.publish()
        assert len(named(mirrored)) == count
    assert named(mirrored) == every


def test_a_path_that_is_none_here_is_left_out(site: Site, ubuntu: Ubuntu) -> None:
    for version in ubuntu.document["products"][NOBLE]["versions"].values():
        version["items"]["disk1.img"]["path"] += " "
    ubuntu.publish()
    alone(site, ubuntu, mode='"mirror"')
    assert "its path has other characters than files here have" in site.publish().out
    assert len(named(site)) == 4 * 2 * 4 - 2
    assert files(site.latest) == named(site)


def test_what_is_listed_no_more_goes_after_the_grace(mirrored: Site, ubuntu: Ubuntu) -> None:
    mirrored.lines = 'grace = "1h"\n'
    mirrored.configure()
    versions = ubuntu.document["products"][NOBLE]["versions"]
    before = files(mirrored.latest)
    versions.pop(min(versions))
    ubuntu.publish()
    done = mirrored.publish()
    gone = before.keys() - named(mirrored).keys()
    assert len(gone) == 4
    assert files(mirrored.latest) == before, "whoever holds the index of a moment ago gets them"
    mirrored.publish()
    assert files(mirrored.latest) == before
    lapsing = mirrored.root / "state/lapsing.json"
    assert json.loads(lapsing.read_bytes()).keys() == gone
    lapsing.write_text(json.dumps(dict.fromkeys(gone, 1)))
    assert "expired: 4 files of upstreams" in mirrored.doit("plan").out
    build(mirrored.ci, OURS)
    done = mirrored.publish("--job=image-tiny")  # asks no upstream what it has
    assert "4 files of upstreams" in done.out
    assert json.loads(lapsing.read_bytes()) == {}, "they are forgotten"
    assert files(mirrored.latest) == named(mirrored)
    assert "nothing changed" in mirrored.publish().out


def test_the_mode_may_be_changed_both_ways_and_the_upstream_removed(mirrored: Site, ubuntu: Ubuntu) -> None:
    every, document = files(mirrored.latest), (mirrored.latest / "streams/v1/ubuntu.json").read_bytes()
    mirrored.more = table(ubuntu)
    mirrored.configure()
    mirrored.publish()
    assert files(mirrored.latest) == every, "until the grace of none is over"
    mirrored.publish()
    assert files(mirrored.latest) == {}
    assert (mirrored.latest / "streams/v1/ubuntu.json").read_bytes() == document
    assert "all good" in mirrored.doit("verify").out
    assert "nothing changed" in mirrored.publish().out
    mirrored.more = table(ubuntu, mode='"mirror"')
    mirrored.configure()
    mirrored.publish()
    assert files(mirrored.latest) == every
    assert (mirrored.latest / "streams/v1/ubuntu.json").read_bytes() == document
    mirrored.more = ""
    mirrored.configure()
    mirrored.publish()
    assert not list(mirrored.latest.rglob("ubuntu.*"))
    mirrored.publish()
    assert not (mirrored.latest / "upstream").exists()
    for place in ("held", "offered"):
        assert not list((mirrored.root / "state" / place).iterdir())
    assert "nothing changed" in mirrored.publish().out


def test_an_upstream_that_is_suddenly_almost_empty_is_not_believed(mirrored: Site, ubuntu: Ubuntu) -> None:
    before, tree = images(mirrored), files(mirrored.latest)
    rest = ubuntu.document["products"]
    ubuntu.document["products"] = {NOBLE: rest[NOBLE]}
    ubuntu.publish()
    for _ in range(2):
        done = mirrored.publish(code=1)
        assert "failed: upstream ubuntu: 3 of 4 products would vanish (" in done.out
        assert images(mirrored) == before
    mirrored.publish("--allow-shrink")
    assert images(mirrored).keys() == {NOBLE}
    mirrored.publish()
    assert files(mirrored.latest).items() < tree.items()


def test_an_older_index_is_not_believed(mirrored: Site, ubuntu: Ubuntu) -> None:
    """Nor older products beside a new index: that does not name their hash."""
    before = {place: (ubuntu.public / f"{place}.sjson").read_bytes() for place in (INDEX, DATA)}
    ubuntu.document["products"][NOBLE]["aliases"] = "new"
    ubuntu.document["updated"] = "Sat, 21 Nov 2026 10:00:01 +0100"
    ubuntu.write(DATA, released.text(ubuntu.document))
    index = json.loads(ubuntu.texts[INDEX])
    ubuntu.write(INDEX, released.text({**index, "updated": "Sun, 22 Nov 2026 00:00:00 +0000"}))
    mirrored.publish()
    assert images(mirrored)[NOBLE]["aliases"] == "new"
    ubuntu.document["updated"] = "Sat, 21 Nov 2026 10:00:02 +0100"
    ubuntu.write(DATA, released.text(ubuntu.document))
    mirrored.publish()  # of the index, which is as it was, the date is known still
    now = {place: (ubuntu.public / f"{place}.sjson").read_bytes() for place in (INDEX, DATA)}
    for place in (INDEX, DATA):
        (ubuntu.public / f"{place}.sjson").write_bytes(before[place])
        done = mirrored.publish(code=1)
        assert f"{place}: is of 'Sat, 21 Nov 2026 08:00:00 +0000', and that of '" in done.out
        assert images(mirrored)[NOBLE]["aliases"] == "new"
        (ubuntu.public / f"{place}.sjson").write_bytes(now[place])
    mirrored.publish()
    (ubuntu.public / f"{DATA}.sjson").write_bytes(before[DATA])
    (mirrored.root / "state/upstream/ubuntu.json").unlink()
    mirrored.publish()
    assert images(mirrored)[NOBLE]["aliases"] == "24.04,u2404"
    ubuntu.write(INDEX, ubuntu.texts[INDEX].replace(b"Sun, 22", b"some day"))
    assert "ubuntu: nothing new" in mirrored.publish().out, "without a date there is nothing to compare"


@pytest.mark.parametrize("lose", [Path.unlink, Path.write_text], ids=["gone", "empty"])
def test_what_is_lost_comes_again_and_is_shown(mirrored: Site, ubuntu: Ubuntu, lose: Any) -> None:
    before, asked = files(mirrored.latest), len(ubuntu.asked())
    lost = min(before)
    for tree in (mirrored.root / "site/public", mirrored.latest.resolve()):
        lose(tree / lost, *([""] if lose is Path.write_text else []))
    mirrored.publish()
    assert files(mirrored.latest) == before
    assert fetched(ubuntu, asked) == [f"/{lost.removeprefix(f'{TOP}/')}"]


def test_a_file_that_is_replaced_there_is_replaced_here(mirrored: Site, ubuntu: Ubuntu) -> None:
    disk = grow(ubuntu, 99)
    mirrored.publish()
    assert (mirrored.latest / TOP / disk).stat().st_size == 99
    assert files(mirrored.latest) == named(mirrored)
    assert "all good" in mirrored.doit("verify").out


def test_what_is_whole_is_shown_while_the_rest_still_comes(site: Site, ubuntu: Ubuntu, cut: Cutting) -> None:
    site.config.write_text(site.config.read_text().replace("[signing]", 'batch_time = "0s"\n[signing]'))
    older, newer = ubuntu.document["products"][NOBLE]["versions"]
    disk = ubuntu.document["products"][NOBLE]["versions"][newer]["items"]["disk1.img"]["path"]
    cut.stall[disk] = 1
    process = site.start("publish")
    wait_for(lambda: (site.latest / "streams/v1/ubuntu.json").exists() and serials(site) == [older], LONG)
    assert process.poll() is None
    assert files(site.latest).items() >= named(site).items()
    cut.stall.clear()
    cut.end.set()
    process.communicate()
    assert serials(site) == [older, newer]


def test_a_rollback_brings_the_files_back(mirrored: Site, ubuntu: Ubuntu) -> None:
    name, before = mirrored.latest.readlink().parts[1], files(mirrored.latest)
    grow(ubuntu, 99)
    versions = ubuntu.document["products"][JAMMY]["versions"]
    versions.pop(min(versions))
    ubuntu.publish()
    grow(ubuntu, 99)
    for _ in range(2):
        mirrored.publish()
    after, asked = files(mirrored.latest), len(ubuntu.asked())
    assert len(after) == len(before) - 4
    assert mirrored.doit("rollback", name).code == 0
    assert named(mirrored).items() <= files(mirrored.latest).items()
    assert named(mirrored) == before
    assert "all good" in mirrored.doit("verify").out
    mirrored.publish()
    assert named(mirrored) == before
    assert fetched(ubuntu, asked) == []
    assert mirrored.doit("rollback", "--release").code == 0
    for _ in range(2):
        mirrored.publish()
    assert files(mirrored.latest) == named(mirrored) == after
    assert "all good" in mirrored.doit("verify").out


def test_what_the_state_forgets_is_not_fetched_again(mirrored: Site, ubuntu: Ubuntu) -> None:
    before = files(mirrored.latest)
    for place in ("held", "offered", "overlays", "upstream"):
        shutil.rmtree(mirrored.root / "state" / place)
    asked = len(ubuntu.asked())
    mirrored.publish()
    assert fetched(ubuntu, asked) == []
    assert files(mirrored.latest) == named(mirrored) == before


@pytest.mark.parametrize(("program", "serving"), [("nginx", nginx), ("apache", apache)])
def test_web_servers_serve_one_and_redirect_to_another(
    mirrored: Site, ubuntu: Ubuntu, tmp_path: Path, program: str, serving: Any
) -> None:
    mirrored.more += table(ubuntu).replace('"ubuntu"', '"other"', 1)
    mirrored.configure()
    path = next(iter(named(mirrored)))
    hidden = mirrored.latest.resolve() / TOP / ".hidden"
    hidden.write_bytes(b"x")
    with serving(mirrored.latest, tmp_path / "web", generated(mirrored, program=program)) as web:
        for base in (web.url, web.http):
            assert get(web, f"{base}/{path}").content == (mirrored.latest / path).read_bytes()
            assert get(web, f"{base}/{TOP}/nothing").status_code == 404
            assert get(web, f"{base}/{TOP}/.hidden").status_code == 404
            assert get(web, f"{base}/upstream/third/a").status_code == 404
            answer = get(web, f"{base}/{path}".replace("/ubuntu/", "/other/", 1))
            assert answer.headers["Location"] == f"{ubuntu.web.url}/{path.removeprefix(f'{TOP}/')}"


def test_what_is_to_come_and_how_it_stands_is_said(mirrored: Site, ubuntu: Ubuntu) -> None:
    path = next(iter(named(mirrored)))
    size = (mirrored.latest / path).stat().st_size
    status = mirrored.doit("status").out
    assert f"upstream ubuntu: 4 products of {ubuntu.web.url}, 32 files here\n" in status
    assert "upstream" not in mirrored.doit("plan").out
    (mirrored.root / "site/public" / path).unlink()
    (ubuntu.public / path.removeprefix(f"{TOP}/")).unlink()
    assert f"fetch: upstream ubuntu: 1 file, {size} bytes" in mirrored.doit("plan").out
    mirrored.publish(code=1)
    status = mirrored.doit("status").out
    assert ", 31 files here\n" in status
    assert "    failed: 1 file did not come\n" in status


def test_a_mirror_gets_files_first_and_loses_them_last(
    mirrored: Site, ubuntu: Ubuntu, tmp_path: Path
) -> None:
    mirrored.more += '[[mirror]]\nname = "near"\nurl = "mirror"\n'
    mirrored.lines = 'grace = "1h"\n'
    mirrored.configure()
    mirrored.publish()
    assert files(mirrored.mirror) == files(mirrored.latest) == named(mirrored)
    for number, some in enumerate((phases()[:3], phases()[3:])):
        target = tmp_path / f"phase{number}"
        for options in some:
            phase(options, mirrored.latest, target)
        assert files(target) == ({} if number else files(mirrored.latest))
        assert (target / "streams").exists() == bool(number)
    versions, before = ubuntu.document["products"][NOBLE]["versions"], files(mirrored.mirror)
    versions.pop(min(versions))
    ubuntu.publish()
    mirrored.publish()
    gone = before.keys() - named(mirrored).keys()
    lapsing = mirrored.root / "state/lapsing.json"
    lapsing.write_text(json.dumps(dict.fromkeys(gone, 1)))
    mirrored.publish()
    assert files(mirrored.latest) == named(mirrored)
    assert files(mirrored.mirror) == before, "the clock of a mirror is its own"
    record = mirrored.root / "state/mirrors/near.json"
    known = json.loads(record.read_bytes())
    assert known["lapsing"].keys() == gone
    record.write_text(json.dumps({**known, "lapsing": dict.fromkeys(gone, 1)}))
    mirrored.publish()
    assert files(mirrored.mirror) == named(mirrored)


def test_a_kill_leaves_nothing_half_made(
    mirrored: Site, ubuntu: Ubuntu, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """While files come, are noted, listed, or go: the next runs end where an undisturbed one would."""
    versions, base = ubuntu.document["products"][NOBLE]["versions"], tmp_path_factory.mktemp("kills")
    versions.pop(min(versions))
    versions["20261120"] = {"items": released.items(NOBLE, "20261120", "new")}
    ubuntu.publish()
    model = copied(mirrored, base / "model")
    model.publish()
    wanted = named(model)
    moments = []
    for operation in ("rename", "sync"):
        log, copy = base / f"{operation}.log", copied(mirrored, base / operation)
        assert run(copy, log, operation, 0).returncode == 0
        ours = [
            (operation, number)
            for number, line in enumerate(log.read_text().splitlines(), start=1)
            if re.search("/site/parts|/public/upstream|/state/(.tmp-)?(held|offered|overlays)", line)
        ]
        moments += ours[:: max(1, len(ours) // 3)][:3]
    assert len(moments) == 6
    for operation, number in moments:
        site, log = copied(mirrored, base / f"{operation}{number}"), base / f"{operation}{number}.log"
        assert run(site, log, operation, number).returncode == -9
        where = log.read_text().splitlines()[-1]
        reader = Reader(site.key.public, site.latest)
        reader.look(site.latest)
        assert not reader.faults, where
        assert named(site).items() <= files(site.latest).items(), where
        site.publish()
        assert named(site) == wanted, where
        assert wanted.items() <= files(site.latest).items(), where
        assert not parts(site), where
        assert not list(site.root.rglob(".tmp-*")), where


@pytest.mark.parametrize(("program", "serving"), [("nginx", nginx), ("apache", apache)])
def test_a_dated_remote_gives_what_was_its_own_whatever_the_mode_is_now(
    mirrored: Site, ubuntu: Ubuntu, program: str, serving: Any
) -> None:
    old = mirrored.latest.resolve().parent.name
    path = next(one for one in sorted(files(mirrored.latest)) if one.startswith("upstream/"))
    mirrored.more = mirrored.more.replace('mode = "mirror"', 'mode = "overlay"')
    mirrored.configure()
    mirrored.publish()
    mirrored.publish()  # which removes what is not needed here any more
    new = mirrored.latest.resolve().parent.name
    assert old != new
    with serving(mirrored.latest, mirrored.base / "web", generated(mirrored, program=program)) as web:
        assert get(web, f"/at/{old}/{path}").status_code == 200
        sent = get(web, f"/at/{new}/{path}")
        assert sent.status_code == 302
        assert sent.headers["Location"] == f"{ubuntu.web.url}/{path.removeprefix('upstream/ubuntu/')}"
        assert get(web, f"/at/{new}/upstream/other/x").status_code == 404
    mirrored.more = mirrored.more.replace('mode = "overlay"', 'mode = "mirror"')
    mirrored.configure()
    with serving(mirrored.latest, mirrored.base / "again", generated(mirrored, program=program)) as web:
        assert get(web, f"/at/{old}/{path}").status_code == 200
        assert get(web, f"/at/{new}/{path}").headers["Location"] == sent.headers["Location"]
