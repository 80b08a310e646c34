"""Which of the images that a tree lists a mirror gets."""

from typing import Any

import pytest
import released
from test_streams import CONTAINER, EVERYTHING, LXC, VM, image, images_of, serial

from tasks import lxcindex, overlay, portion
from tasks.streams import images_json

A, B, C = "alpine/3/amd64/default", "debian/12/arm64/default", "debian/13/amd64/cloud"
BOTH = (*CONTAINER, VM[1])


def chosen(history: list[tuple[str, ...]], keep: int) -> list[int]:
    """The days of those images of one product that a mirror with so many gets."""
    images = [image(serial=serial(day), files=files) for day, files in enumerate(history, start=1)]
    lines = lxcindex.indexes(images, (), ())["index-user"].decode().splitlines()
    paths = portion.ours(images_json(images, ())["products"], lines, ["*"], keep)  # type: ignore[arg-type]
    return sorted(int(path.rpartition("/202601")[2][:2]) for path in paths)


@pytest.mark.parametrize(
    ("history", "keep", "expected"),
    [
        pytest.param([EVERYTHING] * 4, 0, [1, 2, 3, 4], id="all"),
        pytest.param([EVERYTHING] * 4, 2, [3, 4], id="the newest"),
        pytest.param([EVERYTHING], 2, [1], id="fewer than may be"),
        pytest.param([BOTH] + [CONTAINER] * 3, 1, [1, 4], id="the last VM stays"),
        pytest.param([LXC, VM, CONTAINER, CONTAINER], 1, [1, 2, 4], id="the last of each kind"),
        pytest.param([VM, EVERYTHING, CONTAINER], 1, [2, 3], id="one for LXC and for VMs"),
        pytest.param([CONTAINER, LXC], 1, [1, 2], id="one for LXC alone hides no container"),
        pytest.param([LXC], 1, [1], id="for LXC alone"),
    ],
)
def test_the_newest_and_what_is_the_newest_of_its_kind(
    history: list[tuple[str, ...]], keep: int, expected: list[int]
) -> None:
    assert chosen(history, keep) == expected


def test_it_is_of_the_products_that_match() -> None:
    images = images_of(dict.fromkeys((A, B, C), EVERYTHING))
    streams: Any = images_json(images, ())["products"]
    lines = lxcindex.indexes(images, (), ())["index-system"].decode().splitlines()

    def products(*match: str) -> set[str]:
        return {path.split("/", 1)[1].rpartition("/")[0] for path in portion.ours(streams, lines, match, 0)}

    assert products("*") == {A, B, C}
    assert products("*/*/amd64") == {A, C}
    assert products("debian/12", "alpine") == {A, B}
    assert products("debian/14") == set()
    assert portion.ours({}, lines, ["*/*/amd64"], 0) == {
        one.path for one in images if one.product.arch == "amd64"
    }


def test_a_pattern_that_fits_nothing_is_told() -> None:
    theirs: Any = released.products(["24.04"], ["amd64"], 1)["products"]
    assert portion.idle([A, B], theirs.values(), ["debian", "ubuntu/24.04", "*/*/riscv64"]) == ["*/*/riscv64"]
    assert portion.idle([A, B], (), ["debian/13", "ubuntu", "*"]) == ["debian/13", "ubuntu"]


def test_of_an_upstream_by_its_own_names() -> None:
    document = released.products(["22.04", "24.04"], ["amd64", "arm64"], 3)
    every, left = overlay.overlaid([document], "u", ["*"])
    assert not left
    assert portion.theirs(every, ["*"], 0) == every
    newest = portion.theirs(every, ["ubuntu/u2404/amd64"], 1)
    (key,) = newest
    product: Any = newest[key]
    assert product == {**every[key], "versions": product["versions"]}  # type: ignore[dict-item]
    assert [*product["versions"]] == [max(every[key]["versions"])]  # type: ignore[index, call-overload, arg-type]
