"""The protocols before simplestreams, as the real servers hand them out and the real clients take them."""

import json
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
from servers import Web
from sites import Key, Site, build, files, matrix
from test_serverconfig import SERVERS, generated

from jenkins import standin
from jenkins.controller import Controller
from tasks.files import digest

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
    """Both web servers, as their configuration is printed; one file has both of their certificates."""
    base = tmp_path_factory.mktemp("web")
    with (
        SERVERS["nginx"](shown.latest, base, generated(shown, program="nginx")) as nginx,
        SERVERS["apache"](shown.latest, base, generated(shown, program="apache")) as apache,
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
        assert response.headers["Content-Disposition"] == "inline;filename=image.tar.gz"


def parts(response: requests.Response) -> bytes:
    """The bytes of an image: of its two files, one after the other, or of its one."""
    kind, _, boundary = response.headers["Content-Type"].partition("; boundary=")
    if kind == "application/octet-stream":
        return response.content
    assert kind == "multipart/form-data"
    start, metadata, root, end = response.content.split(f"--{boundary}".encode())
    assert (start, end) == (b"", b"--\r\n")
    return b"".join(one.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for one in (metadata, root))


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


def test_switching_one_off_removes_its_files_here_and_on_mirrors(site: Site) -> None:
    matrix(site.ci, SPLIT, BOX)
    build(site.ci, SPLIT, BOX, content={BOX: files(BOX, kinds=("unified",))})
    site.more = '[jenkins.artifacts]\nunified = "tiny-*"\n[[mirror]]\nname = "near"\nurl = "mirror"\n'
    site.publish()
    site.more += ON
    site.configure()
    site.publish()
    for top in (site.latest, site.mirror):
        assert {path.name for path in (top / "protocols").iterdir()} == {"rest", "import"}
    assert "nothing changed" in site.publish().out
    site.more = site.more.replace("rest = true", "rest = false")
    site.configure()
    site.publish()
    for top in (site.latest, site.mirror):
        assert {path.name for path in (top / "protocols").iterdir()} == {"import"}
    text = site.doit("serverconfig", "nginx").out + site.doit("serverconfig", "apache").out
    assert "/1.0/images" not in text
    assert "/import/" in text
    site.more = site.more.replace("header_import = true", "")
    site.configure()
    site.publish()
    assert not (site.latest / "protocols").exists()
    assert not (site.mirror / "protocols").exists()
    assert site.doit("verify").code == 0
