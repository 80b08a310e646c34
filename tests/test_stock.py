"""Which files of an upstream are wanted, and which of its versions can be listed."""

from typing import Any

import pytest
import released

from tasks import overlay, stock

KEY = "com.ubuntu.cloud:server:24.04:amd64"
OLD, NEW = "20200101", "20200102"


def offered(versions: int = 2, releases: tuple[str, ...] = ("24.04",)) -> Any:
    found, left = overlay.overlaid([released.products(releases, ["amd64"], versions)], "u", ["*"], here=True)
    assert not left
    return found


def serials(products: Any) -> dict[str, list[str]]:
    return {key: sorted(of["versions"]) for key, of in products.items()}


def test_the_newest_of_every_product_comes_first() -> None:
    paths = [*stock.wanted(offered(3, ("22.04", "24.04")), 0)]
    assert [path.split("release-")[1][:8] for path in paths[::4]] == ["20200103"] * 2 + [NEW] * 2 + [OLD] * 2
    assert len(paths) == len({*paths}) == 2 * 3 * 4


def test_keep_is_of_the_newest() -> None:
    every = offered(3)
    assert serials(stock.newest(every, 2)) == {KEY: [NEW, "20200103"]}
    assert serials(stock.newest(every, 0)) == serials(every)
    assert stock.wanted(every, 1) == stock.files(stock.newest(every, 1))


def test_a_version_is_listed_when_all_of_it_is_here() -> None:
    every = offered()
    here = stock.wanted(every, 0)
    assert serials(stock.listed(every, 0, here)) == {KEY: [OLD, NEW]}
    assert serials(stock.listed(every, 1, here)) == {KEY: [NEW]}
    for path in stock.wanted(every, 1):
        others = {one: file for one, file in here.items() if one != path}
        assert serials(stock.listed(every, 1, others)) == {KEY: [OLD]}, (
            "the next best stays until the first is whole"
        )
    wrong = dict.fromkeys(here, here[path])
    assert stock.listed(every, 0, wrong) == {}


def test_what_was_listed_stays_while_nothing_newer_is_whole() -> None:
    every = offered()
    here = stock.wanted(every, 0)
    new, old = (stock.newest(every, 1), offered(1))
    mine = {path: file for path, file in here.items() if path in stock.files(old)}
    assert serials(stock.listed(new, 1, mine, old)) == {KEY: [OLD]}
    assert serials(stock.listed(new, 1, here, old)) == {KEY: [NEW]}
    assert stock.listed(new, 1, {}, old) == {}, "its files have to be here too"
    assert stock.listed({}, 1, mine, old) == {}, "what the upstream takes back goes"


@pytest.mark.parametrize(
    ("said", "seconds"),
    {
        "Tue, 18 Nov 2025 06:33:45 +0000": 1763447625,
        "Tue, 18 Nov 2025 07:33:45 +0100": 1763447625,
        "Tue, 18 Nov 2025 06:33:45": 1763447625,
        "": 0,
        "soon": 0,
        "Tue, 99 Foo 2025 06:33:45 +0000": 0,
        "Tue, 18 Nov 999999999999 06:33:45 +0000": 0,
        "9 9 9 9": 0,
    }.items(),
)
def test_when_a_document_says_that_it_was_made(said: str, seconds: int) -> None:
    assert stock.made(said) == seconds


def test_a_kind_is_chosen_with_its_metadata_and_nothing_is_said_of_the_other() -> None:
    document = released.products(["24.04"], ["amd64"], 1)
    for kinds, roots in ((["vm"], {"disk1.img"}), (["container"], {"root.tar.xz", "squashfs"})):
        found, left = overlay.overlaid([document], "u", ["*"], kinds)
        assert {*found[KEY]["versions"][OLD]["items"]} == roots | {"incus.tar.xz", "lxd.tar.xz"}
        assert not left
    del document["products"][KEY]["versions"][OLD]["items"]["disk1.img"]
    assert overlay.overlaid([document], "u", ["*"], ["vm"]) == ({}, [])


@pytest.mark.parametrize("path", ["a/.hidden", "a b", "a%20b", "a?b", "a/[b]", "ä", "a" * 201, "a*"])
def test_a_file_that_would_be_another_here_is_left_out(path: str) -> None:
    document = released.products(["24.04"], ["amd64"], 1)
    document["products"][KEY]["versions"][OLD]["items"]["disk1.img"]["path"] = path
    found, left = overlay.overlaid([document], "u", ["*"], here=True)
    assert "disk1.img" not in found[KEY]["versions"][OLD]["items"]
    assert left == [
        overlay.Left("its path has other characters than files here have", f"{KEY} {OLD} disk1.img")
    ]
    found, left = overlay.overlaid([document], "u", ["*"])
    assert "disk1.img" in found[KEY]["versions"][OLD]["items"]
    assert not left
