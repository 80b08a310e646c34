"""What is made of another server's products: whatever these are, no client stumbles over what is left."""

import copy
import json
from typing import Any

import pytest
import released
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import streams
from tasks.overlay import Taken, overlaid, places, said
from tasks.proof import prove_streams

BASE = released.products(["22.04", "24.04"], ["amd64"], 2)
JUNK = st.sampled_from(
    [
        *[
            None,
            1,
            -1,
            1.5,
            True,
            "",
            "x",
            "amd64",
            "a,b",
            " ",
            "..",
            "/x",
            "lxd.tar.xz",
            "squashfs",
            "0" * 64,
        ],
        *[
            "incus_combined.tar.gz",
            "lxd_combined.tar.gz",
            "root.tar.xz",
            "2020-02-30",
            "x" * 3000,
            [],
            {},
            [1],
        ],
        {"a": 1},
        {"a": "b"},
        "a\nb",
        "é",
    ]
)


def spots(of: Any, here: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [here] if here else []
    for name, value in of.items() if isinstance(of, dict) else ():
        found += spots(value, (*here, name))
    return found


SPOTS = spots(BASE)


def changed(changes: list[tuple[tuple[str, ...], Any]], moves: list[tuple[Any, Any]]) -> Any:
    """The products with some values replaced, and some parts put in place of others."""
    made = copy.deepcopy(BASE)
    for spot, value in [*changes, *((to, at(BASE, of)) for of, to in moves)]:
        inner = made
        for name in spot[:-1]:
            inner = inner.get(name, {}) if isinstance(inner, dict) else {}
        if isinstance(inner, dict):
            inner[spot[-1]] = copy.deepcopy(value)
    return made


def at(of: Any, spot: tuple[str, ...]) -> Any:
    for name in spot:
        of = of[name]
    return of


def proven(products: Any, ours: Any) -> list[str]:
    """What clients would say of these beside ours."""
    others = {"other": list(products)}
    index = streams.text(streams.index_json(ours, "json", others))
    read = {
        "streams/v1/index.json": index,
        "streams/v1/images.json": streams.text({"products": ours}),
        "streams/v1/other.json": streams.text({"products": products}),
    }.get
    sizes = streams.sizes(ours) | streams.sizes(products)
    return [str(fault) for client in ("incus", "lxd") for fault in prove_streams(read, sizes.get, client)]


OURS, _ = overlaid([released.products(["24.04"], ["amd64", "arm64"], 3)], "ours", ["*"])


@settings(max_examples=300, deadline=None)  # a loaded machine is no fault
@given(
    st.lists(st.tuples(st.sampled_from(SPOTS), JUNK), max_size=6),
    st.lists(st.tuples(st.sampled_from(SPOTS), st.sampled_from(SPOTS)), max_size=4),
    st.booleans(),
)
def test_whatever_it_lists_the_proof_has_nothing_to_say(changes: Any, moves: Any, beside: bool) -> None:
    ours = OURS if beside else {}
    found, _ = overlaid([changed(changes, moves)], "other", ["*"])
    left, _ = Taken(ours).spare(found)
    assert proven(left, ours) == []


def test_nothing_good_is_lost() -> None:
    found, left = overlaid([BASE], "other", ["*"])
    assert left == []
    assert found.keys() == BASE["products"].keys()
    for key, product in BASE["products"].items():
        mine: Any = found[key]
        assert {name: mine[name] for name in mine if name != "versions"} == {
            name: product[name] for name in product if name not in ("versions", "supported")
        }
        for serial, version in product["versions"].items():
            items = mine["versions"][serial]["items"]
            assert items.keys() == {*released.ROOTS, "lxd.tar.xz", "incus.tar.xz"}
            assert items["incus.tar.xz"] == {**items["lxd.tar.xz"], "ftype": "incus.tar.xz"}
            for name in (*released.ROOTS, "lxd.tar.xz"):
                item = version["items"][name]
                assert items[name] == {**item, "path": f"upstream/other/{item['path']}"}


def test_of_two_files_with_one_product_the_first_counts() -> None:
    other = copy.deepcopy(BASE)
    for product in other["products"].values():
        product["release_title"] = "other"
    found, left = overlaid([BASE, other], "other", ["*"])
    assert json.dumps(found) == json.dumps(overlaid([BASE], "other", ["*"])[0])
    (line,) = said(left)
    assert line.endswith(" and 1 more: its key is there twice")


INDEX = {"datatype": "image-downloads", "format": "products:1.0"}


def test_the_files_of_an_index_are_those_with_images() -> None:
    index = {
        "a": {**INDEX, "path": "streams/v1/a.json"},
        "b": {**INDEX, "path": "streams/v1/b.sjson"},
        "c": {**INDEX, "path": "streams/v1/a.sjson"},
        "d": {**INDEX, "datatype": "image-ids", "path": "streams/v1/d.json"},
        "e": {**INDEX, "format": "index:1.0", "path": "streams/v1/e.json"},
    }
    assert places({"index": index}) == {"streams/v1/a": {"a", "c"}, "streams/v1/b": {"b"}}


@pytest.mark.parametrize("path", [None, 1, "/etc/passwd", "../x", "a//b", ""])
def test_an_index_that_leads_elsewhere_is_refused(path: Any) -> None:
    with pytest.raises(ValueError, match="the path of 'a' is"):
        places({"index": {"a": {**INDEX, "path": path}}})


@pytest.mark.parametrize(
    "index", [{}, {"index": {}}, {"index": {"a": {"datatype": "image-ids"}}}, {"index": []}]
)
def test_an_index_without_images_is_refused(index: Any) -> None:
    with pytest.raises(ValueError, match="it names no images"):
        places(index)


KEY = "com.ubuntu.cloud:server:24.04:amd64"
MARK = {one: one * 64 for one in "0123456789abcdef"}


def one_product(*versions: dict[str, Any], **fields: Any) -> dict[str, Any]:
    serials = (f"2020010{number}" for number in range(1, 9))
    of = {"arch": "amd64", "versions": {s: {"items": v} for s, v in zip(serials, versions, strict=False)}}
    return {"products": {KEY: of | fields}}


def unified(mark: str, ftype: str = "incus_combined.tar.gz", **fields: Any) -> dict[str, Any]:
    return {"ftype": ftype, "path": f"p/{mark}", "size": 1, "sha256": MARK[mark], **fields}


def test_a_path_of_two_contents_is_there_once() -> None:
    second = {**unified("2"), "path": "p/1"}
    found, left = overlaid([one_product({"a": unified("1")}, {"a": second})], "x", ["*"])
    assert [*found[KEY]["versions"]] == ["20200101"]  # type: ignore[index, call-overload]
    assert said(left) == [f"left out: {KEY} 20200102 a: its path is there with another size or sha256"]


def test_unified_images_are_taken_as_they_are() -> None:
    vm = unified("2", combined_type="virtual-machine", delta_base="20200101", other=1)
    bad = unified("3", combined_type="tape")
    found, left = overlaid(
        [one_product({"a": unified("1"), "b": vm, "c": bad, "d": unified("4", "other")})], "x", ["*"]
    )
    listed = found[KEY]["versions"]["20200101"]["items"]  # type: ignore[index, call-overload]
    del vm["delta_base"], vm["other"]
    assert listed == {
        name: {**of, "path": f"upstream/x/{of['path']}"} for name, of in {"a": unified("1"), "b": vm}.items()
    }
    assert [one.what for one in left] == [f"{KEY} 20200101 c"]
    assert proven(found, {}) == []


def test_a_twin_takes_no_item_s_name() -> None:
    metadata = {"ftype": "lxd.tar.xz", "path": "m", "size": 1, "sha256": MARK["1"]}
    root = {"ftype": "squashfs", "path": "r", "size": 1, "sha256": MARK["2"]}
    items = {"m": {**metadata, "combined_squashfs_sha256": MARK["3"]}, "incus.tar.xz": root}
    found, _ = overlaid([one_product(items)], "x", ["*"])
    listed = found[KEY]["versions"]["20200101"]["items"]  # type: ignore[index, call-overload]
    assert {name: of["ftype"] for name, of in listed.items()} == {
        "incus.tar.xz": "squashfs",
        "incus.tar.xz.twin": "incus.tar.xz",
        "lxd.tar.xz": "lxd.tar.xz",
    }


def test_what_ours_have_is_not_taken() -> None:
    theirs = one_product({"a": unified("1")}, {"a": unified("2")}, aliases="a,b,c/amd64,d")["products"]
    ours = one_product({"a": unified("1")}, aliases="a,b/amd64,c")["products"]
    left, why = Taken({"ours": ours[KEY]}).spare(theirs)
    assert left == {
        KEY: {**theirs[KEY], "aliases": "d", "versions": {"20200102": {"items": {"a": unified("2")}}}}
    }
    assert [line.removeprefix("left out: ") for line in said(why)] == [
        f"{KEY} 20200101: it repeats a fingerprint of ours",
        f"the alias 'a' of {KEY} and 2 more: ours has it",
    ]
    same, _ = Taken({"ours": {**ours[KEY], "arch": "x86_64"}}).spare(theirs)
    assert same[KEY]["aliases"] == "c/amd64,d"  # type: ignore[index, call-overload]
    assert Taken(ours).spare(theirs) == ({}, [("another product has its key", KEY)])
    assert Taken({"ours": {**ours[KEY], "arch": "arm64", "versions": {}}}).spare(theirs) == (theirs, [])


def test_what_moves_a_cursor_is_left_out_and_told_in_one_line() -> None:
    bad = "k\x1b[31m\nfailed: mirror eu1: forged"
    product = one_product(
        {"a": unified("1"), "b\x1b": unified("2")}, aliases="a,\x1b[31mx,a\nb, c", os="u\x1b[2J", release="1"
    )["products"][KEY]
    product["versions"]["20200102\x1b"] = {"items": {"a": unified("3")}}
    other = one_product({"a": unified("4")}, arch="vax\x1b[31m")["products"][KEY]
    evil = {"products": {KEY: product, bad: {**product, "versions": {}}, "vax\n": other}}
    found, left = overlaid([evil], "x", ["*"])
    assert [*found] == [KEY]
    assert streams.text(found).isascii()
    assert b"\\u001b" not in streams.text(found)
    kept: Any = found[KEY]
    assert kept["aliases"] == "a,c"
    assert "os" not in kept
    assert [*kept["versions"]] == ["20200101"]
    assert [*kept["versions"]["20200101"]["items"]] == ["a"]
    lines = said(left)
    assert all(line.isprintable() for line in lines)
    for what in (
        "k\\x1b[31m\\nfailed: mirror eu1: forged and 1 more: its key is no short, printable text",
        "the alias '\\x1b[31mx' of " + KEY + " and 2 more: it is no short, printable text",
        "20200102\\x1b: its version is no short",
        "b\\x1b: its name is no short",
    ):
        assert any(what in line for line in lines), (what, lines)
