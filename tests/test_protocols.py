"""The protocols before simplestreams, as the real servers hand them out and the real clients take them."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import clients
import daemons
import pytest
import requests
from busybox import machine
from daemons import Daemon
from mirrors import phase, phases
from servers import Web
from sites import CHECKOUT, Key, Site, build, files, matrix
from test_serverconfig import FAULTS, PRINTED, SERVERS, certificate, generated, web_of

from jenkins import standin
from jenkins.controller import Controller
from tasks import webserver
from tasks.files import digest, fill
from tasks.importurl import importurl
from tasks.layout import PROTOCOLS
from tasks.rest import rest
from tasks.settings import Protocols

__all__ = ["certificate"]  # a fixture

SPLIT, ARM = "tiny/1/amd64/default", "tiny/1/arm64/default"
ODD, LXDS = "tiny/1/amd64/a+b~c", "tiny/3/amd64/default"
BOX, BOX_ARM, CLOUD, OLD = (
    f"tiny/{one}" for one in ("2/amd64/default", "2/arm64/default", "2/amd64/cloud", "4/i386/default")
)
UNIFIED = (BOX, BOX_ARM, CLOUD, OLD)
ON = """
[protocols]
rest = true
header_import = true
"""
SETTINGS = f"""{ON}
[jenkins.artifacts]
unified = "tiny-*"
unified_lxd = "lxd-*"
[[rules]]
match = "tiny/3"
clients = ["lxd"]
support_eol = "2030-04-30"
requirements = {{ privileged = "true" }}
[[mirror]]
name = "near"
url = "mirror"
"""
COMBINED = {
    "incus_combined.tar.gz": "sha256",
    "root.squashfs": "combined_squashfs_sha256",
    "root.tar.xz": "combined_rootxz_sha256",
    "disk.qcow2": "combined_disk-kvm-img_sha256",
}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, key: Key) -> Iterator[Site]:
    """Every kind of image, for both clients and three architectures."""
    base = tmp_path_factory.mktemp("protocols")
    with standin.serve(Controller(base / "jenkins")) as running:
        products = (SPLIT, ARM, ODD, LXDS, *UNIFIED)
        matrix(running.ci, *products)
        content = {one: files(one, kinds=("unified",), lxd="differs") for one in UNIFIED}
        build(running.ci, *products, content={SPLIT: machine(SPLIT), **content})
        site = Site(base, running, key, more=SETTINGS)
        site.publish()
        yield site


@pytest.fixture(scope="module")
def webs(shown: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Web]]:
    """Both web servers as their configuration is printed, nginx on a mirror; one file has both certificates."""
    base = tmp_path_factory.mktemp("web")
    with (
        SERVERS["nginx"](base, base, generated(shown, f"--tree={shown.mirror}", program="nginx")) as nginx,
        SERVERS["apache"](base, base, generated(shown, program="apache")) as apache,
    ):
        (base / "both.pem").write_bytes(nginx.ca.read_bytes() + apache.ca.read_bytes())
        found = {"nginx": nginx, "apache": apache}
        yield {name: replace(web, ca=base / "both.pem") for name, web in found.items()}


@pytest.fixture(params=["nginx", "apache"])
def web(request: pytest.FixtureRequest, webs: dict[str, Web]) -> Web:
    return webs[request.param]


@pytest.fixture(scope="module", params=["incus", "lxd"])
def started(request: pytest.FixtureRequest, webs: dict[str, Web]) -> Iterator[Daemon]:
    with daemons.running(request.param, webs["nginx"].ca) as daemon:
        yield daemon


@pytest.fixture
def daemon(started: Daemon) -> Iterator[Daemon]:
    """A daemon that has no images and knows no server."""
    yield started
    started.clear()


def get(web: Web, path: str, method: str = "GET", **headers: str) -> requests.Response:
    return requests.request(method, f"{web.url}{path}", headers=headers, verify=str(web.ca), timeout=10)


def answer(web: Web, path: str, agent: str = "curl/7.88.1") -> Any:
    """What stands in a good answer."""
    response = get(web, path, **{"User-Agent": agent})
    assert (response.status_code, response.headers["Content-Type"]) == (200, "application/json"), path
    document = response.json()
    assert (document["type"], document["status_code"], document["error"]) == ("sync", 200, "")
    return document["metadata"]


def mark(site: Site, product: str, root: str = "root.squashfs", client: str = "incus") -> str:
    """The fingerprint that the streams give the newest image of a product."""
    versions = site.products()[product.replace("/", ":")]["versions"]
    items = versions[max(versions)]["items"]
    item = root.replace("incus", client) if "combined" in root else f"{client}.tar.xz"
    found: str = items[item][COMBINED[root]]
    return found


def everything(site: Site) -> set[str]:
    """The fingerprints of all images that Incus sees, and of those for LXD alone."""
    found = {mark(site, one, "incus_combined.tar.gz") for one in UNIFIED}
    found |= {mark(site, one, root) for one in (SPLIT, ARM, ODD) for root in ("root.squashfs", "root.tar.xz")}
    found |= {mark(site, LXDS, root, "lxd") for root in ("root.squashfs", "root.tar.xz")}
    return found | {mark(site, SPLIT, "disk.qcow2")}


# The clients


@pytest.mark.parametrize("name", ["incus", "lxc"])
def test_a_client_lists_and_exports_from_a_public_remote(
    name: Any, web: Web, shown: Site, tmp_path: Path
) -> None:
    remote = clients.bare(name, web, tmp_path)
    remote.line(f"{name} remote add pub {web.url} --public")
    assert {image["fingerprint"] for image in remote.images()} == everything(shown)
    for alias, vm, wanted in (
        ("tiny/1", False, mark(shown, SPLIT)),
        ("tiny/1/arm64", False, mark(shown, ARM)),
        ("tiny/1/a+b~c", False, mark(shown, ODD)),
        ("tiny/1/vm", True, mark(shown, SPLIT, "disk.qcow2")),
        ("tiny/2", False, mark(shown, BOX, "incus_combined.tar.gz")),
        ("tiny/3", False, mark(shown, LXDS, client="lxd")),
    ):
        assert f"Fingerprint: {wanted}" in remote.info(alias, vm=vm)
        assert remote.export(alias, tmp_path / alias, vm=vm) == wanted, alias
    assert f"Fingerprint: {mark(shown, ARM)}" in remote.info(mark(shown, ARM)[:12])


def test_a_daemon_takes_images_from_a_public_remote(daemon: Daemon, web: Web, shown: Site) -> None:
    daemon("remote", "add", "pub", web.url, "--public")
    daemon("launch", "pub:tiny/1", "c0")
    (serial,) = shown.products()[SPLIT.replace("/", ":")]["versions"]
    assert daemon("exec", "c0", "--", "cat", "/etc/serial") == f"{serial}\n"
    daemon.copy("tiny/1/amd64/vm", vm=True)
    daemon("image", "copy", "pub:tiny/2", "local:", "--auto-update")
    daemon.copy(mark(shown, LXDS, "root.tar.xz", "lxd")[:12])
    lxds, box = mark(shown, LXDS, "root.tar.xz", "lxd"), mark(shown, BOX, "incus_combined.tar.gz")
    containers = dict.fromkeys((mark(shown, SPLIT), lxds, box), "container")
    assert daemon.images() == {**containers, mark(shown, SPLIT, "disk.qcow2"): "virtual-machine"}
    image = json.loads(daemon("query", f"/1.0/images/{lxds}"))
    assert image["properties"]["requirements.privileged"] == "true"
    assert image["expires_at"] == "2030-04-30T00:00:00Z"


def test_a_daemon_imports_from_a_url(daemon: Daemon, web: Web, shown: Site) -> None:
    daemon("image", "import", f"{web.url}/import/tiny/2", "--alias=box")
    daemon("image", "import", f"{web.url}/import/tiny/2/cloud")
    root = "incus_combined.tar.gz"
    wanted = [mark(shown, one, root, daemon.name) for one in (BOX, CLOUD)]
    assert daemon.images() == dict.fromkeys(wanted, "container")
    with pytest.raises(clients.ClientFailed):
        daemon("image", "import", f"{web.url}/import/tiny/1")  # it is split


# What they are answered

INCUS = "Incus 6.0.4 (Linux; {}; 6.18.44; Debian GNU/Linux; 12) (dir 1)"


def test_every_url_of_the_protocol(web: Web, shown: Site) -> None:
    assert answer(web, "/1.0") == answer(web, "/1.0/") == {
        "api_extensions": [], "api_status": "stable", "api_version": "1.0", "auth": "untrusted", "public": True
    }  # fmt: skip
    images = answer(web, "/1.0/images?recursion=1")
    assert {one["fingerprint"] for one in images} == everything(shown)
    assert answer(web, "/1.0/images") == [f"/1.0/images/{one['fingerprint']}" for one in images]
    assert answer(web, "/1.0/images?recursion=0&project=default") == answer(web, "/1.0/images")
    assert answer(web, "/1.0/images?project=default&recursion=2") == images
    for image in images:
        path = f"/1.0/images/{image['fingerprint']}"
        assert answer(web, path) == answer(web, path[:24]) == answer(web, f"{path}?project=default") == image
        assert all(answer(web, f"/1.0/images/aliases/{one['name']}") for one in image["aliases"])
    aliases = answer(web, "/1.0/images/aliases?recursion=1")
    for alias in aliases:
        for name in (alias["name"], alias["name"].replace("/", "%2F")):
            assert answer(web, f"/1.0/images/aliases/{name}?project=default") == alias
    urls = answer(web, "/1.0/images/aliases")
    assert urls == [
        f"/1.0/images/aliases/{alias['name'].replace('/', '%2F').replace('+', '%2B')}" for alias in aliases
    ]
    names = [alias["name"] for alias in aliases]
    assert len(names) == len({*names})


def test_what_is_not_there_is_said_in_its_words(web: Web, shown: Site) -> None:
    missing = mark(shown, SPLIT)[:-1] + "x"
    paths = ("1.0/x", "1.0/instances", "1.0/images/aliases/tiny/9", "1.0/images/aliases/tiny", "1.0/images/x")
    for path in (
        *paths,
        f"1.0/images/{missing}",
        f"1.0/images/{'0' * 64}/export",
        "1.0/images/1234",
        "1.0/images/aliases/../../1.0.json",
    ):
        response = get(web, f"/{path}")
        assert response.status_code == 404, path
        assert response.json() == {"type": "error", "error": "not found", "error_code": 404}
        assert "Cache-Control" not in response.headers, "what is missing now may be there in a second"


def test_an_image_says_what_the_streams_say(web: Web, shown: Site) -> None:
    (serial,) = shown.products()[LXDS.replace("/", ":")]["versions"]
    place = shown.latest / f"images/{LXDS}/{serial}"
    fingerprint = mark(shown, LXDS, client="lxd")
    stamp = f"{serial[:4]}-{serial[4:6]}-{serial[6:8]}T{serial[9:]}:00Z"
    names = [f"tiny/3{one}" for one in ("", "/amd64", "/default", "/default/amd64")]
    assert answer(web, f"/1.0/images/{fingerprint}") == {
        "aliases": [{"description": "", "name": name} for name in names],
        "architecture": "x86_64",
        "auto_update": False,
        "cached": False,
        "created_at": stamp,
        "expires_at": "2030-04-30T00:00:00Z",
        "filename": "incus.tar.xz",
        "fingerprint": fingerprint,
        "last_used_at": "0001-01-01T00:00:00Z",
        "properties": {
            "architecture": "amd64",
            "description": f"Tiny 3 amd64 ({serial})",
            "os": "Tiny",
            "release": "3",
            "requirements.privileged": "true",
            "serial": serial,
            "type": "squashfs",
            "variant": "default",
        },
        "public": True,
        "size": sum((place / name).stat().st_size for name in ("incus.tar.xz", "rootfs.squashfs")),
        "type": "container",
        "uploaded_at": stamp,
    }


def test_a_name_means_the_image_of_the_asking_architecture(web: Web, shown: Site) -> None:
    """No client tells it in this protocol, but for its User-Agent."""
    amd, arm = mark(shown, SPLIT), mark(shown, ARM)
    for agent, name, wanted in (
        (INCUS.format("x86_64"), "tiny/1", amd),
        (INCUS.format("aarch64"), "tiny/1", arm),
        ("LXD 5.0.2 (Linux; aarch64; 6.1.0; Debian GNU/Linux; 12)", "tiny%2F1%2Fdefault", arm),
        ("Incus 6.0.4 (Darwin; aarch64)", "tiny/1", arm),
        (INCUS.format("aarch64"), "tiny/1/amd64", amd),
        (INCUS.format("riscv64"), "tiny/1", amd),
        (INCUS.format("../1@aarch64"), "tiny/1", amd),
        ("curl/7.88.1", "tiny/1", amd),
        ("curl/7.88.1", "tiny/1/arm64", arm),
        (INCUS.format("x86_64"), "tiny/1/vm", mark(shown, SPLIT, "disk.qcow2")),
        (INCUS.format("x86_64"), "tiny/4", mark(shown, OLD, "incus_combined.tar.gz")),
    ):
        found = answer(web, f"/1.0/images/aliases/{name}", agent)
        assert found["target"] == wanted, (agent, name)
    assert get(web, "/1.0/images/aliases/tiny/1").headers["Vary"] == "User-Agent"


def test_an_import_gets_the_image_of_the_asking_architecture(web: Web, shown: Site) -> None:
    for client in ("Incus", "LXD"):
        for name, architectures, product in (
            ("tiny/2", "x86_64, i686", BOX),
            ("tiny/2", "x86_64", BOX),
            ("tiny/2/default", "aarch64, armv7l", BOX_ARM),
            ("tiny/2", "armv8l,aarch64", BOX_ARM),
            ("tiny/2/cloud", "x86_64, i686", CLOUD),
            ("tiny/4", "x86_64, i686", OLD),
            ("tiny%2F4", "i686", OLD),
        ):
            headers = {f"{client}-Server-Architectures": architectures}
            found = get(web, f"/import/{name}", "HEAD", **headers)
            assert (found.status_code, found.content) == (200, b""), (name, architectures)
            wanted = mark(shown, product, "incus_combined.tar.gz", client.lower())
            (serial,) = shown.products()[product.replace("/", ":")]["versions"]
            file = f"images/{product}/{serial}/{client.lower()}_combined.tar.gz"
            assert digest((shown.latest / file).read_bytes()) == wanted
            for of in ("Incus", "LXD"):
                assert found.headers[f"{of}-Image-Hash"] == wanted
                assert found.headers[f"{of}-Image-URL"] == f"{web.url}/{file}"
            vary = found.headers["Vary"].replace(" ", "").split(",")
            assert sorted(vary) == ["Incus-Server-Architectures", "LXD-Server-Architectures"]
            other = web.url.replace("localhost", "127.0.0.1")
            found = requests.head(f"{other}/import/{name}", headers=headers, verify=str(web.ca), timeout=10)
            assert found.headers[f"{client}-Image-URL"] == f"{other}/{file}"
        for name, architectures in (("tiny/2", "s390x"), ("tiny/2/cloud", "aarch64"), ("tiny/1", "x86_64"),
            ("tiny/2@x86_64", "x86_64"), ("tiny", "x86_64"), ("tiny/2/", "x86_64"), ("", "x86_64")):  # fmt: skip
            found = get(web, f"/import/{name}", "HEAD", **{f"{client}-Server-Architectures": architectures})
            assert found.status_code in (403, 404), (name, architectures)
            assert not {"Incus-Image-Hash", "LXD-Image-URL"} & found.headers.keys()
    assert get(web, "/import/tiny/2").headers["Incus-Image-Hash"] == mark(shown, BOX, "incus_combined.tar.gz")


def test_every_image_goes_out_whole(web: Web, shown: Site) -> None:
    for one in everything(shown):
        response = get(web, f"/1.0/images/{one}/export?project=default", Range="bytes=0-9")
        assert response.status_code == 200
        assert digest(parts(response)) == one
        vm = one == mark(shown, SPLIT, "disk.qcow2")
        assert (b'; name="rootfs.img"; filename="disk.qcow2"\r\n' in response.content) == vm
        assert response.headers["Content-Disposition"] == "inline;filename=image.tar.gz"


def parts(response: requests.Response, body: bytes = b"") -> bytes:
    """The bytes of an image: of its two files, one after the other, or of its one."""
    body = body or response.content
    kind, _, boundary = response.headers["Content-Type"].partition("; boundary=")
    if kind == "application/octet-stream":
        return body
    assert kind == "multipart/form-data"
    start, metadata, root, end = body.split(f"--{boundary}".encode())
    assert not start
    assert end == b"--\r\n"
    return b"".join(one.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for one in (metadata, root))


def printed(program: str, before: str = "") -> Any:
    """The configuration of a server for a tree that no site made."""

    def configured(public: Path, _lists: object, web: webserver.Web) -> str:
        return before + PRINTED[program](public, (), web, older=Protocols(rest=True, header_import=True))

    return configured


@pytest.fixture(params=["nginx", "apache"])
def program(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


DIRECTIVES = (
    b"""<!--#include virtual="/site-id" --><!--#exec cmd="touch '%b'" --><!--#echo var="DATE_LOCAL" -->"""
)


def test_a_large_image_goes_out_whole_to_a_slow_client(program: str, tmp_path: Path) -> None:
    """It holds what a server looks for in the file that names its parts, and nobody looks into it."""
    path, block = f"images/{ODD}/20260101_00:01", DIRECTIVES + bytes(range(256)) * 4096
    (tmp_path / path).mkdir(parents=True)
    (tmp_path / path / "incus.tar.xz").write_bytes(block)
    (tmp_path / path / "rootfs.squashfs").write_bytes(block * 100)
    mark = digest(block * 101)
    items: dict[str, dict[str, Any]] = {
        name: {"ftype": ftype, "path": f"{path}/{name}", "size": 1}
        for name, ftype in (("incus.tar.xz", "incus.tar.xz"), ("rootfs.squashfs", "squashfs"))
    }
    items["incus.tar.xz"]["combined_squashfs_sha256"] = mark
    product = {"arch": "amd64", "aliases": "tiny", "versions": {"20260101_00:01": {"items": items}}}
    fill(tmp_path / "protocols/rest", rest({ODD.replace("/", ":"): product}))
    with SERVERS[program](tmp_path, tmp_path, printed(program)) as web:
        url = f"{web.url}/1.0/images/{mark}/export"
        with requests.get(url, verify=str(web.ca), timeout=20, stream=True) as response:
            chunks = []
            for chunk in response.iter_content(1 << 18):
                chunks.append(chunk)
                if len(chunks) < 100:
                    time.sleep(0.01)  # until all is full that lies between us
    found = digest(parts(response, b"".join(chunks)))
    assert (found, len(block) >= 1 << 20) == (mark, True)


@pytest.mark.parametrize("program", ["nginx"])
def test_while_rsync_brings_the_next_image_both_answers_are_true(program: str, tmp_path: Path) -> None:
    """A mirror gets new files before it loses old ones."""
    files, pairs = dict[str, bytes](), set[tuple[str, str]]()
    for serial in ("20260101_00:01", "20260101_00:02"):
        path, mark = f"images/{BOX}/{serial}/incus_combined.tar.gz", digest(serial.encode())
        item = {"ftype": "incus_combined.tar.gz", "path": path, "sha256": mark}
        product = {"arch": "amd64", "aliases": "tiny", "versions": {serial: {"items": {"x": item}}}}
        files |= importurl({BOX.replace("/", ":"): product})
        pairs.add((mark, path))
    fill(tmp_path / "protocols/import", files)
    with SERVERS[program](tmp_path, tmp_path, printed(program)) as web:
        answers = [get(web, "/import/tiny", "HEAD").headers for _ in range(40)]
    found = {(of["Incus-Image-Hash"], of["Incus-Image-URL"].removeprefix(f"{web.url}/")) for of in answers}
    assert found == pairs


def test_nothing_is_run(program: str, tmp_path: Path) -> None:
    """Not even of a file that is put together, should somebody else write there."""
    (tmp_path / "protocols/rest/export").mkdir(parents=True)
    (tmp_path / "site-id").write_text("us")
    text = DIRECTIVES.replace(b"%b", str(tmp_path / "run").encode())
    for kind in ("whole", "multipart"):
        (tmp_path / f"protocols/rest/export/{'0' * 64}.{kind}").write_bytes(text)
    for name in ("images/a", "streams/v1/images.json", "protocols/rest/images/1234.json", "index.html"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(text)
    # Apache runs what is between `exec` and `-->` by this module alone, which a server may have for others.
    able = "Include /etc/apache2/mods-available/cgi.load\n" if program == "apache" else ""
    with SERVERS[program](tmp_path, tmp_path, printed(program, able)) as web:
        assert get(web, f"/1.0/images/{'0' * 64}/export").content.startswith(b"us")
        for name in ("images/a", "streams/v1/images.json", "1.0/images/1234", "index.html"):
            assert get(web, f"/{name}").content == text
    assert not (tmp_path / "run").exists()


# The files


def test_both_are_off_by_default(site: Site) -> None:
    matrix(site.ci, SPLIT)
    build(site.ci, SPLIT)
    site.publish()
    assert not (site.latest / "protocols").exists()
    for program in ("nginx", "apache"):
        text = site.doit("serverconfig", program).out
        assert not [word for word in ("/1.0/images", "/import", "ssi on", "INCLUDES") if word in text]
        assert "@" not in text.replace("%{", "")


@pytest.fixture
def two(site: Site) -> Site:
    """Published with both on, and a mirror."""
    matrix(site.ci, SPLIT, BOX)
    build(site.ci, SPLIT, BOX, content={BOX: files(BOX, kinds=("unified",))})
    site.more = ON + '[jenkins.artifacts]\nunified = "tiny-*"\n[[mirror]]\nname = "near"\nurl = "mirror"\n'
    site.publish()
    return site


def test_switching_one_off_removes_its_files_here_and_on_mirrors(two: Site) -> None:
    def tops() -> list[set[str]]:
        found = [top / "protocols" for top in (two.latest, two.mirror, two.root / "site/public")]
        return [{path.name for path in top.iterdir()} if top.exists() else set() for top in found]

    assert tops() == [{"rest", "import"}] * 3
    assert "nothing changed" in two.publish().out
    two.more = two.more.replace("rest = true", "rest = false")
    two.configure()
    two.publish()
    assert tops() == [{"import"}] * 3
    text = two.doit("serverconfig", "nginx").out + two.doit("serverconfig", "apache").out
    assert "/1.0/images" not in text
    assert "/import/" in text
    two.more = two.more.replace("header_import = true", "")
    two.configure()
    two.publish()
    assert tops() == [set()] * 3


def older(tree: Path) -> dict[str, bytes]:
    return held(tree / "protocols")


def seen(tree: Path) -> set[str]:
    """The fingerprints that the protocol lists."""
    return {one["fingerprint"] for one in json.loads(older(tree)["rest/images.recursion.json"])["metadata"]}


def test_verify_holds_them_against_the_indexes(shown: Site) -> None:
    done = shown.doit("verify")
    assert done.code == 0, done.out
    top = shown.latest / "protocols"
    gone = next(name for name in older(shown.latest) if name.endswith(".multipart"))
    damage = {"rest/1.0.json": b"x", gone: None, "import/incus/tiny/x": b""}
    before = {name: (top / name).read_bytes() if (top / name).exists() else None for name in damage}
    for name, data in damage.items():
        write(top / name, data)
    done = shown.doit("verify")
    for name, data in before.items():
        write(top / name, data)
    assert done.code == 1
    assert done.out.count("is not what the indexes say") == len(damage)
    assert all(f"protocols/{name}: " in done.out for name in damage)


def write(path: Path, data: bytes | None) -> None:
    path.unlink(missing_ok=True)
    if data is not None:
        path.write_bytes(data)


def test_they_are_made_again_only_where_they_are_not_as_they_should_be(two: Site) -> None:
    before = two.tree("site/public/protocols")
    top = two.root / "site/public/protocols"
    (top / "rest/1.0.json").unlink()
    (top / "rest/404.json").write_bytes(b"")
    (top / "import/x").write_bytes(b"")
    said = two.publish().out
    assert "of older protocols, 3 changed" in said
    after = two.tree("site/public/protocols")
    assert after.keys() == before.keys()
    same = {name for name in after if after[name] == before[name]}
    assert {Path(name).name for name in after.keys() - same if (two.root / name).is_file()} == {
        "1.0.json",
        "404.json",
    }
    assert older(two.latest) == older(two.mirror) == older(two.root / "site/public")
    assert "nothing changed" in two.publish().out


def test_a_rollback_and_a_withdrawal_take_them_along(two: Site) -> None:
    build(two.ci, SPLIT)
    two.publish()
    first, second = sorted((two.root / "snapshots").iterdir())
    then, now = older(first / "public"), older(second / "public")
    new = seen(second / "public") - seen(first / "public")
    assert two.doit("rollback", first.name).code == 0
    assert older(two.latest) == older(two.mirror) == then
    assert two.doit("rollback", "--release").code == 0
    two.publish()
    assert older(two.latest) == older(two.mirror) == now
    newest = max(two.products()[SPLIT.replace("/", ":")]["versions"])
    assert two.doit("withdraw", "--now", f"{SPLIT}/{newest}").code == 0
    for tree in (two.mirror, *(one / "public" for one in (two.root / "snapshots").iterdir())):
        assert not new & seen(tree)
        assert not [name for name, data in older(tree).items() if newest.encode() in data]
    assert two.doit("verify").code == 0


BEFORE = {"a/b/c": b"1", "a/d": b"2", "e/f": b"3", "g": b"4"}
AFTER = {"a/b/c": b"1", "a/d": b"5", "e/x/y": b"6", "g/h": b"7", "i": b"8"}


@pytest.mark.parametrize(
    ("operation", "after"),
    [
        *((one, AFTER) for one in ("os.rename", "os.remove", "os.mkdir", "os.rmdir")),
        ("os.rename", {**BEFORE, "i": b"8"}),
    ],
)
def test_a_kill_in_between_leaves_nothing(operation: str, after: dict[str, bytes], tmp_path: Path) -> None:
    """Every moment of filling a directory: the next time ends where an undisturbed one would."""
    before = BEFORE
    program = f"""
import os, sys
from pathlib import Path
from tasks.files import fill
left = int(sys.argv[1])
def hook(event, arguments):
    global left
    left -= event == "{operation}"
    if event == "{operation}" and left < 0:
        os.kill(os.getpid(), 9)
sys.addaudithook(hook)
fill(Path("top/it"), {after})
"""
    for number in range(20):
        here = tmp_path / str(number)
        fill(here / "top/it", before)
        shutil.copytree(here / "top", here / "frozen", copy_function=os.link)
        argv = [sys.executable, "-c", program, str(number)]
        code = subprocess.run(argv, cwd=here, env={"PYTHONPATH": str(CHECKOUT)}, check=False).returncode
        assert held(here / "frozen/it") == before
        shutil.copytree(here / "top", here / "back")
        changed = fill(here / "top/it", after)
        fill(here / "back/it", before)  # it is another's turn
        for top, wanted in ((here / "top", after), (here / "back", before)):
            assert [path.name for path in top.iterdir()] == ["it"]
            assert held(top) == {f"it/{path}": data for path, data in wanted.items()}
            assert {path.name for path in (top / "it").iterdir()} == {path.split("/")[0] for path in wanted}
        if code == 0:
            assert (number > 0, changed) == (True, 0)
            return
        assert code == -9
    raise AssertionError("it never ends")


def held(top: Path) -> dict[str, bytes]:
    return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}


# What is hostile


def test_a_name_that_no_file_can_have_is_left_out_and_said(site: Site) -> None:
    matrix(site.ci, BOX)
    build(site.ci, BOX, content={BOX: files(BOX, kinds=("unified",))})
    names = [
        "tiny/../../../../out",
        "tiny/.hidden",
        "tiny/" + "z" * 300,
        "tiny/" + "y/" * 600 + "y",
        "tiny/good+~_-",
    ]
    site.more = f'{ON}[jenkins.artifacts]\nunified = "tiny-*"\n[[rules]]\nmatch = "*"\naliases = {json.dumps(names)}\n'
    said = site.publish().out
    assert "would have names that no file can have, like 'import/incus/tiny/" in said
    found = older(site.root / "site/public")
    assert any("good+~_-" in name for name in found)
    assert not [name for name in found if {"..", ".hidden"} & {*name.split("/")} or len(name) > 1010]
    assert not list(site.base.rglob("out*"))
    assert site.doit("verify").code == 0


def test_what_would_end_a_directive_is_not_put_into_one() -> None:
    """Neither comes from a site's own streams; whoever serves a tree may have got it from elsewhere."""
    item = {"ftype": "incus_combined.tar.gz", "sha256": "a" * 64, "size": 1}
    for path in (
        'images/a/b" --><!--#exec cmd="x" -->',
        "images/../state/lock",
        "/images/a",
        "images//a",
        "images/$x/a",
        "images/a\r\nb",
        "site-id",
    ):
        items = {"x": {**item, "path": path}}
        product = {"arch": "amd64", "aliases": "x", "versions": {"20260101_00:01": {"items": items}}}
        assert not [name for name in rest({"a:b:amd64:c": product}) if "a" * 64 in name], path
    items = {"x": {**item, "path": "images/a/b"}}
    product = {"arch": "amd64", "aliases": "x", "versions": {"20260101_00:01": {"items": items}}}
    assert f"export/{'a' * 64}.whole" in rest({"a:b:amd64:c": product})


def test_a_name_stands_for_the_newest_and_for_a_container_before_a_machine() -> None:
    def item(number: int, **more: str) -> dict[str, Any]:
        path = f"images/a/{number}/incus_combined.tar.gz"
        return {"ftype": "incus_combined.tar.gz", "sha256": f"{number:064}", "size": 1, "path": path, **more}

    versions = {f"2026010{day}_00:01": {"items": {"x": item(day)}} for day in (1, 3, 2)}
    machine = {"20260109_00:01": {"items": {"x": item(9, combined_type="virtual-machine")}}}
    products = {
        f"a:{name}:amd64:c": {"arch": "amd64", "aliases": "name", "versions": of}
        for name, of in (("b", versions), ("d", machine))
    }
    for order in (products, dict(reversed(products.items()))):
        (name,) = (one for one in importurl(order) if one.startswith("incus/name@x86_64/"))
        assert name.endswith(f",{3:064}")
        made = rest(order)
        targets = {
            name: json.loads(made[f"images/aliases/{name}@.json"])["metadata"]["target"]
            for name in ("name", "name/amd64", "name/vm", "name/amd64/vm")
        }
        assert [int(mark) for mark in targets.values()] == [3, 3, 9, 9]
    other = {"arch": "amd64", "aliases": "name/vm", "versions": {"20260101_00:01": {"items": {"x": item(4)}}}}
    made = rest({**products, "a:vm:amd64:c": other})
    assert f"{4:064}".encode() in made["images/aliases/name/vm@.json"]


def test_a_mirror_gets_them_after_the_images(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for path in ("images/a", f"{PROTOCOLS}/b"):
        (source / path).parent.mkdir(parents=True)
        (source / path).touch()
    there = []
    for options in phases():
        phase(options, source, target)
        there.append((sorted(one.name for one in target.iterdir()), "--checksum" in options))
    assert there == [
        ([], False),
        (["images"], False),
        (["images"], False),
        (["images"], False),
        (["images"], True),
        (["images", PROTOCOLS], True),
        (["images", PROTOCOLS], True),
    ]


def test_two_fingerprints_that_begin_alike_have_no_short_form() -> None:
    marks = ["a" * 12 + end * 52 for end in "bc"]
    products = {
        f"a:{mark[-1]}:amd64:c": {
            "arch": "amd64",
            "versions": {
                "20260101_00:01": {
                    "items": {
                        "x": {
                            "ftype": "incus_combined.tar.gz",
                            "sha256": mark,
                            "size": 1,
                            "path": "images/a/b",
                        }
                    }
                }
            },
        }
        for mark in marks
    }
    made = rest(products)
    assert {name for name in made if name.startswith("images/a")} == {
        "images/aliases.json", "images/aliases.recursion.json", *(f"images/{mark}.json" for mark in marks)
    }  # fmt: skip


@pytest.mark.parametrize("program", ["nginx", "apache"])
def test_two_sites_with_both_in_one_server(program: str, certificate: Path) -> None:
    both = Protocols(rest=True, header_import=True)
    options: dict[str, Any] = {"certificate": str(certificate), "key": str(certificate)}
    text = PRINTED[program](certificate.parent, [], web_of(**options), older=both)
    options |= {"names": ("b.example.org",)}
    text += PRINTED[program](certificate.parent, [], web_of(**options), older=both)
    assert FAULTS[program](text, certificate.parent.parent) == ""


@pytest.mark.parametrize("lines", ["rest = 1", 'header_import = "yes"', "lxd = true"])
def test_a_wrong_setting_is_named(site: Site, lines: str) -> None:
    site.more = f"[protocols]\n{lines}\n"
    result = site.doit("publish")
    assert result.code == 3
    assert f"protocols.{lines.split(' ', maxsplit=1)[0]}" in result.err
