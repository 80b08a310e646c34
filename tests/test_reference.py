"""The model of the reference does what is known of the reference, on a handful of builds."""

import hashlib
import json
import tomllib
from fnmatch import fnmatchcase
from itertools import product

import pytest
import reference
from reference import CRASH, TABLES_AS_RULES, Tables

from jenkins.controller import Controller
from jenkins.samples import artifacts
from jenkins.standin import serve

OLD, NEW = "20260101_07:42", "20260102_07:42"


class Jenkins:
    """A stand-in with the jobs that the reference asks for."""

    def __init__(self, home):
        self.ci = Controller(home)
        self.ci.view("All", jobs=["*"])
        self.tests = self.ci.freestyle("test-image")

    def image(self, name, serial=OLD, *, passes=True, files=None, **options):
        """Build one product alone in its job's next build; the test job runs unless told not to."""
        os, release, arch, variant = name.split("/")
        axes = {"architecture": [arch], "release": [release], "variant": [variant]}
        if files is None:
            files = artifacts(os=os, release=release, arch=arch, variant=variant, serial=serial, **options)
        run = f"architecture={arch},release={release},variant={variant}"
        with self.ci.bulk():
            job = self.ci.matrix(f"image-{os}", axes)
            build = job.build({run: files}, log="console\n")
            if passes:
                self.test(os, build.number)
        return files

    def test(self, os, number, result="SUCCESS"):
        url = f"https://ci.example.org/job/image-{os}/{number}/"
        self.tests.build(parameters={"image": f"image-{os}", "build": url}, result=result)


@pytest.fixture
def jenkins(tmp_path):
    return Jenkins(tmp_path / "ci")


@pytest.fixture
def publish(jenkins, tmp_path):
    """Run the model; it gives its messages without the names of the configurations."""
    with serve(jenkins.ci) as server:
        yield lambda: [
            message.rpartition("default: ")[2]
            for message in reference.publish(server.url, tmp_path / "root", Tables())
        ]


@pytest.fixture
def lists(tmp_path):
    """Read the products of a list."""
    streams = tmp_path / "root/meta/simplestreams/v1"
    return lambda name="images.json": json.loads((streams / name).read_text())["products"]


@pytest.fixture
def index(tmp_path):
    """Read an LXC index as its lines."""
    return lambda name: (tmp_path / "root/meta/1.0" / name).read_text().splitlines()


def test_an_image_is_stored_with_its_log_and_sums(jenkins, publish, tmp_path):
    files = jenkins.image("debian/bookworm/amd64/default", kinds=("container", "vm", "lxc"))
    assert publish() == []
    image = tmp_path / f"root/images/debian/bookworm/amd64/default/{OLD}"
    files.pop("serial")
    sums = (image / "SHA256SUMS").read_text().splitlines()
    assert [line.split("  ")[1] for line in sums] == [
        "rootfs.tar.xz",
        "rootfs.squashfs",
        "disk.qcow2",
        "meta.tar.xz",
        "incus.tar.xz",
        "image.yaml",
        "build.log",
    ]
    assert {path.name for path in image.iterdir()} == {*files, "build.log", "SHA256SUMS"}
    for name, content in files.items():
        assert (image / name).read_bytes() == content
        assert f"{hashlib.sha256(content).hexdigest()}  {name}" in sums
    assert publish() == [f"{OLD} is there"]


def test_the_streams_list_every_pair_for_incus_and_lxd(jenkins, publish, lists):
    files = jenkins.image("debian/bookworm/amd64/default", kinds=("container", "vm", "lxc"))
    publish()
    entry = lists()["debian:bookworm:amd64:default"]
    versions = entry.pop("versions")
    assert entry == {
        "aliases": "debian/bookworm/default,debian/12/default,debian/bookworm,debian/12",
        "arch": "amd64",
        "os": "Debian",
        "release": "bookworm",
        "release_title": "bookworm",
        "requirements": {},
        "variant": "default",
    }
    items = versions[OLD]["items"]
    metadata = items["incus.tar.xz"]
    assert items["lxd.tar.xz"] == {**metadata, "ftype": "lxd.tar.xz"}
    assert metadata["path"] == f"images/debian/bookworm/amd64/default/{OLD}/incus.tar.xz"
    assert {key: item["ftype"] for key, item in items.items()} == {
        "incus.tar.xz": "incus.tar.xz",
        "lxd.tar.xz": "lxd.tar.xz",
        "root.tar.xz": "root.tar.xz",
        "root.squashfs": "squashfs",
        "disk.qcow2": "disk-kvm.img",
    }
    for key, root in {
        "combined_sha256": "rootfs.tar.xz",
        "combined_rootxz_sha256": "rootfs.tar.xz",
        "combined_squashfs_sha256": "rootfs.squashfs",
        "combined_disk-kvm-img_sha256": "disk.qcow2",
    }.items():
        assert metadata[key] == hashlib.sha256(files["incus.tar.xz"] + files[root]).hexdigest()


def test_one_metadata_file_serves_both(jenkins, publish, lists, tmp_path):
    only = jenkins.image("alpine/edge/amd64/default", lxd="only")
    both = jenkins.image("debian/trixie/amd64/default", lxd="differs")
    publish()
    for name, content in {
        "alpine/edge/amd64/default": only["lxd.tar.xz"],
        "debian/trixie/amd64/default": both["incus.tar.xz"],
    }.items():
        image = tmp_path / "root/images" / name / OLD
        assert (image / "incus.tar.xz").read_bytes() == content
        assert not (image / "lxd.tar.xz").exists()
        item = lists()[name.replace("/", ":")]["versions"][OLD]["items"]["lxd.tar.xz"]
        assert item["sha256"] == hashlib.sha256(content).hexdigest()
        assert item["path"].endswith("/incus.tar.xz")


def test_the_gate_counts_per_os_and_the_newest_pass_counts(jenkins, publish, lists):
    name = "debian/bookworm/amd64/default"
    jenkins.image(name)
    jenkins.image(name, NEW, passes=False)
    jenkins.test("debian", 2, "FAILURE")
    jenkins.test("ubuntu", 9)
    assert publish() == [f"{NEW} is not tested"]
    assert lists() == {}
    jenkins.test("debian", 2)
    assert publish() == []
    assert list(lists()["debian:bookworm:amd64:default"]["versions"]) == [NEW]
    jenkins.image(name, "20260103_07:42")
    jenkins.test("debian", 2)  # somebody tests an old one again: it is the newest pass now
    assert publish() == ["20260103_07:42 is not tested"]


def test_the_newest_three_stay(jenkins, publish, tmp_path):
    name = "debian/bookworm/amd64/default"
    for day in ("04", "03", "05", "06", "01"):
        jenkins.image(name, f"202601{day}_07:42")
        last = publish()
    assert last == ["20260101_07:42 is older than the newest 3"]
    kept = sorted(path.name for path in (tmp_path / "root/images" / name).iterdir())
    assert kept == ["20260104_07:42", "20260105_07:42", "20260106_07:42"]


def test_what_is_skipped_and_what_would_end_the_run(jenkins, publish, lists):
    serial = {"serial": b"20260101_07:42\n"}
    jenkins.image("aaa/1/amd64/default", files={"rootfs.squashfs": b"x"})
    jenkins.image("bbb/1/amd64/default", files={"serial": b"20260101_0742"})
    jenkins.image("ccc/1/amd64/default", files={"rootfs.squashfs": b"x"})
    jenkins.image("ddd/1/amd64/default", files=serial | {"incus.tar.xz": b"x", "meta.tar.xz": b"x"})
    jenkins.image("eee/1/amd64/default", kinds=("lxc",))
    jenkins.ci.matrix("image-fff", {"architecture": ["amd64"], "variant": ["default"]})
    jenkins.ci.freestyle("image-ggg").build(files=serial)
    messages = publish()
    assert messages[:-1] == [
        f"{CRASH}no serial, nor one before",
        "serial '20260101_0742' has no colon",
        "missing serial",
        f"{OLD} is partial",
        f"{CRASH}no incus.tar.xz to hash with the root file",
        "no successful build",
    ]
    assert messages[-1].startswith(f"ggg: {CRASH}KeyError")
    assert lists() == {}


def test_the_older_of_two_equal_images_is_listed(jenkins, publish, lists, index):
    name = "debian/bookworm/amd64/default"
    files = jenkins.image(name)
    publish()
    jenkins.image(name, files=files | {"serial": NEW.encode()})
    assert publish() == [f"found duplicate: images/{name}/{NEW}"]
    assert list(lists()[name.replace("/", ":")]["versions"]) == [OLD]
    assert index("index-user")[0].split(";")[4] == NEW


def test_lxc_indexes_by_compat_level(jenkins, publish, index):
    for name in (
        "alpine/edge/amd64/default",
        "archlinux/current/amd64/default",
        "debian/bookworm/amd64/default",
        "fedora/43/amd64/default",
        "freebsd/14.4/amd64/default+zfs",
        "mint/virginia/amd64/desktop-default",
        "ubuntu/trusty/amd64/default",
    ):
        jenkins.image(name)
    publish()
    found = {
        f"{mode}{level}": " ".join(line.split(";")[0] for line in index(f"index-{mode}{level}"))
        for mode, level in product(("system", "user"), ("", ".1", ".2", ".3", ".4"))
    }
    everything = "alpine archlinux debian fedora ubuntu"
    assert found == {
        "system": everything,
        "system.1": "debian fedora ubuntu",
        "system.2": "archlinux debian fedora ubuntu",
        "system.3": everything,
        "system.4": everything,
        "user": everything,
        "user.1": "fedora ubuntu",
        "user.2": "archlinux debian fedora ubuntu",
        "user.3": everything,
        "user.4": everything,
    }
    url = f"/images/debian/bookworm/amd64/default/{OLD}/"
    assert f"debian;bookworm;amd64;default;{OLD};{url}" in index("index-system")


def test_lists_for_lxd(jenkins, publish, lists, tmp_path):
    for os in ("debian", "gentoo", "nixos"):
        jenkins.image(f"{os}/1/amd64/default")
    publish()
    found = {path.name: [key.split(":")[0] for key in lists(path.name)]
             for path in (tmp_path / "root/meta/simplestreams/v1").glob("*images*")}  # fmt: skip
    assert found == {
        "images.json": ["debian", "gentoo", "nixos"],
        ".images.json.lxd": ["debian", "gentoo"],
        ".images.json.lxd_restricted": ["debian"],
        ".images.json.lxd_empty": [],
    }
    index = json.loads((tmp_path / "root/meta/simplestreams/v1/index.json").read_text())
    assert index["index"]["images"]["products"] == list(lists())


@pytest.mark.parametrize(
    ("name", "aliases", "requirements"),
    [
        ("centos/7", "centos/7/default,centos/7", {"cgroup": "v1", "cdrom_agent": "true"}),
        ("amazonlinux/2023", "amazonlinux/2023/default,amazonlinux/2023", {}),
        ("amazonlinux/2", "amazonlinux/2/default,amazonlinux/2", {"cgroup": "v1"}),
        ("ubuntu/noble", "ubuntu/noble/default,ubuntu/24.04/default,ubuntu/noble,ubuntu/24.04", {"cgroup": "v2"}),
        ("archlinux/current", "archlinux/current/default,archlinux/current,archlinux", {"secureboot": "false"}),
        ("alpine/3.21//cloud", "alpine/3.21/cloud", {"secureboot": "false"}),
        ("freebsd/15//cloud+zfs", "freebsd/15/cloud+zfs,freebsd/15/cloud", {"secureboot": "false"}),
        ("freebsd/15//default+zfs", "freebsd/15/default+zfs,freebsd/15/default,freebsd/15/zfs,freebsd/15", {"secureboot": "false"}),
        ("void/current//musl", "void/current/musl,void/musl", {}),
    ],
)  # fmt: skip
def test_aliases_and_requirements(name, aliases, requirements):
    os, release, _, variant = (name if name.count("/") > 1 else f"{name}//default").split("/")
    entry = reference._product(os, release, "amd64", variant, Tables())
    assert (entry["aliases"], entry["requirements"]) == (aliases, requirements)


def told(rules, name):
    """What rules say of a product: requirements add up, the last word counts for the rest."""
    said = {"requirements": {}}
    for rule in rules:
        if all(map(fnmatchcase, name, rule["match"].split("/"))):
            said |= rule | {"requirements": said["requirements"] | rule.get("requirements", {})}
    return said


@pytest.mark.parametrize(
    "os",
    [
        *(
            "almalinux",
            "alpine",
            "amazonlinux",
            "archlinux",
            "centos",
            "debian",
            "debian-x",
            "fedora",
        ),
        *("freebsd", "gentoo", "nixos", "openeuler", "opensuse", "oracle", "oracle2", "sabayon"),
        *("springdalelinux", "ubuntu"),
    ],
)
def test_the_rules_mean_what_the_tables_mean(os):
    """Tried on names that the tables have, on longer and shorter ones, and on others."""
    tables, rules = Tables(), tomllib.loads(TABLES_AS_RULES)["rules"]
    releases = ("1", "2", "2023", "6", "7", "7-Stream", "9", "24.04", "24.045", "noble", "bookworm")
    variants = ("default", "cloud", "default+zfs", "cloud+zfs", "desktop-gnome", "7", "2", "24.04")
    for release, variant in product((*releases, "trusty", "wheezy", "current"), variants):
        said = told(rules, (os, release, "amd64", variant))
        entry = reference._product(os, release, "amd64", variant, tables)
        assert said["requirements"] == entry["requirements"], (release, variant)
        stems = (f"{os}/{release}", *said.get("aliases", ()))
        names = (variant, *said.get("variant_aliases", ()))
        aliases = [f"{stem}/{name}" for stem, name in product(stems, names)]
        assert entry["aliases"].split(",")[: len(aliases)] == aliases
        assert said.get("clients") == (["incus"] if os in tables.require_incus else None)
        assert said.get("lxc", True) == (os != "freebsd" and "desktop" not in variant)
        assert said.get("lxc_min_level", 1) == tables.lxc_since.get(os, 1)
        everywhere = release in tables.lxc_user_1.get(os, (release,))
        assert said.get("lxc_user_min_level", 1) == (1 if everywhere else 2)
