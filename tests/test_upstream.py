"""``[[upstream]]``: another server's products beside ours, its files where they are, and its faults its own."""

import hashlib
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import clients
import msgspec
import pytest
import released
from servers import Web, nginx
from sites import Key, Site, build, matrix
from test_kill import run
from test_serverconfig import PRINTED, SERVERS, generated, get
from tools import program as found

from tasks import demo, overlay
from tasks.follow import follow
from tasks.layout import Layout
from tasks.settings import Share, Upstream
from tasks.sign import Sequoia, Verifier, certificates
from tasks.state import Followed, load, save

OURS = "tiny/1/amd64/default"
INDEX = "streams/v1/index"
DATA = "streams/v1/com.ubuntu.cloud:released:download"
NOBLE, JAMMY = "com.ubuntu.cloud:server:24.04:amd64", "com.ubuntu.cloud:server:22.04:amd64"


def plain(public: Path, _lists: object, web: Any) -> str:
    """The configuration of a server that is none of ours."""
    listens = "".join(f"listen {one} ssl; " for one in web.https) + "".join(f"listen {o}; " for o in web.http)
    certificate = f'ssl_certificate "{web.certificate}"; ssl_certificate_key "{web.key}";'
    return f'server {{ {listens} {certificate} ssl_protocols TLSv1.3; root "{public}"; }}'


@dataclass
class Ubuntu:
    """A server like Ubuntu's: what it lists, and with what it signs."""

    public: Path
    key: Key
    document: dict[str, Any]
    web: Web
    writes: int = 0
    texts: dict[str, bytes] = field(default_factory=dict)

    def write(self, path: str, text: bytes, key: Key | None = None) -> None:
        signer = Sequoia((key or self.key).secret, "")
        (self.public / path).parent.mkdir(parents=True, exist_ok=True)
        file, self.texts[path] = self.public / f"{path}.sjson", text
        file.write_bytes(signer.clear(text))
        self.writes += 1  # nginx makes an ETag of the second and the size
        os.utime(file, (self.writes, self.writes))

    def publish(self, key: Key | None = None) -> None:
        """Write the files of the newest versions, the products and the index, signed."""
        for product, of in self.document["products"].items():
            for serial, version in list(of["versions"].items())[-2:]:
                for item in version["items"].values():
                    file = self.public / item["path"]
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(released.content(product, serial, item["ftype"]))
        entry = {"format": "products:1.0", "products": sorted(self.document["products"])}
        index = {
            "format": "index:1.0",
            "updated": "Sat, 21 Nov 2026 08:00:00 +0000",
            "index": {
                "com.ubuntu.cloud:released:aws": {**entry, "datatype": "image-ids", "path": "streams/v1/aws.sjson"},
                "com.ubuntu.cloud:released:download": {
                    **entry, "datatype": "image-downloads", "path": f"{DATA}.sjson",
                },
            },
        }  # fmt: skip
        self.write(DATA, released.text(self.document), key)
        self.write(INDEX, released.text(index), key)

    def asked(self) -> list[tuple[str, str, str]]:
        """Method, path and status of every request so far."""
        lines = self.web.log.read_text().splitlines()
        return [(*line.split('"')[1].split(" ")[:2], line.split('"')[2].split()[0]) for line in lines]  # type: ignore[misc]


def new_key(directory: Path) -> Key:
    directory.mkdir()
    demo.make_key(directory)
    return Key(directory / "publisher.asc", directory / "publisher.pub.asc")


@pytest.fixture
def ubuntu(tmp_path: Path) -> Iterator[Ubuntu]:
    public = tmp_path / "ubuntu"
    public.mkdir()
    with nginx(public, tmp_path / "ubuntu-web", plain) as web:
        document = released.products(["22.04", "24.04"], ["amd64", "arm64"], 3)
        made = Ubuntu(public, new_key(tmp_path / "ubuntu-key"), document, web)
        made.publish()
        yield made


def table(ubuntu: Ubuntu, **lines: str) -> str:
    told = {
        "url": f'"{ubuntu.web.url}"',
        "keyring": f'"{ubuntu.key.public}"',
        "ca": f'"{ubuntu.web.ca}"',
        **lines,
    }
    return '[[upstream]]\nname = "ubuntu"\n' + "".join(f"{name} = {value}\n" for name, value in told.items())


@pytest.fixture(params=SERVERS)
def program(request: pytest.FixtureRequest) -> str:
    """Which web server shows our tree."""
    name: str = request.param
    return name


@pytest.fixture
def followed(site: Site, ubuntu: Ubuntu) -> Site:
    matrix(site.ci, OURS)
    build(site.ci, OURS)
    site.more = table(ubuntu)
    site.publish()
    return site


def alone(site: Site, ubuntu: Ubuntu, **lines: str) -> None:
    """A site that has nothing of its own."""
    signing = f'[signing]\nkey = "{site.key.secret}"\n'
    site.config.write_text(f'[site]\nroot = "root"\n{signing}{table(ubuntu, **lines)}')


def images(site: Site) -> dict[str, Any]:
    return site.json("streams/v1/ubuntu.json")["products"]


def both(ours: Web, theirs: Web, tmp_path: Path) -> Web:
    """A client's view of our server that trusts theirs too."""
    bundle = tmp_path / "both.pem"
    bundle.write_text(ours.ca.read_text() + theirs.ca.read_text())
    return replace(ours, ca=bundle)


def test_incus_lists_and_fetches_through_the_redirect(
    followed: Site, ubuntu: Ubuntu, tmp_path: Path, program: str
) -> None:
    with SERVERS[program](followed.latest, tmp_path / "web", generated(followed, program=program)) as web:
        incus = clients.incus(both(web, ubuntu.web, tmp_path), tmp_path / "home")
        listed = {(one["properties"]["os"], one["properties"]["serial"]) for one in incus.images()}
        assert len(incus.images()) == 2 + 2 * 2 * 3 * 3
        assert {os for os, _ in listed} == {"Tiny", "ubuntu"}
        *_, newest = ubuntu.document["products"][NOBLE]["versions"]
        metadata = released.content(NOBLE, newest, "lxd.tar.xz")
        for vm, root in ((False, "squashfs"), (True, "disk1.img")):
            wanted = hashlib.sha256(metadata + released.content(NOBLE, newest, root)).hexdigest()
            assert incus.export("24.04/amd64", tmp_path / root, vm=vm) == wanted
        assert incus.export("tiny/1/amd64", tmp_path / "tiny")
        assert " 302 " in web.log.read_text()
    served = [path for method, path, status in ubuntu.asked() if method == "GET" and status == "200"]
    assert {f"/server/releases/24.04/amd64/release-{newest}/ubuntu-{newest}-disk1.img"} <= {*served}
    assert not list(followed.latest.rglob("*disk1.img"))


def test_lxd_does_too(followed: Site, ubuntu: Ubuntu, tmp_path: Path) -> None:
    with nginx(followed.latest, tmp_path / "web", generated(followed)) as web:
        lxc = clients.lxc(both(web, ubuntu.web, tmp_path), tmp_path / "home")
        assert len(lxc.images()) == 2 + 2 * 2 * 3 * 3
        assert lxc.export("22.04/arm64", tmp_path / "image")


def test_its_index_is_signed_by_us_in_all_forms(followed: Site) -> None:
    index = followed.json("streams/v1/index.json")["index"]
    assert index["ubuntu"]["path"] == "streams/v1/ubuntu.json"
    assert index["ubuntu"]["products"] == sorted(images(followed))
    assert index["images"]["products"] == ["tiny:1:amd64:default"]
    assert b'"streams/v1/ubuntu.sjson"' in (followed.latest / "streams/v1/index.sjson").read_bytes()
    for item in images(followed)[NOBLE]["versions"].popitem()[1]["items"].values():
        assert item["path"].startswith("upstream/ubuntu/server/releases/24.04/")
    assert "all good" in followed.doit("verify").out


def test_nothing_new_costs_a_request_for_each_file_and_rewrites_nothing(
    followed: Site, ubuntu: Ubuntu
) -> None:
    before, asked = followed.tree(), len(ubuntu.asked())
    done = followed.publish()
    assert "ubuntu: nothing new" in done.out
    assert "nothing changed" in done.out
    assert followed.tree() == before
    assert ubuntu.asked()[asked:] == [("GET", f"/{INDEX}.sjson", "304"), ("GET", f"/{DATA}.sjson", "304")]


def test_a_server_without_etags_is_read_and_compared(site: Site, ubuntu: Ubuntu, tmp_path: Path) -> None:
    def bare(public: Path, lists: object, web: Any) -> str:
        return plain(public, lists, web).replace(" root ", " etag off; root ")

    with nginx(ubuntu.public, tmp_path / "bare", bare) as web:
        alone(site, ubuntu, url=f'"{web.url}/"', ca=f'"{web.ca}"')
        site.publish()
        before = site.tree()
        assert "ubuntu: nothing new" in site.publish().out
        assert site.tree() == before
        assert "ETag" not in get(web, f"/{INDEX}.sjson").headers
        assert web.log.read_text().count(f"/{INDEX}.sjson ") == 3
        assert " 304 " not in web.log.read_text()


def test_a_key_as_old_as_ubuntus_is_good(site: Site, ubuntu: Ubuntu, tmp_path: Path) -> None:
    """Its name is bound by SHA-1, which sequoia does not take."""
    home = tmp_path / "gnupg"
    home.mkdir(mode=0o700)
    gpg = [
        found("gpg"),
        f"--homedir={home}",
        "--batch",
        "--quiet",
        "--pinentry-mode=loopback",
        "--passphrase=",
    ]
    old = ["--cert-digest-algo=SHA1", "--quick-generate-key", "old", "rsa2048", "sign", "never"]
    subprocess.run([*gpg, *old], check=True, stderr=subprocess.DEVNULL)
    try:
        for place in (INDEX, DATA):
            path = ubuntu.public / f"{place}.sjson"
            signed = subprocess.run(
                [*gpg, "--clearsign"], input=ubuntu.texts[place], check=True, capture_output=True
            )
            path.write_bytes(signed.stdout)
        ring = subprocess.run([*gpg, "--export"], check=True, capture_output=True).stdout
    finally:
        subprocess.run([found("gpgconf"), f"--homedir={home}", "--kill", "all"], check=True)
    ubuntu.key.public.write_bytes(ring)
    why, _ = Verifier(certificates(ring, "ring")).clear(path.read_bytes())
    assert why
    alone(site, ubuntu)
    site.publish()
    assert len(images(site)) == 4


def test_what_comes_and_goes_there_comes_and_goes_here(followed: Site, ubuntu: Ubuntu) -> None:
    product = ubuntu.document["products"][NOBLE]
    product["versions"]["20261120"] = {"items": released.items(NOBLE, "20261120", "new")}
    del product["versions"]["20200101"]
    del ubuntu.document["products"][JAMMY]
    ubuntu.write(DATA, released.text(ubuntu.document))
    followed.publish("--allow-shrink")
    assert [*images(followed)[NOBLE]["versions"]] == [*sorted(product["versions"])]
    assert JAMMY not in images(followed)
    assert JAMMY not in followed.json("streams/v1/index.json")["index"]["ubuntu"]["products"]
    followed.more = ""
    followed.configure()
    followed.publish()
    assert not list(followed.latest.rglob("ubuntu.*"))
    assert [*followed.json("streams/v1/index.json")["index"]] == ["images"]


def unsigned_products(ubuntu: Ubuntu) -> None:
    ubuntu.document["products"][NOBLE]["aliases"] = "evil"
    (ubuntu.public / f"{DATA}.sjson").unlink()
    (ubuntu.public / f"{DATA}.json").write_bytes(released.text(ubuntu.document))


def bad_detached(ubuntu: Ubuntu) -> None:
    unsigned_products(ubuntu)
    text = (ubuntu.public / f"{DATA}.json").read_bytes()
    ubuntu.write("other", text + b" ")
    signer, other = Sequoia(ubuntu.key.secret, ""), ubuntu.public / "other.sjson"
    (ubuntu.public / f"{DATA}.json.gpg").write_bytes(signer.detached(other))


def another_key(ubuntu: Ubuntu) -> None:
    ubuntu.publish(new_key(ubuntu.public.parent / "another"))


def changed(ubuntu: Ubuntu) -> None:
    path = ubuntu.public / f"{DATA}.sjson"
    path.write_bytes(path.read_bytes().replace(b'"24.04,u2404"', b'"24.04,u24040"'))


def something_around(ubuntu: Ubuntu) -> None:
    path = ubuntu.public / f"{DATA}.sjson"
    path.write_bytes(released.text(ubuntu.document) + path.read_bytes())


def no_signature(ubuntu: Ubuntu) -> None:
    (ubuntu.public / f"{INDEX}.sjson").write_bytes(b'{"format": "index:1.0", "index": {}}')


def a_page(ubuntu: Ubuntu) -> None:
    ubuntu.write(DATA, b"<html>maintenance</html>\n")


def gone(ubuntu: Ubuntu) -> None:
    (ubuntu.public / f"{INDEX}.sjson").unlink()


def the_index_as_products(ubuntu: Ubuntu) -> None:
    index = ubuntu.public / f"{INDEX}.sjson"
    (ubuntu.public / f"{DATA}.sjson").write_bytes(index.read_bytes())


def the_products_as_index(ubuntu: Ubuntu) -> None:
    data = ubuntu.public / f"{DATA}.sjson"
    (ubuntu.public / f"{INDEX}.sjson").write_bytes(data.read_bytes())


def another_stream(ubuntu: Ubuntu) -> None:
    ubuntu.write(DATA, ubuntu.texts[DATA].replace(b"cloud:released:download", b"cloud:daily:download"))


def no_images(ubuntu: Ubuntu) -> None:
    ubuntu.write(INDEX, b'{"format": "index:1.0", "index": {}}\n')


WRONG = {
    unsigned_products: "is not signed",
    bad_detached: "no good signature",
    another_key: "no good signature",
    changed: "no good signature",
    something_around: "something around it",
    no_signature: "is no clear-signed text",
    a_page: "is no JSON",
    gone: "neither is there",
    the_index_as_products: f"{DATA}.sjson: its format is 'index:1.0', not products:1.0: it is not the file",
    the_products_as_index: f"{INDEX}.sjson: its format is 'products:1.0', not 'index:1.0'",
    another_stream: "its content_id is 'com.ubuntu.cloud:daily:download', not com.ubuntu.cloud:released:download",
    no_images: f"{INDEX}.sjson: it names no images",
}


@pytest.mark.parametrize("wrong", WRONG, ids=lambda of: of.__name__)
def test_without_a_good_signature_nothing_of_it_changes(followed: Site, ubuntu: Ubuntu, wrong: Any) -> None:
    before = images(followed)
    wrong(ubuntu)
    build(followed.ci, OURS)
    done = followed.publish(code=1)
    (line,) = [line for line in done.out.splitlines() if line.startswith("failed: ")]
    assert line.startswith("failed: upstream ubuntu: ")
    assert WRONG[wrong] in line
    assert images(followed) == before
    assert len(followed.products()["tiny:1:amd64:default"]["versions"]) == 2
    tree = followed.tree()
    followed.publish(code=1)
    assert followed.tree() == tree
    ubuntu.document["products"][NOBLE]["aliases"] = "better"
    ubuntu.publish()
    followed.publish()
    assert images(followed)[NOBLE]["aliases"] == "better"


def test_a_hook_asks_jenkins_alone(followed: Site, ubuntu: Ubuntu) -> None:
    asked = ubuntu.asked()
    build(followed.ci, OURS)
    followed.publish("--job=image-tiny")
    assert ubuntu.asked() == asked
    assert len(followed.products()["tiny:1:amd64:default"]["versions"]) == 2


def test_another_configuration_of_it_is_another_question(followed: Site, ubuntu: Ubuntu) -> None:
    other = new_key(ubuntu.public.parent / "other")
    before = followed.tree()
    ubuntu.key.public.write_bytes(other.public.read_bytes())
    followed.publish(code=1)
    assert followed.tree() == before
    ubuntu.key.public.write_bytes(other.public.read_bytes() + ubuntu.key.secret.read_bytes())
    assert "ubuntu: 4 products, 12 versions, no byte changed" in followed.publish().out


def test_a_second_file_of_it_alone_brings_the_first_along(followed: Site, ubuntu: Ubuntu) -> None:
    noble, rest = {NOBLE: ubuntu.document["products"].pop(NOBLE)}, ubuntu.document["products"]
    entry = {"datatype": "image-downloads", "products": ["x"]}
    index = {name: {**entry, "path": f"streams/v1/{name}.sjson"} for name in ("a", "b")}
    ubuntu.write("streams/v1/a", released.text({"products": noble}))
    ubuntu.write("streams/v1/b", released.text({"products": rest}))
    ubuntu.write(INDEX, released.text({"index": index}))
    followed.publish()
    assert images(followed).keys() == {*noble, *rest}
    noble[NOBLE]["aliases"] = "first"
    ubuntu.write("streams/v1/a", released.text({"products": noble}))
    followed.publish()
    assert images(followed).keys() == {*noble, *rest}
    assert images(followed)[NOBLE]["aliases"] == "first"


def test_an_upstream_that_is_away_keeps_what_was_there(followed: Site, ubuntu: Ubuntu) -> None:
    before = images(followed)
    followed.more = table(ubuntu, url='"https://127.0.0.1:1/"')
    followed.configure()
    build(followed.ci, OURS)
    done = followed.publish(code=1)
    assert "failed: upstream ubuntu: https://127.0.0.1:1/" in done.out
    assert images(followed) == before
    assert len(followed.products()["tiny:1:amd64:default"]["versions"]) == 2
    followed.more = table(ubuntu)
    followed.configure()
    assert "ubuntu: nothing new" in followed.publish().out


def test_one_that_never_answered_keeps_ours_from_nobody(site: Site, ubuntu: Ubuntu) -> None:
    matrix(site.ci, OURS)
    build(site.ci, OURS)
    site.more = table(ubuntu, url='"https://127.0.0.1:1/"')
    done = site.publish(code=1)
    assert "failed: upstream ubuntu: https://127.0.0.1:1/" in done.out
    assert images(site) == {}
    assert [*site.json("streams/v1/index.json")["index"]] == ["images"]
    assert "all good" in site.doit("verify").out


def test_detached_signatures_will_do(site: Site, ubuntu: Ubuntu) -> None:
    for place in (INDEX, DATA):
        (ubuntu.public / f"{place}.sjson").unlink()
    entry = {"datatype": "image-downloads", "path": f"{DATA}.json", "products": ["x"]}
    index = {"index": {ubuntu.document["content_id"]: entry}}
    for place, document in ((INDEX, index), (DATA, ubuntu.document)):
        path = ubuntu.public / f"{place}.json"
        path.write_bytes(released.text(document))
        signer = Sequoia(ubuntu.key.secret, "")
        path.with_name(f"{path.name}.gpg").write_bytes(signer.detached(path))
    alone(site, ubuntu)
    site.publish()
    assert len(images(site)) == 4
    site.publish()
    assert [status for _, path, status in ubuntu.asked()[-4:] if path.endswith(".json")] == ["304", "304"]


def test_our_names_win_and_what_yields_is_named(site: Site, ubuntu: Ubuntu) -> None:
    matrix(site.ci, "ubuntu/noble/amd64/default", "ubuntu/noble/arm64/default")
    build(site.ci, "ubuntu/noble/amd64/default", "ubuntu/noble/arm64/default")
    rules = '[[rules]]\nmatch = "ubuntu/noble/amd64"\naliases = ["24.04", "22.04/arm64"]\n'
    site.more = rules + table(ubuntu)
    done = site.publish()
    assert images(site)[NOBLE]["aliases"] == "u2404"
    assert images(site)[NOBLE.replace("amd64", "arm64")]["aliases"] == "24.04,u2404"
    assert f"the alias '24.04' of {NOBLE}: ubuntu:noble:amd64:default has it" in done.out
    assert images(site)[JAMMY]["aliases"] == "22.04,u2204"


def test_only_what_matches_is_listed(followed: Site, ubuntu: Ubuntu) -> None:
    for match, wanted in {
        "ubuntu/24.04/amd64": {NOBLE},
        "*/u2204": {JAMMY, JAMMY.replace("amd64", "arm64")},
        "ubuntu/*/amd64/default": {NOBLE, JAMMY},
        "debian": set(),
    }.items():
        followed.more = table(ubuntu, match=json.dumps([match]))
        followed.configure()
        followed.publish()
        assert images(followed).keys() == wanted
        idle = f"upstream ubuntu: upstream.match: {match!r} fits no product of it"
        assert (idle in followed.publish().out) == (not wanted)


def test_what_no_client_would_list_is_left_out_by_name(site: Site, ubuntu: Ubuntu) -> None:
    versions = ubuntu.document["products"][NOBLE]["versions"]
    first, second, third = versions.values()
    del first["items"]["lxd.tar.xz"]["combined_squashfs_sha256"]
    second["items"] = first["items"]
    third["items"]["disk1.img"]["size"] = "12"
    ubuntu.document["products"][JAMMY]["arch"] = "vax"
    ubuntu.publish()
    alone(site, ubuntu)
    done = site.publish()
    kept = {name: of["items"].keys() for name, of in images(site)[NOBLE]["versions"].items()}
    metadata = {"incus.tar.xz", "lxd.tar.xz"}
    assert [*kept.values()] == [
        {"disk1.img", "root.tar.xz"} | metadata,
        {"root.tar.xz", "squashfs"} | metadata,
    ]
    for what in (
        "squashfs and 1 more: it has no combined hash",
        "disk1.img: its path, size or sha256 is none",
        f"{JAMMY}: no client knows the architecture 'vax'",
        "its fingerprint is there twice",
    ):
        assert what in done.out
        assert what in site.publish().out
    assert "3 products of ubuntu" in done.out
    assert "all good" in site.doit("verify").out


HOSTILE = {
    "/upstream/ubuntu/a%0D%0ASet-Cookie:x=1": "/a%0D%0ASet-Cookie:x=1",
    "/upstream/ubuntu/a%20b/c:d?x=1": "/a%20b/c:d",
    "/upstream/ubuntu//evil.example": "//evil.example",
    "/upstream/ubuntu/a%2Fb%3Fc%252F%26+~'(),;@": "/a%2Fb%3Fc%252F%26+~'(),;@",
    "/upstream/ubuntu/.hidden/%C3%A9%25": "/.hidden/%C3%A9%25",
    "/upstream/ubuntu/$1/$0/%251/%25%7BHTTPS%7D/$%7Bx%7D": "/$1/$0/%251/%25%7BHTTPS%7D/$%7Bx%7D",
    "//upstream//ubuntu/a/b": "/a/b",
    "/upstream/ubuntu/a..b/..c/d../x?..": "/a..b/..c/d../x",
    "/upstream/ubuntu/": None,
    "/upstream/ubuntu": None,
    "/upstream/other/a": None,
    "/upstream/": None,
}


# As they are sent by whoever wants them so; most programs undo them before they ask.
UPWARDS = {
    "/upstream/ubuntu/../x",
    "/upstream/ubuntu/a/../../x",
    "/upstream/ubuntu/a/..",
    "/upstream/ubuntu/a/..?x",
    "/upstream/ubuntu/%2e%2E/x",
    "/upstream/ubuntu/.%2e/x",
    "/upstream/ubuntu/a/..%2fx",
    "/upstream/ubuntu/a%5C..%5Cx",
    "/upstream/ubuntu/a\\..\\x",
}


def raw(web: Web, path: str) -> tuple[int, str | None]:
    """The answer to a path that nobody touches on its way."""
    trust = ssl.create_default_context(cafile=web.ca)
    connection = http.client.HTTPSConnection(urlsplit(web.url).netloc, context=trust, timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    connection.close()
    return answer.status, answer.headers["Location"]


def test_what_the_web_server_redirects(followed: Site, ubuntu: Ubuntu, tmp_path: Path, program: str) -> None:
    with SERVERS[program](followed.latest, tmp_path / "web", generated(followed, program=program)) as web:
        at = f"/at/{followed.latest.readlink().parts[1]}"
        for base in (web.url, web.http, f"{web.url}{at}"):
            for path, there in HOSTILE.items():
                answer = get(web, base + path)
                assert answer.status_code == (302 if there else 404), path
                assert answer.headers.get("Location") == (ubuntu.web.url + there if there else None)
                assert "Set-Cookie" not in answer.headers
        for path in (f"{top}{path}" for top in ("", at) for path in UPWARDS):
            status, there = raw(web, path)
            assert (status in (400, 404), there) == (True, None), path
        assert raw(web, "/upstream/ubuntu/a")[0] == 302
        answer = get(web, "/streams/v1/ubuntu.json", encoding="gzip")
        assert answer.headers["Content-Encoding"] == "gzip"
        assert answer.json()["products"] == images(followed)
    followed.more = ""
    followed.configure()
    assert "/upstream" not in followed.doit("serverconfig", program).out


def test_each_is_redirected_to_its_own_address(tmp_path: Path, program: str) -> None:
    """Whatever an address may be: to Apache ``%1`` would be what was found."""
    addresses = {"a": "https://[::1]:8443", "a-b": "http://h/%31%7B%1/x", "b": "https://h.example/~a:b/"}
    upstreams = [Upstream(name=name, url=url, keyring=tmp_path) for name, url in addresses.items()]

    def configured(public: Path, lists: Any, web: Any) -> str:
        return PRINTED[program](public, lists, web, upstreams)

    with SERVERS[program](tmp_path, tmp_path / "web", configured) as web:
        for name, url in addresses.items():
            there = get(web, f"/upstream/{name}/a%3A%2Fb:c").headers["Location"]
            assert there == f"{url.rstrip('/')}/a%3A%2Fb:c"
        assert get(web, "/upstream/a-/x").status_code == 404


def test_thousands_of_versions_pass(site: Site, ubuntu: Ubuntu, tmp_path: Path) -> None:
    ubuntu.document = released.products(["22.04", "24.04"], ["amd64", "arm64"], 800)
    ubuntu.publish()
    alone(site, ubuntu)
    site.publish()
    assert sum(len(of["versions"]) for of in images(site).values()) == 3200
    with nginx(site.latest, tmp_path / "web", generated(site)) as web:
        incus = clients.incus(both(web, ubuntu.web, tmp_path), tmp_path / "home")
        assert len(incus.images()) == 3200 * 3
        assert incus.export("u2404/arm64", tmp_path / "image")


def test_a_rollback_shows_what_was_there(followed: Site, ubuntu: Ubuntu) -> None:
    before = (followed.latest / "streams/v1/ubuntu.json").read_bytes()
    name = followed.latest.readlink().parts[1]
    ubuntu.document["products"][NOBLE]["aliases"] = "new"
    ubuntu.publish()
    followed.publish()
    assert images(followed)[NOBLE]["aliases"] == "new"
    assert followed.doit("rollback", name).code == 0
    assert (followed.latest / "streams/v1/ubuntu.json").read_bytes() == before
    followed.publish()
    assert (followed.latest / "streams/v1/ubuntu.json").read_bytes() == before
    assert followed.doit("rollback", "--release").code == 0
    followed.publish()
    assert images(followed)[NOBLE]["aliases"] == "new"


def test_where_each_version_comes_from_is_known(followed: Site, ubuntu: Ubuntu) -> None:
    """The very bytes that were signed, and by which key; for people, for programs, and after a failure."""
    fingerprint = certificates(ubuntu.key.public.read_bytes(), "key")[0].fingerprint.upper()
    (row,) = json.loads(followed.doit("status", "--json").out)["upstreams"]
    assert (row["upstream"], row["url"], row["products"]) == ("ubuntu", ubuntu.web.url, 4)
    data, index = row["documents"]
    for document, place in ((data, DATA), (index, INDEX)):
        file = ubuntu.public / f"{place}.sjson"
        assert document["url"] == f"{ubuntu.web.url}/{place}.sjson"
        assert document["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert document["etag"].startswith('"')
        assert document["updated"] == "Sat, 21 Nov 2026 08:00:00 +0000"
        assert len(document["key"]) == 40
        assert fingerprint in signing_keys(ubuntu.key.public, document["key"])
    assert data["products"] == [*images(followed)]
    assert index["products"] == []
    before = followed.doit("status").out
    assert f"upstream ubuntu: 4 products of {ubuntu.web.url}\n    {data['url']} of Sat, 21 Nov" in before
    assert f"signed by {data['key']}\n" in before
    assert "upstream" not in followed.doit("status", "tiny/*").out
    ubuntu.publish()  # signed again, and new in nothing else: the index alone is another
    ubuntu.write(DATA, ubuntu.texts[DATA].replace(b"08:00:00", b"09:00:00").replace(b'"u2404"', b'"u2404x"'))
    followed.publish()
    new, same = json.loads(followed.doit("status", "--json").out)["upstreams"][0]["documents"]
    assert (new["sha256"] != data["sha256"], same["sha256"] != index["sha256"]) == (True, True)
    assert "09:00:00" in new["updated"]
    (ubuntu.public / f"{INDEX}.sjson").unlink()
    followed.publish(code=1)
    (row,) = json.loads(followed.doit("status", "--json").out)["upstreams"]
    assert row["documents"] == [new, same]
    assert "neither is there" in row["failed"]
    assert "    failed: " in followed.doit("status").out


def signing_keys(ring: Path, key: str) -> str:
    """What gpg says of the certificate of a key or subkey."""
    argv = [
        found("gpg"),
        "--no-keyring",
        "--show-keys",
        "--with-colons",
        "--with-subkey-fingerprint",
        str(ring),
    ]
    said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    return said if key in said else ""


def test_an_index_that_is_signed_again_is_the_one_that_is_named(followed: Site, ubuntu: Ubuntu) -> None:
    tree = followed.tree()
    ubuntu.write(INDEX, ubuntu.texts[INDEX].replace(b"08:00:00", b"10:00:00"))
    assert "ubuntu: nothing new" in followed.publish().out
    assert followed.tree() == tree
    data, index = json.loads(followed.doit("status", "--json").out)["upstreams"][0]["documents"]
    assert ("10:00:00" in index["updated"], "08:00:00" in data["updated"]) == (True, True)
    assert data["products"]


def test_a_plan_says_what_an_edit_does_to_it(followed: Site, ubuntu: Ubuntu) -> None:
    assert "upstream" not in followed.doit("plan").out
    said = followed.more
    followed.more = said.replace("[[upstream]]", '[[upstream]]\nmatch = ["ubuntu/noble"]')
    followed.configure()
    assert (
        "again: upstream ubuntu, for what the configuration says of it changed" in followed.doit("plan").out
    )
    followed.more = ""
    followed.configure()
    plan = followed.doit("plan")
    assert "gone: all that is listed of upstream ubuntu, which no [[upstream]] names" in plan.out
    assert plan.code == 0
    followed.publish("--allow-shrink")
    assert "gone:" not in followed.doit("plan").out


def test_what_says_a_strange_date_says_it_in_one_line(site: Site, ubuntu: Ubuntu) -> None:
    ubuntu.write(INDEX, ubuntu.texts[INDEX].replace(b"Sat, 21", b"\\u001b[31m\\n" + b"x" * 200))
    alone(site, ubuntu)
    assert "new: upstream ubuntu, never asked yet" in site.doit("plan").out
    site.publish()
    assert "new: upstream" not in site.doit("plan").out
    said = site.doit("status").out
    assert "\x1b" not in said
    assert "of '\\x1b[31m\\nxxx" in said
    assert max(map(len, said.splitlines())) < 350


@pytest.mark.parametrize("name", ["keyring", "ca"])
def test_a_file_that_the_configuration_names_has_to_be_there(site: Site, ubuntu: Ubuntu, name: str) -> None:
    alone(site, ubuntu, **{name: '"/nonexistent/file"'})
    said = site.publish(code=3)
    why = f"upstream.{name}: of ubuntu: cannot read /nonexistent/file: No such file or directory"
    assert why in said.out + said.err
    assert "Traceback" not in said.out + said.err


def test_a_keyring_without_keys_is_told_by_its_setting(site: Site, ubuntu: Ubuntu) -> None:
    ubuntu.key.public.write_text("<html>\n")
    line = asked(site, ubuntu)
    assert line.startswith(f"ubuntu: failed: upstream.keyring: {ubuntu.key.public} holds no OpenPGP keys")


def test_what_is_waited_for_is_said(site: Site, ubuntu: Ubuntu) -> None:
    """After ten seconds, by whoever publishes; this one never answers until then."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"

        def hang_up(line: str) -> None:
            said.append(line)
            deaf.close()

        said: list[str] = []
        line = asked(site, ubuntu, hang_up, url)
    assert said == [f"waiting for {url}/{INDEX}.sjson"]
    assert line.startswith(f"ubuntu: failed: {url}/{INDEX}.sjson: ")


def asked(site: Site, ubuntu: Ubuntu, say: Any = bool, url: str = "") -> str:
    """What following it alone says, in this process."""
    (line,) = follow(Layout(site.root), [of_url(ubuntu, url)], Share(10), say)
    return line


def of_url(ubuntu: Ubuntu, url: str = "") -> Upstream:
    return Upstream(name="ubuntu", url=url or ubuntu.web.url, keyring=ubuntu.key.public, ca=ubuntu.web.ca)


def test_what_a_newer_program_makes_of_it_is_made_though_it_is_the_same(site: Site, ubuntu: Ubuntu) -> None:
    assert asked(site, ubuntu) == "ubuntu: 4 products, 12 versions"
    assert asked(site, ubuntu) == "ubuntu: nothing new"
    record = Layout(site.root).followed("ubuntu")
    known = load(record, Followed)
    assert known
    of, ring = of_url(ubuntu), ubuntu.key.public.read_bytes()
    older = overlay.rules(of, ring, overlay.EDITION - 1)
    assert known.rules == overlay.rules(of, ring) != older
    save(record, msgspec.structs.replace(known, rules=older))
    assert asked(site, ubuntu) == "ubuntu: 4 products, 12 versions, no byte changed"


def test_a_damaged_record_of_it_is_made_again(site: Site, ubuntu: Ubuntu) -> None:
    asked(site, ubuntu)
    record = Layout(site.root).followed("ubuntu")
    whole = record.read_bytes()
    record.write_bytes(whole[: len(whole) // 2])
    assert asked(site, ubuntu) == "ubuntu: 4 products, 12 versions, no byte changed"
    assert record.read_bytes() == whole


def test_what_is_exposed_of_it_outlives_its_records(followed: Site, ubuntu: Ubuntu, tmp_path: Path) -> None:
    before = images(followed)
    layout = Layout(followed.root)
    whole = layout.overlay("ubuntu").read_bytes()
    layout.overlay("ubuntu").write_bytes(whole[: len(whole) // 2])
    build(followed.ci, OURS)
    assert "overlays/ubuntu.json is damaged (" in followed.publish().out
    assert images(followed) == before
    shutil.rmtree(layout.state)
    followed.more = table(ubuntu, url='"https://127.0.0.1:1/"')
    followed.configure()
    build(followed.ci, OURS)
    assert "what is there stays" in followed.publish(code=1).out
    assert images(followed) == before


def test_a_kill_while_it_changes_shows_what_was_there(site: Site, ubuntu: Ubuntu, tmp_path: Path) -> None:
    """At the first rename in each place that it is written to; the next publication is none the worse."""
    alone(site, ubuntu)
    site.publish()
    log = tmp_path / "log"
    for number, place in enumerate(("state/overlays", "state/upstream", "site/public/streams/v1/ubuntu")):
        before = images(site)
        ubuntu.document["products"][NOBLE]["aliases"] = f"new-{number}"
        ubuntu.publish()
        killed = run(site, log, "rename", 1, within=place)
        assert killed.returncode == -9, (place, killed.stdout, killed.stderr)
        assert images(site) == before
        site.publish()
        assert images(site)[NOBLE]["aliases"] == f"new-{number}"
        assert not list(site.root.rglob(".tmp-*"))
    assert "all good" in site.doit("verify").out
