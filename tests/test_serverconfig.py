"""``doit serverconfig``: the real nginx and Apache take what it prints, and serve what each client should get."""

import gzip
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clients
import pytest
import requests
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from servers import Web, apache, apache_faults, nginx, nginx_faults
from sites import Site, build, files, matrix
from test_rights import foreign, plainly
from tools import need

from tasks import webserver
from tasks.apache import apache as apache_config
from tasks.files import TEMPORARY
from tasks.settings import Agent, List, Upstream

__all__ = ["foreign"]  # a fixture

A, B, C = "alpine/3/amd64/default", "debian/12/amd64/default", "nixos/25/amd64/default"
KEYS = [one.replace("/", ":") for one in (A, B, C)]
LISTS = """
[[rules]]
match = "nixos"
clients = ["incus"]
[[rules]]
match = "debian"
os = "Debian GNU/Linux"
release_title = "Bookworm"
support_eol = "2028-06-30"
[[list]]
name = "lxd"
client = "lxd"
agent = "^LXD [0-5][.]"
[[list]]
name = "few"
client = "lxd"
match = ["debian"]
agent = '^"\\\\{2};\\$(a) # LXD'
[[list]]
name = "empty"
client = "lxd"
match = []
agent = "^LXD "
[[list]]
name = "none"
client = "incus"
match = []
"""
INCUS = "Incus 6.0.4 (Linux; x86_64; 6.1.0; Debian GNU/Linux; 12) (dir 1)"
LXD = "LXD 5.0.2 (Linux; x86_64; 6.1.0; Debian GNU/Linux; 12)"
LATER = "public, max-age=300"
FOREVER = "public, max-age=31536000, immutable"
FORMS = [
    f"{name}.{form}" for name in ("images", "index") for form in ("json", "json.gpg", "json.gz", "sjson")
]


SERVERS = {"nginx": nginx, "apache": apache}
PRINTED = {"nginx": webserver.nginx, "apache": apache_config}
FAULTS = {"nginx": nginx_faults, "apache": apache_faults}


def generated(site: Site, *lines: str, program: str = "nginx") -> Any:
    """The configuration that the command prints, told what a test's server has."""

    def configured(_tree: Path, _lists: object, web: webserver.Web) -> str:
        options = [f"--server-name={name}" for name in web.names]
        options += [f"--certificate={web.certificate}", f"--certificate-key={web.key}"]
        options += [f"--listen-http={one}" for one in web.http]
        if not (guarded := any("--basic-auth" in line for line in lines)):  # else it has to be 443
            options += [f"--listen={one}" for one in web.https]
        result = site.doit("serverconfig", *options, *lines, program)
        assert (result.code, result.err) == (0, "")
        if not guarded:
            return result.out
        (place,) = web.https
        text = result.out.replace("    listen [::]:443 ssl;\n", "").replace("listen 443 ", f"listen {place} ")
        return text.replace("<VirtualHost *:443>", f"<VirtualHost {place}>")

    return configured


@pytest.fixture
def site_of_three(site: Site) -> Site:
    matrix(site.ci, A, B, C)
    for product in (A, B, C):
        build(site.ci, product, content={product: files(product, kinds=("container", "vm", "lxc"))})
    site.more = LISTS
    site.publish()
    return site


@pytest.fixture(params=["nginx", "apache"])
def program(request: pytest.FixtureRequest) -> str:
    """Which web server it is: all that they serve is the same."""
    name: str = request.param
    return name


@pytest.fixture
def web(program: str, site_of_three: Site, tmp_path: Path) -> Iterator[Web]:
    configured = generated(site_of_three, program=program)
    with SERVERS[program](site_of_three.latest, tmp_path / "web", configured) as running:
        yield running


def get(web: Web, path: str, agent: str = "curl/7.88.1", **options: Any) -> requests.Response:
    """One request; a path that begins with http is asked for as it is."""
    url = path if path.startswith("http") else f"{web.url}{path}"
    headers = {"User-Agent": agent, "Accept-Encoding": options.pop("encoding", "identity")}
    return requests.get(
        url, headers=headers, verify=str(web.ca), timeout=10, allow_redirects=False, **options
    )


AGENTS = {
    INCUS: "",
    "Incus 6.0.4 (Linux; x86_64; 6.1.0; Debian GNU/Linux; 12)": "",
    LXD: "lxd/",
    "LXD 5.21.3 LTS (Linux; x86_64; 6.8.0; Ubuntu; 24.04)": "lxd/",
    "LXD 6.3 (Linux; x86_64; 6.8.0; Ubuntu; 24.04)": "empty/",
    "lxd 5.0.2": "",
    "not LXD 5.0.2": "",
    "lxc/5.0.2 compat:7": "",
    "python-simplestreams/0.1": "",
    r'"\\;$a # LXD': "few/",  # what its regular expression says: a quote, two backslashes, a semicolon, a dollar
    r'"\;$a # LXD': "",
    r'"\\;$b # LXD': "",
    "": "",
}


def test_who_gets_which_list(web: Web, site_of_three: Site) -> None:
    for agent, name in AGENTS.items():
        for form in FORMS:
            answer = get(web, f"/streams/v1/{form}", agent)
            assert answer.status_code == 200
            assert answer.content == (site_of_three.latest / f"streams/v1/{name}{form}").read_bytes(), agent
            vary = {"User-Agent", "Accept-Encoding"} if form.endswith(".json") else {"User-Agent"}
            assert {*re.split(", *", answer.headers["Vary"])} == vary
            assert answer.headers["Cache-Control"] == LATER
        doubled = get(web, "//streams///v1//images.json", agent)
        assert doubled.json() == site_of_three.json(f"streams/v1/{name}images.json")


def test_a_list_is_there_for_mirrors_too(web: Web, site_of_three: Site) -> None:
    for top in ("streams/v1", "meta/simplestreams/v1"):
        for name in ("lxd", "few", "empty", "none"):
            for form in FORMS:
                answer = get(web, f"/{top}/{name}/{form}", LXD)
                assert answer.content == (site_of_three.latest / top / name / form).read_bytes()
        answer = get(web, f"/{top.replace('streams', 'nothing')}/lxd/images.json")
        assert answer.status_code == 404


def test_types_and_caching(web: Web, site_of_three: Site) -> None:
    (serial,) = site_of_three.products()[KEYS[0]]["versions"]
    place = f"/images/{A}/{serial}"
    types = {
        "/index.html": "text/html; charset=utf-8",
        "/key.asc": "text/plain; charset=utf-8",
        "/streams/v1/images.json": "application/json",
        "/streams/v1/images.sjson": "text/plain; charset=utf-8",
        "/streams/v1/images.json.gpg": "text/plain; charset=utf-8",
        "/streams/v1/images.json.gz": "application/gzip",
        "/meta/1.0/index-system": "text/plain; charset=utf-8",
        "/meta/1.0/index-system.2": "text/plain; charset=utf-8",
        "/meta/1.0/index-system.2.asc": "text/plain; charset=utf-8",
        "/site-id": "text/plain; charset=utf-8",
        "/trace": "text/plain; charset=utf-8",
        f"{place}/SHA256SUMS": "text/plain; charset=utf-8",
        f"{place}/SHA256SUMS.asc": "text/plain; charset=utf-8",
        f"{place}/source.json": "application/json",
        f"{place}/incus.tar.xz": "application/octet-stream",
        f"{place}/rootfs.squashfs": "application/octet-stream",
        f"{place}/disk.qcow2": "application/octet-stream",
    }
    for path, wanted in types.items():
        answers = [get(web, path)]
        if path.startswith("/images/"):
            answers.append(get(web, web.http + path))
        for answer in answers:
            assert answer.status_code == 200, path
            assert answer.content == (site_of_three.latest / path.strip("/")).read_bytes()
            assert answer.headers["Content-Type"] == wanted, path
            assert "Content-Encoding" not in answer.headers, path
            image = path.startswith("/images/") and not path.endswith(".asc")
            assert answer.headers["Cache-Control"] == (FOREVER if image else LATER), path
            assert "Vary" not in answer.headers or path.startswith(("/streams/", "/index.html"))


def test_the_page_is_what_people_find(web: Web, site_of_three: Site) -> None:
    answer = get(web, "/")
    assert answer.content == (site_of_three.latest / "index.html").read_bytes()
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Cache-Control"] == LATER


def test_a_serial_may_be_escaped_and_slashes_doubled(web: Web, site_of_three: Site) -> None:
    (serial,) = site_of_three.products()[KEYS[0]]["versions"]
    for name in (serial, serial.replace(":", "%3A")):
        for base in (web.url, web.http):
            answer = get(web, f"{base}//images/{A}//{name}//meta.tar.xz")
            assert answer.status_code == 200
            assert answer.headers["Cache-Control"] == FOREVER


def test_the_packed_index_goes_to_who_takes_it(web: Web, site_of_three: Site) -> None:
    for agent, name in ((INCUS, ""), (LXD, "lxd/")):
        answer = get(web, "/streams/v1/images.json", agent, encoding="gzip", stream=True)
        assert answer.headers["Content-Encoding"] == "gzip"
        assert answer.headers["Content-Type"] == "application/json"
        assert sorted(re.split(", *", answer.headers["Vary"])) == ["Accept-Encoding", "User-Agent"]
        packed = answer.raw.read(decode_content=False)
        assert packed == (site_of_three.latest / f"streams/v1/{name}images.json.gz").read_bytes()
        assert (
            gzip.decompress(packed) == (site_of_three.latest / f"streams/v1/{name}images.json").read_bytes()
        )
        for refused in ("gzip;q=0", "br, gzip; q=0.0, zstd"):
            answer = get(web, "/streams/v1/images.json", agent, encoding=refused)
            assert "Content-Encoding" not in answer.headers
            assert answer.json() == site_of_three.json(f"streams/v1/{name}images.json")
        (site_of_three.latest / f"streams/v1/{name}images.json.gz").unlink()
        answer = get(web, "/streams/v1/images.json", agent, encoding="gzip")
        assert "Content-Encoding" not in answer.headers
        assert answer.json() == site_of_three.json(f"streams/v1/{name}images.json")


def test_the_page_is_packed_for_who_takes_it(web: Web, site_of_three: Site) -> None:
    html = (site_of_three.latest / "index.html").read_bytes()
    for path in ("/", "/index.html"):
        plain, packed = get(web, path), get(web, path, encoding="gzip")
        assert plain.content == packed.content == html
        assert "Content-Encoding" not in plain.headers
        assert packed.headers["Content-Encoding"] == "gzip"
        for answer in (plain, packed):
            assert answer.headers["Vary"] == "Accept-Encoding"
            assert answer.headers["Cache-Control"] == LATER
            assert answer.headers["Content-Type"] == "text/html; charset=utf-8"


def test_what_hides_and_what_is_not_there(web: Web, site_of_three: Site) -> None:
    latest = site_of_three.latest.resolve()
    for path in (f"images/{TEMPORARY}x", "streams/v1/.images.json.x", ".~tmp~/images.json"):
        (latest / path).parent.mkdir(parents=True, exist_ok=True)
        (latest / path).write_text("half")
        for base in (web.url, web.http) if path.startswith("images") else (web.url,):
            assert get(web, f"{base}/{path}").status_code == 404
    for path in ("/images/x/y", "/streams/v1/more.json", "/state/lock", "/../state/lock", "/%2e%2e/site-id"):
        answer = get(web, path)
        assert answer.status_code in (400, 404), path
        assert "Cache-Control" not in answer.headers, "what is missing now may be there in a second"


def test_a_publication_is_seen_at_once(web: Web, site_of_three: Site) -> None:
    before = get(web, "/streams/v1/images.json", LXD).content
    build(site_of_three.ci, B)
    site_of_three.publish()
    after = get(web, "/streams/v1/images.json", LXD).content
    assert after != before
    assert after == (site_of_three.latest / "streams/v1/lxd/images.json").read_bytes()


def test_a_snapshot_without_lists_is_served_to_all(web: Web, site_of_three: Site) -> None:
    site_of_three.more = ""
    site_of_three.configure()
    site_of_three.publish()
    answer = get(web, "/streams/v1/images.json", LXD)
    assert answer.content == (site_of_three.latest / "streams/v1/images.json").read_bytes()


def test_plain_http_gives_images_and_sends_the_rest_to_https(web: Web, site_of_three: Site) -> None:
    for path in ("/", "/streams/v1/index.json", "/meta/1.0/index-system?a=b", "/a%0D%0Ab"):
        answer = get(web, f"{web.http}{path}")
        assert answer.status_code == 301
        assert answer.headers["Location"].lower() == f"{web.url}{path}".lower()
    followed = requests.get(f"{web.http}/streams/v1/images.json", verify=str(web.ca), timeout=10)
    assert followed.json() == site_of_three.json("streams/v1/images.json")
    assert len(followed.history) == 1


def test_on_a_mirror(program: str, site_of_three: Site, tmp_path: Path) -> None:
    site_of_three.more += '[[mirror]]\nname = "near"\nurl = "mirror"\n'
    site_of_three.configure()
    site_of_three.publish()
    configured = generated(site_of_three, f"--tree={site_of_three.mirror}", program=program)
    (site_of_three.latest / "streams/v1/lxd/images.json").unlink()
    with SERVERS[program](site_of_three.mirror, tmp_path / "web", configured) as web:
        assert get(web, "/streams/v1/images.json", LXD).json()["products"].keys() == {*KEYS[:2]}


def test_without_plain_http_or_lists(site: Site, tmp_path: Path) -> None:
    site.configure()
    text = site.doit("serverconfig", "--listen-http=none", "nginx").out
    assert "listen 80" not in text
    assert "Vary" not in text
    assert "map $http_user_agent" not in text
    assert "images.example.org" in text
    assert str(site.latest) in text
    assert site.doit("serverconfig", "nginx").out.startswith(text)
    assert not site.root.exists(), "it makes nothing"


def test_lxc_finds_the_index_and_the_image(web: Web, site_of_three: Site, tmp_path: Path) -> None:
    index = (site_of_three.latest / "meta/1.0/index-system").read_text().splitlines()
    assert clients.lxc_list(web, tmp_path) == [line.split(";")[:5] for line in index]
    container = clients.lxc_template(web, tmp_path, *A.split("/"))
    (serial,) = site_of_three.products()[KEYS[0]]["versions"]
    assert (container / "rootfs/etc/serial").read_text().strip() == serial


@pytest.mark.parametrize("name", ["incus", "lxc"])
def test_clients_see_different_lists_at_one_url(
    web: Web, program: str, site_of_three: Site, tmp_path: Path, name: str
) -> None:
    remote = {"incus": clients.incus, "lxc": clients.lxc}[name](web, tmp_path)
    images = {image["properties"]["os"]: image for image in remote.images()}
    debian = images["Debian GNU/Linux"]
    assert images.keys() - {"Debian GNU/Linux"} == {"incus": {"Alpine", "Nixos"}, "lxc": {"Alpine"}}[name]
    assert "Bookworm" in debian["properties"]["description"]
    assert debian["expires_at"] == "2028-06-30T00:00:00Z"
    assert images["Alpine"]["expires_at"] == "1970-01-01T00:00:00Z", "never"
    vm = remote.export("debian/12", tmp_path / "vm", vm=True)
    assert vm in {image["fingerprint"] for image in remote.images()}
    assert "GET /streams/v1/images.json" in web.log.read_text()
    site_of_three.more = LISTS.replace('["debian"]', '["debian"]').replace("[0-5][.]", "never")
    site_of_three.configure()
    configured = generated(site_of_three, program=program)
    with SERVERS[program](site_of_three.latest, tmp_path / "again", configured) as again:
        remote = {"incus": clients.incus, "lxc": clients.lxc}[name](again, tmp_path)
        assert len(remote.images()) == {"incus": 9, "lxc": 0}[name], "an empty list is no error"


# What is printed


def web_of(**options: Any) -> webserver.Web:
    return webserver.Web(**{"names": ("localhost",), "https": ("127.0.0.1:1",), "http": (), **options})


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import trustme

    path = tmp_path_factory.mktemp("certificate") / 'a "b" {c}; #\\d' / "server.pem"
    path.parent.mkdir()
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(path)
    return path


HOSTILE = "\"'\\{};$#~* nrtd()[]^.ab|!=<>?-%@"


def good(texts: list[str]) -> list[List]:
    """A list for each of these that is a regular expression by our rules."""
    agents = []
    for text in texts:
        try:
            agents.append(Agent.parse(text))
        except ValueError:
            continue
    return [List(name=f"l{at}", client="lxd", agent=agent) for at, agent in enumerate(agents)]


@pytest.mark.parametrize("program", ["nginx", "apache"])
@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.sampled_from(HOSTILE), min_size=1, max_size=12), min_size=1, max_size=8))
def test_a_server_takes_any_regular_expression(program: str, certificate: Path, agents: list[str]) -> None:
    need({"nginx": "nginx", "apache": "apache2"}[program])
    options = {"certificate": str(certificate), "key": str(certificate)}
    text = PRINTED[program](certificate.parent, good(agents), web_of(**options))
    assert FAULTS[program](text, certificate.parent.parent) == ""


@pytest.fixture(params=["nginx", "apache"])
def chosen(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Asks a server with these lists which of them it hands to each agent."""
    tree = tmp_path / "tree"
    for name in ("", *(f"l{at}/" for at in range(50))):
        (tree / f"streams/v1/{name}").mkdir(parents=True, exist_ok=True)
        (tree / f"streams/v1/{name}images.json").write_text(name)

    def ask(lists: list[List], agents: list[str]) -> list[str]:
        def configured(public: Path, _lists: object, web: webserver.Web) -> str:
            return PRINTED[request.param](public, lists, web)

        with SERVERS[request.param](tree, tmp_path, configured) as web:
            return [get(web, "/streams/v1/images.json", agent).text.strip("/") for agent in agents]

    return ask


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.text(st.sampled_from(HOSTILE), min_size=1, max_size=9), min_size=30, max_size=50),
    st.lists(st.text(st.sampled_from(HOSTILE), min_size=1, max_size=9).map(str.strip), max_size=30),
)
@example(
    [r"^\${2}x$", r"[${b}]z", r"a\${HOME}", "${HOME}", r"\\\"q", "'q", "^!d", "=e", "-f", "%{HTTPS}", "@STREAMS@",
     r"b\ c", "^ab|ba$", "(?i)nOd", "x{HOME}", r"\\$", "q[.]q[.]"],
    ["$$x", "$x", "bz", "$z", "a${HOME}", "", "b", '\\"q', '"q', "'q", "!d", "=e", "e", "-f", "%{HTTPS}", "@STREAMS@",
     "b c", "xab", "abx", "xba", "NODE", "off", "x{HOME}", "\\", "$HOME", "/root", "q.q."],
)  # fmt: skip
def test_a_server_reads_a_regular_expression_as_python_does(
    chosen: Any, texts: list[str], agents: list[str]
) -> None:
    lists = good(texts)
    agents = [agent for agent in agents if agent]  # nginx asks no regular expression about none
    patterns = {one.name: one.agent.pattern for one in lists if one.agent}
    expected = [next((n for n, p in patterns.items() if re.search(p, agent)), "") for agent in agents]
    assert chosen(lists, agents) == expected


@pytest.mark.parametrize("program", ["nginx", "apache"])
def test_two_sites_in_one_server(program: str, certificate: Path) -> None:
    printed = PRINTED[program]
    options = {"certificate": str(certificate), "key": str(certificate)}
    lists = [List(name="l", client="lxd", agent=Agent("a" * 1000))]
    upstreams = [Upstream(name="u", url="https://h.example", keyring=certificate)]
    text = printed(certificate.parent, lists, web_of(**options, http=("127.0.0.1:2",)), upstreams)
    options |= {"names": ("b.example.org", "*.example.org"), "http": ("127.0.0.1:2",)}
    text += printed(certificate.parent, lists, web_of(**options), upstreams)
    assert FAULTS[program](text, certificate.parent.parent) == ""


def test_the_name_of_a_host_may_be_long(certificate: Path) -> None:
    """nginx limits the length of its variables' names."""
    need("nginx")
    lists = [List(name="a", client="lxd", agent=Agent("^LXD "))]
    options = {"certificate": str(certificate), "key": str(certificate)}
    options |= {"names": ("images.a-department.of.an-example-university.edu",)}
    text = webserver.nginx(certificate.parent, lists, web_of(**options))
    assert nginx_faults(text, certificate.parent.parent) == ""


def test_the_port_of_the_redirection() -> None:
    for place, said in (("443", ""), ("[::]:443", ""), ("8443", ":8443"), ("[::1]:444", ":444")):
        text = webserver.nginx(Path("/x"), [], web_of(https=(place,), http=("80",)))
        assert f"return 301 https://$server_name{said}$request_uri;" in text
        text = apache_config(Path("/x"), [], web_of(https=(place,), http=("80",)))
        assert f'"https://localhost{said}%{{REQUEST_URI}}" [R=301,L]' in text


def test_the_addresses_of_an_apache() -> None:
    for places, said in (
        (("443", "[::]:443"), "*:443"),
        (("0.0.0.0:1", "[::1]:2", "a.example.org:3", "*:1"), "*:1 [::1]:2 a.example.org:3"),
    ):
        assert f"<VirtualHost {said}>\n" in apache_config(Path("/x"), [], web_of(https=places))


def test_what_a_path_looks_like_is_not_filled_in() -> None:
    assert 'root "/srv/@TREE@";' in webserver.nginx(Path("/srv/@TREE@"), [], web_of())
    assert '    DocumentRoot "/srv/@TREE@"' in apache_config(Path("/srv/@TREE@"), [], web_of())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["serverconfig"], "doit serverconfig: nothing: it knows nginx"),
        (["serverconfig", "nginxx"], "doit serverconfig: nginxx: it knows nginx"),
        (["serverconfig", "nginx", "apache"], "doit serverconfig: nginx apache: it knows nginx, apache, rsyncd"),
        (["serverconfig", "--listen=443; x", "apache"], "--listen=443; x: write it like 443, "),
        (["serverconfig", "--certificate-key=/a[b", "apache"], "--certificate-key=/a[b: must be an absolute path"),
        (["serverconfig", "--tree=/a*", "apache"], "--tree=/a*: must be an absolute path in one line, without any of $*?[]"),
        (["serverconfig", "nginx", "--listen=443"], "doit serverconfig: nginx --listen=443: it knows nginx"),
        (["serverconfig", "--listen=", "nginx"], "--listen=: write it like 443, 192.0.2.1:443 or [::]:443"),
        (["serverconfig", "--listen=443; x", "nginx"], "--listen=443; x: write it like 443, "),
        (["serverconfig", "--listen-http=none", "--listen-http=80", "nginx"], "--listen-http=none: write it like"),
        (["serverconfig", "--server-name=a b", "nginx"], "--server-name=a b: is no host name"),
        (["serverconfig", "--server-name=a;", "nginx"], "--server-name=a;: is no host name"),
        (["serverconfig", "--server-name=*.a.org", "nginx"], "--server-name=*.a.org: the first is where plain HTTP is sent"),
        (["serverconfig", "--server-name=_", "nginx"], "--server-name=_: the first is where plain HTTP is sent"),
        (["serverconfig", "--certificate=c.pem", "nginx"], "--certificate=c.pem: must be an absolute path"),
        (["serverconfig", "--tree=mirror", "nginx"], "--tree=mirror: must be an absolute path"),
        (["serverconfig", "--certificate-key=/a$b", "nginx"], "--certificate-key=/a$b: must be an absolute path"),
    ],
)  # fmt: skip
def test_what_it_refuses_in_one_line(site: Site, words: list[str], said: str) -> None:
    result = site.doit(*words)
    assert (result.code, result.out) == (3, "")
    (line,) = result.err.splitlines()
    assert line.startswith(f"ERROR: {said}")


@pytest.mark.parametrize("program", ["nginx", "apache"])
def test_a_root_that_a_server_cannot_name(site: Site, program: str) -> None:
    site.configure()
    site.config.write_text(site.config.read_text().replace('"root"', '"ro$ot"'))
    result = site.doit("serverconfig", program)
    assert (result.code, result.out) == (3, "")
    assert result.err.startswith(f"ERROR: site.root: {site.base}/ro$ot/latest: must be an absolute path")


def test_a_reader_may_ask(foreign: Site) -> None:
    result = plainly(foreign, "serverconfig", "nginx")
    assert result.code == 0, result.err
    assert str(foreign.latest) in result.out


def test_the_locale_is_of_no_matter(site: Site) -> None:
    site.configure()
    result = site.doit(
        "serverconfig", "nginx", env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    )
    assert result.code == 0, result.err
    assert json.dumps(result.out).count("\\u") == 0
    assert os.fspath(site.latest) in result.out
