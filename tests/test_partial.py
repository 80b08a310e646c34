"""Mirrors that get a part of the images: indexes of their own, signed, and nothing named that is not there."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import clients
import pytest
from mirrors import MARK, phase
from servers import nginx
from sites import CHECKOUT, Key, Site, build, files, matrix
from test_mirror import content
from test_serverconfig import generated
from test_upstream import NOBLE, OURS, Ubuntu, followed
from test_upstream_mirror import images, mirrored, ubuntu
from tools import need

from jenkins import standin
from jenkins.controller import Controller
from tasks import config, demo
from tasks.errors import ProofError
from tasks.layout import STREAMS, Layout
from tasks.mirror import DELETE, IMAGES, INDEXES, SHOWN, carried, named
from tasks.partial import View, filters, view
from tasks.settings import Mirror, Settings, Signing
from tasks.sign import Sequoia, keyring, verifier
from tasks.tree import TEMPLATE
from tasks.verify import verify

__all__ = ["followed", "mirrored", "ubuntu"]  # fixtures

A, ARM, CLOUD, BOX = (
    f"tiny/{one}" for one in ("1/amd64/default", "1/arm64/default", "2/amd64/cloud", "4/amd64/default")
)
KEYS = {one: one.replace("/", ":") for one in (A, ARM, CLOUD, BOX)}
PAYLOAD = os.urandom(200_000)
ALL = ("container", "vm", "lxc")
MORE = """
[[list]]
name = "lxd"
client = "lxd"
[[list]]
name = "arms"
client = "incus"
match = ["*/*/arm64"]
[protocols]
rest = true
header_import = true
[jenkins.artifacts]
unified = "tiny-*"
"""
AMD64 = ("*/*/amd64",)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, key: Key) -> Iterator[Site]:
    """Three builds of each product, with deltas; the newest two of one have nothing for LXC."""
    need("xdelta3", "rsync")
    base = tmp_path_factory.mktemp("partial")
    with standin.serve(Controller(base / "jenkins")) as running:
        matrix(running.ci, A, ARM, CLOUD, BOX)
        site = Site(base, running, key, more=MORE, lines="compat = true\n")
        for number in range(3):
            made = {
                A: files(A, kinds=ALL, lxd="differs", payload=PAYLOAD),
                CLOUD: files(CLOUD, kinds=("container",) if number else ("container", "lxc")),
                BOX: files(BOX, kinds=("unified",)),
            }
            build(running.ci, A, ARM, CLOUD, BOX, content=made)
            site.publish()
        yield site


def told(site: Site) -> Settings:
    return config.read(site.config, CHECKOUT)


def made(site: Site, home: Path, source: Path | None = None, **options: Any) -> View:
    mirror = Mirror(name="eu1", url="/nonexistent", **options)
    key = Sequoia(site.key.secret, "")
    return view(source or site.latest.resolve(), mirror, home, told(site), lambda: key)


def products(top: Path, of: str = "") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((top / STREAMS / of / "images.json").read_bytes())["products"]
    return found


def serials(top: Path, product: str) -> list[str]:
    return sorted(products(top)[KEYS[product]]["versions"])


def lines(top: Path, name: str = "index-system") -> list[str]:
    return (top / "meta/1.0" / name).read_text().splitlines()


def push(site: Site, given: View, mirror: Path, *protected: str) -> None:
    """What a push does, phase after phase, with the rules in a file."""
    mirror.mkdir(exist_ok=True)
    source = site.latest.resolve()
    rules = mirror.with_name(f"{mirror.name}.filter")
    rules.write_text("".join(f"protect {one}\n" for one in protected) + filters(given, source))
    chosen = f"--filter=merge {rules}"
    for options in carried(chosen):
        phase(options, source, mirror)
    for options in [MARK, *named()]:
        phase(options, given.indexes, mirror)
    phase([*DELETE, SHOWN, chosen, *IMAGES], source, mirror)
    phase([*DELETE, *INDEXES], given.indexes, mirror)


def images_there(top: Path) -> set[str]:
    return {str(path.relative_to(top)) for path in top.glob("images/*/*/*/*/*")}


def stamps(top: Path) -> dict[str, tuple[int, int]]:
    """Every file and directory, with its time and inode: what «not touched» means."""
    found = ((path, path.lstat()) for path in sorted(top.rglob("*")))
    return {str(path.relative_to(top)): (seen.st_mtime_ns, seen.st_ino) for path, seen in found}


# What is in it


def test_one_architecture_alone(shown: Site, tmp_path: Path) -> None:
    given = made(shown, tmp_path, match=AMD64)
    assert products(given.indexes).keys() == {KEYS[A], KEYS[CLOUD], KEYS[BOX]}
    assert serials(given.indexes, A) == serials(shown.latest, A)
    index = json.loads((given.indexes / STREAMS / "index.json").read_bytes())["index"]
    assert index["images"]["products"] == sorted(products(given.indexes))
    assert {line.split(";")[2] for line in lines(given.indexes)} == {"amd64"}
    assert products(given.indexes, "lxd").keys() == {KEYS[A], KEYS[CLOUD], KEYS[BOX]}
    assert products(given.indexes, "arms") == {}
    assert b"tiny/1/amd64" in (given.indexes / "index.html").read_bytes()
    assert b"tiny/1/arm64" not in (given.indexes / "index.html").read_bytes()
    assert given.paths == {path for path in images_there(shown.latest) if "/amd64/" in path}
    assert given.notes == ()


def test_the_newest_alone_and_no_delta_without_its_base(shown: Site, tmp_path: Path) -> None:
    *_, base, newest = serials(shown.latest, A)
    deltas = {
        serial: [
            item["delta_base"]
            for item in products(given.indexes)[KEYS[A]]["versions"][serial]["items"].values()
            if "delta_base" in item
        ]
        for keep in (1, 2)
        for given in [made(shown, tmp_path, keep=keep)]
        for serial in serials(given.indexes, A)
    }
    assert serials(made(shown, tmp_path, keep=1).indexes, A) == [newest]
    assert deltas == {base: [], newest: [base]}
    assert b"delta_base" not in (made(shown, tmp_path, keep=1).indexes / STREAMS / "images.json").read_bytes()


def test_what_is_the_newest_of_its_kind_stays(shown: Site, tmp_path: Path) -> None:
    """LXC's index names the first image of it, that of containers the last."""
    given = made(shown, tmp_path, keep=1, match=["tiny/2"])
    oldest, _, newest = serials(shown.latest, CLOUD)
    assert given.paths == {f"images/{CLOUD}/{one}" for one in (oldest, newest)}
    assert serials(given.indexes, CLOUD) == [oldest, newest]
    assert [line.split(";")[4] for line in lines(given.indexes)] == [oldest]


def test_it_has_every_file_beside_images_that_the_tree_has(shown: Site, tmp_path: Path) -> None:
    whole = {path for path in content(shown.latest) if not path.startswith("images/")}
    part = content(made(shown, tmp_path, match=AMD64).indexes)
    assert {path for path in whole if not path.startswith("protocols/")} == {
        path for path in part if not path.startswith("protocols/")
    }
    assert {"streams/v1/.images.json.lxd", ".serial", "site-id", "key.asc"} <= part.keys()
    assert part["streams/v1/.images.json.lxd"] == part["streams/v1/lxd/images.json"]
    assert {path for path in part if "/arm64/" in path or "@aarch64" in path} == set()
    assert any(path.startswith("protocols/rest/export/") for path in part)
    assert any(path.startswith("protocols/import/incus/tiny/4@x86_64/") for path in part)


def test_what_matches_all_has_the_bytes_of_the_whole(shown: Site, tmp_path: Path) -> None:
    signed = re.compile(r"\.(gpg|asc|sjson)\b")
    part = content(made(shown, tmp_path, match=["tiny"]).indexes)
    whole = {path: data for path, data in content(shown.latest).items() if not path.startswith("images/")}
    assert part.keys() == whole.keys()
    assert [path for path in part if not signed.search(path) and part[path] != whole[path]] == []


def test_every_file_is_signed(shown: Site, tmp_path: Path) -> None:
    given = made(shown, tmp_path, match=AMD64, keep=1)
    home = clients.gpg_home(shown.key.public, tmp_path / "gpg")
    plain = [path for path in (given.indexes / "streams").rglob("*.json") if path.name[0] != "."]
    plain += (given.indexes / "meta/simplestreams").rglob("images.json")
    plain += [path for path in (given.indexes / "meta/1.0").glob("*") if path.suffix != ".asc"]
    assert len(plain) == 2 * 3 + 3 + 10
    for path in plain:
        suffix = ".asc" if path.parent.name == "1.0" else ".gpg"
        clients.gpg_verify(home, path.with_name(path.name + suffix), path)
        if suffix == ".gpg" and path.name == "images.json":
            assert clients.gpg_clearsigned(home, path.with_suffix(".sjson")) == path.read_bytes()


def test_of_protocols_there_is_what_is_still_spoken(shown: Site, tmp_path: Path) -> None:
    settings = told(shown)
    source, key = shown.latest.resolve(), Sequoia(shown.key.secret, "")
    mirror = Mirror(name="eu1", url="/nonexistent", match=AMD64)
    off = Settings(
        **{
            **{field: getattr(settings, field) for field in settings.__struct_fields__},
            "protocols": type(settings.protocols)(header_import=True),
        }
    )
    given = view(source, mirror, tmp_path, off, lambda: key)
    assert sorted(path.name for path in (given.indexes / "protocols").iterdir()) == ["import"]
    given = view(source, mirror, tmp_path, settings, lambda: key)
    assert sorted(path.name for path in (given.indexes / "protocols").iterdir()) == ["import", "rest"]
    given = view(source, mirror, tmp_path, off, lambda: key)
    assert sorted(path.name for path in (given.indexes / "protocols").iterdir()) == ["import"]
    shutil.copytree(source, before := tmp_path / "before")
    for name, left in (("import", ["rest"]), ("rest", [])):  # as they were of a time without
        shutil.rmtree(before / "protocols" / name)
        given = view(before, mirror, tmp_path / "home", settings, lambda: key)
        assert sorted(path.name for path in given.indexes.glob("protocols/*")) == left


# What clients see


@pytest.mark.parametrize("remote", [clients.incus, clients.lxc], ids=["incus", "lxc"])
def test_clients_list_and_take_what_is_there(shown: Site, tmp_path: Path, remote: Any) -> None:
    push(shown, made(shown, tmp_path / "home", match=AMD64, keep=1), tmp_path / "mirror")
    with nginx(tmp_path / "mirror", tmp_path) as web:
        client = remote(web, tmp_path / "client")
        listed = client.images()
        assert {one["architecture"] for one in listed} == {"x86_64"}
        assert len(listed) == len({one["fingerprint"] for one in listed})
        for one in listed:
            vm = one["type"] == "virtual-machine"
            into = tmp_path / one["fingerprint"]
            assert client.export(one["fingerprint"], into, vm=vm) == one["fingerprint"]
        with pytest.raises(clients.ClientFailed):
            client.info("tiny/1/arm64")
    assert len(listed) == 3 + 3 + 1, (
        "a VM and containers in two forms, an older one for LXC, and one in a file"
    )


def test_lxc_lists_and_takes_what_is_there(shown: Site, tmp_path: Path) -> None:
    push(shown, made(shown, tmp_path / "home", match=AMD64, keep=1), tmp_path / "mirror")
    with nginx(tmp_path / "mirror", tmp_path) as web:
        listed = clients.lxc_list(web, tmp_path / "list")
        assert [one[:4] for one in listed] == [A.split("/"), CLOUD.split("/")]
        for one in listed:
            assert list((clients.lxc_template(web, tmp_path / one[1], *one[:4]) / "rootfs").iterdir())


def test_it_verifies_as_a_site_of_its_own(shown: Site, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshots" / shown.latest.resolve().parent.name  # as its trace says
    snapshot.mkdir(parents=True)
    push(shown, made(shown, tmp_path / "home", match=AMD64, keep=2), snapshot / "public")
    (tmp_path / "latest").symlink_to(snapshot / "public")
    said, settings = list[str](), told(shown)
    check = partial(verifier, settings.signing, [shown.key.public])
    done = verify(Layout(tmp_path), settings.lxc, check, said.append, settings.page)
    assert (done.faults, said) == (0, [])
    assert done.images == 2 + 3 + 2


# What rsync does


def test_rsync_brings_what_is_named_and_takes_away_the_rest(shown: Site, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    shutil.copytree(shown.latest, mirror)
    (mirror / "images/stray").mkdir()
    (mirror / "stray").touch()
    kept, *_ = serials(shown.latest, ARM)
    given = made(shown, tmp_path / "home", match=AMD64, keep=1)
    push(shown, given, mirror, f"/images/{ARM}/{kept}/***")
    assert images_there(mirror) == {*given.paths, f"images/{ARM}/{kept}"}
    push(shown, given, mirror)
    assert images_there(mirror) == given.paths
    assert not (mirror / "stray").exists()
    there = content(mirror)
    assert {path: data for path, data in there.items() if not path.startswith("images/")} == content(
        given.indexes
    )
    assert {path: data for path, data in content(shown.latest).items() if path in there}.keys() == {
        *there
    } - {path for path in there if path.startswith("protocols/") and not (shown.latest / path).exists()}
    push(shown, given, tmp_path / "new")
    assert content(tmp_path / "new") == there


@pytest.mark.parametrize("options", [{}, {"match": AMD64, "keep": 2}], ids=["all", "a part"])
def test_deltas_come_after_images_and_alone(shown: Site, tmp_path: Path, options: Any) -> None:
    source, rules = shown.latest.resolve(), tmp_path / "rules"
    given = made(shown, tmp_path / "home", **options) if options else None
    rules.write_text(filters(given, source) if given else "")
    paths = given.paths if given else images_there(source)
    wanted = {path for path in content(source) if path.rpartition("/")[0] in paths}
    deltas = {path for path in wanted if "/delta-" in path}
    assert {Path(path).suffix for path in deltas} == {".vcdiff", ".asc"}
    for number, those in ((0, wanted - deltas), (2, deltas)):  # between them files of upstreams
        (there := tmp_path / str(number)).mkdir()
        phase(carried(f"--filter=merge {rules}" if given else "")[number], source, there)
        assert content(there).keys() == those


def test_a_rule_hides_a_directory_of_which_nothing_is_wanted(shown: Site, tmp_path: Path) -> None:
    given = made(shown, tmp_path, match=["tiny/1/amd64"], keep=1)
    first, second, _ = serials(shown.latest, A)
    assert filters(given, shown.latest.resolve()).splitlines() == [
        f"hide /images/{A}/{first}",
        f"hide /images/{A}/{second}",
        "hide /images/tiny/1/arm64",
        "hide /images/tiny/2",
        "hide /images/tiny/4",
        "hide /upstream",
    ]


def test_a_name_that_looks_like_a_pattern_hides_itself_alone(tmp_path: Path) -> None:
    source, mirror, rules = tmp_path / "source", tmp_path / "mirror", tmp_path / "rules"
    names = ["a[b]c", "abc", r"a\b", "a*", "a?", "ab", " a", "a#"]
    for name in names:
        (source / "upstream/u" / name).mkdir(parents=True)
    wanted = frozenset({"upstream/u/abc", "upstream/u/ab"})
    rules.write_text(filters(View(tmp_path, wanted), source))
    done = subprocess.run(["rsync", "-r", f"--filter=merge {rules}", f"{source}/", mirror], check=True)
    assert done.returncode == 0
    assert {path.name for path in (mirror / "upstream/u").iterdir()} == {"abc", "ab"}


# Upstreams


def test_of_an_upstream_it_gets_what_matches_by_its_own_names(
    mirrored: Site, ubuntu: Ubuntu, tmp_path: Path
) -> None:
    given = made(mirrored, tmp_path / "home", match=["ubuntu/24.04/amd64", "tiny"], keep=1)
    listed = json.loads((given.indexes / "streams/v1/ubuntu.json").read_bytes())
    assert {key: [*of["versions"]] for key, of in listed["products"].items()} == {
        NOBLE: [max(images(mirrored)[NOBLE]["versions"])]
    }
    assert listed["upstream"] == ubuntu.web.url
    index = json.loads((given.indexes / "streams/v1/index.json").read_bytes())["index"]
    assert index["ubuntu"]["products"] == [NOBLE]
    files = {path for path in given.paths if path.startswith("upstream/")}
    assert len(files) == 4
    push(mirrored, given, tmp_path / "mirror")
    there = {path for path in content(tmp_path / "mirror") if path.startswith("upstream/")}
    assert there == files
    with nginx(
        tmp_path / "mirror", tmp_path / "web", generated(mirrored, f"--tree={tmp_path}/mirror")
    ) as web:
        incus = clients.incus(web, tmp_path / "client")
        found = [one for one in incus.images() if one["properties"]["os"] == "ubuntu"]
        assert len(found) == 3
        for one in found:
            vm = one["type"] == "virtual-machine"
            into = tmp_path / one["fingerprint"]
            assert incus.export(one["fingerprint"], into, vm=vm) == one["fingerprint"]
        assert " 302 " not in web.log.read_text()
    page = (given.indexes / "index.html").read_text()
    assert "24.04" in page
    assert "22.04" not in page


def test_without_any_of_an_upstream_its_list_is_empty(mirrored: Site, tmp_path: Path) -> None:
    given = made(mirrored, tmp_path / "home", match=["tiny"])
    assert json.loads((given.indexes / "streams/v1/ubuntu.json").read_bytes())["products"] == {}
    assert "ubuntu" not in json.loads((given.indexes / "streams/v1/index.json").read_bytes())["index"]
    shutil.copytree(mirrored.latest, tmp_path / "mirror")
    push(mirrored, given, tmp_path / "mirror")
    assert not (tmp_path / "mirror/upstream").exists()
    assert images_there(tmp_path / "mirror") == given.paths
    alone = made(mirrored, tmp_path / "other", match=["ubuntu"])
    push(mirrored, alone, tmp_path / "mirror")
    assert not (tmp_path / "mirror/images").exists()
    assert {path for path in content(tmp_path / "mirror") if path.startswith("upstream/")} == alone.paths


def test_of_an_overlay_it_lists_what_matches_and_has_no_file(followed: Site, tmp_path: Path) -> None:
    given = made(followed, tmp_path, match=["ubuntu/24.04/amd64", "tiny"], keep=1)
    listed = json.loads((given.indexes / "streams/v1/ubuntu.json").read_bytes())["products"]
    assert {key: [*of["versions"]] for key, of in listed.items()} == {
        NOBLE: [max(images(followed)[NOBLE]["versions"])]
    }
    assert {path.rpartition("/")[0] for path in given.paths} == {f"images/{OURS}"}


def test_a_file_of_an_upstream_that_is_not_here_is_told(mirrored: Site, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(mirrored.latest, source)
    lost = min(path for path in content(source) if path.startswith("upstream/"))
    (source / lost).unlink()
    with pytest.raises(ProofError, match=f"{lost} does not exist"):
        made(mirrored, tmp_path / "home", source, match=["ubuntu"])


# When it is made


class Counting(Sequoia):
    """Signs, and counts how often."""

    count = 0

    def detached(self, path: Path) -> bytes:
        self.count += 1
        return super().detached(path)

    def clear(self, text: bytes) -> bytes:
        self.count += 1
        return super().clear(text)


def signed(site: Site, home: Path, source: Path, key: Path = Path(), **options: Any) -> tuple[View, int]:
    """A view, and how many signatures it took."""
    by = Counting(key if key.name else site.key.secret, "")
    mirror = Mirror(name="eu1", url="/nonexistent", **options)
    return view(source, mirror, home, told(site), lambda: by), by.count


def test_nothing_is_made_again_when_nothing_changed(shown: Site, tmp_path: Path) -> None:
    first, count = signed(shown, tmp_path, shown.latest.resolve(), match=AMD64)
    assert count == 2 * 2 * 2 * 3 + 10
    before = stamps(tmp_path)
    mirror = Mirror(name="eu1", url="/nonexistent", match=AMD64)

    def never() -> Sequoia:
        raise AssertionError("nothing is to be signed")

    assert view(shown.latest.resolve(), mirror, tmp_path, told(shown), never) == first
    assert stamps(tmp_path) == before


def test_what_is_the_same_in_the_next_snapshot_keeps_its_time_and_signature(
    shown: Site, tmp_path: Path
) -> None:
    """A new image of another architecture alone changes when the tree was made."""
    source = tmp_path / "next"
    shutil.copytree(shown.latest, source)
    home = tmp_path / "home"
    first, _ = signed(shown, home, shown.latest.resolve(), match=AMD64)
    before, old = stamps(first.indexes), content(first.indexes)
    (source / ".serial").write_text("20991231-2359\n")
    (source / "streams/v1/lxd").rename(source / "streams/v1/newer")
    (source / "meta/simplestreams/v1/lxd").rename(source / "meta/simplestreams/v1/newer")
    (source / "meta/1.0/index-user.1").unlink()
    (source / "meta/1.0/index-user.1.asc").unlink()
    second, count = signed(shown, home, source, match=AMD64)
    assert count == 2 * 2 * 2, "those of the list with a new name"
    after, new = stamps(second.indexes), content(second.indexes)
    assert new[".serial"] == b"20991231-2359\n"
    assert not [path for path in new if "v1/lxd/" in path or "index-user.1" in path]
    same = [path for path in new if path in old and path != ".serial"]
    assert {path: new[path] for path in same} == {path: old[path] for path in same}
    assert {path: after[path] for path in same} == {path: before[path] for path in same}
    assert not list(home.glob(".tmp*"))


@pytest.mark.parametrize("other", [{"match": ["tiny/1"]}, {"match": AMD64, "keep": 1}])
def test_another_choice_is_another_view(shown: Site, tmp_path: Path, other: Any) -> None:
    first = made(shown, tmp_path, match=AMD64)
    assert made(shown, tmp_path, **other).paths != first.paths
    again = content(made(shown, tmp_path, match=AMD64).indexes)
    fresh = content(made(shown, tmp_path / "fresh", match=AMD64).indexes)
    assert again.keys() == fresh.keys()
    name = "streams/v1/images.json"
    assert again[name] == fresh[name]


def test_another_key_signs_all_of_it(shown: Site, tmp_path: Path) -> None:
    home, base = tmp_path / "home", tmp_path / "new"
    first = content(made(shown, home, match=AMD64).indexes)
    base.mkdir()
    demo.make_key(base)
    site = Site(base, shown.server, Key(base / "publisher.asc", base / "publisher.pub.asc"), shown.more)
    site.configure()
    given, count = signed(site, home, shown.latest.resolve(), match=AMD64)
    assert count == 2 * 2 * 2 * 3 + 10
    index = given.indexes / "streams/v1/images.json"
    assert index.read_bytes() == first["streams/v1/images.json"]
    for public in (site.key.public, given.indexes / "key.asc"):
        gpg = clients.gpg_home(public, tmp_path / "gpg")
        clients.gpg_verify(gpg, index.with_name("images.json.gpg"), index)
        clients.gpg_verify(
            gpg, given.indexes / "meta/1.0/index-user.asc", given.indexes / "meta/1.0/index-user"
        )
    older = clients.gpg_home(given.indexes / "key.asc", tmp_path / "gpg")
    clients.gpg_verify(
        older, shown.latest / "streams/v1/index.json.gpg", shown.latest / "streams/v1/index.json"
    )


def test_a_rollback_gives_what_was_listed_then(shown: Site, tmp_path: Path) -> None:
    home = tmp_path / "home"
    now = content(made(shown, home, match=AMD64).indexes)
    first = min(shown.latest.resolve().parents[1].iterdir()) / "public"
    then = made(shown, home, first, match=AMD64)
    assert serials(then.indexes, A) == serials(first, A)
    assert len(serials(first, A)) == 1
    assert then.paths == {path for path in images_there(first) if "/amd64/" in path}
    assert (
        content(made(shown, home, match=AMD64).indexes)["streams/v1/images.json"]
        == now["streams/v1/images.json"]
    )


def test_a_snapshot_in_whose_place_another_came_is_another(shown: Site, tmp_path: Path) -> None:
    """As withdrawing at once leaves it: of the same name, without some lines, with a key more."""
    source, home = tmp_path / "source", tmp_path / "home"
    shutil.copytree(shown.latest, source)
    first = made(shown, home, source, match=AMD64)
    assert len(lines(first.indexes, "index-user")) == 2
    (source / "meta/1.0/index-user").write_text("")
    assert lines(made(shown, home, source, match=AMD64).indexes, "index-user") == []
    (source / ".serial").write_text("another")
    assert (made(shown, home, source, match=AMD64).indexes / ".serial").read_text() == "another"
    document = json.loads((source / STREAMS / "lxd/images.json").read_bytes())
    (source / STREAMS / "lxd/images.json").write_text(json.dumps({**document, "products": {}}))
    assert products(made(shown, home, source, match=AMD64).indexes, "lxd") == {}
    demo.make_key(tmp_path)
    ring = keyring(Signing(key=str(tmp_path / "publisher.asc")), (source / "key.asc").read_bytes())
    (source / "key.asc").write_bytes(ring)
    gpg = clients.gpg_home(made(shown, home, source, match=AMD64).indexes / "key.asc", tmp_path / "gpg")
    signed_by = Sequoia(tmp_path / "publisher.asc", "")
    (tmp_path / "signature").write_bytes(signed_by.detached(source / ".serial"))
    clients.gpg_verify(gpg, tmp_path / "signature", source / ".serial")


@pytest.mark.parametrize("told", ['title = "Ours"', 'template = "own.html"'])
def test_another_page_is_made_again(shown: Site, tmp_path: Path, told: str) -> None:
    home, site = tmp_path / "home", Site(tmp_path, shown.server, shown.key, f"{MORE}\n[page]\n{told}")
    own = tmp_path / "own.html"
    own.write_text(TEMPLATE.read_text().replace("@USE@", "<p>Ours</p>@USE@"))
    made(shown, home, match=AMD64)
    site.configure()
    source = shown.latest.resolve()
    assert b"Ours" in (made(site, home, source, match=AMD64).indexes / "index.html").read_bytes()
    if "template" in told:
        own.write_text(own.read_text().replace("Ours", "Mine"))
        assert b"Mine" in (made(site, home, source, match=AMD64).indexes / "index.html").read_bytes()


def test_what_was_cut_off_is_not_taken_for_whole(shown: Site, tmp_path: Path) -> None:
    half = tmp_path / ".tmp-new/public/streams/v1"
    half.mkdir(parents=True)
    (half / "images.json").write_text("{")
    (half / "stray.json").write_text("{}")
    given = made(shown, tmp_path, match=AMD64)
    assert products(given.indexes).keys() == {KEYS[A], KEYS[CLOUD], KEYS[BOX]}
    assert not (given.indexes / "streams/v1/stray.json").exists()
    (tmp_path / "current/made.json").write_text("{")
    before = content(given.indexes).keys()
    assert content(made(shown, tmp_path, match=AMD64).indexes).keys() == before


DYING = """
import os, signal, sys
from pathlib import Path
from tasks import config
from tasks.partial import view
from tasks.settings import Mirror
from tasks.sign import Sequoia

checkout, home, source, toml, key, number = sys.argv[1:]
seen = 0

def hook(event, arguments):
    global seen
    if event not in ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir") or home not in str(arguments):
        return
    seen += 1
    if seen == int(number):
        os.kill(os.getpid(), signal.SIGKILL)

mirror = Mirror(name="eu1", url="/nonexistent", match=("*/*/amd64",), keep=1)
settings = config.read(Path(toml), Path(checkout))
sys.addaudithook(hook)
view(Path(source), mirror, Path(home), settings, lambda: Sequoia(Path(key), ""))
print(seen)
"""


def test_a_kill_leaves_what_was_there_or_all_that_is_new(shown: Site, tmp_path: Path) -> None:
    """At points all over its work, the last ones close together: there the names change."""
    signature = re.compile(r"\.(gpg|asc|sjson)\b")

    def unsigned(top: Path) -> dict[str, bytes]:
        return {path: data for path, data in content(top).items() if not signature.search(path)}

    def run(home: Path, number: int) -> subprocess.CompletedProcess[str]:
        words = [CHECKOUT, home, shown.latest.resolve(), shown.config, shown.key.secret, number]
        argv = [sys.executable, "-c", DYING, *map(str, words)]
        return subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, check=False)

    before = unsigned(made(shown, tmp_path / "0", match=AMD64, keep=2).indexes)
    done = run(tmp_path / "0", 0)
    assert done.returncode == 0, done.stderr
    after, count = unsigned(tmp_path / "0/current/public"), int(done.stdout)
    assert after != before
    assert count > 100
    seen = set()
    for number in (*range(1, count, count // 6), *range(count - 20, count - 2, 6), count - 1, count):
        home = tmp_path / str(number)
        made(shown, home, match=AMD64, keep=2)
        assert run(home, number).returncode == -signal.SIGKILL
        there = unsigned(home / "current/public")
        assert there in (before, after), number
        seen.add(there == after)
        assert unsigned(made(shown, home, match=AMD64, keep=1).indexes) == after
    assert seen == {False, True}


# What is refused


def test_a_match_that_fits_nothing(shown: Site, tmp_path: Path) -> None:
    before = content(made(shown, tmp_path, match=AMD64).indexes)
    with pytest.raises(ProofError, match="^mirror eu1: match fits no product$"):
        made(shown, tmp_path, match=["*/*/riscv64", "debian"])
    assert content(tmp_path / "current/public") == before
    assert made(shown, tmp_path, match=["*/*/amd64", "debian"]).notes == (
        "mirror.match: 'debian' fits no product",
    )


def test_what_clients_could_not_read(shown: Site, tmp_path: Path) -> None:
    """A file that lacks in the snapshot: said in one line, and what there was stays."""
    source, home = tmp_path / "source", tmp_path / "home"
    shutil.copytree(shown.latest, source)
    before = content(made(shown, home, match=AMD64).indexes)
    *_, newest = serials(source, A)
    (source / f"images/{A}/{newest}/disk.qcow2").unlink()
    said = (
        f"^mirror eu1: clients could not read its indexes: {KEYS[A]}: {newest} disk.qcow2: .* does not exist"
    )
    with pytest.raises(ProofError, match=said):
        made(shown, home, source, match=AMD64)
    assert content(home / "current/public") == before
    assert made(shown, home, source, match=["*/*/arm64"]).paths, "it is nothing to a mirror without it"


def test_what_the_clients_of_a_list_could_not_read(shown: Site, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(shown.latest, source)
    (newest, *_), index = serials(source, A)[::-1], source / STREAMS / "lxd/images.json"
    index.write_text(index.read_text().replace(f"{newest}/disk.qcow2", f"{newest}/disk.img"))
    with pytest.raises(ProofError, match=r"disk\.img does not exist \(in the list lxd\)$"):
        made(shown, tmp_path / "home", source, match=AMD64)


# What a run does with it


TWO = """
[[mirror]]
name = "eu1"
url = "mirror"
match = {match}
keep = 1
[[mirror]]
name = "whole"
url = "whole"
"""


@pytest.fixture
def two(site: Site) -> Site:
    """A site with a mirror of a part, and one of all."""
    need("rsync")
    matrix(site.ci, A, ARM)
    build(site.ci, A, ARM)
    site.more = TWO.format(match='["*/*/amd64"]')
    return site


def test_what_it_names_no_more_stays_for_grace_unless_it_is_withdrawn_at_once(two: Site) -> None:
    two.publish()
    build(two.ci, A, ARM)
    two.publish()
    old, new = serials(two.latest, A)
    assert serials(two.mirror, A) == [new]
    assert images_there(two.mirror) == {f"images/{A}/{old}", f"images/{A}/{new}"}
    assert two.publish().executed == ["poll"]
    assert two.doit("withdraw", "--now", f"{A}/{new}").code == 0
    assert serials(two.mirror, A) == [old]
    assert images_there(two.mirror) == {f"images/{A}/{old}"}
    assert two.doit("withdraw", "--now", f"{A}/{old}").code == 0
    assert images_there(two.mirror) == set(), "a match that did fit is no mistake"
    assert (products(two.mirror), lines(two.mirror)) == ({}, [])


def test_a_match_that_fits_nothing_fails_that_mirror_alone(two: Site) -> None:
    two.publish()
    before = content(two.mirror)
    two.more = TWO.format(match='["*/*/riscv64"]')
    two.configure()
    build(two.ci, A)
    done = two.publish(code=1)
    assert "failed: mirror eu1: match fits no product" in done.out
    assert "failed: mirror eu1: match fits no product" in two.doit("status").out
    assert content(two.mirror) == before
    assert content(two.base / "whole") == content(two.latest)
    two.more = TWO.format(match='["*/*/arm64", "debian"]')
    two.configure()
    done = two.publish()
    assert "; mirror.match: 'debian' fits no product" in done.out
    assert products(two.mirror).keys() == {KEYS[ARM]}
