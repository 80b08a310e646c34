"""Which build a product should be at."""

from itertools import permutations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jenkins.api import Action, Build, Parameter, TestRun
from tasks.image import Product
from tasks.plan import (
    Choice,
    Offer,
    Verdicts,
    Wish,
    choose,
    merge,
    os_of,
    product_of,
    products_in,
    verdicts,
)
from tasks.settings import Axes, Gate
from tasks.state import encode

PRODUCT = Product.parse("tiny/1/amd64/default")
JOB, RUN = "image-tiny", "architecture=amd64,release=1,variant=default"


def build(number: int, time: int | None = None) -> Build:
    return Build(number, timestamp=number * 1000 if time is None else time, result="SUCCESS")


def offer(*builds: Build, product: Product = PRODUCT, job: str = JOB, configuration: str = RUN) -> Offer:
    """Builds newest first, as Jenkins' answers are sorted."""
    return Offer(product=product, job=job, configuration=configuration, builds=builds)


def wish(number: int, time: int | None = None, job: str = JOB, configuration: str = RUN) -> Wish:
    time = number * 1000 if time is None else time
    return Wish(
        product=PRODUCT,
        job=job,
        configuration=configuration,
        number=number,
        timestamp=time,
        artifacts=("serial",),
        md5=(),
    )


def passed(*numbers: int, scope: str = "product", job: str = JOB, configuration: str = "") -> Verdicts:
    return Verdicts(frozenset((job, configuration, number) for number in numbers), scope)


# Wishes


@pytest.mark.parametrize(
    ("job", "configuration", "expected"),
    [
        ("image-tiny", RUN, f"image-tiny/{RUN} #7"),
        ("a/b/image-tiny", RUN, f"a/b/image-tiny/{RUN} #7"),
        ("pipe", "", "pipe #7"),
    ],
)
def test_a_build_is_shown_to_people(job: str, configuration: str, expected: str) -> None:
    assert wish(7, job=job, configuration=configuration).build == expected


def test_a_wish_comes_back_as_it_was() -> None:
    assert msgspec.json.decode(encode(wish(7)), type=Wish) == wish(7)


# From jobs and their configurations to products


@pytest.mark.parametrize(
    ("job", "patterns", "expected"),
    [
        ("image-ubuntu", ["image-*"], "ubuntu"),
        ("image-", ["image-*"], None),
        ("image", ["image-*"], None),
        ("image-a-b", ["image-*"], "a-b"),
        ("my-image-a", ["image-*"], None),
        ("IMAGE-a", ["image-*"], None),
        ("ubuntu-image", ["*-image"], "ubuntu"),
        ("vm-ubuntu-nightly", ["vm-*-nightly"], "ubuntu"),
        ("vm--nightly", ["vm-*-nightly"], None),
        ("vm-nightly", ["vm-*-nightly"], None),
        ("vm-nightly", ["vm-*"], "nightly"),
        ("aa", ["a*a"], None),
        ("aba", ["a*a"], "b"),
        ("ubuntu", ["*"], "ubuntu"),
        ("x-ubuntu", ["image-*", "x-*", "*"], "ubuntu"),
        ("x-ubuntu", ["*", "x-*"], "x-ubuntu"),
        ("images/nightly/image-ubuntu", ["image-*"], "ubuntu"),
        ("image-x/test", ["image-*"], None),
        ("image-ubuntu", [], None),
        ("v1.2-ubuntu", ["v1.2-*"], "ubuntu"),
        ("v1x2-ubuntu", ["v1.2-*"], None),
        ("image-ubuntu", ["image-[a-z]*"], None),
        ("image-ubuntu", ["imag?-*"], None),
    ],
)
def test_the_os_of_a_job(job: str, patterns: list[str], expected: str | None) -> None:
    assert os_of(job, patterns) == expected


@pytest.mark.parametrize(
    ("configuration", "names", "expected"),
    [
        ("architecture=amd64,release=noble,variant=cloud", Axes(), "x/noble/amd64/cloud"),
        ("release=noble,variant=cloud,architecture=amd64", Axes(), "x/noble/amd64/cloud"),
        (
            "architecture=amd64,build_architecture=arm64,release=15,variant=default+zfs",
            Axes(),
            "x/15/amd64/default+zfs",
        ),
        (
            "flavour=cloud,label=amd64,suite=sid,variant=z",
            Axes(release="suite", arch="label", variant="flavour"),
            "x/sid/amd64/cloud",
        ),
    ],
)
def test_the_product_of_a_configuration(configuration: str, names: Axes, expected: str) -> None:
    assert product_of("x", configuration, names) == Product.parse(expected)


@pytest.mark.parametrize(
    ("configuration", "names", "fault"),
    [
        ("default", Axes(), "'default' has no axis 'release'; see jenkins.axes"),
        ("", Axes(), "'' has no axis 'release'; see jenkins.axes"),
        ("release=1,variant=a", Axes(), "'release=1,variant=a' has no axis 'architecture'; see jenkins.axes"),
        (
            "release=1,architecture=a",
            Axes(),
            "'release=1,architecture=a' has no axis 'variant'; see jenkins.axes",
        ),
        (RUN, Axes(release="rel"), f"{RUN!r} has no axis 'rel'; see jenkins.axes"),
        ("architecture=,release=1,variant=a", Axes(), "'' cannot be part of a product's name"),
        ("architecture=a,release=../x,variant=a", Axes(), "'../x' cannot be part of a product's name"),
        ("architecture=a,release=1,variant=a=b", Axes(), "'a=b' cannot be part of a product's name"),
        ("architecture=a b,release=1,variant=a", Axes(), "'a b' cannot be part of a product's name"),
    ],
)
def test_a_configuration_that_is_no_product(configuration: str, names: Axes, fault: str) -> None:
    with pytest.raises(ValueError, match=r"axis|part of") as caught:
        product_of("x", configuration, names)
    assert str(caught.value) == fault


@pytest.mark.parametrize(
    ("template", "artifacts", "expected"),
    [
        pytest.param(
            "{arch}/{release}/{variant}/{file}",
            ("amd64/1/default/serial", "amd64/1/default/disk.qcow2", "arm64/2/cloud/serial"),
            {
                "x/1/amd64/default": ("amd64/1/default/serial", "amd64/1/default/disk.qcow2"),
                "x/2/arm64/cloud": ("arm64/2/cloud/serial",),
            },
            id="as in the manual",
        ),
        pytest.param("{file}", ("serial", "a/serial"), {"x/current/amd64/default": ("serial",)}, id="flat"),
        pytest.param(
            "out/{os}-{release}.{arch}/{file}",
            ("out/y-1.arm64/f", "out/y-1xarm64/f", "y-1.arm64/f", "out/y-1.arm64/deep/f", "out/y-1.arm64/"),
            {"y/1/arm64/default": ("out/y-1.arm64/f",)},
            id="all else is left out",
        ),
        pytest.param("{arch}/{file}", (), {}, id="no artifacts"),
        pytest.param(
            "a+(b)/{variant}/{file}",
            ("a+(b)/c/f", "aab/c/f"),
            {"x/current/amd64/c": ("a+(b)/c/f",)},
            id="no regular expression",
        ),
    ],
)
def test_the_products_in_one_build(
    template: str, artifacts: tuple[str, ...], expected: dict[str, tuple[str, ...]]
) -> None:
    found = products_in("x", template, artifacts)
    assert {product.name: paths for product, paths in found.items()} == expected


def test_a_path_that_fits_but_cannot_be_a_product() -> None:
    with pytest.raises(ValueError, match=r"^'\.\.' cannot be part of a product's name$"):
        products_in("x", "{arch}/{release}/{file}", ("amd64/../serial",))


# The gate


def run(
    url: object,
    result: str | None = "SUCCESS",
    *,
    building: bool = False,
    time: int | None = None,
    build: str = "build",
    **parameters: object,
) -> TestRun:
    told = (*(Parameter(name, value) for name, value in parameters.items()), Parameter(build, url))
    return TestRun(result=result, building=building, timestamp=time, actions=(None, Action(), Action(told)))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://ci/job/image-tiny/7/", ("image-tiny", "", 7)),
        ("https://ci/job/image-tiny/7", ("image-tiny", "", 7)),
        ("http://other:8080/prefix/job/image-tiny/7/", ("image-tiny", "", 7)),
        ("https://ci/view/All/job/image-tiny/7/", ("image-tiny", "", 7)),
        ("https://ci/job/a/job/b/job/image-tiny/7/", ("a/b/image-tiny", "", 7)),
        (f"https://ci/job/image-tiny/{RUN}/7/", ("image-tiny", RUN, 7)),
        (
            "https://ci/job/image-tiny/architecture%3Damd64%2Crelease=1,variant=default/7/",
            ("image-tiny", RUN, 7),
        ),
        ("https://ci/job/image%20x/7/", ("image x", "", 7)),
        ("https://ci/job/image-tiny/variant=default,release=1,architecture=amd64/7/", ("image-tiny", RUN, 7)),
        ("https://ci/job/image-tiny/a-b=1,a=2/7/", ("image-tiny", "a=2,a-b=1", 7)),
        ("/job/image-tiny/7", ("image-tiny", "", 7)),
        ("https://ci/job/image-tiny/lastSuccessfulBuild/", None),
        ("https://ci/job/image-tiny/", None),
        ("https://ci/job/image-tiny/-7/", None),
        ("https://ci/job/image-tiny/7²/", None),
        ("https://ci/job/image-tiny/\u0667/", None),
        (f"https://ci/job/image-tiny/{'9' * 9}/", ("image-tiny", "", 999_999_999)),
        (f"https://ci/job/image-tiny/{'9' * 5000}/", None),
        ("https://ci/job/a=b/7/", None),
        ("https://ci/7/", None),
        ("http://[", None),
        ("http://[/job/image-tiny/7/", None),
        ("7", None),
        ("", None),
        (None, None),
        (7, None),
        (True, None),
    ],
)
def test_which_build_a_test_names(url: object, expected: tuple[str, str, int] | None) -> None:
    found = verdicts([run(url)], Gate(job="test-image"))
    assert found == Verdicts(frozenset([expected] if expected else []), "product", {})


@pytest.mark.parametrize(
    "tested",
    [
        pytest.param(run("/job/a/1/", "FAILURE"), id="failed"),
        pytest.param(run("/job/a/1/", "UNSTABLE"), id="unstable"),
        pytest.param(run("/job/a/1/", None), id="no result"),
        pytest.param(run("/job/a/1/", building=True), id="success, but still running"),
        pytest.param(run("/job/a/1/", build="url"), id="another parameter"),
        pytest.param(run("/job/a/1/", image="b"), id="another image"),
        pytest.param(run("/job/f/job/a/1/", image="f"), id="its folder"),
        pytest.param(run("/job/f/job/a/1/", image="g/a"), id="a job of that name elsewhere"),
        pytest.param(run("/job/a/x=y/1/", image="x=y"), id="its configuration"),
        pytest.param(TestRun(result="SUCCESS", actions=None), id="no actions"),
    ],
)
def test_a_test_that_says_nothing(tested: TestRun) -> None:
    assert verdicts([tested], Gate(job="test-image")).passed == frozenset()


@pytest.mark.parametrize(
    ("url", "image"),
    [
        ("/job/a/1/", "a"),
        ("/job/f/job/a/1/", "a"),
        ("/job/f/job/a/1/", "f/a"),
        ("/job/a/x=y/1/", "a"),
        ("/job/a/1/", 5),
        ("/job/a/1/", None),
    ],
)
def test_a_test_that_names_the_job_as_well(url: str, image: object) -> None:
    assert len(verdicts([run(url, image=image)], Gate(job="t")).passed) == 1
    assert verdicts([run(url, IMAGE="b", image=image)], Gate(job="t", image="IMAGE")).passed == frozenset()


def test_the_gate_collects_every_pass() -> None:
    runs = [
        run("/job/a/3/", time=30),
        run("/job/a/2/", "FAILURE", time=99),
        run("/job/a/1/"),
        run("/job/a/3/", time=50),
        run("/job/a/3/", time=40),
        run("/job/a/4/", time=0),
    ]
    found = verdicts(runs, Gate(job="t", scope="os"))
    expected = {("a", "", 3), ("a", "", 1), ("a", "", 4)}
    assert found == Verdicts(frozenset(expected), "os", {("a", "", 3): 50, ("a", "", 4): 0})
    other = verdicts([run("/job/a/4/", build="TESTED")], Gate(job="t", build="TESTED"))
    assert other.passed == {("a", "", 4)}


@pytest.mark.parametrize(
    ("gate", "allowed"),
    [
        pytest.param(passed(5), {5}, id="the parent"),
        pytest.param(passed(5, configuration=RUN), {5}, id="the very configuration"),
        pytest.param(passed(5, configuration=RUN.replace("amd64", "arm64")), set(), id="another one"),
        pytest.param(passed(5, job="image-huge"), set(), id="another job"),
        pytest.param(passed(5, job="folder/image-tiny"), set(), id="a job of that name elsewhere"),
        pytest.param(passed(3, 5), {3, 5}, id="two"),
        pytest.param(passed(), set(), id="none"),
        pytest.param(passed(5, scope="os"), {1, 2, 3, 4, 5}, id="os: up to it"),
        pytest.param(passed(2, 4, scope="os"), {1, 2, 3, 4}, id="os: up to the last"),
        pytest.param(
            passed(3, scope="os", configuration=RUN.replace("amd64", "arm64")), {1, 2, 3}, id="os: any of it"
        ),
        pytest.param(passed(5, scope="os", job="image-huge"), set(), id="os: another job"),
        pytest.param(passed(scope="os"), set(), id="os: none"),
    ],
)
def test_what_the_gate_lets_through(gate: Verdicts, allowed: set[int]) -> None:
    assert {number for number in range(1, 8) if gate.allow(offer(), number)} == allowed


@pytest.mark.parametrize(
    ("scope", "tested", "allowed"),
    [
        ("product", {5: 5001}, {5}),
        ("product", {5: 5000}, {5}),
        ("product", {5: 4999}, set()),
        ("os", {5: 5001}, {1, 2, 3, 4, 5}),
        ("os", {5: 3000}, {1, 2, 3}),
        ("os", {5: 3000, 4: 4000}, {1, 2, 3, 4}),
    ],
)
def test_a_test_of_a_build_that_began_later_was_of_another(
    scope: str, tested: dict[int, int], allowed: set[int]
) -> None:
    """Of a job that was deleted and made anew, with the same numbers again."""
    when = {(JOB, "", number): time for number, time in tested.items()}
    gate = Verdicts(frozenset(when), scope, when)
    offered = offer(*(build(number) for number in (5, 4, 3, 2, 1)))
    assert {number for number in range(1, 6) if gate.allow(offered, number)} == allowed


# The choice

HELD = "build #{} has not passed the test job"


@pytest.mark.parametrize(
    ("offered", "wished", "gate", "expected"),
    [
        pytest.param(offer(), None, None, Choice(None), id="never built"),
        pytest.param(offer(), wish(5), None, Choice(None), id="Jenkins forgot everything"),
        pytest.param(offer(build(5)), None, None, Choice(build(5)), id="new"),
        pytest.param(offer(build(5), build(4)), None, None, Choice(build(5)), id="new, the newest"),
        pytest.param(offer(build(5)), wish(5), None, Choice(None), id="up to date"),
        pytest.param(offer(build(6), build(5)), wish(5), None, Choice(build(6)), id="moved"),
        pytest.param(offer(build(4), build(3)), wish(5), None, Choice(None), id="rotated away"),
        pytest.param(offer(build(4, 5000)), wish(5), None, Choice(None), id="started in the same moment"),
        pytest.param(offer(build(1, 9000)), wish(5), None, Choice(build(1, 9000)), id="job made again"),
        pytest.param(
            offer(build(5, 5001)), wish(5), None, Choice(build(5, 5001)), id="job made again, the same number"
        ),
        pytest.param(
            offer(build(6, 4000)), wish(5), None, Choice(build(6, 4000)), id="the clock was set back"
        ),
        pytest.param(
            offer(build(5, 5001), job="new-tiny"),
            wish(5),
            None,
            Choice(build(5, 5001)),
            id="another job, newer, the same number",
        ),
        pytest.param(
            offer(build(5, 5001), configuration="architecture=amd64"),
            wish(5),
            None,
            Choice(None),
            id="a sibling of the same build",
        ),
        pytest.param(
            offer(build(6, 6000), configuration="architecture=amd64"),
            wish(5),
            None,
            Choice(build(6, 6000)),
            id="another configuration, newer",
        ),
        pytest.param(
            offer(build(1, 9000), job="new-tiny"),
            wish(5),
            None,
            Choice(build(1, 9000)),
            id="another job, newer",
        ),
        pytest.param(
            offer(build(9, 4000), job="new-tiny"), wish(5), None, Choice(None), id="another job, older"
        ),
        pytest.param(
            offer(build(9, 4000), configuration="architecture=amd64"),
            wish(5),
            None,
            Choice(None),
            id="another configuration, older",
        ),
        pytest.param(offer(build(5)), None, passed(5), Choice(build(5)), id="passed"),
        pytest.param(offer(build(5)), None, passed(), Choice(None, HELD.format(5)), id="not passed"),
        pytest.param(
            offer(build(5), build(4), build(3)),
            None,
            passed(3, 4),
            Choice(build(4), HELD.format(5)),
            id="the newest that passed",
        ),
        pytest.param(
            offer(build(6), build(5)),
            wish(5),
            passed(5),
            Choice(None, HELD.format(6)),
            id="held at its build",
        ),
        pytest.param(
            offer(build(6), build(5), build(4)),
            wish(5),
            passed(4),
            Choice(None, HELD.format(6)),
            id="held, and never moved back",
        ),
        pytest.param(offer(build(6), build(5)), wish(5), passed(6), Choice(build(6)), id="passed at last"),
        pytest.param(offer(), wish(5), passed(5), Choice(None), id="forgotten, but passed"),
        pytest.param(
            offer(build(5)), wish(5), passed(), Choice(None), id="up to date; its test is forgotten"
        ),
        pytest.param(offer(build(4)), wish(5), passed(), Choice(None), id="rotated away, with its test"),
        pytest.param(
            offer(build(5), build(4)), None, passed(9, scope="os"), Choice(build(5)), id="os: covered"
        ),
        pytest.param(
            offer(build(5), build(4)),
            None,
            passed(4, scope="os"),
            Choice(build(4), HELD.format(5)),
            id="os: not covered",
        ),
    ],
)
def test_the_choice(offered: Offer, wished: Wish | None, gate: Verdicts | None, expected: Choice) -> None:
    assert choose(offered, wished, gate) == expected


NUMBERS = st.sets(st.integers(1, 20))


def newest_first(numbers: set[int]) -> list[Build]:
    return [build(number) for number in sorted(numbers, reverse=True)]


@settings(max_examples=50)
@given(NUMBERS, st.integers(1, 20), st.none() | NUMBERS, st.sampled_from(["product", "os"]))
def test_rotation_never_moves_a_wish_back(
    numbers: set[int], wished: int, tested: set[int] | None, scope: str
) -> None:
    gate = None if tested is None else passed(*tested, scope=scope)
    chosen = choose(offer(*newest_first(numbers)), wish(wished), gate).build
    assert chosen is None or chosen.number > wished


@settings(max_examples=50)
@given(st.lists(st.tuples(NUMBERS, st.none() | NUMBERS), max_size=6))
def test_whatever_jenkins_forgets_a_product_only_moves_on(
    polls: list[tuple[set[int], set[int] | None]],
) -> None:
    """Each poll sees some of the builds and some of the tests."""
    at: Wish | None = None
    for numbers, tested in polls:
        gate = None if tested is None else passed(*tested)
        chosen = choose(offer(*newest_first(numbers)), at, gate).build
        seen = numbers if tested is None else numbers & tested
        newest = max([*seen, at.number if at else 0])
        if chosen:
            at = wish(chosen.number)
        assert (at.number if at else 0) == newest


# Two configurations for one product


def test_offers_of_different_products_are_all_taken_in_order() -> None:
    offers = [offer(product=Product("a", release, "amd64", "x")) for release in ("3", "1", "2")]
    found, notes = merge(offers)
    assert [one.product.release for one in found] == ["1", "2", "3"]
    assert notes == []
    assert merge([]) == ([], [])


@pytest.mark.parametrize(
    ("offers", "winner"),
    [
        pytest.param((offer(build(5), configuration="a"), offer(build(6), configuration="b")), "b", id="newer"),
        pytest.param((offer(build(9, 1), configuration="a"), offer(build(2, 2), configuration="b")), "b", id="newer, lower number"),
        pytest.param((offer(build(1), configuration="b"), offer(configuration="c")), "b", id="one never built"),
        pytest.param((offer(build(1, 0), configuration="a"), offer(configuration="c")), "a", id="one never built, no time"),
        pytest.param((offer(build(5), configuration="a"), offer(build(5), configuration="b")), "b", id="a draw"),
        pytest.param((offer(configuration="a"), offer(configuration="b")), "b", id="both never built"),
        pytest.param((offer(build(5), configuration="a"), offer(build(6), configuration="b"), offer(build(4), configuration="c")), "b", id="three"),
    ],
)  # fmt: skip
def test_the_freshest_of_two_offers_wins_in_whatever_order(offers: tuple[Offer, ...], winner: str) -> None:
    for order in permutations(offers):
        found, notes = merge(order)
        assert [one.configuration for one in found] == [winner]
        assert notes == [
            f"tiny/1/amd64/default: made by more than one configuration; taken from image-tiny/{winner}"
        ]


def test_of_two_jobs_one_is_always_the_same() -> None:
    offers = [offer(build(5), job="a/image-tiny"), offer(build(5), job="b/image-tiny")]
    for order in permutations(offers):
        assert [one.job for one in merge(order)[0]] == ["b/image-tiny"]


def test_every_contested_product_is_named_in_order() -> None:
    products = [Product("a", release, "amd64", "x") for release in ("2", "1")]
    offers = [
        offer(build(1), product=one, configuration=configuration)
        for one in products
        for configuration in "cd"
    ]
    _, notes = merge(offers)
    assert notes == [
        f"a/{release}/amd64/x: made by more than one configuration; taken from image-tiny/d"
        for release in ("1", "2")
    ]


@pytest.mark.parametrize(
    ("image", "counts"),
    [("image-tiny", True), ("image-tiny/a=b", True), ("image-other", False), ("image", False), ("", True)],
)
def test_parameters_that_contradict_each_other_test_nothing(image: str, counts: bool) -> None:
    parameters = (Parameter("image", image), Parameter("build", "https://ci/job/image-tiny/7/"))
    found = verdicts([TestRun(result="SUCCESS", actions=(Action(parameters),))], Gate(job="t"))
    assert bool(found.passed) == counts
