"""The operator's word as a noun: what each word covers, and when it no longer counts."""

import pytest

from tasks.decisions import Block, BuildName, Decisions, Hold, Pin, Retire, Withdraw
from tasks.image import File, Image, Product, Source

P = Product("a", "1", "amd64", "default")
OLD, NEW = "20260101_00:00", "20260102_00:00"
SAID = {"who": "me@here", "when": "2026-11-21T08:30:00Z"}
CONFIGURATION = "architecture=amd64,release=1"


def image(serial: str, number: int, product: Product = P) -> Image:
    source = Source(job="image-a", configuration=CONFIGURATION, number=number, timestamp=number, md5={})
    return Image(product=product, serial=serial, files={"x": File(1, "0")}, fingerprints={}, source=source)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("image-a #3", ("image-a", "", 3)),
        ("image-a#3", ("image-a", "", 3)),
        ("folder/image-a #3", ("folder/image-a", "", 3)),
        (f"folder/image-a/{CONFIGURATION} #12", ("folder/image-a", CONFIGURATION, 12)),
    ],
)
def test_builds_are_named_as_reports_name_them(text: str, parts: tuple[str, str, int]) -> None:
    build = BuildName.parse(text)
    assert (build.job, build.configuration, build.number) == parts
    assert BuildName.parse(build.text) == build


@pytest.mark.parametrize(
    "text", ["", "#3", "image-a", "image-a #", "image-a #x", "a\nb #3", "image-a ##3", " #3"]
)
def test_other_names_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="is no build"):
        BuildName.parse(text)


def test_a_block_covers_its_configuration_or_all_of_them() -> None:
    one = Decisions(block=(Block(build=BuildName("image-a", CONFIGURATION, 3), **SAID),))
    every = Decisions(block=(Block(build=BuildName("image-a", "", 3), **SAID),))
    assert (
        one.refusal(P, "image-a", CONFIGURATION, 3)
        == "blocked by me@here, 2026-11-21 08:30 UTC: no reason given"
    )
    assert every.refusal(P, "image-a", CONFIGURATION, 3)
    assert every.refusal(P, "image-a", "other=1", 3)
    for word, job, configuration, number in (
        (one, "image-a", "other=1", 3),
        (one, "image-a", CONFIGURATION, 4),
        (every, "image-b", CONFIGURATION, 3),
    ):
        assert not word.refusal(P, job, configuration, number)


def test_a_hold_lists_nothing_newer_and_the_last_one_counts() -> None:
    images = [image(OLD, 1), image(NEW, 2)]
    first, second = (Hold(product=P, serial=serial, **SAID) for serial in (NEW, OLD))
    assert [one.serial for one in Decisions(hold=(first,)).listed(images)] == [OLD, NEW]
    assert [one.serial for one in Decisions(hold=(first, second)).listed(images)] == [OLD]
    assert "kept at" in Decisions(hold=(first,)).stop(P, "j", "", 9)
    assert not Decisions(hold=(first,)).stop(Product("b", "1", "amd64", "default"), "j", "", 9)


def test_a_withdrawn_image_is_refused_by_its_place_and_by_its_build() -> None:
    word = Withdraw(product=P, serial=NEW, build=BuildName("image-a", CONFIGURATION, 2), **SAID)
    decisions = Decisions(withdraw=(word,))
    assert decisions.refuses(image(NEW, 2))
    assert decisions.refuses(image(NEW, 7)), "a later build of equal bytes"
    assert decisions.refuses(image(OLD, 2))
    assert not decisions.refuses(image(OLD, 1))
    assert not decisions.refuses(image(NEW, 2, Product("b", "1", "amd64", "default"))), "of the same build"
    assert decisions.withdrawn() == {f"images/a/1/amd64/default/{NEW}"}
    assert decisions.withdrawn(at_once=True) == set()


@pytest.mark.parametrize("serial", ["../..", "20260101_00:00 ", "", "2026"])
def test_what_names_a_directory_is_a_serial(serial: str) -> None:
    with pytest.raises(ValueError, match="serial|blanks"):
        Withdraw(product=P, serial=serial, build=BuildName("a", "", 1), **SAID)
    with pytest.raises(ValueError, match="serial|blanks"):
        Hold(product=P, serial=serial, **SAID)


def test_a_pin_stands_until_all_that_it_undid_is_refused() -> None:
    pin = Pin(snapshot="20261121-0830.0", undone=(f"{P.name} image-a #1", f"{P.name} image-a #2"), **SAID)
    one, two = (Block(build=BuildName("image-a", "", number), **SAID) for number in (1, 2))
    assert Decisions(pin=(pin,)).pinned() == pin
    assert Decisions(pin=(pin,), block=(one,)).pinned() == pin
    assert Decisions(pin=(pin,), block=(one, two)).pinned() is None
    nothing = Pin(snapshot="20261121-0830.0", **SAID)
    assert Decisions(pin=(nothing,)).pinned() == nothing
    odd = Pin(snapshot="20261121-0830.0", undone=("what?",), **SAID)
    assert Decisions(pin=(odd,), block=(one,)).pinned() == odd


def test_what_was_released_no_longer_counts() -> None:
    over = {**SAID, "released": "2026-11-22 by me"}
    decisions = Decisions(
        hold=(Hold(product=P, serial=OLD, **over),),
        block=(Block(build=BuildName("image-a", "", 2), **over),),
        retire=(Retire(product=P, **over),),
        withdraw=(Withdraw(product=P, serial=OLD, build=BuildName("image-a", "", 1), at_once=True, **over),),
        pin=(Pin(snapshot="20261121-0830.0", **over),),
    )
    assert not decisions.stop(P, "image-a", CONFIGURATION, 2)
    assert not decisions.names()
    assert not decisions.lines()
    assert not decisions.withdrawn(at_once=True)
    assert len(list(decisions.listed([image(OLD, 1), image(NEW, 2)]))) == 2


def test_a_reason_is_one_line_whatever_stands_in_the_file() -> None:
    word = Hold(product=P, serial=OLD, why="a\n  b", **SAID)
    assert Decisions(hold=(word,)).lines() == [
        f"held: a/1/amd64/default: kept at {OLD} by me@here, 2026-11-21 08:30 UTC: a b"
    ]


@pytest.mark.parametrize("name", ["../site", "../latest/..", "", "20261121-0830", "20261121-0830.0/x"])
def test_what_is_pinned_is_the_name_of_a_snapshot(name: str) -> None:
    with pytest.raises(ValueError, match="is no snapshot"):
        Pin(snapshot=name, **SAID)


def test_nothing_of_a_file_reaches_the_terminal_unseen() -> None:
    word = Hold(product=P, serial=OLD, who="a\x1b[2Jb", when="2026\n", why="c" * 1000)
    (line,) = Decisions(hold=(word,)).lines()
    assert line.isprintable()
    assert len(line) < 500
