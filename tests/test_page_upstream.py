"""The page for people lists an upstream's products too, with where they come from."""

import json
import re
import shlex
import time
from pathlib import Path
from typing import Any

import clients
import pytest
import released
from hypothesis import example, given
from servers import nginx
from sites import Site, build
from test_page import HOSTILE, HTML, SCRIPT, Reading, cells, faults, html, lines, missing, offers
from test_serverconfig import generated
from test_streams import image
from test_upstream import JAMMY, NOBLE, OURS, Ubuntu, both, followed, program, table, ubuntu

from tasks import page
from tasks.overlay import overlaid
from tasks.settings import Page

__all__ = ["followed", "program", "ubuntu"]  # fixtures
URL = "https://images.example/of"


def document(products: dict[str, Any], url: str = URL) -> dict[str, Any]:
    """As it stands in the tree."""
    found, _ = overlaid([products], "ubuntu", ["*"])
    return {"products": found, "upstream": url}


def rendered(of: dict[str, Any], *ours: page.Offer) -> bytes:
    return page.page(HTML, Page(), [*ours, *page.followed("ubuntu", of)], {})


def test_an_upstreams_product_has_its_lines_and_says_where_it_is_from() -> None:
    made = rendered(document(released.products(["24.04"], ["amd64"], 3)), *offers(image(OURS)))
    assert lines(made)[2:] == [
        "incus launch imagepress:tiny/1/default/amd64",
        "lxc launch imagepress:tiny/1/default/amd64",
        "incus launch imagepress:24.04/amd64",
        "incus launch imagepress:24.04/amd64 --vm",
        "lxc launch imagepress:24.04/amd64",
        "lxc launch imagepress:24.04/amd64 --vm",
    ]
    ours, theirs = cells(made)
    assert theirs[:6] == ["ubuntu/u2404from ubuntu", "default", "amd64", "2020-01-03", "", "container, VM"]
    assert (
        theirs[6]
        == f"{sum(len(released.content(NOBLE, '20200103', of)) for of in (*released.ROOTS, 'lxd.tar.xz'))} B"
    )
    assert "from" not in ours[0]
    text = made.decode()
    assert 'datetime="2020-01-03"' in text
    assert f'<a href="{URL}" rel="external">ubuntu</a>, where it is called <code>{NOBLE}</code>' in text
    words = re.findall('<tbody data-words="([^"]*)">', text)[1].split()
    assert {"ubuntu/u2404/amd64/default", "24.04", "u2404", "container", "vm", "ubuntu", NOBLE, "lts"} <= {
        *words
    }
    assert ">2 products<" in text
    assert not [one for one in page.links(made) if "upstream" in one or "://" in one]


def test_only_the_newest_version_is_shown() -> None:
    one, many = (rendered(document(released.products(["24.04"], ["amd64"], n))) for n in (1, 400))
    assert len(many) == len(one)


def test_a_thousand_products_are_a_modest_page() -> None:
    releases = [f"{number}.04" for number in range(250)]
    of = document(released.products(releases, ["amd64", "arm64", "ppc64el", "s390x"], 5))
    before = time.process_time()
    made = rendered(of)
    assert time.process_time() - before < 5, "it takes a tenth of that"
    assert len(cells(made)) == 1000
    assert len(made) < 1_600_000


def test_what_it_does_not_say_is_left_out() -> None:
    products = released.products(["24.04"], ["amd64"], 1)
    (product,) = products["products"].values()
    for name in ("os", "release", "release_title", "aliases"):
        del product[name]
    product["versions"] = {"20200101.1_x": product["versions"].popitem()[1]}
    made = rendered(document(products))
    assert cells(made)[0][:4] == [f"{NOBLE}/24.04from ubuntu", "default", "amd64", "2020-01-01"]
    assert len(lines(made)) == 2, "without an alias it cannot be named"


@given(HOSTILE)
@example(SCRIPT)
@example("SERVER")
@example("@TITLE@")
@example("javascript:alert(1)//")
def test_nothing_that_an_upstream_says_gets_out_of_its_place(text: str) -> None:
    def told(by: str) -> bytes:
        (offer,) = page.followed(by, document(released.products(["24.04"], ["amd64"], 1), by))
        assert offer.origin
        origin = offer.origin._replace(parts=(by,) * 4, also=(by, by))
        needs = {"incus": {by: by}, "lxd": {}}
        return page.page(
            HTML, Page(), [offer._replace(key=by, aliases=(by,), origin=origin, requirements=needs)], {}
        )

    made, harmless = Reading(told(text)), Reading(told("x"))
    assert made.shape == harmless.shape
    assert text in "".join(made.texts)
    found = [shlex.split(line) for line in made.lines]
    assert ["incus", "launch", f"imagepress:{text}/{text}", "--vm"] in found
    assert not re.findall('<a href="(?!key|streams|meta)[^"]*"', told(text).decode())


@pytest.mark.parametrize(("url", "link"), [("https://h/a%20b", True), ("http://h", True), ("javascript:x", False), ('https://h"><b>', True)])  # fmt: skip
def test_only_an_address_is_a_link(url: str, link: bool) -> None:
    shape = Reading(rendered(document(released.products(["24.04"], ["amd64"], 1), url))).shape
    assert (("a", "href", "rel") in shape) == link
    assert ("b",) not in shape[shape.index(("table",)) :]


def test_the_page_lists_what_is_exposed_and_verify_makes_it_again(followed: Site, ubuntu: Ubuntu) -> None:
    made = html(followed.latest)
    assert [row[0] for row in cells(made)] == [
        "tiny/1",
        *["ubuntu/u2204from ubuntu"] * 2,
        *["ubuntu/u2404from ubuntu"] * 2,
    ]
    assert missing(followed.latest) == []
    assert f'<a href="{ubuntu.web.url}"' in made.decode()
    assert followed.json("streams/v1/ubuntu.json")["upstream"] == ubuntu.web.url
    assert "all good" in followed.doit("verify").out
    path = followed.latest.resolve() / "index.html"
    path.write_bytes(made.replace(ubuntu.web.url.encode(), b"https://evil.example"))
    assert faults(followed) == ["index.html: is not what the indexes say, or another version made it"]
    path.write_bytes(made)
    ubuntu.document["products"][NOBLE]["aliases"] = "better"
    del ubuntu.document["products"][JAMMY]
    ubuntu.publish()
    assert "page" in followed.publish("--allow-shrink").executed
    after = html(followed.latest)
    assert len(cells(after)) == 4
    assert "incus launch imagepress:better/amd64" in lines(after)
    build(followed.ci, OURS)
    followed.more = ""
    followed.configure()
    followed.publish()
    assert len(cells(html(followed.latest))) == 1


def test_another_address_of_the_same_products_is_said(followed: Site, ubuntu: Ubuntu) -> None:
    followed.more = table(ubuntu, url=json.dumps(f"{ubuntu.web.url}/."))
    followed.configure()
    assert "no byte changed" in followed.publish().out
    assert f'<a href="{ubuntu.web.url}/."' in html(followed.latest).decode()
    assert "all good" in followed.doit("verify").out


def test_its_lines_do_what_they_say(followed: Site, ubuntu: Ubuntu, tmp_path: Path) -> None:
    with nginx(followed.latest, tmp_path / "web", generated(followed)) as web:
        found = [line.replace("SERVER", web.host) for line in lines(html(followed.latest))]
        for name in ("incus", "lxc"):
            client = clients.bare(name, both(web, ubuntu.web, tmp_path), tmp_path / name)
            add, *launch = [line for line in found if line.startswith(f"{name} ")]
            client.line(add)
            theirs = [line for line in launch if "04/" in line]
            assert len(theirs) == 2 * 2 * 2
            for line in theirs:
                said = client.resolve(line)
                assert f"    architecture: {line.split()[2].rpartition('/')[2]}\n" in said
                assert ("Type: virtual-machine" in said) == ("--vm" in line)
