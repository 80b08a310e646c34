"""``page.template``: a page of the operator's own, held to what ours is."""

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

import pytest
from sites import Site, build, matrix
from test_page import A, B, faults, html, missing
from test_rights import foreign, plainly

from tasks import page
from tasks.settings import Page
from tasks.tree import TEMPLATE

__all__ = ["foreign"]  # a fixture
OWN = """<!DOCTYPE html><html><head>
<meta http-equiv="Content-Security-Policy" content="@POLICY@"><title>@TITLE@</title>
<style>b { color: red; }</style><style>i { color: blue; }</style></head>
<body>Try incus remote add other https://other first, é. <p>@COUNT@</p> @USE@ <table>@ROWS@</table></body></html>
"""
SETTINGS = '[page]\ntemplate = "own.html"\ntitle = "<Ours>"\nremote = "ours"\n'


@pytest.fixture
def own(site: Site) -> Site:
    matrix(site.ci, A, B)
    build(site.ci, A)
    (site.base / "own.html").write_text(OWN)
    site.more = SETTINGS
    site.publish()
    return site


def test_the_page_is_made_of_it(own: Site) -> None:
    text = html(own.latest).decode()
    assert text.startswith("<!DOCTYPE html><html><head>\n<meta")
    assert "<title>&lt;Ours&gt;</title>" in text
    assert "<p>1 product</p>" in text
    assert "incus launch ours:tiny/1/default/amd64" in text
    assert missing(own.latest) == []
    marks = [b64encode(sha256(f"{of} {{ color: {c}; }}".encode().strip()).digest()).decode() for of, c in (("b", "red"), ("i", "blue"))]  # fmt: skip
    assert f'style-src &#x27;sha256-{marks[0]}&#x27; &#x27;sha256-{marks[1]}&#x27;"' in text
    assert "script-src" not in text


def test_it_is_made_again_when_its_template_is_another(own: Site) -> None:
    assert own.publish().executed == ["poll"]
    (own.base / "own.html").write_text(OWN.replace("first", "second"))
    assert own.publish().executed == ["poll", "page", "snapshot"]
    assert "second" in html(own.latest).decode()
    assert own.publish().executed == ["poll"]
    own.more = ""
    own.configure()
    assert "page" in own.publish().executed
    assert html(own.latest).decode().startswith(TEMPLATE.read_text()[:60])
    own.more = SETTINGS
    own.configure()
    assert "page" in own.publish().executed
    assert "second" in html(own.latest).decode()


def test_verify_makes_it_again(own: Site) -> None:
    assert "all good" in own.doit("verify").out
    path, text = own.latest.resolve() / "index.html", html(own.latest)
    path.write_bytes(text.replace(b"first", b"never"))
    wrong = ["index.html: is not what the indexes say, or another version or another template made it"]
    assert faults(own) == wrong
    path.write_bytes(text)
    (own.base / "own.html").write_text(OWN.replace("first", "second"))
    assert faults(own) == wrong


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (OWN.replace("@ROWS@", ""), "it lacks @ROWS@"),
        (OWN.replace("@USE@", ""), "it lacks @USE@"),
        (OWN.replace("@POLICY@", ""), "it lacks @POLICY@"),
        (OWN.replace("<title>@TITLE@</title>", ""), "it lacks @TITLE@"),
        (OWN.replace("<title>@TITLE@</title>", "<title>x</title>@TITLE@"), "it lacks <title>@TITLE@</title>"),
        (OWN + "@ROW@", "@ROW@ is none of @POLICY@, @TITLE@, @COUNT@, @USE@, @ROWS@"),
        (OWN.encode("latin-1"), "is no UTF-8"),
        (None, "cannot be read: No such file or directory"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["publish", "verify"])
def test_a_template_that_is_none_is_one_line(
    site: Site, command: str, text: str | bytes | None, why: str
) -> None:
    path = site.base / "own.html"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    site.more = SETTINGS
    result = site.doit(command)
    assert (result.code, result.out) == (3, "")
    assert result.err == f"ERROR: publish.toml: page.template: {path}: {why}\n"
    assert not site.root.exists()


def test_who_may_not_read_it_is_told_so(foreign: Site) -> None:
    """It is published: nobody has a reason to hide it."""
    path = foreign.base / "own.html"
    path.write_text(OWN)
    foreign.more = SETTINGS
    foreign.configure()
    assert plainly(foreign, "status").code == 0
    path.chmod(0)
    result = plainly(foreign, "verify")
    assert result.code == 3
    assert result.err == f"ERROR: publish.toml: page.template: {path}: cannot be read: Permission denied\n"


def test_ours_is_a_template_too() -> None:
    assert page.faults(TEMPLATE.read_text()) == []
    assert {*re.findall("@([A-Z]+)@", TEMPLATE.read_text())} == {*page.PLACES}


def test_what_lies_in_a_template_is_not_filled_in_twice() -> None:
    made = page.page(OWN, Page(title="@ROWS@", remote="ours"), [], {})
    assert b"<title>@ROWS@</title>" in made


def test_a_copy_of_ours_makes_the_same_page(tmp_path: Path) -> None:
    assert page.page(TEMPLATE.read_text(), Page(template=tmp_path), [], {}) == page.page(
        TEMPLATE.read_text(), Page(), [], {}
    )
