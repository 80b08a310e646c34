"""The page in a browser: how it looks, what it asks for, and that every line on it does what it says."""

import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import clients
import pytest
import released
import requests
from browser import Browser, chromium, lines
from conftest import Published
from servers import Web, nginx
from test_page import EVERYTHING, HTML, NEW, OLD, SCRIPT, offers
from test_streams import CONTAINER, LXC, image

from tasks import page
from tasks.overlay import overlaid
from tasks.settings import Page, Rule

PREFIX = "mirror/x"
TITLE = "Images <of> ours & " + "long" * 30
WIDTHS = [360, 1280]  # a phone and a desk
PRODUCTS = [
    *(f"debian/{release}/{arch}/default" for release in ("trixie", "forky") for arch in ("amd64", "arm64")),
    "alpine/edge/amd64/cloud",
    "alpine/edge/amd64/averyveryverylongvariantwithoutanydashinitatall",
    "freebsd/14.3/amd64/default+zfs",
    "busybox/1.36.1/armhf/default",
    "openmandriva/bookworm/riscv64/desktop-gnome",
]
RULES = [
    Rule(match="debian/trixie", aliases=("debian/13",)),
    Rule(match="alpine", requirements={"secureboot": "false", "cgroup": "v2"}, lxd_requirements={"x": "y"}),
    Rule(
        match="openmandriva",
        requirements=dict.fromkeys(("cdrom_agent", "cdrom_cloud_init", "nesting", "privileged"), "true"),
    ),
    Rule(match="busybox", clients=("incus",), lxc=False),
]
# Every element with a text of its own that can be seen, the ratio of its colours, and whether it is large (WCAG 1.4.3).
CONTRASTS = """
(() => {
  const colour = (text) => {
    const [r, g, b, a = 1] = text.match(/[0-9.]+/g).map(Number);
    return {rgb: [r, g, b], a};
  };
  const light = ({rgb}) => {
    const [r, g, b] = rgb.map((one) => one / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const found = colour(getComputedStyle(one).backgroundColor);
      if (found.a === 1) return found;
      if (found.a !== 0) throw new Error("translucent");
    }
    throw new Error("nothing behind");
  };
  const found = [];
  const note = (one, style) => {
    const [a, b] = [light(colour(style.color)), light(behind(one))].sort((x, y) => y - x);
    const size = parseFloat(getComputedStyle(one).fontSize);
    const large = size >= 24 || (size >= 18.66 && getComputedStyle(one).fontWeight >= 700);
    found.push({what: `${one.tagName}.${one.className} ${one.textContent.slice(0, 30)}`, large, ratio: (a + 0.05) / (b + 0.05)});
  };
  for (const one of document.body.querySelectorAll("*")) {
    if (!one.checkVisibility({visibilityProperty: true, opacityProperty: true})) continue;
    if ([...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim())) note(one, getComputedStyle(one));
    if (one.placeholder) note(one, getComputedStyle(one, "::placeholder"));
  }
  return found;
})()
"""


# Every word of a cell, but for what is required, that is shown in pieces; one as long as a column has to be.
BROKEN = """
(() => {
  const broken = [];
  for (const cell of document.querySelectorAll("tbody tr:first-child > :not(:last-child)")) {
    const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      for (const {0: word, index} of texts.currentNode.data.matchAll(/[A-Za-z0-9_.]+/g)) {
        const range = document.createRange();
        range.setStart(texts.currentNode, index);
        range.setEnd(texts.currentNode, index + word.length);
        const lines = new Set([...range.getClientRects()].map((one) => one.top));
        if (word.length < 20 && lines.size > 1) broken.push(word);
      }
    }
  }
  return broken;
})()
"""


@pytest.fixture(scope="module")
def web(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """The published tree under a mirror's prefix, and a page with more on it beside."""
    top = tmp_path_factory.mktemp("www")
    (top / PREFIX).parent.mkdir()
    (top / PREFIX).symlink_to(published.latest)
    images = [image(name, NEW, EVERYTHING) for name in PRODUCTS[1:]]
    images += [
        image(PRODUCTS[0], OLD, EVERYTHING),
        image(PRODUCTS[0], NEW, CONTAINER),
        image("old/1/amd64/x", OLD, LXC),
    ]
    listed = offers(*images, rules=RULES)
    html = page.page(HTML, Page(title=TITLE, remote="ours"), listed, {one.path: one for one in images})
    (offer,) = offers(image(PRODUCTS[0], NEW, EVERYTHING))
    evil = offer._replace(
        aliases=(SCRIPT,), requirements={"incus": {SCRIPT: SCRIPT}, "lxd": {}}, files={NEW: {SCRIPT: 1}}
    )
    theirs, _ = overlaid([released.products(["24.04", "22.04"], ["amd64", "ppc64el"], 2)], "u" * 60, ["*"])
    theirs = {"products": theirs, "upstream": f"https://images.example/{'long' * 60}"}
    others = [*listed[:3], *page.followed("u" * 60, theirs)]
    pages = {
        "more": html,
        "others": page.page(HTML, Page(title=TITLE, remote="ours"), others, {}),
        "evil": page.page(HTML, Page(title=SCRIPT, remote=SCRIPT), [evil], {}),
        "a;b$(c)": html,
    }
    for name, content in pages.items():
        (top / name).mkdir()
        (top / name / "index.html").write_bytes(content)
    with nginx(top, tmp_path_factory.mktemp("web")) as running:
        yield running


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("browser")) as running:
        yield running


def opened(browser: Browser) -> None:
    assert lines(browser)


def rows(browser: Browser) -> list[str]:
    """The products that can be seen."""
    found: list[str] = browser.value(
        "[...document.querySelectorAll('tbody')].filter((one) => one.checkVisibility())"
        ".map((one) => [...one.rows[0].cells].slice(0, 3).map((cell) => cell.textContent).join(' '))"
    )
    return found


@pytest.mark.parametrize("name", ["more", "others"])
@pytest.mark.parametrize("width", [*WIDTHS, 600, 960, 961])
def test_nothing_is_wider_than_the_window(browser: Browser, web: Web, width: int, name: str) -> None:
    browser.open(f"{web.url}/{name}/", width=width)
    for _ in range(2):
        assert browser.value("innerWidth") == width
        assert browser.value("document.documentElement.scrollWidth") <= width
        wide = browser.value(
            "[...document.body.querySelectorAll('*')].filter((one) => one.getBoundingClientRect().right > innerWidth)"
            ".map((one) => one.outerHTML.slice(0, 80))"
        )
        assert wide == []
        opened(browser)


@pytest.mark.parametrize("width", [*WIDTHS, 961, 1024])
def test_words_are_in_one_piece(browser: Browser, web: Web, width: int) -> None:
    browser.open(f"{web.url}/more/", width=width)
    assert browser.value(BROKEN) == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
class TestLook:
    """At the width of a phone and of a desk, by day and by night."""

    @pytest.mark.parametrize("name", ["more", "others"])
    def test_all_text_can_be_read(
        self, browser: Browser, web: Web, width: int, dark: bool, name: str
    ) -> None:
        browser.open(f"{web.url}/{name}/", width=width, dark=dark)
        opened(browser)
        found = browser.value(CONTRASTS)
        assert len(found) > 70
        assert any("SMALL" in one["what"] for one in found) == (name == "others")
        assert {"H1", "A", "BUTTON", "CODE", "SPAN", "INPUT", "LABEL", "P", "TD"} <= {
            one["what"].partition(".")[0] for one in found
        }
        assert [one for one in found if one["ratio"] < (3 if one["large"] else 4.5)] == []
        back = browser.value("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall("[0-9]+", back))) < 3 * 64) == dark

    def test_the_page_is_all_that_is_asked_for(
        self, browser: Browser, web: Web, width: int, dark: bool
    ) -> None:
        url = f"{web.url}/{PREFIX}/"
        browser.open(url, width=width, dark=dark)
        opened(browser)
        browser.type("#find", "tiny")
        assert [one for one in browser.requests if not one.startswith("data:")] == [url]
        assert browser.complaints == []


def words_of(browser: Browser) -> dict[str, str]:
    names: list[str] = browser.value(
        "[...document.querySelectorAll('tbody')].map((one) => one.dataset.words)"
    )
    return dict(zip(rows(browser), names, strict=True))


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("debian", 4),
        ("DEBIAN Arm64", 2),
        ("debian/13", 2),
        ("vm amd64", 5),
        ("lxc", 9),
        ("cloud", 1),
        ("default+zfs", 1),
        ("  trixie   amd64 ", 1),
        ("container armhf", 1),
        ("nothing", 0),
        (".*", 0),
    ],
)
@pytest.mark.parametrize("width", WIDTHS)
def test_typing_leaves_what_has_all_the_words(
    browser: Browser, web: Web, width: int, typed: str, shown: int
) -> None:
    browser.open(f"{web.url}/more/", width=width)
    everything = words_of(browser)
    assert len(everything) == len(PRODUCTS) + 1
    browser.type("#find", typed)
    fits = [row for row, words in everything.items() if all(one in words for one in typed.lower().split())]
    assert rows(browser) == fits
    assert len(fits) == shown
    status = "document.querySelector('[role=status]').textContent"
    assert browser.value(status) == f"{shown} of {len(everything)} products"
    browser.type("#find", "")
    assert rows(browser) == list(everything)
    assert browser.value(status) == f"{len(everything)} products"


@pytest.mark.parametrize("width", WIDTHS)
def test_other_servers_products_are_found_alike(browser: Browser, web: Web, width: int) -> None:
    browser.open(f"{web.url}/others/", width=width)
    url = browser.requests[0]
    for typed, shown in (
        ("ubuntu", 4),
        ("24.04 vm", 2),
        ("u" * 60, 4),
        ("alpine", 2),
        ("released", 0),
        ("lts ppc64el", 2),
    ):
        browser.type("#find", typed)
        assert len(rows(browser)) == shown, typed
    opened(browser)
    assert browser.value("document.querySelectorAll('a[rel=external]').length") == 4
    assert [one for one in browser.requests if not one.startswith("data:")] == [url]
    days = (datetime.now(UTC) - datetime(2020, 1, 2, tzinfo=UTC)).days
    told = "[...document.querySelectorAll('time')].at(-1).parentElement.nextElementSibling.textContent"
    assert browser.value(told) == f"{days} days"


def test_every_line_does_what_it_says(
    browser: Browser, web: Web, published: Published, tmp_path: Path
) -> None:
    """As copied from the page under a mirror's prefix; what would need a daemon is looked up by its client."""
    browser.open(f"{web.url}/{PREFIX}/index.html", width=1280)
    found = lines(browser)
    streams: dict[str, Any] = json.loads((published.latest / "streams/v1/images.json").read_bytes())[
        "products"
    ]
    for name in ("incus", "lxc"):
        add, *launch = [line for line in found if line.startswith(f"{name} ")]
        client = clients.bare(name, web, tmp_path)
        assert f" {web.url}/{PREFIX} " in add
        client.line(add)
        wanted = set()
        for product in streams.values():
            newest = product["versions"][max(product["versions"])]["items"]
            metadata = newest["incus.tar.xz" if name == "incus" else "lxd.tar.xz"]
            wanted.add((product["arch"], metadata["combined_squashfs_sha256"]))
            if "combined_disk-kvm-img_sha256" in metadata:
                wanted.add((product["arch"], metadata["combined_disk-kvm-img_sha256"]))
        said = [client.resolve(line) for line in launch]
        assert len(said) == len(wanted) == 4
        prints = [re.search("Fingerprint: ([0-9a-f]{64})", one)[1] for one in said]
        assert sorted(prints) == sorted(mark for _, mark in wanted)
        for line, one in zip(launch, said, strict=True):
            assert f"    architecture: {line.split()[2].rpartition('/')[2]}\n" in one
            assert ("Type: virtual-machine" in one) == ("--vm" in line)
    index = (published.latest / "meta/1.0/index-system").read_text().splitlines()
    create = [line for line in found if line.startswith("lxc-create ")]
    assert len(create) == len(index) == 3
    for line, listed in zip(create, index, strict=True):
        rootfs = clients.lxc_create_line(web, tmp_path, line)
        assert (rootfs / "etc/serial").read_text().strip() == listed.split(";")[4]
    assert len(found) == 2 + 2 * 4 + 3


def test_every_link_is_served_under_the_prefix(browser: Browser, web: Web) -> None:
    browser.open(f"{web.url}/{PREFIX}/", width=1280)
    links = browser.value("[...document.links].map((one) => one.href)")
    assert len(links) > 20
    with requests.Session() as session:
        for link in links:
            assert link.startswith(f"{web.url}/{PREFIX}/")
            assert session.head(link, timeout=10, verify=str(web.ca)).status_code == 200, link


def test_ages_are_of_the_moment_at_which_one_looks(browser: Browser, web: Web) -> None:
    browser.open(f"{web.url}/more/", width=1280)
    days = (datetime.now(UTC) - datetime(2026, 2, 3, 8, tzinfo=UTC)).days
    ages = browser.value(
        "[...document.querySelectorAll('time')].map((one) => one.closest('td').nextElementSibling.textContent)"
    )
    assert ages.count(f"{days} days") == len(PRODUCTS)
    told = [
        browser.value(f"age({minutes})") for minutes in (0, 59, 60, 119, 120, 47 * 60 + 59, 48 * 60, 72 * 60)
    ]
    assert told == [*["under an hour"] * 2, *["1 hour"] * 2, "2 hours", "47 hours", "2 days", "3 days"]


def test_nothing_is_done_for_a_product_before_it_is_opened(browser: Browser, web: Web) -> None:
    browser.open(f"{web.url}/more/", width=1280)
    assert browser.value("document.querySelectorAll('.copy').length") == 2
    assert browser.value("document.querySelectorAll('tbody .copy').length") == 0
    browser.value("document.querySelector('button.open').click()")
    assert browser.value("document.querySelectorAll('tbody.opened').length") == 1
    assert browser.value("document.querySelectorAll('tbody .copy').length") == 5
    for _ in range(2):
        browser.value("document.querySelector('button.open').click()")
    assert browser.value("document.querySelectorAll('tbody .copy').length") == 5


@pytest.mark.parametrize("permission", ["granted", "denied"])
def test_a_line_is_copied_with_or_without_permission(browser: Browser, web: Web, permission: str) -> None:
    browser.open(f"{web.url}/more/", width=360)
    for name, setting in (("clipboard-write", permission), ("clipboard-read", "granted")):
        browser.call("Browser.setPermission", permission={"name": name}, setting=setting, origin=web.url)
    browser.call("Page.bringToFront")
    opened(browser)
    last = "[...document.querySelectorAll('.copy')].at(-1)"
    browser.value(
        "window.told = []; new MutationObserver((changes) => told.push(changes[0].target.textContent))"
        f".observe({last}, {{childList: true}}); {last}.focus(); {last}.click()"
    )
    until = time.monotonic() + 10
    while browser.value("document.getElementById('said').textContent") != "Copied":  # it stays
        assert time.monotonic() < until
    assert browser.value("told[0]") == "Copied"
    assert browser.value(f"document.activeElement === {last}")
    copied = browser.value("navigator.clipboard.readText()")
    assert copied == browser.value("[...document.querySelectorAll('.line code')].at(-1).textContent")
    assert copied.startswith("lxc-create")


def test_the_keyboard_is_enough(browser: Browser, web: Web) -> None:
    browser.open(f"{web.url}/more/", width=1280)
    seen = []
    for _ in range(12):
        browser.press("Tab", 9)
        who, outline = browser.value(
            "[document.activeElement.id || document.activeElement.className || document.activeElement.href,"
            " getComputedStyle(document.activeElement).outlineStyle]"
        )
        assert outline == "solid", who
        seen.append(who)
        if who == "open":
            break
    assert seen == ["copy", "copy", f"{web.url}/more/key.asc", "find", "open"]
    browser.press("Enter", 13)
    assert browser.value("document.activeElement.getAttribute('aria-expanded')") == "true"
    assert browser.value("document.querySelector('tbody .line').checkVisibility()")
    assert browser.value("document.querySelector('label').control.id") == "find"


@pytest.mark.parametrize("width", WIDTHS)
def test_without_scripts_all_is_there_to_be_read(browser: Browser, web: Web, width: int) -> None:
    browser.open(f"{web.url}/more/", width=width, scripts=False)
    root = browser.call("DOM.getDocument", depth=-1)["root"]["nodeId"]

    def visible(selector: str) -> list[bool]:
        nodes = browser.call("DOM.querySelectorAll", nodeId=root, selector=selector)["nodeIds"]
        found = []
        for node in nodes:
            remote = browser.call("DOM.resolveNode", nodeId=node)["object"]["objectId"]
            asked = browser.call(
                "Runtime.callFunctionOn",
                objectId=remote,
                functionDeclaration="function() { return this.checkVisibility() }",
                returnByValue=True,
            )
            found.append(asked["result"]["value"])
        return found

    try:
        assert visible("noscript p") == [True]
        assert set(visible("time")) == set(visible(".line code")) == {True}
        assert visible("#find") == visible("label") == [False]
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_what_is_hostile_runs_nothing_and_asks_for_nothing(browser: Browser, web: Web) -> None:
    url = f"{web.url}/evil/"
    browser.open(url, width=1280)
    assert browser.value("document.title") == " ".join(SCRIPT.split())
    assert SCRIPT in browser.value("document.querySelector('h1').textContent")
    assert browser.value("document.querySelectorAll('img, script').length") == 1
    opened(browser)
    assert [one for one in browser.requests if not one.startswith("data:")] == [url]
    assert browser.complaints == []


def test_an_address_that_is_no_word_of_the_shell_is_not_taken(browser: Browser, web: Web) -> None:
    browser.open(f"{web.url}/a;b$(c)/", width=1280)
    assert browser.value("location.pathname") == "/a;b$(c)/"
    assert lines(browser)[0] == "incus remote add ours https://SERVER --protocol=simplestreams"
