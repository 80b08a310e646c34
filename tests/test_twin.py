"""``doit twin``: what Incus or LXD lacks is added to a products file, and no other byte moves."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import released
from hypothesis import given
from hypothesis import strategies as st
from sites import CHECKOUT

from tasks.proof import types
from tasks.twin import decoded, twinned

INCUS, LXD = "incus.tar.xz", "lxd.tar.xz"


def stripped(document: Any, twins: set[tuple[str, str, str]]) -> Any:
    """A document without the items that were added, which are noted."""
    for key, product in document["products"].items():
        for serial, version in product["versions"].items():
            for name in [name for name in version["items"] if (key, serial, name) in twins]:
                del version["items"][name]
    return document


def names(document: Any) -> set[tuple[str, str, str]]:
    return {
        (key, serial, name)
        for key, product in document["products"].items()
        for serial, version in product["versions"].items()
        for name in version["items"]
    }


def test_ubuntus_structure_gets_what_incus_lacks() -> None:
    before = released.products(["22.04", "24.04"], ["amd64", "arm64"], 3)
    text, count = twinned(released.text(before).decode())
    after = json.loads(text)
    assert count == 2 * 2 * 3
    added = names(after) - names(before)
    assert {name for _, _, name in added} == {INCUS}
    for key, serial, name in added:
        items = after["products"][key]["versions"][serial]["items"]
        assert items[name] == {**items[LXD], "ftype": INCUS}
        assert types(items, "incus") == types(items, "lxd") == {"container", "virtual-machine"}
    assert stripped(after, added) == before


@pytest.mark.parametrize("own", [INCUS, LXD])
@pytest.mark.parametrize("layout", [{"indent": 1}, {"indent": "\t"}, {"separators": (",", ":")}, {}])
def test_the_layout_is_that_of_the_input(own: str, layout: Any) -> None:
    other = LXD if own == INCUS else INCUS
    first = {"path": "a", "x": [{"ftype": "no"}], "ftype": own, "größe": 1.50, "size": 3}
    items = {"root": {"ftype": "squashfs"}, own: first, "z": {}}
    document = {"z": None, "products": {"p": {"versions": {"20260101": {"b": 1, "items": items}}}}, "a": 1}
    wanted = {"root": items["root"], own: first, other: {**first, "ftype": other}, "z": {}}
    text, count = twinned(json.dumps(document, ensure_ascii=False, **layout))
    document["products"]["p"]["versions"]["20260101"]["items"] = wanted  # type: ignore[index]
    assert (text, count) == (json.dumps(document, ensure_ascii=False, **layout), 1)


def test_an_order_of_members_that_json_would_not_keep() -> None:
    text = (
        ' {"products":{"p":{"versions":{"1":{"items":{ "k" : {"ftype":"x", "size":1e2, "ftype":"lxd.tar.xz"}'
        ' , "incus.tar.xz":{}}}},"versions":{}}}, "n":1.0}\n\n'
    )
    twin = ', "incus.tar.xz.twin" : {"ftype":"incus.tar.xz", "size":1e2, "ftype":"incus.tar.xz"}'
    at = text.index(' , "incus.tar.xz":')
    assert twinned(text) == (text[:at] + twin + text[at:], 1)


def test_what_has_both_or_none_stays_byte_for_byte() -> None:
    items = {INCUS: {"ftype": INCUS}, "m": {"ftype": LXD}, "x": {"ftype": 1}, "y": {"ftype": []}}
    for of in (items, {"x": {}}, {}):
        text = json.dumps({"products": {"p": {"versions": {"1": {"items": of}}}}})
        assert twinned(text) == (text, 0)
    text, _ = twinned(released.text(released.products(["24.04"], ["amd64"], 2)).decode())
    assert twinned(text) == (text, 0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ITEM = st.dictionaries(st.text(), JSON, max_size=3).flatmap(
    lambda rest: st.sampled_from([{}, {"ftype": INCUS}, {"ftype": LXD}, {"ftype": "squashfs"}]).map(
        lambda own: rest | own
    )
)
ITEMS = st.dictionaries(st.text(), ITEM, max_size=4)
VERSION = st.fixed_dictionaries({"items": ITEMS}, optional={"label": JSON})
PRODUCT = st.fixed_dictionaries({"versions": st.dictionaries(st.text(), VERSION, max_size=3)})
DOCUMENT = st.fixed_dictionaries(
    {"products": st.dictionaries(st.text(), PRODUCT, max_size=3)}, optional={"x": JSON}
)


@given(DOCUMENT, st.sampled_from([None, 0, 3]), st.booleans())
def test_whatever_else_there_is_stays(document: Any, indent: int | None, plain: bool) -> None:
    before = json.dumps(document, indent=indent, ensure_ascii=plain)
    text, count = twinned(before)
    after = json.loads(text)
    added = names(after) - names(document)
    assert len(added) == count
    for product in after["products"].values():
        for version in product["versions"].values():
            ftypes = {item.get("ftype") for item in version["items"].values()} & {INCUS, LXD}
            assert len(ftypes) != 1
    assert json.dumps(stripped(after, added), indent=indent, ensure_ascii=plain) == before


BAD = {
    "": "Expecting",
    "[]": "it is no object",
    "{}": "it has no products",
    "\ufeff{}": "it is no object",
    '{"products": []}': "products is no object",
    '{"products": {"a": 1}}': "'a' is no object",
    '{"products": {"a": {"versions": 1}}}': "'a': versions is no object",
    '{"products": {"a": {"versions": {"b": []}}}}': "'a': 'b' is no object",
    '{"products": {"a": {"versions": {"b": {"items": null}}}}}': "'a': 'b': items is no object",
    '{"products": {"a": {"versions": {"b": {"items": {"c": ""}}}}}}': "'a': 'b': items: 'c' is no object",
    '{"format": "index:1.0", "index": {}, "products": {}}': "its format is 'index:1.0', not 'products:1.0'",
    '{"products": {}} x': "Extra data: line 1 column 18",
    '{"products": {}': "Expecting ',' or '}'",
    '{"products": {},}': "Expecting a name in double quotes",
    '{"products": {} "a": 1}': "Expecting ',' or '}'",
    '{"products" {}}': "Expecting ':'",
    "{1: {}}": "Expecting a name",
    '{"products": {"a": {"x": NaN}}}': "NaN is no JSON",
    '{"products": {"a": {"x": ' + "[" * 100_000: "nested too deep",
    '{"products": {"a": {"x": ' + "1" * 5000 + "}}}": "digits",
}


@pytest.mark.parametrize("text", BAD, ids=lambda text: text[:30])
def test_what_is_no_products_file_is_named(text: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - its text is what is looked at
        twinned(text)
    assert BAD[text] in str(raised.value) or (text == "" and "no object" in str(raised.value))
    assert "\n" not in str(raised.value)


def twin(data: bytes, cwd: Path = CHECKOUT) -> subprocess.CompletedProcess[bytes]:
    env = {name: value for name, value in os.environ.items() if name != "PUBLISH_CONFIG"}
    argv = [sys.executable, "-m", "doit", "twin"]
    return subprocess.run(argv, cwd=cwd, env=env, input=data, capture_output=True, timeout=60, check=False)


def test_the_command_is_a_filter() -> None:
    data = released.text(released.products(["24.04"], ["amd64"], 2))
    there = sorted(path.name for path in CHECKOUT.iterdir())
    done = twin(data)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == twinned(data.decode())[0]
    assert sorted(path.name for path in CHECKOUT.iterdir()) == there


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe{}", b'{"products": 1}'])
def test_the_command_says_in_one_line_what_is_wrong(data: bytes) -> None:
    done = twin(data)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"ERROR: what was read is no products file: ")
    assert done.stderr.count(b"\n") == 1


def test_a_closed_input_is_said_in_one_line_too() -> None:
    argv = ["sh", "-c", 'exec "$0" -m doit twin <&-', sys.executable]
    done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"ERROR: doit twin reads a products file: doit twin < in.json > out.json\n"


OTHERS = {
    gzip.compress(b"{}", mtime=0): "it is packed; zcat",
    b"\xef\xbb\xbf{}": "a byte order mark",
    b"-----BEGIN PGP SIGNED MESSAGE-----\n": "it is signed",
    b"{\xff}": "byte 1 is no UTF-8",
}


@pytest.mark.parametrize("data", OTHERS)
def test_what_people_have_at_hand_is_told_by_its_name(data: bytes) -> None:
    with pytest.raises(ValueError, match=OTHERS[data]):
        decoded(data)
