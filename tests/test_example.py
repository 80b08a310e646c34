"""The example configuration says what the tables of the reference say, for the whole of its job list."""

import json
import re
from itertools import product as every
from pathlib import Path

import pytest
import reference
from reference import TABLES_AS_RULES, Tables
from sites import CHECKOUT
from test_streams import CATALOGUE, images_of, write

from tasks.config import read
from tasks.image import Product
from tasks.policy import policy
from tasks.settings import Rule, Settings
from tasks.streams import images_json

EXAMPLE = CHECKOUT / "jenkins/images.linuxcontainers.org.toml"
VARIANTS = ["default", "cloud", "desktop-gnome", "desktop"]
# os -> releases; what else it comes as
JOBS = {
    "almalinux": ["8", "9", "10"],
    "alpine": ["3.20", "3.21", "3.22", "edge"],
    "alt": ["p11", "Sisyphus"],
    "amazonlinux": ["2", "2023"],
    "archlinux": ["current"],
    "busybox": ["1.36.1"],
    "centos": ["6", "7", "8-Stream", "9-Stream", "10-Stream"],
    "debian": ["wheezy", "9", "buster", "bullseye", "bookworm", "trixie", "forky", "sid"],
    "devuan": ["beowulf", "chimaera", "daedalus"],
    "fedora": ["41", "42", "43"],
    "freebsd": ["13.5", "14.3", "14.4", "15.0"],
    "funtoo": ["next"],
    "gentoo": ["current"],
    "kali": ["current"],
    "mint": ["virginia", "wilma", "xia"],
    "nixos": ["25.05", "25.11", "unstable"],
    "openeuler": ["20.03", "22.03", "24.03"],
    "opensuse": ["15.6", "16.0", "tumbleweed"],
    "openwrt": ["23.05", "24.10", "snapshot"],
    "oracle": ["7", "8", "9"],
    "plamo": ["7.x", "8.x"],
    "rockylinux": ["8", "9", "10"],
    "sabayon": ["current"],
    "slackware": ["15.0", "current"],
    "springdalelinux": ["7", "8"],
    "ubuntu": ["precise", "trusty", "utopic", "jammy", "noble", "plucky", "questing", "resolute"],
    "voidlinux": ["current"],
}
SPECIAL = {
    "freebsd": ["default+zfs", "default+ufs", "cloud+zfs", "cloud"],
    "gentoo": ["openrc", "systemd", "cloud-openrc"],
    "voidlinux": ["musl"],
    "alpine": ["tinycloud"],
    "ubuntu": ["desktop"],
}


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return read(EXAMPLE, tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[Rule, ...]:
    path = tmp_path_factory.mktemp("tables") / "publish.toml"
    path.write_text(f'[site]\nroot = "r"\n[signing]\nkey = "{"0" * 40}"\n{TABLES_AS_RULES}')
    return read(path, tmp_path_factory.mktemp("clone")).rules


@pytest.mark.parametrize("os", JOBS)
def test_every_product_has_the_aliases_and_requirements_of_the_reference(os: str, example, tables) -> None:
    variants = [*VARIANTS, *SPECIAL.get(os, [])]
    for release, arch, variant in every(JOBS[os], ["amd64", "arm64", "armhf"], variants):
        product = Product(os, release, arch, variant)
        ours, theirs = policy(product, example.rules), policy(product, tables)
        assert ours == theirs, product.name


def test_every_rule_is_needed(example, tables) -> None:
    """Without any one of them, some product of the job list would be another."""
    products = [
        Product(os, release, "amd64", variant)
        for os, releases in JOBS.items()
        for release, variant in every(releases, [*VARIANTS, *SPECIAL.get(os, [])])
    ]
    wanted = {product: policy(product, tables) for product in products}
    for at, rule in enumerate(example.rules):
        rest = example.rules[:at] + example.rules[at + 1 :]
        assert any(policy(product, rest) != wanted[product] for product in products), rule.match


def test_its_lists_are_those_of_the_reference(example, tmp_path: Path) -> None:
    """Which have the metadata of both clients in each."""
    images = images_of(CATALOGUE)
    write(tmp_path, images)
    reference._write_streams(tmp_path, Tables(), [])
    theirs = {path.name: path for path in (tmp_path / reference.LISTS).glob(".images.json.*")}
    assert {f".images.json.{one.name}" for one in example.list} == theirs.keys()
    for one in example.list:
        ours = images_json(images, example.rules, readers=(one.client,), match=one.match)["products"]
        expected = json.loads(theirs[f".images.json.{one.name}"].read_text())["products"]
        assert ours.keys() == expected.keys()
        for key, product in expected.items():
            assert ours[key].pop("lxd_requirements") == product["requirements"]
            for version in product["versions"].values():
                del version["items"]["incus.tar.xz"]
        assert ours == expected
    sizes = [
        len(json.loads(theirs[f".images.json.{one.name}"].read_text())["products"]) for one in example.list
    ]
    assert sizes[0] > sizes[1] > sizes[2] == 0


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        ("LXD 5.0.2 (Linux; x86_64; 6.1.0; Debian GNU/Linux; 12)", "lxd"),
        ("LXD 4.0.9", "lxd"),
        ("LXD 6.1 (Linux; x86_64)", "lxd_restricted"),
        ("LXD 5.21.3 LTS (Linux; x86_64)", "lxd"),
        ("LXD 60.1", "lxd_empty"),
        ("Incus 6.0.4 (Linux; x86_64; 6.1.0; Debian GNU/Linux; 12) (dir 1)", ""),
        ("lxc/5.0.2 compat:7", ""),
    ],
)
def test_its_agents_tell_clients_apart(example, agent: str, name: str) -> None:
    assert next((one.name for one in example.list if re.search(one.agent.pattern, agent)), "") == name


def test_it_polls_as_the_reference_does(example) -> None:
    jenkins = example.jenkins
    assert (jenkins.view, jenkins.jobs, jenkins.log) == ("All", ("image-*",), True)
    assert (jenkins.gate.job, jenkins.gate.scope) == ("test-image", "os")
    assert example.site.keep == 3
    assert example.lxc.levels == (1, 2, 3, 4)
