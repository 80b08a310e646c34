"""``doit serverconfig --basic-auth``: who has no password gets nothing, and whose clients would give it away is told."""

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import clients
import msgspec
import pytest
from servers import Web
from sites import Site, build, matrix
from test_serverconfig import FAULTS, PRINTED, SERVERS, certificate, generated, get, program, web_of

from tasks import webserver

__all__ = ["certificate", "program"]  # fixtures
A = "alpine/3/amd64/default"
SECRET = "p%40ss:w0rd"  # as it stands in a URL


@pytest.fixture
def published(site: Site) -> Site:
    matrix(site.ci, A)
    build(site.ci, A)
    site.publish()
    digest = base64.b64encode(hashlib.sha1(b"p@ss:w0rd").digest()).decode()
    (site.base / "users").write_text(f"me:{{SHA}}{digest}\n")
    return site


@pytest.fixture
def web(program: str, published: Site, tmp_path: Path) -> Iterator[Web]:
    configured = generated(
        published, f"--basic-auth={published.base}/users", "--listen-http=none", program=program
    )

    def closed(public: Path, lists: Any, web: webserver.Web) -> str:
        return configured(public, lists, msgspec.structs.replace(web, http=()))

    with SERVERS[program](published.latest, tmp_path / "web", closed) as running:
        yield running


def test_without_a_password_nothing_is_given(web: Web, published: Site) -> None:
    (serial,) = published.products()[A.replace("/", ":")]["versions"]
    image = f"/images/{A}/{serial}/incus.tar.xz"
    for path in ("/", "/index.html", "/streams/v1/index.json", "/streams/v1/images.sjson", "/meta/1.0/index-system", "/site-id", image, "/x"):  # fmt: skip
        for auth in (None, ("me", "wrong"), ("you", "p@ss:w0rd")):
            answer = get(web, path, auth=auth)
            assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (
                401,
                'Basic realm="images"',
            ), path
        answer = get(web, path, auth=("me", "p@ss:w0rd"))
        assert answer.status_code == (404 if path == "/x" else 200), path
    assert get(web, "/streams/v1/images.json", auth=("me", "p@ss:w0rd"), encoding="gzip").json()["products"]


@pytest.mark.parametrize("name", ["incus", "lxc"])
def test_clients_take_it_from_the_url(web: Web, published: Site, tmp_path: Path, name: str) -> None:
    known = replace(web, url=web.url.replace("https://", f"https://me:{SECRET}@"))
    client = {"incus": clients.incus, "lxc": clients.lxc}[name]
    remote = client(known, tmp_path / "known")
    (image,) = [one for one in remote.images() if one["properties"]["type"] == "squashfs"]
    assert remote.export("alpine/3", tmp_path / "image") == image["fingerprint"]
    with pytest.raises(clients.ClientFailed):
        client(web, tmp_path / "unknown").images()


def test_an_address_with_a_port_gives_it_away(published: Site, tmp_path: Path) -> None:
    """Why all this: nginx logs the user that a request in clear named, to which it gave no answer but 400."""
    configured = generated(published, f"--basic-auth={published.base}/users", "--listen-http=none")

    def closed(public: Path, lists: Any, web: webserver.Web) -> str:
        return configured(public, lists, msgspec.structs.replace(web, http=()))

    with SERVERS["nginx"](published.latest, tmp_path / "web", closed) as web:
        known = replace(web, url=web.url.replace("https://", f"https://me:{SECRET}@"))
        clients.incus(known, tmp_path).export("alpine/3", tmp_path / "image")
        clear = [line for line in web.log.read_text().splitlines() if '" 400 ' in line]
    assert clear
    assert all(line.split()[2] == "me" for line in clear)


@pytest.mark.parametrize("options", [[], ["--listen-http=80"], ["--listen-http=none", "--listen-http=80"]])
def test_not_where_clients_ask_in_clear(site: Site, program: str, options: list[str]) -> None:
    result = site.doit("serverconfig", "--basic-auth=/users", *options, program)
    assert (result.code, result.out) == (3, "")
    assert (
        "--basic-auth: over plain HTTP, which clients try first, they send the password in clear"
        in result.err
    )


def test_nor_at_another_port_than_that_of_https(site: Site, program: str) -> None:
    options = ["--basic-auth=/users", "--listen-http=none", "--listen=443", "--listen=[::]:8443"]
    result = site.doit("serverconfig", *options, program)
    assert (result.code, result.out) == (3, "")
    assert "clients first ask it without TLS, with the password in clear: leave --listen at 443" in result.err


def test_what_is_no_path_is_refused(site: Site, program: str) -> None:
    for path in ("users", "/a$b", "/a\nb"):
        result = site.doit("serverconfig", f"--basic-auth={path}", "--listen-http=none", program)
        assert (result.code, result.out) == (3, "")
        assert result.err.startswith(f"ERROR: --basic-auth={path}: must be an absolute path")


@pytest.mark.parametrize("program", ["nginx", "apache"])
def test_the_file_may_have_any_name(program: str, certificate: Path) -> None:
    users = certificate.parent / "users"
    users.write_text("")
    options = {"certificate": str(certificate), "key": str(certificate), "passwords": str(users)}
    text = PRINTED[program](certificate.parent, [], web_of(**options))
    assert FAULTS[program](text, certificate.parent.parent) == ""
    assert "https://USER:PASSWORD@localhost/" in text
    assert "port 80" in text
    plain = PRINTED[program](
        certificate.parent, [], web_of(certificate=str(certificate), key=str(certificate))
    )
    assert "asic" not in plain
    assert "PASSWORD" not in plain
