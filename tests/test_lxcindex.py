"""The index of LXC's download template, in its levels."""

from itertools import permutations
from pathlib import Path

import pytest
import reference
from reference import TABLES_AS_RULES, Tables
from test_streams import CATALOGUE, CONTAINER, EVERYTHING, LXC, VM, image, images_of, serial, write

from tasks.catalogue import catalogue
from tasks.config import read
from tasks.lxcindex import indexes, names
from tasks.settings import Rule

LEVELS = (1, 2, 3, 4)


def oses(index: bytes) -> str:
    return " ".join(line.split(";")[0] for line in index.decode().splitlines())


def test_the_names_of_all_indexes() -> None:
    assert names(LEVELS) == {
        "index-system": ("system", 99),
        "index-system.1": ("system", 1),
        "index-system.2": ("system", 2),
        "index-system.3": ("system", 3),
        "index-system.4": ("system", 4),
        "index-user": ("user", 99),
        "index-user.1": ("user", 1),
        "index-user.2": ("user", 2),
        "index-user.3": ("user", 3),
        "index-user.4": ("user", 4),
    }
    assert list(names(())) == ["index-system", "index-user"]
    assert list(names([7])) == ["index-system", "index-system.7", "index-user", "index-user.7"]


def test_the_line_of_a_product() -> None:
    one = image("tiny/1/amd64/default+x", "20260102_07:42", LXC)
    line = b"tiny;1;amd64;default+x;20260102_07:42;/images/tiny/1/amd64/default+x/20260102_07:42/\n"
    assert indexes([one], (), LEVELS) == dict.fromkeys(names(LEVELS), line)


def test_without_images_every_index_is_there_and_empty() -> None:
    assert indexes([], (), LEVELS) == dict.fromkeys(names(LEVELS), b"")


def test_one_line_a_product_in_the_order_of_directories() -> None:
    """Of those of products, as one string: a slash comes after a plus and a dot."""
    products = [
        "b/1/amd64/x",
        "a/1/amd64/x+y",
        "a/1/amd64/x",
        "a/1.2/amd64/x",
        "a+b/1/amd64/x",
        "a/1/amd64/w",
    ]
    expected = [f"/images/{name}/{serial(2)}/" for name in sorted(products)]
    for order in (products, products[::-1]):
        images = [image(name, serial(day), EVERYTHING) for name in order for day in (1, 2)]
        lines = indexes(images, (), ())["index-system"].decode().splitlines()
        assert [line.split(";")[5] for line in lines] == expected


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        pytest.param([LXC, LXC], 2, id="the newest"),
        pytest.param([LXC, CONTAINER], 1, id="the newest that LXC can use"),
        pytest.param([LXC, EVERYTHING, CONTAINER, VM], 2, id="the newest of two that it can use"),
        pytest.param([CONTAINER, VM], None, id="none that it can use"),
        pytest.param([("rootfs.tar.xz", "incus.tar.xz")], None, id="no meta.tar.xz"),
        pytest.param([("meta.tar.xz", "incus.tar.xz", "rootfs.squashfs")], None, id="no rootfs.tar.xz"),
    ],
)
def test_which_serial_is_listed(history: list[tuple[str, ...]], expected: int | None) -> None:
    made = [image(serial=serial(day), files=files) for day, files in enumerate(history, start=1)]
    for order in permutations(made):
        lines = indexes(catalogue([order], 9).images, (), ())["index-user"].decode().splitlines()
        assert [line.split(";")[4] for line in lines] == ([serial(expected)] if expected else [])


@pytest.mark.parametrize(
    ("rule", "hidden"),
    [
        pytest.param(Rule(match="b"), "", id="nothing said"),
        pytest.param(Rule(match="b", lxc=True), "", id="said aloud"),
        pytest.param(
            Rule(match="b", lxc=False),
            "system system.1 system.2 system.3 system.4 user user.1 user.2 user.3 user.4",
            id="kept out",
        ),
        pytest.param(
            Rule(match="b", lxc_min_level=3),
            "system.1 system.2 user.1 user.2",
            id="from a level on",
        ),
        pytest.param(
            Rule(match="b", lxc_min_level=9),
            "system.1 system.2 system.3 system.4 user.1 user.2 user.3 user.4",
            id="for the newest templates alone",
        ),
        pytest.param(Rule(match="b", lxc_user_min_level=2), "user.1", id="from a level on, for users"),
        pytest.param(
            Rule(match="b", lxc_min_level=2, lxc_user_min_level=4),
            "system.1 user.1 user.2 user.3",
            id="from two levels on",
        ),
        pytest.param(
            Rule(match="b", lxc_min_level=3, lxc_user_min_level=2),
            "system.1 system.2 user.1 user.2",
            id="users never have more",
        ),
        pytest.param(Rule(match="b", clients=()), "", id="other clients do not matter"),
    ],
)
def test_which_indexes_do_not_list_a_product(rule: Rule, hidden: str) -> None:
    images = [image("a/1/amd64/x", files=LXC), image("b/1/amd64/x", files=LXC)]
    found = indexes(images, iter([rule]), LEVELS)
    assert {oses(text) for text in found.values()} <= {"a", "a b"}
    assert [
        name.removeprefix("index-") for name, text in found.items() if oses(text) == "a"
    ] == hidden.split()


def test_the_reference_writes_the_same(tmp_path: Path) -> None:
    """Of the same tree, on every level."""
    config = tmp_path / "publish.toml"
    config.write_text(f'[site]\nroot = "r"\n[signing]\nkey = "k"\n{TABLES_AS_RULES}')
    images = images_of(CATALOGUE, (serial(1), serial(2)))
    write(tmp_path / "root", images)
    reference._write_lxc_indexes(tmp_path / "root", Tables())
    found = indexes(images, read(config, Path(__file__).parents[1]).rules, LEVELS)
    directory = tmp_path / "root/meta/1.0"
    assert {path.name for path in directory.iterdir()} == found.keys()
    for name, text in found.items():
        assert text == (directory / name).read_bytes(), name
