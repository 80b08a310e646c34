"""The page for people: what it shows and links to, and that nothing gets out of its place."""

import re
import shlex
from base64 import b64encode
from collections.abc import Iterable, Sequence
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sites import Key, Site, build, matrix
from test_streams import CONTAINER, LXC, VM, image

from tasks import lxcindex, page, streams
from tasks.image import INCUS, ROOT_TAR, UNIFIED, UNIFIED_LXD, UNIFIED_VM, Image
from tasks.settings import Page, Rule, Signing
from tasks.sign import certificates, keyring
from tasks.tree import TEMPLATE

A, B, C = "tiny/1/amd64/default", "tiny/1/arm64/default", "tiny/2/amd64/default"
HTML = TEMPLATE.read_text()
EVERYTHING = tuple({*CONTAINER, *VM, *LXC})
OLD, NEW = "20260101_07:42", "20260203_08:00"


class Reading(HTMLParser):
    """A page as a reader of HTML has it."""

    def __init__(self, html: bytes) -> None:
        super().__init__()
        self.shape: list[tuple[str, ...]] = []  # every tag with the names of its attributes
        self.values: list[str] = []  # of attributes
        self.lines: list[str] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.shape.append((tag, *(name for name, _ in attrs)))
        self.values += [value or "" for _, value in attrs]
        self._open.append(tag)
        if tag == "code" and self._copied():
            self.lines.append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & {*self._open}:
            self.texts.append(data)
        if self._copied():
            self.lines[-1] += data

    def _copied(self) -> bool:
        """Whether this is in a line to copy, and not in what the page says in passing."""
        inside = [tag for tag in self._open if tag not in "ib"]
        return inside[-2:] == ["div", "code"]


def offers(*images: Image, rules: Sequence[Rule] = ()) -> list[page.Offer]:
    """What the indexes of these images say, read back from their bytes."""
    document = msgspec.json.decode(streams.text(streams.images_json(images, rules)))
    index = lxcindex.indexes(images, rules, (1,))["index-system"].decode()
    return page.offers(document["products"], index.splitlines(keepends=True))


def rendered(*images: Image, rules: Sequence[Rule] = (), settings: Page = Page()) -> bytes:  # noqa: B008
    return page.page(HTML, settings, offers(*images, rules=rules), {one.path: one for one in images})


def lines(html: bytes) -> list[str]:
    return Reading(html).lines


def body(html: bytes) -> str:
    return html.decode().partition("</thead>")[2].partition("</table>")[0]


def cells(html: bytes) -> list[list[str]]:
    """Each product's row, as text."""
    rows = re.findall(r"<tr><th.*?</tr>", body(html), re.DOTALL)
    return [[re.sub(r"<[^>]*>", "", cell) for cell in re.split(r"</t[hd]>", row)[:-1]] for row in rows]


def test_a_product_of_every_kind_has_a_line_for_every_client() -> None:
    html = rendered(image(A, NEW, EVERYTHING), rules=[Rule(match="tiny/1", aliases=("tiny/one",))])
    assert lines(html) == [
        "incus remote add imagepress https://SERVER --protocol=simplestreams",
        "lxc remote add imagepress https://SERVER --protocol=simplestreams",
        "incus launch imagepress:tiny/1/default/amd64",
        "incus launch imagepress:tiny/1/default/amd64 --vm",
        "lxc launch imagepress:tiny/1/default/amd64",
        "lxc launch imagepress:tiny/1/default/amd64 --vm",
        "lxc-create -n NAME -t download -- --server SERVER -d tiny -r 1 -a amd64 --variant default",
    ]
    ((name, variant, arch, when, age, kinds, size, requires),) = cells(html)
    assert (name, variant, arch) == ("tiny/1", "default", "amd64")
    assert (when, age) == ("2026-02-03 08:00", "")
    assert (kinds, requires) == ("container, VM, LXC", "")
    assert re.fullmatch(r"[0-9]+ B", size)
    assert 'datetime="2026-02-03T08:00Z"' in html.decode()
    assert (
        'data-words="tiny/1/amd64/default tiny/1/default tiny/one/default tiny/1 tiny/one container vm lxc"'
        in (html.decode())
    )


@pytest.mark.parametrize(
    ("rule", "commands"),
    [
        ({}, {"incus", "lxc", "lxc-create"}),
        ({"clients": ("incus",)}, {"incus", "lxc-create"}),
        ({"clients": ("lxd",)}, {"lxc", "lxc-create"}),
        ({"lxc": False}, {"incus", "lxc"}),
        ({"lxc": False, "clients": ("lxd",)}, {"lxc"}),
    ],
)
def test_only_clients_that_may_see_it_are_told_of_it(rule: dict[str, object], commands: set[str]) -> None:
    html = rendered(image(A, NEW, EVERYTHING), rules=[Rule(match="*", **rule)])
    assert {line.split()[0] for line in lines(html)} == commands


@pytest.mark.parametrize(
    ("files", "kinds", "told"),
    [
        (CONTAINER, "container", ["launch"]),
        (VM, "VM", ["--vm"]),
        (LXC, "LXC", ["lxc-create"]),
        ((INCUS, ROOT_TAR), "container", ["launch"]),
        ((UNIFIED,), "container", ["launch"]),
        ((UNIFIED_LXD,), "container", ["launch"]),
        ((UNIFIED_VM,), "VM", ["--vm"]),
        ((UNIFIED, *LXC), "container, LXC", ["launch", "lxc-create"]),
        ((UNIFIED, UNIFIED_VM), "container", ["launch"]),  # the VM is not listed beside it
    ],
)
def test_only_kinds_that_exist_have_lines(files: tuple[str, ...], kinds: str, told: list[str]) -> None:
    html = rendered(image(A, NEW, files), rules=[Rule(match="*", clients=("incus",))])
    found = [line for line in lines(html) if "remote add" not in line]
    assert [word for line in found for word in ("launch", "--vm", "lxc-create") if word in line] == (
        ["launch", *told] if told == ["--vm"] else told
    )
    assert cells(html)[0][5] == kinds


def test_a_unified_vm_is_for_incus_alone() -> None:
    assert [line.split()[0] for line in lines(rendered(image(A, NEW, (UNIFIED_VM,))))] == ["incus"] * 2
    html = rendered(image(A, NEW, (UNIFIED, UNIFIED_LXD)))
    assert [line.split()[:2] for line in lines(html)][2:] == [["incus", "launch"], ["lxc", "launch"]]
    assert offers(image(A, NEW, (UNIFIED_VM,)), rules=[Rule(match="*", clients=("lxd",))]) == []


def test_a_delta_is_linked_and_no_part_of_the_size() -> None:
    one = image(A, NEW, EVERYTHING)
    name = f"delta-{OLD}.vcdiff"
    with_delta = msgspec.structs.replace(one, files={**one.files, name: one.files[INCUS]})
    assert cells(rendered(with_delta))[0][6] == cells(rendered(one))[0][6]
    assert f"{one.path}/{name}" in page.links(rendered(with_delta))


def test_what_no_client_could_take_is_not_there() -> None:
    html = rendered(image(A, NEW, EVERYTHING), rules=[Rule(match="*", clients=(), lxc=False)])
    assert cells(html) == lines(html) == []
    assert b">0 products<" in html


def test_a_kind_of_an_older_build_says_so_and_has_its_files() -> None:
    older, newer = image(A, OLD, EVERYTHING), image(A, NEW, CONTAINER)
    html = rendered(older, newer)
    row = cells(html)[0]
    assert row[3:6] == ["2026-02-03 08:00", "", "container, VM (2026-01-01), LXC (2026-01-01)"]
    assert row[6] == f"{newer.size} B"
    assert {one.rpartition("/")[0] for one in page.links(html) if one.startswith("images/")} == {
        older.path,
        newer.path,
    }


def test_an_older_build_with_nothing_of_its_own_is_not_shown() -> None:
    assert OLD.encode() not in rendered(image(A, OLD, EVERYTHING), image(A, NEW, EVERYTHING))


def test_every_file_is_linked_with_its_signature_and_sums() -> None:
    one = image(A, NEW, EVERYTHING)
    found = [link for link in page.links(rendered(one)) if link.startswith("images/")]
    wanted = {f"{one.path}/{name}" for name in (*one.files, "SHA256SUMS")}
    assert sorted(found) == sorted(wanted | {f"{name}.asc" for name in wanted})
    assert "key.asc" in page.links(rendered(one))


def test_without_the_images_own_record_the_streams_tell_of_its_files() -> None:
    one = image(A, NEW, EVERYTHING)
    html = page.page(HTML, Page(), offers(one), {})
    named = {link.rpartition("/")[2] for link in page.links(html)}
    assert {*CONTAINER, *VM, "SHA256SUMS"} <= named


def test_what_an_instance_needs_is_shown_and_set() -> None:
    needs = {"secureboot": "false", "nesting": "true", "cgroup": "v2"}
    rule = Rule(match="*", requirements=needs, lxd_requirements={"cgroup": "v1"})
    html = rendered(image(A, NEW, EVERYTHING), rules=[rule])
    assert cells(html)[0][7] == "cgroup=v2, nesting=true, secureboot=false, cgroup=v1 (LXD)"
    launch = [line.partition("amd64 ")[2] for line in lines(html) if " launch " in line]
    assert launch == ["-c security.nesting=true", "--vm -c security.secureboot=false"] * 2


def test_a_machine_that_needs_its_agents_disk_gets_it_before_it_starts() -> None:
    """What is refused otherwise: "This virtual machine image requires an agent:config disk be added"."""
    rule = Rule(match="*", requirements={"cdrom_agent": "true", "secureboot": "false"})
    html = rendered(image(A, NEW, (*CONTAINER, *VM)), rules=[rule])
    told = [line for line in lines(html) if "remote add" not in line]
    alias = "imagepress:tiny/1/default/amd64"
    machine = f"{alias} NAME --vm -c security.secureboot=false"
    assert told == [
        f"incus launch {alias}",
        f"incus init {machine} && incus config device add NAME agent disk source=agent:config && incus start NAME",
        f"lxc launch {alias}",
        f"lxc launch {alias} --vm -c security.secureboot=false",
    ]


def test_each_client_is_told_what_it_needs_itself() -> None:
    rule = Rule(match="*", lxd_requirements={"secureboot": "false"})
    html = rendered(image(A, NEW, VM), rules=[rule])
    assert [line for line in lines(html) if "secureboot" in line] == [
        "lxc launch imagepress:tiny/1/default/amd64 --vm -c security.secureboot=false"
    ]
    assert cells(html)[0][7] == "secureboot=false (LXD)"
    html = rendered(image(A, NEW, VM), rules=[rule, Rule(match="*", clients=("lxd",))])
    assert cells(html)[0][7] == "secureboot=false"
    html = rendered(image(A, NEW, VM), rules=[rule, Rule(match="*", clients=("incus",))])
    assert cells(html)[0][7] == ""


def test_an_alias_that_could_lead_elsewhere_is_not_taken() -> None:
    """foo/1/amd64 is variant amd64 of arm64, and to the clients also foo/1 on amd64."""
    odd, plain = image("foo/1/arm64/amd64", NEW), image("foo/1/amd64/default", NEW)
    rules = [Rule(match="foo/1/amd64/default", variant_aliases=("default",))]
    assert [
        line.split(":")[1] for line in lines(rendered(odd, plain, rules=rules)) if "incus launch" in line
    ] == [
        "foo/1/default/amd64",
        "foo/1/amd64/arm64",
    ]
    (first,) = offers(image(A, NEW))
    (second,) = offers(image(B, NEW))
    second = second._replace(aliases=("tiny/1/default/amd64",), key=first.key.replace("tiny", "other"))
    html = page.page(HTML, Page(), [first, second], {})
    assert [line.split(":")[1] for line in lines(html) if "incus launch" in line] == [
        "tiny/1/amd64",
        "tiny/1/default/amd64/amd64",
    ]
    third = second._replace(key="third:1:amd64:default")
    html = page.page(HTML, Page(), [second, third], {})
    assert not [line for line in lines(html) if "launch" in line]


def test_the_order_of_what_comes_in_is_of_no_account() -> None:
    images = [image(name, serial, EVERYTHING) for name in (A, B, C) for serial in (OLD, NEW)]
    document = msgspec.json.decode(streams.text(streams.images_json(images, ())))["products"]
    index = lxcindex.indexes(images, (), (1,))["index-system"].decode().splitlines(keepends=True)
    by = {one.path: one for one in images}
    there = page.page(HTML, Page(), page.offers(document, index), by)
    back = page.page(HTML, Page(), page.offers(dict(reversed(document.items())), index[::-1]), by)
    assert there == back == rendered(*images)
    assert [(row[0], row[2]) for row in cells(there)] == [
        ("tiny/1", "amd64"),
        ("tiny/1", "arm64"),
        ("tiny/2", "amd64"),
    ]
    many = [image(f"os{number}/1/amd64/default") for number in range(20)]
    names = [row[0] for row in cells(rendered(*many))]
    assert names == sorted(names)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_499, "999 kB"), (999_600, "1 MB"), (1_234_567, "1.23 MB"),
     (45_678_901, "45.7 MB"), (5 * 10**9, "5 GB"), (1234 * 10**9, "1.23e+03 GB")],
)  # fmt: skip
def test_sizes_are_for_people(size: int, text: str) -> None:
    assert page._size(size) == text


HOSTILE = st.text(min_size=1).filter(lambda text: not text.startswith("-") and "\r" not in text)
SCRIPT = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>&amp;&lt;@ROWS@`$(reboot)`;\n<!--"


def hostile(text: str) -> bytes:
    """A page on which everything that can be said says this."""
    (offer,) = offers(image(A, NEW, EVERYTHING))
    part = text.replace(":", "")
    offer = offer._replace(
        key=":".join([part] * 4),
        aliases=(text,),
        requirements={"incus": {text: text}, "lxd": {text: f"{text}."}},
        lxc=text,
        kinds=dict.fromkeys(offer.kinds, text),
        files={text: {text: 1}},
    )
    return page.page(HTML, Page(title=text, remote=text), [offer], {})


@given(HOSTILE)
@example(SCRIPT)
@example("SERVER")
@example("@TITLE@")
@example("javascript:alert(1)//")
def test_no_value_gets_out_of_its_place(text: str) -> None:
    """The page has the tags and attributes of a harmless one, whatever is said, and says it."""
    told, harmless = Reading(hostile(text)), Reading(hostile("x"))
    assert told.shape == harmless.shape
    said = "".join(told.texts)
    assert text in said
    assert f"{text}={text}, {text}={text}. (LXD)" in said
    assert len(told.lines) == len(harmless.lines)


@given(HOSTILE)
@example(SCRIPT)
@example("SERVER")
def test_no_value_is_more_than_a_word_of_the_shell(text: str) -> None:
    part = text.replace(":", "")
    found = [shlex.split(line) for line in Reading(hostile(text)).lines]
    assert ["incus", "remote", "add", text, "https://SERVER", "--protocol=simplestreams"] in found
    assert ["lxc", "launch", f"{text}:{text}/{part}", "--vm"] in found
    create = ["lxc-create", "-n", "NAME", "-t", "download", "--", "--server", "SERVER"]
    assert [*create, "-d", part, "-r", part, "-a", part, "--variant", part] in found


@given(HOSTILE)
@example(SCRIPT)
@example("javascript:alert(1)//")
@example("//example.org/")
def test_no_link_leads_out_of_the_tree(text: str) -> None:
    for html in (hostile(text), rendered(image(A, NEW, EVERYTHING))):
        hrefs = re.findall(r'<a href="([^"]*)"', html.decode())
        assert len(hrefs) > 4
        for href in hrefs:
            split = urlsplit(href)
            assert (split.scheme, split.netloc, split.query, split.fragment) == ("", "", "", "")
            assert re.match(r"(images|streams|meta)/|key\.asc$", href)


def test_the_address_is_put_into_no_other_word_than_its_own() -> None:
    html = hostile("SERVER").decode()
    assert re.findall(r"\S*<b>SERVER</b>\S*", html) == [
        *["https://<b>SERVER</b>"] * 2,
        "<b>SERVER</b>",
    ]


def test_the_policy_lets_nothing_run_or_load_but_what_the_page_has() -> None:
    html = rendered().decode()
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', html)
    allowed = dict(one.split(" ", 1) for one in policy.replace("&#x27;", "'").split("; "))
    hashes = {}
    for of in ("style", "script"):
        (found,) = re.findall(f"<{of}>(.*?)</{of}>", html, re.DOTALL)
        hashes[f"{of}-src"] = f"'sha256-{b64encode(sha256(found.encode()).digest()).decode()}'"
    none = dict.fromkeys(("default-src", "base-uri", "form-action"), "'none'")
    assert allowed == {**none, "img-src": "data:", **hashes}
    assert html.index("Content-Security-Policy") < html.index("<link") < html.index("<style")


def test_the_template_names_no_other_host() -> None:
    assert not re.findall(r"(?:https?:)?//[a-z]", re.sub(r"(?m)  ?// .*$", "", HTML))


# From here on, the whole program.


@pytest.fixture
def three(site: Site) -> Site:
    site.lines = 'keep = 2\ngrace = "0s"\n'
    site.more = '[[mirror]]\nname = "near"\nurl = "mirror"\n'
    matrix(site.ci, A, B, C)
    build(site.ci, A, B, C)
    site.publish()
    return site


def html(tree: Path) -> bytes:
    return (tree / "index.html").read_bytes()


def listed(site: Site, tree: Path | None = None) -> dict[str, str]:
    """The newest serial of each product, by the streams."""
    document = msgspec.json.decode(((tree or site.latest) / "streams/v1/images.json").read_bytes())
    return {key.replace(":", "/"): max(one["versions"]) for key, one in document["products"].items()}


def shown(tree: Path) -> dict[str, str]:
    """The newest serial of each product, by the page."""
    rows = [row[:4] for row in cells(html(tree))]
    return {
        f"{name}/{arch}/{variant}": when.replace("-", "").replace(" ", "_")
        for name, variant, arch, when in rows
    }


def missing(tree: Path) -> list[str]:
    return [link for link in page.links(html(tree)) if not (tree / link).is_file()]


def snapshots(site: Site) -> list[Path]:
    return sorted(site.root.glob("snapshots/*/public"))


def test_the_page_shows_what_is_listed_and_every_link_leads_somewhere(three: Site) -> None:
    assert shown(three.latest) == listed(three)
    assert missing(three.latest) == []
    assert html(three.mirror) == html(three.latest)
    before = three.tree()
    assert three.publish().executed == ["poll"]
    assert three.tree() == before
    build(three.ci, B)
    three.publish()
    assert shown(three.latest) == listed(three)
    assert missing(three.latest) == []
    assert html(three.mirror) == html(three.latest)


def test_a_new_title_is_a_new_page_and_nothing_else(three: Site) -> None:
    three.more += '[page]\ntitle = "<Ours & yours>"\nremote = "ours"\n'
    three.configure()
    result = three.publish()
    assert result.executed == ["poll", "page", "snapshot", "mirror:near"]
    assert "<title>&lt;Ours &amp; yours&gt;</title>" in html(three.mirror).decode()
    assert "incus launch ours:tiny/1/default/amd64" in lines(html(three.mirror))
    assert three.publish().executed == ["poll"]


def test_a_list_that_some_are_handed_takes_no_lines(three: Site) -> None:
    before = html(three.latest)
    three.more += '[[list]]\nname = "none"\nclient = "lxd"\nmatch = []\nagent = "^LXD "\n'
    three.configure()
    assert "page" in three.publish().executed
    assert html(three.latest) == before
    assert lines(before)


@pytest.mark.parametrize("name", ["index.html", "key.asc"])
def test_a_page_that_is_gone_is_written_again(three: Site, name: str) -> None:
    before = (three.latest / name).read_bytes()
    (three.root / "site/public" / name).unlink()
    assert "page" in three.publish().executed
    assert (three.latest / name).read_bytes() == before


def test_a_page_that_was_altered_is_made_again(three: Site) -> None:
    before = html(three.latest)
    (three.root / "site/public/index.html").write_bytes(before + b"<script>alert(1)</script>")
    assert "page" in three.publish().executed
    assert html(three.latest) == html(three.mirror) == before
    assert three.publish().executed == ["poll"]


def test_what_is_in_quarantine_is_on_the_page_as_it_is_exposed(three: Site) -> None:
    before = listed(three)
    build(three.ci, A, B, C)
    three.more += '[[rules]]\nmatch = "tiny/2"\naliases = ["tiny/1"]\n'
    three.configure()
    assert f"failed: {C}: in quarantine" in three.publish(code=1).out
    after = listed(three)
    assert after[C] == before[C]
    assert after[A] > before[A]
    assert shown(three.latest) == after


def test_a_rollback_shows_the_page_of_then_byte_for_byte(three: Site) -> None:
    first, then = snapshots(three)[0], html(three.latest)
    build(three.ci, A)
    three.publish()
    three.more += '[page]\ntitle = "Other"\n'
    three.configure()
    three.publish()
    now = html(three.latest)
    assert then != now
    assert three.doit("rollback", first.parent.name).code == 0
    assert html(three.latest) == html(three.mirror) == then
    three.publish()
    assert html(three.latest) == then
    assert three.publish().executed == ["poll"]
    assert three.doit("rollback", "--release").code == 0
    three.publish()
    assert html(three.latest) == html(three.mirror) == now


def test_a_rollback_to_a_snapshot_without_a_page_makes_one(three: Site) -> None:
    first, then = snapshots(three)[0], html(three.latest)
    build(three.ci, A)
    three.publish()
    (first / "index.html").unlink()
    assert three.doit("rollback", first.parent.name).code == 0
    assert html(three.latest) == then


def test_no_page_names_what_was_withdrawn_at_once(three: Site) -> None:
    bad = listed(three)[A]
    build(three.ci, A)
    three.publish()
    build(three.ci, B)
    three.publish()
    naming = [tree for tree in snapshots(three) if shown(tree).get(A) == bad]
    assert naming
    assert three.doit("withdraw", "--now", f"{A}/{bad}").code == 0
    for tree in [*snapshots(three), three.mirror, three.root / "site/public"]:
        assert f"{A}/{bad}".encode() not in html(tree), tree
        assert missing(tree) == []
        assert shown(tree) == listed(three, tree)


def test_what_is_withdrawn_is_not_on_the_page_that_a_rollback_shows(three: Site) -> None:
    first, bad = snapshots(three)[0], listed(three)[A]
    build(three.ci, A, B)
    three.publish()
    assert three.doit("withdraw", f"{A}/{bad}").code == 0
    assert three.doit("rollback", first.parent.name).code == 0
    assert A not in shown(three.latest)
    assert shown(three.latest) == listed(three)


def faults(site: Site) -> list[str]:
    result = site.doit("verify")
    assert result.code == 1, result.out + result.err
    return [line for line in result.out.splitlines() if line.startswith(("index.html", "key.asc"))]


def test_verify_names_what_is_wrong_with_the_page_and_the_key(three: Site, other: Key) -> None:
    latest = three.latest.resolve()
    page_, ring = latest / "index.html", latest / "key.asc"
    whole, key = page_.read_bytes(), ring.read_bytes()
    page_.write_bytes(whole.replace(b'"key.asc"', b'"kez.asc"'))
    assert faults(three) == ["index.html: links to kez.asc, which does not exist"]
    page_.unlink()
    assert faults(three) == ["index.html: is missing, or cannot be read"]
    page_.write_bytes(whole)
    ring.write_bytes(other.public.read_bytes())
    assert faults(three) == ["key.asc: is not of the key that signed streams/v1/images.json"]
    ring.write_bytes(b"no key")
    (line,) = faults(three)
    assert line.startswith("key.asc holds no key")
    ring.unlink()
    assert any("key.asc holds no key" in line or "links to key.asc" in line for line in faults(three))
    ring.write_bytes(key)
    assert three.doit("verify").code == 0


@pytest.mark.parametrize(
    ("was", "then"),
    [
        ("</body>", "<script>alert(1)</script></body>"),
        ('"default-src ', '"script-src *; default-src '),
        ("incus launch ours:tiny/1", "incus launch ours:tiny/2"),
        ("remote add ours", "remote add images"),
        ("remote add ours ", "remote add 'our s' "),
        ("<title>", "<title>x"),
    ],
)
def test_verify_names_a_page_that_was_altered(site: Site, was: str, then: str) -> None:
    """Also by somebody who is not told the title and the name, or after a change of both."""
    matrix(site.ci, A, C)
    build(site.ci, A, C)
    site.more = '[page]\ntitle = "<b>Ours</b> & \\"yours\\""\nremote = "ours"\n'
    site.publish()
    site.more = ""
    site.configure()
    assert site.doit("verify").code == 0
    path = site.latest.resolve() / "index.html"
    text = path.read_text()
    assert was in text
    path.write_text(text.replace(was, then, 1))
    assert faults(site)[-1] == "index.html: is not what the indexes say, or another version made it"


WRONG = "is damaged, or not as it was published: gpg may not read it"


def test_a_flipped_byte_of_the_key_is_named(three: Site) -> None:
    ring = three.latest.resolve() / "key.asc"
    whole = ring.read_bytes()
    for at in (0, 60, len(whole) // 2, len(whole) - 100, len(whole) - 40, len(whole) - 3):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        ring.write_bytes(damaged)
        (line,) = faults(three)
        assert line == f"key.asc: {WRONG}" or "key.asc holds no key" in line, (at, line)
    for damaged in (whole[:-1], whole + b"\n", whole + whole):
        ring.write_bytes(damaged)
        assert faults(three) == [f"key.asc: {WRONG}"]


def test_the_keys_are_those_that_signed_here_whoever_writes_to_the_tree(three: Site, other: Key) -> None:
    ring, public = three.latest / "key.asc", three.root / "site/public/key.asc"
    whole = ring.read_bytes()
    foreign = next(iter(certificates(other.public.read_bytes(), "other")))
    both = keyring(Signing(key=str(three.key.secret)), bytes(foreign))
    for wrong in (b"", b"no key", whole[:-1], both):
        public.unlink()
        public.write_bytes(wrong)
        assert "page" in three.publish().executed
        assert ring.read_bytes() == public.read_bytes() == whole
    ring.resolve().write_bytes(both)  # which the working tree has too: they share it
    assert faults(three) == [f"key.asc: holds a key that is not this site's: {foreign.fingerprint}"]
    assert faults_of_others(three, both) == []
    build(three.ci, A)
    three.publish()
    assert ring.read_bytes() == public.read_bytes() == whole
    assert three.doit("verify").code == 0


def faults_of_others(site: Site, ring: bytes) -> list[str]:
    """What a reader is told who may not look into the state directory."""
    state = site.root / "state"
    state.rename(site.root / "aside")
    try:
        assert site.latest.joinpath("key.asc").read_bytes() == ring
        return [line for line in site.doit("verify").out.splitlines() if line.startswith("key.asc")]
    finally:
        (site.root / "aside").rename(state)


@pytest.mark.parametrize("lost", ["gone", "damaged"])
def test_the_keys_outlive_the_state(three: Site, other: Key, lost: str) -> None:
    three.key = other
    three.configure()
    build(three.ci, A)
    three.publish()
    both, ring = (three.latest / "key.asc").read_bytes(), three.root / "state/key.asc"
    assert len(certificates(both, "key.asc")) == 2
    assert ring.stat().st_mode & 0o777 == 0o600
    if lost == "gone":
        ring.unlink()
    else:
        ring.write_bytes(both[:-200] + both[-199:])
    three.publish()
    assert ring.read_bytes() == (three.latest / "key.asc").read_bytes() == both
    ring.write_bytes(b"")  # the operator wants the older one no more
    three.publish()
    (one,) = certificates((three.latest / "key.asc").read_bytes(), "key.asc")
    assert one.fingerprint == certificates(other.public.read_bytes(), "other")[0].fingerprint


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Key:
    from tasks import demo

    directory = tmp_path_factory.mktemp("other")
    demo.make_key(directory)
    return Key(directory / "publisher.asc", directory / "publisher.pub.asc")


def signatures(tree: Path) -> Iterable[Path]:
    return (path for path in tree.rglob("*") if path.suffix in (".asc", ".gpg") and path.name != "key.asc")


def test_the_public_key_verifies_all_also_after_a_change_of_keys(
    three: Site, other: Key, tmp_path: Path
) -> None:
    import clients

    def check() -> None:
        for name in ("gpg", "sqv"):
            home = clients.gpg_home(three.latest / "key.asc", tmp_path) if name == "gpg" else None
            for one in signatures(three.latest.resolve()):
                if home:
                    clients.gpg_verify(home, one, one.with_suffix(""))
                else:
                    clients.sqv(three.latest / "key.asc", one, one.with_suffix(""))

    check()
    before = (three.latest / "key.asc").read_bytes()
    three.key = other
    three.configure()
    build(three.ci, A)
    three.publish()
    after = (three.latest / "key.asc").read_bytes()
    assert after != before
    check()
    assert three.publish().executed == ["poll"]
    build(three.ci, A)
    three.publish()
    assert (three.latest / "key.asc").read_bytes() == after
    assert b"PRIVATE" not in after
    assert three.doit("verify", f"--key={three.latest}/key.asc").code == 0


def test_what_is_left_of_an_old_snapshot_verifies_by_its_own_keys(
    three: Site, other: Key, tmp_path: Path
) -> None:
    """An image that is withdrawn at once leaves old snapshots signed by a key that they did not know."""
    import clients

    build(three.ci, A)
    three.publish()
    first = three.latest.resolve()
    old = min(three.products()[A.replace("/", ":")]["versions"])
    three.key = other
    three.configure()
    build(three.ci, A)
    three.publish()
    assert three.doit("withdraw", "--now", f"{A}/{old}").code == 0
    assert first != three.latest.resolve()
    home = clients.gpg_home(first / "key.asc", tmp_path)
    for one in signatures(first):
        clients.gpg_verify(home, one, one.with_suffix(""))
