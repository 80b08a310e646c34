"""What the rules say of a product, also against the tables of the reference."""

from hashlib import sha256
from itertools import product as every
from pathlib import Path

import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import TABLES_AS_RULES, Tables

from tasks.config import read
from tasks.image import Product
from tasks.policy import Policy, digest, matches, policy
from tasks.settings import Artifacts, Day, Rule

NOBLE = Product.parse("ubuntu/noble/amd64/default")
PRODUCTS = st.builds(
    Product,
    st.sampled_from(["debian", "ubuntu", "void"]),
    st.sampled_from(["1", "current", "noble"]),
    st.sampled_from(["amd64", "arm64"]),
    st.sampled_from(["default", "cloud"]),
)
NAMES = st.lists(st.sampled_from(["a/1", "a/2", "default", "cloud"]), max_size=2).map(tuple)
TEXTS = st.dictionaries(st.sampled_from(["cgroup", "secureboot"]), st.sampled_from(["a", "b"]), max_size=2)
RULES = st.lists(
    st.builds(
        Rule,
        match=st.sampled_from(["*", "ubuntu", "*/current", "*/*/*/cloud", "debian/1/amd64/default"]),
        aliases=NAMES,
        variant_aliases=NAMES,
        requirements=TEXTS,
        lxd_requirements=TEXTS,
        lxc=st.none() | st.booleans(),
        lxc_min_level=st.none() | st.integers(1, 9),
        lxc_user_min_level=st.none() | st.integers(1, 9),
        clients=st.sampled_from([None, (), ("incus",), ("incus", "lxd")]),
    ),
    max_size=4,
)


def of(name: str, *rules: Rule) -> Policy:
    return policy(Product.parse(name), rules)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("ubuntu", True),
        ("ubuntu/noble", True),
        ("ubuntu/noble/amd64", True),
        ("ubuntu/noble/amd64/default", True),
        ("*", True),
        ("*/*/*/*", True),
        ("u*", True),
        ("*u", True),
        ("ubunt?", True),
        ("[tuv]buntu", True),
        ("*/nob[!a]e/*64", True),
        ("*/*/*/def*", True),
        ("debian", False),
        ("ubunt", False),
        ("buntu", False),
        ("Ubuntu", False),
        ("ubuntu/jammy", False),
        ("ubuntu/noble/arm64", False),
        ("ubuntu/noble/amd64/cloud", False),
        ("ubuntu/noble/*/cloud", False),
        ("*/*/*/noble", False),
        ("ubuntu/*/default", False),
        ("noble", False),
        ("*noble", False),
        ("/noble", False),
    ],
)
def test_which_products_a_rule_names(pattern: str, expected: bool) -> None:
    assert matches(pattern, NOBLE) is expected


@pytest.mark.parametrize("variant", ["default+zfs", "a.b", "desktop-gnome", "x~y"])
def test_a_name_is_a_pattern_of_itself(variant: str) -> None:
    assert matches(f"a/1/amd64/{variant}", Product("a", "1", "amd64", variant))
    assert not matches(f"a/1/amd64/{variant}", Product("a", "1", "amd64", "defaultzfs"))


def test_without_rules() -> None:
    assert of("fedora/43/arm64/cloud") == Policy(
        aliases=("fedora/43/cloud",),
        requirements={},
        lxd_requirements={},
        lxc=True,
        lxc_min_level=1,
        lxc_user_min_level=1,
        clients=("incus", "lxd"),
        os="Fedora",
        release_title="43",
        support_eol="",
    )


@pytest.mark.parametrize(
    ("name", "rules", "expected"),
    [
        pytest.param("a/1/amd64/default", (), "a/1/default a/1", id="default"),
        pytest.param("a/1/amd64/cloud", (), "a/1/cloud", id="variant"),
        pytest.param("a/1/amd64/default-x", (), "a/1/default-x", id="nearly default"),
        pytest.param(
            "a/1/amd64/default",
            (Rule(match="a/1", aliases=("a/one", "a/uno")),),
            "a/1/default a/one/default a/uno/default a/1 a/one a/uno",
            id="release aliases, default",
        ),
        pytest.param(
            "a/1/amd64/cloud",
            (Rule(match="a/1", aliases=("a/one",)),),
            "a/1/cloud a/one/cloud",
            id="release alias, variant",
        ),
        pytest.param(
            "a/1/amd64/x",
            (Rule(match="*/*/*/x", variant_aliases=("y", "z")),),
            "a/1/x a/1/y a/1/z",
            id="variant aliases",
        ),
        pytest.param(
            "a/1/amd64/x",
            (Rule(match="a", aliases=("a/one",), variant_aliases=("default",)),),
            "a/1/x a/1/default a/one/x a/one/default a/1 a/one",
            id="called default, with a release alias",
        ),
        pytest.param("a/current/amd64/default", (), "a/current/default a/current a", id="rolling"),
        pytest.param("a/current/amd64/cloud", (), "a/current/cloud a/cloud", id="rolling, variant"),
        pytest.param(
            "a/current/amd64/x",
            (Rule(match="a", variant_aliases=("default",)),),
            "a/current/x a/current/default a/current a/x",
            id="rolling, called default",
        ),
        pytest.param(
            "a/1/amd64/default",
            (Rule(match="a", aliases=("b/1", "a/1")), Rule(match="*", aliases=("b/1", "c/1"))),
            "a/1/default b/1/default c/1/default a/1 b/1 c/1",
            id="from two rules, each once",
        ),
        pytest.param(
            "a/current/amd64/b", (Rule(match="a", aliases=("a",)),), "a/current/b a/b", id="the same twice"
        ),
        pytest.param(
            "a/1/amd64/default", (Rule(match="b", aliases=("b/2",)),), "a/1/default a/1", id="not its rule"
        ),
    ],
)
def test_aliases(name: str, rules: tuple[Rule, ...], expected: str) -> None:
    assert of(name, *rules).aliases == tuple(expected.split(" "))


def test_requirements_add_up_and_later_ones_override() -> None:
    rules = (
        Rule(match="ubuntu", requirements={"cgroup": "v1", "nesting": "true"}),
        Rule(match="*/noble", requirements={"cgroup": "v2"}),
        Rule(match="*/jammy", requirements={"cgroup": "v3"}),
    )
    found = policy(NOBLE, rules)
    assert found.requirements == {"cgroup": "v2", "nesting": "true"}
    assert policy(NOBLE, rules[::-1]).requirements == {"cgroup": "v1", "nesting": "true"}


def test_lxd_gets_all_requirements_and_its_own() -> None:
    rules = (
        Rule(match="*", lxd_requirements={"cgroup": "v1", "privileged": "false"}),
        Rule(match="*", requirements={"cgroup": "v2", "secureboot": "false"}),
        Rule(match="*", lxd_requirements={"privileged": "true"}),
    )
    found = policy(NOBLE, rules)
    assert found.requirements == {"cgroup": "v2", "secureboot": "false"}
    assert found.lxd_requirements == {"cgroup": "v1", "privileged": "true", "secureboot": "false"}


@pytest.mark.parametrize(
    ("first", "second", "field", "expected"),
    [
        (Rule(match="*", lxc=False), Rule(match="*"), "lxc", False),
        (Rule(match="*", lxc=False), Rule(match="ubuntu", lxc=True), "lxc", True),
        (Rule(match="*", lxc=False), Rule(match="debian", lxc=True), "lxc", False),
        (Rule(match="*", lxc_min_level=3), Rule(match="*"), "lxc_min_level", 3),
        (Rule(match="*", lxc_min_level=3), Rule(match="*", lxc_min_level=1), "lxc_min_level", 1),
        (Rule(match="*", lxc_min_level=3), Rule(match="*"), "lxc_user_min_level", 3),
        (Rule(match="*", lxc_user_min_level=2), Rule(match="*"), "lxc_user_min_level", 2),
        (Rule(match="*", lxc_user_min_level=2), Rule(match="*"), "lxc_min_level", 1),
        (
            Rule(match="*", lxc_user_min_level=4),
            Rule(match="*", lxc_user_min_level=2),
            "lxc_user_min_level",
            2,
        ),
        (Rule(match="*", lxc_min_level=3), Rule(match="*", lxc_user_min_level=2), "lxc_user_min_level", 3),
        (Rule(match="*", lxc_min_level=2), Rule(match="*", lxc_user_min_level=3), "lxc_user_min_level", 3),
        (Rule(match="*", clients=("incus",)), Rule(match="*"), "clients", ("incus",)),
        (Rule(match="*", clients=("incus",)), Rule(match="*", clients=("lxd",)), "clients", ("lxd",)),
        (Rule(match="*", clients=("incus",)), Rule(match="*", clients=()), "clients", ()),
        (Rule(match="*", os="uBuntu"), Rule(match="*"), "os", "uBuntu"),
        (Rule(match="*", os="uBuntu"), Rule(match="*", os="U"), "os", "U"),
        (Rule(match="*", release_title="24"), Rule(match="*"), "release_title", "24"),
        (Rule(match="debian", release_title="24"), Rule(match="*"), "release_title", "noble"),
        (Rule(match="*", support_eol=Day("2029-05-31")), Rule(match="*"), "support_eol", "2029-05-31"),
        (
            Rule(match="*", support_eol=Day("2029-05-31")),
            Rule(match="*", support_eol=Day("2034-05-31")),
            "support_eol",
            "2034-05-31",
        ),
    ],
)
def test_the_last_word_counts(first: Rule, second: Rule, field: str, expected: object) -> None:
    assert getattr(policy(NOBLE, (first, second)), field) == expected


@settings(max_examples=50)
@given(PRODUCTS, RULES)
def test_what_holds_under_any_rules(product: Product, rules: list[Rule]) -> None:
    found = policy(product, rules)
    assert found.aliases[0] == f"{product.os}/{product.release}/{product.variant}"
    assert len(set(found.aliases)) == len(found.aliases)
    assert found.requirements.keys() <= found.lxd_requirements.keys()
    assert found.lxc_user_min_level >= found.lxc_min_level >= 1
    assert policy(product, [rule for rule in rules if matches(rule.match, product)]) == found
    assert policy(product, iter(rules)) == found


# The tables of the reference

TABLES = Tables()
ALL_OS = sorted(
    {
        *(
            name.split("/")[0]
            for table in (TABLES.aliases, TABLES.variant_aliases, TABLES.lxc_since, TABLES.lxc_user_1)
            for name in table
        ),
        *(prefix.split("/")[0] for _, _, prefixes, _ in TABLES.demands() for prefix in prefixes),
        *TABLES.require_incus,
        *TABLES.require_vm,
        *("fedora", "debian-x", "alpinelinux", "nixos2", "plamo", "kali", "voidlinux"),
    }
)
RELEASES = sorted(
    {
        *(name.split("/")[1] for name in TABLES.aliases),
        *(alias.split("/")[1] for names in TABLES.aliases.values() for alias in names),
        *(release for releases in TABLES.lxc_user_1.values() for release in releases),
        *("1", "2", "2023", "7", "7-Stream", "8", "9", "9-Stream", "24.045", "3.21", "edge", "current"),
    }
)
VARIANTS = (
    *("default", "cloud", "default+zfs", "default+ufs", "cloud+zfs", "openrc", "7", "2", "24.04"),
    *("desktop", "desktop-gnome", "my-desktop"),
)


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> tuple[Rule, ...]:
    """The tables as an operator would have them: in a file."""
    path = tmp_path_factory.mktemp("etc") / "publish.toml"
    path.write_text(f'[site]\nroot = "r"\n[signing]\nkey = "k"\n{TABLES_AS_RULES}')
    return read(path, Path(__file__).parents[1]).rules


@pytest.mark.parametrize("os", ALL_OS)
def test_the_reference_says_the_same(rules: tuple[Rule, ...], os: str) -> None:
    """On every release and variant that its tables name, on longer and shorter ones, and on others."""
    mine = [rule for rule in rules if matches(rule.match.split("/")[0], Product(os, "1", "amd64", "x"))]
    for release, variant in every(RELEASES, VARIANTS):
        found = policy(Product(os, release, "amd64", variant), mine)
        entry = reference._product(os, release, "amd64", variant, TABLES)
        assert ",".join(found.aliases) == entry["aliases"], (release, variant)
        assert found.requirements == entry["requirements"], (release, variant)
        assert found.lxd_requirements == entry["requirements"], (release, variant)
        assert found.clients == (("incus",) if os in TABLES.require_incus else ("incus", "lxd"))
        assert found.lxc == ("desktop" not in variant and os not in TABLES.require_vm)
        since = TABLES.lxc_since.get(os, 1)
        for_users = release in TABLES.lxc_user_1.get(os, (release,))
        assert (found.lxc_min_level, found.lxc_user_min_level) == (
            since,
            since if for_users else max(since, 2),
        )


class TestDigest:
    MINE, OTHER = Rule(match="ubuntu", aliases=("a/1",)), Rule(match="debian", aliases=("a/1",))

    def test_it_is_that_of_the_rules_that_match(self):
        assert digest(NOBLE, []) == digest(NOBLE, [self.OTHER])
        assert digest(NOBLE, [self.MINE]) == digest(NOBLE, [self.OTHER, self.MINE])
        assert digest(NOBLE, [self.MINE]) != digest(NOBLE, [])

    @pytest.mark.parametrize(
        "edit",
        [
            {"aliases": ("a/2",)},
            {"lxc": False},
            {"clients": ()},
            {"requirements": {"a": "b"}},
            {"support_eol": Day("2029-05-31")},
        ],
        ids=str,
    )
    def test_it_changes_with_every_edit(self, edit):
        fields = {"match": "ubuntu", "aliases": ("a/1",)} | edit
        assert digest(NOBLE, [Rule(**fields)]) != digest(NOBLE, [self.MINE])

    def test_it_changes_with_the_patterns_of_artifacts(self):
        assert digest(NOBLE, []) == sha256(b"[]").hexdigest(), (
            "what was rejected before there were any stays so"
        )
        some = [digest(NOBLE, [], Artifacts(unified=one)) for one in ("", "a*", "b*")]
        assert len(set(some)) == 3

    def test_requirements_have_no_order(self):
        one = Rule(match="*", requirements={"a": "1", "b": "2"})
        same = Rule(match="*", requirements={"b": "2", "a": "1"})
        assert digest(NOBLE, [one]) == digest(NOBLE, [same])
