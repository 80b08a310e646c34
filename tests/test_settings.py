"""publish.toml: what it may say, and the line that each fault gets."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from reference import TABLES_AS_RULES, Tables

from tasks import config as configuration
from tasks.errors import SettingsError
from tasks.settings import (
    Agent,
    Artifacts,
    Axes,
    Day,
    Deltas,
    Gate,
    Jenkins,
    List,
    Lxc,
    Mirror,
    Rule,
    Settings,
    Share,
    Signing,
    Site,
    Snapshot,
    Span,
    is_remote,
)

LIST_NAME = "must be made of letters, digits, '_' and '-', and neither 'images' nor 'index' ('{}')"
SITE = '[site]\nroot = "root"\n'
SIGNING = '[signing]\nkey = "key.asc"\n'
JENKINS = '[jenkins]\nurl = "https://ci.example.org"\n'
FULL = """
[site]
root  = "/srv/images"          # the working tree, snapshots and state live under it
keep  = 3                      # newest images kept for each product
grace = "48h"                  # how long a delisted file stays fetchable
max_shrink = "10%"             # a run that would delist more products than this stops

[jenkins]                      # without this table there is no Jenkins source
url        = "https://jenkins.example.org"
folder     = ""                # "" is the top; "images/nightly" is a folder path
view       = ""                # poll only what this view shows
jobs       = ["image-*"]       # what * matches is the os
path       = ""                # for pipeline and freestyle jobs
user       = "publisher"
token_file = "jenkins-token"   # or the environment variable PUBLISH_JENKINS_TOKEN
unstable   = false             # take UNSTABLE builds as well
downloads  = 4                 # parallel
log        = false             # publish the console log as build.log
[jenkins.axes]                 # which matrix axis is which; other axes are ignored
release = "release"
arch    = "architecture"
variant = "variant"
[jenkins.gate]                 # optional: only builds that a test job passed
job   = "test-image"
image = "image"                # the test job's parameter with the image job's name
build = "build"                # and the one with the tested build's URL
scope = "product"              # or "os"

[signing]
backend = "auto"
key     = "keys/publisher.asc"

[[rules]]                      # first to last, later ones add or override
match  = "ubuntu/noble"        # os[/release[/arch[/variant]]], globs allowed
aliases = ["ubuntu/24.04"]     # release aliases
[[rules]]
match = "alpine"
requirements = { secureboot = "false" }
lxc_min_level = 3              # lowest compat level whose index lists it
[[rules]]
match = "freebsd/*/*/default+zfs"
variant_aliases = ["default", "zfs"]
[[rules]]
match   = "*/*/*/*desktop*"
lxc     = false                # keep it out of the LXC index
[[rules]]
match = "nixos"
clients = ["incus"]            # not listed for LXD

[deltas]
bases = 2                      # deltas from this many earlier images
max_ratio = 0.5                # drop a delta larger than this part of the full file
vm = true

[lxc]
levels = [1, 2, 3, 4]          # compat-level indexes beside the bare one

[snapshot]
backend  = "auto"
keep     = 3                   # a snapshot goes when both limits are passed
keep_for = "48h"

[[mirror]]
name  = "eu1"
url   = "rsync://mirror.example.org/images/"   # or user@host:/path/, or a local path
"""


@dataclasses.dataclass
class Config:
    """A configuration file of its own, outside of a clone of its own."""

    base: Path

    @property
    def clone(self) -> Path:
        return self.base / "clone"

    def read(self, text: str, name: str = "etc/publish.toml") -> Settings:
        path = self.base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self.clone.mkdir(exist_ok=True)
        path.write_text(text)
        return configuration.read(path, self.clone)

    def faults(self, text: str) -> tuple[str, ...]:
        with pytest.raises(SettingsError) as caught:
            self.read(text)
        assert str(caught.value) == "\n".join(caught.value.faults)
        return caught.value.faults


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(tmp_path)


# What is read


def test_the_full_example(config: Config) -> None:
    etc = config.base / "etc"
    assert config.read(FULL) == Settings(
        site=Site(root=Path("/srv/images"), keep=3, grace=Span(172_800), max_shrink=Share(10)),
        jenkins=Jenkins(
            url="https://jenkins.example.org",
            folder="",
            view="",
            jobs=("image-*",),
            path="",
            user="publisher",
            token_file=etc / "jenkins-token",
            ca=None,
            unstable=False,
            downloads=4,
            log=False,
            axes=Axes(release="release", arch="architecture", variant="variant"),
            gate=Gate(job="test-image", image="image", build="build", scope="product"),
        ),
        signing=Signing(key=str(etc / "keys/publisher.asc"), backend="auto"),
        rules=(
            Rule(match="ubuntu/noble", aliases=("ubuntu/24.04",)),
            Rule(match="alpine", requirements={"secureboot": "false"}, lxc_min_level=3),
            Rule(match="freebsd/*/*/default+zfs", variant_aliases=("default", "zfs")),
            Rule(match="*/*/*/*desktop*", lxc=False),
            Rule(match="nixos", clients=("incus",)),
        ),
        deltas=Deltas(bases=2, max_ratio=0.5, vm=True),
        lxc=Lxc(levels=(1, 2, 3, 4)),
        snapshot=Snapshot(backend="auto", keep=3, keep_for=Span(172_800)),
        mirror=(Mirror(name="eu1", url="rsync://mirror.example.org/images/"),),
    )


def test_an_empty_path_is_none(config: Config) -> None:
    found = config.read(SITE + SIGNING + 'passphrase_file = ""\n' + JENKINS + 'token_file = ""\nca = ""\n')
    assert found.jenkins is not None
    assert (found.jenkins.token_file, found.jenkins.ca, found.signing.passphrase_file) == (None, None, None)


def test_the_smallest_file_and_its_defaults(config: Config) -> None:
    etc = config.base / "etc"
    assert config.read(SITE + SIGNING) == Settings(
        site=Site(root=etc / "root", keep=3, grace=Span(172_800), max_shrink=Share(10)),
        signing=Signing(key=str(etc / "key.asc"), backend="auto", passphrase_file=None),
        jenkins=None,
        rules=(),
        lxc=Lxc(levels=(1, 2, 3, 4)),
        snapshot=Snapshot(backend="auto", keep=3, keep_for=Span(172_800)),
        mirror=(),
    )
    assert config.read(SITE + SIGNING + JENKINS).jenkins == Jenkins(
        url="https://ci.example.org",
        folder="",
        view="",
        jobs=("image-*",),
        path="",
        user="",
        token_file=None,
        ca=None,
        unstable=False,
        downloads=4,
        log=False,
        axes=Axes(release="release", arch="architecture", variant="variant"),
        gate=None,
    )


def test_every_value_can_be_another(config: Config) -> None:
    text = """
        [site]
        root = "../tree"
        keep = 1
        grace = "90s"
        max_shrink = "0%"
        [jenkins]
        url = "http://localhost:8080/ci/"
        folder = "images/nightly"
        view = "Images"
        jobs = ["*-image", "vm-*-nightly"]
        path = "{arch}/{release}/{variant}/{file}"
        user = "me"
        token_file = "/run/secrets/token"
        ca = "ca.pem"
        unstable = true
        downloads = 64
        log = true
        [jenkins.axes]
        release = "suite"
        arch = "label"
        variant = "flavour"
        [jenkins.artifacts]
        unified = "*.tar.xz"
        unified_lxd = ""
        unified_vm = "vm-*-1*"
        [jenkins.gate]
        job = "tests/boot"
        image = "IMAGE"
        build = "URL"
        scope = "os"
        [signing]
        key = "../keys/key.asc"
        backend = "sequoia"
        passphrase_file = "pass"
        [[rules]]
        match = "a/b/c/d"
        aliases = ["a/1", "a/2"]
        variant_aliases = ["e"]
        requirements = { cgroup = "v1", nesting = "true" }
        lxd_requirements = { secureboot = "true" }
        lxc = true
        lxc_min_level = 1
        lxc_user_min_level = 9
        clients = []
        [lxc]
        levels = []
        [snapshot]
        backend = "hardlink"
        keep = 10
        keep_for = "7d"
        [[mirror]]
        name = "a"
        url = "web@host.example.org:/srv/images/"
        [[mirror]]
        name = "b-2.c_d"
        url = "../mirror"
    """
    etc = config.base / "etc"
    assert config.read(text) == Settings(
        site=Site(root=etc / "../tree", keep=1, grace=Span(90), max_shrink=Share(0)),
        jenkins=Jenkins(
            url="http://localhost:8080/ci/",
            folder="images/nightly",
            view="Images",
            jobs=("*-image", "vm-*-nightly"),
            path="{arch}/{release}/{variant}/{file}",
            user="me",
            token_file=Path("/run/secrets/token"),
            ca=etc / "ca.pem",
            unstable=True,
            downloads=64,
            log=True,
            axes=Axes(release="suite", arch="label", variant="flavour"),
            artifacts=Artifacts(unified="*.tar.xz", unified_vm="vm-*-1*"),
            gate=Gate(job="tests/boot", image="IMAGE", build="URL", scope="os"),
        ),
        signing=Signing(key=str(etc / "../keys/key.asc"), backend="sequoia", passphrase_file=etc / "pass"),
        rules=(
            Rule(
                match="a/b/c/d",
                aliases=("a/1", "a/2"),
                variant_aliases=("e",),
                requirements={"cgroup": "v1", "nesting": "true"},
                lxd_requirements={"secureboot": "true"},
                lxc=True,
                lxc_min_level=1,
                lxc_user_min_level=9,
                clients=(),
            ),
        ),
        lxc=Lxc(levels=()),
        snapshot=Snapshot(backend="hardlink", keep=10, keep_for=Span(604_800)),
        mirror=(
            Mirror(name="a", url="web@host.example.org:/srv/images/"),
            Mirror(name="b-2.c_d", url=str(etc / "../mirror")),
        ),
    )


def test_the_tables_of_the_reference_can_be_said(config: Config) -> None:
    found = config.read(SITE + SIGNING + TABLES_AS_RULES).rules
    assert len(found) == TABLES_AS_RULES.count("[[rules]]")
    said = {rule.match: rule.aliases for rule in found if rule.aliases}
    assert said == Tables().aliases


def test_paths_are_relative_to_the_file_wherever_we_are(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.read(SITE + SIGNING, "a/b/site.toml")
    monkeypatch.chdir(config.base / "a")
    found = configuration.read(Path("b/site.toml"), config.clone)
    assert found.site.root == config.base / "a/b/root"
    assert found.signing.key == str(config.base / "a/b/key.asc")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0s", 0), ("90s", 90), ("15m", 900), ("48h", 172_800), ("3d", 259_200), ("999999d", 86_399_913_600)],
)
def test_a_length_of_time(text: str, seconds: int) -> None:
    assert Span.parse(text) == Span(seconds)


@pytest.mark.parametrize(
    "text", ["", "48", "h", "1.5h", "-1h", "1 h", "1h ", "1w", "1H", "1h30m", "1000000s"]
)
def test_no_length_of_time(text: str) -> None:
    with pytest.raises(ValueError, match="is no length of time") as caught:
        Span.parse(text)
    assert str(caught.value) == f"{text!r} is no length of time; write it like 90s, 15m, 48h or 3d"


@pytest.mark.parametrize(("text", "percent"), [("0%", 0), ("7%", 7), ("10%", 10), ("100%", 100)])
def test_a_percentage(text: str, percent: int) -> None:
    assert Share.parse(text) == Share(percent)


@pytest.mark.parametrize("text", ["", "%", "10", "101%", "1000%", "-1%", "1.5%", "10 %", "10% "])
def test_no_percentage(text: str) -> None:
    with pytest.raises(ValueError, match="is no percentage") as caught:
        Share.parse(text)
    assert str(caught.value) == f"{text!r} is no percentage; write it like 10%"


# Faults, one line each


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        pytest.param(SIGNING, "site: is missing, and has no default", id="no site"),
        pytest.param(SITE, "signing: is missing, and has no default", id="no signing"),
        pytest.param("[site]\n" + SIGNING, "site.root: is missing, and has no default", id="no root"),
        pytest.param(SITE + "[signing]", "signing.key: is missing, and has no default", id="no key"),
        pytest.param(
            SITE + SIGNING + "[jenkins]", "jenkins.url: is missing, and has no default", id="no URL"
        ),
        pytest.param(
            SITE + SIGNING + JENKINS + "[jenkins.gate]",
            "jenkins.gate.job: is missing, and has no default",
            id="no test job",
        ),
        pytest.param(
            SITE + SIGNING + "[[rules]]", "rules[1].match: is missing, and has no default", id="no match"
        ),
        pytest.param(
            SITE + SIGNING + '[[mirror]]\nname="a"',
            "mirror 'a': url: is missing, and has no default",
            id="no mirror URL",
        ),
        pytest.param(
            SITE + SIGNING + JENKINS + '[jenkins.gate]\njob = "t"\njobb = "t"',
            "jenkins.gate.jobb: unknown key; did you mean 'job'?",
            id="near, deep",
        ),
        pytest.param(
            SITE + SIGNING + "[jenkns]", "jenkns: unknown key; did you mean 'jenkins'?", id="near, top"
        ),
        pytest.param(
            SITE + "kep = 3\n" + SIGNING, "site.kep: unknown key; did you mean 'keep'?", id="near, table"
        ),
        pytest.param(
            SITE + SIGNING + '[[rules]]\nmatch = "a"\n[[rules]]\nmatch = "b"\nalias = ["c"]',
            "rules[2].alias: unknown key; did you mean 'aliases'?",
            id="near, second rule",
        ),
        pytest.param('"a\\nb" = 1\n' + SITE + SIGNING, r"'a\nb': unknown key", id="not printable"),
        pytest.param(SITE + SIGNING + "[zzz]", "zzz: unknown key", id="near nothing"),
        pytest.param("site = 1\n" + SIGNING, "site: must be a table", id="no table"),
        pytest.param("jenkins = []\n" + SITE + SIGNING, "jenkins: must be a table", id="list, no table"),
        pytest.param(
            'rules = ["a"]\n' + SITE + SIGNING, "rules[1]: must be a table", id="no table in a list"
        ),
        pytest.param(
            SITE + SIGNING + '[rules]\nmatch = "a"',
            "rules: expected array, got object",
            id="a table, no list",
        ),
    ],
)
def test_faults_of_structure(config: Config, text: str, fault: str) -> None:
    assert config.faults(text) == (f"publish.toml: {fault}",)


@pytest.mark.parametrize(
    ("where", "value", "fault"),
    [
        ("site.root", "5", "expected str, got int (5)"),
        ("site.root", "['a']", "expected str, got list"),
        ("site.root", "''", "must be a path ('')"),
        ("site.root", '"a\\u0000b"', r"must be a path ('a\x00b')"),
        ("site.keep", "0", "expected int >= 1 (0)"),
        ("site.keep", "'3'", "expected int, got str ('3')"),
        ("site.keep", "true", "expected int, got bool (True)"),
        ("site.keep", "1.5", "expected int, got float"),
        ("site.grace", "48", "'48' is no length of time; write it like 90s, 15m, 48h or 3d"),
        ("site.grace", "'2 days'", "'2 days' is no length of time; write it like 90s, 15m, 48h or 3d"),
        ("site.max_shrink", "10", "'10' is no percentage; write it like 10%"),
        ("site.max_shrink", "'101%'", "'101%' is no percentage; write it like 10%"),
        ("jenkins.url", "''", "must be an http:// or https:// URL without user ('')"),
        (
            "jenkins.url",
            "'ci.example.org'",
            "must be an http:// or https:// URL without user ('ci.example.org')",
        ),
        ("jenkins.url", "'ftp://ci'", "must be an http:// or https:// URL without user ('ftp://ci')"),
        ("jenkins.url", "'https://'", "must be an http:// or https:// URL without user ('https://')"),
        (
            "jenkins.url",
            "'https://me:secret@ci'",
            "must be an http:// or https:// URL without user ('https://me:secret@ci')",
        ),
        (
            "jenkins.url",
            "'https://ci/?tree=a'",
            "must be an http:// or https:// URL without user ('https://ci/?tree=a')",
        ),
        (
            "jenkins.url",
            '"https://ci\\n"',
            r"must be an http:// or https:// URL without user ('https://ci\n')",
        ),
        ("jenkins.url", "'https://c i'", "must be an http:// or https:// URL without user ('https://c i')"),
        ("jenkins.url", "'https://ci#a'", "must be an http:// or https:// URL without user ('https://ci#a')"),
        ("jenkins.folder", "1", "expected str, got int (1)"),
        (
            "jenkins.artifacts.unified",
            "'a/*.xz'",
            "must be a file name in which only '*' is special ('a/*.xz')",
        ),
        ("jenkins.artifacts.unified_lxd", "'a?'", "must be a file name in which only '*' is special ('a?')"),
        (
            "jenkins.artifacts.unified_vm",
            "'[ab]*'",
            "must be a file name in which only '*' is special ('[ab]*')",
        ),
        ("jenkins.artifacts.unified", "['*']", "expected str, got array"),
        ("jenkins.jobs", "'image-*'", "expected array, got str ('image-*')"),
        ("jenkins.jobs", "[]", "expected array of length >= 1"),
        ("jenkins.jobs", "['']", "expected str of length >= 1"),
        ("jenkins.jobs", "['image']", "'image' must have one '*', which stands for the os"),
        ("jenkins.jobs", "['a*', '*-b-*']", "'*-b-*' must have one '*', which stands for the os"),
        (
            "jenkins.jobs",
            "['image-[a-z]*']",
            "'image-[a-z]*': only '*' is special, and folders go to jenkins.folder",
        ),
        ("jenkins.jobs", "['imag?-*']", "'imag?-*': only '*' is special, and folders go to jenkins.folder"),
        (
            "jenkins.jobs",
            "['a/image-*']",
            "'a/image-*': only '*' is special, and folders go to jenkins.folder",
        ),
        (
            "jenkins.path",
            "'{realease}/{file}'",
            "{realease} is none of os, release, arch, variant, file, each once",
        ),
        ("jenkins.path", "'{}/{file}'", "{} is none of os, release, arch, variant, file, each once"),
        (
            "jenkins.path",
            "'{arch}/{arch}-{file}'",
            "{arch} is none of os, release, arch, variant, file, each once",
        ),
        ("jenkins.path", "'{arch}'", 'must end in {file}, like "{arch}/{release}/{variant}/{file}"'),
        ("jenkins.path", "'{file}/'", 'must end in {file}, like "{arch}/{release}/{variant}/{file}"'),
        ("jenkins.token_file", "false", "expected str, got bool (False)"),
        ("jenkins.unstable", "'no'", "expected bool, got str ('no')"),
        ("jenkins.unstable", "0", "expected bool, got int (0)"),
        ("jenkins.downloads", "0", "expected int >= 1 (0)"),
        ("jenkins.downloads", "65", "expected int <= 64 (65)"),
        ("jenkins.axes.arch", "''", "expected str of length >= 1 ('')"),
        ("jenkins.axes", "'arch'", "must be a table"),
        ("jenkins.gate", "'test-image'", "must be a table"),
        ("jenkins.gate", "{ job = '' }", "expected str of length >= 1 ('')"),
        ("jenkins.gate", "{ job = 't', scope = 'job' }", "'job' is not one of 'product', 'os'"),
        ("signing.backend", "'pgp'", "'pgp' is not one of 'auto', 'gpg', 'sequoia'"),
        ("signing.backend", "1", "1 is not one of 'auto', 'gpg', 'sequoia'"),
        ("signing.backend", "['gpg']", "['gpg'] is not one of 'auto', 'gpg', 'sequoia'"),
        ("signing.key", "''", "expected str of length >= 1 ('')"),
        ("signing.key", '"a\\u0000b"', r"must be a path ('a\x00b')"),
        ("signing.key", "'~nobody-at-all/key'", "is at the home of nobody ('~nobody-at-all/key')"),
        ("signing.passphrase_file", "1", "expected str, got int (1)"),
        ("deltas.bases", "-1", "expected int >= 0 (-1)"),
        ("deltas.bases", "10", "expected int <= 9 (10)"),
        ("deltas.max_ratio", "0", "expected float > 0.0"),
        ("deltas.max_ratio", "1.1", "expected float <= 1.0"),
        ("deltas.vm", "1", "expected bool, got int (1)"),
        ("list.name", "'images'", LIST_NAME.removesuffix(" ('{}')")),
        ("list.name", "'index'", LIST_NAME.removesuffix(" ('{}')")),
        ("list.name", "''", LIST_NAME.format("")),
        ("list.name", "'a.b'", LIST_NAME.format("a.b")),
        ("list.name", "'a/b'", LIST_NAME.format("a/b")),
        ("list.name", "'..'", LIST_NAME.format("..")),
        ("list.name", "'-a'", LIST_NAME.format("-a")),
        ("list.name", '"a\\n"', LIST_NAME.format(r"a\n")),
        ("list.name", "'ä'", LIST_NAME.format("ä")),
        ("list.client", "'lxc'", "'lxc' is not one of 'incus', 'lxd'"),
        ("list.match", "'debian'", "expected array, got str ('debian')"),
        ("list.match", "['debian/']", "'debian/' has an empty part, so it fits nothing"),
        ("list.match", "['a/b/c/d/e']", "has more than os/release/arch/variant"),
        *(
            (
                "list.agent",
                f"'{text}'" if "\n" not in text else '"a\\nb"',
                f"{text!r} is no regular expression like '^LXD ': {why}",
            )
            for text, why in (
                ("[a", "unterminated character set at position 0"),
                ("a(", "missing ), unterminated subpattern at position 1"),
                ("", "it must be one line of ASCII, of 1 to 1000 characters"),
                ("ä", "it must be one line of ASCII, of 1 to 1000 characters"),
                ("a\nb", "it must be one line of ASCII, of 1 to 1000 characters"),
                (r"a\Z", r"not every web server reads '\\Z' so"),
                (r"\\\N{DIGIT ONE}", r"not every web server reads '\\N' so"),
                ("(?P<host>a)", "not every web server reads '(?P' so"),
                ("[a||b]", "Possible set union at position 2"),
                ("[[:alpha:]]", "not every web server reads '[[' so"),
                ("a[==]", "not every web server reads '[==]' so"),
                ("[.b.]", "not every web server reads '[.b.]' so"),
                (r"[:\]:]", "not every web server reads '[::]' so"),
                (r"[=\=]", "not every web server reads '[=\\\\=]' so"),
                ("a{,3}", "not every web server reads '{,' so"),
                ("a++", "not every web server reads '++' so"),
            )
        ),
        ("lxc.levels", "4", "expected array, got int (4)"),
        ("lxc.levels", "[0]", "expected int >= 1"),
        ("lxc.levels", "[10]", "expected int <= 9"),
        ("snapshot.backend", "'zfs2'", "'zfs2' is not one of 'auto', 'btrfs', 'zfs', 'cephfs', 'hardlink'"),
        ("snapshot.keep", "0", "expected int >= 1 (0)"),
        ("snapshot.keep_for", "''", "'' is no length of time; write it like 90s, 15m, 48h or 3d"),
        ("rules.match", "''", "expected str of length >= 1 ('')"),
        ("rules.match", "'a/b/c/d/e'", "has more than os/release/arch/variant"),
        ("rules.match", "'debian/'", "'debian/' has an empty part, so it fits nothing"),
        ("rules.match", "'/trixie'", "'/trixie' has an empty part, so it fits nothing"),
        ("rules.aliases", "'debian/13'", "expected array, got str ('debian/13')"),
        ("rules.aliases", "['']", "must be a name like debian/12"),
        ("rules.variant_aliases", "[1]", "expected str, got int"),
        ("rules.requirements", "{ secureboot = false }", "expected str, got bool"),
        ("rules.requirements", "['secureboot']", "expected object, got array"),
        ("rules.lxd_requirements", "{ a = 1 }", "expected str, got int"),
        ("rules.lxc", "'no'", "expected bool, got str ('no')"),
        ("rules.lxc_min_level", "0", "expected int >= 1 (0)"),
        ("rules.lxc_min_level", "10", "expected int <= 9 (10)"),
        ("rules.lxc_user_min_level", "0", "expected int >= 1 (0)"),
        ("rules.clients", "'incus'", "expected array, got str ('incus')"),
        ("rules.clients", "['incuss']", "invalid enum value 'incuss'; known are 'incus', 'lxd'"),
        ("rules.os", "''", "must be one line without blanks at its ends ('')"),
        ("rules.os", "'AlmaLinux '", "must be one line without blanks at its ends ('AlmaLinux ')"),
        ("rules.release_title", "' 9'", "must be one line without blanks at its ends (' 9')"),
        (
            "rules.release_title",
            '"9\\n10"',
            r"must be one line without blanks at its ends ('9\n10')",
        ),
        ("rules.os", "7", "expected str, got int (7)"),
        *(
            ("rules.support_eol", text, f"{said!r} is no day; write it like 2030-04-30")
            for text, said in (
                ("'2030-02-29'", "2030-02-29"),
                ("'20300430'", "20300430"),
                ("'2030-W17-2'", "2030-W17-2"),
                ("'2030-4-30'", "2030-4-30"),
                ("''", ""),
                ("' 2030-04-30'", " 2030-04-30"),
                ("'٢٠٣٠-04-30'", "٢٠٣٠-04-30"),
                ("1903737600", "1903737600"),
                ("2030-04-30T00:00:00", "2030-04-30 00:00:00"),
            )
        ),
        ("upstream.kinds", "['vms']", "invalid enum value 'vms'; known are 'container', 'vm'"),
        ("mirror.name", "''", "must be made of letters, digits, '.', '_' and '-' ('')"),
        ("mirror.name", '"a\\n"', r"must be made of letters, digits, '.', '_' and '-' ('a\n')"),
        ("mirror.name", "'a/b'", "must be made of letters, digits, '.', '_' and '-' ('a/b')"),
        ("mirror.name", "'-a'", "must be made of letters, digits, '.', '_' and '-' ('-a')"),
        ("mirror.name", "'..'", "must be made of letters, digits, '.', '_' and '-' ('..')"),
        ("mirror.url", "''", "must be a path or an rsync URL ('')"),
        ("mirror.url", "'--delete'", "must be a path or an rsync URL ('--delete')"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_faults_of_values(config: Config, where: str, value: str, fault: str) -> None:
    lines = {
        "site": ["root = 'root'"],
        "signing": ["key = 'key'"],
        "jenkins": ["url = 'https://ci'"],
        "rules": ["match = 'a'"],
        "mirror": ["name = 'a'", "url = 'b'"],
        "list": ["name = 'a'", "client = 'lxd'"],
        "upstream": ["name = 'a'", "url = 'https://b'", "keyring = 'ring'"],
    }
    *tables, key = where.split(".")
    table = ".".join(tables)
    own = [line for line in lines.get(table, []) if not line.startswith(f"{key} ")]
    lines |= {table: [*own, f"{key} = {value}"]}
    many = ("rules", "mirror", "list", "upstream")
    heads = {name: f"[[{name}]]" if name in many else f"[{name}]" for name in lines}
    text = "\n".join(f"{heads[name]}\n" + "\n".join(lines[name]) for name in lines)
    numbered = re.sub(rf"^({'|'.join(many)})\.", r"\1[1].", where)
    if table in many[1:] and key != "name":
        numbered = f"{table} 'a': {key}"
    told = {"{ job = ''": "jenkins.gate.job", "{ job = 't'": "jenkins.gate.scope"}
    numbered = next((told[start] for start in told if value.startswith(start)), numbered)
    assert config.faults(text) == (f"publish.toml: {numbered}: {fault}",)


def test_lists(config: Config) -> None:
    agents = ["^LXD ", r"^(?i)x\\.y".replace("^(?i)", "(?i)^"), r'a"b;{2}c$\'d\\\\u']
    text = "".join(
        f"[[list]]\nname = 'l{at}'\nclient = 'lxd'\nagent = {json.dumps(agent)}\n"
        for at, agent in enumerate(agents)
    )
    found = config.read(f"{SITE}{SIGNING}{text}[[list]]\nname = 'none'\nclient = 'incus'\nmatch = []\n").list
    assert found == (
        *(List(name=f"l{at}", client="lxd", agent=Agent(agent)) for at, agent in enumerate(agents)),
        List(name="none", client="incus", match=(), agent=None),
    )
    twice = "[[list]]\nname = 'a'\nclient = 'lxd'\n" * 2
    assert config.faults(SITE + SIGNING + twice) == (
        "publish.toml: list: two lists are called 'a'; names must differ",
    )


@pytest.mark.parametrize("day", ["'2030-04-30'", "2030-04-30"])
def test_what_clients_show(config: Config, day: str) -> None:
    text = f'{SITE}{SIGNING}[[rules]]\nmatch = "a"\nos = "A b"\nrelease_title = "ä"\nsupport_eol = {day}\n'
    (rule,) = config.read(text).rules
    assert rule == Rule(match="a", os="A b", release_title="ä", support_eol=Day("2030-04-30"))


@pytest.mark.parametrize("field", ["aliases", "variant_aliases"])
@pytest.mark.parametrize(
    "alias", ["a b", " a", "a ", "a,b", "a\\t", "-a", ".a", "/a", "a/", "a//b", "ä", "a:b", "a\\n"]
)
def test_an_alias_that_clients_could_not_use(config: Config, field: str, alias: str) -> None:
    text = f'{SITE}{SIGNING}[[rules]]\nmatch = "a"\n{field} = ["good", "{alias}"]'
    assert config.faults(text) == (f"publish.toml: rules[1].{field}: must be a name like debian/12",)


@pytest.mark.parametrize("alias", ["a", "debian/12", "a/b/c", "0", "a.b-c_d+e~f", "a/.b"])
def test_an_alias(config: Config, alias: str) -> None:
    (rule,) = config.read(f"{SITE}{SIGNING}[[rules]]\nmatch = 'a'\naliases = ['{alias}']").rules
    assert rule.aliases == (alias,)


def test_faults_come_in_the_order_of_the_file(config: Config) -> None:
    names = [f"x{number}" for number in range(20)]
    text = SITE + "".join(f"{name} = 1\n" for name in names) + SIGNING
    assert config.faults(text) == tuple(f"publish.toml: site.{name}: unknown key" for name in names)


def test_many_faults_are_told_at_once(config: Config) -> None:
    text = """
        [site]
        kepe = 3
        grace = "soon"
        [jenkins]
        url = "ci.example.org"
        downloads = 0
        [jenkins.gate]
        jobb = "test-image"
        [signing]
        key = "k"
        backend = "openssl"
        [[rules]]
        match = "a"
        lxc = "no"
        [[rules]]
        aliases = [1]
        [[mirror]]
        name = "a b"
        url = "b"
    """
    assert sorted(config.faults(text)) == [
        "publish.toml: jenkins.downloads: expected int >= 1 (0)",
        "publish.toml: jenkins.gate.job: is missing, and has no default",
        "publish.toml: jenkins.gate.jobb: unknown key; did you mean 'job'?",
        "publish.toml: jenkins.url: must be an http:// or https:// URL without user ('ci.example.org')",
        "publish.toml: mirror[1].name: must be made of letters, digits, '.', '_' and '-' ('a b')",
        "publish.toml: rules[1].lxc: expected bool, got str ('no')",
        "publish.toml: rules[2].aliases: expected str, got int",
        "publish.toml: rules[2].match: is missing, and has no default",
        "publish.toml: signing.backend: 'openssl' is not one of 'auto', 'gpg', 'sequoia'",
        "publish.toml: site.grace: 'soon' is no length of time; write it like 90s, 15m, 48h or 3d",
        "publish.toml: site.kepe: unknown key; did you mean 'keep'?",
        "publish.toml: site.root: is missing, and has no default",
    ]


def test_many_faults_of_meaning_are_told_at_once(config: Config) -> None:
    text = SITE + JENKINS.replace("\n", "\njobs = ['a', 'b']\npath = '{file}.gz'\n", 1)
    text += "[signing]\nkey = '../clone/key'\n[[rules]]\nmatch = 'a/b/c/d/e'\n"
    text += "[[mirror]]\nname = 'eu'\nurl = 'a'\n" * 2
    assert sorted(config.faults(text)) == [
        "publish.toml: jenkins.jobs: 'a' must have one '*', which stands for the os",
        "publish.toml: jenkins.jobs: 'b' must have one '*', which stands for the os",
        'publish.toml: jenkins.path: must end in {file}, like "{arch}/{release}/{variant}/{file}"',
        "publish.toml: mirror: two mirrors are called 'eu'; names must differ",
        "publish.toml: rules[1].match: has more than os/release/arch/variant",
        f"publish.toml: signing.key: {config.base}/etc/../clone/key is inside the clone; keep the secret key elsewhere",
    ]


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        pytest.param(b"[site\n", "Expected ']' at the end of a table declaration (at line 1, column 6)", id="syntax"),
        pytest.param(b"[site]\n[site]\n", "Cannot declare ('site',) twice (at line 2, column 6)", id="twice"),
        pytest.param(b"a = " + b"[" * 5000, "maximum recursion depth exceeded", id="deep"),
        pytest.param(
            b"a = " + b"9" * 5000,
            "Exceeds the limit (4300 digits) for integer string conversion: value has 5000 digits;"
            " use sys.set_int_max_str_digits() to increase the limit",
            id="long",
        ),
        pytest.param(b"\xff", "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte", id="no UTF-8"),
    ],
)  # fmt: skip
def test_what_is_no_toml(tmp_path: Path, data: bytes, fault: str) -> None:
    path = tmp_path / "site.toml"
    path.write_bytes(data)
    with pytest.raises(SettingsError) as caught:
        configuration.read(path, tmp_path)
    assert caught.value.faults == (f"site.toml: {fault}",)


@pytest.mark.parametrize(
    ("name", "why"), [("missing.toml", "No such file or directory"), ("", "Is a directory")]
)
def test_what_is_no_file(tmp_path: Path, name: str, why: str) -> None:
    path = tmp_path / name
    with pytest.raises(SettingsError) as caught:
        configuration.read(path, tmp_path)
    assert caught.value.faults == (f"{path}: cannot be read: {why}",)


WORDS = st.text(max_size=5)
KEYS = st.text(max_size=5)
VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats() | WORDS | st.datetimes() | st.dates() | st.times(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=2),
    max_leaves=4,
)
PLACES = [
    (record, field.name)
    for record in (Settings, Site, Jenkins, Axes, Gate, Signing, Rule, Lxc, Snapshot, Mirror)
    for field in msgspec.structs.fields(record)
]


@hypothesis(max_examples=200, deadline=None)
@given(st.sampled_from(PLACES), VALUES)
def test_no_value_anywhere_is_a_traceback(place: tuple[type[msgspec.Struct], str], value: object) -> None:
    """A record comes out, or faults do, each of them one line."""
    record, field = place
    reader = configuration._Reader("publish.toml", Path("/etc"))
    found = reader.record(record, {field: value}, "")
    assert (found is None) == bool(reader.faults)
    assert all(re.fullmatch(r"publish\.toml: [^\n]+: [^\n]+", fault) for fault in reader.faults)


# The key and its place


def inside(base: Path) -> str:
    return "../clone/key.asc"


def inside_by_its_full_name(base: Path) -> str:
    return str(base / "clone/keys/deep/key.asc")


def inside_through_a_link(base: Path) -> str:
    (base / "etc").mkdir()
    (base / "etc/link").symlink_to(base / "clone")
    return "link/key.asc"


def a_link_to_a_key_inside(base: Path) -> str:
    (base / "etc").mkdir()
    (base / "clone").mkdir()
    (base / "clone/key.asc").touch()
    (base / "etc/key").symlink_to("../clone/key.asc")
    return "key"


def the_clone_itself(base: Path) -> str:
    return "../clone"


@pytest.mark.parametrize(
    "place",
    [inside, inside_by_its_full_name, inside_through_a_link, a_link_to_a_key_inside, the_clone_itself],
)
def test_a_key_inside_the_clone_is_refused(config: Config, place: Callable[[Path], str]) -> None:
    key = place(config.base)
    (fault,) = config.faults(SITE + f'[signing]\nkey = "{key}"')
    assert fault == (
        f"publish.toml: signing.key: {config.base / 'etc' / key} is inside the clone; keep the secret key elsewhere"
    )


def test_a_clone_that_is_reached_through_a_link_is_the_same_clone(config: Config) -> None:
    config.read(SITE + SIGNING)
    (config.base / "link").symlink_to(config.clone)
    (config.base / "etc/publish.toml").write_text(SITE + "[signing]\nkey = '../clone/key.asc'")
    with pytest.raises(SettingsError, match="is inside the clone"):
        configuration.read(config.base / "etc/publish.toml", config.base / "link")


@pytest.mark.parametrize("key", ["../clone-2/key.asc", "key.asc", "../clone/../key.asc"])
def test_a_key_outside_the_clone_is_taken(config: Config, key: str) -> None:
    assert config.read(SITE + f'[signing]\nkey = "{key}"').signing.key == str(config.base / "etc" / key)


FINGERPRINT = "0123456789ABCDEF0123456789ABCDEF01234567"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (FINGERPRINT, True),
        (FINGERPRINT.lower(), True),
        (f"0x{FINGERPRINT}", True),
        (f"{FINGERPRINT}!", True),
        (FINGERPRINT[-16:], True),
        (FINGERPRINT[-8:], False),
        (FINGERPRINT[:-1], False),
        (f"{FINGERPRINT}0", False),
        (f"{FINGERPRINT}!!", False),
        (f"{FINGERPRINT}.asc", False),
        (f"keys/{FINGERPRINT}", False),
        (f"{FINGERPRINT}\n", False),
    ],
)
def test_what_names_a_key_of_gpg(key: str, expected: bool) -> None:
    assert Signing(key=key).is_fingerprint is expected


@pytest.mark.parametrize(
    ("key", "backend", "expected"),
    [
        (FINGERPRINT, "auto", True),
        (FINGERPRINT, "gpg", True),
        (FINGERPRINT, "sequoia", False),
        ("key.asc", "auto", False),
        ("key.asc", "sequoia", False),
    ],
)
def test_who_signs(key: str, backend: str, expected: bool) -> None:
    assert Signing(key=key, backend=backend).uses_gpg is expected


@pytest.mark.parametrize("backend", ["auto", "gpg"])
def test_a_fingerprint_is_no_path(config: Config, backend: str) -> None:
    text = f'{SITE}[signing]\nkey = "{FINGERPRINT}"\nbackend = "{backend}"'
    assert config.read(text).signing.key == FINGERPRINT


def test_a_file_with_the_name_of_a_fingerprint_can_be_meant(config: Config) -> None:
    text = f'{SITE}[signing]\nkey = "{FINGERPRINT}"\nbackend = "sequoia"'
    assert config.read(text).signing.key == str(config.base / "etc" / FINGERPRINT)


def test_gpg_needs_a_fingerprint(config: Config) -> None:
    assert config.faults(SITE + '[signing]\nkey = "key.asc"\nbackend = "gpg"') == (
        "publish.toml: signing.key: the gpg back end needs a fingerprint of 16 or 40 hex digits",
    )


# Secrets


SECRETS = [
    pytest.param(
        "PUBLISH_JENKINS_TOKEN",
        lambda file: Jenkins(url="https://ci", token_file=file).token,
        "jenkins.token_file",
        id="token",
    ),
    pytest.param(
        "PUBLISH_SIGNING_PASSPHRASE",
        lambda file: Signing(key="k", passphrase_file=file).passphrase,
        "signing.passphrase_file",
        id="passphrase",
    ),
]


@pytest.mark.parametrize(("variable", "secret", "name"), SECRETS)
def test_where_a_secret_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, secret: Callable, name: str
) -> None:
    monkeypatch.delenv(variable, raising=False)
    file = tmp_path / "secret"
    assert secret(None)() == ""
    with pytest.raises(SettingsError) as caught:
        secret(file)()
    assert str(caught.value) == f"{name}: {file} cannot be read: No such file or directory"
    file.write_text(" from the file \n")
    assert secret(file)() == "from the file"
    monkeypatch.setenv(variable, "from the environment")
    assert secret(file)() == "from the environment"
    assert secret(None)() == "from the environment"
    monkeypatch.setenv(variable, "")
    assert secret(file)() == "from the file"


# Mirrors


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("rsync://host/module/", True),
        ("host::module/path", True),
        ("host:/path/", True),
        ("me@host:path", True),
        ("/srv/mirror", False),
        ("/srv/a:b", False),
        ("./a:b", False),
        ("mirror", False),
        ("mirror/a:b", False),
    ],
)
def test_which_mirrors_are_elsewhere(config: Config, url: str, expected: bool) -> None:
    assert is_remote(url) is expected
    (mirror,) = config.read(f"{SITE}{SIGNING}[[mirror]]\nname = 'a'\nurl = '{url}'").mirror
    assert mirror.url == (url if expected else str(config.base / "etc" / url))


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("root", "site.root {base}/etc/root"),
        ("root/", "site.root {base}/etc/root"),
        ("root/site/public", "site.root {base}/etc/root"),
        ("root/latest", "site.root {base}/etc/root"),
        (".", "site.root {base}/etc/root"),
        ("link", "site.root {base}/etc/root"),
        ("x/../root", "site.root {base}/etc/root"),
        ("../clone", "the checkout {base}/clone"),
        ("../clone/x", "the checkout {base}/clone"),
    ],
)
def test_a_mirror_must_not_touch_what_is_ours(config: Config, url: str, what: str) -> None:
    """Rsync would delete it: the site does not know it, and its site-id is right there."""
    (config.base / "etc/root").mkdir(parents=True)
    (config.base / "etc/link").symlink_to("root")
    assert config.faults(f"{SITE}{SIGNING}[[mirror]]\nname = 'eu'\nurl = '{url}'") == (
        f"publish.toml: mirror 'eu': url: {config.base / 'etc' / url} and {what.format(base=config.base)} must lie apart",
    )


def test_a_mirror_above_both(config: Config) -> None:
    assert len(config.faults(f"{SITE}{SIGNING}[[mirror]]\nname = 'eu'\nurl = '..'")) == 2


@pytest.mark.parametrize("url", ["root2", "../root", "../clone2", "host:root"])
def test_a_mirror_beside_the_site(config: Config, url: str) -> None:
    assert config.read(f"{SITE}{SIGNING}[[mirror]]\nname = 'eu'\nurl = '{url}'").mirror


def mirrors(*rows: str) -> str:
    """A configuration with mirrors a, b, …; each row begins with the value of its url."""
    named = zip("abcdef", rows, strict=False)
    return SITE + SIGNING + "".join(f"[[mirror]]\nname = '{name}'\nurl = {row}\n" for name, row in named)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("m", "m"),
        ("m", "m/"),
        ("m", "./m/."),
        ("m", "m/inside"),
        ("m/inside", "m"),
        ("m", "link"),
        ("m/inside", "link"),
        ("rsync://h/m/", "rsync://h/m/"),
        ("rsync://h/m/", "rsync://h/m"),
        ("rsync://h/m/", "rsync://H:873/m//"),
        ("rsync://h/m/", "rsync://me@h/m/"),
        ("rsync://h/m/", "h::m"),
        ("h::m", "me@H::m/eu"),
        ("rsync://[::1]:874/m", "rsync://[::1]:874/m/a"),
        ("h:/m", "H:/m/"),
        ("h:/m", "h:/m//./x"),
        ("h:/m", "h:/a/../m"),
        ("h:/m", "h:/"),
        ("me@[::1]:m", "me@[::1]:m/x"),
        ("h:m", "h:."),
    ],
)
def test_no_mirror_may_lie_in_another(config: Config, one: str, other: str) -> None:
    """Each would delete what the other one has."""
    (config.base / "etc/m").mkdir(parents=True)
    (config.base / "etc/link").symlink_to("m")
    shown = [url if is_remote(url) else str(config.base / "etc" / url) for url in (one, other)]
    assert config.faults(mirrors(f"'{one}'", f"'{other}'")) == (
        f"publish.toml: mirrors 'a' and 'b': url: {shown[0]} and {shown[1]} must lie apart",
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("'m'", "'m2'"),
        ("'m/a'", "'m/b'"),
        ("'rsync://h/m'", "'rsync://h/m2'"),
        ("'rsync://h/m'", "'rsync://h:874/m'"),
        ("'rsync://h/m'", "'rsync://h2/m'"),
        ("'rsync://h/m'", "'h:/m'"),
        ("'h:/m'", "'h:m'"),
        ("'h:/m'", "'h2:/m'"),
        ("'a@h:/'", "'b@h:/'"),
        ("'h:/m'\nssh = '-p 2222'", "'h:/m'\nssh = '-p 2223'"),
        ("'h:/m'", "'/m'"),
    ],
)
def test_mirrors_that_lie_apart(config: Config, one: str, other: str) -> None:
    assert len(config.read(mirrors(one, other)).mirror) == 2


NO_WAY = "; write rsync://host/module/, user@host:/path/, or a local path"


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("https://h/m/", f"rsync does not understand https://{NO_WAY}"),
        ("ssh://me@h:2222/m/", f"rsync does not understand ssh://{NO_WAY}"),
        ("RSYNC://h/m/", f"rsync does not understand RSYNC://{NO_WAY}"),
        *(
            (url, f"{url} names no module: write rsync://host/module/")
            for url in ("rsync://h", "rsync://h/", "rsync://h//m", "rsync://me@h:873/", "h::", "me@h::/m")
        ),
        *((url, f"{url} names no directory: write user@host:/path/") for url in ("h:", "me@h:", "[::1]:")),
        *(
            (url, "holds a password, and urls are shown: write rsync://user@host/module/ and password_file")
            for url in ("rsync://me:secret@h/m/", "rsync://:secret@h/m", "me:secret@h::m", "me:secret@h:/m")
        ),
        *(
            (url, f"{url} has no host or port that could be{NO_WAY}")
            for url in (
                *("rsync:///m", "rsync://h:/m", "rsync://h:x/m", "rsync://h:0/m", "rsync://h:65536/m"),
                *(":m", "::m", "me@:/m", "a b:/m", "me@-oX:/m", "rsync://h:99999999999999999999/m"),
            )
        ),
        ("h:/a\\nb", "holds a control character"),
        ("rsync://h/m\\u0000", "holds a control character"),
    ],
)
def test_an_address_that_could_never_work(config: Config, url: str, fault: str) -> None:
    (told,) = config.faults(mirrors(f'"{url}"'))
    assert told == f"publish.toml: mirror 'a': url: {fault}"
    assert "secret" not in told


@pytest.mark.parametrize(
    "url", ["rsync://fe80.example:22/m", "h::m", "me@[fe80::1%eth0]:/m", "h:me@there/x", "me@ad@h:m", "ä:/m"]
)
def test_an_address_that_may_work(config: Config, url: str) -> None:
    (mirror,) = config.read(mirrors(f"'{url}'")).mirror
    assert mirror.url == url


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("'m'\nssh = '-p 2'", "ssh: is for user@host:/path/ alone, and url is {etc}/m"),
        ("'rsync://h/m'\nssh = '-p 2'", "ssh: is for user@host:/path/ alone, and url is rsync://h/m"),
        ("'h:/m'\nssh = \"-i 'a b\"", "ssh: has a quotation mark that is not closed"),
        ("'h:/m'\nssh = '-i \"'", "ssh: has a quotation mark that is not closed"),
        (
            "'h:/m'\npassword_file = 'x'",
            "password_file: is for rsync://user@host/module/ alone, and url is h:/m",
        ),
        (
            "'m'\npassword_file = 'x'",
            "password_file: is for rsync://user@host/module/ alone, and url is {etc}/m",
        ),
        ("'m'\nca = 'x'", "ca: is for probe, which is not given"),
        ("'m'\nbandwidth = '0.4K'", "bandwidth: 0.4K is less than the 512 bytes a second that rsync takes"),
        ("'m'\nbandwidth = 'fast'", "bandwidth: must be bytes a second, like 20M ('fast')"),
    ],
)
def test_what_is_said_of_a_mirror_in_vain(config: Config, row: str, fault: str) -> None:
    told = f"publish.toml: mirror 'b': {fault.format(etc=config.base / 'etc')}"
    assert config.faults(mirrors("'other'", row)) == (told,)


@pytest.mark.parametrize(
    "row",
    [
        "'h:/m'\nssh = '''-i \"a b\" -o X='c \"d' '''",
        "'me@h::m'\npassword_file = 'x'",
        "'rsync://h/m'\npassword_file = 'x'",
        "'m'\nprobe = 'https://h'\nca = 'x'",
        "'m'\nbandwidth = '0'",
        "'m'\nbandwidth = '0.5K'",
        "'m'\nbandwidth = '1'",
        "'m'\ntimeout = '0s'",
        "'m'\ngroup = 'alone'",
    ],
)
def test_what_is_said_of_a_mirror_with_a_meaning(config: Config, row: str) -> None:
    assert config.read(mirrors(row)).mirror


def test_a_fault_without_a_proper_name_is_told_by_its_number(config: Config) -> None:
    row = "[[mirror]]\nurl = 'b'\nflip = 1\n"
    assert config.faults(SITE + SIGNING + row + row.replace("'b'", "'c'\nname = 'a b'")) == (
        "publish.toml: mirror[1].name: is missing, and has no default",
        "publish.toml: mirror[1].flip: expected bool, got int (1)",
        "publish.toml: mirror[2].name: must be made of letters, digits, '.', '_' and '-' ('a b')",
        "publish.toml: mirror[2].flip: expected bool, got int (1)",
    )


def test_mirrors_of_one_name_are_told_in_their_order(config: Config) -> None:
    rows = "".join(f"[[mirror]]\nname = '{name}'\nurl = 'm{at}'\n" for at, name in enumerate("cabxcab"))
    assert config.faults(SITE + SIGNING + rows) == tuple(
        f"publish.toml: mirror: two mirrors are called {name!r}; names must differ" for name in "abc"
    )


@pytest.mark.parametrize("root", ["../clone", "../clone/x", "..", "link", "link/x"])
def test_the_site_must_not_touch_the_checkout(config: Config, root: str) -> None:
    (config.base / "etc").mkdir()
    (config.base / "etc/link").symlink_to("../clone")
    where = config.base / "etc" / root
    assert config.faults(f'[site]\nroot = "{root}"\n{SIGNING}') == (
        f"publish.toml: site.root: {where} and the checkout {config.clone} must lie apart",
    )


def test_the_site_must_not_touch_a_checkout_behind_a_link(config: Config) -> None:
    config.read(SITE + SIGNING)
    (config.base / "link").symlink_to("clone")
    (config.base / "etc/publish.toml").write_text(f'[site]\nroot = "../clone"\n{SIGNING}')
    with pytest.raises(SettingsError, match="must lie apart"):
        configuration.read(config.base / "etc/publish.toml", config.base / "link")


def test_a_path_at_home(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(config.base / "home"))
    text = '[site]\nroot = "~/images"\n[signing]\nkey = "~/key"\n[[mirror]]\nname = "a"\nurl = "~/mirror"'
    found = config.read(text)
    assert found.site.root == config.base / "home/images"
    assert found.signing.key == str(config.base / "home/key")
    assert found.mirror[0].url == str(config.base / "home/mirror")


@pytest.mark.parametrize("url", ["a\\u0000b", "~nobody-at-all/mirror"])
def test_a_mirror_at_no_path(config: Config, url: str) -> None:
    (fault,) = config.faults(f'{SITE}{SIGNING}[[mirror]]\nname = "eu"\nurl = "{url}"')
    assert fault.startswith(
        ("publish.toml: mirror 'eu': must be a path", "publish.toml: mirror 'eu': is at the home of")
    )
